"""Kernels are foreseen, and do not depend on sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zkjax
from zkjax import fixed, prove
from zkjax.argument import kernels
from zkjax.argument.kernels import Kernel, Use


def product(x, w):
    """A contraction, rounded: lookups, product rounds and the opening."""
    y = fixed.decode(x, 6) @ fixed.decode(w, 6)
    return fixed.encode(fixed.round(y, fraction=6, bits=16), 6, "int16")


def chosen(table, index):
    """Rows by private numbers: selections are products of many factors."""
    return fixed.encode(fixed.embed(fixed.decode(table, 6), index), 6, "int8")


def values(*shape: int) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 7).reshape(shape).astype(np.int8)


CALLS = {
    "small": (product, values(3, 4), values(4, 2)),
    "large": (product, values(64, 32), values(32, 64)),
    "onehot": (chosen, values(32, 4), values(6)),
}


@pytest.fixture
def proof_uses(monkeypatch):
    """The kernels that a proof was said to need, and those that it used."""

    def run(fn, *args):
        said = []
        needed = prove.needed
        monkeypatch.setattr(prove, "needed", lambda setup: said.extend(needed(setup)) or said)
        sealed = [zkjax.seal(a, openings=1) for a in args]
        kernels.reset()
        zkjax.prove(fn)(*sealed)
        monkeypatch.setattr(prove, "needed", needed)
        return set(said), kernels.uses()

    return run


@pytest.mark.parametrize("name", CALLS)
def test_what_a_proof_uses_is_foreseen(name, proof_uses):
    said, used = proof_uses(*CALLS[name])
    assert used and used <= said
    # What is compiled in vain is at most the large pieces of some sumchecks.
    assert len(said - used) <= 6, [(u.kernel, u.arguments) for u in said - used]


def test_kernels_of_larger_tables_are_the_same(proof_uses):
    """But for the code lengths, and the one step to large pieces."""
    shapes = []
    for rows in (64, 128):
        _, used = proof_uses(product, values(rows, 32), values(32, 64))
        shapes.append({u for u in used if u.kernel.name not in ("encode", "hash columns")})
    assert shapes[0] == shapes[1]


def test_compiled_once_and_counted():
    kernel = Kernel("double", lambda: lambda x: x + x)
    uses = [Use(kernel, (((n,), "uint64"),)) for n in (3, 5, 3)]
    told = []
    kernels.compile_ahead(uses, lambda *args: told.append(args))
    assert told == [("double", 1, 2), ("double", 2, 2)]
    assert kernels.missing(uses) == 0
    kernels.compile_ahead(uses, lambda *args: pytest.fail("compiled again"))
    compiled = kernel._compiled._cache_size()
    assert compiled == 2
    # The call it was compiled for finds it.
    assert np.asarray(kernel(np.full(5, 2**63, dtype=np.uint64))).tolist() == [0] * 5
    assert kernel._compiled._cache_size() == compiled
    assert jnp.asarray(1).dtype != np.int64  # the 64-bit scope has not leaked


@pytest.fixture
def no_cache_yet():
    """JAX's configuration as it is before anything has asked for a cache; restored afterwards."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def cache_dir() -> str | None:
    return jax.config.values["jax_compilation_cache_dir"]


def test_compiled_kernels_are_kept(no_cache_yet, monkeypatch, tmp_path):
    monkeypatch.setenv("ZKJAX_CACHE", str(tmp_path / "kept"))
    zkjax.seal(values(2), openings=1)  # kernels that are there already ask for nothing
    Kernel("negative", lambda: lambda x: -x)(values(2))
    assert cache_dir() == str(tmp_path / "kept" / "kernels")
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700


def test_no_cache_if_it_is_off_or_cannot_be_written(no_cache_yet, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    for off in ("off", str(tmp_path / "file" / "below")):
        monkeypatch.setenv("ZKJAX_CACHE", off)
        zkjax.enable_kernel_cache()
        assert cache_dir() is None


def test_a_cache_of_the_user_stays(no_cache_yet, monkeypatch, tmp_path):
    monkeypatch.setenv("ZKJAX_CACHE", str(tmp_path / "kept"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    zkjax.enable_kernel_cache()
    assert cache_dir() == str(tmp_path / "mine") and not (tmp_path / "kept").exists()
