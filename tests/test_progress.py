"""How far a call is: numbers, seconds, an estimate that learns, calls inside of calls."""

from __future__ import annotations

import numpy as np

import zkjax
from zkjax import fixed
from zkjax.progress import TRUST, Course, Stage


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def course(expected, told):
    clock = Clock()
    return Course(expected, told.append, clock), clock


def test_stages_are_numbered_and_timed():
    told: list[Stage] = []
    run, clock = course({"a": 1.0, "b": 2.0, "c": 3.0}, told)
    for name, seconds in (("a", 2.0), ("b", 4.0), ("c", 6.0)):
        run.start(name)
        clock.now += seconds
    run.stop()
    assert [(str(s), s.number, s.of, s.elapsed) for s in told] == [
        ("a", 1, 3, 0.0),
        ("b", 2, 3, 2.0),
        ("c", 3, 3, 6.0),
    ]
    assert run.seconds == {"a": 2.0, "b": 4.0, "c": 6.0}


def test_the_estimate_learns_how_fast_the_machine_is():
    told: list[Stage] = []
    run, clock = course({"a": 10.0, "b": 20.0}, told)
    run.start("a")
    clock.now += 40.0  # four times what was expected
    run.start("b")
    assert told[0].left == 30.0
    assert told[1].left == 20.0 * (40.0 + TRUST) / (10.0 + TRUST)
    run.expect({"b": 2.0})
    run.part(3, 4, "long parts", 0.5)
    assert str(told[-1]) == "b 3 of 4: long parts"
    assert told[-1].left == 1.0 * (40.0 + TRUST) / (10.0 + TRUST)
    run.part(1, 2, "half")
    assert str(told[-1]) == "b 1 of 2: half"
    assert told[-1].left == 1.0 * (40.0 + TRUST) / (10.0 + TRUST)


def test_a_call_inside_a_stage_tells_its_own():
    told: list[Stage] = []
    outer, _ = course({"outer": 5.0, "after": 3.0}, told)
    outer.start("outer")
    inner = Course({"x": 7.0, "y": 1.0}, outer.inner, Clock())
    inner.start("x")
    assert str(told[-1]) == "outer: x"
    assert (told[-1].number, told[-1].of) == (1, 2)
    assert told[-1].left == 8.0 + 3.0


def test_a_stage_that_was_not_foreseen():
    told: list[Stage] = []
    run, _ = course({"a": 1.0}, told)
    run.start("b")
    assert (told[-1].number, told[-1].of, told[-1].left) == (2, 2, 1.0)


def test_a_proof_tells_its_stages():
    told: list[Stage] = []

    def halved(x):
        return fixed.encode(fixed.round(fixed.decode(x, 0) * 0.5, 0, 8), 0)

    _, proof = zkjax.prove(halved, progress=told.append)(np.arange(4, dtype=np.int8))
    layers = [s for s in told if s.startswith("lookups ")]
    assert [int(s.split()[1]) for s in layers] == list(range(len(layers))) and len(layers) > 5
    assert [s.left for s in layers] == sorted((s.left for s in layers), reverse=True)
    numbers = [s.number for s in told]
    assert numbers == sorted(numbers) and {s.of for s in told} == {told[0].of}
    assert told[-1] == "opening" and told[-1].number == told[-1].of
    assert all(s.elapsed >= 0 and s.left >= 0 for s in told)
    assert list(proof.report["phases"]) == [s for s in dict.fromkeys(told) if " of " not in s]
