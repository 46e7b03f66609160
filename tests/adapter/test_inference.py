"""Verifiable inference: what third parties accept, and what happens to those who cheat with it.

Contributors and users lie, alone and together; the third party only has the files, the public base
model or its commitment, and what it expects.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np
import pytest
from flax import nnx
from soundness.cheating import unchecked

import zkjax
from zkjax import fixed, openings
from zkjax._compat import x64
from zkjax.argument.transcript import VerifierTranscript
from zkjax.errors import (
    SealError,
    SessionError,
    StatementError,
    VerificationError,
    ZkjaxError,
)
from zkjax.models.adapter import lora_deltas
from zkjax.models.config import TARGETS, LlamaConfig, LoraConfig
from zkjax.models.decoder import mean_loss
from zkjax.models.llama import Llama
from zkjax.models.numerics import FixedPoint
from zkjax.proof import Commitment
from zkjax.proofs import adapter
from zkjax.proofs.adapter import frames, inference
from zkjax.proofs.adapter.arithmetic import Arithmetic
from zkjax.proofs.adapter.contributor import Contributor, commit_adapter
from zkjax.proofs.adapter.contributor_session import ContributorSession
from zkjax.proofs.adapter.inference import Inference, prove_inference, verify_inference
from zkjax.proofs.adapter.leakage import Leakage
from zkjax.proofs.adapter.peer import Peer
from zkjax.proofs.adapter.statement import make_deltas
from zkjax.proofs.finetune import FineTuning, bind, make_loss
from zkjax.sealed import Sealed

CONFIG = LlamaConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
RNG = np.random.default_rng(11)
TOKENS = RNG.integers(0, 32, (2, 5), dtype=np.int32)
OTHER_TOKENS = RNG.integers(0, 32, (2, 5), dtype=np.int32)
LINEAR = {"linear test", "product test"}  # where a false equation on committed values surfaces


def random_base():
    """Stored weights of a small model."""
    shapes = nnx.eval_shape(lambda: nnx.split(Llama(CONFIG, rngs=nnx.Rngs(0)))[1])

    def stored(path, x):
        low, high = (3500, 4700) if "norm" in jax.tree_util.keystr(path) else (-1200, 1200)
        return RNG.integers(low, high, x.shape, dtype=np.int16)

    return jax.tree_util.tree_map_with_path(stored, nnx.to_pure_dict(shapes))


def random_adapter(targets, layers: int, r: int = 2):
    """Stored weights of a small adapter."""
    out = {}
    for target in targets:
        inputs, outputs = CONFIG.projection_shape(target)
        a = RNG.integers(-1500, 1500, (layers, inputs, r), dtype=np.int16)
        out[target] = {"a": a, "b": RNG.integers(-1500, 1500, (layers, r, outputs), dtype=np.int16)}
    return out


BASE = random_base()


def contributor_of(targets, layers, log2_scale) -> Contributor:
    sealed, manifest = commit_adapter(
        random_adapter(targets, len(layers)), layers, log2_scale, sessions=30
    )
    return Contributor(sealed, manifest, leakage=Leakage(manifest, 1.0))


def session(*contributors, **options) -> adapter.Session:
    names = ("alice", "bob", "again")
    channels = {n: c.connect() for n, c in zip(names, contributors, strict=False)}
    return adapter.Session(CONFIG, BASE, channels, **options)


def decoded(tree):
    return jax.tree.map(lambda w: np.asarray(w) * 2.0**-12, tree)


def local_loss(tokens, *adapters) -> int:
    """The loss with (weights, layers, log2_scale) of every adapter at hand, in one process."""

    def deltas_of(layer, _):
        def deltas(group, x):
            total = {}
            for weights, layers, log2_scale in adapters:
                if int(layer) in layers:
                    i = layers.index(int(layer))
                    mine = jax.tree.map(lambda w, i=i: w[i], decoded(weights))
                    for t, d in lora_deltas(mine, 2.0**log2_scale, FixedPoint())(group, x).items():
                        total[t] = total[t] + d if t in total else d
            return total

        return deltas

    with x64():
        model, layers = bind(CONFIG, decoded(BASE)), np.arange(CONFIG.num_hidden_layers)
        logits = model.run(tokens[:, :-1], FixedPoint(), deltas_of, layers, scan=False)[0]
        return int(fixed.encode(mean_loss(logits, tokens[:, 1:], FixedPoint()), 16))


def told(c: Contributor):
    return c.sealed.tree, c.manifest.layers, c.manifest.log2_scale


@pytest.fixture(scope="module")
def alice() -> Contributor:
    return contributor_of(("q_proj", "down_proj"), (0,), 1)


@pytest.fixture(scope="module")
def bob() -> Contributor:
    return contributor_of(("k_proj", "o_proj", "up_proj"), (1,), -1)


@pytest.fixture(scope="module")
def honest(alice) -> Inference:
    """Public base model, sealed prompt, one contributor."""
    return prove_inference(session(alice), BASE, TOKENS)


@pytest.fixture(scope="module")
def second(alice) -> Inference:
    """The same about another prompt."""
    return prove_inference(session(alice), BASE, OTHER_TOKENS)


@pytest.fixture(scope="module")
def folder(honest, tmp_path_factory):
    path = tmp_path_factory.mktemp("inference")
    honest.save(path)
    return path


def refused(given: Inference, checks=None, **options) -> ZkjaxError:
    """The third party refuses, and not by crashing."""
    with pytest.raises(ZkjaxError) as caught:
        verify_inference(given, **options)
    if checks is not None:
        assert getattr(caught.value, "check", "") in checks, caught.value
    return caught.value


def with_part(given: Inference, index: int = 0, **changes) -> Inference:
    parts = list(given.parts)
    parts[index] = replace(parts[index], **changes)
    return replace(given, parts=parts)


def with_manifest(given: Inference, **changes) -> Inference:
    return with_part(given, manifest=replace(given.parts[0].manifest, **changes))


@contextmanager
def careless():
    """The user does not check the contributors' proofs."""
    with mock.patch.object(inference, "_verify_part"):
        yield


