"""A scripted person beside the robot: shows the task, then takes over for a few steps now and then."""

from __future__ import annotations

from collections import deque

import numpy as np

from rldg_core.frames import Array
from rldg_core.task import Task
from rldg_core.teleop import HumanCommand, Teleop
from rldg_core.types import Observation
from rldg_rl.config import Interventions
from rldg_rl.encoders import Surroundings
from rldg_sim.loop import Tick
from rldg_sim.operator import OperatorCommand, ScriptedOperator

_STUCK_TICKS, _STUCK_M = 10, 0.002  # an arm that has moved no further in so many ticks is stuck


class ScriptedPerson:
    """Watches the training and helps in short bursts, in ever fewer episodes; and where the arm is stuck.

    Long interventions that lead straight to success would teach the critic values along a path that the policy cannot
    take by itself (HIL-SERL, section on human interventions), so a burst only corrects. A policy that presses on beside
    the hole learns nothing from going on with it; seeing itself lifted off it learns what to do there.

    Args:
        task: what is to be done.
        schedule: when to help.
        seed: of when and how.
    """

    def __init__(self, task: Task, schedule: Interventions, seed: int) -> None:
        self._task, self._schedule = task, schedule
        self._rng = np.random.default_rng([seed, 0x1A7E])
        self._left, self._willing, self._helps = 0, 0.0, False
        self._places: deque[Array] = deque(maxlen=_STUCK_TICKS)

    def begin(self, episodes: int) -> None:
        """A new episode, after so many."""
        decay = self._schedule.decay_episodes
        self._willing = max(0.0, 1.0 - episodes / decay) if decay else 0.0
        self._helps = bool(self._rng.random() < self._schedule.episode_probability * self._willing)
        self._left = 0
        self._places.clear()

    def command(self, tick: Tick) -> HumanCommand | None:
        """What the person asks for at this tick; None: hands off."""
        seen, fresh = tick.observation, self._left == 0
        asked = self.ask(seen, tick.truth)
        if asked is None:
            return None
        if fresh:  # nothing held over from the last burst: the hand comes to the device anew
            self._device = Teleop()
        self._device.update(seen.stamp_ns, asked.twist, [int(asked.close), int(asked.open)])
        return self._device.command(seen.stamp_ns, seen.tcp_pose, seen.gripper_closed)

    def ask(self, seen: Observation, truth: Surroundings) -> OperatorCommand | None:
        """What the person does with the device at this observation; None: hands off."""
        if self._left == 0:
            chance = self._willing if self._stuck(seen.tcp_pose.position) else 0.0
            if self._helps:
                chance = max(chance, self._schedule.step_probability)
            if self._rng.random() >= chance:
                return None
            self._places.clear()
            shortest, longest = self._schedule.burst_steps
            self._left = int(self._rng.integers(shortest, longest + 1))
            self._operator = ScriptedOperator(self._task, int(self._rng.integers(2**31)))
            self._operator.take_over(
                tcp_pose=seen.tcp_pose, object_pose=truth.object_pose, gripper_closed=seen.gripper_closed
            )
        self._left -= 1
        return self._operator.act(
            tcp_pose=seen.tcp_pose,
            fixture_pose=truth.fixture_pose,
            object_pose=truth.object_pose,
            gripper_width_m=seen.gripper_width_m,
            wrench=seen.wrench,
        )

    def _stuck(self, place: Array) -> bool:
        self._places.append(place)
        moved_m = np.ptp(np.stack(self._places), axis=0).max()
        return len(self._places) == _STUCK_TICKS and bool(moved_m < _STUCK_M)
