"""Observation, action, step and episode: the records that flow through the graph, free of ROS.

Field meanings, units and frames are those of the messages of the same names in ``rldg_interfaces``; ``rldg_ros``
converts between the two. Arrays are numpy; stamps are integer nanoseconds of the node clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rldg_core.frames import Array, Pose

ACTION_SIZE = 6


class Source(enum.IntEnum):
    """Who drives the arm at a tick."""

    HOLD = 0
    POLICY = 1
    HUMAN = 2
    RESET = 3


class Change(enum.IntFlag):
    """What the safety rules changed at a tick."""

    NONE = 0
    CLIPPED = 1
    WORKSPACE = 2
    SPEED = 4
    GRIPPER_DWELL = 8
    FORCE_GUARD = 16
    REFUSED = 32


class Phase(enum.IntEnum):
    """Phase of an episode; only in RUNNING may a policy drive."""

    IDLE = 0
    RESETTING = 1
    RUNNING = 2
    ENDED = 3


class Outcome(enum.StrEnum):
    NONE = "none"
    SUCCESS = "success"
    FAILURE = "failure"
    TIMEOUT = "timeout"
    ABORTED = "aborted"


@dataclass(frozen=True)
class ArmState:
    """What a robot's interface reports.

    Attributes:
        tcp_pose: base frame.
        tcp_twist: shape (6,), m/s and rad/s, TCP frame.
        wrench: shape (6,), N and N m, about the TCP in the TCP frame: what the environment exerts **on the tool** (a
            plug pushed down onto a port reads a force along -z, out of the port); not tared.
        joint_position_rad: shape (7,).
        joint_velocity_rad_s: shape (7,).
        joint_effort_nm: shape (7,).
        gripper_width_m: opening between the pads; nan where it is not known.
    """

    tcp_pose: Pose
    tcp_twist: Array
    wrench: Array
    joint_position_rad: Array
    joint_velocity_rad_s: Array
    joint_effort_nm: Array
    gripper_width_m: float


@dataclass(frozen=True)
class Observation:
    """What a policy may see at one tick. See ``rldg_interfaces/msg/Observation``."""

    stamp_ns: int
    image: npt.NDArray[np.uint8]  # (side, side, 3), RGB
    tcp_pose: Pose  # base frame
    tcp_twist: Array  # (6,), m/s and rad/s, TCP frame
    wrench: Array  # (6,), N and N m, TCP frame, tared
    gripper_width_m: float
    gripper_closed: bool
    instruction: str = ""
    episode_id: str = ""
    index: int = 0
    reset_pose: Pose = field(default_factory=Pose.identity)  # base frame
    image_age_s: float = 0.0
    state_age_s: float = 0.0
    skew_s: float = 0.0


@dataclass(frozen=True)
class Action:
    """One action: a scaled delta in the TCP frame and a held gripper state."""

    delta: Array  # (6,), each in [-1, 1]
    gripper_closed: bool = False


@dataclass(frozen=True)
class ActionChunk:
    """Consecutive actions that answer one observation; the first is due at ``observation_stamp_ns``."""

    observation_stamp_ns: int
    policy_id: str
    deltas: Array  # (length, 6)
    gripper_closed: npt.NDArray[np.bool_]  # (length,)
    period_s: float
    frame_id: str


@dataclass(frozen=True)
class EpisodeStatus:
    """The state of the episode as judged on the observation with stamp ``stamp_ns``."""

    stamp_ns: int
    session_id: str = ""
    episode_id: str = ""
    task: str = ""
    scene: str = ""
    seed: int = 0
    instruction: str = ""
    phase: Phase = Phase.IDLE
    outcome: Outcome = Outcome.NONE
    reason: str = ""
    reward: float = 0.0
    index: int = 0
    reset_pose: Pose = field(default_factory=Pose.identity)
    tare: Array = field(default_factory=lambda: np.zeros(6))  # (6,), N and N m, TCP frame


@dataclass(frozen=True)
class Step:
    """What the arm was told at one tick, and why. See ``rldg_interfaces/msg/Step``."""

    stamp_ns: int
    observation_stamp_ns: int
    source: Source
    executed: Action
    target: Pose  # base frame
    episode_id: str = ""
    index: int = 0
    is_first: bool = False
    is_last: bool = False
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    policy_id: str = ""
    policy_action: Action | None = None
    human_action: Action | None = None
    changed: Change = Change.NONE
    reason: str = ""
    command_age_s: float = 0.0
