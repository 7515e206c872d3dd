"""Trials through the launched cell, each recorded as a bag."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from rldg_bringup.episode_runner_node import EpisodeRunner
from rldg_bringup.running import running
from rldg_core.types import Source
from rldg_evaluation.bag_trace import read_trace
from rldg_evaluation.plan import OPERATOR, TriedPolicy
from rldg_evaluation.running import TRACES, Job, Result, Trial, make_result
from rldg_recorder.episode import read_info

BAGS = "bags"
_READY_TIMEOUT_S = 180.0
_CLOSE_TIMEOUT_S = 30.0


class GraphTrials:
    """A cell that is up for the policy and task of the last trial; see `rldg_evaluation.running.Play`.

    Args:
        lockstep: as fast as the processor allows; otherwise in real time.
    """

    def __init__(self, lockstep: bool) -> None:
        self._lockstep = lockstep
        self._stack = ExitStack()
        self._up: tuple[str, str] | None = None
        self._runner: EpisodeRunner | None = None

    def __enter__(self) -> GraphTrials:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def __call__(self, job: Job, trial: Trial | None) -> Result | None:
        """Run one trial.

        Raises:
            ValueError: the cell did not come up, the episode was not run, or its bag cannot be read.
        """
        if trial is None:
            return None
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
        return make_result(
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

    def _enter(self, job: Job, trial: Trial) -> EpisodeRunner:
        if self._runner is None or self._up != (trial.policy, trial.task):
            self._stack.close()
            log_dir = Path(tempfile.mkdtemp(prefix="rldg-evaluate-"))
            arguments = {
                "task": trial.task,
                "lockstep": str(self._lockstep).lower(),
                "record": "true",
                "bags": str((Path(job.folder) / BAGS).absolute()),
                **_who(job.loaded.policy(trial.policy)),
            }
            _, self._runner = self._stack.enter_context(running("cell", arguments, log_dir, _READY_TIMEOUT_S))
            self._up = trial.policy, trial.task
        return self._runner

    @staticmethod
    def _wait_for(runner: EpisodeRunner, bag: Path) -> None:
        """Until the recorder has closed the bag."""

        def closed() -> bool:
            return bag.is_dir() and (bag / "episode.yaml").is_file() and read_info(bag).state != "recording"

        try:
            runner.spin_until(closed, _CLOSE_TIMEOUT_S, f"the bag {bag}")
        except TimeoutError as error:
            raise ValueError(str(error)) from None


def _who(policy: TriedPolicy) -> dict[str, str]:
    """Who drives, as launch arguments."""
    if policy.type == OPERATOR:
        return {"operator": "scripted"}
    return {"operator": "none", "policy": policy.type, "policy_parameters": json.dumps(policy.all_parameters)}
