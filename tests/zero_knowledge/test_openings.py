"""A sealed value is opened as often as it was made for, whoever holds a copy of it."""

from __future__ import annotations

import contextlib
import copy
import pickle
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest

import zkjax
from zkjax import Sealed, openings
from zkjax import sealed as sealed_module
from zkjax.argument import opening, opening_prover
from zkjax.argument.budget import PROFILES, queries_for
from zkjax.argument.transcript import ProverTranscript
from zkjax.errors import OptionError, SealError, StatementError, WitnessError
from zkjax.field import goldilocks as gl
from zkjax.openings import take
from zkjax.proof import MAX_OPENINGS
from zkjax.prove import prove_ranges

X = np.array([11, -22, 33], dtype=np.int8)


def double(x):
    return (x.astype(jnp.float64) * 2.0).astype(jnp.int16)


def refused_before_anything_is_written(sealed) -> None:
    """``prove`` raises SealError; not one byte of a proof has been written, not one column read."""
    with (
        mock.patch.object(ProverTranscript, "write") as write,
        mock.patch.object(sealed_module.Tableau, "columns") as columns,
        pytest.raises(SealError),
    ):
        zkjax.prove(double)(sealed)
    write.assert_not_called()
    columns.assert_not_called()


def test_a_spent_value_is_refused():
    """In memory: two openings, then none."""
    sealed = zkjax.seal(X, openings=2)
    zkjax.prove(double)(sealed)
    zkjax.prove(double)(sealed)
    assert sealed.remaining == 0
    refused_before_anything_is_written(sealed)


@pytest.mark.parametrize("openings", [0, -1, 1 << 17])
def test_a_number_of_openings_that_cannot_be(openings):
    with pytest.raises(SealError, match="openings"):
        zkjax.seal(X, openings=openings)


