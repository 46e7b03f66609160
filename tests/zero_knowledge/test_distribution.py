"""What a verifier sees is uniform and does not depend on the witness, for challenges held fixed.

With the challenges fixed, a message that is not masked is a function of the witness, so leaks are
not blurred by the verifier's randomness. Two witnesses of one public statement are proved many
times each; every kind of field message is compared with the uniform distribution and between the
witnesses. All entropy is seeded, so the outcome is always the same; at the chosen significance a
fresh seed would raise a false alarm with probability below 1e-6.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from contextlib import ExitStack
from functools import cache
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import zkjax
from zkjax import fixed
from zkjax.argument.entropy import SeededEntropy
from zkjax.argument.transcript import ProverTranscript, Transcript
from zkjax.field.goldilocks import P
from zkjax.verify import verify_statement

RUNS = 20
POSITIONS = 60  # compared one by one, for each kind
FALSE_ALARM = 1e-6
WITNESSES = (
    np.array([[1, 7, 2, 3], [5, 0, 4, 6]], dtype=np.int8),
    np.array([[3, 2, 7, 1], [0, 6, 5, 4]], dtype=np.int8),
)


def statistic(x):
    """The maximum and the sum of squares of each row: equal for both witnesses."""
    v = x.astype(jnp.float64)
    squares = fixed.round(jnp.sum(v * v, axis=-1) * 0.25, 0, 12)
    return fixed.max(v, 8).astype(jnp.int16), squares.astype(jnp.int16)


class Unblinded(SeededEntropy):
    """Nonces as usual; every pad, mask and blinding coefficient is zero."""

    def field(self, shape):
        return np.zeros(shape, dtype=np.uint64)


def seal_with(x, entropy):
    return zkjax.seal(x, openings=1, _entropy=entropy)


def fixed_challenges() -> ExitStack:
    """Challenges depend on their number only, on the prover's side."""
    stack = ExitStack()

    def squeeze(self, kind: str, n: int) -> bytes:
        self.drawn = getattr(self, "drawn", 0) + 1
        return hashlib.shake_256(f"{kind} {self.drawn}".encode()).digest(n)

    stack.enter_context(mock.patch.object(Transcript, "squeeze", squeeze))
    stack.enter_context(mock.patch.object(Transcript, "slow_down", lambda self: None))
    return stack


def view(x, seed: int, entropy=SeededEntropy):
    """One proof: kind -> all field elements of that kind, in order."""
    seen: dict[str, list[np.ndarray]] = defaultdict(list)
    write = ProverTranscript.write_field

    def recorded(self, kind, values):
        seen[kind].append(np.asarray(values, dtype=np.uint64).reshape(-1))
        write(self, kind, values)

    sealed = seal_with(x, entropy(2 * seed))
    with mock.patch.object(ProverTranscript, "write_field", recorded):
        outputs, _ = zkjax.prove(statistic, _entropy=entropy(2 * seed + 1))(sealed)
    assert [o.tolist() for o in outputs] == [[7, 6], [16, 19]]
    return {kind: np.concatenate(parts) for kind, parts in seen.items()}


@cache
def samples():
    """For each witness: kind -> (runs, elements)."""
    out = []
    with fixed_challenges():
        for w, x in enumerate(WITNESSES):
            views = [view(x, 1000 * w + i) for i in range(RUNS)]
            out.append({kind: np.stack([v[kind] for v in views]) for kind in views[0]})
    return out


