"""How good a binary classifier is: calibration, threshold, and the figures of its report.

Successes are rare among frames and the sampling of the training is balanced, so where a figure weighs frames each class
weighs one half.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]
_TEMPERATURES = np.geomspace(0.05, 20.0, 241)
_LEAST_THRESHOLD = 0.5
_BINS = 10
_Z95 = 1.96


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """What a classifier did on frames that it has not seen."""

    positives: int
    negatives: int
    true_positives: int
    false_positives: int
    accuracy: float
    precision: float | None  # None where nothing was taken for a success
    recall: float
    recall_at_least: float  # lower end of Wilson's 95 % interval, as if frames were independent
    false_positive_rate: float
    area_under_roc: float
    roc: tuple[tuple[float, float, float], ...]  # threshold, false positive rate, recall
    calibration_error_before: float  # expected, with each class weighing one half
    calibration_error: float


def probabilities(logits: Floats, temperature: float) -> npt.NDArray[np.float64]:
    """Calibrated probabilities of success."""
    return 1.0 / (1.0 + np.exp(-np.clip(np.asarray(logits, np.float64) / temperature, -60.0, 60.0)))


def class_weights(positive: Flags) -> npt.NDArray[np.float64]:
    """Weights that sum to one half in each class."""
    return np.where(positive, 0.5 / max(1, positive.sum()), 0.5 / max(1, (~positive).sum()))


def log_loss(logits: Floats, positive: Flags, temperature: float = 1.0) -> float:
    """Cross-entropy with each class weighing one half.

    The targets are Platt's, which a finite sample can support: without them a sample that is separated without error
    would ask for certainty.
    """
    target = np.where(positive, 1.0 - 1.0 / (positive.sum() + 2.0), 1.0 / ((~positive).sum() + 2.0))
    z = np.asarray(logits, np.float64) / temperature
    return float(class_weights(positive) @ (np.logaddexp(0.0, z) - target * z))


def fit_temperature(logits: Floats, positive: Flags) -> float:
    """By what to divide the logits so that they are the most probable."""
    return float(min(_TEMPERATURES, key=lambda temperature: log_loss(logits, positive, temperature)))


def choose_threshold(p: Floats, positive: Flags, false_positive_rate: float) -> float:
    """The least probability that at most the wanted share of the negatives reaches, and never less than even odds.

    Another negative like these is above it with at most that probability, the sample's size allowed for.

    Raises:
        ValueError: there are too few negatives to say.
    """
    negatives = np.sort(p[~positive])[::-1]
    allowed = math.floor(false_positive_rate * (len(negatives) + 1)) - 1  # of them may lie above it
    if allowed < 0:
        needed = math.ceil(1.0 / false_positive_rate) - 1
        raise ValueError(
            f"a false positive rate of {false_positive_rate} needs {needed} frames without success for calibration, "
            f"there are {len(negatives)}"
        )
    return max(_LEAST_THRESHOLD, float(np.nextafter(negatives[allowed], 2.0)))


def calibration_error(p: Floats, positive: Flags) -> float:
    """Expected calibration error over ten bins of equal width, each class weighing one half."""
    weights, bins = class_weights(positive), np.minimum((p * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights * (positive - p), minlength=_BINS)
    return float(np.abs(gaps).sum())


def roc(p: Floats, positive: Flags) -> tuple[Floats, Floats, Floats]:
    """Thresholds in descending order, and false positive rate and recall at each; equal scores count together."""
    thresholds = np.unique(p)[::-1]
    above = np.searchsorted(np.sort(-p[~positive]), -thresholds, side="right") / max(1, (~positive).sum())
    found = np.searchsorted(np.sort(-p[positive]), -thresholds, side="right") / max(1, positive.sum())
    return thresholds, above, found


def score(logits: Floats, positive: Flags, temperature: float, threshold: float, roc_points: int = 40) -> Scores:
    """All figures of a held-out sample."""
    p = probabilities(logits, temperature)
    taken = p >= threshold
    hits, alarms = int((taken & positive).sum()), int((taken & ~positive).sum())
    n, negatives = int(positive.sum()), int((~positive).sum())
    thresholds, above, found = roc(p, positive)
    shown = np.unique(np.linspace(0, len(thresholds) - 1, roc_points).round().astype(int))
    area = np.trapezoid(np.concatenate([[0.0], found]), np.concatenate([[0.0], above]))
    return Scores(
        positives=n,
        negatives=negatives,
        true_positives=hits,
        false_positives=alarms,
        accuracy=float((taken == positive).mean()),
        precision=hits / (hits + alarms) if hits + alarms else None,
        recall=hits / max(1, n),
        recall_at_least=_wilson_low(hits, n),
        false_positive_rate=alarms / max(1, negatives),
        area_under_roc=float(area),
        roc=tuple((float(thresholds[i]), float(above[i]), float(found[i])) for i in shown),
        calibration_error_before=calibration_error(probabilities(logits, 1.0), positive),
        calibration_error=calibration_error(p, positive),
    )


def _wilson_low(hits: int, n: int) -> float:
    if n == 0:
        return 0.0
    share, z2 = hits / n, _Z95**2 / n
    return max(0.0, (share + z2 / 2.0 - _Z95 * math.sqrt(share * (1.0 - share) / n + z2 / (4.0 * n))) / (1.0 + z2))
