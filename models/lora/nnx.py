"""LoRA on a model of Flax NNX that somebody else wrote.

``attach`` makes a copy of the model in which linear layers add what the adapter adds. The layers of
the copy keep their class (they are of a subclass), attributes and parameters, and have A and B
beside the kernel, as ``nnx.LoRAParam``: so a scan or vmap over stacked layers hands each its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

import jax
from flax import nnx

from zkjax._arguments import checked
from zkjax._marks import Itself
from zkjax.errors import OptionError
from zkjax.models.lora.delta import delta, dense, einsum, merged_kernel, require_numerics
from zkjax.models.lora.rules import (
    Given,
    Layer,
    Rules,
    Target,
    Targets,
    assign,
    require_adapter,
)
from zkjax.models.numerics import FixedPoint, Float, Numerics

Model = Annotated[nnx.Module, Itself()]
LINEAR = (nnx.Linear, nnx.LinearGeneral, nnx.Einsum)


@checked
def find(model: Model, rules: Rules) -> Targets:
    """The linear layers that the rules are about, by path joined with "/".

    Linear layers are ``nnx.Linear``, ``nnx.LinearGeneral`` and ``nnx.Einsum``; only the shapes of
    their kernels are used.

    Raises:
      OptionError: see ``rules.assign``; or a layer or its kernel is shared.
    """
    _require_module(model)
    nodes = list(_walk(model))
    targets = assign([_layer(path, node) for path, node in _leaves(nodes)], rules)
    _require_unshared(nodes, targets)
    return targets


@checked
def attach(
    model: Model,
    adapter: Given,
    targets: Mapping[str, Target],
    numerics: Numerics | None = None,
    *,
    round_outputs: bool = True,
) -> nnx.Module:
    """A copy of the model with an adapter: its linear layers compute x W + scale (x A) B (+ bias).

    Call it where the adapter is known, also inside ``jax.grad``, ``jax.jit`` and ``zkjax.prove``.
    What a call changes in a module (statistics, random counters) changes in the copy.

    Args:
      adapter: {path: {"a": A, "b": B}}, as ``init`` makes it.
      targets: from ``find``.
      numerics: floating point, which is the default, or fixed point.
      round_outputs: round what every linear layer of the model gives, adapted or not, at a site
        named as its path. Without, the model has to round. In fixed point ``dtype`` and
        ``preferred_element_type`` of these layers count for nothing.
    """
    _require_module(model)
    require_adapter(adapter, targets)
    numerics = numerics or Float()
    copy = nnx.clone(model)
    found: dict[str, Any] = {p: node for p, node in _walk(copy) if isinstance(node, LINEAR)}
    _require_found(found, targets)
    require_numerics(numerics, found)
    done: set[int] = set()
    for path, node in found.items():
        if id(node) in done or not (path in targets or round_outputs):
            continue
        done.add(id(node))
        site = path if round_outputs else None
        object.__setattr__(node, "__class__", _adapted(node.__class__))
        node.lora = _Plan(targets.get(path), numerics, site)
        if path in targets:
            node.lora_a = nnx.LoRAParam(adapter[path]["a"])
            node.lora_b = nnx.LoRAParam(adapter[path]["b"])
        if isinstance(numerics, FixedPoint):
            node.dtype = node.preferred_element_type = None
    return copy


@checked
def merge(model: Model, adapter: Given, targets: Mapping[str, Target]) -> nnx.Module:
    """A copy of the model whose kernels are W + scale A B, in the dtype of W."""
    _require_module(model)
    require_adapter(adapter, targets)
    copy = nnx.clone(model)
    found = dict(_walk(copy))
    _require_found(found, targets)
    for path, target in targets.items():
        kernel = found[path].kernel
        kernel[...] = merged_kernel(kernel[...], adapter[path], target)
    return copy


@dataclass(frozen=True, eq=False)
class _Plan:
    """What an adapted layer does with its output. Compared by identity, as part of a graph."""

    target: Target | None
    numerics: Numerics
    site: str | None


@cache
def _adapted(base: type) -> type:
    """A subclass of a linear layer that adds an adapter's part and rounds."""

    def call(self, inputs, *args, **keywords):
        plan = self.lora
        if isinstance(self, nnx.Einsum):
            _require_own_equation(self, *args, **keywords)
        added = None
        if plan.target is not None:
            added = delta(inputs, self.lora_a[...], self.lora_b[...], plan.target, plan.numerics)
        y = base.__call__(self, inputs, *args, **keywords)
        y = y if added is None else y + added.astype(y.dtype)
        return y if plan.site is None else plan.numerics.round(y, plan.site)

    return type(f"{base.__name__}WithLora", (base,), {"__call__": call})


