"""Times to success, where some trials never succeeded."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldg_evaluation.statistics import log_rank, survival

# Freireich et al. 1963, remission in weeks; the example of Cox 1972 and of most books
TREATED = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
TREATED_ENDED = [True] * 9 + [False] * 12
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def test_survival_is_that_of_the_textbook() -> None:
    curve = survival(TREATED, TREATED_ENDED)
    assert curve.times_s.tolist() == [6, 7, 10, 13, 16, 22, 23]
    assert curve.share == pytest.approx([0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448], abs=5e-4)
    assert curve.median_s == 23.0
    assert curve.median_interval_s == (13.0, math.inf)
    placebo = survival(PLACEBO, [True] * 21)
    assert (placebo.median_s, *placebo.median_interval_s) == (8.0, 4.0, 11.0)


def test_the_log_rank_test_is_that_of_the_textbook() -> None:
    # chi-squared 16.79 with one degree of freedom
    assert log_rank(TREATED, TREATED_ENDED, PLACEBO, [True] * 21) == pytest.approx(4.17e-5, rel=2e-3)


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=40))
def test_the_curve_falls_within_its_band(trials) -> None:
    times, succeeded = zip(*trials, strict=True)
    curve = survival(times, succeeded)
    assert (np.diff(np.concatenate([[1.0], curve.share])) < 0.0).all()
    assert (curve.low <= curve.share + 1e-12).all() and (curve.share <= curve.high + 1e-12).all()
    assert len(curve.times_s) == len({time for time, good in trials if good})


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(0, 40))
def test_with_one_time_limit_the_curve_is_the_share_that_has_not_succeeded(times, missed) -> None:
    everyone = [*times, *[31] * missed]
    curve = survival(everyone, [True] * len(times) + [False] * missed)
    for time, share in zip(curve.times_s, curve.share, strict=True):
        assert share == pytest.approx(sum(each > time for each in everyone) / len(everyone))


def test_there_is_no_median_where_fewer_than_half_succeed() -> None:
    curve = survival([3.0, 4.0, 10.0, 10.0, 10.0], [True, True, False, False, False])
    assert math.isnan(curve.median_s) and curve.median_interval_s.high == math.inf


def test_where_nothing_ever_succeeded_nothing_is_claimed() -> None:
    curve = survival([10.0, 10.0], [False, False])
    assert len(curve.times_s) == 0 and math.isnan(curve.median_s)
    assert math.isnan(log_rank([10.0], [False], [10.0], [False]))


@pytest.mark.parametrize(
    ("times", "succeeded"),
    [([], []), ([1.0], [True, False]), ([math.nan], [True]), ([-1.0], [True]), ([math.inf], [False])],
)
def test_times_that_cannot_be_are_refused(times, succeeded) -> None:
    with pytest.raises(ValueError, match="times"):
        survival(times, succeeded)
