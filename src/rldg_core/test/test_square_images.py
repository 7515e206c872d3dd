"""Camera images become square by cropping the centre and averaging."""

from __future__ import annotations

import numpy as np
import pytest

from rldg_core.images import square


def test_an_image_of_the_right_size_is_passed_through() -> None:
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    assert square(image, 64) is image


def test_whole_blocks_are_averaged_with_rounding() -> None:
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    image[:2, :2, 0] = [[10, 11], [12, 13]]
    image[2:, 2:, 2] = 255
    small = square(image, 2)
    assert small[0, 0].tolist() == [12, 0, 0]  # 46 / 4 rounded
    assert small[1, 1].tolist() == [0, 0, 255]


@pytest.mark.parametrize("block", [2, 3, 16, 17])
def test_blocks_of_any_size_are_averaged_exactly(block) -> None:
    image = np.random.default_rng(block).integers(0, 256, (4 * block, 4 * block, 3), dtype=np.uint8)
    image[:block, :block] = 255  # the largest sum
    total = image.reshape(4, block, 4, block, 3).astype(np.int64).sum(axis=(1, 3))
    assert np.array_equal(square(image, 4), (total + block**2 // 2) // block**2)


@pytest.mark.parametrize(
    ("edge", "side"), [(10, 5), (10, 6), (10, 8), (10, 9), (10, 4), (10, 3), (75, 4), (79, 5), (90, 4)]
)
def test_blocks_of_unequal_size_are_averaged_exactly(edge, side) -> None:
    image = np.random.default_rng(side).integers(0, 256, (edge, edge, 3), dtype=np.uint8)
    image[: edge // 2] = 255  # the largest sums
    bounds = np.arange(side + 1) * edge // side
    small = square(image, side)
    for i, j in np.ndindex(side, side):
        block = image[bounds[i] : bounds[i + 1], bounds[j] : bounds[j + 1]].reshape(-1, 3).astype(np.int64)
        assert small[i, j].tolist() == ((block.sum(axis=0) + len(block) // 2) // len(block)).tolist()


def test_a_wide_image_loses_its_sides_equally() -> None:
    image = np.zeros((480, 640, 3), dtype=np.uint8)
    image[:, 80:560] = 200
    assert (square(image, 128) == 200).all()


def test_sizes_that_do_not_divide_keep_the_mean() -> None:
    image = np.random.default_rng(0).integers(0, 255, (480, 480, 3), dtype=np.uint8)
    small = square(image, 130)
    assert small.shape == (130, 130, 3) and small.dtype == np.uint8
    assert abs(float(small.mean()) - float(image.mean())) < 1.0


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"100 x 90 is smaller than camera\.image_size_px 128"):
        square(np.zeros((90, 100, 3), dtype=np.uint8), 128)
