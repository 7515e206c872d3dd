"""Trials through the launched cell, each recorded as a bag."""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from string import ascii_lowercase
from types import TracebackType

from rldg_bringup.episode_runner_node import EpisodeRunner
from rldg_bringup.launch_runner import Launch
from rldg_bringup.running import running
from rldg_bringup.swapping_node import Switch, Watch
from rldg_bringup.up import launch_file
from rldg_core.types import Source
from rldg_evaluation.bag_trace import read_trace
from rldg_evaluation.films import Camera
from rldg_evaluation.plan import OPERATOR
from rldg_evaluation.running import TRACES, Job, Result, Trial, make_result
from rldg_recorder.episode import read_info
from rldg_recorder.episode_reader import read_episode

BAGS = "bags"
_READY_TIMEOUT_S = 180.0
_LOAD_TIMEOUT_S = 900.0  # a large model takes minutes
_CLOSE_TIMEOUT_S = 30.0
_ANSWER_TIMEOUT_S = 60.0


class GraphTrials:
    """A cell that is up for the task of the last trial, with all policies loaded; see `rldg_evaluation.running.Play`.

    Only the one whose trial it is answers, and has the door. The scripted operator has a cell of his own.

    Args:
        lockstep: as fast as the processor allows; otherwise in real time.
    """

    def __init__(self, lockstep: bool) -> None:
        self._lockstep = lockstep
        self._stack = ExitStack()
        self._up: tuple[str, str] | None = None
        self._ids: dict[str, str] = {}  # of the policies in the cell, by their names in the plan
        self._switches: dict[str, Switch] = {}
        self._driving = ""
        self._runner: EpisodeRunner | None = None
        self._camera = Camera()

    def __enter__(self) -> GraphTrials:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def __call__(self, job: Job, trial: Trial) -> Result:
        """Run one trial.

        Raises:
            ValueError: the cell did not come up, the episode was not run, or its bag cannot be read.
        """
        began_s = time.perf_counter()
        folder = Path(job.folder)
        try:
            runner = self._enter(job, trial)
            (report,) = runner.run_episodes(1, trial.seed, trial.scene)
        except (RuntimeError, TimeoutError) as error:
            raise ValueError(f"trial {trial.id}: {' '.join(str(error).split())}") from None
        bag = folder / BAGS / report.episode_id
        self._wait_for(runner, bag)
        info, trace = read_trace(bag)
        trace.save(folder / TRACES / f"{trial.id}.npz")
        refusals = (step.reason for step in report.steps if step.source is Source.HOLD and step.reason)
        result = make_result(
            job,
            trial,
            trace,
            info.outcome,
            info.reason,
            runner="graph" if self._lockstep else "graph, real time",
            wall_s=time.perf_counter() - began_s,
            trouble=next(refusals, ""),
            bag=str(bag.relative_to(folder)),
        )
        if self._camera.wants(result.cell):
            self._camera.keep(folder, result, read_episode(bag).images, info.task.control.rate_hz)
        return result

    def _enter(self, job: Job, trial: Trial) -> EpisodeRunner:
        by_person = job.loaded.policy(trial.policy).type == OPERATOR
        wanted = (trial.task, OPERATOR if by_person else "")
        if self._runner is None or self._up != wanted:
            self._stack.close()
            self._driving = ""
            log_dir = Path(tempfile.mkdtemp(prefix="rldg-evaluate-"))
            arguments = {
                "task": trial.task,
                "lockstep": str(self._lockstep).lower(),
                "record": "true",
                "bags": str((Path(job.folder) / BAGS).absolute()),
                "operator": "scripted" if by_person else "none",
                "wait_for_policy": str(not by_person).lower(),
            }
            _, self._runner = self._stack.enter_context(running("cell", arguments, log_dir, _READY_TIMEOUT_S))
            self._up = wanted
            self._ids = {} if by_person else self._join(job, trial.task, log_dir)
        if not by_person and self._driving != trial.policy:
            self._hand_over(trial.policy)
        return self._runner

    def _join(self, job: Job, task: str, log_dir: Path) -> dict[str, str]:
        """Bring all policies up beside the cell, each loaded and silent; returns their ids by their names."""
        runner = self._runner
        assert runner is not None
        environment = {**os.environ, "ROS_DOMAIN_ID": str(runner.node.context.get_domain_id())}
        ids = {}
        for letter, policy in zip(ascii_lowercase, job.loaded.plan.policies, strict=False):
            if policy.type == OPERATOR:
                continue
            arguments = {
                "task": task,
                "lockstep": str(self._lockstep).lower(),
                "policy": policy.type,
                "policy_parameters": json.dumps(policy.all_parameters),
                "policy_id": letter,  # does not tell whose it is
                "beside": "true",
            }
            launch = Launch(launch_file("policy"), arguments, environment, log_dir=log_dir / letter)
            self._stack.enter_context(launch)
            answers = Watch(runner, letter)
            end_s = time.monotonic() + _LOAD_TIMEOUT_S
            while not any("all nodes are active" in line for line in launch.lines):
                if answers.trouble or time.monotonic() > end_s:
                    why = answers.trouble or f"is not active after {_LOAD_TIMEOUT_S:.0f} s"
                    raise RuntimeError(f"policy {policy.name}: {why}")
                runner.spin(0.1)
            ids[policy.name] = letter
            self._switches[policy.name] = Switch(runner, letter)
            self._switches[policy.name].set(False)
        return ids

    def _hand_over(self, name: str) -> None:
        """Nobody has the door for a moment, so that there is no probation, which would end within the trial."""
        runner = self._runner
        assert runner is not None
        runner.select_policy_when_fresh("", _ANSWER_TIMEOUT_S)
        if self._driving:
            self._switches[self._driving].set(False)
        self._driving = ""
        self._switches[name].set(True)
        runner.select_policy_when_fresh(self._ids[name], _ANSWER_TIMEOUT_S)
        self._driving = name

    @staticmethod
    def _wait_for(runner: EpisodeRunner, bag: Path) -> None:
        """Until the recorder has closed the bag."""

        def closed() -> bool:
            return bag.is_dir() and (bag / "episode.yaml").is_file() and read_info(bag).state != "recording"

        try:
            runner.spin_until(closed, _CLOSE_TIMEOUT_S, f"the bag {bag}")
        except TimeoutError as error:
            raise ValueError(str(error)) from None