def _require_own_equation(layer: Any, einsum_str: str | None = None, *args, **keywords) -> None:
    if layer.lora.target and einsum_str not in (None, layer.einsum_str):
        raise OptionError(
            f"{layer.lora.target.layer.path!r} is called with an equation of its own, "
            f"{einsum_str!r}; give the layer that equation, or exclude it"
        )


def _require_module(model: Any) -> None:
    if not isinstance(model, nnx.Module):
        raise OptionError(f"the model is an nnx.Module, not {type(model).__name__}")


def _require_found(found: Mapping[str, Any], targets: Mapping[str, Target]) -> None:
    for path in targets:
        if path not in found:
            raise OptionError(f"the model has no layer {path!r}; find the layers of this model")


# What is in a model ---------------------------------------------------------------------------


def _walk(node: Any, path: str = "", above: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """All modules and variables under a node with their paths, shared ones once for each path."""
    if isinstance(node, nnx.Variable):
        yield path, node
        return
    if isinstance(node, nnx.Module):
        yield path, node
    above = (*above, id(node))
    for keys, child in jax.tree_util.tree_flatten_with_path(node, lambda x: x is not node)[0]:
        name = jax.tree_util.keystr(keys, simple=True)
        if id(child) not in above:  # a leaf is its own child, and a child may know its parent
            yield from _walk(child, f"{path}/{name}" if path else name, above)


def _leaves(nodes: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, nnx.Module]]:
    """Modules with parameters and without modules inside, and linear ones: no containers."""
    modules = [(path, node) for path, node in nodes if isinstance(node, nnx.Module)]
    outer = {path[:i] for path, _ in modules for i, c in enumerate(path) if c == "/"}
    owners = {p.rpartition("/")[0] for p, node in nodes if isinstance(node, nnx.Param)}
    for path, node in modules:
        if isinstance(node, (*LINEAR, nnx.LoRA)) or (path in owners and path not in outer):
            yield path, node


def _layer(path: str, node: Any) -> Layer:
    kind = type(node).__name__
    if isinstance(node, nnx.LoRA | nnx.LoRALinear):
        return Layer(
            path, kind,
            "it has a LoRA of Flax already. Train its lora_a and lora_b as they are (nnx.state("
            "model, nnx.LoRAParam)), or put the linear layer in its place and use a rule",
        )  # fmt: skip
    base = next((c for c in LINEAR if isinstance(node, c)), None)
    if base is None:
        return Layer(
            path, kind, "it is no linear layer; narrow the pattern, or exclude it", linear=False
        )
    if type(node).__call__ is not base.__call__:
        return Layer(
            path, kind,
            f"it computes something else than {base.__name__}; exclude it",
        )  # fmt: skip
    shape = node.kernel.shape
    if isinstance(node, nnx.Einsum):
        return einsum(path, kind, shape, node.kernel_shape, node.einsum_str)
    if isinstance(node, nnx.Linear):
        return dense(path, kind, shape, (node.in_features,), (node.out_features,))
    if node.batch_axis:
        return Layer(path, kind, "it has a kernel for each index of a batch axis; exclude it")
    return dense(path, kind, shape, node.in_features, node.out_features, node.axis)


def _require_unshared(nodes: Sequence[tuple[str, Any]], targets: Targets) -> None:
    """OptionError for a layer that has two paths, or whose kernel some other layer uses too."""
    paths: dict[int, list[str]] = {}
    for path, node in nodes:
        paths.setdefault(id(node), []).append(path)
    for path, node in nodes:
        for target in (path, path.removesuffix("/kernel")):
            others = [p for p in paths[id(node)] if p != path]
            if target in targets and others:
                raise OptionError(
                    f"{path!r}, which {targets[target].rule} is about, is shared: it is also "
                    f"{others[0]!r}. Give both places a layer of their own, or exclude them"
                )
