"""Calibration of a cell from readings at rest: where the camera, the tool's tip and the fixture are. No ROS, no camera.

Each solver says how well its readings agree, and refuses those that cannot tell the answer (:class:`CalibrationError`):
too few, motions that leave it open, or some that contradict the others, which are named. Nothing is left out silently.
The bars are this project's choice: an FR3 repeats within 0.1 mm, a ChArUco board is seen within about 1 mm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from rldg_core.frames import (
    Array,
    Pose,
    log_rotation,
    quaternion_from_matrix,
    rotate,
    rotation_angle,
)

HAND_EYE_READINGS_MIN = 6
HAND_EYE_MAX_RMS_M = 0.003
TIP_READINGS_MIN = 5
TIP_MAX_RMS_M = 0.001
FIXTURE_READINGS_MIN = 1
FIXTURE_MAX_RMS_M = 0.001
FIXTURE_MAX_TILT_RAD = 0.1
_CONTRADICTS = 4.0  # times the error of what is left; readings are named where leaving them out gains that much
_TURN_MIN_RAD, _TURN_MAX_RAD = math.radians(5.0), math.radians(170.0)  # between two readings; near pi axes are lost
_AXES_MIN = 0.04  # second of the eigenvalues, of sum 1, of the axes of turns: 0 where all are parallel
_SPREAD_MIN = 0.1  # of the orientations about a tip: about 15 degrees of tilt about two axes


class CalibrationError(ValueError):
    """The readings do not tell the answer; one line: what is wrong, by how much, and what to do."""


@dataclass(frozen=True)
class HandEye:
    """Where a camera on the wrist is."""

    tcp_camera: Pose  # camera's optical frame in the TCP frame
    base_board: Pose  # mean of where the readings see the board
    errors_m: tuple[float, ...]  # of each reading: how far from that mean it sees the board
    errors_rad: tuple[float, ...]


@dataclass(frozen=True)
class Tip:
    """Where the point is about which a tool was turned."""

    tcp_tip_m: Array  # shape (3,), in the TCP frame
    base_tip_m: Array  # shape (3,), in the base frame
    errors_m: tuple[float, ...]


@dataclass(frozen=True)
class Fixture:
    """Where a fixture is, from where the TCP is when the task is done."""

    base_fixture: Pose
    errors_m: tuple[float, ...]
    errors_rad: tuple[float, ...]


_T = TypeVar("_T", HandEye, Tip, Fixture)


def rms(errors: Sequence[float]) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(errors))))


def mean_pose(poses: Sequence[Pose]) -> Pose:
    """Mean position, and the rotation nearest to all: chordal mean, by singular values (Hartley et al. 2013, 5.3)."""
    rotation = _nearest_rotation(np.sum([pose.matrix() for pose in poses], axis=0))
    return Pose(np.mean([pose.position for pose in poses], axis=0), quaternion_from_matrix(rotation))


def solve_hand_eye(base_tcp: Sequence[Pose], camera_board: Sequence[Pose]) -> HandEye:
    """Camera on the wrist, from at least six readings of the TCP and of a board that stays where it is.

    With A the motion of the TCP between two readings and B that of the camera, A X = X B for X = ``tcp_camera``. The
    rotation that takes rotation vectors of B to those of A follows by least squares, then the translation (F. C. Park
    and B. J. Martin, "Robot sensor calibration: solving AX = XB on the Euclidean group", 1994).

    Raises:
        CalibrationError: see the module.
    """
    n = len(base_tcp)
    if n != len(camera_board):
        raise ValueError(f"{n} poses of the TCP and {len(camera_board)} of the board; must be as many")
    _need(n, HAND_EYE_READINGS_MIN, "readings of the board")
    motions = _Motions(base_tcp, camera_board)

    def solve(kept: Sequence[int]) -> HandEye:
        x = motions.camera(kept)
        seen = [base_tcp[i] @ x @ camera_board[i] for i in range(n)]
        board = mean_pose([seen[i] for i in kept])
        return HandEye(x, board, *_distances(board, seen))

    return _without_contradiction(
        n, HAND_EYE_READINGS_MIN, solve, HAND_EYE_MAX_RMS_M, "is the size of its squares right?"
    )


def solve_tip(base_tcp: Sequence[Pose]) -> Tip:
    """The point of a tool, from at least five poses of the TCP with that point in one and the same place.

    All poses map the tip to one point: R_i t + p_i = c, by least squares for t and c.

    Raises:
        CalibrationError: see the module.
    """
    n = len(base_tcp)
    _need(n, TIP_READINGS_MIN, "readings")

    def solve(kept: Sequence[int]) -> Tip:
        rows = np.concatenate([np.hstack([base_tcp[i].matrix(), -np.eye(3)]) for i in kept])
        right = -np.concatenate([base_tcp[i].position for i in kept])
        spread = float(np.linalg.svd(rows, compute_uv=False)[-1]) / math.sqrt(len(kept))
        if spread < _SPREAD_MIN:
            raise CalibrationError(
                f"orientations differ too little (spread {spread:.3f}, at least {_SPREAD_MIN}): tilt the tool by some "
                "20 degrees to different sides"
            )
        solution = np.linalg.lstsq(rows, right, rcond=None)[0]
        tip, centre = solution[:3], solution[3:]
        errors = tuple(float(np.linalg.norm(pose.transform(tip) - centre)) for pose in base_tcp)
        return Tip(tip, centre, errors)

    return _without_contradiction(n, TIP_READINGS_MIN, solve, TIP_MAX_RMS_M, "does the tip stay in its place?")


def solve_fixture(base_tcp: Sequence[Pose], goal: Pose) -> Fixture:
    """The fixture, from poses of the TCP with the task done, such as the plug in its hole.

    Args:
        goal: of the TCP in the fixture frame when the task is done (``success.goal`` of the task).

    Raises:
        CalibrationError: see the module; also where the fixture's z would not point up.
    """
    n = len(base_tcp)
    _need(n, FIXTURE_READINGS_MIN, "readings")
    fixtures = [pose @ goal.inverse() for pose in base_tcp]

    def solve(kept: Sequence[int]) -> Fixture:
        fixture = mean_pose([fixtures[i] for i in kept])
        return Fixture(fixture, *_distances(fixture, fixtures))

    fixture = _without_contradiction(n, 2, solve, FIXTURE_MAX_RMS_M, "is the plug home each time?")
    up = rotate(fixture.base_fixture.quaternion, np.array([0.0, 0.0, 1.0]))
    tilt = math.acos(min(1.0, max(-1.0, float(up[2]))))
    if tilt > FIXTURE_MAX_TILT_RAD:
        raise CalibrationError(
            f"the fixture would be tilted by {math.degrees(tilt):.1f} degrees, at most "
            f"{math.degrees(FIXTURE_MAX_TILT_RAD):.1f}: is the plug straight in the gripper and home in the hole?"
        )
    return fixture


def moved_box(min_m: npt.ArrayLike, max_m: npt.ArrayLike, old: Pose, new: Pose) -> tuple[Array, Array]:
    """The box, axes along the base, around a box that is moved along with a fixture from ``old`` to ``new``.

    Args:
        min_m: lower corner in the base frame, shape (3,), m.
        max_m: upper corner likewise.
    """
    corners = np.array(np.meshgrid(*zip(np.asarray(min_m), np.asarray(max_m), strict=True))).reshape(3, -1).T
    moved = np.array([new.transform(old.inverse().transform(corner)) for corner in corners])
    return moved.min(axis=0), moved.max(axis=0)


class _Motions:
    """What the TCP (A) and the camera (B) did between every two readings, where they turned enough."""

    def __init__(self, base_tcp: Sequence[Pose], camera_board: Sequence[Pose]) -> None:
        rows = []
        for i in range(len(base_tcp)):
            for j in range(i):
                a = base_tcp[i].inverse() @ base_tcp[j]
                turn = log_rotation(a.quaternion)
                if _TURN_MIN_RAD < float(np.linalg.norm(turn)) < _TURN_MAX_RAD:
                    b = camera_board[i] @ camera_board[j].inverse()
                    rows.append((i, j, turn, log_rotation(b.quaternion), a.matrix(), a.position, b.position))
        columns = [np.array([row[k] for row in rows]) for k in range(7)]
        self._i, self._j, self._turn_a, self._turn_b, self._a, self._t_a, self._t_b = columns

    def camera(self, kept: Sequence[int]) -> Pose:
        """X from the motions between the readings ``kept``."""
        among = np.isin(self._i, kept) & np.isin(self._j, kept)
        turn_a = self._turn_a[among].reshape(-1, 3)
        axes = turn_a / np.linalg.norm(turn_a, axis=1, keepdims=True)
        spread = float(np.linalg.eigvalsh(axes.T @ axes / max(len(axes), 1))[1])
        if spread < _AXES_MIN:
            raise CalibrationError(
                f"the wrist turned about one axis only, or by less than {math.degrees(_TURN_MIN_RAD):.0f} degrees "
                f"(spread {spread:.3f}, at least {_AXES_MIN}): tilt it by 20 to 40 degrees about different axes"
            )
        rotation = _nearest_rotation(turn_a.T @ self._turn_b[among])
        rows = (self._a[among] - np.eye(3)).reshape(-1, 3)
        right = (self._t_b[among] @ rotation.T - self._t_a[among]).reshape(-1)
        return Pose(np.linalg.lstsq(rows, right, rcond=None)[0], quaternion_from_matrix(rotation))


def _nearest_rotation(m: Array) -> Array:
    """The rotation matrix R that maximises trace(R^T m)."""
    u, _, vt = np.linalg.svd(m)
    signs = np.array([1.0, 1.0, np.linalg.det(u @ vt)])
    rotation: Array = (u * signs) @ vt
    return rotation


def _distances(mean: Pose, poses: Sequence[Pose]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (
        tuple(float(np.linalg.norm(pose.position - mean.position)) for pose in poses),
        tuple(rotation_angle(pose, mean) for pose in poses),
    )


def _need(n: int, least: int, what: str) -> None:
    if n < least:
        raise CalibrationError(f"{n} {what}, at least {least}: take more")


def _without_contradiction(n: int, least: int, solve: Callable[[Sequence[int]], _T], bar_m: float, question: str) -> _T:
    """The solution for all readings, where they agree within ``bar_m``.

    Raises:
        CalibrationError: they do not; names up to a third of them if leaving these out mends it, worst first.
    """
    everything = list(range(n))
    whole = solve(everything)
    error_m = rms(whole.errors_m)
    if error_m <= bar_m:
        return whole

    def error_of(kept: Sequence[int]) -> float:
        try:
            return rms([solve(kept).errors_m[i] for i in kept])
        except CalibrationError:  # what is left does not tell the answer
            return math.inf

    kept, left_out = everything, list[int]()
    while len(kept) > max(least, n - n // 3):
        worst = min(kept, key=lambda i: error_of([j for j in kept if j != i]))
        kept = [j for j in kept if j != worst]
        left_out.append(worst)
        rest_m = error_of(kept)
        if rest_m <= bar_m and rest_m * _CONTRADICTS < error_m:
            raise CalibrationError(
                f"readings {', '.join(str(i) for i in left_out)} contradict the others ({1e3 * error_m:.1f} mm with, "
                f"{1e3 * rest_m:.1f} mm without): take them again, or leave them out"
            )
    raise CalibrationError(f"readings agree within {1e3 * error_m:.1f} mm only, at most {1e3 * bar_m:.0f}: {question}")