# Completeness -------------------------------------------------------------------------------------


def test_public_base_and_sealed_prompt(honest, alice):
    assert verify_inference(honest) == honest.real_loss
    assert honest.loss == local_loss(TOKENS, told(alice))


def test_sealed_base_all_targets_and_all_layers():
    """Nothing but shapes and the loss is public."""
    everything = contributor_of(TARGETS, (0, 1), 1)
    base = zkjax.seal(BASE, openings=1)
    given = prove_inference(session(everything), base, TOKENS)
    lora = LoraConfig(r=2, alpha=4.0, targets=TARGETS)
    with x64():
        loss = make_loss(FineTuning(CONFIG, lora))(
            decoded(BASE), decoded(everything.sealed.tree), TOKENS
        )
        assert given.loss == int(fixed.encode(loss, 16))
    assert base.remaining == 0
    expected = base.commitment
    assert verify_inference(replace(given, base=expected)) == given.real_loss
    assert expected.dtypes == ("int16",) * len(jax.tree.leaves(BASE))
    elsewhere = replace(expected, root=bytes(32))
    refused(replace(given, base=elsewhere), {"merkle path"})
    refused(replace(given, base=BASE), {"merkle path"})


def test_several_contributors_a_public_prompt_and_files(honest, alice, bob, tmp_path):
    """One of them twice: then its adapter counts twice, and the files say so."""
    given = prove_inference(session(alice, bob, alice), BASE, TOKENS, seal_tokens=False)
    assert given.loss == local_loss(TOKENS, told(alice), told(bob), told(alice))
    assert abs(given.loss - honest.loss) > 100  # adapters matter
    given.save(tmp_path)
    kept = Inference.load(tmp_path, CONFIG, BASE, TOKENS)
    assert verify_inference(kept) == given.real_loss
    with pytest.raises(StatementError, match="a commitment: not an object"):
        Inference.load(tmp_path, CONFIG, BASE)  # a public prompt is not in the files
    refused(replace(kept, tokens=TOKENS.astype(np.int64)), {"claims"})
    first, middle, last = kept.parts
    mixed = replace(first, manifest=middle.manifest)
    refused(replace(kept, parts=[mixed, middle, last]), {"claims"})
    with careless():  # the parts are valid each by itself
        refused(replace(kept, tokens=OTHER_TOKENS), {"merkle path"})
        for parts in (
            [last, middle, first],
            [first, middle, first],
            [middle, first, last],
            [first, middle],
            [],
        ):
            refused(replace(kept, parts=parts), {"merkle path" if parts else "claims"})


@pytest.mark.parametrize(
    "name", ["inference.json", "inference.zkp", "adapter-0.zkp", "adapter-0.range.zkp"]
)
def test_a_file_that_never_ends(folder, tmp_path, name):
    """Neither waited for nor read into memory."""
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copied / name).unlink()
    os.mkfifo(copied / name)
    with pytest.raises(StatementError, match="not a file"):
        Inference.load(copied, CONFIG, BASE)


@pytest.mark.parametrize("shape", [(1, 4), (3, 9), (2, 1)])
def test_a_number_of_tokens_that_is_no_power_of_two(alice, shape):
    """Refused before anything is asked."""
    opened = session(alice)
    with pytest.raises(StatementError, match="power of two"):
        prove_inference(opened, BASE, np.zeros(shape, np.int32))
    assert not opened.peers[0].record.size


def test_files_hold_what_a_third_party_needs(folder, honest):
    kept = Inference.load(folder, CONFIG, BASE)
    assert verify_inference(kept) == honest.real_loss
    assert kept.tokens == honest.tokens.commitment
    assert kept.parts[0].manifest.encode() == honest.parts[0].manifest.encode()
    expected = Inference.load(folder, CONFIG, BASE, honest.tokens.commitment)
    assert verify_inference(expected) == honest.real_loss
    assert not any("sealed" in path.name for path in folder.iterdir())


# Openings and what travels ------------------------------------------------------------------------


def test_openings_are_conserved(alice):
    """Every commitment is opened as often as it was sealed for, and no blinding but that of
    activations and deltas leaves the user.
    """
    shared, reopened, sent = [], [], []
    share, reopen, send = Sealed.share, Sealed.from_secrets, Peer._send

    def share_spy(self):
        shared.append(self)
        return share(self)

    def reopen_spy(tree, commitment, secrets, **options):
        reopened.append(reopen(tree, commitment, secrets, **options))
        return reopened[-1]

    def send_spy(self, frame):
        sent.append(frame)
        return send(self, frame)

    before = alice.sealed.remaining
    with (
        mock.patch.object(Sealed, "share", share_spy),
        mock.patch.object(Sealed, "from_secrets", reopen_spy),
        mock.patch.object(Peer, "_send", send_spy),
    ):
        given = prove_inference(session(alice), BASE, TOKENS)
    assert alice.sealed.remaining == before - 1
    part = given.parts[0]
    commitments = [part.xs, part.deltas]
    assert [s.commitment for s in shared] == [s.commitment for s in reopened] == commitments
    assert [c.openings for c in commitments] == [2, 2]
    assert given.tokens.remaining == 0
    for sealed in [*shared, *reopened, given.tokens]:
        assert sealed.remaining == 0
        with pytest.raises(SealError):
            sealed.share()
    (finish,) = [f for f in sent if isinstance(f, frames.FinishSealed)]
    assert len(finish.secrets) == sum(map(Sealed.secrets_size, commitments))
    kinds = {type(f) for f in sent}
    assert kinds == {frames.Hello, frames.Accept, frames.Query, frames.FinishSealed, frames.Done}


