"""The check on other base models: LLaMAs of every kind and GPT-2, in formats of their own."""

from __future__ import annotations

import asyncio
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest

from adapter.common import unchecked_prove
from adapter.test_network import Loop, tls_of
from zkjax._compat import x64
from zkjax.cli.base import load_base
from zkjax.errors import CalibrationError, SessionError, ValueRangeError, VerificationError
from zkjax.fixed import Format
from zkjax.fixed.sites import Site
from zkjax.models.checkpoint import load_model, model_digest
from zkjax.models.config import ALL_TARGETS
from zkjax.models.registry import bind
from zkjax.proofs import adapter
from zkjax.proofs.adapter.arithmetic import Arithmetic
from zkjax.proofs.adapter.contributor import Contributor, commit_adapter
from zkjax.proofs.adapter.credentials import make_certificate
from zkjax.proofs.adapter.inference import Inference, prove_inference, verify_inference
from zkjax.proofs.adapter.leakage import Leakage
from zkjax.proofs.adapter.server import serving
from zkjax.proofs.adapter.transport import connect
from zkjax.proofs.calibration import Calibration, calibrate
from zkjax.proofs.finetune import FineTuning, store_base, stored_like
from zkjax.seal import seal

BUNDLE = Path(__file__).parent.parent / "models" / "fixtures" / "checkpoints.zip"
FRACTIONS = (14, 13)
TOKENS = np.random.default_rng(2).integers(0, 40, (2, 9)).astype(np.int32)


class Case:
    """A base model made by transformers, in formats for two parties, and an adapter of it."""

    def __init__(self, folder: Path):
        self.config, self.parameters = load_model(folder)
        self.digest = model_digest(self.config, self.parameters)
        texts = np.random.default_rng(0).integers(0, 40, (4, 1, 17)).astype(np.int32)
        formats = calibrate(
            FineTuning(model=self.config),
            self.parameters,
            None,
            texts,
            room=2.0,  # the adapter changes what is computed
            between_parties=True,
        )
        sites = dict(formats.sites)
        for name in ("attention_input", "mixed"):  # layers differ, whatever the model is like
            site = sites[name]
            fraction = site.forward.fraction - 1 - max(site.forward_shifts, default=0)
            sites[name] = site._replace(forward=Format(fraction, 16), forward_shifts=(1, 0))
        self.formats = replace(formats, sites=sites)
        self.base = store_base(self.parameters, self.formats.weight_fractions)
        self.adapter = self.random_adapter(5)

    def random_adapter(self, seed: int):
        rng = np.random.default_rng(seed)
        return {
            target: {
                "a": rng.integers(-6000, 6000, (2, inputs, 2)).astype(np.int16),
                "b": rng.integers(-1200, 1200, (2, 2, outputs)).astype(np.int16),
            }
            for target in ALL_TARGETS
            if target in self.config.targets
            for inputs, outputs in [self.config.projection_shape(target)]
        }

    def contributor(self, weights=None, base: str | None = None) -> Contributor:
        sealed, manifest = commit_adapter(
            self.adapter if weights is None else weights,
            (0, 1),
            1,
            sessions=4,
            fractions=FRACTIONS,
            base=base or self.digest,
        )
        return Contributor(sealed, manifest, leakage=Leakage(manifest, 1.0))

    def session(self, owner: Contributor, **options) -> adapter.Session:
        return adapter.Session(
            self.config,
            self.base,
            {"alice": owner.connect()},
            **{"formats": self.formats, "digest": self.digest, **options},
        )

    def local(self, weights=None) -> np.ndarray:
        """Logits in one process, by the model's own LoRA."""
        weights = self.adapter if weights is None else weights
        arithmetic = Arithmetic(self.config, self.formats)
        values = {
            t: {k: p[k] * 2.0**-f for k, f in zip("ab", FRACTIONS, strict=True)}
            for t, p in weights.items()
        }
        numerics = arithmetic.with_adapter(tuple(weights))
        with x64():
            model = bind(self.config, arithmetic.decode(self.base))
            return np.asarray(model(TOKENS[:, :-1], values, 2.0, numerics))


@cache
def unpacked() -> Path:
    import tempfile

    folder = Path(tempfile.mkdtemp())
    zipfile.ZipFile(BUNDLE).extractall(folder)
    return folder


@cache
def case(name: str) -> Case:
    return Case(unpacked() / name)


