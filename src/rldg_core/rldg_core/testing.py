"""Builders of tasks, observations and actions for tests of this and other packages."""

from __future__ import annotations

import msgspec
import numpy as np

from rldg_core.frames import Pose
from rldg_core.task import Task
from rldg_core.types import ActionChunk, EpisodeStatus, Observation, Phase

TICK_NS = 100_000_000
DOWN_RPY = (np.pi, 0.0, 0.0)


def make_task(**changes: object) -> Task:
    data = {
        "name": "peg",
        "family": "connector_insertion",
        "split": "seen",
        "instruction": "insert the peg",
        "time_limit_s": 1.0,
        "workspace": {"min_m": [0.4, -0.1, 0.05], "max_m": [0.6, 0.1, 0.3], "max_tilt_rad": 0.3, "max_yaw_rad": 0.5},
        "fixture": {"pose": {"xyz_m": [0.5, 0.0, 0.0]}},
        "start": {"pose": {"xyz_m": [0.0, 0.0, 0.2], "rpy_rad": list(DOWN_RPY)}},
        "success": {
            "goal": {"xyz_m": [0.0, 0.0, 0.1], "rpy_rad": list(DOWN_RPY)},
            "position_tolerance_m": [0.005, 0.005, 0.003],
            "rotation_tolerance_rad": 0.1,
        },
        "scenes": [{"name": "seen"}],
        **changes,
    }
    return msgspec.convert(data, Task, strict=False)


def tool_down(x: float = 0.5, y: float = 0.0, z: float = 0.2, yaw: float = 0.0) -> Pose:
    return Pose.from_rpy((x, y, z), (np.pi, 0.0, yaw))


def make_observation(stamp_ns: int = TICK_NS, pose: Pose | None = None, **changes: object) -> Observation:
    fields: dict[str, object] = {
        "stamp_ns": stamp_ns,
        "image": np.zeros((4, 4, 3), np.uint8),
        "tcp_pose": pose or tool_down(),
        "tcp_twist": np.zeros(6),
        "wrench": np.zeros(6),
        "gripper_width_m": 0.02,
        "gripper_closed": True,
        "episode_id": "s/0001",
        "index": 1,
        **changes,
    }
    return Observation(**fields)  # type: ignore[arg-type]


def running(stamp_ns: int = TICK_NS, **changes: object) -> EpisodeStatus:
    fields: dict[str, object] = {"stamp_ns": stamp_ns, "episode_id": "s/0001", "phase": Phase.RUNNING, **changes}
    return EpisodeStatus(**fields)  # type: ignore[arg-type]


def make_chunk(delta: object, stamp_ns: int = TICK_NS, policy_id: str = "p", frame_id: str = "tcp") -> ActionChunk:
    deltas = np.atleast_2d(np.asarray(delta, dtype=np.float64))
    return ActionChunk(stamp_ns, policy_id, deltas, np.zeros(len(deltas), bool), 0.1, frame_id)
