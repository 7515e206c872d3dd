"""From images to tokens: the convolutional stem of Octo (Octo Model Team 2024, section III; Xiao et al. 2021), and one
for CPUs.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from rldg_policies.patch_stem import PatchStem

STEM_WIDTHS = (32, 96, 192, 384)
TOKEN_WIDTH = 512


class StdConv(nn.Module):
    """3 x 3 convolution of stride 2 whose kernel has mean 0 and standard deviation 1 for every output channel."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.zeros, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        seen = (0, 1, 2)
        kernel = (kernel - kernel.mean(seen)) / (kernel.std(seen) + 1e-5)
        padding = ((1, 1), (1, 1))
        return (
            jax.lax.conv_general_dilated(x, kernel, (2, 2), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias
        )


class SmallStem16(nn.Module):
    """One token for every 16 x 16 pixels: (n, side, side, channels) in [-1, 1] -> (n, (side / 16)^2, 512)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in STEM_WIDTHS:
            x = nn.relu(nn.GroupNorm(num_groups=32)(StdConv(width)(x)))
        x = nn.Conv(TOKEN_WIDTH, (1, 1), name="embedding")(x)
        return x.reshape(len(x), -1, TOKEN_WIDTH)


class PatchStem16(nn.Module):
    """A token for every 16 x 16 pixels, or a few for all: (n, side, side, channels) in [-1, 1] -> (n, tokens, k)."""

    config: PatchStem

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for side, width in zip(self.config.sides, self.config.widths, strict=True):
            n, height, wide, channels = x.shape
            x = x.reshape(n, height // side, side, wide // side, side, channels).swapaxes(2, 3)
            x = x.reshape(n, height // side, wide // side, -1)
            x = nn.relu(nn.Dense(width)(x))
        if self.config.tokens:
            x = nn.Dense(self.config.tokens * self.config.token_width, name="summary")(x.reshape(len(x), -1))
            x = x.reshape(len(x), self.config.tokens, -1)
        return nn.LayerNorm()(x.reshape(len(x), -1, x.shape[-1]))  # before, it would cost more than all products


class ImageTokenizer(nn.Module):
    """Tokens of a camera's images: (batch, window, side, side, 3) uint8 -> (batch, window, tokens, channels).

    The released models read a goal image on three more channels. It is black where the goal is said in words, which
    is always so here.
    """

    stem: PatchStem | None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        flat = images.reshape(-1, *images.shape[2:])
        if self.stem is not None:
            tokens = PatchStem16(self.stem)(flat.astype(jnp.float32) / 127.5 - 1.0)
        else:
            seen = jnp.concatenate([flat, jnp.zeros_like(flat)], axis=-1).astype(jnp.float32) / 127.5 - 1.0
            tokens = SmallStem16()(seen)
        return tokens.reshape(*images.shape[:2], *tokens.shape[1:])
