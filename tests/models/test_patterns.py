"""Expressions without backtracking find what ``re`` finds, and no expression takes long."""

from __future__ import annotations

import random
import re

import pytest

from zkjax.models.patterns import Budget, Pattern, PatternError

ATOMS = [
    *("a", "b", ".", "_", "1", "{", "}", "^", "$", "é", r"\.", r"\d", r"\w", r"\W", r"\S", r"\b"),
    *(
        r"\B",
        r"\A",
        r"\Z",
        "[ab]",
        "[^a.]",
        "[a-z_]",
        "[]a]",
        "[a-]",
        "[-a]",
        "[a-c-e]",
        "[b-b]",
        r"[\d_]",
    ),
    *("(a|b)", "(?:ab|)", "(?=a)", "(?!b)", "(?=.*1)", "(?P<x>a)", "a{2}"),
]
TIMES = [
    "*",
    "+",
    "?",
    "{2}",
    "{1,2}",
    "{,2}",
    "{1,}",
    "*?",
    "+?",
    "??",
    "{0}",
    "{,}",
    "{2,1}",
    "{}",
]


def drawn(rng: random.Random, depth: int) -> str:
    kind = rng.randrange(6)
    if depth == 0 or kind < 2:
        return rng.choice(ATOMS)
    one = drawn(rng, depth - 1)
    if kind == 2:
        return one + drawn(rng, depth - 1)
    if kind == 3:
        return f"(?:{one}|{drawn(rng, depth - 1)})"
    return (f"({one})" if kind == 4 else one) + rng.choice(TIMES)


def test_what_re_finds_is_found():
    """Random expressions on random texts, from the start and as a whole."""
    rng, taken, found = random.Random(5), 0, 0
    for _ in range(6000):
        text = drawn(rng, 3)
        try:
            expected = re.compile(text)
        except re.error:
            with pytest.raises(PatternError):
                Pattern(text, Budget(10**6))
            continue
        try:
            pattern, taken = Pattern(text, Budget(10**6)), taken + 1
        except PatternError as error:
            assert "one repetition follows another" in str(error)  # since 3.11 it may, as "a*+"
            continue
        for _ in range(6):
            name = "".join(rng.choice("ab._1") for _ in range(rng.randrange(1, 8)))
            whole = bool(expected.fullmatch(name))
            assert pattern.matches(name) == whole, (text, name)
            assert pattern.matches(name, whole=False) == bool(expected.match(name)), (text, name)
            found += whole
    assert taken > 3000 and found > 1000


REFUSED = {
    r"(a)\1": r"the escape \\1",
    r"(?<=a)b": "a group of the kind",
    r"(?<!a)b": "a group of the kind",
    "(?>a)b": "a group of the kind",
    "(?i:a)": "a group of the kind",
    "(?i)a": "a group of the kind",
    "(?P=x)": "a group of the kind",
    "(?P<x>a)(?P<x>b)": "redefinition",
    "a*+": "one repetition follows another",
    "a**": "one repetition follows another",
    "*a": "repeats nothing",
    "^*": "repeats nothing",
    "(a": "ends too early",
    "a)": "closes nothing",
    "[a": "ends too early",
    "[z-a]": "a range",
    "[[:alpha:]]": "a class within a class",
    "[a--b]": "a range|a class within a class",
    "\\": "ends too early",
    r"\p": r"the escape \\p",
    "(" * 40 + ")" * 40: "nested",
    "(((.{9}){9}){9}){9}": "states",
    "a" * 5000: "longer",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_taken_is_named(text):
    with pytest.raises(PatternError, match=REFUSED[text]):
        Pattern(text, Budget(10**6))


@pytest.mark.parametrize(
    "text", ["(a+)+$", "(.*)*(.*)*x", "((a|a)*)*b", "(a|aa)+$", "(.*.*.*)*!", "(a?){30}a{30}!"]
)
def test_what_takes_re_for_ever_takes_few_steps(text):
    """Steps grow with the length of the name, not with 2 to its power."""
    steps = []
    for length in (100, 200):
        budget = Budget(10**6)
        pattern = Pattern(text, budget)
        before = budget.left
        pattern.matches("a" * length + "?")
        steps.append(before - budget.left)
    assert steps[1] < 3 * steps[0] < 30_000


def test_a_budget_ends():
    budget = Budget(20_000)
    with pytest.raises(PatternError, match="too long"):
        Pattern("(?=.*x.*y)?" * 40, budget).matches("a" * 200)
