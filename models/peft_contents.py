"""What the header of an adapter's weights and its settings say together, without the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from zkjax.models.config import ModelConfig
from zkjax.models.patterns import Budget
from zkjax.models.peft_modules import STEPS, Choices, matched
from zkjax.models.peft_names import LLAMA, MAX_LAYERS, Family, Module, family_of, place
from zkjax.models.peft_settings import CONFIG, WEIGHTS, AdapterError, Settings, short
from zkjax.tensors import Described

# Numbers of the stacked matrices: always so many, and so many times those of the file.
FREE_NUMBERS, MAX_PADDING = 1 << 22, 64
FLOATS = ("F64", "F32", "F16", "BF16")


class Contents(NamedTuple):
    """Plain LoRA of the linear layers of blocks.

    Attributes:
      names: of the two matrices of a module.
      shapes: of the arrays of the file, by name.
      scales: of B A, by module.
    """

    family: Family
    names: dict[Module, dict[str, str]]
    shapes: Mapping[str, tuple[int, ...]]
    scales: dict[Module, float]

    def sizes(self) -> tuple[tuple[int, ...], int, dict[str, tuple[int, int]]]:
        """Layers, the largest rank, and inputs and outputs of each target."""
        layers = tuple(sorted({layer for layer, _ in self.names}))
        r, sizes = 0, {}
        for (_, target), parts in self.names.items():
            (rank, inputs), (outputs, _) = (self.shapes[parts[part]] for part in "ab")
            r, sizes[target] = max(r, rank), (inputs, outputs)
        return layers, r, {t: sizes[t] for t in self.family.config.paths if t in sizes}


def read_contents(
    settings: Settings, base: ModelConfig | None, found: Mapping[str, Described]
) -> Contents:
    """AdapterError unless these are the LoRA matrices that the settings describe."""
    names: dict[Module, dict[str, str]] = {}
    families = {}
    for name, told in found.items():
        family, module, part = place(name)
        if told.dtype not in FLOATS:
            dtype = told.dtype if told.dtype.isidentifier() else short(told.dtype)
            raise AdapterError(
                f"{name} is {dtype}; weights are one of {', '.join(FLOATS)}; make them "
                "floating point (model.float()) and save again"
            )
        names.setdefault(module, {})[part] = name
        families[family.name] = family
    if not names:
        raise AdapterError(f"{WEIGHTS} holds no LoRA weights")
    if len(families) > 1:
        raise AdapterError(f"{WEIGHTS} holds weights of a {' and of a '.join(families)}")
    if base and family is not family_of(base):
        raise AdapterError(
            f"{WEIGHTS} holds weights of a {family.name}, the base model is a "
            f"{family_of(base).name}; load it with its own"
        )
    if settings.fan_in_fan_out and family is LLAMA:
        raise AdapterError(
            "fan_in_fan_out = True is not plain LoRA of a LLaMA, whose layers are no Conv1D; "
            "set it to false"
        )
    _require_modules(settings, family, names, base)
    scales = _require_shapes(settings, family, names, found, base)
    contents = Contents(family, names, {n: told.shape for n, told in found.items()}, scales)
    _require_room(contents)
    return contents


def _require_modules(
    settings: Settings,
    family: Family,
    names: dict[Module, dict[str, str]],
    base: ModelConfig | None,
) -> None:
    """AdapterError unless the settings name the modules of the file, all and no others."""
    last = max(layer for layer, _ in names)
    depth = base.num_hidden_layers if base else last + 1
    kept = settings.layers_to_transform or frozenset()
    if base is None and kept:
        depth = max(depth, min(max(kept) + 1, MAX_LAYERS))
    wanted = matched(settings, family, depth)
    words = "target_modules" + "".join(
        f", {name}"
        for name in ("exclude_modules", "layers_to_transform", "layers_pattern")
        if getattr(settings, name)
    )
    order = {target: i for i, target in enumerate(family.config.paths)}

    def first(modules: set[Module]) -> str:
        return family.path(*min(modules, key=lambda m: (m[0], order[m[1]])))

    if added := names.keys() - wanted:
        raise AdapterError(
            f"{first(added)} is in {WEIGHTS}, but {words} of {CONFIG} "
            f"{'do' if ',' in words else 'does'} not name it"
            + (f" in a base model of {depth} layers" if base else "")
        )
    if missing := wanted - names.keys():
        known = "" if base or min(missing)[0] <= last else "; load with base= if there is none"
        raise AdapterError(
            f"{first(missing)} is missing in {WEIGHTS}, though {words} of {CONFIG} "
            f"{'name' if ',' in words else 'names'} it: the file is not whole, or of another base "
            f"model{known}"
        )


def _require_shapes(
    settings: Settings,
    family: Family,
    names: dict[Module, dict[str, str]],
    found: Mapping[str, Described],
    base: ModelConfig | None,
) -> dict[Module, float]:
    """The scale of each module; AdapterError unless its matrices are of its rank and its layer."""
    budget = Budget(STEPS)
    rank_of = Choices(settings.rank_pattern, "rank_pattern", budget)
    alpha_of = Choices(settings.alpha_pattern, "alpha_pattern", budget)
    scales, sizes = {}, {}
    for module, parts in names.items():
        path, target = family.path(*module), module[1]
        if len(parts) != 2:
            part = "B" if "a" in parts else "A"
            raise AdapterError(f"{path}.lora_{part} is missing in {WEIGHTS}: it is not whole")
        r = settings.rank_pattern.get(rank_of.of(path), settings.r)
        alpha = settings.alpha_pattern.get(alpha_of.of(path), settings.lora_alpha)
        scales[module] = settings.scale(r, alpha)
        size = []
        for part, axis in (("a", 0), ("b", 1)):
            shape = found[parts[part]].shape
            if len(shape) != 2 or shape[axis] != r or 0 in shape:
                raise AdapterError(f"{parts[part]} has shape {shape}, the rank is {r}")
            size.append(shape[1 - axis])
        expected = base.projection_shape(target) if base else sizes.setdefault(target, tuple(size))
        if tuple(size) != expected:
            where = "in this base model" if base else "in another layer"
            raise AdapterError(
                f"{path} has {size[0]} inputs and {size[1]} outputs by the shapes of its matrices, "
                f"but {expected[0]} and {expected[1]} {where}"
            )
    return scales


def _require_room(contents: Contents) -> None:
    """AdapterError if equal ranks would make much of a small file."""
    layers, r, sizes = contents.sizes()
    numbers = len(layers) * r * sum(map(sum, sizes.values()))
    held = sum(rows * columns for rows, columns in contents.shapes.values())
    if numbers > max(FREE_NUMBERS, MAX_PADDING * held):
        raise AdapterError(
            f"ranks and targets are so uneven that {held:,} weights would become {numbers:,} with "
            f"rank {r} in all modules; make them more equal"
        )
