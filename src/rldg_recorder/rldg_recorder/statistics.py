"""Statistics of a training set over all of its frames: the one implementation for every format and policy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def column_statistics(values: npt.NDArray[np.floating]) -> dict[str, list[float]]:
    """Of shape (n, d) over n: ``min``, ``max``, ``mean``, ``std`` (population), quantiles (linear), all of shape (d,).

    OpenVLA normalises by ``q01`` and ``q99`` over all frames of a set (Kim et al. 2024, arXiv:2406.09246, section 3.2);
    an average of per-episode quantiles is something else.

    Raises:
        ValueError: there is no row.
    """
    if len(values) == 0:
        raise ValueError("statistics: there is no frame, needs at least one")
    wide = np.asarray(values, dtype=np.float64)
    found = {
        "min": wide.min(axis=0),
        "max": wide.max(axis=0),
        "mean": wide.mean(axis=0),
        "std": wide.std(axis=0),
        **{name: np.quantile(wide, q, axis=0) for name, q in QUANTILES.items()},
    }
    return {name: np.atleast_1d(value).tolist() for name, value in found.items()}
