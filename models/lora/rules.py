"""Which linear layers of a model get an adapter, and of which rank: rules by path.

A walk over a model lists its layers (``zkjax.models.lora.nnx``, ``zkjax.models.lora.linen``), and
``assign`` says which rule each one is under. All that can be wrong with rules is wrong here, before
anything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from zkjax._arguments import checked
from zkjax._marks import Between, Itself
from zkjax.errors import OptionError
from zkjax.fixed.sites import Site
from zkjax.models.adapter import Key
from zkjax.models.config import Checked, Positive

ALL_LINEAR = "all-linear"
MOST_NAMED = 8  # layers in a message

Adapter = dict[str, dict[str, Any]]
Given = Annotated[Adapter, Itself()]  # to a function that calls require_adapter


@dataclass(frozen=True)
class LoraRule(Checked):
    """LoRA on the linear layers whose path matches: x W + scale (x A) B.

    Attributes:
      pattern: as in ``fnmatch``, for the whole path joined by "/" or by "."; ``*`` also matches
        these. "all-linear" stands for every linear layer, whatever else there is.
      r: the rank.
      alpha: scale is alpha / r.
      use_rslora: scale is alpha / sqrt(r).
      exclude: patterns of paths that the rule leaves out.
      low: how x A rounds in fixed point; by default as site ``<path>.lora`` of the numerics.
      weight: how A and B round where they are multiplied; by default as site ``lora.weight``.
    """

    pattern: str
    r: Annotated[int, Between(1, 1 << 16)] = 4
    alpha: Positive = 8.0
    use_rslora: bool = False
    exclude: Sequence[str] = ()
    low: Site | None = None
    weight: Site | None = None

    def __post_init__(self):
        super().__post_init__()
        if not self.pattern:
            raise OptionError('LoraRule: pattern is empty; "all-linear" stands for every layer')
        for name in ("low", "weight"):
            site = getattr(self, name)
            if site is not None and any(Site(*site)[2:]):
                raise OptionError(
                    f"{self}: {name} has shifts by layer, which no layer of its own knows; give it "
                    "two formats only"
                )

    @property
    def scale(self) -> float:
        """Of A B."""
        return self.alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @checked
    def matches(self, path: str) -> bool:
        """Whether the rule is about this path, joined by "/"."""
        if any(_fits(path, pattern) for pattern in self.exclude):
            return False
        return self.pattern == ALL_LINEAR or _fits(path, self.pattern)

    def __str__(self) -> str:
        return f"LoraRule({self.pattern!r})"


def _fits(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(path.replace("/", "."), pattern)


Rules = Annotated[Sequence[LoraRule], Itself()]


class Layer(NamedTuple):
    """A layer as a walk finds it.

    Attributes:
      path: joined by "/".
      kind: its class, for messages.
      fault: why it can have no adapter; empty if it can.
      linear: whether it is a linear layer.
      stack: leading axes of its kernel, of layers that are stacked.
      inputs, outputs: sizes of the axes of its kernel that are summed over, and of the others.
      order: where the axes of the kernel are among (inputs, outputs).
      axis: of what it reads, the axes that are summed over.
      equation: or how that is laid out for, and from, a matrix product: two transpositions.
    """

    path: str
    kind: str
    fault: str = ""
    linear: bool = True
    stack: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    axis: tuple[int, ...] = (-1,)
    equation: tuple[str, str] | None = None


@dataclass(frozen=True)
class Target(Checked):
    """A layer that gets an adapter, and the rule that says so."""

    layer: Layer
    rule: LoraRule

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of A, (..., inputs, r), and B, (..., r, outputs), behind the axes of stacked layers."""
        layer = self.layer
        inputs, outputs = math.prod(layer.inputs), math.prod(layer.outputs)
        return {
            "a": (*layer.stack, inputs, self.rule.r),
            "b": (*layer.stack, self.rule.r, outputs),
        }


Targets = dict[str, Target]


