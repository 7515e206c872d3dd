"""The policy that drives while its specialist is being trained: its weights change between episodes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from rldg_core.task import Robot, Task
from rldg_rl.broadcast import unpack_weights
from rldg_rl.checkpoint import CheckpointError, Weights, load_weights
from rldg_rl.policy import WEIGHTS, Specialist, SpecialistParameters, SpecialistPolicy

_MODE_EVERY = 3  # one episode in so many is played with the mode: what will be served is also practised


class Actor(SpecialistPolicy):
    """Draws its actions; in every third episode, and where it serves a checkpoint, it takes the most likely ones.

    Args:
        parameters: ``checkpoint`` is what the run began with: preset, encoder, and weights until newer ones come.
        say: told which weights drive from now on.

    Raises:
        ValueError: unknown parameters, or a checkpoint that cannot be served.
    """

    def __init__(
        self, task: Task, robot: Robot, policy_id: str, parameters: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        try:
            checked = msgspec.convert(dict(parameters), SpecialistParameters)
        except msgspec.ValidationError as error:
            raise ValueError(f"policy {policy_id!r}: parameters: {error}") from None
        super().__init__(task, robot, policy_id, checked)
        self._weights, self._config, self._spec = load_weights(Path(checked.checkpoint) / WEIGHTS)
        self._say, self._seed, self._episodes = say, checked.seed, 0
        self._lock = threading.Lock()
        self._newest: bytes | None = None
        self._served: Weights | None = None
        self.version = self._weights.version

    def offer(self, data: bytes) -> None:
        """Weights of the learner (``rldg_rl.broadcast``), for the next episode. From any thread."""
        with self._lock:
            self._newest = data

    def serve(self, folder: Path | None) -> None:
        """From the next episode on, serve a checkpoint of this run as it is; None: learn again. From any thread.

        Raises:
            CheckpointError: it cannot be served; nothing changes.
        """
        served: Weights | None = None
        if folder is not None:
            served, config, spec = load_weights(folder / WEIGHTS)
            if (config, spec) != (self._config, self._spec):
                raise CheckpointError(f"{folder}: of another preset or other shapes than this run; use one of its own")
        with self._lock:
            self._served = served

    def warm_up(self) -> None:
        for sample in (True, False):
            self._drive(self._weights, sample)
            super().warm_up()

    def reset(self) -> None:
        """A new episode: the newest weights take over.

        Raises:
            CheckpointError: they cannot be used; those before them stay.
        """
        with self._lock:
            newest, self._newest, served = self._newest, None, self._served
        number, self._episodes = self._episodes, self._episodes + 1
        if newest is not None:
            self._weights = unpack_weights(newest, self._config, self._spec)
        by_mode = number % _MODE_EVERY == _MODE_EVERY - 1
        self._drive(served or self._weights, sample=served is None and not by_mode)

    def _drive(self, weights: Weights, sample: bool) -> None:
        seed = self._seed + self._episodes
        encoder = self._specialist.encoder
        self._specialist = Specialist(weights, self._config, self._spec, encoder, sample=sample, seed=seed)
        if weights.version != self.version:
            self.version = weights.version
            self._say(f"weights of version {weights.version} drive from now on")
