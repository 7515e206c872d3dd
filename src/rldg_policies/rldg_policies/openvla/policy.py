"""An OpenVLA that answers images: the network, its tokens, and what turns tokens into the actions of a robot."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rldg_policies.normalisation import normalise_bounds, read_statistics, unnormalise_bounds
from rldg_policies.openvla.actions import action_ids, action_values
from rldg_policies.openvla.decoding import Decoded, Decoder, Draft
from rldg_policies.openvla.images import preprocess
from rldg_policies.openvla.model import OpenVLAModel
from rldg_policies.openvla.prompt import PromptEncoder

Statistics = dict[str, Any]
"""The content of ``dataset_statistics.json``, see :mod:`rldg_policies.normalisation`."""

_BUCKET = 32  # prompts of up to a multiple of this many tokens share a decoder


class OpenVLA:
    """A model with everything around it. Not to be used by two threads.

    Args:
        model: in evaluation mode when it is asked to predict, adapters merged.
        prompts: makes its prompts.
        statistics: of the data sets that it was trained on.
        dataset: the one whose robot it drives; the only one there is where empty.

    Raises:
        StatisticsError: there are no statistics of the data set, or they are wrong.
    """

    def __init__(self, model: OpenVLAModel, prompts: PromptEncoder, statistics: Statistics, dataset: str = "") -> None:
        self.model, self.prompts, self.statistics = model, prompts, statistics
        self.dataset, self.bounds = read_statistics(statistics, dataset)
        self._decoders: dict[int, Decoder] = {}

    @property
    def action_dim(self) -> int:
        """Numbers of an action."""
        return self.bounds.size

    def predict(
        self, image: npt.NDArray[np.uint8], instruction: str, draft: Draft | None = None
    ) -> tuple[npt.NDArray[np.float32], Decoded]:
        """The action that follows from an image.

        Args:
            image: RGB (height, width, 3) uint8, of any size.
            instruction: what to do.
            draft: guesses the ids of the action's tokens, see :mod:`rldg_policies.openvla.decoding`.

        Returns:
            The action (action_dim,) in the units of the data set, and how it was decoded.

        Raises:
            ValueError: image, instruction or draft cannot be used.
        """
        decoder, prompt = self._decoder(instruction)
        decoded = decoder.decode(preprocess(image, self.model.spec), prompt, draft)
        return self.actions(decoded.ids), decoded

    def actions(self, ids: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Actions (..., action_dim) that token ids (..., action_dim) stand for, in the units of the data set."""
        return unnormalise_bounds(action_values(ids, self.model.spec), self.bounds)

    def ids(self, action: npt.ArrayLike) -> list[int]:
        """The tokens of an action in the units of the data set: what a draft or a training example is made of.

        Raises:
            ValueError: it is not finite.
        """
        return action_ids(normalise_bounds(action, self.bounds), self.model.spec).tolist()

    def warm_up(self, instruction: str = "wait") -> None:
        """Make the first :meth:`predict` as fast as any, for instructions up to about the length of this one."""
        decoder, prompt = self._decoder(instruction)
        side = self.model.spec.image_px
        decoder.warm_up(preprocess(np.zeros((side, side, 3), np.uint8), self.model.spec), prompt)

    def _decoder(self, instruction: str) -> tuple[Decoder, list[int]]:
        prompt = self.prompts.prompt(instruction, self.action_dim)
        spec = self.model.spec
        room = spec.max_length - spec.patches - self.action_dim
        length = min(-(-len(prompt) // _BUCKET) * _BUCKET, room)
        if length not in self._decoders:
            self._decoders[length] = Decoder(self.model, length, self.action_dim)
        return self._decoders[length], prompt


def fixed_draft(ids: list[int]) -> Draft:
    """Guess these tokens, whatever has been decided so far: the previous action, or another policy's answer."""
    return lambda decided: ids[len(decided) :]
