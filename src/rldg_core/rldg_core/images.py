"""From what a camera delivers to the square image of an observation, and the lens of both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Lens:
    """Pinhole model of an image, in pixels; the image's corner is at (0, 0).

    Attributes:
        distortion: coefficients of ``model``, a ``distortion_model`` of sensor_msgs/CameraInfo.
    """

    width: int
    height: int
    focal_x: float
    focal_y: float
    centre_x: float
    centre_y: float
    model: str = "plumb_bob"
    distortion: tuple[float, ...] = (0.0,) * 5

    @property
    def field_of_view_rad(self) -> float:
        """Vertical angle from edge to edge, distortion left aside."""
        return 2.0 * math.atan(self.height / (2.0 * self.focal_y))

    def squared(self, side: int) -> Lens:
        """The lens of what :func:`square` makes of the image."""
        edge = min(self.width, self.height)
        left, top, scale = (self.width - edge) // 2, (self.height - edge) // 2, side / edge
        return Lens(
            side,
            side,
            self.focal_x * scale,
            self.focal_y * scale,
            (self.centre_x - left) * scale,
            (self.centre_y - top) * scale,
            self.model,
            self.distortion,
        )


def square(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Crop the centre to a square and average it down to ``side`` pixels.

    Args:
        image: shape (height, width, 3).
        side: pixels; returned as it is where ``image`` has this size already.

    Raises:
        ValueError: the image is smaller than ``side``: enlarging would invent detail.
    """
    height, width, _ = image.shape
    if height == width == side:
        return image
    edge = min(height, width)
    if edge < side:
        raise ValueError(
            f"image: {width} x {height} is smaller than camera.image_size_px {side}; raise the camera's resolution"
        )
    top, left = (height - edge) // 2, (width - edge) // 2
    crop = image[top : top + edge, left : left + edge]
    if edge % side == 0:
        return _average_blocks(crop, edge // side)
    bounds = np.arange(side + 1) * edge // side
    starts, lengths = bounds[:-1], np.diff(bounds)
    if edge < 2 * side:
        return _average_neighbours(crop, starts, bounds[1:] - 1)
    return _average_unequal(crop, starts, lengths)


def _average_blocks(image: npt.NDArray[np.uint8], block: int) -> npt.NDArray[np.uint8]:
    """The same for whole blocks of ``block`` pixels a side, in a tenth of the time: sums of slices."""
    # 16 x 16 x 255 fits in 16 bits
    rows: npt.NDArray[Any] = image[::block].astype(np.uint16 if block <= 16 else np.uint32)
    for i in range(1, block):
        rows += image[i::block]
    total = rows[:, ::block].copy()
    for i in range(1, block):
        total += rows[:, i::block]
    rounded: npt.NDArray[np.uint8] = ((total + block * block // 2) // (block * block)).astype(np.uint8)
    return rounded


def _average_neighbours(
    image: npt.NDArray[np.uint8], first: npt.NDArray[np.intp], last: npt.NDArray[np.intp]
) -> npt.NDArray[np.uint8]:
    """The same for blocks of one or two pixels a side: one that stands alone counts twice."""
    rows = image[first].astype(np.uint16)
    rows += image[last]
    total = rows.take(first, axis=1)
    total += rows.take(last, axis=1)
    rounded: npt.NDArray[np.uint8] = ((total + 2) >> 2).astype(np.uint8)
    return rounded


def _average_unequal(
    image: npt.NDArray[np.uint8], starts: npt.NDArray[np.intp], lengths: npt.NDArray[np.intp]
) -> npt.NDArray[np.uint8]:
    """The same for blocks of which some are one pixel longer than the others, along either side."""
    short = int(lengths.min())
    longer = np.flatnonzero(lengths > short)
    # 16 x 16 x 255 fits in 16 bits
    rows: npt.NDArray[Any] = image[starts].astype(np.uint16 if short < 16 else np.uint32)
    for i in range(1, short):
        rows += image[starts + i]
    rows[longer] += image[starts[longer] + short]
    total = rows.take(starts, axis=1)
    for i in range(1, short):
        total += rows.take(starts + i, axis=1)
    total[:, longer] += rows.take(starts[longer] + short, axis=1)
    area = (lengths[:, None] * lengths[None, :]).astype(total.dtype)[:, :, None]
    rounded: npt.NDArray[np.uint8] = ((total + area // 2) // area).astype(np.uint8)
    return rounded
