"""Trials may be stopped when it is clear enough, and their number can be known before."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rldg_evaluation.statistics import (
    Count,
    clopper_pearson,
    confidence_sequence,
    fisher,
    fisher_power,
    log_wealth,
    mcnemar_power,
    trials_needed,
)

probability = st.floats(0.01, 0.99)


@given(st.integers(0, 60), st.integers(0, 60), probability)
def test_betting_against_the_truth_is_a_fair_game(successes, failures, p) -> None:
    now = Count(successes, successes + failures)
    won = math.exp(log_wealth(Count(successes + 1, now.trials + 1), p) - log_wealth(now, p))
    lost = math.exp(log_wealth(Count(successes, now.trials + 1), p) - log_wealth(now, p))
    assert p * won + (1.0 - p) * lost == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.99])
def test_looking_after_every_trial_errs_as_rarely_as_promised(p) -> None:
    rng, runs, n = np.random.default_rng(5), 200, np.arange(1, 301)
    successes = (rng.random((runs, len(n))) < p).cumsum(axis=1)
    wealth = [[log_wealth(Count(k, m), p) for k, m in zip(row, n.tolist(), strict=True)] for row in successes.tolist()]
    wrong = int((np.array(wealth) >= math.log(20.0)).any(axis=1).sum())
    # at most 5 %, and what chance adds in one of a thousand tests
    assert wrong <= stats.binom.ppf(0.999, runs, 0.05)


def test_looking_after_every_trial_errs_far_more_often_with_an_interval_for_one_look() -> None:
    rng = np.random.default_rng(6)
    wrong = 0
    for _ in range(100):
        k = (rng.random(200) < 0.5).cumsum()
        looks = [clopper_pearson(Count(int(s), n)) for n, s in enumerate(k, 1)]
        wrong += any(not low <= 0.5 <= high for low, high in looks)
    assert wrong > 15


@given(st.integers(1, 400).flatmap(lambda n: st.integers(0, n).map(lambda k: Count(k, n))))
def test_the_sequence_ends_where_the_gambler_has_won_twenty_times_his_stake(count) -> None:
    low, high = confidence_sequence(count)
    assert 0.0 <= low <= count.rate <= high <= 1.0
    for end, at_border in ((low, low == 0.0), (high, high == 1.0)):
        assert at_border or log_wealth(count, end) == pytest.approx(math.log(20.0), abs=1e-4)
    assert low <= clopper_pearson(count).low + 1e-9 and high >= clopper_pearson(count).high - 1e-9


def test_before_the_first_trial_everything_is_possible() -> None:
    assert confidence_sequence(Count(0, 0)) == (0.0, 1.0)


@pytest.mark.parametrize(("first", "second", "trials"), [(0.6, 0.95, 12), (0.5, 0.5, 9), (0.0, 0.4, 10)])
def test_power_is_how_often_the_test_rejects(first, second, trials) -> None:
    by_hand = sum(
        stats.binom.pmf(i, trials, first) * stats.binom.pmf(j, trials, second)
        for i in range(trials + 1)
        for j in range(trials + 1)
        if fisher(Count(i, trials), Count(j, trials)) <= 0.05
    )
    assert fisher_power(first, second, trials) == pytest.approx(by_hand, rel=1e-9)


@given(probability, st.integers(2, 40))
def test_a_difference_that_is_not_there_is_seen_rarely_enough(p, trials) -> None:
    assert fisher_power(p, p, trials) <= 0.05


@pytest.mark.parametrize(("first", "second"), [(0.5, 0.95), (0.95, 0.5), (0.6, 0.9), (0.0, 1.0), (0.0, 0.3)])
def test_the_number_of_trials_is_the_first_that_is_enough(first, second) -> None:
    trials = trials_needed(first, second)
    assert fisher_power(first, second, trials) >= 0.8
    assert all(fisher_power(first, second, fewer) < 0.8 for fewer in range(2, trials))


def test_small_differences_need_many_trials() -> None:
    trials = trials_needed(0.9, 0.95)
    assert fisher_power(0.9, 0.95, trials) >= 0.8 > fisher_power(0.9, 0.95, trials - 1)
    # 435 by the normal approximation (Fleiss, Statistical Methods for Rates and Proportions); an exact test needs more
    assert 435 <= trials <= 480


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (0.5, 0.5, "more than 2000"),
        (0.90, 0.91, "more than 2000"),
        (1.2, 0.5, "first probability: is 1.2"),
        (0.5, -0.1, "second"),
    ],
)
def test_what_cannot_be_seen_is_said_so(first, second, words) -> None:
    with pytest.raises(ValueError, match=words):
        trials_needed(first, second)


def test_power_of_pairs_is_how_often_the_paired_test_rejects() -> None:
    rng = np.random.default_rng(7)
    trials, only_first, only_second = 20, 0.35, 0.05
    draws = rng.multinomial(trials, [only_first, only_second, 1.0 - only_first - only_second], size=20_000)
    p_values = {
        (a, b): stats.binomtest(a, a + b).pvalue if a + b else 1.0
        for a, b, _ in map(tuple, np.unique(draws, axis=0).tolist())
    }
    rejected = np.mean([p_values[a, b] <= 0.05 for a, b, _ in draws.tolist()])
    assert mcnemar_power(only_first, only_second, trials) == pytest.approx(rejected, abs=0.015)
    assert mcnemar_power(0.0, 0.0, trials) == 0.0
