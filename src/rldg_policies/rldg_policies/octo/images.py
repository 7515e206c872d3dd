"""Images on their way into the model: resizing, the augmentation of training, and the crop that makes up for it.

Values are those of the released recipe: brightness +-0.1, contrast and saturation in [0.9, 1.1], hue +-0.05 of a turn,
and for the primary camera a random crop of [0.8, 1] of the area with an aspect ratio in [0.9, 1.1]. The wrist camera is
not cropped: where something is in its image says where it is to the gripper.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

BRIGHTNESS, HUE = 0.1, 0.05
CONTRAST = SATURATION = (0.9, 1.1)
AREA, RATIO = (0.8, 1.0), (0.9, 1.1)
CROPPED = frozenset({"primary"})  # slots
SERVED_AREA = 0.9  # the mean of AREA
Number = float | jax.Array


def resize(images: jax.Array, size_px: int) -> jax.Array:
    """(..., height, width, 3) uint8 to (..., size_px, size_px, 3) uint8, Lanczos of radius 3, antialiased."""
    if images.shape[-3:-1] == (size_px, size_px):
        return images
    shape = (*images.shape[:-3], size_px, size_px, 3)
    return _to_bytes(jax.image.resize(images.astype(jnp.float32), shape, "lanczos3", antialias=True))


def served(images: jax.Array, slot: str, size_px: int) -> jax.Array:
    """What the model is served: resized, and for a slot that is cropped in training, the middle of it.

    Args, returns: as for :func:`resize`.
    """
    images = resize(images, size_px)
    if slot not in CROPPED:
        return images
    side = SERVED_AREA**0.5
    start = (1.0 - side) / 2.0
    flat = images.reshape(-1, size_px, size_px, 3)
    cropped = jax.vmap(crop, in_axes=(0, None, None, None, None))(flat, start, start, side, side)
    return _to_bytes(cropped).reshape(images.shape)


def crop(image: jax.Array, top: Number, left: Number, height: Number, width: Number) -> jax.Array:
    """Cut out a box and enlarge it to the size of the image, bilinear, corners on corners.

    Args:
        image: (side, side, 3).
        top, left, height, width: of the box, as fractions of the sides.

    Returns:
        float32 of the shape of the image.
    """
    return _stretch(_stretch(image.astype(jnp.float32), top, height, 0), left, width, 1)


def _stretch(image: jax.Array, start: Number, length: Number, axis: int) -> jax.Array:
    last = image.shape[axis] - 1
    place = start * last + length * jnp.arange(last + 1)
    first = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, last - 1)
    weight = jnp.expand_dims(place - first, [a for a in range(3) if a != axis])
    return jnp.take(image, first, axis) * (1.0 - weight) + jnp.take(image, first + 1, axis) * weight


def augment(key: jax.Array, images: jax.Array, slot: str) -> jax.Array:
    """Change images as training does.

    Args:
        key: of jax.random.
        images: (batch, window, side, side, 3) uint8; the images of a window are changed alike.

    Returns:
        The same shape and type.
    """
    keys = jax.random.split(key, len(images))
    return jax.vmap(partial(_augment_window, crops=slot in CROPPED))(keys, images)


def _augment_window(key: jax.Array, images: jax.Array, crops: bool) -> jax.Array:
    box_key, *keys = jax.random.split(key, 5)
    brightness, contrast, saturation, hue = (
        jax.random.uniform(key, minval=low, maxval=high)
        for key, (low, high) in zip(keys, [(-BRIGHTNESS, BRIGHTNESS), CONTRAST, SATURATION, (-HUE, HUE)], strict=True)
    )
    x = images.astype(jnp.float32) / 255.0
    if crops:
        x = jax.vmap(crop, in_axes=(0, None, None, None, None))(x, *_random_box(box_key))
    x = jnp.clip(x + brightness, 0.0, 1.0)
    mean = x.mean((1, 2), keepdims=True)
    x = jnp.clip((x - mean) * contrast + mean, 0.0, 1.0)
    return _to_bytes(255.0 * turn_colours(x, saturation, hue))


def _random_box(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    area_key, ratio_key, top_key, left_key = jax.random.split(key, 4)
    area = jax.random.uniform(area_key, minval=AREA[0], maxval=AREA[1])
    ratio = jnp.exp(jax.random.uniform(ratio_key, minval=jnp.log(RATIO[0]), maxval=jnp.log(RATIO[1])))
    height, width = jnp.minimum(jnp.sqrt(area / ratio), 1.0), jnp.minimum(jnp.sqrt(area * ratio), 1.0)
    top, left = jax.random.uniform(top_key) * (1.0 - height), jax.random.uniform(left_key) * (1.0 - width)
    return top, left, height, width


def turn_colours(x: jax.Array, saturation: jax.Array, hue: jax.Array) -> jax.Array:
    """Scale the saturation and shift the hue of (..., 3) RGB in [0, 1], in HSV.

    Args:
        saturation: factor; what exceeds 1 is clipped.
        hue: in turns.
    """
    r, g, b = x[..., 0], x[..., 1], x[..., 2]  # channels apart: several times as fast as along the last axis
    value, low = jnp.maximum(jnp.maximum(r, g), b), jnp.minimum(jnp.minimum(r, g), b)
    chroma = value - low
    safe = jnp.where(chroma > 0.0, chroma, 1.0)
    sector = jnp.where(value == r, (g - b) / safe, jnp.where(value == g, 2.0 + (b - r) / safe, 4.0 + (r - g) / safe))
    chroma = jnp.minimum(chroma * saturation, value)  # saturation is chroma / value
    channels = []
    for first in (5.0, 3.0, 1.0):
        turned = first + sector + 6.0 * hue
        turned -= 6.0 * jnp.floor(turned / 6.0)
        channels.append(value - chroma * jnp.clip(jnp.minimum(turned, 4.0 - turned), 0.0, 1.0))
    return jnp.stack(channels, axis=-1)


def _to_bytes(x: jax.Array) -> jax.Array:
    return jnp.clip(jnp.round(x), 0.0, 255.0).astype(jnp.uint8)