def test_secrets_of_another_commitment():
    values = np.arange(6, dtype=np.int16).reshape(2, 3)
    sealed, other = zkjax.seal(values), zkjax.seal(values)
    secrets, theirs = sealed.share(), other.share()
    assert Sealed.from_secrets(values, sealed.commitment, secrets).remaining == 1
    bump = values.copy()
    bump[1, 2] += 1
    flipped = bytes([secrets[0] ^ 1]) + secrets[1:]
    high = b"\xff" * 8 + secrets[8:]  # not below the modulus
    nonce = secrets[:-1] + bytes([secrets[-1] ^ 1])
    for tree, given in [
        (values, theirs),
        (bump, secrets),
        (values, flipped),
        (values, high),
        (values, nonce),
        (values, secrets[:-1]),
        (values, secrets + b"\0"),
        (values, b""),
    ]:
        with pytest.raises(SealError):
            Sealed.from_secrets(tree, sealed.commitment, given)
    low = (gl_p() + 5).to_bytes(8, "little") + secrets[8:]
    with pytest.raises(SealError, match="canonical"):
        Sealed.from_secrets(values, sealed.commitment, low)


def gl_p() -> int:
    from zkjax.field import goldilocks

    return int(goldilocks.P)


@pytest.mark.parametrize("leaves", [[], [np.zeros((100, 3), np.int16)]], ids=["none", "large"])
def test_secrets_for_values_of_another_shape(leaves):
    values = np.arange(6, dtype=np.int16).reshape(2, 3)
    sealed = zkjax.seal(values)
    with pytest.raises(SealError):
        Sealed.from_secrets(leaves, sealed.commitment, sealed.share())


def test_secrets_for_values_of_another_type():
    values = np.arange(6, dtype=np.int16).reshape(2, 3)
    sealed = zkjax.seal(values)
    secrets = sealed.share()
    for tree in (values.astype(np.int32), values + 0.5, [values, values], values[None]):
        with pytest.raises(SealError):
            Sealed.from_secrets(tree, sealed.commitment, secrets)


# What the third party is told ---------------------------------------------------------------------


@pytest.mark.parametrize("by", [1, -1, 65536, 2**31, 2**32, -(2**40)])
def test_another_loss(honest, by):
    checks = {"claims"} if abs(by) >= 2**31 else {"merkle path"}
    with careless():
        refused(replace(honest, loss=honest.loss + by), checks)


def test_another_base(honest):
    """One weight more or less, in every array of the model."""
    leaves, tree = jax.tree.flatten(BASE)
    for i in (0, 1, len(leaves) - 1):
        changed = [x.copy() for x in leaves]
        changed[i].reshape(-1)[-1] += 1
        with careless():
            refused(replace(honest, base=tree.unflatten(changed)), {"merkle path"})


def test_another_prompt(honest, second):
    refused(replace(honest, tokens=second.tokens), {"merkle path"})
    with careless():
        refused(replace(honest, tokens=zkjax.seal(TOKENS, openings=1)), {"merkle path"})


def test_another_profile(honest):
    refused(honest, {"profile"}, least="s128")
    refused(replace(honest, profile="s128"), {"claims"})
    refused(replace(honest, profile="s1"), {"profile"})
    refused(replace(honest, profile=""), {"profile"})
    manifest = honest.parts[0].manifest
    strong = replace(manifest.commitment, profile="s128")
    refused(with_manifest(honest, commitment=strong), {"range proof"})
    part = replace(honest.parts[0], manifest=replace(manifest, commitment=strong))
    with pytest.raises(VerificationError, match="another profile"):
        inference._verify_part(part, 8, "s100")
    for name in ("xs", "deltas"):
        changed = replace(getattr(honest.parts[0], name), profile="s128")
        refused(with_part(honest, **{name: changed}), {"claims"})
    refused(replace(honest, tokens=replace(honest.tokens.commitment, profile="s128")), {"claims"})


def test_another_adapter(honest, alice):
    """Of the same shapes, with a range proof of its own."""
    other = contributor_of(("q_proj", "down_proj"), (0,), 1)
    refused(with_part(honest, manifest=other.manifest), {"merkle path"})
    mixed = replace(alice.manifest.commitment, root=other.manifest.commitment.root)
    refused(with_manifest(honest, commitment=mixed), {"range proof"})
    own = replace(mixed, range_proof=other.manifest.commitment.range_proof)
    refused(with_manifest(honest, commitment=own), {"merkle path"})


