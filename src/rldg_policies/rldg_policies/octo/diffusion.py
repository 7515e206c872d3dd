"""The action head: a diffusion model over chunks of actions (Ho et al. 2020; Chi et al. 2023; Octo, section III).

Everything here works on flat chunks, (..., action_horizon * action_dim), the horizon being the slower axis.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from rldg_policies.octo.config import MAX_ACTION, Diffusion

NoiseModel = Callable[[jax.Array, jax.Array], jax.Array]
"""``predict(noisy, step)``: the noise in a noisy chunk (..., size), with ``step`` int32 (..., 1)."""


def cosine_betas(steps: int) -> npt.NDArray[np.float32]:
    """Variances of the noise added at each step, (steps,) (Nichol and Dhariwal 2021, equation 17, s = 0.008).

    As in the released code the offset s is added to t / T before it is divided by 1 + s, and nothing exceeds 0.999.
    """
    t = np.arange(steps + 1) / steps
    kept = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.clip(1.0 - kept[1:] / kept[:-1], 0.0, 0.999).astype(np.float32)


class FourierFeatures(nn.Module):
    """cos and sin of 2 pi w t with learned w. The step t is the bare integer, as in the released code."""

    width: int

    @nn.compact
    def __call__(self, step: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.zeros, (self.width // 2, 1))
        angle = 2.0 * jnp.pi * step @ kernel.T
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class StepEncoder(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = nn.swish(nn.Dense(2 * self.width)(x))  # modules are named in the order they are made
        return nn.Dense(self.width)(hidden)


class MLPResNetBlock(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        hidden = nn.swish(nn.Dense(4 * width)(nn.LayerNorm()(x)))
        return x + nn.Dense(width)(hidden)


class MLPResNet(nn.Module):
    hidden: int
    blocks: int
    out: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(self.hidden)(x)
        for _ in range(self.blocks):
            x = MLPResNetBlock()(x)
        return nn.Dense(self.out)(nn.swish(x))


class NoiseNetwork(nn.Module):
    """Predicts the noise in a chunk: embedding (..., width), noisy (..., size), step (..., 1) -> (..., size)."""

    config: Diffusion

    @nn.compact
    def __call__(self, embedding: jax.Array, noisy: jax.Array, step: jax.Array) -> jax.Array:
        config = self.config
        time = FourierFeatures(config.time_width, name="time_preprocess")(step)
        time = StepEncoder(config.time_width, name="cond_encoder")(time)
        embedding = jnp.broadcast_to(embedding, (*noisy.shape[:-1], embedding.shape[-1]))
        seen = jnp.concatenate([time, embedding, noisy], axis=-1)
        return MLPResNet(config.hidden, config.blocks, noisy.shape[-1], name="reverse_network")(seen)


def noise_loss(
    predict: NoiseModel,
    chunks: jax.Array,
    mask: jax.Array,
    key: jax.Array,
    betas: npt.NDArray[np.float32],
    draws: int = 1,
) -> jax.Array:
    """Mean squared error of the predicted noise at a random step, over what the mask leaves (Ho et al., equation 14).

    Args:
        predict: gets ``draws`` noisy versions of every chunk, (draws, ..., size).
        chunks, mask: (..., size) float and bool.
        key: of jax.random.
    """
    step_key, noise_key = jax.random.split(key)
    step = jax.random.randint(step_key, (draws, *chunks.shape[:-1], 1), 0, len(betas))
    noise = jax.random.normal(noise_key, (draws, *chunks.shape))
    kept = jnp.cumprod(1.0 - betas)[step]
    noisy = jnp.sqrt(kept) * jnp.clip(chunks, -MAX_ACTION, MAX_ACTION) + jnp.sqrt(1.0 - kept) * noise
    wrong = (predict(noisy, step) - noise) ** 2
    return (wrong * mask).sum() / jnp.maximum(draws * mask.sum(), 1)


def denoise(
    predict: NoiseModel,
    shape: tuple[int, ...],
    used: jax.Array,
    key: jax.Array,
    betas: npt.NDArray[np.float32],
    clip_denoised: bool = False,
) -> jax.Array:
    """Draw chunks (Ho et al., algorithm 2), clipped at every step.

    Args:
        shape: (batch, window, size). The noise is drawn for the whole window and used for its last timestep, so that
            draws are those of the released code.
        used: (size,) bool; numbers that are not used stay noise of the strength that the network knows from training
            on padded actions.
        clip_denoised: see :class:`rldg_policies.octo.config.Diffusion`.

    Returns:
        (batch, size), for the last timestep.
    """
    alphas = 1.0 - betas
    kept = np.cumprod(alphas)
    size, spread = (1.0 - alphas) / np.sqrt(1.0 - kept), np.sqrt(1.0 - kept)
    schedule = [
        np.arange(len(betas), dtype=np.int32),
        1.0 / np.sqrt(alphas),
        size,
        np.sqrt(betas),
        np.sqrt(kept),
        spread,
    ]

    def step(carry: tuple[jax.Array, jax.Array], now: list[jax.Array]) -> tuple[tuple[jax.Array, jax.Array], None]:
        (x, key), (t, scale, size, sigma, signal, spread) = carry, now
        noise = predict(x, jnp.broadcast_to(t, (*x.shape[:-1], 1)))
        if clip_denoised:
            clean = jnp.clip((x - spread * noise) / signal, -MAX_ACTION, MAX_ACTION)
            noise = (x - signal * clean) / spread
        x = scale * (x - size * noise)
        key, drawn = jax.random.split(key)
        z = jax.random.normal(drawn, shape)[:, -1]
        x = jnp.clip(x + jnp.where(t > 0, sigma * z, 0.0), -MAX_ACTION, MAX_ACTION)
        return (jnp.where(used, x, spread * z), key), None

    key, drawn = jax.random.split(key)
    start = jax.random.normal(drawn, shape)[:, -1]
    (x, _), _ = jax.lax.scan(step, (start, key), [jnp.asarray(column[::-1].copy()) for column in schedule])
    return x
