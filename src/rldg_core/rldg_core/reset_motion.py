"""The motion that brings the arm back to a start pose: rise, cross, descend; straight lines at a limited speed."""

from __future__ import annotations

import numpy as np

from rldg_core.frames import Pose, interpolate, rotation_angle


class ResetMotion:
    """Set-points from where the arm is to where the episode starts.

    It first rises by ``lift_m`` along base z, so that a plug leaves its port before it moves sideways, crosses at
    that height while it turns to the final orientation, and descends.

    Args:
        here: measured TCP pose, base frame.
        start: TCP pose to reach, base frame.
        lift_m: how far to rise first.
        speed_m_s: linear speed along each line.
        speed_rad_s: angular speed; a line takes as long as the slower of the two needs.
    """

    def __init__(
        self, here: Pose, start: Pose, lift_m: float, speed_m_s: float = 0.1, speed_rad_s: float = 0.8
    ) -> None:
        height_m = max(here.position[2] + lift_m, start.position[2])
        risen = Pose(np.array([*here.position[:2], height_m]), here.quaternion)
        crossed = Pose(np.array([*start.position[:2], height_m]), start.quaternion)
        self._corners = [here, risen, crossed, start]
        self._times_s = [0.0]
        for a, b in zip(self._corners, self._corners[1:], strict=False):
            distance_m = float(np.linalg.norm(b.position - a.position))
            self._times_s.append(self._times_s[-1] + max(distance_m / speed_m_s, rotation_angle(a, b) / speed_rad_s))

    @property
    def duration_s(self) -> float:
        return self._times_s[-1]

    def target(self, elapsed_s: float) -> Pose:
        """Set-point ``elapsed_s`` after the beginning, base frame; the start pose once it is over."""
        for i, end_s in enumerate(self._times_s[1:]):
            begin_s = self._times_s[i]
            if elapsed_s < end_s:
                fraction = (elapsed_s - begin_s) / (end_s - begin_s)
                return interpolate(self._corners[i], self._corners[i + 1], fraction)
        return self._corners[-1]
