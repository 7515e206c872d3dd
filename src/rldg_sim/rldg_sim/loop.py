"""Control periods in one process: cell, judge and door, wired as the graph wires them in lockstep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rldg_core.door import Door
from rldg_core.frames import Pose
from rldg_core.judge import Judge
from rldg_core.task import GripperUse, Task
from rldg_core.teleop import HumanCommand
from rldg_core.types import Action, ActionChunk, EpisodeStatus, Observation, Phase, Step
from rldg_sim.cell import Cell, Truth

TCP_FRAME = "fr3_hand_tcp"
POLICY_ID = "in_process"
_NO_IMAGE: npt.NDArray[np.uint8] = np.zeros((0, 0, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Tick:
    """What is known at one control tick, before anybody has acted on it."""

    observation: Observation
    status: EpisodeStatus
    truth: Truth


class Loop:
    """Runs episodes tick by tick.

    Args:
        task: the task.
        cell: where it takes place; of the same task.
        with_images: render the wrist camera; otherwise images are empty.
    """

    def __init__(self, task: Task, cell: Cell, *, with_images: bool = True) -> None:
        self.task, self.cell = task, cell
        self._with_images = with_images
        self._period_ns = round(task.control.period_s * 1e9)
        self._closed = task.control.gripper is GripperUse.FIXED
        self._door = Door(task, TCP_FRAME)
        self._judge = Judge(task, "sim")
        self._now_ns = 0
        self._start = Pose.identity()
        self.tick: Tick | None = None

    def reset(self, scene: str = "", seed: int = 0) -> Tick:
        """Start an episode and return its first tick.

        Raises:
            TaskError: no such scene.
        """
        self._start = self.cell.reset(scene, seed)
        self._door, self._judge = Door(self.task, TCP_FRAME), Judge(self.task, "sim")
        self._door.select(POLICY_ID, 0, require_fresh=False)
        self._closed = self.task.control.gripper is GripperUse.FIXED
        self._now_ns = self._period_ns
        self._judge.begin(scene, seed)
        self._judge.start(self._observe(0, Pose.identity(), np.zeros(6), rendered=False))
        self.cell.advance(self.task.control.period_s)
        self._now_ns += self._period_ns
        self.tick = self._look(0)
        return self.tick

    def step(self, action: Action | None, human: HumanCommand | None = None) -> tuple[Step, Tick]:
        """Let policy and human ask for something, do what the door decides, and look again one period later.

        Raises:
            RuntimeError: no episode is running.
        """
        if self.tick is None or self.tick.status.phase is not Phase.RUNNING:
            raise RuntimeError("no episode is running: reset first")
        observation = self.tick.observation
        if action is not None:
            delta = np.asarray(action.delta, dtype=np.float64)[None]
            closed = np.array([action.gripper_closed])
            self._door.offer(
                ActionChunk(observation.stamp_ns, POLICY_ID, delta, closed, self.task.control.period_s, TCP_FRAME)
            )
        step = self._door.tick(self._now_ns, observation, self.tick.status, human)
        assert step is not None  # an observation is always there
        self._closed = step.executed.gripper_closed
        self.cell.set_gripper(self._closed)
        self.cell.set_target(step.target)
        self.cell.advance(self.task.control.period_s)
        self._now_ns += self._period_ns
        self.tick = self._look(observation.index + 1)
        return step, self.tick

    def _look(self, index: int) -> Tick:
        status, truth = self._judge.status, self.cell.truth()
        observation = self._observe(index, status.reset_pose, status.tare, rendered=self._with_images)
        return Tick(observation, self._judge.judge(observation, truth.fixture_pose, truth.object_pose), truth)

    def _observe(self, index: int, reset_pose: Pose, tare: npt.NDArray[np.float64], rendered: bool) -> Observation:
        state, status = self.cell.state(), self._judge.status
        return Observation(
            stamp_ns=self._now_ns,
            image=self.cell.image() if rendered else _NO_IMAGE,
            tcp_pose=state.tcp_pose,
            tcp_twist=state.tcp_twist,
            wrench=state.wrench - tare,
            gripper_width_m=state.gripper_width_m,
            gripper_closed=self._closed,
            instruction=status.instruction,
            episode_id=status.episode_id,
            index=index,
            reset_pose=reset_pose,
        )
