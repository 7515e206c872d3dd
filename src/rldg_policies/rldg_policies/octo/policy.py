"""An Octo model ready to be asked for actions: network, language, statistics and the memory of a few frames."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from rldg_policies.normalisation import read_statistics, unnormalise_gaussian
from rldg_policies.octo import checkpoint, images
from rldg_policies.octo.checkpoint import Checkpoint
from rldg_policies.octo.config import OctoError
from rldg_policies.octo.data_layout import Observation
from rldg_policies.octo.language import LanguageEncoder, make_language
from rldg_policies.octo.model import OctoModel

Image = npt.NDArray[np.uint8]
Chunk = npt.NDArray[np.float32]


class Info(NamedTuple):
    """About a prediction.

    Attributes:
        normalised: the chunk before the statistics were applied.
        seconds: wall time that it took.
    """

    normalised: Chunk
    seconds: float


class Octo:
    """A model, its parameters, the language encoder and the statistics of the actions it was trained on.

    Args:
        dataset: whose statistics to use; needed where the checkpoint has those of several.
        tokenizer: folder of the T5 tokenizer, for models that read T5 tokens.
        language: another encoder than the model's own.

    Raises:
        OctoError, StatisticsError: something of it is missing or does not fit.
    """

    def __init__(
        self,
        loaded: Checkpoint,
        *,
        dataset: str = "",
        tokenizer: Path | None = None,
        language: LanguageEncoder | None = None,
    ) -> None:
        self.model = OctoModel(loaded.config)
        self.dataset, self.statistics = read_statistics(loaded.statistics, dataset)
        if self.statistics.size > loaded.config.action_dim:
            raise OctoError(
                f"statistics of {self.dataset!r}: are of {self.statistics.size} numbers, "
                f"the model's actions have {loaded.config.action_dim}; name another data set"
            )
        self.params = jax.device_put(loaded.params)
        self.language = language or make_language(self.model, self.params, tokenizer)
        self._sample = jax.jit(partial(_sample, self.model, self.statistics.size))

    @classmethod
    def load(cls, folder: Path, *, dataset: str = "", tokenizer: Path | None = None) -> Octo:
        """From a folder of ours or a released one; arguments and errors as above."""
        return cls(checkpoint.load(folder), dataset=dataset, tokenizer=tokenizer)

    def predict(
        self, seen: Mapping[str, Sequence[Image] | Image], instruction: str, key: jax.Array
    ) -> tuple[Chunk, Info]:
        """Draw a chunk of actions.

        Args:
            seen: by slot, the last 1 to ``window`` frames, oldest first, (height, width, 3) uint8 squares of any size
                (each size compiles once).
            instruction: what to do.
            key: of jax.random, of either kind.

        Returns:
            (action_horizon, d) in the units of the training set, d as its statistics have it; the first action is due
            at the newest frame.

        Raises:
            OctoError: a slot is missing or unknown, frames have another shape or type or number, or the instruction is
                empty or too long.
        """
        started = time.perf_counter()
        observation = self._observation(seen)
        features = self.language(instruction)[None]
        if not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
            key = jax.random.wrap_key_data(key)  # a key of the other kind would compile everything again
        normalised = np.array(self._sample(self.params, observation, features, key))
        chunk = unnormalise_gaussian(normalised, self.statistics)
        return chunk, Info(normalised, time.perf_counter() - started)

    def warm_up(self, size_px: int | None = None, instruction: str = "warm up") -> None:
        """Compile for frames of this size, by default that of the slots, and remember the instruction's features."""
        blank = {
            s.name: np.zeros((1, size_px or s.size_px, size_px or s.size_px, 3), np.uint8)
            for s in self.model.config.slots
        }
        self.predict(blank, instruction, jax.random.key(0))

    def _observation(self, seen: Mapping[str, Sequence[Image] | Image]) -> Observation:
        slots, window = [slot.name for slot in self.model.config.slots], self.model.config.window
        if sorted(seen) != sorted(slots):
            raise OctoError(f"images: are of {', '.join(sorted(seen)) or 'no slot'}, the model has {', '.join(slots)}")
        counts = {len(frames) for frames in seen.values()}
        if len(counts) > 1 or not 1 <= min(counts) <= window:
            raise OctoError(f"images: there are {sorted(counts)}, must be as many of each slot, 1 to {window}")
        padding = window - counts.pop()
        windows = {name: _window(name, seen[name], padding) for name in slots}
        return Observation(windows, np.arange(window)[None] >= padding)


