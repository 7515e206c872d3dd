"""Images reach the model as they did in its training."""

from __future__ import annotations

import colorsys

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from rldg_policies.openvla.config import Config
from rldg_policies.openvla.images import CROP_SIDE, augment, center_crop, normalise, preprocess, resize, unit_range
from rldg_policies.openvla.presets import preset

CONFIG = preset("openvla-7b")
RNG = np.random.default_rng(0)


def _image(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_image_becomes_six_channels_dino_first() -> None:
    image = _image(224, 224)
    pixels = preprocess(image, CONFIG)
    assert pixels.shape == (1, 6, 224, 224) and pixels.dtype == torch.float32
    red, blue = image[5, 7, 0] / 255, image[5, 7, 2] / 255
    assert pixels[0, 0, 5, 7] == pytest.approx((red - 0.484375) / 0.228515625, abs=1e-6)
    assert pixels[0, 2, 5, 7] == pytest.approx((blue - 0.40625) / 0.224609375, abs=1e-6)
    assert pixels[0, 5, 5, 7] == pytest.approx(2 * blue - 1, abs=1e-6)


def test_the_mean_of_imagenet_is_rounded_to_bfloat16() -> None:
    exact = torch.tensor([0.485, 0.456, 0.406, 0.229, 0.224, 0.225])
    rounded = torch.tensor(CONFIG.pixel_mean[:3] + CONFIG.pixel_std[:3])
    assert (exact.bfloat16().float() == rounded).all()


def test_resizing_stretches_and_averages() -> None:
    image = np.zeros((100, 400, 3), np.uint8)
    image[:, 200:] = 200
    small = resize(image, 20)
    assert small.shape == (20, 20, 3)
    assert (small[:, :8] == 0).all() and (small[:, 12:] == 200).all()
    checkers = np.indices((224, 224)).sum(0) % 2 * 200
    blurred = resize(np.repeat(checkers[..., None], 3, -1).astype(np.uint8), 28)[4:-4, 4:-4]
    assert np.abs(blurred.astype(int) - 100).max() <= 3  # not aliased


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = _image(56, 56)
    assert (resize(image, 56) == image).all()


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((8, 8, 3), np.float32), r"float32\[8, 8, 3\]"),
        (np.zeros((8, 8, 4), np.uint8), r"uint8\[8, 8, 4\]"),
        (np.zeros((8, 8), np.uint8), r"uint8\[8, 8\]"),
        (np.zeros((0, 8, 3), np.uint8), r"uint8\[0, 8, 3\]"),
    ],
)
def test_what_is_no_rgb_image_is_refused(image: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=f"image: is {says}, must be uint8"):
        preprocess(image, CONFIG)


def test_the_center_crop_samples_the_corners_of_the_middle() -> None:
    ramp = torch.linspace(0, 1, 57).expand(1, 3, 57, 57)  # value = column / 56
    cropped = center_crop(ramp)
    low = (1 - CROP_SIDE) / 2
    torch.testing.assert_close(cropped[0, 0, 0], torch.linspace(low, 1 - low, 57), atol=1e-6, rtol=0)
    assert pytest.approx(0.9) == CROP_SIDE**2


def test_serving_crops_exactly_where_the_config_says_so() -> None:
    image = _image(224, 224)
    cropping = msgspec.structs.replace(CONFIG, center_crop=True)
    expected = normalise(center_crop(unit_range(image[None])), CONFIG)
    torch.testing.assert_close(preprocess(image, cropping), expected)
    assert not torch.equal(preprocess(image, CONFIG), expected)


def _augmented(images: Tensor, seed: int) -> Tensor:
    return augment(images, torch.Generator().manual_seed(seed))


def test_augmentation_is_decided_by_the_seed_and_differs_between_images() -> None:
    images = unit_range(np.repeat(_image(32, 32)[None], 4, 0))
    assert torch.equal(_augmented(images, 3), _augmented(images, 3))
    assert not torch.equal(_augmented(images, 3), _augmented(images, 4))
    assert not torch.equal(*_augmented(images, 3)[:2])


def test_augmented_pixels_stay_in_range() -> None:
    images = unit_range(np.stack([_image(24, 24) for _ in range(64)]))
    result = _augmented(images, 0)
    assert result.shape == images.shape and result.isfinite().all()
    assert result.min() >= 0.0 and result.max() <= 1.0


def test_the_crop_of_the_augmentation_moves_within_the_image() -> None:
    columns = torch.linspace(0, 1, 64).expand(256, 3, 64, 64)
    rows = columns.transpose(2, 3)
    left = [augment_only_crop(images)[:, 0, 0, 0] for images in (columns, rows)]
    for starts in left:
        assert starts.min() >= 0.0 and starts.max() <= 1 - CROP_SIDE + 1e-5
        assert starts.min() < 0.005 and starts.max() > 1 - CROP_SIDE - 0.005


def augment_only_crop(images: Tensor) -> Tensor:
    from rldg_policies.openvla import images as module

    with pytest.MonkeyPatch.context() as patch:
        for strength in ("_BRIGHTNESS", "_CONTRAST", "_SATURATION", "_HUE"):
            patch.setattr(module, strength, 0.0)
        return _augmented(images, 0)


@pytest.mark.parametrize(("strength", "value"), [("_SATURATION", 0.5), ("_HUE", 0.2)])
def test_colours_change_as_in_hsv(strength: str, value: float) -> None:
    from rldg_policies.openvla import images as module

    colours = torch.rand(200, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    if strength == "_SATURATION":
        result = module._saturate(colours, torch.full((200, 1, 1), 1.0 + value))
    else:
        result = module._turn_hue(colours, torch.full((200, 1, 1), value))
    for before, after in zip(colours[..., 0, 0].tolist(), result[..., 0, 0].tolist(), strict=True):
        hue, saturation, brightness = colorsys.rgb_to_hsv(*before)
        if strength == "_SATURATION":
            saturation = min(1.0, saturation * (1.0 + value))
        else:
            hue += value
        assert after == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, brightness), abs=1e-5)


def test_grey_and_black_have_no_hue_to_turn() -> None:
    grey = torch.tensor([0.0, 0.3, 1.0]).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    result = _augmented(grey, 0)
    assert (result - result.mean(1, keepdim=True)).abs().max() < 1e-6


def test_images_of_any_preset_fit_its_patches() -> None:
    config: Config = preset("openvla-test")
    assert preprocess(_image(128, 128), config).shape == (1, 6, 28, 28) and config.patches == 4