REFUSALS = {
    "no profile": ({"profile": "s7"}, None, OptionError),
    "another profile": ({"profile": "s128"}, None, SealError),
    "openings of outputs": ({"openings": MAX_OPENINGS, "sealed_outputs": True}, None, OptionError),
    "a context that is no bytes": ({"context": "offer 7"}, None, OptionError),
    "no prefix of the outputs": ({"sealed_outputs": (True, False)}, None, StatementError),
    "the trace": ({}, "zkjax.prove.trace_call", KeyboardInterrupt),
    "the witness": ({}, "zkjax.program.program.Program.evaluate", KeyboardInterrupt),
    "the comparison": ({}, "zkjax.prove.compare_with_jax", KeyboardInterrupt),
    "the sealing of outputs": ({}, "zkjax.prove._seal_outputs", KeyboardInterrupt),
    "the claims": ({}, "zkjax.protocol.check_claims", KeyboardInterrupt),
    "the plan": ({}, "zkjax.protocol.Setup.plan", KeyboardInterrupt),
    "the budget": ({}, "zkjax.argument.budget.Budget.check", KeyboardInterrupt),
    "the opening": ({}, "zkjax.argument.opening_prover.prove", KeyboardInterrupt),
    "the last column": ({}, "zkjax.argument.tableau.Tableau.path", KeyboardInterrupt),
    "the output tree": ({}, "zkjax.prove._with_sealed", KeyboardInterrupt),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_gives_no_proof_takes_no_opening(name, tmp_path):
    """Wherever a proof breaks off, in memory and on disk, its openings are still there."""
    options, broken, error = REFUSALS[name]
    kept, memory = zkjax.seal(X, openings=1), zkjax.seal(X, openings=1)
    kept.save(tmp_path / "x")
    with contextlib.ExitStack() as stack:
        if broken:
            stack.enter_context(mock.patch(broken, side_effect=error))
        for sealed in (kept, memory):
            with pytest.raises(error):
                zkjax.prove(double, **options)(sealed)
    assert kept.remaining == memory.remaining == 1
    assert Sealed.load(tmp_path / "x").remaining == 1


def test_a_progress_report_that_fails_takes_no_opening():
    sealed, phases = zkjax.seal(X, openings=1), []
    zkjax.prove(double, progress=phases.append)(zkjax.seal(X, openings=1))
    for last in phases:

        def progress(phase, last=last):
            if phase == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            zkjax.prove(double, progress=progress)(sealed)
    assert sealed.remaining == 1 and len(phases) > 5


def test_a_range_proof_that_fails_takes_no_opening():
    sealed = zkjax.seal(X, openings=1)
    with (
        mock.patch.object(opening_prover, "prove", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        prove_ranges(sealed)
    assert sealed.remaining == 1
    prove_ranges(sealed)
    with (
        mock.patch("zkjax.prove._prove") as work,
        pytest.raises(SealError, match="no openings left"),
    ):
        prove_ranges(sealed)
    work.assert_not_called()


def test_all_openings_of_a_proof_or_none(tmp_path):
    """Two sealed arguments, one of which another proof has used up meanwhile."""
    first, second = zkjax.seal(X, openings=2), zkjax.seal(X, openings=1)
    first.save(tmp_path / "x")
    second.save(tmp_path / "y")

    def progress(phase):
        if phase == "opening":
            Sealed.load(tmp_path / "y").spend()

    with pytest.raises(SealError, match="no openings left"):
        zkjax.prove(lambda x, y: double(x) + double(y), progress=progress)(first, second)
    assert (first.remaining, second.remaining) == (2, 0)


def test_one_value_named_twice_needs_two_openings(tmp_path):
    sealed = zkjax.seal(X, openings=1)
    for _ in range(2):  # in memory, then on disk
        with pytest.raises(SealError, match="no openings left"):
            zkjax.prove(lambda x, y: double(x) + double(y))(sealed, sealed)
        assert sealed.remaining == 1
        if sealed.path is None:
            sealed.save(tmp_path / "x")
    zkjax.prove(double)(sealed)


@pytest.mark.parametrize("kept", [False, True])
def test_threads_that_race_for_the_last_opening(kept, tmp_path):
    """Both proofs are made; one is given out."""
    sealed, together = zkjax.seal(X, openings=1), threading.Barrier(2)
    if kept:
        sealed.save(tmp_path / "x")

    def progress(phase):
        if phase == "opening":
            together.wait()

    def attempt(_) -> bool:
        try:
            zkjax.prove(double, progress=progress)(sealed)
        except SealError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(attempt, range(2))) == 1
    assert sealed.remaining == 0


RACER = """
import sys, time
from pathlib import Path
import jax.numpy as jnp
import zkjax
zkjax.enable_kernel_cache()
folder, me, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def double(x):
    return (x[0].astype(jnp.float64) * 2.0).astype(jnp.int16)

def progress(phase):
    if phase == "opening":
        (folder / me).touch()
        while not (folder / other).exists():
            time.sleep(0.01)

sealed = zkjax.Sealed.load(folder / "x")
try:
    zkjax.prove(double, progress=progress)(sealed)[1].save(folder / f"{me}.zkp")
except zkjax.ZkjaxError as error:
    assert "no openings left" in str(error), error
"""


def test_processes_that_race_for_the_last_opening(tmp_path):
    """Both come as far as the last step; one has a proof."""
    zkjax.seal(X, openings=1).save(tmp_path / "x")
    pairs = (("one", "two"), ("two", "one"))
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, str(tmp_path), *pair]) for pair in pairs
    ]
    assert [racer.wait() for racer in racers] == [0, 0]
    assert len(list(tmp_path.glob("*.zkp"))) == 1
    assert Sealed.load(tmp_path / "x").remaining == 0


def test_copies_in_memory_share_their_openings():
    sealed = zkjax.seal(X, openings=2)
    for other in (copy.copy(sealed), copy.deepcopy(sealed.counter)):
        other.spend() if isinstance(other, Sealed) else take([other])
    assert sealed.remaining == 0
    with pytest.raises(SealError, match="pickled"):
        pickle.dumps(sealed)


def test_a_sealed_value_is_equal_to_itself_alone():
    """Two of the same data have openings of their own."""
    first, second = zkjax.seal(X), zkjax.seal(X)
    assert first == first and first != second and len({first, second}) == 2


