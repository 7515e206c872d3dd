"""Resizing, augmentation and the crop at serving."""

import colorsys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rldg_policies.octo import images


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Smooth, (64, 64, 3)."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    return np.array(noise.resize((64, 64), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size_px", [32, 48, 128])
def test_resizing_is_lanczos_with_antialiasing(photo: np.ndarray, size_px: int) -> None:
    wanted = np.array(Image.fromarray(photo).resize((size_px, size_px), Image.Resampling.LANCZOS), np.int32)
    found = np.asarray(images.resize(jnp.asarray(photo), size_px), np.int32)
    edge = size_px // 8  # the two differ in what they do beyond the border
    assert np.abs(found - wanted)[edge:-edge, edge:-edge].max() <= 2


def test_an_image_of_the_right_size_stays_as_it_is(photo: np.ndarray) -> None:
    assert images.resize(photo, 64) is photo
    assert images.served(photo, "wrist", 64) is photo


def test_a_box_is_enlarged_corners_on_corners() -> None:
    ramp = np.broadcast_to(np.arange(11.0)[:, None, None], (11, 11, 3))
    found = images.crop(jnp.asarray(ramp), 0.2, 0.0, 0.5, 1.0)
    np.testing.assert_allclose(found[:, 0, 0], np.linspace(2.0, 7.0, 11), atol=1e-5)
    np.testing.assert_allclose(found[0], 2.0, atol=1e-5)


def test_the_primary_camera_is_served_the_middle_nine_tenths_of_its_area() -> None:
    ramp = np.broadcast_to(np.arange(101, dtype=np.uint8)[None, :, None], (101, 101, 3))
    served = np.asarray(images.served(jnp.asarray(ramp)[None, None], "primary", 101))[0, 0]
    start = 100.0 * (1.0 - np.sqrt(0.9)) / 2.0
    np.testing.assert_allclose(served[50, :, 0], np.linspace(start, 100.0 - start, 101), atol=0.51)


@pytest.mark.parametrize(("saturation", "hue"), [(1.0, 0.0), (0.9, 0.05), (1.1, -0.05), (3.0, 0.4)])
def test_colours_are_turned_as_in_hsv(saturation: float, hue: float) -> None:
    rng = np.random.default_rng(1)
    grey_and_pure = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    colours = np.concatenate([rng.uniform(size=(50, 3)), grey_and_pure])
    wanted = []
    for colour in colours:
        h, s, v = colorsys.rgb_to_hsv(*colour)
        wanted.append(colorsys.hsv_to_rgb((h + hue) % 1.0, min(s * saturation, 1.0), v))
    found = images.turn_colours(jnp.asarray(colours, jnp.float32), jnp.float32(saturation), jnp.float32(hue))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.fixture(scope="module")
def augmented() -> Callable[[np.ndarray, str], np.ndarray]:
    """The same image 32 times, in windows of two."""
    change = jax.jit(images.augment, static_argnames="slot")

    def made(image: np.ndarray, slot: str) -> np.ndarray:
        return np.asarray(change(jax.random.key(0), np.broadcast_to(image, (32, 2, 32, 32, 3)), slot))

    return made


def test_frames_of_a_window_are_changed_alike_and_samples_each_their_own_way(augmented: Any, photo: np.ndarray) -> None:
    changed = augmented(photo[:32, :32], "primary")
    assert changed.dtype == np.uint8
    np.testing.assert_array_equal(changed[:, 0], changed[:, 1])
    assert len(np.unique(changed[:, 0], axis=0)) == 32


def test_the_wrist_camera_keeps_its_geometry_and_the_primary_does_not(augmented: Any) -> None:
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = 200

    def varies(slot: str) -> np.ndarray:
        """Whether stripes of one colour have several colours afterwards, by sample."""
        return np.ptp(augmented(stripes, slot)[:, 0, 16, ::2, 0].astype(int), axis=1) > 0

    assert not varies("wrist").any()
    assert varies("primary").mean() > 0.5


def test_changes_stay_within_what_the_recipe_allows(augmented: Any) -> None:
    changed = augmented(np.full((32, 32, 3), 128, np.uint8), "wrist").astype(int)
    shift = changed[:, 0, 0, 0, 0] - 128  # a grey image knows neither contrast nor colour
    assert np.abs(shift).max() <= 26
    assert shift.max() > 18
    assert shift.min() < -18