def assign(layers: Sequence[Layer], rules: Rules) -> Targets:
    """The layers that rules are about, by path.

    Raises:
      OptionError: a rule matches no linear layer, or one that can have no adapter, or asks for a
        rank above what the layer has; or a layer is under two rules.
    """
    listed = isinstance(rules, Sequence) and not isinstance(rules, str)
    if not listed or not rules or not all(isinstance(rule, LoraRule) for rule in rules):
        raise OptionError("rules: one LoraRule or more, in a list")
    if not all(layer.path for layer in layers if layer.linear):
        raise OptionError(
            "the model is a linear layer itself; make it a layer of a module, so that it has a path"
        )
    _require_distinct(layers)
    targets: Targets = {}
    for rule in rules:
        found = [x for x in layers if rule.matches(x.path)]
        if rule.pattern == ALL_LINEAR:
            found = [x for x in found if x.linear]
        for layer in found:
            _require_adaptable(layer, rule)
            if layer.path in targets:
                raise OptionError(
                    f"{layer.path!r} is under two rules, {targets[layer.path].rule} and {rule}; "
                    "narrow a pattern or exclude the layer from one"
                )
            targets[layer.path] = Target(layer, rule)
        if not found:
            raise OptionError(f"{rule} matches no layer; {_known(layers)}")
    return {path: targets[path] for path in sorted(targets)}


def _require_distinct(layers: Sequence[Layer]) -> None:
    seen: dict[str, Layer] = {}
    for layer in layers:
        for name in (layer.path, layer.path.replace("/", ".")):
            if seen.setdefault(name, layer) is not layer:
                raise OptionError(
                    f"two layers have the same path, {name!r}; rename one: a name should hold "
                    'neither "/" nor "."'
                )


def _require_adaptable(layer: Layer, rule: LoraRule) -> None:
    if layer.fault:
        raise OptionError(f"{rule} matches {layer.path!r} ({layer.kind}): {layer.fault}")
    inputs, outputs = math.prod(layer.inputs), math.prod(layer.outputs)
    if rule.r > min(inputs, outputs):
        raise OptionError(
            f"{rule} has r = {rule.r} for {layer.path!r}, whose kernel is {inputs} x {outputs}; "
            f"r is at most {min(inputs, outputs)} there"
        )


def _known(layers: Sequence[Layer]) -> str:
    names = [layer.path for layer in layers if layer.linear and not layer.fault]
    if not names:
        return "the model has no linear layer"
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"its linear layers are {', '.join(names[:MOST_NAMED])}{more}"


@checked
def init(targets: Mapping[str, Target], key: Key, *, warm: bool = False) -> Adapter:
    """An adapter, float32: {path: {"a": A, "b": B}}, A normal with variance 1 / inputs, B zero.

    Args:
      targets: from ``find``.
      key: a key of ``jax.random``.
      warm: B random too, as in the middle of training. For choosing formats: with B zero half of
        the gradient is.
    """
    adapter: Adapter = {}
    for i, (path, target) in enumerate(sorted(targets.items())):
        keys = jax.random.split(jax.random.fold_in(key, i))
        shapes = target.shapes
        a = jax.random.normal(keys[0], shapes["a"], jnp.float32) * shapes["a"][-2] ** -0.5
        b = 0.02 * jax.random.normal(keys[1], shapes["b"], jnp.float32)
        adapter[path] = {"a": a, "b": b if warm else jnp.zeros_like(b)}
    return adapter


def require_adapter(adapter: Any, targets: Mapping[str, Target]) -> None:
    """OptionError unless an adapter has A and B of the right shapes for these layers and no others;
    it names the first that differs.
    """
    if not isinstance(adapter, Mapping):
        raise OptionError('the adapter is {path: {"a": A, "b": B}}, as init makes it')
    for path in (*targets, *adapter):
        if path not in targets:
            raise OptionError(f"the adapter has weights for {path!r}, which no rule is about")
        parts = adapter.get(path)
        if not isinstance(parts, Mapping) or set(parts) != {"a", "b"}:
            raise OptionError(f'the adapter has no "a" and "b" for {path!r}; init makes them')
        for name, shape in targets[path].shapes.items():
            if jnp.shape(parts[name]) != shape:
                raise OptionError(
                    f"the adapter's {name} of {path!r} has shape {jnp.shape(parts[name])}; "
                    f"{targets[path].rule} makes it {shape}"
                )
