"""How actions are scaled for a generalist, and back: the one implementation for training, serving and checks.

A statistics file (``dataset_statistics.json``, or ``norm_stats`` of an OpenVLA configuration) maps names of data sets
to ``{"action": {...}, "num_transitions": ..., ...}``; every list has one number per dimension of the action.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
_EPSILON = 1e-8  # as both releases have it


class StatisticsError(ValueError):
    """Statistics are missing, or are not those of the actions at hand; one line: what, and what to do."""


class ActionStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Of the actions of one data set; tuples of length d. Both releases' names of the quantiles are read."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    min: tuple[float, ...]
    max: tuple[float, ...]
    q01: tuple[float, ...] = ()
    q99: tuple[float, ...] = ()
    p01: tuple[float, ...] = ()
    p99: tuple[float, ...] = ()
    mask: tuple[bool, ...] = ()  # what is normalised: all but the gripper where empty

    @property
    def size(self) -> int:
        """Dimensions of the action."""
        return len(self.mean)

    @property
    def normalised(self) -> npt.NDArray[np.bool_]:
        """Shape (d,): whether a dimension is normalised."""
        return np.array(self.mask or [index < 6 for index in range(self.size)], dtype=np.bool_)

    @property
    def low(self) -> Floats:
        """The quantile 0.01, shape (d,)."""
        return np.array(self.q01 or self.p01, dtype=np.float32)

    @property
    def high(self) -> Floats:
        """The quantile 0.99, shape (d,)."""
        return np.array(self.q99 or self.p99, dtype=np.float32)


def read_statistics(content: Any, name: str = "", where: str = "statistics") -> tuple[str, ActionStatistics]:
    """Choose and check the statistics of one data set.

    Args:
        content: what a statistics file holds.
        name: of the data set; the only one there is where empty.
        where: they come from, for messages.

    Returns:
        The name of the data set, and its statistics.

    Raises:
        StatisticsError: there is no such data set, there are several and none was named, or numbers are missing, not
            finite or contradict each other.
    """
    if not isinstance(content, dict) or not content:
        raise StatisticsError(f"{where}: holds no statistics; copy dataset_statistics.json of the training set")
    known = ", ".join(sorted(map(str, content)))
    if not name and len(content) > 1:
        raise StatisticsError(f"{where}: has statistics of several data sets, name one of: {known}")
    chosen = name or next(iter(content))
    if chosen not in content:
        raise StatisticsError(f"{where}: has no statistics of {chosen!r}; there are: {known}")
    try:
        found = msgspec.convert(content[chosen]["action"], ActionStatistics)
    except (msgspec.ValidationError, KeyError, TypeError) as error:
        raise StatisticsError(f"{where}: {chosen}: action: {' '.join(str(error).split())}") from None
    _check(found, f"{where}: {chosen}: action")
    return chosen, found


def load_statistics(path: Path, name: str = "") -> tuple[str, ActionStatistics]:
    """:func:`read_statistics` of a JSON file; raises StatisticsError also where that cannot be read."""
    try:
        content = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise StatisticsError(f"{path}: cannot be read: {error.strerror}; copy it from the training set") from None
    except msgspec.DecodeError as error:
        raise StatisticsError(f"{path}: is not JSON: {error}") from None
    return read_statistics(content, name, str(path))


def _check(found: ActionStatistics, where: str) -> None:
    fields = {name: getattr(found, name) for name in found.__struct_fields__}
    for name, values in fields.items():
        if values and len(values) != found.size:
            raise StatisticsError(f"{where}: {name} has {len(values)} numbers, mean has {found.size}")
        if not np.isfinite(np.array(values, dtype=np.float64)).all():
            raise StatisticsError(f"{where}: {name} is not finite")
    if not 1 <= found.size <= 64:
        raise StatisticsError(f"{where}: mean has {found.size} numbers, must have 1 to 64")
    if not len(found.low) == len(found.high) == found.size:
        raise StatisticsError(f"{where}: q01 and q99 are missing; build the training set anew")
    if (found.low > found.high).any() or (np.array(found.std) < 0.0).any():
        raise StatisticsError(f"{where}: q01 is above q99 or std below 0; the file was damaged")


# OpenVLA: the quantiles 0.01 and 0.99 become -1 and 1 (Kim et al. 2024, arXiv:2406.09246, section 3.2)


def normalise_bounds(action: npt.ArrayLike, statistics: ActionStatistics) -> Floats:
    """Actions (..., d) to [-1, 1]: clip(2 (x - q01) / (q99 - q01 + 1e-8) - 1); 0 where a dimension never changes."""
    x, low, high = np.asarray(action, dtype=np.float32), statistics.low, statistics.high
    scaled = np.clip(2.0 * (x - low) / (high - low + _EPSILON) - 1.0, -1.0, 1.0)
    constant = np.array(statistics.min) == np.array(statistics.max)
    return np.where(statistics.normalised, np.where(constant, 0.0, scaled), x).astype(np.float32)


def unnormalise_bounds(action: npt.ArrayLike, statistics: ActionStatistics) -> Floats:
    """The way back: 0.5 (y + 1) (q99 - q01) + q01."""
    y, low, high = np.asarray(action, dtype=np.float32), statistics.low, statistics.high
    return np.where(statistics.normalised, 0.5 * (y + 1.0) * (high - low) + low, y).astype(np.float32)


# Octo: mean 0 and standard deviation 1 (Octo Model Team 2024, arXiv:2405.12213, appendix)


def normalise_gaussian(action: npt.ArrayLike, statistics: ActionStatistics) -> Floats:
    """Actions (..., d): (x - mean) / (std + 1e-8)."""
    x = np.asarray(action, dtype=np.float32)
    mean, std = (np.array(values, dtype=np.float32) for values in (statistics.mean, statistics.std))
    return np.where(statistics.normalised, (x - mean) / (std + _EPSILON), x).astype(np.float32)


def unnormalise_gaussian(action: npt.ArrayLike, statistics: ActionStatistics) -> Floats:
    """The way back: y std + mean."""
    y = np.asarray(action, dtype=np.float32)
    mean, std = (np.array(values, dtype=np.float32) for values in (statistics.mean, statistics.std))
    return np.where(statistics.normalised, y * std + mean, y).astype(np.float32)
