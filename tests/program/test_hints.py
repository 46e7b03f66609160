"""What an error tells: the function a user called, its operands' formats, the pass, the cure."""

from __future__ import annotations

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import zkjax
from zkjax import fixed
from zkjax.errors import TraceError, UnsupportedPrimitiveError
from zkjax.program.hints import HINTS, hint
from zkjax.program.origin import public_name
from zkjax.program.tracer import PRIMITIVES, Tracer

X = np.arange(1, 5, dtype=np.int16)


def refusal(fn) -> TraceError:
    with pytest.raises(TraceError) as caught:
        zkjax.trace(lambda x: fixed.encode(fn(fixed.decode(x, 8)), 8))(X)
    return caught.value


@pytest.mark.parametrize(
    ("fn", "function"),
    [
        (lambda v: jnp.interp(v, np.array([0.0, 1.0]), np.array([0.0, 1.0])), "jnp.interp"),
        (lambda v: jax.nn.softmax(v), "jax.nn.softmax"),
        (lambda v: optax.adam(0.125).update(v, optax.adam(0.125).init(v))[0], "scale_by_adam"),
        (lambda v: v / v, "'/'"),
        (lambda v: v.std(), "jnp.std"),
        (lambda v: v[(v[0] * 256.0).astype(jnp.int32)], "x[...]"),
        (lambda v: jax.jit(lambda u: jnp.exp(u))(v), "jnp.exp"),
        (lambda v: jax.vmap(lambda u: jnp.log(u))(v), "jnp.log"),
    ],
)
def test_an_error_names_the_function_that_was_called(fn, function):
    error = refusal(fn)
    assert function in str(error) and "test_hints.py" in error.where
    assert "zkjax.fixed" in str(error)


def test_an_error_gives_the_formats_of_the_operands():
    error = refusal(lambda v: fixed.round(v, 4, 12) / (v * v))
    assert "float64[4] (fraction 4, bits 1" in error.context
    assert "float64[4] (fraction 16, bits 32)" in error.context


def test_an_error_says_whether_it_is_in_the_backward_pass():
    @jax.custom_vjp
    def backwards(u):
        return u

    backwards.defvjp(lambda u: (u, None), lambda _, ct: (jnp.sin(ct),))
    for derivative in (
        jax.grad(lambda u: jnp.max(u)),
        lambda v: jax.vjp(backwards, v)[1](v * 2.0)[0],
    ):
        assert "in the backward pass" in str(refusal(derivative))
    for forward in (jnp.sin, jax.grad(lambda u: jnp.sum(jnp.sin(u)))):
        assert "in the backward pass" not in str(refusal(forward))


@pytest.mark.parametrize(
    ("fn", "cure"),
    [
        (lambda v: v if v[0] > 0 else -v, "jnp.where"),
        (lambda v: v[v > 0.0], "jnp.where"),
        (lambda v: jnp.zeros(int(v[0])) + v, "sizes that are constant"),
        (lambda v: jax.hessian(lambda u: jnp.sum(fixed.round(u * u, 8)))(v), "jax.jacrev"),
        (lambda v: jax.jvp(lambda u: fixed.round(u, 4), (v,), (v,))[1], "jax.jacrev"),
    ],
)
def test_what_jax_cannot_trace_is_an_error_of_ours(fn, cure):
    error = refusal(fn)
    assert cure in str(error) and "test_hints.py" in error.where


def test_what_only_users_do_is_theirs():
    with pytest.raises(TypeError, match="dot_general requires"):
        zkjax.trace(lambda x: fixed.decode(x, 1) @ jnp.ones(3))(X)


def test_names_of_functions_are_those_that_users_write():
    numpy, lax_file = "/lib/jax/_src/numpy/lax_numpy.py", "/lib/jax/_src/lax/lax.py"
    assert public_name(numpy, "interp") == public_name(numpy, "_interp") == "jnp.interp"
    assert public_name(lax_file, "_no_such_thing") == public_name("/home/me/x.py", "interp") == ""
    assert public_name("/lib/jax/_src/numpy/array_methods.py", "_operator_truediv") == "'/'"
    for name in (n for n in HINTS if re.match(r"(jnp|lax|jax)\.", n)):
        path = name.replace("jnp.", "jax.numpy.").replace("lax.", "jax.lax.", 1)
        path = path.replace("jax.jax.", "jax.")
        found = jax
        for part in path.split(".")[1:]:
            found = getattr(found, part, None) or pytest.fail(f"{name} is no function of JAX")


def test_a_name_has_one_hint():
    with pytest.raises(RuntimeError, match="two hints"):
        hint("another sentence", "exp")


def test_code_for_more_than_one_device_is_refused():
    """With one device it is what it computes (see the table of functions)."""
    eqn = SimpleNamespace(
        params={"mesh": SimpleNamespace(size=2)},
        primitive=SimpleNamespace(name="shard_map"),
        outvars=[],
    )
    with pytest.raises(UnsupportedPrimitiveError, match="mesh of one device"):
        PRIMITIVES["shard_map"](Tracer(), eqn)


def test_a_collective_that_gathers_over_one_device():
    mesh = jax.make_mesh((1,), ("d",))
    spec = jax.sharding.PartitionSpec()

    def fn(x):
        def each(v):
            total = lax.psum(v, "d") + lax.pmax(v, "d") * (lax.axis_index("d") + 2.0)
            return lax.all_gather(total, "d")[0]

        run = jax.shard_map(each, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        return fixed.encode(run(fixed.decode(x, 4)), 4)

    outputs, proof = zkjax.prove(fn)(zkjax.seal(X, openings=1))
    assert np.array_equal(outputs, 3 * X)
    assert zkjax.provable(fn)(X) is not None and proof