def test_manifest_fields(honest, tmp_path):
    """Changed in the files after the proofs were made."""
    manifest = honest.parts[0].manifest
    for change in [
        {"layers": (1,)},
        {"layers": (0, 1)},
        {"layers": (2,)},
        {"log2_scale": 0},
        {"log2_scale": 2},
        {"r": 1},
        {"dtype": "int32"},
        {"targets": {"q_proj": (16, 16)}},
        {"targets": {"o_proj": (16, 16), "down_proj": (24, 16)}},
        {"targets": {"q_proj": (16, 16), "down_proj": (24, 8)}},
        {"targets": {"q_proj": (16, 16), "down_proj": (16, 24)}},
        {"commitment": replace(manifest.commitment, openings=manifest.commitment.openings + 1)},
        {"commitment": replace(manifest.commitment, shapes=manifest.commitment.shapes[::-1])},
        {"commitment": replace(manifest.commitment, dtypes=("int32",) * 4)},
    ]:
        with_manifest(honest, **change).save(tmp_path)
        with pytest.raises(ZkjaxError):
            verify_inference(Inference.load(tmp_path, CONFIG, BASE))
    missing = with_manifest(honest, layers=(2,))
    assert "the base model has no layer 2" in str(refused(missing, {"manifest"}))


def test_range_proofs(honest, bob):
    commitment = honest.parts[0].manifest.commitment
    good = commitment.range_proof
    bad = [None, b"", good[:-1], good + b"\0", bob.manifest.commitment.range_proof]
    bad += [flip(good, i) for i in np.linspace(0, len(good) - 1, 6).astype(int)]
    for body in bad:
        changed = with_manifest(honest, commitment=replace(commitment, range_proof=body))
        refused(changed, {"range proof"})


def flip(body: bytes, position: int) -> bytes:
    changed = bytearray(body)
    changed[position] ^= 1
    return bytes(changed)


def places(call, count: int) -> list[int]:
    """Positions inside messages of that many kinds, as a verification reads them."""
    read, found = VerifierTranscript.read, {}

    def recorded(self, kind, n):
        if n:
            found[kind] = self._position + n // 2
        return read(self, kind, n)

    with mock.patch.object(VerifierTranscript, "read", recorded):
        call()
    kinds = list(found.values())
    return [kinds[i] for i in np.linspace(0, len(kinds) - 1, count).astype(int)]


def test_proof_bytes_of_the_contributor(honest):
    """One flipped byte in messages of many kinds; shorter, longer and other proofs."""
    part = honest.parts[0]
    verify = lambda given: inference._verify_part(given, 8, "s100")  # noqa: E731
    with mock.patch("zkjax.verify.verify_ranges"):
        for position in places(lambda: verify(part), 12):
            with pytest.raises(VerificationError):
                verify(replace(part, body=flip(part.body, position)))
    refused(with_part(honest, body=flip(part.body, len(part.body) - 1)))
    for body in (b"", part.body[:-1], part.body + b"\0", honest.body):
        assert "adapter 0" in str(refused(with_part(honest, body=body)))


def test_proof_bytes_of_the_user(honest):
    with careless():
        for position in places(lambda: verify_inference(honest), 9):
            refused(replace(honest, body=flip(honest.body, position)))
        for body in (b"", honest.body[:-1], honest.body + b"\0"):
            refused(replace(honest, body=body))


def test_swapped_between_two_inferences(honest, second):
    """Same adapter, same base model, same shapes; another prompt."""
    assert verify_inference(second) == second.real_loss != honest.real_loss
    mine, theirs = honest.parts[0], second.parts[0]
    with careless():
        refused(replace(honest, body=second.body), {"merkle path"})
        refused(replace(honest, body=second.body, loss=second.loss), {"merkle path"})
    refused(with_part(honest, body=theirs.body), {"merkle path"})
    for name in ("xs", "deltas"):
        refused(with_part(honest, **{name: getattr(theirs, name)}), {"merkle path"})
    refused(replace(honest, parts=[theirs]), {"merkle path"})  # a valid part of another prompt
    refused(with_part(honest, xs=mine.deltas, deltas=mine.xs), {"claims"})


def test_one_commitment_in_two_places(honest):
    """The adapter's commitment, the prompt's or the activations' where another is due."""
    part = honest.parts[0]
    places = [part.manifest.commitment, honest.tokens.commitment, part.xs, part.deltas]
    for given in places:
        for name in ("xs", "deltas"):
            if given != getattr(part, name):
                refused(with_part(honest, **{name: given}), {"claims"})
                shaped = replace(getattr(part, name), root=given.root)
                refused(with_part(honest, **{name: shaped}), {"merkle path"})
        if given != honest.tokens.commitment:
            shaped = replace(honest.tokens.commitment, root=given.root)
            refused(replace(honest, tokens=shaped), {"merkle path"})


@pytest.mark.parametrize("name", ["xs", "deltas"])
def test_commitments_of_other_shapes(honest, name):
    given = getattr(honest.parts[0], name)
    for n in (1, 7, 9, 16):
        shapes = tuple((s[0], n, s[2]) for s in given.shapes)
        refused(with_part(honest, **{name: replace(given, shapes=shapes)}), {"claims"})
    for change in [
        {"shapes": given.shapes[:1]},
        {"shapes": ()},
        {"shapes": tuple(s[1:] for s in given.shapes)},
        {"dtypes": ("int8",) * len(given.dtypes)},
        {"dtypes": given.dtypes[:1]},
        {"dtypes": ()},
    ]:
        refused(with_part(honest, **{name: replace(given, **change)}), {"claims"})
    refused(with_part(honest, **{name: replace(given, openings=1)}), {"merkle path"})


