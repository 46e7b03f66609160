"""LoRA on a model of Flax Linen that somebody else wrote.

A Linen module holds no parameters, so the adapter goes beside the kernels in the ``params`` of a
call, as ``lora_a`` and ``lora_b``, and ``nn.intercept_methods`` adds what it adds. What stacks
layers (``nn.scan`` with ``variable_axes={"params": 0}``) hands each its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from zkjax._arguments import checked, typed
from zkjax._compat import x64
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

__all__ = ["bind", "find", "merge"]

Module = Annotated[nn.Module, Itself()]
Variables = Annotated[Mapping, Itself()]
LINEAR = (nn.Dense, nn.DenseGeneral, nn.Einsum)


@typed
def find(module: Module, rules: Rules, variables: Variables, *args, **keywords) -> Targets:
    """The linear layers that the rules are about, by path joined with "/".

    Linear layers are ``nn.Dense``, ``nn.DenseGeneral`` and ``nn.Einsum``. Which there are, only a
    call knows: ``module.apply(variables, *args, **keywords)`` is traced, by shapes alone.

    Raises:
      OptionError: see ``rules.assign``.
    """
    _require_module(module)
    params = _params(variables)
    found: dict[str, Layer] = {}

    def look(next_fun, args, keywords, context):
        y = next_fun(*args, **keywords)
        if context.method_name == "__call__":
            for layer in _layers(context.module, args, keywords, params):
                if found.setdefault(layer.path, layer) != layer:
                    raise OptionError(
                        f"{layer.path!r} is called with inputs of several shapes or is shared by "
                        "several modules; exclude it"
                    )
        return y

    with x64(), nn.intercept_methods(look):  # a model that computes in fixed point has 64 bits
        jax.eval_shape(lambda v, a: module.apply(v, *a, **keywords), variables, args)
    return assign(list(found.values()), rules)


@checked
def bind(
    module: Module,
    targets: Mapping[str, Target],
    numerics: Numerics | None = None,
    *,
    round_outputs: bool = True,
) -> Callable[..., Any]:
    """``bind(module, targets)(variables, adapter, *args, **keywords)`` is ``module.apply(variables,
    *args, **keywords)`` with linear layers that compute x W + scale (x A) B (+ bias).

    Args:
      targets: from ``find``.
      numerics: floating point, which is the default, or fixed point.
      round_outputs: round what every linear layer of the model gives, adapted or not, at a site
        named as its path. Without, the model has to round. In fixed point ``dtype`` of these layers
        counts for nothing.
    """
    _require_module(module)
    numerics = numerics or Float()
    require_numerics(numerics, targets)

    def adapted(next_fun, args, keywords, context):
        layer = context.module
        if not isinstance(layer, LINEAR) or context.method_name != "__call__":
            return next_fun(*args, **keywords)
        path = "/".join(layer.path)
        with _any_dtype(layer) if isinstance(numerics, FixedPoint) else _as_it_is():
            y = next_fun(*args, **keywords)
        if path in targets:
            if isinstance(layer, nn.Einsum) and _equation(args, keywords):
                raise OptionError(f"{path!r} is called with an equation of its own; exclude it")
            a, b = (layer.get_variable("params", name) for name in ("lora_a", "lora_b"))
            x = args[0] if args else keywords["inputs"]
            y = y + delta(x, a, b, targets[path], numerics).astype(y.dtype)
        if not round_outputs:
            return y
        require_numerics(numerics, [path])
        return numerics.round(y, path)

    @typed
    def apply(variables: Variables, adapter: Given, *args, **keywords):
        require_adapter(adapter, targets)
        params = _changed(
            variables,
            targets,
            lambda path, old: {**old, "lora_a": adapter[path]["a"], "lora_b": adapter[path]["b"]},
        )
        with nn.intercept_methods(adapted):
            return module.apply({**variables, "params": params}, *args, **keywords)

    return apply


@checked
def merge(variables: Variables, adapter: Given, targets: Mapping[str, Target]) -> dict[str, Any]:
    """The variables with kernels W + scale A B, in the dtype of W."""
    require_adapter(adapter, targets)

    def merged(path: str, old: Mapping) -> dict:
        kernel = merged_kernel(nn.meta.unbox(old["kernel"]), adapter[path], targets[path])
        return {**old, "kernel": nn.meta.replace_boxed(old["kernel"], kernel)}

    return {**variables, "params": _changed(variables, targets, merged)}


def _changed(
    variables: Mapping, targets: Mapping[str, Target], change: Callable[[str, Mapping], dict]
) -> dict[str, Any]:
    """A copy of the parameters, with those of some layers changed."""
    params = jax.tree.map(lambda x: x, dict(_params(variables)))
    for path in targets:
        *outer, last = path.split("/")
        node: Any = params
        for name in outer:
            node[name] = dict(_child(node, name, path))
            node = node[name]
        node[last] = change(path, _child(node, last, path))
    return params


def _child(node: Any, name: str, path: str) -> Mapping:
    child = node.get(name)
    if not isinstance(child, Mapping):
        raise OptionError(f"the parameters have no layer {path!r}; find the layers of this model")
    return child


def _require_module(module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise OptionError(f"the module is a Linen nn.Module, not {type(module).__name__}")


def _params(variables: Any) -> Mapping:
    if not isinstance(variables, Mapping) or not isinstance(variables.get("params"), Mapping):
        raise OptionError('the variables are {"params": ...}, as module.init gives them')
    return variables["params"]


def _equation(args: tuple, keywords: Mapping) -> str | None:
    """Of a call of an Einsum."""
    return args[1] if len(args) > 1 else keywords.get("einsum_str")


@contextmanager
def _any_dtype(layer: nn.Module) -> Iterator[None]:
    """The layer without a dtype of its own. It is the one of this call, not the user's."""
    old = {
        name: getattr(layer, name)
        for name in ("dtype", "preferred_element_type")
        if hasattr(layer, name)
    }
    try:
        for name in old:
            object.__setattr__(layer, name, None)
        yield
    finally:
        for name, value in old.items():
            object.__setattr__(layer, name, value)


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


