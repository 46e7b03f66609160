"""Adapters of a stranger: nothing but an AdapterError comes of them, soon and in little memory."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from models.decoders import GPT2, LLAMA
from models.test_peft_kinds import TAKEN, home  # noqa: F401
from zkjax.models.peft import AdapterError, load_adapter, weight_name
from zkjax.models.peft_contents import FREE_NUMBERS, MAX_PADDING
from zkjax.models.peft_names import FAMILIES

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PLAIN = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"]}
NAME = "base_model.model.model.layers.{}.self_attn.{}.lora_{}.weight"


def adapter(modules, r: int = 1, width: int = 2) -> dict[str, np.ndarray]:
    """Tensors of (layer, target) pairs."""
    return {
        NAME.format(layer, target, part): np.ones((r, width) if part == "A" else (width, r), "f4")
        for layer, target in modules
        for part in "AB"
    }


def written(folder: Path, tensors: dict | bytes, config: dict | bytes) -> Path:
    folder.mkdir(exist_ok=True)
    data = tensors if isinstance(tensors, bytes) else save(tensors)
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    (folder / WEIGHTS).write_bytes(data)
    (folder / CONFIG).write_bytes(text)
    return folder


def outcome(folder: Path) -> str:
    """ "taken", or the refusal; any other error fails the test."""
    try:
        load_adapter(folder)
    except AdapterError as error:
        assert str(error).strip() and len(str(error)) < 2000
        return str(error)
    return "taken"


def mutated(rng: random.Random, data: bytes) -> bytes:
    """One small change of bytes."""
    at, kind = rng.randrange(len(data)), rng.randrange(6)
    piece = data[at : at + rng.randrange(1, 40)]
    if kind == 0:
        return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]
    if kind == 1:
        return data[:at] + rng.randbytes(rng.randrange(1, 5)) + data[at:]
    if kind == 2:
        return data[:at] + data[at + len(piece) :]
    if kind == 3:
        return data[:at]
    if kind == 4:
        to = rng.randrange(len(data))
        return data[:to] + piece + data[to:]
    digits = [i for i, c in enumerate(data[:4000]) if chr(c).isdigit()]
    at = rng.choice(digits)
    return data[:at] + rng.choice([b"-1", b"99", b"0", b"1e9", b"null", b"9" * 30]) + data[at + 1 :]


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
def test_bytes_that_changed(home, tmp_path, file):  # noqa: F811
    rng, refused = random.Random(file), 0
    for _ in range(500):
        kind = home / rng.choice(TAKEN)
        data = {name: (kind / name).read_bytes() for name in (CONFIG, WEIGHTS)}
        if file == WEIGHTS and rng.random() < 0.7:  # in the header
            length = int.from_bytes(data[WEIGHTS][:8], "little") + 8
            header, rest = data[WEIGHTS][:length], data[WEIGHTS][length:]
            data[WEIGHTS] = mutated(rng, header) + rest
        else:
            data[file] = mutated(rng, data[file])
        refused += outcome(written(tmp_path / "a", data[WEIGHTS], data[CONFIG])) != "taken"
    assert 150 < refused < 500


ODD = [
    *(None, True, False, 0, -1, 3, 1 << 40, 0.5, -2.5, 1e400, float("nan"), "", "x", "(a+)+$"),
    *("all-linear", "^", "*", "\ud800", [], [None], ["x"], [[]], [3], [-1, True], {}),
    *({"x": 1}, {"": 2}, {"(": 2}, {"q_proj": None}, {"q_proj": [1]}, {".*": 2}, {"r": {"r": 1}}),
]


def test_settings_of_every_type(home, tmp_path):  # noqa: F811
    rng, refused = random.Random(8), 0
    for _ in range(600):
        kind = home / rng.choice(TAKEN)
        config = json.loads((kind / CONFIG).read_text())
        for _ in range(rng.randrange(1, 3)):
            config[rng.choice(list(config))] = rng.choice(ODD)
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / CONFIG).write_text(json.dumps(config))
        (tmp_path / "a" / WEIGHTS).write_bytes((kind / WEIGHTS).read_bytes())
        refused += outcome(tmp_path / "a") != "taken"
    assert 250 < refused < 600


def lying(**changes) -> bytes:
    """A file whose header says something else of its first array."""
    data = save(adapter([(0, "q_proj")]))
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header[NAME.format(0, "q_proj", "A")] |= changes
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def twice() -> bytes:
    """A file whose header has the same name two times."""
    data = save(adapter([(0, "q_proj")]))
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].strip()
    first = text[1 : text.index(b"}") + 1]
    text = b"{" + first + b"," + text[1:]
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


ONE = adapter([(0, "q_proj")])
HOSTILE: dict[str, tuple[Callable[[], dict | bytes], dict | bytes, str]] = {
    "a megabyte of garbage": (lambda: ONE, bytes(range(256)) * 4096, "not JSON"),
    "a larger one": (lambda: ONE, b" " * ((1 << 20) + 1), "larger than"),
    "a deep text": (lambda: ONE, b"[" * (1 << 20), "not JSON"),
    "a key twice": (lambda: ONE, b'{"r": 1, "r": 1}', "same key twice"),
    "many targets": (
        lambda: ONE,
        PLAIN | {"target_modules": [f"k{i}" for i in range(90_000)]},
        "is in adapter_model",
    ),
    "many ranks": (
        lambda: adapter((i, "q_proj") for i in range(900)),
        PLAIN | {"rank_pattern": {f"k{i}": 1 for i in range(60_000)}},
        "takes too long",
    ),
    "many expressions": (
        lambda: ONE,
        PLAIN | {"rank_pattern": {f"(k{i})*": 1 for i in range(40_000)}},
        "takes too long",
    ),
    "an expression for ever": (lambda: ONE, PLAIN | {"target_modules": "(a+)+$"}, "does not name"),
    "one of many states": (
        lambda: ONE,
        PLAIN | {"target_modules": "((.?){40}){40}"},
        "more than 2,048 states",
    ),
    "one that looks ahead": (
        lambda: adapter([(9999, "q_proj")]),
        PLAIN | {"target_modules": "(?:(?=.*x)?.*)*x"},
        "takes too long",
    ),
    "an expression in a pattern": (
        lambda: ONE,
        PLAIN | {"alpha_pattern": {"((.?){40}){40}": 1}},
        "alpha_pattern has the expression",
    ),
    "a list": (lambda: ONE, b"[]", "is not an object"),
    "a type that writes to the terminal": (
        lambda: lying(dtype="\x1b[31m"),
        PLAIN,
        r"is '\\x1b\[31m'; weights are one of",
    ),
    "no inputs": (lambda: adapter([(0, "q_proj")], width=0), PLAIN, r"has shape \(1, 0\)"),
    "only B": (
        lambda: {n: v for n, v in ONE.items() if "lora_B" in n},
        PLAIN,
        "q_proj.lora_A is missing",
    ),
    "not a number": (lambda: {n: v * np.nan for n, v in ONE.items()}, PLAIN, "not a number"),
    "infinite": (lambda: {n: v * np.inf for n, v in ONE.items()}, PLAIN, "is infinite"),
    "infinite by its scale": (
        lambda: {
            n: v.astype("f8") * 1e308 for n, v in adapter((i, "q_proj") for i in range(3)).items()
        },
        PLAIN | {"alpha_pattern": {"layers.0.self_attn.q_proj": 9}},
        "is infinite",
    ),
    "two kinds of models": (
        lambda: ONE | {weight_name(0, "c_attn", "A"): np.ones((1, 2), "f4")},
        PLAIN,
        "weights of a LLaMA and of a GPT-2|weights of a GPT-2 and of a LLaMA",
    ),
    "a layer far out": (lambda: adapter([(9999, "q_proj")]), PLAIN, "layers.0.self_attn.q_proj is"),
    "layers farther out": (lambda: ONE, PLAIN | {"layers_to_transform": [1 << 60]}, "not name it"),
    "a rank for one module": (
        lambda: (
            adapter(((i, "q_proj") for i in range(1, 400)), width=64)
            | adapter([(0, "q_proj")], r=4096, width=64)
        ),
        PLAIN | {"rank_pattern": {"layers.0.self_attn.q_proj": 4096}},
        "so uneven",
    ),
    "many tensors": (
        lambda: adapter((i, t) for i in range(10_000) for t in ("q_proj", "k_proj", "v_proj")),
        PLAIN,
        "not a safetensors file",
    ),
    "a shape that is larger": (lambda: lying(shape=[1, 1 << 40]), PLAIN, "does not follow|shape"),
    "a shape that is negative": (lambda: lying(shape=[1, -2]), PLAIN, "not a PEFT adapter"),
    "a shape of no axes": (lambda: lying(shape=[]), PLAIN, "has shape"),
    "a shape of many axes": (lambda: lying(shape=[1] * 70), PLAIN, "not a PEFT adapter"),
    "a place beyond the end": (lambda: lying(data_offsets=[0, 1 << 60]), PLAIN, "does not follow"),
    "a name twice": (twice, PLAIN, "twice"),
    "a name that is long": (lambda: {"a" * 100_000: np.ones((1, 1), "f4")}, PLAIN, "not the name"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_adapter_costs_little(tmp_path, name):
    make, config, word = HOSTILE[name]
    folder = written(tmp_path / "a", make(), config)
    tracemalloc.start()
    try:
        with pytest.raises(AdapterError, match=word):
            load_adapter(folder)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_as_many_tensors_as_a_header_holds(tmp_path):
    """The largest honest file has a name for each layer that can be."""
    modules = [(i, "q_proj") for i in range(9_000)]
    kept = load_adapter(written(tmp_path / "a", adapter(modules), PLAIN))
    assert kept.layers == tuple(range(9_000)) and np.all(kept.weights["q_proj"]["b"] == 1)


def test_uneven_ranks_of_a_small_adapter_are_taken(tmp_path):
    tensors = adapter(((i, "q_proj") for i in range(1, 200)), width=8)
    tensors |= adapter([(0, "q_proj")], r=1024, width=8)
    pattern = {"layers.0.self_attn.q_proj": 1024}
    kept = load_adapter(written(tmp_path / "a", tensors, PLAIN | {"rank_pattern": pattern}))
    assert kept.weights["q_proj"]["a"].shape == (200, 8, 1024)
    held = sum(t.size for t in tensors.values())
    assert MAX_PADDING * held < 200 * 16 * 1024 < FREE_NUMBERS


@pytest.mark.parametrize("base", [LLAMA, GPT2], ids=lambda base: type(base).__name__)
def test_names_are_canonical(base):
    """Each module has one path, and the suffix that stands for it finds no other."""
    family = next(f for f in FAMILIES if isinstance(base, f.config))
    for target in base.targets:
        assert family.path(1, target) == base.module_path(1, target)
        suffix = "." + family.suffix(target)
        found = [t for t in base.targets if base.module_path(1, t).endswith(suffix)]
        assert found == [target]


def test_a_missing_layer_may_be_none_of_the_base_model(tmp_path):
    """Without the base model only layers beyond the file's last one can be none."""

    def refusal(layers, base=None):
        told = PLAIN | {"layers_to_transform": layers}
        folder = written(tmp_path / "a", adapter([(0, "q_proj"), (2, "q_proj")], width=16), told)
        with pytest.raises(AdapterError) as error:
            load_adapter(folder, base)
        return str(error.value)

    beyond, within = refusal([0, 2, 5]), refusal([0, 1, 2, 5])
    assert "layers.5.self_attn.q_proj is missing" in beyond and "load with base=" in beyond
    assert "layers.1.self_attn.q_proj is missing" in within and "base=" not in within
    assert "layers.1.self_attn.q_proj is missing" in refusal([0, 1, 2], LLAMA)
    assert "name it: the file" in within and "target_modules, layers_to_transform of" in within


def test_a_shape_is_held_against_the_base_model_or_the_other_layers(tmp_path):
    tensors = adapter([(0, "q_proj"), (1, "q_proj")], width=16) | adapter([(2, "q_proj")], width=8)
    folder = written(tmp_path / "a", tensors, PLAIN)
    for base, words in ((None, "8 outputs .* 16 and 16 in another layer"), (LLAMA, "in this base")):
        with pytest.raises(AdapterError, match=words):
            load_adapter(folder, base)
