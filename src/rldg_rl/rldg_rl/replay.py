from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Transition(NamedTuple):
    """One executed action and what came of it; (episode_id, t) is its identity.

    Attributes:
        episode_id: unique among all sessions.
        t: index of the observation in its episode.
        features: of the observation, (spec.features,) or, with several views of its image, (views, spec.features).
        next_features: of the next observation, likewise.
        action: (spec.action,), executed, policy frame, each in [-1, 1]; the seventh is 1 where the gripper was told
            to hold closed and 0 where open.
        reward: that the next observation earned.
        terminated: the next observation ended the episode by success or failure.
        truncated: it ran out of time, or was cut off: what follows is worth what the critics say.
        intervention: a human acted.
        demo: of a demonstration; goes to the demonstrations only.
        toggled: the action changed the held state of the gripper.
    """

    episode_id: str
    t: int
    features: npt.NDArray[np.floating]
    next_features: npt.NDArray[np.floating]
    action: npt.NDArray[np.floating]
    reward: float
    terminated: bool
    truncated: bool
    intervention: bool
    demo: bool
    toggled: bool = False
