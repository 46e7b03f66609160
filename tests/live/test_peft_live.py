"""Both ways with ``peft`` itself: what it writes is read here, what is written here it reads.

Needs torch, transformers and peft, which nothing else does.
"""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from models.fixtures.peft_kinds import KINDS, make
    from models.fixtures.peft_makers import base, logits_of
    from peft import LoraConfig as PeftConfig
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.other import get_pattern_key

from models.decoders import BASES, GPT2, LLAMA, logits, merged

from zkjax.models.config import LoraConfig
from zkjax.models.patterns import Budget
from zkjax.models.peft import AdapterError, LoadedAdapter, load_adapter, save_adapter
from zkjax.models.peft_modules import Choices, matched
from zkjax.models.peft_names import family_of
from zkjax.models.peft_settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore")

TOKENS = np.arange(8) * 5 % 23
TAKEN = [kind for kind, made in KINDS.items() if not made.refused]
REFUSED = [kind for kind, made in KINDS.items() if made.refused]


def computed(name: str, adapter: LoadedAdapter) -> np.ndarray:
    """The logits of this side."""
    state = {k: v.numpy() for k, v in base(name).state_dict().items()}
    return logits(BASES[name], merged(BASES[name], state, adapter), TOKENS)


def distance(got: np.ndarray, expected: np.ndarray) -> float:
    return np.abs(got - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("kind", TAKEN)
def test_made_there_read_here_and_back(tmp_path, kind):
    name = KINDS[kind].base
    make(kind, tmp_path / "there", seed=1000)
    adapter = load_adapter(tmp_path / "there", BASES[name])
    expected = logits_of(name, tmp_path / "there")[0]
    assert distance(computed(name, adapter), expected) < 1e-5
    again = tmp_path / "here"
    save_adapter(again, adapter.weights, adapter.lora, "b", layers=adapter.layers, dtype="F64")
    assert distance(logits_of(name, again)[0], expected) < 1e-6


@pytest.mark.parametrize("kind", REFUSED)
def test_made_there_refused_here(tmp_path, kind):
    make(kind, tmp_path, seed=1000)
    with pytest.raises(AdapterError) as refusal:
        load_adapter(tmp_path, BASES[KINDS[kind].base])
    assert KINDS[kind].refused in str(refusal.value)


def made_here(name: str, rng: np.random.Generator) -> tuple[dict, LoraConfig, tuple[int, ...]]:
    """Random weights of some targets in some layers, some modules without any."""
    config = BASES[name]
    depth, r = config.num_hidden_layers, int(rng.integers(1, 5))
    layers = tuple(sorted(rng.choice(depth, rng.integers(1, depth + 1), replace=False).tolist()))
    targets = rng.choice(config.targets, rng.integers(1, len(config.targets) + 1), replace=False)
    weights = {}
    for target in targets.tolist():
        inputs, outputs = config.projection_shape(target)
        here = (rng.random(len(layers)) < 0.8)[:, None, None]
        a, b = rng.normal(0, 0.3, (len(layers), inputs, r)), rng.normal(0, 0.3, (1, r, outputs))
        weights[target] = {"a": a * here, "b": np.repeat(b, len(layers), 0) * here}
    weights[target]["a"][0, 0], weights[target]["b"][0, 0] = 1, 1  # not nothing at all
    return (
        weights,
        LoraConfig(r=r, alpha=float(rng.uniform(0.5, 9)), targets=tuple(weights)),
        layers,
    )


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("seed", range(8))
def test_made_here_read_there(tmp_path, name, seed):
    weights, lora, layers = made_here(name, np.random.default_rng(seed))
    save_adapter(tmp_path, weights, lora, "a base", layers=layers)
    expected = computed(name, LoadedAdapter(weights, layers, lora.scale))
    assert distance(logits_of(name, tmp_path)[0], expected) < 1e-5


NAMES = {
    "llama": [
        *("q_proj", "v_proj", "up_proj", "down_proj", "self_attn.k_proj", "mlp.gate_proj", "proj"),
        *("layers.1.self_attn.q_proj", "model.layers.2.mlp.up_proj", "1.self_attn.v_proj", "1.mlp"),
    ],
    "gpt2": [
        *("c_attn", "c_proj", "attn.c_proj", "mlp.c_proj", "c_fc", "fc", "h.1.attn.c_attn"),
        *("transformer.h.0.mlp.c_fc", "0.attn.c_proj", "wte", "ln_1"),
    ],
}
TEXTS = {
    "llama": [
        *(r".*_proj", r".*\.(q|v)_proj", r"model\.layers\.[01]\..*(up|down)_proj", "q_proj"),
        *(r".*self_attn\.\w+", r"(?!.*mlp).*_proj", r"model\.layers\.\d+\.mlp\.\w+_proj", ".*"),
        *(r".*\b1\b.*_proj", r".*layers\.[^0]\..*o_proj$", "all-linear", "ALL-Linear"),
    ],
    "gpt2": [
        *(r".*c_(attn|fc)", r".*\.c_proj", r"transformer\.h\.1\..*c_\w+", r".*(attn|mlp).*", "x"),
        *(r"(?=.*0).*c_proj", r".*h\.(\d)\.mlp\.c_fc", "all-linear"),
    ],
}
STACKS = {"llama": ["layers", "model.layers"], "gpt2": ["h", "transformer.h"]}


def drawn(rng: random.Random, name: str) -> dict:
    """Settings that name modules."""
    some = [rng.choice(NAMES[name]) for _ in range(rng.randrange(1, 5))]
    found = {"target_modules": some if rng.random() < 0.6 else rng.choice(TEXTS[name])}
    if rng.random() < 0.4:
        excluded = [rng.choice(NAMES[name]) for _ in range(rng.randrange(1, 3))]
        found["exclude_modules"] = excluded if rng.random() < 0.6 else rng.choice(TEXTS[name][:-2])
    if isinstance(found["target_modules"], list) and rng.random() < 0.5:
        layers = [rng.randrange(4) for _ in range(rng.randrange(1, 3))]
        found["layers_to_transform"] = layers
        if rng.random() < 0.5:
            found["layers_pattern"] = [rng.choice(STACKS[name])]
    return found


def frozen(value) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else tuple(value)


@pytest.mark.parametrize("name", BASES)
def test_the_modules_that_settings_name(name):
    """Random settings name the modules that ``peft`` adapts, or one outside is refused."""
    rng, config = random.Random(3), BASES[name]
    family, paths = family_of(config), [path for path, _ in base(name).named_modules() if path]
    linear = {
        config.module_path(i, t): (i, t)
        for i in range(config.num_hidden_layers)
        for t in config.targets
    }
    counts = {"same": 0, "outside": 0, "both": 0}
    for _ in range(1500):
        told = drawn(rng, name)
        settings = Settings(
            1, 1.0, False, {}, {},
            frozen(told["target_modules"]),
            frozen(told.get("exclude_modules", ())),
            frozenset(told["layers_to_transform"]) if "layers_to_transform" in told else None,
            tuple(told.get("layers_pattern", ())),
            False,
        )  # fmt: skip
        there = PeftConfig(**told)
        if str(there.target_modules).lower() == "all-linear":
            there.target_modules = set(linear)
        expected = {path for path in paths if check_target_module_exists(there, path)}
        try:
            found = matched(settings, family, config.num_hidden_layers)
        except AdapterError as error:
            both = "leave out one of them" in str(error)
            assert both or not expected <= linear.keys(), (told, error)
            counts["both" if both else "outside"] += 1
            continue
        assert found == {linear[path] for path in expected}, told
        counts["same"] += 1
    assert counts["same"] > 500 and counts["outside"] > 150, counts


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=lambda config: type(config).__name__)
def test_the_entries_of_patterns(config):
    """Random keys of rank_pattern stand for the modules that ``peft`` takes them for."""
    rng = random.Random(4)
    name = "llama" if config is LLAMA else "gpt2"
    paths = [
        config.module_path(i, t) for i in range(config.num_hidden_layers) for t in config.targets
    ]
    keys = [*NAMES[name], *TEXTS[name][:-2], *paths]
    keys += [f"^{key}" for key in paths] + [key.replace(".", r"\.") for key in paths]
    keys += [".q_proj", "q.proj", "layers.1.*", r"[qc]_\w+$", "(a|b)|c_fc", "proj", "c.fc"]
    matches = 0
    for _ in range(400):
        some = [rng.choice(keys) for _ in range(rng.randrange(1, 6))]
        choices = Choices(some, "rank_pattern", Budget(10**6))
        for path in paths:
            expected = get_pattern_key(some, path)
            assert choices.of(path) == (expected if expected in some else None), (some, path)
            matches += expected in some
    assert matches > 500


def test_what_is_cut_off_is_refused_here(tmp_path: Path):
    """``peft`` warns of it, and computes something else."""
    make("without a layer", tmp_path, seed=1000)
    with pytest.raises(UserWarning, match="missing adapter keys"):
        logits_of("llama", tmp_path)
    with pytest.raises(AdapterError, match="is missing"):
        load_adapter(tmp_path, LLAMA)
