"""No rule overlooks a parameter of its primitive: each is read, or is listed with the reason why
it changes no number.
"""

from __future__ import annotations

from collections import defaultdict
from unittest import mock

import jax.numpy as jnp
import pytest

import zkjax
from program.catalogue import FUNCTIONS, K, X
from zkjax import fixed
from zkjax.program import tracer
from zkjax.program.trace import trace_call

TYPE = "of the type of the result, which is checked for what it holds"
PLACE = "where values lie, and how they are compiled"
SHAPE = "follows from the shapes"
PROMISE = "what the caller promises of constants, which decides nothing"
JAX = "JAX itself is asked, with all parameters, which elements are taken or changed"
IGNORED = {
    **dict.fromkeys(("index_dtype", "out_dtype", "preferred_element_type", "weak_type"), TYPE),
    **dict.fromkeys(("context_mesh", "layout", "out_sharding", "sharding"), PLACE),
    **dict.fromkeys(("unconstrained_dims", "unroll"), PLACE),
    **dict.fromkeys(("indices_are_sorted", "unique_indices"), PROMISE),
}
IGNORED_OF = {
    "gather": {"fill_value": JAX, "mode": JAX},
    "psum_invariant": {"axes": "of a mesh of one device"},
    "pvary": {"axes": "of a mesh of one device"},
    "reshape": {"new_sizes": SHAPE},
    "scatter": {"dimension_numbers": JAX, "mode": JAX, "update_consts": JAX},
    "scatter-add": {
        **{"dimension_numbers": JAX, "mode": JAX, "update_consts": JAX},
        "update_jaxpr": "it adds, says the primitive's name",
    },
    "slice": {"limit_indices": SHAPE},
    "squeeze": {"dimensions": SHAPE},
}


class Read(dict):
    """Parameters, and which of them were asked for."""

    def __init__(self, parameters: dict, names: set[str]):
        super().__init__(parameters)
        self._names = names

    def __getitem__(self, name):
        self._names.add(name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        self._names.add(name)
        return super().get(name, default)


class Equation:
    """An equation whose parameters are watched."""

    def __init__(self, eqn, names: set[str]):
        self._eqn, self.params = eqn, Read(eqn.params, names)

    def __getattr__(self, name):
        return getattr(self._eqn, name)


def unread(functions) -> dict[str, set[str]]:
    """By primitive, the parameters that its rule read in none of the functions."""
    given, read = defaultdict(set), defaultdict(set)

    def watched(name, rule):
        def watching(t, eqn, *inputs):
            given[name] |= eqn.params.keys()
            return rule(t, Equation(eqn, read[name]), *inputs)

        return watching

    rules = {name: watched(name, rule) for name, rule in tracer.PRIMITIVES.items()}
    with mock.patch.dict(tracer.PRIMITIVES, rules):
        for fn in functions:
            try:
                trace_call(fn, (zkjax.Private(X), zkjax.Private(K)))
            except zkjax.ZkjaxError:
                continue  # it has read until then
    assert given
    return {name: given[name] - read[name] for name in given}


def test_every_parameter_of_a_primitive_is_read_or_listed():
    functions = [line.function() for lines in FUNCTIONS.values() for line in lines]
    left = {
        name: names - IGNORED.keys() - IGNORED_OF.get(name, {}).keys()
        for name, names in unread(functions).items()
    }
    assert not {name: names for name, names in left.items() if names}


@pytest.mark.parametrize("name", ["precision", "axes"])
def test_a_parameter_that_is_overlooked_is_noticed(name):
    """Of rules that say nothing of how products are computed, or of what is summed."""

    def product(x, k):
        return fixed.encode(jnp.sum(fixed.decode(x, 0) @ fixed.decode(x, 0).T, 0), 0)

    def without(rule):
        def overlooking(t, eqn, *inputs):
            watched, eqn.params = eqn.params, dict(eqn.params)
            result = rule(t, eqn, *inputs)
            for other in watched.keys() - {name}:
                watched[other]
            return result

        return overlooking

    rules = {n: without(tracer.PRIMITIVES[n]) for n in ("dot_general", "reduce_sum")}
    with mock.patch.dict(tracer.PRIMITIVES, rules):
        assert {name} in unread([product]).values()
