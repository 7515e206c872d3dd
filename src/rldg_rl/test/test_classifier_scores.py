"""Calibration, thresholds and figures of classifiers."""

from __future__ import annotations

import numpy as np
import pytest

from rldg_rl.classifier_scores import (
    calibration_error,
    choose_threshold,
    fit_temperature,
    probabilities,
    roc,
    score,
)


def confident(seed: int = 0, times: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are ``times`` too large, of classes that are equally likely."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0.0, 2.0, 20_000)
    return times * true, rng.random(20_000) < 1.0 / (1.0 + np.exp(-true))


def test_the_temperature_undoes_exaggeration() -> None:
    assert fit_temperature(*confident(times=4.0)) == pytest.approx(4.0, rel=0.1)
    assert fit_temperature(*confident(times=0.5)) == pytest.approx(0.5, rel=0.1)


def test_the_right_temperature_calibrates() -> None:
    logits, positive = confident()
    scores = score(logits, positive, 4.0, 0.5)
    assert scores.calibration_error_before > 0.1
    assert scores.calibration_error < 0.02


def test_a_sample_without_errors_does_not_make_the_classifier_certain() -> None:
    logits, positive = np.array([8.0] * 10 + [-8.0] * 50), np.array([True] * 10 + [False] * 50)
    assert 0.9 < probabilities(logits, fit_temperature(logits, positive)).max() < 0.999


def test_the_threshold_keeps_the_wanted_rate_on_other_frames() -> None:
    rng = np.random.default_rng(1)
    p, fresh = rng.beta(5, 2, 5000), rng.beta(5, 2, 100_000)
    threshold = choose_threshold(p, np.zeros(5000, bool), 0.02)
    assert 0.01 < (fresh >= threshold).mean() < 0.03


def test_the_threshold_is_never_below_even_odds() -> None:
    assert choose_threshold(np.full(1000, 0.01), np.zeros(1000, bool), 0.01) == 0.5


def test_of_99_negatives_none_may_lie_above_a_threshold_for_one_percent() -> None:
    p = np.linspace(0.5, 0.9, 99)
    assert choose_threshold(p, np.zeros(99, bool), 0.01) > 0.9


def test_too_few_negatives_for_the_wanted_rate_are_counted() -> None:
    with pytest.raises(ValueError, match="needs 99 frames without success for calibration, there are 98"):
        choose_threshold(np.full(98, 0.1), np.zeros(98, bool), 0.01)


def test_the_figures_of_a_small_sample_are_those_counted_by_hand() -> None:
    logits = np.array([3.0, 2.0, -1.0, 2.5, -2.0, -3.0])
    scores = score(logits, np.array([True, True, True, False, False, False]), 1.0, 0.5)
    assert (scores.true_positives, scores.false_positives, scores.positives, scores.negatives) == (2, 1, 3, 3)
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.precision == pytest.approx(2 / 3)
    assert scores.recall == pytest.approx(2 / 3)
    assert scores.false_positive_rate == pytest.approx(1 / 3)
    assert scores.area_under_roc == pytest.approx(7 / 9)  # pairs in the right order
    assert scores.recall_at_least == pytest.approx(0.2077, abs=1e-3)  # Wilson's interval of 2 in 3


def test_where_nothing_is_taken_for_success_there_is_no_precision() -> None:
    assert score(np.array([-1.0, -2.0]), np.array([True, False]), 1.0, 0.5).precision is None


def test_equal_scores_count_together_in_the_curve() -> None:
    thresholds, above, found = roc(np.array([0.9, 0.9, 0.1]), np.array([True, False, False]))
    assert thresholds.tolist() == [0.9, 0.1]
    assert above.tolist() == [0.5, 1.0]
    assert found.tolist() == [1.0, 1.0]


def test_being_sure_and_wrong_half_the_time_is_an_error_of_one_half() -> None:
    assert calibration_error(np.full(10, 1.0), np.arange(10) < 5) == pytest.approx(0.5)
