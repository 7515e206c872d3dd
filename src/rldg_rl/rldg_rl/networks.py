"""The networks of a specialist (HIL-SERL, section "system overview" and appendix), all on stored feature vectors.

A stored feature vector is flat. With a grid, its first height * width * channels values are the output of a frozen
backbone and the rest is what the arm feels; :class:`Head` is then trained by the critic and its output is what actor
and gripper critic read, without a gradient back into it. Without a grid it is read as it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rldg_core.types import ACTION_SIZE
from rldg_rl.config import Activation, TrainingConfig

STD_MIN, STD_MAX = 1e-5, 5.0  # HIL-SERL's
# Q is 0 everywhere until a reward says otherwise. With a random last layer the actor follows values of up to 1 that
# nothing supports, and which vanish only with gamma: usb_insertion was then not solved once in 2000 steps, against 5
# times in 20 after 1400.
UNKNOWING = nn.initializers.zeros
Params = Any  # a tree of arrays


class Spec(NamedTuple):
    """The shapes of a problem.

    Attributes:
        features: length of a stored feature vector.
        gripper: actions have a seventh number, the held state of the gripper: 1 closed, 0 open.
        grid: (channels, cells) of a backbone's output at the head of the feature vector, or None.
    """

    features: int
    gripper: bool = False
    grid: tuple[int, int] | None = None

    @property
    def action(self) -> int:
        """Length of an action."""
        return ACTION_SIZE + self.gripper

    @property
    def dtype(self) -> type[np.floating]:
        """How features are stored: outputs of a backbone need no more than half precision."""
        return np.float32 if self.grid is None else np.float16


def single_precision(values: jax.Array) -> jax.Array:
    """Finite numbers as float32, written out for halves (below 6e-5 they become 0): XLA converts those slowly."""
    if values.dtype != jnp.float16:
        return values.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(values, jnp.uint16).astype(jnp.uint32)
    # exponent and mantissa move to their new places, and the product corrects the exponent
    size = jax.lax.bitcast_convert_type((bits & 0x7FFF) << 13, jnp.float32) * 2.0**112
    return jnp.where(bits >> 15, -size, size)


class MLP(nn.Module):
    """Dense, LayerNorm, activation, for every hidden size; the LayerNorm bounds the critic (RLPD section 4.2)."""

    hidden: tuple[int, ...]
    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        activate = jnp.tanh if self.activation is Activation.TANH else nn.relu
        for size in self.hidden:
            x = nn.Dense(size, kernel_init=nn.initializers.xavier_uniform())(x)
            x = activate(nn.LayerNorm()(x))
        return x


class Head(nn.Module):
    """From stored features to what actor and critics read.

    Spatial learned embeddings weigh the cells of the grid, a bottleneck follows (HIL-SERL). Their dropout is left
    out, as is the image augmentation at this point: see the stored views in ``replay``.
    """

    config: TrainingConfig
    spec: Spec

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        features = single_precision(features)
        if self.spec.grid is None:
            return features
        channels, cells = self.spec.grid
        size = channels * cells
        kernel = self.param(
            "embeddings",
            nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0),
            (channels, cells, self.config.spatial_embeddings),
        )
        # a product of matrices for each channel: written as one einsum it takes three times as long on a CPU
        maps = jnp.moveaxis(features[..., :size].reshape(-1, channels, cells), 1, 0)
        embedded = jnp.moveaxis(maps @ kernel, 0, 1).reshape(*features.shape[:-1], -1)
        seen = jnp.tanh(nn.LayerNorm()(nn.Dense(self.config.bottleneck)(embedded)))
        felt = jnp.tanh(nn.LayerNorm()(nn.Dense(self.config.vector_features)(features[..., size:])))
        return jnp.concatenate([seen, felt], axis=-1)


class Actor(nn.Module):
    """Mean and standard deviation of the Gaussian whose tanh is the action, each (..., 6)."""

    config: TrainingConfig

    @nn.compact
    def __call__(self, read: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = MLP(self.config.hidden, self.config.activation)(read)
        mean = nn.Dense(ACTION_SIZE, kernel_init=nn.initializers.normal(0.01))(x)
        log_std = nn.Dense(ACTION_SIZE, kernel_init=nn.initializers.normal(0.01))(x)
        return mean, jnp.clip(jnp.exp(log_std), STD_MIN, STD_MAX)


class Critic(nn.Module):
    """Q of one continuous action, (...)."""

    config: TrainingConfig

    @nn.compact
    def __call__(self, read: jax.Array, action: jax.Array) -> jax.Array:
        x = MLP(self.config.hidden, self.config.activation)(jnp.concatenate([read, action], axis=-1))
        return nn.Dense(1, kernel_init=UNKNOWING)(x)[..., 0]


class GripperCritic(nn.Module):
    """Q of holding the gripper open and of holding it closed, (..., 2)."""

    config: TrainingConfig

    @nn.compact
    def __call__(self, read: jax.Array) -> jax.Array:
        x = MLP(self.config.hidden, self.config.activation)(read)
        return nn.Dense(2, kernel_init=UNKNOWING)(x)


def ensemble(config: TrainingConfig) -> nn.Module:
    """``config.critics`` independent critics of one input, Q of shape (critics, ...)."""
    made = nn.vmap(
        Critic, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=config.critics
    )
    return made(config)


def apply(module: nn.Module, params: Params, *inputs: Any) -> Any:
    """What a module returns with these parameters."""
    return module.apply(params, *inputs)
