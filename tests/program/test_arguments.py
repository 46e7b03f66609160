"""Every argument of ``zkjax`` and ``zkjax.fixed``, times bad values (``arguments``)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from arguments import FOLDER, Calls, Example, new_path, saved

import zkjax
from zkjax import fixed
from zkjax._compat import x64
from zkjax.program.tables import Table, step_table

X = np.array([[3, -7], [5, 2]], np.int8)
V = X * 0.0625
MODULES = ("zkjax", "zkjax.fixed")


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


@cache
def keys() -> Table:
    low = np.arange(-256, 256)
    return Table("squares", (low, low**2))


@cache
def steps() -> Table:
    return step_table("steps", np.array([0, 4, 9]), 99, np.array([1, 2, 3]))


EXAMPLES: dict[str, Example] = {
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
    "zkjax.Proof.save": lambda: {"self": proof(), "path": new_path()},
    "zkjax.Sealed": lambda: {
        "leaves": sealed().leaves, "treedef": sealed().treedef, "commitment": sealed().commitment,
        "tableau": sealed().tableau, "counter": sealed().counter,
    },
    "zkjax.Sealed.from_secrets": lambda: {
        "tree": X, "commitment": sealed().commitment, "secrets": b"", "folder": str(FOLDER)
    },
    "zkjax.Sealed.load": lambda: {"path": saved("sealed", zkjax.seal(X).save), "like": X},
    "zkjax.Sealed.save": lambda: {"self": zkjax.seal(X), "path": new_path()},
    "zkjax.Sealed.secrets_size": lambda: {"commitment": sealed().commitment},
    "zkjax.Sealed.with_structure": lambda: {"self": zkjax.seal(X), "treedef": sealed().treedef},
    "zkjax.Statement": lambda: {"program": statement().program},
    "zkjax.Statement.decode": lambda: {"data": statement().encode()},
    "zkjax.Statement.group_ports": lambda: {
        "self": statement(), "ports": statement().program.inputs
    },
    "zkjax.Statement.load": lambda: {"path": saved("statement", statement().save)},
    "zkjax.Statement.save": lambda: {"self": statement(), "path": new_path()},
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
}  # fmt: skip
# The functions that transformations give.
MADE: dict[str, tuple[Callable, Example]] = {
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


def is_array_of_numbers(value: Any) -> bool:
    arrays = isinstance(value, np.ndarray | np.generic | jax.Array)
    return arrays and value.dtype.kind in "biuf" and value.dtype.isnative


HOST = {f"zkjax.fixed.{name}" for name in ("constant", "quantize", "significant", "table")}


def call(name: str, fn: Callable, arguments: dict[str, Any]) -> Any:
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


CALLS = Calls(MODULES, EXAMPLES, MADE, call=call)


def test_every_signature_has_a_good_call():
    CALLS.require_examples()


@pytest.mark.parametrize("name", [n for n in CALLS.all if n != "zkjax.Sealed.from_secrets"])
def test_the_good_call_is_good(name):
    CALLS.call(name)


@pytest.mark.parametrize(("name", "parameter"), CALLS.cases)
def test_bad_values_are_refused_by_a_sentence(name, parameter):
    CALLS.require_refusals(name, parameter)
