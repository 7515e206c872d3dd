"""The scripted policy with faults to order: to rehearse, with a whole cell, what happens when a policy fails.

The file ``orders`` is read at every observation. One word in it names what goes wrong from then on, until it says
something else; where it is empty or missing, nothing does:

=============== ===============================================================
``nan``         answers that are not finite
``shape``       answers of seven dimensions
``raise``       an error instead of an answer
``late <s>``    answers that come so many seconds late; at most 10
``hang``        no answer any more, while the process lives
``crash``       the process ends at once
=============== ===============================================================
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rldg_core.task import Robot, Task
from rldg_core.types import ActionChunk, Observation
from rldg_policies.policy import Policy
from rldg_policies.scripted import make_scripted

_LATEST_S = 10.0
_LOOK_AGAIN_S = 0.05


class FaultyParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``orders``: path of the file."""

    orders: str


class FaultyPolicy:
    """See the module's text; follows :class:`rldg_policies.policy.Policy`."""

    def __init__(self, well: Policy, orders: Path) -> None:
        self.policy_id, self.rate_hz = well.policy_id, well.rate_hz
        self._well, self._orders = well, orders

    def warm_up(self) -> None:
        self._well.warm_up()

    def reset(self) -> None:
        self._well.reset()

    def act(self, observation: Observation) -> ActionChunk:
        chunk = self._well.act(observation)
        match self._order():
            case []:
                return chunk
            case ["nan"]:
                return replace(chunk, deltas=np.full_like(chunk.deltas, np.nan))
            case ["shape"]:
                return replace(chunk, deltas=np.zeros((1, 7)))
            case ["raise"]:
                raise RuntimeError("fails as ordered")
            case ["late", seconds]:
                time.sleep(min(float(seconds), _LATEST_S))
                return chunk
            case ["hang"]:
                while self._order() == ["hang"]:
                    time.sleep(_LOOK_AGAIN_S)
                return chunk
            case ["crash"]:
                os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError(f"{self._orders}: no such order; may say nan, shape, raise, late <s>, hang, crash")

    def _order(self) -> list[str]:
        try:
            return self._orders.read_text().split()
        except FileNotFoundError:
            return []


def make_faulty(task: Task, robot: Robot, policy_id: str, parameters: Mapping[str, Any]) -> FaultyPolicy:
    """Factory of the entry point ``faulty``.

    Raises:
        ValueError: an unknown parameter, or none.
    """
    try:
        checked = msgspec.convert(dict(parameters), FaultyParameters)
    except msgspec.ValidationError as error:
        raise ValueError(f"policy {policy_id!r}: parameters: {error}; must be orders, the path of a file") from None
    return FaultyPolicy(make_scripted(task, robot, policy_id, {}), Path(checked.orders))
