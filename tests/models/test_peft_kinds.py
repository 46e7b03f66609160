"""Adapters of every kind, as ``peft`` wrote them: taken, with the logits that ``peft`` computes, or
refused with the cause. ``fixtures/peft_kinds.py`` says how each was made.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from models.decoders import BASES, GPT2, LLAMA, logits, merged
from zkjax._compat import x64
from zkjax.models.adapter import lora_deltas
from zkjax.models.checkpoint import load_model
from zkjax.models.config import LoraConfig
from zkjax.models.numerics import Float
from zkjax.models.peft import AdapterError, load_adapter, save_adapter
from zkjax.models.registry import bind

ARCHIVE = Path(__file__).parent / "fixtures" / "adapters.tar.xz"
TOKENS = np.arange(8) * 5 % 23
FILES = ("adapter_config.json", "adapter_model.safetensors")


def kinds() -> dict[str, dict]:
    with tarfile.open(ARCHIVE) as archive:
        return json.load(io.TextIOWrapper(archive.extractfile("kinds.json")))


KINDS = kinds()
TAKEN = [kind for kind, told in KINDS.items() if not told["refused"]]
REFUSED = [kind for kind, told in KINDS.items() if told["refused"]]
# What only the base model tells.
BY_BASE = {
    "without the last layer",
    "without the last layer of a GPT-2",
    "with a layer",
    "layers that are not there",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def bases(home):
    return {name: load_file(home / name / "model.safetensors") for name in BASES}


def computed(bases, kind: str, adapter) -> np.ndarray:
    name = KINDS[kind]["base"]
    return logits(BASES[name], merged(BASES[name], bases[name], adapter), TOKENS)


def distance(got: np.ndarray, expected: np.ndarray) -> float:
    return np.abs(got - expected).max() / np.abs(expected).max()


def test_the_archive_is_small_and_has_many_of_each():
    assert ARCHIVE.stat().st_size < 400_000
    assert len(TAKEN) >= 40 and len(REFUSED) >= 40


@pytest.mark.parametrize("kind", TAKEN)
def test_taken_with_the_logits_of_peft(home, bases, kind):
    base = BASES[KINDS[kind]["base"]]
    expected = np.load(home / kind / "logits.npy")[0]
    adapter = load_adapter(home / kind, base)
    assert distance(computed(bases, kind, adapter), expected) < 1e-5
    plain = logits(
        base, {k: v.astype(float) for k, v in bases[KINDS[kind]["base"]].items()}, TOKENS
    )
    assert distance(plain, expected) > 1e-3  # the adapter does something
    if kind in BY_BASE:
        with pytest.raises(AdapterError, match="load with base= if there is none"):
            load_adapter(home / kind)
    else:
        alone = load_adapter(home / kind)
        assert alone.layers == adapter.layers and alone.scale == adapter.scale
        for target, parts in adapter.weights.items():
            assert all(np.array_equal(parts[p], alone.weights[target][p]) for p in "ab")


@pytest.mark.parametrize("kind", TAKEN)
def test_written_as_it_was_read(home, bases, tmp_path, kind):
    """The same function; and from then on the same bytes."""
    base = BASES[KINDS[kind]["base"]]
    adapter = load_adapter(home / kind, base)
    for dtype in ("F32", "F64"):
        once, again = tmp_path / f"{dtype}-1", tmp_path / f"{dtype}-2"
        save_adapter(once, adapter.weights, adapter.lora, "b", layers=adapter.layers, dtype=dtype)
        kept = load_adapter(once, base)
        change = distance(computed(bases, kind, kept), computed(bases, kind, adapter))
        assert change < (1e-6 if dtype == "F32" else 1e-14)
        load_adapter(once)  # what is written needs no base model
        save_adapter(again, kept.weights, kept.lora, "b", layers=kept.layers, dtype=dtype)
        for file in FILES:
            assert (once / file).read_bytes() == (again / file).read_bytes()


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_with_the_cause(home, kind):
    told = KINDS[kind]
    with pytest.raises(AdapterError) as refusal:
        load_adapter(home / kind, BASES[told["base"]])
    assert told["refused"] in str(refusal.value)
    if kind not in BY_BASE:
        with pytest.raises(AdapterError) as refusal:
            load_adapter(home / kind)
        assert told["refused"] in str(refusal.value) or kind == "another base model"


@pytest.mark.parametrize(
    "kind", ["seven targets", "uneven targets", "four targets", "uneven GPT-2"]
)
def test_the_model_of_this_library_computes_the_same(home, kind):
    """From the directories of base model and adapter to logits."""
    config, parameters = load_model(home / KINDS[kind]["base"])
    assert config == BASES[KINDS[kind]["base"]]
    weights, layers, scale = load_adapter(home / kind, config)
    assert layers == tuple(range(config.num_hidden_layers))
    with x64():
        model = bind(config, jax.tree.map(lambda w: w.astype(np.float64), parameters))
        tokens = TOKENS[None].astype(np.int32)
        got = model.run(tokens, Float(), lambda a, n: lora_deltas(a, scale, n), weights)[0]
    assert distance(np.asarray(got)[0], np.load(home / kind / "logits.npy")[0]) < 1e-5


@pytest.mark.parametrize("kind", ["seven targets", "four targets"])
def test_a_base_model_of_another_kind(home, kind):
    other = GPT2 if KINDS[kind]["base"] == "llama" else LLAMA
    with pytest.raises(AdapterError, match=r"holds weights of a .*, the base model is a"):
        load_adapter(home / kind, other)


def test_equal_scales_leave_the_weights_as_they_are(home):
    """What most modules have is the scale; the others' B is multiplied by the ratio."""
    adapter = load_adapter(home / "scales by target", LLAMA)
    raw = load_file(home / "scales by target" / FILES[1])
    assert adapter.scale == 2.0
    name = "base_model.model.model.layers.1.self_attn.{}.lora_B.weight"
    assert np.array_equal(adapter.weights["q_proj"]["b"][1], raw[name.format("q_proj")].T)
    assert np.array_equal(adapter.weights["k_proj"]["b"][1], 1.75 * raw[name.format("k_proj")].T)


def test_ranks_are_filled_with_zeros(home):
    adapter = load_adapter(home / "ranks by target", LLAMA)
    up, q = adapter.weights["up_proj"], adapter.weights["q_proj"]
    assert adapter.lora == LoraConfig(r=4, alpha=adapter.scale * 4, targets=tuple(adapter.weights))
    assert q["a"].shape == (3, 16, 4) and np.all(np.any(q["a"], axis=1))
    assert up["a"].shape == (3, 16, 4) and not np.any(up["a"][:, :, 1:])
    assert up["b"].shape == (3, 4, 24) and not np.any(up["b"][:, 1:])


def test_a_module_that_a_layer_lacks_is_not_written(home, tmp_path):
    adapter = load_adapter(home / "uneven targets", LLAMA)
    assert adapter.layers == (0, 1, 2)
    assert list(adapter.weights) == ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]
    assert not np.any(adapter.weights["down_proj"]["b"][:2])
    save_adapter(tmp_path, adapter.weights, adapter.lora, "base", layers=adapter.layers)
    names = load_file(home / "uneven targets" / FILES[1]).keys()
    assert load_file(tmp_path / FILES[1]).keys() == names
    told = json.loads((tmp_path / FILES[0]).read_text())
    assert {f"base_model.model.{m}" for m in told["target_modules"]} == {
        n.rpartition(".lora_")[0] for n in names
    }
