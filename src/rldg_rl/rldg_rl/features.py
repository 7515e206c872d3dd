"""Numbers of order one: what a network is given of the arm's own senses and of where things are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rldg_core.observation import proprioception
from rldg_core.types import Observation

Features = npt.NDArray[np.float32]

# What counts as one, for each of the 19 numbers of rldg_core.observation.proprioception: the extent of a workspace,
# the speed of a brisk motion, the force of a firm contact.
PROPRIOCEPTION_SCALE = (
    *(0.05, 0.05, 0.05),  # m
    *(0.1, 0.1, 0.1),  # rad
    *(0.05, 0.05, 0.05),  # m/s
    *(0.3, 0.3, 0.3),  # rad/s
    *(10.0, 10.0, 10.0),  # N
    *(1.0, 1.0, 1.0),  # N m
    0.04,  # m
)
PROPRIOCEPTION_SIZE = len(PROPRIOCEPTION_SCALE) + 1
_LIMIT = np.array([10.0] * 6 + [3.0] * 12 + [10.0])  # an impact of a millisecond must not be the loudest input

COARSE_M, FINE_M, COARSE_RAD, FINE_RAD = 0.05, 0.002, 0.2, 0.05
RELATION_SIZE = 12


def scaled_proprioception(observation: Observation, scale: npt.ArrayLike = PROPRIOCEPTION_SCALE) -> Features:
    """The arm's senses, shape (20,), float32: proprioception over its scale, and +-1 for the held gripper state.

    Twist and wrench are clipped to +-3.
    """
    scaled = np.clip(proprioception(observation) / np.asarray(scale), -_LIMIT, _LIMIT)
    return np.append(scaled, 1.0 if observation.gripper_closed else -1.0).astype(np.float32)


def relation(offset_m: npt.ArrayLike, turn_rad: npt.ArrayLike) -> Features:
    """How far something has to move and turn, both of shape (3,), at two scales: shape (12,), float32.

    The coarse half tells where to go from anywhere in the workspace; the fine half saturates a few millimetres away and
    tells apart what decides an insertion.
    """
    delta = np.concatenate([np.asarray(offset_m), np.asarray(turn_rad)])
    coarse = delta / ([COARSE_M] * 3 + [COARSE_RAD] * 3)
    fine = np.tanh(delta / ([FINE_M] * 3 + [FINE_RAD] * 3))
    return np.concatenate([np.clip(coarse, -5.0, 5.0), fine]).astype(np.float32)