def alarms(first, second) -> dict[str, float]:
    """Kinds whose least p-value, multiplied by the number of tests, is below FALSE_ALARM."""
    p_values: dict[str, list[float]] = defaultdict(list)
    for kind in first:
        for sample in (first[kind], second[kind]):
            flat = sample.reshape(-1)
            p_values[kind].append(stats.kstest(flat / P, "uniform").pvalue)
            for shift in (56, 0):
                count = np.bincount(
                    ((flat >> np.uint64(shift)) & np.uint64(255)).astype(np.int64), minlength=256
                )
                if flat.size >= 5 * 256:
                    p_values[kind].append(stats.chisquare(count).pvalue)
        together = stats.ks_2samp(
            first[kind].reshape(-1) / P, second[kind].reshape(-1) / P, method="asymp"
        )
        p_values[kind].append(together.pvalue)
        places = np.linspace(0, first[kind].shape[1] - 1, POSITIONS).astype(int)
        for place in np.unique(places):
            a, b = first[kind][:, place] / P, second[kind][:, place] / P
            p_values[kind].append(stats.ks_2samp(a, b, method="exact").pvalue)
    tests = sum(map(len, p_values.values()))
    return {k: min(p) for k, p in p_values.items() if min(p) * tests < FALSE_ALARM}


def test_the_view_is_uniform_and_independent_of_the_witness():
    """Masked messages, responses and opened columns of both witnesses."""
    first, second = samples()
    assert set(first) >= {"claim", "lookup layer", "opened columns", "linear response"}
    assert not alarms(first, second)


@pytest.mark.parametrize("kind", ["masked messages", "columns and responses"])
def test_without_blinding_the_test_detects_it(kind):
    """Negative control: with pads and blinding zero the two witnesses are told apart."""
    with fixed_challenges():
        views = [view(x, 0, Unblinded) for x in WITNESSES]
    first, second = ({k: np.tile(v, (RUNS, 1)) for k, v in one.items()} for one in views)
    found = set(alarms(first, second))
    columns = {"opened columns"} | {k for k in first if k.endswith("response")}
    assert found >= (columns if kind == "columns and responses" else set(first) - columns)


def test_pads_alone_and_blinding_alone_do_not_hide():
    """Negative control: only single pads are zero, everything else is blinded."""

    class NoPads(SeededEntropy):
        def scalars(self, n, kappa):
            from zkjax.field.scalar import Scalar

            return [Scalar.of(0, kappa)] * n

    with fixed_challenges():
        views = [[view(x, i, NoPads) for i in range(RUNS)] for x in WITNESSES]
    first, second = ({k: np.stack([v[k] for v in vs]) for k in vs[0]} for vs in views)
    found = set(alarms(first, second))
    assert {"claim", "lookup layer", "lookup root", "opening round"} <= found
    assert "opened columns" not in found


def test_the_value_of_a_pad_is_used_once():
    """No two masked messages of one proof are equal, and none repeats in another proof."""
    (first, second), kinds = samples(), ("lookup root", "lookup layer", "claim", "opening round")
    values = np.concatenate([s[k].reshape(-1) for s in (first, second) for k in kinds])
    assert len(np.unique(values)) == values.size


def test_seeded_proofs_repeat_and_real_ones_do_not():
    """The same seed gives the same bytes; the operating system's entropy never does."""
    x = WITNESSES[0]

    def body(entropy) -> bytes:
        options = {} if entropy is None else {"_entropy": entropy}
        sealed = seal_with(x, entropy and SeededEntropy(5))
        return zkjax.prove(statistic, **options)(sealed)[1].body

    assert body(SeededEntropy(1)) == body(SeededEntropy(1))
    assert body(SeededEntropy(1)) != body(SeededEntropy(2))
    one, two = body(None), body(None)
    assert one != two
    # Not a single masked message, root or column agrees; compare 8-byte words.
    a, b = (np.frombuffer(v, dtype="<u8") for v in (one, two))
    n = min(len(a), len(b))
    assert np.count_nonzero(a[:n] == b[:n]) < 8


def test_seeded_entropy_makes_valid_proofs():
    """Seeds change nothing but the randomness."""
    sealed = seal_with(WITNESSES[1], SeededEntropy(5))
    _, proof = zkjax.prove(statistic, _entropy=SeededEntropy(9))(sealed)
    verify_statement(zkjax.trace(statistic)(sealed), proof)
