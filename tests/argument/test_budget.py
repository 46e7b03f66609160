"""The soundness budget against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from reference import P

from zkjax.argument.budget import (
    PROFILES,
    Budget,
    Profile,
    choose_code,
    grinding_bits,
    profile_named,
    queries_for,
    query_error_bits,
)
from zkjax.argument.code import Code
from zkjax.errors import VerificationError

S100, S128 = PROFILES["s100"], PROFILES["s128"]


def exact_error(n: int, k: int, t: int) -> Fraction:
    return Fraction(math.comb((n + k) // 2, t) + math.comb(2 * k - 2, t), math.comb(n, t))


def minus_log2(x: Fraction) -> float:
    return math.log2(x.denominator) - math.log2(x.numerator)


@pytest.mark.parametrize(
    ("n", "k", "t"),
    [
        (8, 2, 1),
        (16, 4, 3),
        (64, 17, 20),
        (64, 16, 40),
        (256, 65, 100),
        (1024, 256, 148),
        (4096, 1173, 160),
        (65536, 16384, 148),
    ],
)
def test_query_error_is_the_exact_fraction(n, k, t):
    expected = minus_log2(exact_error(n, k, t))
    assert query_error_bits(n, k, t) == pytest.approx(expected, abs=1e-6)


def test_query_error_of_a_tiny_code_by_enumeration():
    """C(top, t) / C(n, t) is the chance that t distinct columns miss the bad ones."""
    from itertools import combinations

    n, k, t = 8, 2, 2
    sets = list(combinations(range(n), t))
    far = sum(max(s) < (n + k) // 2 for s in sets)
    agree = sum(max(s) < 2 * k - 2 for s in sets)
    assert query_error_bits(n, k, t) == pytest.approx(math.log2(len(sets) / (far + agree)))


def test_more_queries_than_columns_give_nothing():
    assert query_error_bits(64, 16, 65) == 0.0


def test_known_figures_at_rate_a_quarter():
    """About 148 to 160 columns for 100 bits, 189 to 205 for 128, for long codes of rate 1/4."""
    for log_length in (12, 16, 20):
        n = 1 << log_length
        least = {}
        for bits in (100, 128):
            t = 1
            while query_error_bits(n, n // 4, t) < bits:
                t += 1
            assert exact_error(n, n // 4, t) <= Fraction(1, 2**bits)
            assert exact_error(n, n // 4, t - 1) > Fraction(1, 2**bits)
            least[bits] = t
        assert 140 <= least[100] <= 148 and 175 <= least[128] <= 189


@pytest.mark.parametrize("profile", [S100, S128], ids=lambda p: p.name)
@pytest.mark.parametrize("openings", [1, 4, 64])
@pytest.mark.parametrize("log_row", [6, 9, 12, 15])
def test_chosen_codes_meet_the_profile(log_row, openings, profile):
    code = choose_code(log_row, openings, profile)
    queries = queries_for(code, profile)
    assert code.log_row == log_row
    assert code.blinding >= openings * queries
    assert code.length >= 3.8 * code.dimension
    assert code.length < 2 * 3.8 * code.dimension
    target = Fraction(1, 2**profile.query_bits)
    assert exact_error(code.length, code.dimension, queries) <= target
    assert exact_error(code.length, code.dimension, queries - 1) > target


def test_queries_of_the_default_profile():
    """Between the exact numbers for slightly smaller and slightly larger rates than 1/4."""
    for log_row in (9, 11, 13, 15):
        code = choose_code(log_row, 1, S100)
        rate = code.dimension / code.length
        queries = queries_for(code, S100)
        assert rate <= 1 / 3.8 and 105 <= queries <= 160
    near = [Code(16, 0, 18), Code(13, 160, 15)]
    assert all(148 <= queries_for(code, S100) <= 160 for code in near)


def test_a_code_too_short_for_the_profile():
    with pytest.raises(ValueError, match="cannot reach"):
        queries_for(Code(5, 30, 6), S100)


def test_profiles():
    assert profile_named("s100") is S100 and profile_named("s128") is S128
    assert (S100.kappa, S100.bits, S128.kappa, S128.bits) == (2, 100, 3, 128)
    assert S100.field_bits == pytest.approx(2 * math.log2(P), rel=1e-15)
    assert S128.field_bits == pytest.approx(3 * math.log2(P), rel=1e-15)
    assert (S100.query_bits, S128.query_bits) == (103, 131)
    with pytest.raises(ValueError, match="s100, s128"):
        profile_named("s80")


def test_budget_adds_errors():
    budget = Budget(Profile("test", 2, 100))
    budget.field_term("a", 3)
    budget.field_term("b", 2**20, grinding=5)
    code = Code(10, 160, 13)
    budget.query_term(code, 148)
    total = Fraction(3, P**2) + Fraction(2**20, P**2 * 2**5)
    total += exact_error(code.length, code.dimension, 148)
    assert budget.bits == pytest.approx(minus_log2(total), abs=1e-6)
    assert set(budget.terms) == {"a", "b", "columns"}


def test_challenges_become_terms():
    """The sum of stated degrees, or the numerator that is given; what has a term keeps it."""
    budget = Budget(S100)
    budget.field_term("ground", 8, grinding=4)
    squeezed = {"rounds": [3, 3, 2], "combiner": [None, None], "ground": [None], "nothing": [0]}
    budget.challenges(squeezed, {"combiner": 7})
    bits = S100.field_bits
    assert budget.terms == pytest.approx(
        {
            "rounds": bits - 3,
            "combiner": bits - math.log2(7),
            "ground": bits - 3 + 4,
            "nothing": math.inf,
        }
    )


@pytest.mark.parametrize("degrees", [[None], [1, None], [None, 1]])
def test_a_challenge_without_a_term_is_refused(degrees):
    """Forgetting a challenge is no way to a better budget."""
    with pytest.raises(RuntimeError, match="forgotten"):
        Budget(S100).challenges({"known": [1], "forgotten": degrees}, {"known": 5})


def test_queries_count_for_the_weakest_code():
    """Any number of differently coded tableaux, in any order."""
    codes = [
        choose_code(log_row, openings, S100) for log_row in (6, 9, 12) for openings in (1, 2, 5)
    ]
    errors = [query_error_bits(c.length, c.dimension, queries_for(c, S100)) for c in codes]
    for order in (codes, codes[::-1]):
        budget = Budget(S100)
        for code in order:
            budget.query_term(code, queries_for(code, S100))
        assert budget.bits == pytest.approx(min(errors))
        budget.check()
    budget.query_term(codes[0], queries_for(codes[0], S100) - 8)
    with pytest.raises(VerificationError, match="columns"):
        budget.check()


def test_budget_check_names_the_weakest_term():
    budget = Budget(S100)
    budget.field_term("fine", 1)
    budget.check()
    budget.field_term("too many leaves", 2**29)
    with pytest.raises(VerificationError) as caught:
        budget.check()
    assert caught.value.check == "soundness budget" and "too many leaves" in caught.value.detail


def test_the_sum_counts_and_not_only_the_weakest_term():
    budget = Budget(S100)
    for i in range(16):
        budget.field_term(f"term {i}", 2**25)
    assert min(budget.terms.values()) > 100 > budget.bits
    with pytest.raises(VerificationError):
        budget.check()


@pytest.mark.parametrize("profile", [S100, S128], ids=lambda p: p.name)
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("log_leaves", [1, 10, 24, 28, 32])
def test_grinding_supplies_the_missing_bits(log_leaves, width, profile):
    leaves = 1 << log_leaves
    bits = grinding_bits(leaves, width, profile)
    error = Fraction(leaves * (width + 1), P**profile.kappa)
    target = Fraction(1, 2 ** (profile.bits + 3))
    assert error / 2**bits <= target
    assert bits == 0 or error / 2 ** (bits - 1) > target
    if profile is S128:
        assert bits == 0
