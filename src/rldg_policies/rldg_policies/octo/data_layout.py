"""From episodes to what the model is trained on: windows of observations, chunks of actions, and their masks.

Numpy only. The rules are those of the released data pipeline, so that released checkpoints find what they know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rldg_policies.octo.config import OctoConfig, OctoError

Values = Any  # an array of numpy or jax


class Observation(NamedTuple):
    """What the model sees.

    Attributes:
        images: by slot, (batch, window, side, side, 3) uint8, RGB, the newest last. A slot that is missing has no
            tokens.
        timestep_mask: (batch, window) bool, False where a timestep is only padding.
    """

    images: dict[str, Values]
    timestep_mask: Values


class Batch(NamedTuple):
    """What the model is trained on.

    Attributes:
        observation: see there.
        language: (batch, n, features) float32, of a language encoder.
        actions: (batch, window, action_horizon, action_dim) float32, normalised.
        action_mask: of the same shape, bool: False where an action is only padding.
    """

    observation: Observation
    language: Values
    actions: Values
    action_mask: Values


class Episode(NamedTuple):
    """One demonstration of length T.

    Attributes:
        images: by slot, T images (side, side, 3) uint8 of the slot's size.
        actions: (T, d) float32, normalised, d at most the model's ``action_dim``.
        language: (n, features) float32.
    """

    images: Mapping[str, Sequence[npt.NDArray[np.uint8]]]
    actions: npt.NDArray[np.float32]
    language: npt.NDArray[np.float32]


def chunk_targets(
    actions: npt.NDArray[np.float32], horizon: int, action_dim: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """The next ``horizon`` actions at every timestep; past the end the last one repeats.

    The first repeat is trained on, what comes after is not: T = 4, horizon 4 leaves 3, 2 at the last two timesteps.

    Args:
        actions: (T, d), d at most ``action_dim``; the numbers beyond d are 0 and not trained on.

    Returns:
        Chunks and mask, both (T, horizon, action_dim).
    """
    length, dims = actions.shape
    due = np.arange(length)[:, None] + np.arange(horizon)
    chunks = np.zeros((length, horizon, action_dim), np.float32)
    chunks[..., :dims] = actions[np.minimum(due, length - 1)]
    return chunks, (due <= length)[..., None] & (np.arange(action_dim) < dims)


def history(length: int, window: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Which timesteps the window at every timestep holds, and which of them are real.

    Before the start the first repeats.

    Returns:
        Indices and mask, both (length, window), the newest last.
    """
    seen = np.arange(length)[:, None] + np.arange(1 - window, 1)
    return np.maximum(seen, 0), seen >= 0


def make_batch(episodes: Sequence[Episode], picks: Sequence[tuple[int, int]], config: OctoConfig) -> Batch:
    """Put timesteps of episodes together.

    Args:
        picks: (episode, timestep) of each sample.

    Raises:
        OctoError: images, actions or language of an episode are not what the model takes.
    """
    images: dict[str, list[Values]] = {slot.name: [] for slot in config.slots}
    rows = []
    for number, t in picks:
        episode = episodes[number]
        _check(episode, number, config)
        indices, real = history(len(episode.actions), config.window)
        chunks, mask = chunk_targets(episode.actions, config.action_horizon, config.action_dim)
        for slot, windows in images.items():
            windows.append(np.stack([episode.images[slot][i] for i in indices[t]]))
        rows.append((real[t], episode.language, chunks[indices[t]], mask[indices[t]]))
    timestep_mask, language, actions, action_mask = (np.stack(column) for column in zip(*rows, strict=True))
    seen = Observation({slot: np.stack(windows) for slot, windows in images.items()}, timestep_mask)
    return Batch(seen, language, actions, action_mask)


def _check(episode: Episode, number: int, config: OctoConfig) -> None:
    length = len(episode.actions)
    for slot in config.slots:
        images = episode.images.get(slot.name, ())
        shape = (slot.size_px, slot.size_px, 3)
        if len(images) != length or any(image.shape != shape or image.dtype != np.uint8 for image in images):
            raise OctoError(
                f"episode {number}: slot {slot.name!r} must have {length} images of type uint8{list(shape)}, "
                "one for each action; resize them with octo.images.resize"
            )
    features = (config.language.tokens, config.language.width)
    if episode.language.shape != features:
        raise OctoError(
            f"episode {number}: language has shape {episode.language.shape}, must be {features}; "
            "use the encoder of this model"
        )
    if episode.actions.ndim != 2 or not 1 <= episode.actions.shape[1] <= config.action_dim:
        raise OctoError(
            f"episode {number}: actions have shape {episode.actions.shape}, must be (T, at most {config.action_dim})"
        )
    if not np.isfinite(episode.actions).all():
        raise OctoError(f"episode {number}: an action is not finite; build the training set anew")
