"""Actions as tokens: each dimension in bins of [-1, 1], whose ids are the last of the vocabulary (OpenVLA, 3.2)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rldg_policies.openvla.config import Config


def action_ids(actions: npt.ArrayLike, config: Config) -> npt.NDArray[np.int64]:
    """Token ids of normalised actions of any shape; what lies outside [-1, 1] is clipped.

    256 edges make 255 bins, but +1 is its own bin: ``id = base - digitize``, so that -1 is the highest id.

    Raises:
        ValueError: an action is not finite.
    """
    values = np.asarray(actions)
    if not np.isfinite(values).all():
        raise ValueError(f"actions: {values[~np.isfinite(values)].flat[0]} is not a number that can be a token")
    return config.action_base_id - np.digitize(np.clip(values, -1.0, 1.0), _edges(config))


def action_values(ids: npt.ArrayLike, config: Config) -> npt.NDArray[np.float64]:
    """Centres of the bins of token ids; an id that is no action is that of the nearest one."""
    edges = _edges(config)
    centres = (edges[:-1] + edges[1:]) / 2.0
    return centres[np.clip(config.action_base_id - np.asarray(ids) - 1, 0, len(centres) - 1)]


def _edges(config: Config) -> npt.NDArray[np.float64]:
    return np.linspace(-1.0, 1.0, config.n_bins)
