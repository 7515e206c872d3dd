"""The lens of a square image is the one through which its pixels were seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rldg_core.images import Lens, square

CAMERA = Lens(640, 480, 433.0, 433.0, 320.0, 240.0)
D405 = Lens(1280, 720, 653.8, 653.1, 652.4, 361.8)  # one of them, as told in librealsense's issue 13721


def seen_at(lens: Lens, point: tuple[float, float, float]) -> tuple[float, float]:
    """Where a point (x right, y down, z ahead) appears, from the image's corner."""
    x, y, z = point
    return lens.focal_x * x / z + lens.centre_x, lens.focal_y * y / z + lens.centre_y


@pytest.mark.parametrize("side", [128, 130, 256])
@pytest.mark.parametrize("point", [(0.0, 0.0, 0.2), (0.05, -0.08, 0.2), (-0.1, 0.1, 0.25)])
def test_a_point_appears_in_the_square_image_where_its_lens_says(side: int, point: tuple[float, float, float]) -> None:
    u, v = seen_at(CAMERA, point)
    image = np.zeros((480, 640, 3), np.uint8)
    image[round(v) - 2 : round(v) + 2, round(u) - 2 : round(u) + 2] = 255
    small = square(image, side)[:, :, 0].astype(float)
    rows, columns = np.indices(small.shape) + 0.5
    found = (small * columns).sum() / small.sum(), (small * rows).sum() / small.sum()
    assert found == pytest.approx(seen_at(CAMERA.squared(side), point), abs=0.5)


def test_a_d405_sees_as_much_as_the_simulated_camera() -> None:
    assert math.degrees(D405.squared(128).field_of_view_rad) == pytest.approx(58.0, abs=0.5)
    assert D405.squared(256).field_of_view_rad == pytest.approx(D405.field_of_view_rad)
