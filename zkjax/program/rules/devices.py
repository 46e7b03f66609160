"""Code for several devices, on one: constraints of where values lie say nothing of what they are.

A proof is made of the whole computation, so a collective over an axis of one device is a move of
elements; with more devices a value would not be one array, and is refused.
"""

from __future__ import annotations

from zkjax.errors import UnsupportedPrimitiveError
from zkjax.program.jaxprs import ON_ONE_DEVICE, on_one_device
from zkjax.program.tracer import Sym, Tracer, primitive


@primitive(*ON_ONE_DEVICE)
def _alone(t: Tracer, eqn, *xs):
    def reshaped(value, shape):
        if isinstance(value, Sym):
            return Sym(t.builder.reshape(value.var, shape), value.fraction)
        return value.reshape(shape)

    return on_one_device(eqn, xs, reshaped)


@primitive("shard_map")
def _shard_map(t: Tracer, eqn, *xs):
    count = eqn.params["mesh"].size
    raise UnsupportedPrimitiveError(
        f"a shard_map over {count} devices cannot be proved; prove it with a mesh of one device, "
        "or the function inside",
        t.where,
    )
