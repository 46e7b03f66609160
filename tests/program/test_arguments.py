"""Every public signature, each argument in turn, times bad values: nothing but a ``ZkjaxError`` (or
Python's TypeError for a wrong call) leaves the library, and it names what is wrong.

Signatures are found, not listed: a new public function fails here until ``EXAMPLES`` has a good
call of it.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zkjax
from zkjax import fixed
from zkjax._compat import x64
from zkjax.models.config import Gpt2Config, LlamaConfig, config_to_json
from zkjax.models.hyperparameters import OptimizerConfig
from zkjax.program.tables import Table, step_table

X = np.array([[3, -7], [5, 2]], np.int8)
V = X * 0.0625
HOME = Path(__file__)
FOLDER = Path(tempfile.mkdtemp())


MODULES = ("zkjax", "zkjax.fixed", "zkjax.models.config", "zkjax.models.hyperparameters")


class Odd:
    """Something no library has seen."""

    def __repr__(self) -> str:
        return "Odd()"


BAD: dict[str, Any] = {
    "None": None,
    "True": True,
    "0": 0,
    "-1": -1,
    "3": 3,
    "63": 63,
    "2**31": 2**31,
    "10**30": 10**30,
    "-10**30": -(10**30),
    "0.5": 0.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "1j": 1j,
    "''": "",
    "text": "no such/thing",  # nor the folder: nothing is written
    "a NUL": "a\0b",
    "bytes": b"\xff\x00",
    "()": (),
    "a tuple": (1, "x"),
    "[]": [],
    "lists": [[1, 2], [3]],
    "{}": {},
    "a dictionary": {"x": 1},
    "a set": {1, 2},
    "a generator": (i for i in range(2)),
    "a function": lambda *_: None,
    "a class": int,
    "an object": Odd(),
    "floats": np.array([0.5, np.nan, np.inf]),
    "wide integers": np.array([[2**60]]),
    "no elements": np.zeros((0, 3), np.int8),
    "a scalar": np.float64(2.5),
    "texts": np.array(["a", "b"]),
    "objects": np.array([None, {}], object),
    "complex numbers": np.array([1j]),
    "times": np.array(["2020-01-01"], "datetime64[D]"),
    "other bytes": np.array([1, 2], ">i4"),
    "a path": Path("/no/such/folder/file"),
}


@cache
def bad() -> dict[str, Any]:
    """With an array of JAX, which an import shall not make: it would start a backend."""
    return BAD | {"float32": jnp.ones(3, jnp.float32)}


def score(x):
    return fixed.encode(fixed.decode(x, 4) * 2.0, 4)


@cache
def sealed():
    return zkjax.seal(X, openings=8)


@cache
def proved():
    return zkjax.prove(score)(X)


@cache
def statement():
    return zkjax.trace(score)(X)


def proof():
    return proved()[1]


def saved(name: str, write: Callable[[Path], None]) -> Path:
    path = FOLDER / name
    if not path.exists():
        write(path)
    return path


def new_file() -> Path:
    return Path(tempfile.mkdtemp(dir=FOLDER)) / "new"


@cache
def keys() -> Table:
    low = np.arange(-256, 256)
    return Table("squares", (low, low**2))


@cache
def steps() -> Table:
    return step_table("steps", np.array([0, 4, 9]), 99, np.array([1, 2, 3]))


# A good call of every public signature: {name: (the function, its arguments)}. What is not named
# keeps its default.
EXAMPLES: dict[str, Callable[[], dict[str, Any]]] = {
    "zkjax.Claims": lambda: vars(proof().claims).copy(),
    "zkjax.Claims.from_json": lambda: {"text": proof().claims.to_json()},
    "zkjax.Commitment": lambda: {
        "root": bytes(32), "shapes": ((2,),), "dtypes": ("int8",), "openings": 1, "profile": "s100"
    },
    "zkjax.Commitment.from_json": lambda: {"data": sealed().commitment.to_json()},
    "zkjax.Commitment.like": lambda: {"self": sealed().commitment, "example": X},
    "zkjax.Private": lambda: {"tree": X},
    "zkjax.Proof": lambda: {"claims": proof().claims, "body": proof().body},
    "zkjax.Proof.decode": lambda: {"data": proof().encode(), "claims": proof().claims},
    "zkjax.Proof.save": lambda: {"self": proof(), "path": new_file()},
    "zkjax.Sealed": lambda: {
        "leaves": sealed().leaves, "treedef": sealed().treedef, "commitment": sealed().commitment,
        "tableau": sealed().tableau, "counter": sealed().counter,
    },
    "zkjax.Sealed.from_secrets": lambda: {
        "tree": X, "commitment": sealed().commitment, "secrets": b"", "folder": str(FOLDER)
    },
    "zkjax.Sealed.load": lambda: {"path": saved("sealed", zkjax.seal(X).save), "like": X},
    "zkjax.Sealed.save": lambda: {"self": zkjax.seal(X), "path": new_file()},
    "zkjax.Sealed.secrets_size": lambda: {"commitment": sealed().commitment},
    "zkjax.Sealed.with_structure": lambda: {"self": zkjax.seal(X), "treedef": sealed().treedef},
    "zkjax.Statement": lambda: {"program": statement().program},
    "zkjax.Statement.decode": lambda: {"data": statement().encode()},
    "zkjax.Statement.group_ports": lambda: {
        "self": statement(), "ports": statement().program.inputs
    },
    "zkjax.Statement.load": lambda: {"path": saved("statement", statement().save)},
    "zkjax.Statement.save": lambda: {"self": statement(), "path": new_file()},
    "zkjax.check": lambda: {"fn": score},
    "zkjax.provable": lambda: {"fn": score},
    "zkjax.prove": lambda: {"fn": score},
    "zkjax.seal": lambda: {"tree": X},
    "zkjax.trace": lambda: {"fn": score},
    "zkjax.verify": lambda: {"statement": score},
    "zkjax.fixed.Format": lambda: {"fraction": 4, "bits": 16},
    "zkjax.fixed.Scale": lambda: {"factor": 2.0, "inverse": 0.5},
    "zkjax.fixed.argmax": lambda: {"x": V},
    "zkjax.fixed.constant": lambda: {"value": 0.1, "fraction": 8},
    "zkjax.fixed.cotangent_format": lambda: {"fraction": 8, "bits": 16},
    "zkjax.fixed.cross_entropy": lambda: {"logits": V, "target": np.array([0, 1]), "fraction": 4},
    "zkjax.fixed.decode": lambda: {"stored": X, "fraction": 4},
    "zkjax.fixed.divide": lambda: {"n": V, "d": V * V + 1.0, "fraction": 8},
    "zkjax.fixed.embed": lambda: {"table": V, "index": np.array([0, 1])},
    "zkjax.fixed.encode": lambda: {"x": V, "fraction": 4},
    "zkjax.fixed.exp": lambda: {"x": -V * V, "fraction": 8},
    "zkjax.fixed.gelu": lambda: {"x": V * 0.0, "fraction": 0},
    "zkjax.fixed.inverse_rms": lambda: {
        "x": V, "in_fraction": 4, "eps": 0.25, "form": fixed.Format(12, 16)
    },
    "zkjax.fixed.locate": lambda: {
        "x": V + 1.0, "table": steps(), "in_fraction": 4, "out_fractions": (0,)
    },
    "zkjax.fixed.log": lambda: {"x": V * V + 1.0, "fraction": 8},
    "zkjax.fixed.lookup": lambda: {
        "x": V, "table": keys(), "in_fraction": 4, "out_fractions": (8,)
    },
    "zkjax.fixed.max": lambda: {"x": V},
    "zkjax.fixed.onehot": lambda: {"index": np.array([0, 1]), "n": 2},
    "zkjax.fixed.quantize": lambda: {"values": V, "fraction": 4},
    "zkjax.fixed.reciprocal": lambda: {"x": V * V + 1.0, "fraction": 8},
    "zkjax.fixed.relu": lambda: {"x": V},
    "zkjax.fixed.rms_normalize": lambda: {
        "x": V, "eps": 0.25, "statistic": fixed.Format(4, 16), "inverse": fixed.Format(12, 16),
        "out": fixed.Format(12, 16),
    },
    "zkjax.fixed.round": lambda: {"x": V, "fraction": 2},
    "zkjax.fixed.round_cotangent": lambda: {"x": V, "fraction": 2},
    "zkjax.fixed.scale": lambda: {"x": V, "factor": 0.3, "fraction": 4},
    "zkjax.fixed.round_value": lambda: {"x": V, "fraction": 2},
    "zkjax.fixed.rsqrt": lambda: {"x": V * V + 1.0, "fraction": 8},
    "zkjax.fixed.sigmoid": lambda: {"x": V * 0.0, "fraction": 0},
    "zkjax.fixed.significant": lambda: {"value": 0.1},
    "zkjax.fixed.silu": lambda: {"x": V * 0.0, "fraction": 0},
    "zkjax.fixed.softmax": lambda: {"x": V, "fraction": 4},
    "zkjax.fixed.sqrt": lambda: {"x": V * V, "fraction": 8},
    "zkjax.fixed.table": lambda: {
        "function": np.cosh, "fraction": 4, "out_fraction": 4, "low": -2.0, "high": 2.0
    },
    "zkjax.fixed.tanh": lambda: {"x": V * 0.0, "fraction": 0},
    "zkjax.models.config.DynamicRope": lambda: {"max_position_embeddings": 64},
    "zkjax.models.config.Gpt2Config": lambda: {},
    "zkjax.models.config.config_from_json": lambda: {"told": config_to_json(LlamaConfig())},
    "zkjax.models.config.config_to_json": lambda: {"config": LlamaConfig()},
    "zkjax.models.config.LinearRope": lambda: {"factor": 2.0},
    "zkjax.models.hyperparameters.OptimizerConfig": lambda: {},
    "zkjax.models.hyperparameters.hyperparameters": lambda: {
        "config": OptimizerConfig("adamw"), "step": 3
    },
    "zkjax.models.config.LlamaConfig": lambda: {},
    "zkjax.models.config.LlamaConfig.has_bias": lambda: {
        "self": LlamaConfig(), "target": "q_proj"
    },
    "zkjax.models.config.ModelConfig.module_path": lambda: {
        "self": Gpt2Config(), "layer": 0, "target": "c_fc"
    },
    "zkjax.models.config.ModelConfig.projection_shape": lambda: {
        "self": LlamaConfig(), "target": "q_proj"
    },
    "zkjax.models.config.LoraConfig": lambda: {},
    "zkjax.models.config.RopeScaling": lambda: {},
    "zkjax.models.config.YarnRope": lambda: {
        "factor": 2.0, "original_max_position_embeddings": 64, "attention_factor": 1.0
    },
}  # fmt: skip
# The functions that transformations give.
CALLS: dict[str, tuple[Callable, Callable[[], dict[str, Any]]]] = {
    "zkjax.prove(fn)": (lambda x: zkjax.prove(score)(x), lambda: {"x": X}),
    "zkjax.trace(fn)": (lambda x: zkjax.trace(score)(x), lambda: {"x": X}),
    "zkjax.provable(fn)": (lambda x: zkjax.provable(score)(x), lambda: {"x": X}),
    "zkjax.verify(fn)": (
        lambda x, proof: zkjax.verify(score)(x, proof=proof),
        lambda: {"x": X, "proof": proof()},
    ),
    "zkjax.verify(statement)": (
        lambda x, proof: zkjax.verify(statement())(x, proof=proof),
        lambda: {"x": X, "proof": proof()},
    ),
    "zkjax.fixed.table(...)": (
        lambda x: fixed.table(np.cosh, 4, 4, low=-2.0, high=2.0)(x),
        lambda: {"x": V},
    ),
}


def public(module) -> Iterator[tuple[str, Any]]:
    """Names and objects of what a module says is public."""
    for name in module.__all__:
        yield f"{module.__name__}.{name}", getattr(module, name)


def functions() -> Iterator[tuple[str, Callable]]:
    """Every public function, class and public method that takes an argument."""
    for module in map(importlib.import_module, MODULES):
        for name, found in public(module):
            if inspect.ismodule(found):
                found = getattr(found, name.rpartition(".")[2], found)
            if inspect.ismodule(found):
                continue
            if inspect.isclass(found) and not issubclass(found, Exception):
                yield name, found
                for method in vars(found):
                    member = getattr(found, method)
                    if not method.startswith("_") and (
                        inspect.isfunction(member) or inspect.ismethod(member)
                    ):
                        yield f"{name}.{method}", member
            elif inspect.isroutine(found):
                yield name, found


def parameters(fn: Callable) -> list[str]:
    """Those that can be given, but for private ones."""
    given = inspect.signature(fn).parameters.values()
    kinds = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return [p.name for p in given if p.kind not in kinds and not p.name.startswith("_")]


FOUND = {name: fn for name, fn in functions() if set(parameters(fn)) - {"self"}}
ALL = {**FOUND, **{name: fn for name, (fn, _) in CALLS.items()}}
CASES = [(name, p) for name, fn in ALL.items() for p in parameters(fn) if p != "self"]


def example(name: str) -> dict[str, Any]:
    return (CALLS[name][1] if name in CALLS else EXAMPLES[name])()


def test_every_signature_has_a_good_call():
    assert set(FOUND) == set(EXAMPLES)
    assert len(bad()) >= 30


def call(name: str, arguments: dict[str, Any]) -> Any:
    """By position as far as the parameters can be given so."""
    fn = ALL[name]
    if not name.startswith("zkjax.fixed."):
        made = fn(**arguments)
        return made(X) if name in ("zkjax.trace", "zkjax.provable") else made
    # Traced, not computed: whatever the numbers are, nothing has to be compiled.
    arrays = {n: a for n, a in arguments.items() if is_array_of_numbers(a)}
    rest = {n: a for n, a in arguments.items() if n not in arrays}

    def traced(arrays):
        made = fn(**rest, **arrays)
        with made if name == "zkjax.fixed.cotangent_format" else contextlib.nullcontext():
            return made if is_array_of_numbers(made) else None

    with x64():
        if name in HOST:
            return fn(**arguments)
        return jax.eval_shape(traced, arrays)


HOST = {f"zkjax.fixed.{name}" for name in ("constant", "quantize", "significant", "table")}


def is_array_of_numbers(value: Any) -> bool:
    arrays = isinstance(value, np.ndarray | np.generic | jax.Array)
    return arrays and value.dtype.kind in "biuf" and value.dtype.isnative


@pytest.mark.parametrize("name", [n for n in ALL if n != "zkjax.Sealed.from_secrets"])
def test_the_good_call_is_good(name):
    call(name, example(name))


@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_bad_values_are_refused_by_a_sentence(name, parameter):
    wrong = []
    warnings.simplefilter("ignore")
    for told, value in bad().items():
        arguments = {**example(name), parameter: value}
        try:
            call(name, arguments)
        except zkjax.ZkjaxError as error:
            text = str(error)
            if len(text.split()) < 3 or "internal" in text:
                wrong.append(f"{told}: says {text!r}")
        except OSError as error:  # the operating system's word on a file
            if not error.filename:
                wrong.append(f"{told}: {type(error).__name__}: {error}")
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            if isinstance(error, TypeError) and Path(last.filename) == HOME:
                continue  # Python's, for a wrong call
            place = f"{Path(last.filename).name}:{last.lineno}"
            wrong.append(f"{told}: {type(error).__name__} at {place}: {str(error)[:100]}")
    assert not wrong, "\n".join(wrong)
