"""Control periods in one process: cell, judge and door, wired as the graph wires them in lockstep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rldg_core.door import Door
from rldg_core.judge import Judge
from rldg_core.observation import ObservationAssembler
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
        self._assembler = ObservationAssembler()
        self._door = Door(task, TCP_FRAME)
        self._judge = Judge(task, "sim")
        self._now_ns = 0
        self.tick: Tick | None = None

    def reset(self, scene: str = "", seed: int = 0) -> Tick:
        """Start an episode and return its first tick.

        Raises:
            TaskError: no such scene.
        """
        self.cell.reset(scene, seed)
        self._door, self._judge = Door(self.task, TCP_FRAME), Judge(self.task, "sim")
        self._assembler = ObservationAssembler()
        self._door.select(POLICY_ID, 0, require_fresh=False)
        self._assembler.set_gripper_command(self.task.control.gripper is GripperUse.FIXED)
        self._now_ns = self._period_ns
        self._assembler.set_episode(self._judge.begin(scene, seed))
        self._assembler.set_episode(self._judge.start(self._observe(rendered=False)))
        self._advance()
        self.tick = self._look()
        return self.tick

    def offer(self, chunk: ActionChunk) -> str:
        """Give the door what a policy answers, as the arbiter does; its `policy_id` must be `POLICY_ID`.

        Returns:
            "" if it was kept, else why it was refused.
        """
        return self._door.offer(chunk)

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
        self._assembler.set_gripper_command(step.executed.gripper_closed)
        self.cell.set_gripper(step.executed.gripper_closed)
        self.cell.set_target(step.target)
        self._advance()
        self.tick = self._look()
        return step, self.tick

    def _advance(self) -> None:
        self.cell.advance(self.task.control.period_s)
        self._now_ns += self._period_ns

    def _look(self) -> Tick:
        truth = self.cell.truth()
        observation = self._observe(rendered=self._with_images)
        status = self._judge.judge(observation, truth.fixture_pose, truth.object_pose)
        self._assembler.set_episode(status)
        return Tick(observation, status, truth)

    def _observe(self, rendered: bool) -> Observation:
        """One sample of everything, as published in lockstep, through the assembler of the observer."""
        state, assembler, stamp_ns = self.cell.state(), self._assembler, self._now_ns
        assembler.add_pose(stamp_ns, state.tcp_pose)
        assembler.add_twist(stamp_ns, state.tcp_twist)
        assembler.add_wrench(stamp_ns, state.wrench)
        assembler.add_gripper(stamp_ns, state.gripper_width_m)
        assembler.add_image(stamp_ns, self.cell.image() if rendered else _NO_IMAGE)
        observation = assembler.assemble(stamp_ns)
        assert observation is not None  # nothing is missing
        return observation
