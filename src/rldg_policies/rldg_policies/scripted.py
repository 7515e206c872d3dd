"""A policy without learning: go down the tool axis and search in a spiral while something is in the way.

It knows the observation and nothing else, so it does not know where the port is: it keeps to the axis on which the
episode began. It inserts when the start happens to lie within the spiral's reach of the port, places nothing, never
touches the gripper, and serves to exercise the graph and as a floor for comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np

from rldg_core.frames import Array, Pose, apply_body_delta, body_delta
from rldg_core.task import Robot, Task
from rldg_core.types import ActionChunk, Observation

Positive = Annotated[float, msgspec.Meta(gt=0.0, le=100.0)]


class ScriptedParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may be set.

    Attributes:
        speed_m_s: descent along the tool axis in free space.
        contact_n: axial force from which on it searches.
        press_m: how far the set-point lies ahead of the measured pose while it searches; times stiffness: force.
        pitch_m: distance between the turns of the spiral.
        radius_m: where the spiral ends and begins again.
        search_speed_m_s: speed along the spiral.
    """

    speed_m_s: Positive = 0.05
    contact_n: Positive = 4.0
    press_m: Positive = 0.003
    pitch_m: Positive = 0.001
    radius_m: Positive = 0.006
    search_speed_m_s: Positive = 0.02


class ScriptedPolicy:
    """See the module's text; follows :class:`rldg_policies.policy.Policy`."""

    def __init__(self, task: Task, robot: Robot, policy_id: str, parameters: ScriptedParameters) -> None:
        self.policy_id = policy_id
        self.rate_hz = task.control.rate_hz
        self._scale = task.control.scale
        self._period_s = task.control.period_s
        self._tcp_frame = robot.tcp_frame
        self._parameters = parameters
        self._angle_rad = 0.0

    def warm_up(self) -> None:
        """Nothing is slow here."""

    def reset(self) -> None:
        self._angle_rad = 0.0

    def act(self, observation: Observation) -> ActionChunk:
        if not observation.episode_id:  # between episodes there is no reset pose to descend from
            return self._chunk(observation, np.zeros(6))
        parameters = self._parameters
        pose, start = observation.tcp_pose, observation.reset_pose
        sunk_m = float(body_delta(start, pose)[2])
        # external force on the tool points back along its axis when something is in the way
        in_contact = -observation.wrench[2] > parameters.contact_n
        if in_contact:
            advance_m = parameters.press_m
            offset = self._spiral()
        else:
            advance_m = parameters.speed_m_s * self._period_s
            offset = self._offset()
        goal = apply_body_delta(start, np.array([*offset, sunk_m + advance_m, 0.0, 0.0, 0.0]))
        return self._chunk(observation, self._toward(pose, goal))

    def _offset(self) -> Array:
        """Where on the spiral it is now: an Archimedean one, shape (2,), m, in the axes of the start pose."""
        radius_m = self._parameters.pitch_m * self._angle_rad / (2.0 * np.pi)
        return radius_m * np.array([np.cos(self._angle_rad), np.sin(self._angle_rad)])

    def _spiral(self) -> Array:
        """The next point of the spiral, one period further along it."""
        radius_m = self._parameters.pitch_m * self._angle_rad / (2.0 * np.pi)
        arc_m = self._parameters.search_speed_m_s * self._period_s
        self._angle_rad += min(arc_m / max(radius_m, self._parameters.pitch_m), 1.0)
        if radius_m > self._parameters.radius_m:
            self._angle_rad = 0.0
        return self._offset()

    def _toward(self, pose: Pose, goal: Pose) -> Array:
        return np.clip(body_delta(pose, goal) / self._scale, -1.0, 1.0)

    def _chunk(self, observation: Observation, delta: Array) -> ActionChunk:
        return ActionChunk(
            observation_stamp_ns=observation.stamp_ns,
            policy_id=self.policy_id,
            deltas=delta[None, :],
            gripper_closed=np.array([observation.gripper_closed]),
            period_s=self._period_s,
            frame_id=self._tcp_frame,
        )


def make_scripted(task: Task, robot: Robot, policy_id: str, parameters: Mapping[str, Any]) -> ScriptedPolicy:
    """Factory of the entry point ``scripted``.

    Raises:
        ValueError: an unknown parameter or a value out of range.
    """
    try:
        checked = msgspec.convert(dict(parameters), ScriptedParameters)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"policy {policy_id!r}: parameters: {error}; allowed: {', '.join(ScriptedParameters.__struct_fields__)}"
        ) from None
    return ScriptedPolicy(task, robot, policy_id, checked)
