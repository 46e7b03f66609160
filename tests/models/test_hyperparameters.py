"""Schedules and bias corrections: optax's, correctly rounded, without JAX, refused by name."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import optax
import pytest

from zkjax._compat import x64
from zkjax.errors import OptionError
from zkjax.models.hyperparameters import (
    CORRECTION_FRACTION,
    EPS_FRACTION,
    OptimizerConfig,
    hyperparameters,
    learning_rate,
)
from zkjax.proofs.finetune import store_rate

PEAK = 3e-3


def of_optax(schedule: str, warmup: int, total: int) -> optax.Schedule:
    """The same schedule in optax's own functions."""
    rest = {
        "constant": optax.constant_schedule(PEAK),
        "linear": optax.linear_schedule(PEAK, 0.0, total - warmup),
        "cosine": optax.cosine_decay_schedule(PEAK, total - warmup),
    }[schedule]
    if not warmup:
        return rest
    return optax.join_schedules([optax.linear_schedule(0.0, PEAK, warmup), rest], [warmup])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_schedules_are_those_of_optax(schedule, warmup):
    total = 60
    config = OptimizerConfig("sgd", PEAK, schedule, warmup, total)
    theirs = of_optax(schedule, warmup, total)
    with x64():
        for step in range(total + 5):
            rate, stored = float(theirs(step)), hyperparameters(config, step)["learning_rate"]
            assert abs(float(learning_rate(config, step)) - rate) <= 1e-6 * PEAK
            unit = 2.0**-config.rate_fraction
            assert stored.dtype == np.uint16 and abs(stored * unit - rate) <= 0.51 * unit


def test_warm_up_and_cosine_together_are_optax_own_schedule():
    config = OptimizerConfig("sgd", PEAK, "cosine", 10, 50)
    theirs = optax.warmup_cosine_decay_schedule(0.0, PEAK, 10, 50)
    for step in range(51):
        assert abs(float(learning_rate(config, step)) - float(theirs(step))) <= 1e-6 * PEAK


@pytest.mark.parametrize(("b1", "b2"), [(0.9, 0.999), (0.9, 0.95), (0.0, 0.5), (0.8, 0.9999)])
def test_corrections_are_correctly_rounded(b1, b2):
    """Against exact fractions: |sqrt(a) / b 2^f - u| <= 1/2, by squares."""
    config = OptimizerConfig("adamw", 1e-3, b1=b1, b2=b2, eps=1e-6)
    first, second = (Fraction(config.factors[name]) for name in ("b1", "b2"))
    for step in [*range(40), 99, 400]:
        a, b = 1 - second ** (step + 1), 1 - first ** (step + 1)
        found = hyperparameters(config, step)
        for units, square in (
            (found["bias_correction"], a / b**2 * 4**CORRECTION_FRACTION),
            (found["eps"], a * (Fraction(1e-6) * 2 ** (24 + EPS_FRACTION)) ** 2),
        ):
            u = int(units)
            assert (2 * u - 1) ** 2 <= 4 * square < (2 * u + 1) ** 2
        assert found["bias_correction"] < 1 << 16


@pytest.mark.parametrize("rate", [1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 0.01, 0.05, 0.0625, 0.1, 0.5, 1.0])
def test_rates_from_a_millionth_to_one_are_held(rate):
    config = OptimizerConfig("sgd", rate)
    stored = int(hyperparameters(config, 0)["learning_rate"])
    assert abs(stored * 2.0**-config.rate_fraction / rate - 1) < 2.0**-10


def test_a_rate_of_the_demo_s_step_is_held_or_refused():
    assert store_rate(0.0) == 0 and store_rate(0.1) == 1638 and store_rate(3.99) == 65372
    for rate in (1e-6, 1e-4, 0.001):
        with pytest.raises(OptionError, match=rf"learning_rate = {rate} is held by 14.*9\.5e-07"):
            store_rate(rate)
    for rate in (-0.1, 4.0, float("nan")):
        with pytest.raises(OptionError, match=r"learning_rate = .*from 0 to 3\.99"):
            store_rate(rate)


def test_b1_and_b2_are_close_to_what_was_asked_for():
    factors = OptimizerConfig("adamw", b1=0.9, b2=0.999, weight_decay=0.01).factors
    for name, value in (("b1", 0.9), ("b2", 0.999)):
        assert abs((1 - factors[name]) / (1 - value) - 1) <= 2.0**-12
    assert abs(factors["weight_decay"] / 0.01 - 1) <= 2.0**-12


REFUSED = {
    "a rate that is too small": ({"learning_rate": 1e-7}, "learning_rate = 1e-07.*9.5"),
    "a rate that is too large": ({"learning_rate": 4.0}, r"learning_rate = 4\.0.*3\.99"),
    "another optimizer": ({"name": "rmsprop"}, "name = 'rmsprop'; it is one of 'sgd', 'adamw'"),
    "another schedule": ({"schedule": "step"}, "one of 'constant', 'linear', 'cosine'"),
    "no end": ({"schedule": "cosine", "warmup_steps": 5, "total_steps": 5}, "total_steps = 5"),
    "negative steps": ({"warmup_steps": -1}, "warmup_steps = -1"),
    "momentum of adamw": ({"name": "adamw", "momentum": 0.9}, "momentum is of sgd"),
    "nesterov alone": ({"nesterov": True}, "nesterov needs a momentum"),
    "momentum of one": ({"momentum": 1.0}, "momentum = 1.0 is at most"),
    "b2 of one": ({"name": "adamw", "b2": 1.0}, r"b2 = 1.0 is from 0\.5"),
    "b1 above b2": ({"name": "adamw", "b1": 0.99, "b2": 0.9}, "b1 = 0.99, b2 = 0.9"),
    "a tiny decay": ({"weight_decay": 1e-9}, "weight_decay = 1e-09 is 0 or from"),
    "a norm of zero": ({"max_grad_norm": 0.0}, "max_grad_norm = 0.0"),
    "no micro-batches": ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps = 0"),
    "a text": ({"learning_rate": "1e-3"}, "learning_rate = '1e-3'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_configuration_refuses(name):
    settings, told = REFUSED[name]
    with pytest.raises(OptionError, match=told):
        OptimizerConfig(**settings)


def test_an_eps_that_the_format_does_not_hold_is_refused():
    for eps in (0.0, 1e-10):
        config = OptimizerConfig("adamw", eps=eps)
        with pytest.raises(OptionError, match="eps = "):
            hyperparameters(config, 0)
    assert hyperparameters(OptimizerConfig("adamw", eps=1e-10), 0, 32)["eps"] > 0


def test_whoever_verifies_needs_no_jax():
    """The module and its numbers in a process that cannot import JAX."""
    code = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jax", "jaxlib", "optax", "flax"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
from zkjax.models.hyperparameters import OptimizerConfig, hyperparameters
config = OptimizerConfig("adamw", 2e-3, "cosine", 10, 200)
print([int(x) for step in (0, 10, 77) for x in hyperparameters(config, step).values()])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    config = OptimizerConfig("adamw", 2e-3, "cosine", 10, 200)
    ours = [int(x) for step in (0, 10, 77) for x in hyperparameters(config, step).values()]
    assert ran.stdout.strip() == str(ours)