def _window(slot: str, frames: Sequence[Image] | Image, padding: int) -> Image:
    """(1, window, side, side, 3); before the start the first frame repeats, as in training."""
    for frame in frames:
        shape = np.shape(frame)
        if getattr(frame, "dtype", None) != np.uint8 or len(shape) != 3 or shape[0] != shape[1] or shape[2] != 3:
            raise OctoError(
                f"image of {slot!r}: is {getattr(frame, 'dtype', type(frame).__name__)}{list(shape)}, "
                "must be uint8[side, side, 3]; crop it to a square"
            )
    if len({np.shape(frame) for frame in frames}) > 1:
        raise OctoError(f"images of {slot!r}: have several sizes, must have one; forget the older ones")
    return np.stack([frames[0]] * padding + list(frames))[None]


def _sample(
    model: OctoModel, used_dims: int, params: Any, observation: Observation, language: jax.Array, key: jax.Array
) -> jax.Array:
    """From frames as they come to a normalised chunk, (action_horizon, used_dims)."""
    sizes = {slot.name: slot.size_px for slot in model.config.slots}
    seen = {name: images.served(window, name, sizes[name]) for name, window in observation.images.items()}
    observation = observation._replace(images=seen)
    return model.sample(params, observation, language, key, used_dims)[0, :, :used_dims]


class FrameMemory:
    """The last frames of an episode, for :meth:`Octo.predict`.

    Args:
        window: how many.
    """

    def __init__(self, window: int) -> None:
        self._frames: deque[Mapping[str, Image]] = deque(maxlen=window)

    def reset(self) -> None:
        """A new episode begins."""
        self._frames.clear()

    def push(self, frames: Mapping[str, Image]) -> dict[str, list[Image]]:
        """Add the newest frame of every slot; returns what to predict from."""
        self._frames.append(dict(frames))
        return {slot: [old[slot] for old in self._frames] for slot in frames}


def receding_horizon(chunk: Chunk, execute: int) -> Chunk:
    """The first ``execute`` actions of a chunk, to be executed before the next one is asked for.

    Raises:
        OctoError: the chunk has fewer.
    """
    if not 1 <= execute <= len(chunk):
        raise OctoError(f"execute: is {execute}, must be 1 to the {len(chunk)} actions of a chunk")
    return chunk[:execute]


def temporal_ensemble(chunks: Sequence[Chunk], ages: Sequence[int], decay: float = 0.0) -> Chunk:
    """One action out of all chunks that say something about now (Zhao et al. 2023, section IV.B).

    Args:
        chunks: each (horizon, d).
        ages: how many ticks ago each was predicted; chunks that have run out are left aside.
        decay: weights are exp(-decay * age): 0 is a plain mean, the newest counts most where it is positive. (The
            paper counts from the oldest chunk: give a negative value for that.)

    Returns:
        (d,).

    Raises:
        OctoError: no chunk reaches now.
    """
    said = [(chunk[age], age) for chunk, age in zip(chunks, ages, strict=True) if 0 <= age < len(chunk)]
    if not said:
        raise OctoError(f"temporal ensemble: none of {len(chunks)} chunks reaches now; predict again")
    actions, reaching = zip(*said, strict=True)
    weights = np.exp(-decay * np.array(reaching, np.float64))
    return (weights / weights.sum() @ np.stack(actions)).astype(np.float32)