@pytest.mark.parametrize("n", [7, 16])
def test_both_commitments_of_another_number_of_tokens(honest, n):
    def longer(given: Commitment) -> Commitment:
        return replace(given, shapes=tuple((s[0], n, s[2]) for s in given.shapes))

    part = honest.parts[0]
    refused(with_part(honest, xs=longer(part.xs), deltas=longer(part.deltas)), {"claims"})


# Contributors who cheat ---------------------------------------------------------------------------


def off_by_one(contributor: Contributor):
    """The contributor adds one unit to one delta of down_proj, and is otherwise honest."""
    compute = contributor.deltas

    def wrong(layer, group, x):
        out = compute(layer, group, x)
        if group == "inner":
            out = out.copy()
            out[3, 5] += 1
        return out

    return mock.patch.object(contributor, "deltas", wrong)


@contextmanager
def zero_claims(contributor: Contributor):
    """The contributor proves the claim "no difference", whatever the values are."""
    prove_sealed = contributor.prove_sealed

    def wrong(*args):
        def zero(ports, outputs, expected):
            for x in outputs:
                x.fill(0)

        with mock.patch("zkjax.prove.compare_with_jax", zero), unchecked():
            return prove_sealed(*args)

    with mock.patch.object(contributor, "prove_sealed", wrong):
        yield


def test_an_answer_that_is_off_by_one(alice):
    """The user hears of it; and if it does not look, or is an accomplice, the third party does."""
    with off_by_one(alice):
        with pytest.raises(VerificationError, match="alice"):
            prove_inference(session(alice), BASE, TOKENS)
        with careless(), zero_claims(alice):
            given = prove_inference(session(alice), BASE, TOKENS)
    refused(given, {"linear test"})
    with careless():
        assert verify_inference(given)  # nothing but the contributor's proof is wrong


def test_the_contributor_proves_something_else(alice, honest):
    """It answers with a proof about other values, another statement, another session, or none."""
    tried = []

    def finish(peer, commitments, shared, check):
        peer.record.session = peer.digest

        def reopened():
            size = Sealed.secrets_size(commitments[0])
            trees = peer.record.xs, peer.record.deltas
            pairs = zip(trees, commitments, (shared[:size], shared[size:]), strict=True)
            with mock.patch.dict(openings._received, clear=True):  # it does not keep count
                return [Sealed.from_secrets(*each) for each in pairs]

        xs, deltas = reopened()
        tree = {g: x.copy() for g, x in xs.tree.items()}
        tree["attention"][0, 0, 0] ^= 1
        others = zkjax.seal(tree, openings=2)
        bodies = [alice.prove_sealed(peer.record, others, deltas)]
        with zero_claims(alice):
            bodies.append(alice.prove_sealed(peer.record, others, reopened()[1]))
        public = zkjax.prove(make_deltas("int16"))(alice.sealed, peer.record.xs)[1].body
        right = alice.prove_sealed(peer.record, *reopened())
        bodies += [public, honest.parts[0].body, right + b"\0", right[:-1], bytes(1000), b""]
        for body in bodies:
            with pytest.raises(VerificationError):
                check(body)
            tried.append(body)
        check(right)

    with mock.patch.object(Peer, "finish_sealed", finish):
        assert verify_inference(prove_inference(session(alice), BASE, TOKENS))
    assert len(tried) == 8


def test_the_contributor_sends_another_frame(alice):
    answer = ContributorSession._answer
    for frame in [frames.Done(), frames.Offer(bytes(32), b"", b""), frames.Refusal("no", "why")]:

        def wrong(self, given, before, frame=frame):
            return frame if isinstance(given, frames.FinishSealed) else answer(self, given, before)

        s = session(alice)
        s.score(TOKENS[:, :-1])
        with (
            mock.patch.object(ContributorSession, "_answer", wrong),
            pytest.raises(SessionError, match="alice"),
        ):
            s.peers[0].finish_sealed([], b"", lambda body: None)


# Users who cheat ----------------------------------------------------------------------------------


def forged_deltas():
    """The user seals one delta that differs by one from what it received."""

    def seal(tree, **options):
        if isinstance(tree, dict) and "down_proj" in tree:
            tree = {t: v.copy() for t, v in tree.items()}
            tree["down_proj"][0, 2, 7] += 1
        return zkjax.seal(tree, **options)

    lying = SimpleNamespace(seal=seal, prove=zkjax.prove, Proof=zkjax.Proof)
    return mock.patch.object(inference, "zkjax", lying)


def test_the_user_seals_other_deltas_than_it_received(alice, honest):
    """The contributor does not prove it, no opening is lost, and no other proof will do."""
    before, finish = alice.sealed.remaining, Peer.finish_sealed

    def hopeful(self, *args):
        with pytest.raises(SessionError, match="alice: refused: commitments"):
            finish(self, *args)

    with forged_deltas(), mock.patch.object(Peer, "finish_sealed", hopeful):
        given = prove_inference(session(alice), BASE, TOKENS)
    assert alice.sealed.remaining == before
    refused(with_part(given, body=honest.parts[0].body), {"merkle path"})


def test_the_contributor_is_an_accomplice_of_that(alice):
    """It proves about whatever the user committed to: the differences are not zero."""

    def reopen(self, frame):
        xs, deltas = (dict(v) for v in (self.record.xs, self.record.deltas))
        deltas["down_proj"] = deltas["down_proj"].copy()
        deltas["down_proj"][0, 2, 7] += 1
        given = [Commitment.from_json(c) for c in json.loads(frame.commitments)]
        size = Sealed.secrets_size(given[0])
        return (
            Sealed.from_secrets(xs, given[0], frame.secrets[:size]),
            Sealed.from_secrets(deltas, given[1], frame.secrets[size:]),
        )

    with (
        forged_deltas(),
        careless(),
        zero_claims(alice),
        mock.patch.object(ContributorSession, "_reopen", reopen),
    ):
        given = prove_inference(session(alice), BASE, TOKENS)
    assert refused(given).check in LINEAR


