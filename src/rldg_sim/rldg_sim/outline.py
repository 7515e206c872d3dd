"""Outlines of plugs and holes as convex polygons."""

from __future__ import annotations

import numpy as np

from rldg_core.frames import Array
from rldg_core.scene_spec import Circle, Outline, Rectangle, Stadium

CIRCLE_EDGES, ARC_EDGES = 16, 4  # of a full circle; of the half circles of a stadium, which are small


def polygon(outline: Outline) -> Array:
    """Corners, shape (n, 2), m, counter-clockwise, of the polygon whose edges touch the outline from outside."""
    if isinstance(outline, Rectangle):
        x, y = outline.size_m[0] / 2.0, outline.size_m[1] / 2.0
        return np.array([[x, y], [-x, y], [-x, -y], [x, -y]])
    if isinstance(outline, Circle):
        return _arc(outline.diameter_m / 2.0, 0.0, 2.0 * np.pi, CIRCLE_EDGES)
    if isinstance(outline, Stadium):
        radius, straight = outline.size_m[1] / 2.0, (outline.size_m[0] - outline.size_m[1]) / 2.0
        aside = np.array([straight, 0.0])
        right = _arc(radius, -np.pi / 2.0, np.pi / 2.0, ARC_EDGES)
        left = _arc(radius, np.pi / 2.0, 1.5 * np.pi, ARC_EDGES)
        return np.concatenate([right + aside, left - aside])
    return np.array(outline.points_m, dtype=np.float64)


def _arc(radius: float, start_rad: float, end_rad: float, edges: int) -> Array:
    """Corners between the tangents that touch an arc at ``edges + 1`` equally spaced angles."""
    half = (end_rad - start_rad) / edges / 2.0
    angles = start_rad + half * (2.0 * np.arange(edges) + 1.0)
    return radius / np.cos(half) * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def edges(corners: Array) -> tuple[Array, Array, Array]:
    """Middles (n, 2), outward unit normals (n, 2) and lengths (n,) of the edges of a counter-clockwise polygon."""
    following = np.roll(corners, -1, axis=0)
    along = following - corners
    lengths = np.linalg.norm(along, axis=1)
    normals = np.stack([along[:, 1], -along[:, 0]], axis=1) / lengths[:, None]
    return (corners + following) / 2.0, normals, lengths


def contains(corners: Array, point: Array, margin: float = 0.0) -> bool:
    """Whether a point (2,) lies inside the polygon grown by ``margin`` (m)."""
    middles, normals, _ = edges(corners)
    return bool((np.einsum("ij,ij->i", normals, point - middles) <= margin).all())
