from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rldg_rl.config import TrainingConfig
from rldg_rl.networks import Spec
from rldg_rl.replay import Transition
from rldg_rl.rlpd import PolicyParams


class DivergenceError(RuntimeError):
    """Training has gone wrong and cannot recover; the message says how it shows."""


class Weights(NamedTuple):
    """What a policy needs to act, as numpy arrays."""

    version: int  # grows with every update
    params: PolicyParams


class Learner:
    """Networks, replay and the pace of their updates.

    Args:
        folder: for its log of transitions and its checkpoint; None keeps nothing.
    """

    def __init__(self, config: TrainingConfig, spec: Spec, seed: int, folder: Path | None = None) -> None: ...

    def add(self, transitions: Iterable[Transition]) -> int:
        """Take in transitions; those it has already are left out. Returns how many were new."""
        raise NotImplementedError

    def step(self) -> bool:
        """``config.utd`` updates, if the environment steps so far allow them; whether they were made.

        Raises:
            DivergenceError: the values are not finite, or far from what rewards allow.
        """
        raise NotImplementedError

    def act(self, features: npt.NDArray[np.floating], *, deterministic: bool = False) -> npt.NDArray[np.float32]:
        """The action of the newest policy at one observation, (spec.action,)."""
        raise NotImplementedError

    def weights(self) -> Weights: ...

    def metrics(self) -> dict[str, float]:
        """Means since the last call, and counters. Waits for the updates in progress."""
        raise NotImplementedError

    def save(self) -> Path:
        """Write a checkpoint, atomically."""
        raise NotImplementedError

    def restore(self) -> None:
        """Continue from the folder's checkpoint and log, as if nothing had happened."""
        raise NotImplementedError
