"""From camera images to what OpenVLA sees, when it is served and when it is trained.

Resize to the model's side, crop (random in training, in the middle afterwards), normalise once for each tower. The
augmentation is the one of OpenVLA's fine-tuning, in its order and strengths.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from rldg_policies.openvla.config import Config

CROP_SIDE = math.sqrt(0.9)  # of the image: 0.9 of its area
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 0.2, 0.2, 0.2, 0.05


def resize(image: npt.NDArray[np.uint8], side_px: int) -> npt.NDArray[np.uint8]:
    """Stretch an image (height, width, 3) uint8 to a square; bicubic, antialiased.

    Raises:
        ValueError: it is of another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image: is {image.dtype}{list(image.shape)}, must be uint8[height, width, 3]")
    if image.shape[:2] == (side_px, side_px):
        return image
    return np.asarray(Image.fromarray(image).resize((side_px, side_px), Image.Resampling.BICUBIC))


def unit_range(images: npt.NDArray[np.uint8]) -> Tensor:
    """(batch, side, side, 3) uint8 as (batch, 3, side, side) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 255.0


def normalise(images: Tensor, config: Config) -> Tensor:
    """(batch, 3, side, side) in [0, 1] as ``pixel_values`` (batch, 6, side, side): for DINOv2, then for SigLIP."""
    mean, std = (torch.tensor(v, device=images.device).view(6, 1, 1) for v in (config.pixel_mean, config.pixel_std))
    return (torch.cat([images, images], 1) - mean) / std


def preprocess(image: npt.NDArray[np.uint8], config: Config) -> Tensor:
    """One camera image as ``pixel_values`` (1, 6, side, side) float32.

    Raises:
        ValueError: the image is not uint8 of shape (height, width, 3).
    """
    images = unit_range(resize(image, config.image_px)[None])
    return normalise(center_crop(images) if config.center_crop else images, config)


def center_crop(images: Tensor) -> Tensor:
    """The middle 0.9 of the area of (batch, 3, side, side), at the old size: the mean of the crops of training."""
    return _crop(images, torch.zeros(len(images), 2, device=images.device))


def _crop(images: Tensor, centres: Tensor) -> Tensor:
    """Bilinear crops around ``centres`` (batch, 2), in [-1, 1]; the corners of the crop are sampled."""
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = CROP_SIDE
    theta[:, :, 2] = centres
    grid = F.affine_grid(theta, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=True).clamp(0.0, 1.0)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop, brightness, contrast, saturation and hue, each image on its own, with values kept in [0, 1].

    Args:
        images: (batch, 3, side, side) in [0, 1].
        generator: of the device of the images.
    """

    def draw(*shape: int) -> Tensor:  # uniform in [-1, 1]
        return torch.rand(len(images), *shape, generator=generator, device=images.device) * 2.0 - 1.0

    images = _crop(images, (1.0 - CROP_SIDE) * draw(2))
    images = (images + _BRIGHTNESS * draw(1, 1, 1)).clamp(0.0, 1.0)
    mean = images.mean((2, 3), keepdim=True)
    images = ((images - mean) * (1.0 + _CONTRAST * draw(1, 1, 1)) + mean).clamp(0.0, 1.0)
    return _turn_hue(_saturate(images, 1.0 + _SATURATION * draw(1, 1)), _HUE * draw(1, 1))


def _saturate(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply the S of HSV by a factor (batch, 1, 1), up to 1, and keep H and V."""
    value, low = images.amax(1), images.amin(1)
    allowed = torch.minimum(factor, value / (value - low).clamp_min(1e-12))
    return (value[:, None] - (value[:, None] - images) * allowed[:, None]).clamp(0.0, 1.0)


def _turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Add a share of the circle, (batch, 1, 1), to the H of HSV."""
    red, green, blue = images.unbind(1)
    value, low = images.amax(1), images.amin(1)
    chroma = value - low
    safe = chroma.clamp_min(1e-12)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    sector = sector + 6.0 * turn
    shifts = ((sector + n) % 6.0 for n in (5.0, 3.0, 1.0))
    return torch.stack([value - chroma * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0) for k in shifts], 1)
