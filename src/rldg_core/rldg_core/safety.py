"""The safety rules of the door, as pure functions over targets.

The set of allowed targets is convex in (position, rotation vector about the tool-down posture), and the speed rule
moves along a chord of that space. Therefore whatever comes in, a target that started inside stays inside, and moves
no faster than allowed: the angle between two rotations is never larger than the distance of their rotation vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rldg_core.frames import (
    Array,
    Pose,
    exp_rotation,
    log_rotation,
    quaternion_conjugate,
    quaternion_from_rpy,
    quaternion_multiply,
)
from rldg_core.task import Safety, Workspace


class Envelope:
    """The workspace of a task: where a commanded target may be."""

    def __init__(self, workspace: Workspace) -> None:
        self._min = np.array(workspace.min_m)
        self._max = np.array(workspace.max_m)
        self._tilt = workspace.max_tilt_rad
        self._yaw = workspace.max_yaw_rad
        self._nominal = quaternion_from_rpy((np.pi, 0.0, workspace.yaw_rad))

    def coordinates(self, pose: Pose) -> Array:
        """Position (m) and rotation vector (rad) from the tool-down posture, in the tool frame, shape (6,)."""
        turn = log_rotation(quaternion_multiply(quaternion_conjugate(self._nominal), pose.quaternion))
        return np.concatenate([pose.position, turn])

    def pose(self, coordinates: Array) -> Pose:
        """Inverse of :meth:`coordinates`."""
        return Pose(coordinates[:3], quaternion_multiply(self._nominal, exp_rotation(coordinates[3:])))

    def clamp(self, coordinates: Array) -> Array:
        """The allowed coordinates nearest to ``coordinates``, shape (6,)."""
        allowed = coordinates.copy()
        allowed[:3] = np.clip(coordinates[:3], self._min, self._max)
        tilt = float(np.hypot(coordinates[3], coordinates[4]))
        if tilt > self._tilt:
            allowed[3:5] *= self._tilt / tilt
        allowed[5] = np.clip(coordinates[5], -self._yaw, self._yaw)
        return allowed

    def excess(self, pose: Pose) -> Array:
        """How far each coordinate lies outside (m, rad), shape (6,), all 0 inside."""
        coordinates = self.coordinates(pose)
        return coordinates - self.clamp(coordinates)

    def contains(self, pose: Pose, tolerance: float = 1e-9) -> bool:
        return bool(np.abs(self.excess(pose)).max() <= tolerance)


def limit_speed(previous: Array, wanted: Array, max_step_m: float, max_step_rad: float) -> Array:
    """``wanted`` coordinates, moved along the chord towards ``previous`` until neither step is exceeded, shape (6,)."""
    change = wanted - previous
    distance, angle = float(np.linalg.norm(change[:3])), float(np.linalg.norm(change[3:]))
    fraction = min(1.0, max_step_m / max(distance, 1e-12), max_step_rad / max(angle, 1e-12))
    return previous + fraction * change


@dataclass
class ForceGuard:
    """Trips after ``force_samples`` ticks in a row above the limit, lets go after as many below 80 % of it."""

    limits: Safety
    tripped: bool = False
    _count: int = 0

    def update(self, wrench: Array) -> bool:
        """Judge one wrench (N, N m), shape (6,); returns whether the arm must hold."""
        load = max(
            float(np.linalg.norm(wrench[:3])) / self.limits.max_force_n,
            float(np.linalg.norm(wrench[3:])) / self.limits.max_torque_nm,
        )
        agrees = load < 0.8 if self.tripped else load > 1.0
        self._count = self._count + 1 if agrees else 0
        if self._count >= self.limits.force_samples:
            self.tripped, self._count = not self.tripped, 0
        return self.tripped
