"""Table tops, drawn by arithmetic: bright grey patterns that a scene's colour tints."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rldg_core.scene_spec import Surface

SIDE_PX = 256


def surface(kind: Surface) -> npt.NDArray[np.uint8]:
    """One tile of a pattern, shape (256, 256, 3), RGB; the same at every call."""
    rng = np.random.default_rng(sorted(Surface).index(kind))
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX] / SIDE_PX
    tint = np.ones(3)
    if kind is Surface.PLAIN:
        value = 0.94 + 0.02 * _noise(rng, 8)
    elif kind is Surface.SPECKLE:
        value = 0.86 + 0.06 * _noise(rng, 32) - 0.45 * (_noise(rng, 128) > 0.72)
    elif kind is Surface.CLOTH:
        weave = np.sin(2 * np.pi * 48 * x) * np.sin(2 * np.pi * 48 * y)
        value = 0.8 + 0.14 * weave + 0.06 * _noise(rng, 16)
    elif kind is Surface.TILES:
        line = (np.minimum(x * 4 % 1, 1 - x * 4 % 1) < 0.03) | (np.minimum(y * 4 % 1, 1 - y * 4 % 1) < 0.03)
        value = np.where(line, 0.55, 0.9 + 0.05 * _noise(rng, 16))
    else:
        grain = np.sin(2 * np.pi * (7 * y + 0.8 * _noise(rng, 4) + 0.15 * np.sin(2 * np.pi * x)))
        fibre = np.repeat(rng.uniform(-1, 1, (SIDE_PX, SIDE_PX // 32)), 32, axis=1)
        value = 0.8 + 0.11 * grain + 0.05 * fibre
        tint = np.array([1.0, 0.93, 0.82])
    return (255 * np.clip(value[..., None] * tint, 0, 1)).astype(np.uint8)


def _noise(rng: np.random.Generator, cells: int) -> npt.NDArray[np.float64]:
    """Smooth periodic noise in [-1, 1] with about ``cells`` bumps a side."""
    grid = rng.uniform(-1, 1, (cells, cells))
    at = np.arange(SIDE_PX) * cells / SIDE_PX
    low, part = at.astype(int), at % 1
    part = part * part * (3 - 2 * part)
    high = (low + 1) % cells
    rows = grid[low] * (1 - part)[:, None] + grid[high] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, high] * part
