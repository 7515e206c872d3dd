"""What the arm does once the force guard has tripped: hold, then back off a few millimetres the way it came."""

from __future__ import annotations

from collections import deque

import numpy as np

from rldg_core.frames import Array, Pose, rotate
from rldg_core.task import Safety

SPEED_M_S = 0.02
_SPACING_M = 0.0005  # between remembered positions
_REMEMBERED = 100
_TOOL_AXIS = np.array([0.0, 0.0, 1.0])


class Retract:
    """Gives the target while the force guard is tripped.

    It holds for as many ticks as the guard needs to trip, then moves against the direction in which the arm came, in
    a straight line, by ``safety.retract_m`` at most and with the orientation it had. Where it did not come from
    anywhere, back is up the tool axis.

    Args:
        safety: ``retract_m`` (0: only hold) and ``force_samples``.
        period_s: of the ticks.
    """

    def __init__(self, safety: Safety, period_s: float) -> None:
        self._distance_m = safety.retract_m
        self._pause = safety.force_samples
        self._step_m = SPEED_M_S * period_s
        self._came: deque[Array] = deque(maxlen=_REMEMBERED)  # measured positions, base frame
        self._start: Pose | None = None
        self._back = np.zeros(3)
        self._ticks = 0

    def follow(self, measured: Pose) -> None:
        """A tick at which the guard has not tripped."""
        self._start, self._ticks = None, 0
        if not self._came or float(np.linalg.norm(measured.position - self._came[-1])) > _SPACING_M:
            self._came.append(measured.position)

    def forget(self) -> None:
        """The arm was put elsewhere: it did not come from there."""
        self._came.clear()
        self._start, self._ticks = None, 0

    def target(self, measured: Pose) -> Pose | None:
        """A tick at which the guard is tripped: where the arm is wanted, base frame; None to hold."""
        if self._distance_m <= 0.0:
            return None
        if self._start is None:
            self._start, self._back = measured, self._direction(measured)
        self._ticks += 1
        moved_m = min(max(self._ticks - self._pause, 0) * self._step_m, self._distance_m)
        if moved_m <= 0.0:
            return None
        return Pose(self._start.position + moved_m * self._back, self._start.quaternion)

    def _direction(self, measured: Pose) -> Array:
        for position in reversed(self._came):
            way = position - measured.position
            length_m = float(np.linalg.norm(way))
            if length_m >= self._distance_m:
                return way / length_m
        return -rotate(measured.quaternion, _TOOL_AXIS)
