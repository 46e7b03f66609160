"""What an adapter adds to a linear layer, whichever axes that layer sums over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import jax.numpy as jnp

from zkjax.errors import OptionError
from zkjax.models.adapter import lora_delta
from zkjax.models.lora.rules import Layer, Target
from zkjax.models.numerics import FixedPoint, Numerics


def delta(x, a, b, target: Target, numerics: Numerics):
    """scale (x A) B, laid out as the layer's output; x A is rounded at site ``<path>.lora``."""
    layer = target.layer
    if layer.equation is not None:
        x = jnp.einsum(layer.equation[0], x)
    else:
        ends = range(-len(layer.axis), 0)
        x = jnp.moveaxis(x, sorted(i % x.ndim for i in layer.axis), list(ends))
    rest = x.shape[: x.ndim - len(layer.inputs)]
    if x.shape[len(rest) :] != layer.inputs or jnp.ndim(a) != 2:
        raise OptionError(
            f"{layer.path!r} reads {x.shape[len(rest) :]} with A of shape {jnp.shape(a)}; A is "
            f"({math.prod(layer.inputs)}, {target.rule.r}) there. A stacked layer is called in a "
            "scan or vmap over its first axis"
        )
    x = x.reshape(*rest, math.prod(layer.inputs))
    y = lora_delta(x, a, b, _formats(target, numerics), target.rule.scale, f"{layer.path}.lora")
    y = y.reshape(*rest, *layer.outputs)
    return y if layer.equation is None else jnp.einsum(layer.equation[1], y)


def _formats(target: Target, numerics: Numerics) -> Numerics:
    """The numerics, with what the rule says of formats."""
    rule = target.rule
    if not isinstance(numerics, FixedPoint) or not (rule.low or rule.weight):
        return numerics
    own = {f"{target.layer.path}.lora": rule.low, "lora.weight": rule.weight}
    return replace(numerics, sites={**numerics.sites, **{n: s for n, s in own.items() if s}})


def require_numerics(numerics: Numerics, paths: Iterable[str]) -> None:
    """OptionError for formats that differ by layer: layers of others do not know their numbers."""
    if not isinstance(numerics, FixedPoint):
        return
    for name in (*(n for path in paths for n in (path, f"{path}.lora")), "lora.weight"):
        if any(numerics.site(name)[2:]):
            raise OptionError(
                f"site {name!r} has shifts by layer; choose formats with uniform=lambda name: True"
            )


def merged_kernel(kernel, parts: Mapping, target: Target):
    """W + scale A B in the shape and dtype of W."""
    layer = target.layer
    product = target.rule.scale * jnp.matmul(parts["a"], parts["b"])
    product = product.reshape(*layer.stack, *layer.inputs, *layer.outputs)
    stacked = len(layer.stack)
    product = product.transpose(*range(stacked), *(stacked + i for i in layer.order))
    return jnp.asarray(kernel + product, dtype=kernel.dtype)


def dense(path: str, kind: str, shape, inputs, outputs, axis=(-1,)) -> Layer:
    """A layer whose kernel is (inputs, outputs), behind the axes of stacked layers."""
    inputs, outputs = tuple(inputs), tuple(outputs)
    own = len(inputs) + len(outputs)
    stack = tuple(shape[: len(shape) - own])
    fault = _stack_fault(shape, (*inputs, *outputs))
    return Layer(path, kind, fault, True, stack, inputs, outputs, tuple(range(own)), tuple(axis))


def einsum(path: str, kind: str, shape, own, equation: str | None) -> Layer:
    """A layer by its equation and the shape of its kernel."""
    own = tuple(own)
    if not equation:
        return Layer(path, kind, "its equation is given where it is called; give it to the layer")
    operands, out = equation.replace(" ", "").split("->")
    x, kernel = operands.split(",")
    letters = x.replace("...", ""), kernel, out.replace("...", "")
    summed = [c for c in kernel if c in x and c not in out]
    free = [c for c in kernel if c in out and c not in x]
    rest = "".join(c for c in x if c not in summed)
    plain = (
        all(len(set(part)) == len(part) for part in letters)
        and summed
        and free
        and len(summed) + len(free) == len(kernel) == len(own)
        and set(rest) <= set(out)
        and ("..." in x) == ("..." in out)
    )
    if not plain:
        return Layer(
            path,
            kind,
            f"{equation!r} is no matrix product of what it reads with its kernel; leave it out",
        )
    size = dict(zip(kernel, own, strict=True))
    order = [*summed, *free]
    return Layer(
        path,
        kind,
        _stack_fault(shape, own),
        stack=tuple(shape[: len(shape) - len(own)]),
        inputs=tuple(size[c] for c in summed),
        outputs=tuple(size[c] for c in free),
        order=tuple(order.index(c) for c in kernel),
        equation=(f"{x}->{rest}{''.join(summed)}", f"{rest}{''.join(free)}->{out}"),
    )


def _stack_fault(shape, own: tuple[int, ...]) -> str:
    if tuple(shape[len(shape) - len(own) :]) == own:
        return ""
    return (
        f"its kernel has shape {tuple(shape)} and one layer's is {own}; stack layers on the first "
        "axis (out_axes=0)"
    )