# What is in a model ---------------------------------------------------------------------------


def _layers(module: nn.Module, args: tuple, keywords: Mapping, params: Mapping) -> Iterator[Layer]:
    """What is to be said of a module that has parameters of its own and no modules inside."""
    own = module.variables.get("params", {})
    if not own or any(isinstance(value, Mapping) for value in own.values()):
        return
    path, kind = "/".join(module.path), type(module).__name__
    base = next((c for c in LINEAR if isinstance(module, c)), None)
    if base is None:
        yield Layer(
            path, kind, "it is no linear layer; narrow the pattern, or exclude it", linear=False
        )
        return
    if type(module) is not base:
        yield Layer(path, kind, f"it computes something else than {base.__name__}; exclude it")
        return
    node: Any = params
    for name in module.path:
        node = node.get(name, {})
    whole = jnp.shape(nn.meta.unbox(node.get("kernel")))
    kernel = jnp.shape(nn.meta.unbox(own["kernel"]))
    x = args[0] if args else keywords["inputs"]
    if base is nn.Einsum:
        given = _equation(args, keywords)
        yield einsum(path, kind, whole, module.shape, None if given else module.einsum_str)
    elif base is nn.Dense:
        yield dense(path, kind, whole, kernel[:1], kernel[1:])
    elif _tuple(module.batch_dims):
        yield Layer(path, kind, "it has a kernel for each index of a batch axis; exclude it")
    else:
        # Counted from the end, so that a call with more leading axes is the same layer.
        axis = tuple(sorted(i % jnp.ndim(x) - jnp.ndim(x) for i in _tuple(module.axis)))
        yield dense(path, kind, whole, kernel[: len(axis)], kernel[len(axis) :], axis)


def _tuple(x: Any) -> tuple[int, ...]:
    return tuple(x) if isinstance(x, Sequence) else (x,)