@pytest.mark.parametrize(
    "name",
    [
        "mlp bias",
        "gpt2",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("large heads", "yarn, mscale")),
    ],
)
def test_together_is_as_alone_bit_for_bit(name):
    it = case(name)
    with it.session(it.contributor()) as session:
        logits = session.score(TOKENS[:, :-1])
        assert np.array_equal(logits, it.local())
        plain = session.base_score(TOKENS[:, :-1])
        assert np.abs(logits - plain).max() > 0.1  # it is used
        theirs = np.asarray(bind(it.config, it.parameters)(TOKENS[:, :-1]))
        assert np.abs(plain - theirs).max() < 0.03 * np.abs(theirs).max()
        record = session.finish()["alice"]
    assert record.tokens == 16


def test_a_continuation_is_that_of_the_scores():
    it = case("gpt2")
    with it.session(it.contributor()) as session:
        told = session.generate(TOKENS[:, :4], 2)
        for i in range(2):
            logits = session.score(told[:, : 4 + i])
            assert np.array_equal(logits[:, -1].argmax(-1), told[:, 4 + i])


def test_a_changed_adapter_is_rejected():
    it = case("gpt2")
    honest = it.contributor()
    other = {t: dict(p) for t, p in it.adapter.items()}
    other["c_fc"]["a"] = other["c_fc"]["a"].copy()
    other["c_fc"]["a"][1, 3, 0] += 1000
    honest._weights = jax.tree.map(lambda w: w.astype(np.float64), other)
    with it.session(honest) as session:
        logits = session.score(TOKENS[:, :-1])
        assert np.array_equal(logits, it.local(other)) and (logits != it.local()).any()
        with pytest.raises(SessionError, match="internal: the answers are not what the statement"):
            session.finish()
    lying = mock.patch.object(Contributor, "prove", unchecked_prove)
    with it.session(honest) as session, lying:
        session.score(TOKENS[:, :-1])
        with pytest.raises(VerificationError, match="linear test: alice"):
            session.finish()


def test_an_adapter_for_another_base():
    it = case("gpt2")
    for base, what in (("11" * 32, "for the base model"), (case("mlp bias").digest, "base model")):
        with pytest.raises(SessionError, match=what):
            it.session(it.contributor(base=base))
    llama = case("mlp bias")
    with pytest.raises(SessionError, match="base model has no"):
        it.session(llama.contributor(base=it.digest))


def test_formats_that_cannot_be_sent():
    it = case("gpt2")
    wide = {**it.formats.sites, "mlp_input": Site(Format(12, 20))}
    with pytest.raises(CalibrationError, match="20 bits"):
        it.session(it.contributor(), formats=replace(it.formats, sites=wide))
    short = {**it.formats.sites, "mlp_input": Site(Format(8, 16), forward_shifts=(1, 0, 0))}
    with pytest.raises(CalibrationError, match="3 layers"):
        it.session(it.contributor(), formats=replace(it.formats, sites=short))


def test_an_activation_that_does_not_fit_or_is_not_rounded_is_named():
    it = case("gpt2")
    for fraction, what in ((16, "does not fit"), (3, "is not rounded")):
        with (
            it.session(it.contributor()) as session,
            mock.patch.object(Arithmetic, "fraction", lambda self, group, f=fraction: f),
            pytest.raises((ValueRangeError, SessionError), match=what),
        ):
            session.score(TOKENS[:, :-1])


@pytest.fixture(scope="module")
def sealed():
    it = case("gpt2")
    tokens = TOKENS[:1]
    with it.session(it.contributor()) as session:
        return it, prove_inference(session, it.base, tokens)


def test_a_sealed_inference_in_formats(sealed, tmp_path):
    it, given = sealed
    numerics = Arithmetic(it.config, it.formats).numerics
    alone = adapter.loss_of(it.local()[:1], TOKENS[:1, 1:], numerics)
    assert verify_inference(given, digest=it.digest) == alone
    given.save(tmp_path)
    formats = Calibration.decode(it.formats.encode())
    again = Inference.load(tmp_path, it.config, it.base, formats=formats)
    assert verify_inference(again) == alone


def test_a_sealed_inference_in_other_formats_or_on_another_base(sealed):
    it, given = sealed
    site = it.formats.sites["mlp_c_proj"]
    other = site._replace(forward=Format(site.forward.fraction - 1, site.forward.bits))
    formats = replace(it.formats, sites={**it.formats.sites, "mlp_c_proj": other})
    shifted = it.formats.sites["mixed"]._replace(forward_shifts=(0, 1))
    swapped = replace(it.formats, sites={**it.formats.sites, "mixed": shifted})
    for wrong in (formats, swapped, None):
        with pytest.raises(VerificationError, match="merkle path"):
            verify_inference(replace(given, formats=wrong))
    with pytest.raises(SessionError, match="base model"):
        verify_inference(given, digest="22" * 32)
    base = {**it.base, "wpe": it.base["wpe"] + (np.arange(32 * 20) == 7).reshape(32, 20)}
    with pytest.raises(VerificationError, match="merkle path"):
        verify_inference(replace(given, base=jax.tree.map(np.int16, base)))


