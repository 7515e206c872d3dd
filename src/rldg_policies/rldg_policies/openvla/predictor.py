"""An OpenVLA checkpoint as the policy node asks it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from rldg_policies.openvla.checkpoint import load
from rldg_policies.openvla.config import Mode
from rldg_policies.openvla.policy import fixed_draft


class OpenVLAPredictor:
    """See :class:`rldg_policies.generalist.Predictor`.

    Args:
        folder: of the checkpoint.
        dataset: whose statistics turn tokens into actions.
        device: "cpu", "cuda", or "auto".
        draft_last: guess that an action is like the one before.
        threads: of the processor; 0: as many as the process may use.
        mode: of the language model.

    Raises:
        CheckpointError, StatisticsError: the folder cannot be used.
    """

    def __init__(
        self, folder: Path, dataset: str, device: str, draft_last: bool, threads: int, mode: Mode = "exact"
    ) -> None:
        torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = load(folder, dataset=dataset, device=device, mode=mode)
        self._draft_last, self._last = draft_last, []  # type: bool, list[int]

    def predict(self, image: npt.NDArray[np.uint8], instruction: str) -> npt.NDArray[np.float32]:
        """One action, (1, d)."""
        draft = fixed_draft(self._last) if self._draft_last and self._last else None
        action, decoded = self._model.predict(image, instruction, draft)
        self._last = decoded.ids
        return action[None]

    def tokens(self, image: npt.NDArray[np.uint8], instruction: str) -> list[int]:
        """Of the action that would be predicted, decoded without a guess."""
        return self._model.predict(image, instruction)[1].ids

    def warm_up(self, image_px: int, instruction: str) -> None:
        """Take all memory and run every shape once."""
        self._model.warm_up(instruction)
        self.predict(np.zeros((image_px, image_px, 3), np.uint8), instruction)
        self.reset()

    def reset(self) -> None:
        """What was done in the last episode is no guess for this one."""
        self._last = []
