"""What a policy is, and how one is found by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

import numpy as np

from rldg_core.task import Robot, Task
from rldg_core.types import ActionChunk, Observation

GROUP = "rldg.policies"
_OWN = {  # known without installation metadata too
    "scripted": "rldg_policies.scripted:make_scripted",
    "faulty": "rldg_policies.faulty:make_faulty",
    "openvla": "rldg_policies.generalist:make_openvla",
    "octo": "rldg_policies.generalist:make_octo",
}


class Policy(Protocol):
    """Maps an observation to a chunk of actions. Called from one thread, never concurrently.

    Attributes:
        policy_id: unique among the running policies; every chunk carries it.
        rate_hz: how many answers a second it is able to give.
        checkpoint_hash: optional; what it was loaded from, for the recordings of what it does.
    """

    policy_id: str
    rate_hz: float

    def warm_up(self) -> None:
        """Do everything that makes the first :meth:`act` slow (loading, compiling). Raise to refuse."""

    def act(self, observation: Observation) -> ActionChunk:
        """Answer one observation.

        Returns:
            Deltas of shape (length, 6), each in [-1, 1], in the TCP frame, the first due at the observation's stamp.
        """

    def reset(self) -> None:
        """A new episode begins with the next observation."""


Factory = Callable[[Task, Robot, str, Mapping[str, Any]], Policy]
"""``factory(task, robot, policy_id, parameters)``; raises ValueError for parameters it does not know."""


def policy_names() -> list[str]:
    """Names of the policies that are installed, sorted."""
    return sorted({*_OWN, *(point.name for point in entry_points(group=GROUP))})


def make_policy(name: str, task: Task, robot: Robot, policy_id: str, parameters: Mapping[str, Any]) -> Policy:
    """Make the policy called ``name`` of the entry point group ``rldg.policies``.

    Raises:
        ValueError: no such policy, or its factory refuses the parameters.
    """
    points = {name_: EntryPoint(name_, value, GROUP) for name_, value in _OWN.items()}
    points.update({point.name: point for point in entry_points(group=GROUP)})
    point = points.get(name)
    if point is None:
        raise ValueError(f"policy {name!r}: not installed; there are {', '.join(policy_names())}")
    factory: Factory = getattr(import_module(point.module), point.attr)
    return factory(task, robot, policy_id, parameters)


def check_chunk(chunk: ActionChunk, observation: Observation, policy_id: str, tcp_frame: str) -> None:
    """What the door would refuse, found where the fault is.

    Raises:
        ValueError: wrong type, shape, frame, id or stamp, or a value that is not finite.
    """
    if not isinstance(chunk, ActionChunk):
        raise ValueError(f"policy {policy_id!r} returned {type(chunk).__name__}, must be an ActionChunk")
    shape = getattr(chunk.deltas, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] < 1 or shape[1] != 6:
        raise ValueError(f"policy {policy_id!r} returned deltas of shape {shape}, must be (length, 6)")
    if len(chunk.gripper_closed) != shape[0]:
        raise ValueError(
            f"policy {policy_id!r} returned {len(chunk.gripper_closed)} gripper states for {shape[0]} actions"
        )
    if not np.isfinite(chunk.deltas).all():
        raise ValueError(f"policy {policy_id!r} returned an action that is not finite")
    if not 0.0 < chunk.period_s <= 10.0:
        raise ValueError(f"policy {policy_id!r} returned period_s {chunk.period_s}, must be in (0, 10]")
    if chunk.policy_id != policy_id or chunk.frame_id != tcp_frame:
        raise ValueError(
            f"policy {policy_id!r} answered as {chunk.policy_id!r} in frame {chunk.frame_id!r}, must be {tcp_frame!r}"
        )
    if chunk.observation_stamp_ns != observation.stamp_ns:
        raise ValueError(f"policy {policy_id!r} answered another observation than the one it was given")