def test_a_sealed_base_may_have_weights_in_two_parts():
    it = case("gpt2")
    plain = it.formats.weight_fractions
    fractions = {**plain, "layers.c_fc": plain["layers.c_fc"] + 4}
    formats = replace(it.formats, weight_fractions=fractions)
    base = store_base(it.parameters, fractions)
    assert set(base["layers"]["c_fc"]) == {"coarse", "fine"}
    arithmetic = Arithmetic(it.config, formats)
    assert arithmetic.is_stored(base)
    like = stored_like(it.config, seal(base).commitment)
    assert jax.tree.structure(like) == jax.tree.structure(base)
    for wrong in (
        {**base, "wte": base["wte"][:-1]},
        {**base, "more": base["wte"]},
        {k: v for k, v in base.items() if k != "wpe"},
        {**base, "wte": base["wte"].astype(np.int32)},
        {**base, "wpe": {"coarse": base["wpe"], "fine": base["wpe"]}},
    ):
        assert not arithmetic.is_stored(wrong)
        assert stored_like(it.config, seal(wrong).commitment) is None


def test_two_adapters_on_one_server_do_not_mix(tmp_path):
    """Each user reaches the adapter of its address with the token for it, and no other."""
    it = case("gpt2")
    second = it.random_adapter(9)
    owners = {"first": it.contributor(), "second": it.contributor(second)}
    tokens = {"first": "a" * 43, "second": "b" * 43}
    make_certificate(tmp_path, ("localhost", "127.0.0.1"))
    lines: list[str] = []
    with Loop(serving(owners, tokens, tls_of(tmp_path), report=lines.append, keep=tmp_path)) as s:
        url = f"wss://127.0.0.1:{s.port}"

        def channel(name: str, token: str):
            return connect(f"{url}/{name}", token, ca=tmp_path / "certificate.pem")

        for name, weights in (("first", None), ("second", second)):
            other = "second" if name == "first" else "first"
            with pytest.raises(SessionError, match="does not know this token"):
                channel(name, tokens[other])
            pinned = {name: owners[name].manifest.digest}
            session = adapter.Session(
                it.config, it.base, {name: channel(name, tokens[name])}, formats=it.formats,
                digest=it.digest, manifests=pinned,
            )  # fmt: skip
            with session:
                assert np.array_equal(session.score(TOKENS[:, :-1]), it.local(weights))
                session.finish()
            with pytest.raises(VerificationError, match="manifest"):
                adapter.Session(
                    it.config, it.base, {name: channel(name, tokens[name])}, formats=it.formats,
                    manifests={name: owners[other].manifest.digest},
                )  # fmt: skip
        for wrong in ("", "third", "first/second", "..", "%66irst"):
            with pytest.raises(SessionError, match="no adapter of this name"):
                channel(wrong, tokens["first"])
        assert owners["first"].sealed.remaining == owners["second"].sealed.remaining == 3
    for name in owners:
        (kept,) = (tmp_path / name).iterdir()
        assert adapter.verify_session(kept, config=it.config, base=it.digest).tokens == 16
    wrong = serving({"a/b": owners["first"]}, tokens["first"], tls_of(tmp_path))
    with pytest.raises(SessionError, match="no name for an address"):
        asyncio.run(wrong.__aenter__())


def test_formats_of_a_file_keep_the_base_model(tmp_path):
    """A sealed inference brings the formats that its prover chose."""
    base, path = load_base(None), tmp_path / "formats.json"
    Calibration(base.digest, "", {}, {}).save(path)
    assert base.with_formats(path, ()).stored is not None
    Calibration(base.digest, "", {}, {"layers.q_proj": 3}).save(tmp_path / "coarse.json")
    with pytest.raises(VerificationError, match="q_proj of the base model is rounded"):
        base.with_formats(tmp_path / "coarse.json", ())


def test_formats_that_are_kept_do_not_name_the_prompt():
    base = load_base(unpacked() / "gpt2")
    assert base.with_formats(None, TOKENS).formats.data == ""