def test_values_cannot_be_changed_in_place(tmp_path):
    """Not by who handed them over, nor by who is given them: seal, load, shares and outputs."""
    mine = X.copy()
    sealed = zkjax.seal({"x": mine}, openings=3)
    mine[0] += 1
    assert np.array_equal(sealed.tree["x"], X)
    sealed.save(tmp_path / "x")
    given = X.copy()
    shared = Sealed.from_secrets(given, sealed.commitment, sealed.share())
    given[0] += 1
    made, _ = zkjax.prove(lambda d: double(d["x"]), sealed_outputs=True)(sealed)
    loaded = Sealed.load(tmp_path / "x")
    for value in (sealed, shared, made, loaded):
        for leaf in value.leaves:
            with pytest.raises(ValueError, match="read-only"):
                leaf[0] = 5
            with pytest.raises(ValueError, match="WRITEABLE"):
                leaf.setflags(write=True)
    _, proof = zkjax.prove(double)(shared)
    zkjax.verify(double)(sealed.commitment.like(0), proof=proof)


def test_claims_cannot_be_changed_in_place():
    """A public input or output that its owner changes later does not change what was proved."""
    x = X.copy()
    sealed = zkjax.seal(X)
    made, proof = zkjax.prove(lambda s, x: double(s) + double(x))(sealed, x)
    x[0], made[0] = 5, 5
    (given,), (told,) = proof.claims.inputs.values(), proof.claims.outputs.values()
    assert np.array_equal(given, X) and np.array_equal(told, 4 * X.astype(np.int16))


def test_values_that_are_not_those_committed_are_not_proved(tmp_path):
    """A prover whose values and blinding do not belong together would tell a linear equation in
    private values, and be refused. It notices, and takes no opening.
    """
    sealed = zkjax.seal(X, openings=1)
    sealed.save(tmp_path / "x")
    sealed.leaves = (X + np.int8(1),)
    for call in (zkjax.prove(double), prove_ranges):
        with pytest.raises(WitnessError):
            call(sealed)
    assert Sealed.load(tmp_path / "x").remaining == 1


def test_copies_of_a_file_share_their_openings(tmp_path):
    """Loaded twice and kept in memory too: one counter, on disk."""
    sealed = zkjax.seal(X, openings=2)
    sealed.save(tmp_path / "x")
    first, second = (Sealed.load(tmp_path / "x", like=X) for _ in range(2))
    zkjax.prove(double)(first)
    zkjax.prove(double)(second)
    for owner in (sealed, first, second, Sealed.load(tmp_path / "x", like=X)):
        refused_before_anything_is_written(owner)