def test_the_user_changes_deltas_as_it_receives_them(alice):
    """The two records differ, and so do the commitments that each side computes."""
    exchange, before = Peer._exchange, alice.sealed.remaining

    def lying(self, layer, group, x):
        answer = exchange(self, layer, group, x)
        if group == "inner":
            answer = answer.copy()
            answer[1, 1] -= 1
            self.record._deltas[layer, group][-1] = answer
        return answer

    with (
        mock.patch.object(Peer, "_exchange", lying),
        pytest.raises(SessionError, match="alice: refused: commitments"),
    ):
        prove_inference(session(alice), BASE, TOKENS)
    assert alice.sealed.remaining == before


def test_the_user_seals_other_activations(alice):
    """They differ in one unit from what its base model reads. The contributor is an accomplice,
    and its deltas are the right ones for them.
    """
    seal_outputs, spied = zkjax.prove._seal_outputs, []

    def wrong(traced, outputs, *rest):
        for i, port in enumerate(traced.statement.program.outputs):
            if port.name == "[0][0]['inner']":
                outputs[i] = outputs[i].copy()
                outputs[i][0, 3, 2] += 1
                spied.append(outputs[i])
        return seal_outputs(traced, outputs, *rest)

    lying = SimpleNamespace(array_equal=lambda a, b: True)
    with (
        mock.patch("zkjax.prove._seal_outputs", wrong),
        mock.patch.object(inference, "np", lying),
        mock.patch.object(Peer, "finish_sealed"),
        unchecked(),
    ):
        given = prove_inference(session(alice), BASE, TOKENS)
    assert len(spied) == 1
    with careless():
        assert refused(given).check in LINEAR


def test_the_session_scored_another_prompt(alice):
    """An honest user notices before it hands over any blinding."""
    s = session(alice)
    score = s.score
    with (
        mock.patch.object(s, "score", lambda tokens: score(OTHER_TOKENS[:, :-1])),
        mock.patch.object(Sealed, "share") as share,
        pytest.raises(SessionError, match="did not score exactly this prompt"),
    ):
        prove_inference(s, BASE, TOKENS)
    share.assert_not_called()


def test_contributors_of_different_profiles(alice):
    s = session(alice)
    manifest = s.peers[0].manifest
    strong = replace(manifest, commitment=replace(manifest.commitment, profile="s128"))
    s.peers.append(SimpleNamespace(manifest=strong))
    with pytest.raises(SessionError, match="profile"):
        prove_inference(s, BASE, TOKENS)


def test_the_session_is_not_fresh(alice):
    s = session(alice)
    s.score(OTHER_TOKENS[:, :-1])
    with pytest.raises(SessionError):
        prove_inference(s, BASE, TOKENS)
    assert not s.peers[0].channel.session.accepted


def test_malformed_requests_to_finish(alice):
    """Each is refused by name, costs the contributor no opening, and ends the session."""
    sent = {}

    def capture(self, commitments, shared, check):
        sent["commitments"], sent["secrets"] = [c.identity() for c in commitments], shared

    def request(commitments, secrets):
        s = session(alice)
        s.score(TOKENS[:, :-1])
        data = commitments if isinstance(commitments, bytes) else json.dumps(commitments).encode()
        peer = s.peers[0]
        peer._send(frames.FinishSealed(peer._digest.value, data, secrets))
        with pytest.raises(SessionError) as caught:
            peer._expect(frames.ProofFrame)
        assert caught.value.check == "refused" and "commitments" in str(caught.value)
        assert peer.channel.session.closed

    with mock.patch.object(Peer, "finish_sealed", capture):
        prove_inference(session(alice), BASE, TOKENS)
    xs, deltas = sent["commitments"]
    good = sent["secrets"]
    before = alice.sealed.remaining
    high = b"\xff" * 8
    for commitments, secrets in [
        ([xs], good),
        ([xs, deltas, deltas], good),
        ([deltas, xs], good),
        ([xs, deltas], good[:-1]),
        ([xs, deltas], good + b"\0"),
        ([xs, deltas], b""),
        ([xs, deltas], high + good[8:]),
        ([xs, deltas], good[:-8] + high),
        ([{**xs, "root": "00" * 32}, deltas], good),
        ([{**xs, "openings": 5}, deltas], good),
        ([{**xs, "openings": 1}, deltas], good),
        ([{**xs, "profile": "s128"}, deltas], good),
        ([{**xs, "dtypes": ["int32", "int32"]}, deltas], good),
        ([{**xs, "shapes": xs["shapes"][::-1]}, deltas], good),
        ([{**xs, "shapes": [[-1]]}, deltas], good),
        ([xs, None], good),
        (json.dumps([xs, deltas]).encode() + b" " * (1 << 16), good),
        (b"", good),
        (b"\xff", good),
        (b"[[[[", good),
        (b"{}", good),
        (b"null", good),
    ]:
        request(commitments, secrets)
    assert alice.sealed.remaining == before


