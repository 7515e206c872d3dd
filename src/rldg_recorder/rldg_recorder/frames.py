"""One episode of a training set, ready to be written in any format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from rldg_recorder.episode import Image, PolicyInfo

STATE_NAMES = (
    *("x", "y", "z", "rx", "ry", "rz"),  # relative to the reset pose: m, rotation vector (rad)
    *("vx", "vy", "vz", "wx", "wy", "wz"),  # m/s, rad/s, TCP frame
    *("fx", "fy", "fz", "tx", "ty", "tz"),  # N, N m, tared, TCP frame
    "gripper_width",  # m
)
ACTION_NAMES = ("dx", "dy", "dz", "drx", "dry", "drz", "gripper_open")


class BagRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A bag that frames were taken from."""

    path: str
    episode_id: str
    task: str
    scene: str
    seed: int
    outcome: str
    robot: str = ""
    policies: tuple[PolicyInfo, ...] = ()


@dataclass(frozen=True)
class TrainingEpisode:
    """Frames of one episode; row i is an observation and the action that answered it.

    The closing step of a bag is not a frame: its reward belongs to the frame before it.
    """

    instruction: str
    split: str
    rate_hz: float
    images: Sequence[Image]  # (side, side, 3) at the set's size
    state: npt.NDArray[np.float32]  # (n, 19), rldg_core.observation.proprioception
    action: npt.NDArray[np.float32]  # (n, 7): delta in [-1, 1], TCP frame; gripper 1 open, 0 closed (held state)
    reward: npt.NDArray[np.float32]  # (n,), earned by this frame's action
    done: npt.NDArray[np.bool_]  # (n,), the episode terminated (success or failure) with this frame's action
    source: npt.NDArray[np.int64]  # (n,), rldg_core.types.Source of the action
    bag: npt.NDArray[np.int64]  # (n,), index into bags
    row: npt.NDArray[np.int64]  # (n,), row of the bag's episode
    bags: tuple[BagRecord, ...]
    policy_id: tuple[str, ...]  # (n,), whose action it is, "" for a human or hold
    scale: tuple[float, ...]  # (6,): what an action of all ones means, m and rad
    relabelled: bool = False

    def __len__(self) -> int:
        return len(self.action)