def test_another_process_spends_the_same_counter(tmp_path):
    """A process of its own takes the only opening."""
    sealed = zkjax.seal(X, openings=1)
    sealed.save(tmp_path / "x")
    script = (
        "import sys, numpy as np; from zkjax import Sealed;"
        "Sealed.load(sys.argv[1], like=np.zeros(3, np.int8)).spend()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "x")]
    subprocess.run(command, check=True)
    refused_before_anything_is_written(sealed)
    assert subprocess.run(command, capture_output=True).returncode != 0


def test_a_lost_or_damaged_counter_is_no_counter(tmp_path):
    """Without its counter a sealed file cannot be opened."""
    sealed = zkjax.seal(X, openings=3)
    sealed.save(tmp_path / "x")
    counter = tmp_path / f"{sealed.commitment}.openings"
    counter.write_text("many")
    refused_before_anything_is_written(sealed)
    counter.unlink()
    refused_before_anything_is_written(sealed)
    with pytest.raises(SealError):
        sealed.save(tmp_path / "x")
    with pytest.raises(SealError):
        Sealed.load(tmp_path / "x", like=X)


def test_a_counter_gives_no_more_than_was_sealed_for(tmp_path):
    sealed = zkjax.seal(X, openings=2)
    sealed.save(tmp_path / "x")
    (tmp_path / f"{sealed.commitment}.openings").write_text("9")
    assert Sealed.load(tmp_path / "x").remaining == 2


def test_a_seal_is_never_overwritten(tmp_path):
    """Another value at the same path is refused; both keep what they have."""
    first, second = zkjax.seal(X, openings=1), zkjax.seal(X, openings=3)
    first.save(tmp_path / "x")
    first.spend()
    with pytest.raises(SealError, match="exists"):
        second.save(tmp_path / "x")
    assert Sealed.load(tmp_path / "x").commitment == first.commitment
    second.save(tmp_path / "y")
    assert Sealed.load(tmp_path / "y").remaining == 3
    (tmp_path / "x").unlink()
    third = zkjax.seal(X, openings=2)
    third.save(tmp_path / "x")  # the counter of the first is not its own
    assert Sealed.load(tmp_path / "x").remaining == 2
    with pytest.raises(SealError, match="another"):
        first.save(tmp_path / "x")
    assert Sealed.load(tmp_path / "x").commitment == third.commitment


def test_a_copy_under_another_name_is_not_saved(tmp_path):
    """``save`` to a second place would give the copy openings of its own."""
    sealed = zkjax.seal(X, openings=1)
    sealed.save(tmp_path / "x")
    with pytest.raises(SealError):
        sealed.save(tmp_path / "y")
    with pytest.raises(SealError):
        Sealed.load(tmp_path / "x", like=X).save(tmp_path / "y")


def test_saving_again_gives_no_opening_back(tmp_path):
    """The value in memory has not seen that its copy on disk was spent."""
    sealed = zkjax.seal(X, openings=1)
    sealed.save(tmp_path / "x")
    Sealed.load(tmp_path / "x", like=X).spend()
    sealed.save(tmp_path / "x")
    refused_before_anything_is_written(sealed)


def test_saving_while_others_open_gives_no_opening_back(tmp_path):
    """One owner saves again and again, from a memory in which nothing was spent."""
    sealed = zkjax.seal(X, openings=60)
    sealed.save(tmp_path / "x")
    copies = [Sealed.load(tmp_path / "x", like=X) for _ in range(2)]
    done = threading.Event()

    def save() -> None:
        while not done.is_set():
            sealed.counter.left = 60
            sealed.save(tmp_path / "x")

    def spend(copy: Sealed) -> int:
        for count in range(200):
            try:
                copy.spend()
            except SealError:
                return count
        return 200

    with ThreadPoolExecutor(3) as pool:
        saving = pool.submit(save)
        granted = sum(pool.map(spend, copies))
        done.set()
        saving.result()
    assert granted == 60


def test_many_owners_at_the_same_moment(tmp_path):
    """Eight copies of one file spend at once; three openings serve exactly three of them."""
    zkjax.seal(X, openings=3).save(tmp_path / "x")
    copies = [Sealed.load(tmp_path / "x", like=X) for _ in range(8)]
    together = threading.Barrier(len(copies))

    def spend(copy: Sealed) -> bool:
        together.wait()
        try:
            copy.spend()
        except SealError:
            return False
        return True

    with ThreadPoolExecutor(len(copies)) as pool:
        assert sum(pool.map(spend, copies)) == 3


def test_sealed_files_are_private(tmp_path):
    """Mode 0600 for the data and for the counter, also after an opening."""
    sealed = zkjax.seal(X, openings=2)
    sealed.save(tmp_path / "x")
    sealed.spend()
    for name in ("x", f"{sealed.commitment}.openings"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_damaged_file_is_refused(tmp_path):
    """Data that do not give the commitment are not opened."""
    sealed = zkjax.seal(X)
    sealed.save(tmp_path / "x")
    with np.load(tmp_path / "x") as data:
        arrays = dict(data)
    arrays["leaf0"] = arrays["leaf0"] + np.int8(1)
    with (tmp_path / "x").open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(SealError):
        Sealed.load(tmp_path / "x", like=X)


def opened_positions(root: bytes, calls) -> set[int]:
    """All column positions of one commitment that a verifier is shown."""
    seen: set[int] = set()
    read = opening._read_columns

    def recorded(transcript, member, rows, log_length, indices):
        if member.root == root:
            seen.update(int(i) for i in indices)
        return read(transcript, member, rows, log_length, indices)

    with mock.patch.object(opening, "_read_columns", recorded):
        for check in calls:
            check()
    return seen


def test_a_sealed_input_shows_no_more_than_its_blinding():
    """All proofs that a commitment allows show at most as many columns as a row has blinding."""
    sealed = zkjax.seal(X, openings=2)
    proofs = [zkjax.prove(double)(sealed)[1] for _ in range(2)]
    calls = [lambda p=p: zkjax.verify(double)(sealed.commitment, proof=p) for p in proofs]
    seen = opened_positions(sealed.commitment.root, calls)
    code = sealed.commitment.code
    assert queries_for(code, PROFILES["s100"]) <= len(seen) <= code.blinding


def test_a_sealed_output_shows_no_more_than_its_blinding():
    """Its own proof and all later ones: with one column more, rows can be interpolated."""
    sealed = zkjax.seal(X, openings=1)
    made, proof = zkjax.prove(double, sealed_outputs=True, openings=1)(sealed)
    calls = [lambda: zkjax.verify(double, sealed_outputs=True)(sealed.commitment, proof=proof)]
    while made.remaining:
        _, later = zkjax.prove(double)(made)
        calls.append(lambda p=later: zkjax.verify(double)(made.commitment, proof=p))
    assert len(calls) == 2
    seen = opened_positions(made.commitment.root, calls)
    code = made.commitment.code
    assert queries_for(code, PROFILES["s100"]) < len(seen) <= code.blinding


# Secrets that were shared -------------------------------------------------------------------------


def test_secrets_give_one_opening_ever():
    """However often they are received, before and after it is used."""
    owner = zkjax.seal(X, openings=2)
    secrets = owner.share()
    first, second = (Sealed.from_secrets(X, owner.commitment, secrets) for _ in range(2))
    zkjax.prove(double)(first)
    refused_before_anything_is_written(first)
    refused_before_anything_is_written(second)
    with pytest.raises(SealError, match="used before"):
        Sealed.from_secrets(X, owner.commitment, secrets)
    assert owner.remaining == 1  # the owner's own


def test_secrets_give_one_opening_to_all_processes_of_a_folder(tmp_path):
    """A server that starts again remembers, and of two that race one has it."""
    owner = zkjax.seal(X, openings=1)
    secrets = owner.share()

    def received() -> Sealed:
        with mock.patch.dict(openings._received, clear=True):  # as in a process of its own
            return Sealed.from_secrets(X, owner.commitment, secrets, folder=tmp_path)

    first, second = received(), received()
    assert (first.remaining, second.remaining) == (1, 1)
    zkjax.prove(double)(second)
    refused_before_anything_is_written(first)
    with pytest.raises(SealError, match="used before"):
        received()
    with pytest.raises(SealError, match="used before"):
        Sealed.from_secrets(X, owner.commitment, secrets, folder=tmp_path)


def test_a_received_value_that_is_saved_keeps_its_one_opening(tmp_path):
    owner = zkjax.seal(X, openings=1)
    (tmp_path / "received").mkdir()
    folder = tmp_path / "received"
    shared = Sealed.from_secrets(X, owner.commitment, owner.share(), folder=folder)
    shared.save(tmp_path / "x")
    Sealed.load(tmp_path / "x").spend()
    refused_before_anything_is_written(shared)


def with_element(secrets: bytes, value: int) -> bytes:
    """The first element of the blinding is another."""
    return value.to_bytes(8, "little") + secrets[8:]


@pytest.mark.parametrize(
    ("tree", "change", "told"),
    [
        (X.astype(np.int16), lambda s: s, "other shapes or types"),
        (X[:2], lambda s: s, "other shapes or types"),
        (X, lambda s: s + b"\0", "another size"),
        (X, lambda s: s[:-1], "another size"),
        (X, lambda s: with_element(s, gl.P), "not canonical"),
        (X, lambda s: with_element(s, 2**64 - 1), "not canonical"),
        (X, lambda s: with_element(s, int.from_bytes(s[:8], "little") ^ 1), "do not give"),
        (X, lambda s: s[:-1] + bytes([s[-1] ^ 1]), "do not give"),
        (X + np.int8(1), lambda s: s, "do not give"),
    ],
    ids=["type", "shape", "longer", "shorter", "p", "large", "blinding", "nonce", "value"],
)
def test_secrets_that_do_not_belong_to_value_and_commitment(tree, change, told):
    """Each is refused with its cause, and uses no opening up."""
    owner = zkjax.seal(X, openings=2)
    secrets = owner.share()
    with pytest.raises(SealError, match=told):
        Sealed.from_secrets(tree, owner.commitment, change(secrets))
    assert Sealed.from_secrets(X, owner.commitment, secrets).remaining == 1