def test_commitments_for_many_openings(alice):
    """The user's blinding may not make the contributor work for more than a few proofs."""
    for count, fine in ((5, False), (4, True)):
        s = session(alice)
        s.score(TOKENS[:, :-1])
        peer = s.peers[0]
        sealed = [zkjax.seal(t, openings=count) for t in (peer.record.xs, peer.record.deltas)]
        shared, bodies = b"".join(x.share() for x in sealed), []
        request = [x.commitment for x in sealed], shared, bodies.append
        if fine:
            peer.finish_sealed(*request)
            assert bodies
        else:
            with pytest.raises(SessionError, match="refused: commitments"):
                peer.finish_sealed(*request)


# Files --------------------------------------------------------------------------------------------


def attempts(folder, text: bytes) -> None:
    """Load and verify: a ZkjaxError, whatever the file says."""
    (folder / "inference.json").write_bytes(text)
    with pytest.raises(ZkjaxError):
        verify_inference(Inference.load(folder, CONFIG, BASE))


@pytest.fixture
def copied(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def quick():
    """Proofs are compared with the claims but not verified; the last one is never accepted."""
    from zkjax.protocol import check_claims

    def verify(statement, proof):
        check_claims(statement, proof.claims)
        if any(port.sealed for port in statement.program.outputs):
            raise VerificationError("stub")

    with (
        mock.patch.object(inference, "verify_statement", verify),
        mock.patch("zkjax.proofs.adapter.statement.verify_ranges"),
    ):
        yield


def paths(data, at=()):
    """The path of every value inside a JSON document."""
    yield at
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from paths(value, (*at, key))


def with_value(data, path, value):
    if not path:
        return value
    out = copy.deepcopy(data)
    inside = out
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return out


VALUES = [None, True, -1, 0, 3, 1.5, 2**70, 1e400, "", "x", "é" * 40, [], [1], {}, {"root": 1}]


def test_every_value_of_the_description_replaced(copied, quick):
    data = json.loads((copied / "inference.json").read_bytes())
    tried = 0
    for path in paths(data):
        for value in VALUES:
            attempts(copied, json.dumps(with_value(data, path, value)).encode())
            tried += 1
    assert tried > 200


def test_every_value_of_a_manifest_replaced(copied, quick):
    """Also where the result is canonical JSON."""
    data = json.loads((copied / "inference.json").read_bytes())
    manifest = json.loads(data["parts"][0]["manifest"])
    for path in paths(manifest):
        for value in VALUES:
            if path == ("statement",) and value == "x":
                continue
            changed = with_value(manifest, path, value)
            text = json.dumps(changed, sort_keys=True, separators=(",", ":"))
            attempts(copied, json.dumps(with_value(data, ("parts", 0, "manifest"), text)).encode())


def test_flipped_bytes_of_the_description(copied, quick):
    text = (copied / "inference.json").read_bytes()
    data = json.loads(text)
    rng = np.random.default_rng(1)
    for position in rng.integers(0, len(text), 300):
        changed = bytearray(text)
        changed[position] ^= 1 << int(rng.integers(8))
        try:
            now = json.loads(bytes(changed))
        except ValueError:
            now = {}
        if now == data:
            continue
        attempts(copied, bytes(changed))


def test_truncated_and_missing_files(copied, quick):
    text = (copied / "inference.json").read_bytes()
    for end in range(0, len(text), 97):
        attempts(copied, text[:end])
    for bad in (b"\xff\xfe", b"[" * 100_000, b"null", b"[]", b'"x"', b"1"):
        attempts(copied, bad)
    (copied / "inference.json").write_bytes(text)
    for name in ("adapter-0.zkp", "adapter-0.range.zkp", "inference.zkp", "inference.json"):
        kept = (copied / name).read_bytes()
        (copied / name).unlink()
        with pytest.raises(StatementError):
            Inference.load(copied, CONFIG, BASE)
        (copied / name).write_bytes(kept)


def test_roots_and_openings_in_the_description(copied):
    """Really verified."""
    data = json.loads((copied / "inference.json").read_bytes())
    for path in [("tokens",), ("parts", 0, "xs"), ("parts", 0, "deltas")]:
        for name, value in [("root", "ab" * 32), ("openings", 3)]:
            attempts(copied, json.dumps(with_value(data, (*path, name), value)).encode())


# Shapes and manifests -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"shapes": ((2, 5, 1),)},
        {"shapes": ((10,),)},
        {"shapes": ((),)},
        {"shapes": ((2, 1),)},
        {"shapes": ((2, 0),)},
        {"shapes": ((2, 9),)},
        {"shapes": ((-2, 5),)},
        {"shapes": ((-2, -3),)},
        {"shapes": ((0, 5),)},
        {"shapes": ((1, 2**21),)},
        {"shapes": ((2, 5), (2, 5)), "dtypes": ("int32",) * 2},
        {"shapes": (), "dtypes": ()},
        {"dtypes": ()},
        {"dtypes": ("int33",)},
        {"dtypes": ("float32",)},
        {"dtypes": ("int64",)},
    ],
    ids=str,
)
def test_a_prompt_of_another_shape(honest, change):
    """From a file, if the prompt's commitment is not known beforehand."""
    given = replace(honest.tokens.commitment, treedef=None, **change)
    refused(replace(honest, tokens=given), {"claims"})
    with pytest.raises(ZkjaxError):
        verify_inference(replace(honest, tokens=Commitment.from_json(given.identity())))


@pytest.mark.parametrize("change", [{"shapes": ((4, 3),)}, {"dtypes": ("int16",)}], ids=str)
def test_a_prompt_that_is_read_otherwise(honest, change):
    """As many tokens, or integers of another type, under the same root."""
    given = replace(honest.tokens.commitment, treedef=None, **change)
    refused(replace(honest, tokens=given), {"merkle path"})


