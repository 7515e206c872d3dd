"""An Octo checkpoint as the policy node asks it."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import numpy.typing as npt

from rldg_policies.octo.policy import FrameMemory, Octo, receding_horizon


class OctoPredictor:
    """See :class:`rldg_policies.generalist.Predictor`.

    Args:
        folder: of the checkpoint.
        dataset: whose statistics turn numbers into actions.
        execute: how many actions of a chunk are offered; 0: all.
        seed: of the noise.
        tokenizer: folder of the T5 tokenizer, for models that read T5 tokens.

    Raises:
        OctoError, StatisticsError: the folder cannot be used.
    """

    def __init__(self, folder: Path, dataset: str, execute: int, seed: int, tokenizer: Path | None) -> None:
        self._octo = Octo.load(folder, dataset=dataset, tokenizer=tokenizer)
        config = self._octo.model.config
        self._execute = execute or config.action_horizon
        self._slots = [slot.name for slot in config.slots]
        self._memory, self._key = FrameMemory(config.window), jax.random.key(seed)

    def predict(self, image: npt.NDArray[np.uint8], instruction: str) -> npt.NDArray[np.float32]:
        """A chunk, (execute, d)."""
        self._key, key = jax.random.split(self._key)
        seen = self._memory.push(dict.fromkeys(self._slots, image))
        chunk, _ = self._octo.predict(seen, instruction, key)
        return receding_horizon(chunk, self._execute)

    def warm_up(self, image_px: int, instruction: str) -> None:
        """Compile for images of this size, and encode the instruction."""
        self._octo.warm_up(image_px, instruction)

    def reset(self) -> None:
        """Frames of another episode are not looked at."""
        self._memory.reset()
