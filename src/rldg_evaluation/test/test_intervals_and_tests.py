"""Intervals and tests of success agree with published worked values, with scipy, and with what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rldg_evaluation.statistics import (
    Count,
    Pairs,
    barnard,
    clopper_pearson,
    count_pairs,
    difference,
    fisher,
    holm,
    mcnemar,
    paired_difference,
    wilson,
)

counts = st.integers(1, 200).flatmap(lambda n: st.integers(0, n).map(lambda k: Count(k, n)))
pairs = st.builds(Pairs, *(st.integers(0, 40) for _ in range(4))).filter(lambda p: p.trials > 0)


# Newcombe 1998a (Statistics in Medicine 17: 857), table I
@pytest.mark.parametrize(
    ("count", "score", "exact"),
    [
        (Count(81, 263), (0.2553, 0.3662), (0.2527, 0.3676)),
        (Count(15, 148), (0.0624, 0.1605), (0.0578, 0.1617)),
        (Count(0, 20), (0.0, 0.1611), (0.0, 0.1684)),
        (Count(1, 29), (0.0061, 0.1718), (0.0009, 0.1776)),
    ],
)
def test_intervals_are_those_of_the_literature(count, score, exact) -> None:
    assert wilson(count) == pytest.approx(score, abs=5e-5)
    assert clopper_pearson(count) == pytest.approx(exact, abs=5e-5)


@given(counts, st.sampled_from([0.8, 0.95, 0.99]))
def test_intervals_equal_those_of_scipy(count, confidence) -> None:
    test = stats.binomtest(*count)
    for ours, name in ((wilson, "wilson"), (clopper_pearson, "exact")):
        theirs = test.proportion_ci(confidence, method=name)
        assert ours(count, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(counts)
def test_the_exact_interval_contains_the_rate_and_mirrors(count) -> None:
    for method in (wilson, clopper_pearson):
        low, high = method(count)
        assert 0.0 <= low <= count.rate <= high <= 1.0
        mirrored = method(Count(count.trials - count.successes, count.trials))
        assert mirrored == pytest.approx((1.0 - high, 1.0 - low), abs=1e-12)


@pytest.mark.parametrize("p", [0.02, 0.5, 0.9, 0.99])
def test_the_exact_interval_covers_at_least_as_often_as_it_says(p) -> None:
    n = 20
    covered = sum(
        stats.binom.pmf(k, n, p)
        for k in range(n + 1)
        if clopper_pearson(Count(k, n))[0] <= p <= clopper_pearson(Count(k, n))[1]
    )
    assert covered >= 0.95


def test_of_no_trials_nothing_is_known() -> None:
    assert wilson(Count(0, 0)) == clopper_pearson(Count(0, 0)) == (0.0, 1.0)
    assert math.isnan(Count(0, 0).rate)
    assert difference(Count(0, 0), Count(3, 4)) == (-1.0, 1.0)


@pytest.mark.parametrize("count", [Count(-1, 4), Count(5, 4), Count(1, -1)])
def test_counts_that_cannot_be_are_refused(count) -> None:
    for function in (wilson, clopper_pearson):
        with pytest.raises(ValueError, match="must be from 0 to the number of trials"):
            function(count)
    with pytest.raises(ValueError, match="must be from 0 to the number of trials"):
        fisher(count, Count(1, 2))


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
def test_a_confidence_that_cannot_be_is_refused(confidence) -> None:
    with pytest.raises(ValueError, match="confidence: is"):
        wilson(Count(1, 2), confidence)


def test_fisher_needs_a_large_difference_at_twenty_trials() -> None:
    cases = {(15, 20): 0.047, (12, 19): 0.020, (1, 7): 0.044, (16, 19): 0.342}
    for (first, second), p in cases.items():
        assert fisher(Count(first, 20), Count(second, 20)) == pytest.approx(p, abs=5e-4)


def test_barnard_sees_more_than_fisher() -> None:
    # Mehta and Senchaudhuri 2003, "Conditional versus unconditional exact tests": 7 of 15 against 12 of 15
    first, second = Count(7, 15), Count(12, 15)
    assert (barnard(first, second), fisher(first, second)) == pytest.approx((0.068, 0.128), abs=5e-4)


@pytest.mark.parametrize("k", [0, 20])
def test_equal_outcomes_everywhere_tell_nothing_apart(k) -> None:
    assert fisher(Count(k, 20), Count(k, 20)) == barnard(Count(k, 20), Count(k, 20)) == 1.0
    assert mcnemar(Pairs(k, 0, 0, 20 - k)) == 1.0


@given(pairs)
def test_the_paired_test_is_the_sign_test_of_what_differs(table) -> None:
    _, first, second, _ = table
    k, n = min(first, second), first + second
    by_hand = min(1.0, 2.0 * sum(math.comb(n, i) for i in range(k + 1)) / 2.0**n)
    assert mcnemar(table) == pytest.approx(by_hand, rel=1e-9)


def test_pairs_are_counted_by_who_succeeded() -> None:
    table = count_pairs([(True, True), (True, False), (True, False), (False, True), (False, False)])
    assert table == Pairs(1, 2, 1, 1)
    assert (table.first, table.second) == (Count(3, 5), Count(2, 5))


def test_intervals_of_differences_are_those_of_the_literature() -> None:
    # Newcombe 1998b (17: 873), table II (a); Newcombe 1998c (17: 2635), table II
    assert difference(Count(56, 70), Count(48, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert paired_difference(Pairs(36, 12, 2, 0)) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@given(pairs)
def test_a_paired_difference_turns_round_with_its_policies(table) -> None:
    low, high = paired_difference(table)
    both, first, second, neither = table
    assert -1.0 <= low <= table.first.rate - table.second.rate <= high <= 1.0
    turned = paired_difference(Pairs(both, second, first, neither))
    assert turned == pytest.approx((-high, -low), abs=1e-9)


def test_holm_is_as_worked_out_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0.0, 1.0), max_size=12))
def test_holm_is_never_below_the_raw_value_nor_above_bonferroni(p_values) -> None:
    adjusted = holm(p_values)
    for raw, corrected in zip(p_values, adjusted, strict=True):
        assert raw <= corrected <= min(1.0, len(p_values) * raw)
    assert [adjusted[i] for i in np.argsort(p_values, kind="stable")] == sorted(adjusted)
