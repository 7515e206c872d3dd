"""The ChArUco board that a wrist camera is calibrated with: drawing it, and finding it in an image. Needs OpenCV."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from rldg_core.frames import Array, Pose, exp_rotation

COLUMNS, ROWS = 7, 5  # squares
MARKER_SHARE = 0.75  # of a square's side
CORNERS_MIN = 8
REPROJECTION_MAX_PX = 1.5


class BoardError(ValueError):
    """OpenCV is missing, or the board is not found well enough in an image; one line."""


@dataclass(frozen=True)
class Intrinsics:
    """A camera, as ``sensor_msgs/CameraInfo`` describes it."""

    width_px: int
    height_px: int
    matrix: Array  # shape (3, 3), px
    distortion: Array  # shape (n,), plumb_bob or rational_polynomial


def draw(square_px: int = 200) -> npt.NDArray[np.uint8]:
    """The board to print, grey, with half a square of white around it."""
    board: Any = _board(_opencv(), 1.0)
    size = (square_px * (COLUMNS + 1), square_px * (ROWS + 1))
    image: npt.NDArray[np.uint8] = board.generateImage(size, marginSize=square_px // 2)
    return image


def find(image: npt.NDArray[np.uint8], camera: Intrinsics, square_m: float) -> Pose:
    """Pose of the board in the camera's optical frame.

    Args:
        image: RGB, shape (h, w, 3).
        square_m: side of a square as printed, by a ruler over several of them.

    Raises:
        BoardError: fewer than eight corners are seen, or they do not lie where such a board's would.
    """
    cv2 = _opencv()
    board: Any = _board(cv2, square_m)
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    corners, ids, _, _ = cv2.aruco.CharucoDetector(board).detectBoard(grey)
    found = 0 if ids is None else len(ids)
    if found < CORNERS_MIN:
        raise BoardError(f"{found} corners of the board are seen, at least {CORNERS_MIN}: nearer, sharper, more light")
    at, seen = board.matchImagePoints(corners, ids)
    solved, rotation, position = cv2.solvePnP(at, seen, camera.matrix, camera.distortion)
    projected, _ = cv2.projectPoints(at, rotation, position, camera.matrix, camera.distortion)
    error_px = float(np.sqrt(np.mean(np.sum((projected.reshape(-1, 2) - seen.reshape(-1, 2)) ** 2, axis=1))))
    if not solved or not error_px <= REPROJECTION_MAX_PX:
        raise BoardError(f"corners are {error_px:.1f} px off, at most {REPROJECTION_MAX_PX}: is the board flat?")
    return Pose(position.reshape(3), exp_rotation(rotation.reshape(3)))


def _board(cv2: ModuleType, square_m: float) -> object:
    dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_5X5_100)
    return cv2.aruco.CharucoBoard((COLUMNS, ROWS), square_m, MARKER_SHARE * square_m, dictionary)


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError:
        raise BoardError("OpenCV is missing: .venv/bin/python -m pip install 'opencv-python-headless<5'") from None
    return cv2
