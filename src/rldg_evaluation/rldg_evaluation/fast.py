"""Trials in one process, on the cell of the simulation and through the door of the graph, without ROS."""

from __future__ import annotations

import math
import time
from collections import deque
from pathlib import Path

from rldg_core.task import Task, load_robot
from rldg_core.types import ActionChunk, Observation, Phase
from rldg_evaluation.films import Camera, Image
from rldg_evaluation.plan import OPERATOR, Trial, TriedPolicy
from rldg_evaluation.running import TRACES, Job, Result, make_result
from rldg_evaluation.trace import Trace, Tracer
from rldg_policies.policy import Policy, check_chunk, make_policy
from rldg_sim.cell import Cell
from rldg_sim.demonstrate import Demonstrator
from rldg_sim.loop import POLICY_ID, Loop

_ROBOT = "fr3"


class _Asked:
    """A policy at the door, as its node would bring it there: no answer to what it cannot answer, and none too soon."""

    def __init__(self, entry: TriedPolicy, task: Task) -> None:
        robot = load_robot(_ROBOT)
        self._tcp_frame = robot.tcp_frame
        self._policy: Policy = make_policy(entry.type, task, robot, POLICY_ID, entry.all_parameters)
        self._policy.warm_up()
        self._late_ticks = math.ceil(entry.latency_s / task.control.period_s - 1e-9)

    def begin(self) -> None:
        self._policy.reset()
        self._waiting: deque[tuple[int, ActionChunk | None]] = deque()  # with the tick at which it comes
        self.trouble, self.answers, self.answering_s = "", 0, 0.0

    @property
    def mean_ms(self) -> float:
        """Of an answer in this trial."""
        return 1e3 * self.answering_s / self.answers if self.answers else 0.0

    def offer(self, loop: Loop, observation: Observation, tick: int) -> None:
        """Bring what is due at this tick, and look at its observation unless an older one is still being answered."""
        self._deliver(loop, tick)
        if not self._waiting:
            self._waiting.append((tick + self._late_ticks, self._answer(observation)))
            self._deliver(loop, tick)

    def _deliver(self, loop: Loop, tick: int) -> None:
        while self._waiting and self._waiting[0][0] <= tick:
            chunk = self._waiting.popleft()[1]
            if chunk is not None:
                self.trouble = self.trouble or loop.offer(chunk)

    def _answer(self, observation: Observation) -> ActionChunk | None:
        began_s = time.perf_counter()
        try:
            chunk = self._policy.act(observation)
            check_chunk(chunk, observation, POLICY_ID, self._tcp_frame)
        except Exception as error:  # as the policy node takes it: reported, and nothing is published
            text = " ".join(str(error).split())[:300]
            self.trouble = self.trouble or (
                text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
            )
            return None
        self.answers += 1
        self.answering_s += time.perf_counter() - began_s
        return chunk


class Stage:
    """A policy and the cell of the task that it was last tried at."""

    def __init__(self, entry: TriedPolicy) -> None:
        self._entry = entry
        self._task = ""
        self._loop: Loop | None = None
        self._asked: _Asked | None = None
        self._camera = Camera()

    def play(self, job: Job, trial: Trial) -> tuple[Result, Trace]:
        """Run one trial.

        Raises:
            ValueError: the policy cannot be made.
        """
        task = job.loaded.tasks[trial.task]
        loop = self._enter(task)
        began_s = time.perf_counter()
        tick, tracer = loop.reset(trial.scene, trial.seed), Tracer(task)
        tracer.see(tick.observation, tick.truth.fixture_pose, tick.truth.object_pose)
        person = Demonstrator(task, trial.seed) if self._asked is None else None
        if self._asked is not None:
            self._asked.begin()
        wanted = self._asked is not None and self._camera.wants((trial.policy, task.name, trial.scene))
        images: list[Image] = [tick.observation.image] if wanted else []
        number = 0
        while tick.status.phase is Phase.RUNNING:
            if self._asked is not None:
                self._asked.offer(loop, tick.observation, number)
            step, tick = loop.step(None, person.command(tick) if person is not None else None)
            tracer.do(step)
            tracer.see(tick.observation, tick.truth.fixture_pose, tick.truth.object_pose)
            if wanted:
                images.append(tick.observation.image)
            number += 1
        trace = tracer.trace()
        result = make_result(
            job,
            trial,
            trace,
            tick.status.outcome,
            tick.status.reason,
            runner="fast",
            wall_s=time.perf_counter() - began_s,
            trouble=self._asked.trouble if self._asked is not None else "",
            answer_ms=self._asked.mean_ms if self._asked is not None else 0.0,
        )
        if wanted:
            self._camera.keep(Path(job.folder), result, images, task.control.rate_hz)
        return result, trace

    def _enter(self, task: Task) -> Loop:
        if self._loop is None or task.name != self._task:
            if self._loop is not None:
                self._loop.cell.close()
            self._asked = _Asked(self._entry, task) if self._entry.type != OPERATOR else None
            self._loop, self._task = Loop(task, Cell(task), with_images=self._asked is not None), task.name
        return self._loop


_stage: tuple[str, Stage] | None = None  # of this process


def play(job: Job, trial: Trial) -> Result:
    """Run a trial in this process, whose policy is loaded once; see `rldg_evaluation.running.Play`."""
    global _stage
    entry = job.loaded.policy(trial.policy)
    key = f"{job.plan_hash} {entry.name}"
    if _stage is None or _stage[0] != key:
        _stage = key, Stage(entry)
    result, trace = _stage[1].play(job, trial)
    trace.save(Path(job.folder) / TRACES / f"{trial.id}.npz")
    return result
