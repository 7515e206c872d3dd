"""Random crops of images before they are encoded: with a frozen encoder each image is encoded once, and not again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]  # (height, width, 3)


def random_crop(image: Image, rng: np.random.Generator, pad_px: int = 4) -> Image:
    """The image shifted by up to ``pad_px`` in each direction, its edge repeated; same shape, still uint8."""
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(f"image: is {image.dtype} of shape {image.shape}, must be uint8 (height, width, channels)")
    height, width = image.shape[:2]
    padded = np.pad(image, ((pad_px, pad_px), (pad_px, pad_px), (0, 0)), mode="edge")
    top, left = rng.integers(0, 2 * pad_px + 1, 2)
    return padded[top : top + height, left : left + width]


def image_views(image: Image, count: int, rng: np.random.Generator, pad_px: int = 4) -> Image:
    """The image as it is, then ``count - 1`` random crops of it, shape (count, height, width, 3)."""
    return np.stack([image, *(random_crop(image, rng, pad_px) for _ in range(count - 1))])