@pytest.mark.parametrize("n", [-1, 0, 10**15])
def test_a_number_of_tokens_that_cannot_be(honest, n):
    given = honest.parts[0].xs
    shapes = tuple((s[0], n, s[2]) for s in given.shapes)
    refused(with_part(honest, xs=replace(given, shapes=shapes)), {"claims"})


def test_a_committed_base_without_its_structure(honest):
    """A commitment that was read from a file, of other values or of other shapes."""
    given = Commitment.from_json(zkjax.seal(BASE).commitment.to_json())
    assert given.treedef is None
    with careless():
        refused(replace(honest, base=given), {"merkle path"})
    for change in [
        {"shapes": given.shapes[:-1], "dtypes": given.dtypes[:-1]},
        {"shapes": (), "dtypes": ()},
        {"dtypes": ("int32",) * len(given.dtypes)},
        {"shapes": ((8, 16), *given.shapes[1:])},
    ]:
        refused(replace(honest, base=replace(given, **change)), {"claims"})


def test_a_base_of_another_configuration(alice):
    """Eight classes in place of 32 make a small loss easy, in public or under a commitment."""
    small = {**BASE, "embed_tokens": BASE["embed_tokens"][:8]}
    with pytest.raises(SessionError, match="base"):
        adapter.Session(CONFIG, small, {"alice": alice.connect()})
    with mock.patch.object(Arithmetic, "is_stored"):
        s = adapter.Session(CONFIG, small, {"alice": alice.connect()})
    with mock.patch.object(Peer, "finish_sealed"), careless():
        given = prove_inference(s, zkjax.seal(small, openings=1), TOKENS % 8)
        refused(replace(given, base=given.base.commitment), {"claims"})
        refused(replace(given, base=small), {"claims"})
    wide = {**BASE, "embed_tokens": BASE["embed_tokens"].astype(np.int32)}
    refused(replace(given, base=wide), {"claims"})
    refused(replace(given, base=list(jax.tree.leaves(BASE))), {"claims"})


def test_a_loss_that_is_no_integer(honest):
    for loss in (honest.loss + 0.9, float("nan"), None, np.array([honest.loss] * 2)):
        refused(replace(honest, loss=loss), {"claims"})


def pretend(contributor: Contributor, **changes):
    """A user's session that keeps a changed manifest; the contributor hears of layer 0 only."""
    s = session(contributor)
    peer = s.peers[0]
    peer.manifest = peer.record.manifest = replace(peer.manifest, **changes)

    def exchange(self, layer, group, x):
        self.record.room(group, len(x))
        self._send(frames.Query(0, group, x))
        answer = self._expect(frames.Answer)
        self.record.add(layer, group, x, answer.deltas)
        return answer.deltas

    return s, mock.patch.object(Peer, "_exchange", exchange)


def test_the_user_forges_the_manifest(honest, alice, tmp_path):
    """The contributor is honest. The user claims another alpha / r and other layers under the
    contributor's commitment, and gets a loss that this adapter does not give.
    """
    s, lying = pretend(alice, log2_scale=-3, layers=(1,))
    with lying, careless():
        prove_inference(s, BASE, TOKENS).save(tmp_path)
    given = Inference.load(tmp_path, CONFIG, BASE)
    assert given.parts[0].manifest.commitment == alice.manifest.commitment
    assert abs(given.loss - honest.loss) > 100
    with careless():
        assert verify_inference(given) == given.real_loss  # but for the contributor's proof
    refused(given, {"merkle path"})


def test_the_contributors_proof_is_bound_to_its_manifest(honest):
    """By every field, also those that its statement does not depend on."""
    part = honest.parts[0]
    inference._verify_part(part, 8, "s100")
    for change in [{"layers": (1,)}, {"log2_scale": 2}, {"statement": "11" * 32}]:
        changed = replace(part, manifest=replace(part.manifest, **change))
        with pytest.raises(VerificationError, match="merkle path"):
            inference._verify_part(changed, 8, "s100")


def test_the_contributor_changes_its_manifest_under_a_known_digest(alice):
    digest = alice.manifest.digest.hex()
    session(alice, manifests={"alice": digest}).close()
    for changes in ({"log2_scale": -3}, {"layers": (1,)}):
        other = replace(alice.manifest, **changes)
        changed = Contributor(alice.sealed, other, leakage=Leakage(other, 1.0))
        with pytest.raises(VerificationError, match="alice: the adapter is"):
            session(changed, manifests={"alice": digest})


def test_the_adapter_that_is_expected(honest):
    """A third party names the manifest; the loss of any other adapter is refused."""
    digest = honest.parts[0].manifest.digest.hex()
    verify_inference(honest, manifests=[digest])
    root = honest.parts[0].manifest.commitment.root.hex()
    for wrong in (["00" * 32], [digest, digest], [root], ["deadbeef"], [""]):
        with pytest.raises((VerificationError, SessionError)) as caught:
            verify_inference(honest, manifests=wrong)
        assert caught.value.check == "manifest"


def test_more_deltas_than_anyone_can_check(honest):
    """Sizes in a file do not decide what a verifier allocates."""
    given = replace(honest.tokens.commitment, treedef=None, shapes=((1 << 20, 1 << 13),))
    refused(replace(honest, tokens=given))


def test_a_session_without_contributors():
    with adapter.Session(CONFIG, BASE, {}) as s, pytest.raises(SessionError):
        prove_inference(s, BASE, TOKENS)
