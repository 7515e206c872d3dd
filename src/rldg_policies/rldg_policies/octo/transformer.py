"""The block-wise transformer of Octo: groups of tokens, and who may look at whom.

Tokens in order: the task (its language), then for every timestep what was observed, a copy of the language, and the
readout, which is where the action head reads (Octo Model Team 2024, section III).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from rldg_policies.octo.config import OctoConfig
from rldg_policies.octo.tokenizers import ImageTokenizer


class Kind(IntEnum):
    TASK = 0
    OBSERVATION = 1
    READOUT = 2


class Group(NamedTuple):
    """Tokens that are treated alike.

    Attributes:
        kind: what they are.
        tokens: (batch, window, n, width); those of the task (batch, n, width).
        mask: bool, of the same shape without the width: False where nobody may look.
    """

    kind: Kind
    tokens: jax.Array
    mask: jax.Array


def attention_rule(
    task_tokens: int, groups: Sequence[tuple[Kind, int]], window: int, correct: bool = True
) -> npt.NDArray[np.bool_]:
    """Who may look at whom, before padding.

    Token i may look at token j if j is not later than i and j is of the task, or both are not of the task and j is
    observed, or both are the readout. So the readout sees everything up to its timestep and is seen by itself only.

    Args:
        task_tokens: how many tokens the task has; they come first, and before all timesteps.
        groups: kind and number of tokens of the groups of one timestep.
        correct: False reproduces the error in the models before 1.5, which looked a token's group up with
            ``searchsorted(..., side="left")``: the first token of every group but the first counts to the one before.

    Returns:
        (n, n), row i says what token i may look at.
    """
    ends = np.cumsum([count for _, count in groups])
    group = np.searchsorted(ends, np.arange(ends[-1]), side="right" if correct else "left")
    kinds = np.array([kind for kind, _ in groups])[group]
    kind = np.concatenate([np.full(task_tokens, Kind.TASK), np.tile(kinds, window)])
    time = np.concatenate([np.full(task_tokens, -1), np.repeat(np.arange(window), ends[-1])])
    looks, seen = kind[:, None], kind[None, :]
    allowed = (
        (seen == Kind.TASK)
        | ((looks != Kind.TASK) & (seen == Kind.OBSERVATION))
        | ((looks == Kind.READOUT) & (seen == Kind.READOUT))
    )
    return allowed & (time[None, :] <= time[:, None])


def attention_mask(task: Group, steps: Sequence[Group], correct: bool = True) -> jax.Array:
    """Who may look at whom, padding included: (batch, 1, n, n) bool, for tokens in the order of the module."""
    batch, window = steps[0].mask.shape[:2]
    keys = jnp.concatenate([group.mask for group in steps], axis=2).reshape(batch, -1)
    keys = jnp.concatenate([task.mask, keys], axis=1)
    counts = [(group.kind, group.mask.shape[2]) for group in steps]
    rule = jnp.asarray(attention_rule(task.mask.shape[1], counts, window, correct))
    return rule[None, None] & keys[:, None, None, :]


class MlpBlock(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = nn.gelu(nn.Dense(self.hidden)(x))  # modules are named in the order they are made
        return nn.Dense(x.shape[-1])(hidden)


class EncoderBlock(nn.Module):
    """Attention and MLP, each behind a LayerNorm and beside a residual."""

    heads: int
    mlp: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=mask)
        return x + MlpBlock(self.mlp)(nn.LayerNorm()(x))


class Transformer(nn.Module):
    """(batch, n, width), (batch, 1, n, n) -> (batch, n, width)."""

    layers: int
    heads: int
    mlp: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        for layer in range(self.layers):
            x = EncoderBlock(self.heads, self.mlp, name=f"encoderblock_{layer}")(x, mask)
        return nn.LayerNorm(name="encoder_norm")(x)


class BlockTransformer(nn.Module):
    """Runs the transformer over groups of tokens; returns those of the timesteps, each in its shape."""

    config: OctoConfig

    @nn.compact
    def __call__(self, task: Group, steps: Sequence[Group]) -> list[jax.Array]:
        config, (batch, window) = self.config, steps[0].mask.shape[:2]
        x = jnp.concatenate([group.tokens for group in steps], axis=2).reshape(batch, -1, config.width)
        x = jnp.concatenate([task.tokens, x], axis=1)
        mask = attention_mask(task, steps, config.correct_attention)
        x = Transformer(config.layers, config.heads, config.mlp, name="Transformer_0")(x, mask)
        x = x[:, task.mask.shape[1] :].reshape(batch, window, -1, config.width)
        return jnp.split(x, np.cumsum([group.mask.shape[2] for group in steps])[:-1], axis=2)


class OctoTransformer(nn.Module):
    """From observations and language features to the readout; names of parameters as in the released checkpoints."""

    config: OctoConfig

    @nn.compact
    def __call__(self, images: dict[str, jax.Array], timestep_mask: jax.Array, language: jax.Array) -> jax.Array:
        """Args as in :class:`rldg_policies.octo.data_layout.Observation`; language: (batch, n, features).

        Returns:
            (batch, window, readout tokens, width).
        """
        config, (batch, window) = self.config, timestep_mask.shape

        def embedded(name: str, tokens: jax.Array) -> jax.Array:
            return nn.Dense(config.width, name=f"{name}_projection")(tokens)

        def position(name: str, *shape: int) -> jax.Array:
            return self.param(f"{name}_pos_embedding", nn.initializers.zeros, (1, *shape, config.width))

        def every_step(tokens: jax.Array) -> jax.Array:
            return jnp.broadcast_to(tokens, (batch, window, *tokens.shape[2:]))

        words = embedded("task_language", language) + position("task_language", config.language.tokens)
        task = Group(Kind.TASK, words, jnp.ones(words.shape[:-1], bool))
        steps = []
        for slot in config.slots:
            if slot.name not in images:
                continue  # a camera that is not there has no tokens
            tokens = ImageTokenizer(config.stem, name=f"observation_tokenizers_{slot.name}")(images[slot.name])
            tokens = embedded(f"obs_{slot.name}", tokens)
            tokens += position(f"obs_{slot.name}", config.max_horizon, tokens.shape[2])[:, :window]
            seen = jnp.broadcast_to(timestep_mask[:, :, None], tokens.shape[:-1])
            steps.append(Group(Kind.OBSERVATION, tokens, seen))
        if config.repeat_language:
            steps.append(Group(Kind.OBSERVATION, every_step(words[:, None]), every_step(task.mask[:, None])))
        readout = every_step(position("readout_action", config.max_horizon, config.readout_tokens)[:, :window])
        steps.append(Group(Kind.READOUT, readout, jnp.ones(readout.shape[:-1], bool)))
        return BlockTransformer(config, name="BlockTransformer_0")(task, steps)[-1]
