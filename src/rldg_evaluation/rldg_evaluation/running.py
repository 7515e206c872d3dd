"""Trials are run, and what came of each is kept at once, so that a run can be stopped and taken up at any moment.

``reports/<name>/`` holds ``plan.json`` (the plan with its task files, as it was run), ``trials.jsonl`` (one result a
line) and ``traces/`` (what happened at each step of a trial).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import msgspec
import numpy as np

from rldg_core.types import Change, Outcome
from rldg_evaluation.plan import OPERATOR, EvaluationError, LoadedPlan, Stop, Trial, TriedPolicy
from rldg_evaluation.statistics import Count, confidence_sequence
from rldg_evaluation.trace import Failure, Trace, failure_mode
from rldg_recorder.executors import Executor

PLAN, TRIALS, TRACES = "plan.json", "trials.jsonl", "traces"


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What came of one trial.

    Attributes:
        plan: hash of the plan.
        trial: id in the plan.
        checkpoint_sha256: of all files of the policy's checkpoint, "" where it has none.
        steps: number of actions.
        robot_s: control time.
        closest_m: least distance of the task's subject to the goal.
        mean_force_n, mean_torque_nm, peak_force_n: of the tared wrench.
        limited_steps: at which workspace or speed limits changed what was asked.
        guarded_steps: at which the force guard held the arm.
        refused_steps: at which the policy gave nothing that may be executed.
        trouble: the first thing that went wrong with the policy's answers, "" if nothing did.
        answer_ms: mean time of an answer of the policy.
        wall_s: of the trial.
        runner: fast (in process) or graph.
        software: the project's version.
        bag: folder of the recording, "" where there is none.
    """

    plan: str
    trial: str
    policy: str
    checkpoint_sha256: str
    task: str
    scene: str
    seed: int
    outcome: Outcome
    reason: str
    failure: Failure
    steps: int
    robot_s: float
    closest_m: float
    mean_force_n: float
    peak_force_n: float
    mean_torque_nm: float
    limited_steps: int
    guarded_steps: int
    refused_steps: int
    trouble: str
    answer_ms: float
    wall_s: float
    runner: str
    software: str = ""
    bag: str = ""

    @property
    def success(self) -> bool:
        return self.outcome is Outcome.SUCCESS

    @property
    def counts(self) -> bool:
        """Whether it says something about the policy; what was aborted does not."""
        return self.outcome in (Outcome.SUCCESS, Outcome.FAILURE, Outcome.TIMEOUT)

    @property
    def cell(self) -> tuple[str, str, str]:
        """Policy, task and scene: what a success rate is of."""
        return self.policy, self.task, self.scene

    @property
    def start(self) -> tuple[str, str, int]:
        """Task, scene and seed: what a pair shares."""
        return self.task, self.scene, self.seed


def read_plan(folder: Path) -> LoadedPlan:
    """The plan that a folder holds trials of.

    Raises:
        EvaluationError: there is none, or it is damaged.
    """
    path = folder / PLAN
    try:
        return msgspec.json.decode(path.read_bytes(), type=LoadedPlan)
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror}; run ./rldg evaluate <plan.yaml>") from None
    except msgspec.DecodeError as error:
        raise EvaluationError(f"{path}: {error}") from None


def read_results(folder: Path) -> list[Result]:
    """The results so far, without a last line that was cut off.

    Raises:
        EvaluationError: a line before the last one is damaged.
    """
    path = folder / TRIALS
    try:
        return _parse(path, path.read_bytes())[0]
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror}") from None


def _parse(path: Path, text: bytes) -> tuple[list[Result], int]:
    """Results, and how many bytes they take."""
    results, end = [], 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break  # the process was killed while it wrote this
        try:
            results.append(msgspec.json.decode(line, type=Result))
        except msgspec.DecodeError as error:
            raise EvaluationError(f"{path}:{number}: {error}; remove the line, its trial is then run again") from None
        end += len(line)
    return results, end


class Store:
    """The folder of a run, for one run at a time.

    Args:
        folder: is made where it is missing.
        loaded: what is run; a folder of another plan is refused.

    Raises:
        EvaluationError: another plan's folder, damaged, or in use.
    """

    def __init__(self, folder: Path, loaded: LoadedPlan) -> None:
        self.folder = folder
        (folder / TRACES).mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(folder / TRIALS, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise EvaluationError(f"{folder}: another run writes into it; wait for it or end it") from None
            self._keep_plan(loaded)
            self.results, end = _parse(folder / TRIALS, (folder / TRIALS).read_bytes())
            wrong = next((result for result in self.results if result.plan != loaded.hash), None)
            if wrong is not None:
                raise EvaluationError(
                    f"{folder / TRIALS}: trial {wrong.trial} is of another plan; choose another --out"
                )
            os.ftruncate(self._descriptor, end)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _keep_plan(self, loaded: LoadedPlan) -> None:
        path = self.folder / PLAN
        if path.exists():
            if read_plan(self.folder).hash != loaded.hash:
                raise EvaluationError(f"{self.folder}: holds trials of another plan; choose another --out or remove it")
            return
        part = path.with_name(f".{PLAN}.part")
        part.write_bytes(msgspec.json.format(msgspec.json.encode(loaded)))
        part.replace(path)

    def append(self, result: Result) -> None:
        """Keep a result; it is on disk when this returns."""
        os.write(self._descriptor, msgspec.json.encode(result) + b"\n")
        os.fsync(self._descriptor)
        self.results.append(result)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)


def checkpoint_sha256(folder: str) -> str:
    """Of the names and contents of all files in a folder, in hexadecimal; "" for no folder."""
    if not folder:
        return ""
    total = hashlib.sha256()
    for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder)}\n{content}\n".encode())
    return total.hexdigest()


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a process needs to know to run any trial of one policy."""

    loaded: LoadedPlan
    plan_hash: str
    folder: str
    checkpoint_sha256: str
    software: str


def make_result(
    job: Job,
    trial: Trial,
    trace: Trace,
    outcome: Outcome,
    reason: str,
    *,
    runner: str,
    wall_s: float,
    trouble: str = "",
    answer_ms: float = 0.0,
    bag: str = "",
) -> Result:
    """What came of a trial, from what happened in it."""
    task = job.loaded.tasks[trial.task]
    by_person = job.loaded.policy(trial.policy).type == OPERATOR  # at whom no answer of a policy is missed
    return Result(
        plan=job.plan_hash,
        trial=trial.id,
        policy=trial.policy,
        checkpoint_sha256=job.checkpoint_sha256,
        task=task.name,
        scene=trial.scene,
        seed=trial.seed,
        outcome=outcome,
        reason=reason,
        failure=failure_mode(task, trace, outcome),
        steps=len(trace.source),
        robot_s=len(trace.source) * task.control.period_s,
        closest_m=float(trace.distance_m.min()),
        mean_force_n=float(trace.force_n.mean()),
        peak_force_n=float(trace.force_n.max()),
        mean_torque_nm=float(np.linalg.norm(trace.wrench[:, 3:], axis=1).mean()),
        limited_steps=int((trace.changed & (Change.WORKSPACE | Change.SPEED) > 0).sum()),
        guarded_steps=int((trace.changed & Change.FORCE_GUARD > 0).sum()),
        refused_steps=0 if by_person else int(trace.refused.sum()),
        trouble=trouble,
        answer_ms=answer_ms,
        wall_s=wall_s,
        runner=runner,
        software=job.software,
        bag=bag,
    )


class Play(Protocol):
    def __call__(self, job: Job, trial: Trial) -> Result:
        """Run a trial. Raises ValueError where the policy cannot be made."""


class _Bound:
    """Picklable: the jobs of some policies and how to run their trials."""

    def __init__(self, play: Play, jobs: Mapping[str, Job]) -> None:
        self._play, self._jobs = play, jobs

    def __call__(self, trial: Trial | None) -> Result | None:
        return None if trial is None else self._play(self._jobs[trial.policy], trial)


class Stopper:
    """Which cells have been tried enough."""

    def __init__(self, rule: Stop | None, results: Sequence[Result]) -> None:
        self._rule = rule
        self._outcomes: defaultdict[tuple[str, str, str], Counter[bool]] = defaultdict(Counter)
        self._closed: set[tuple[str, str, str]] = set()
        for result in results:
            self.add(result)

    def add(self, result: Result) -> None:
        if not result.counts:
            return
        counts = self._outcomes[result.cell]
        counts[result.success] += 1
        if self._rule is not None:
            low, high = confidence_sequence(Count(counts[True], counts.total()), self._rule.confidence)
            if not low <= self._rule.against <= high:
                self._closed.add(result.cell)

    def is_closed(self, trial: Trial, task: str) -> bool:
        return (trial.policy, task, trial.scene) in self._closed


class _Wanted(Sequence[Trial | None]):
    """Trials as an executor takes them, one by one: None in place of those that are not wanted by then."""

    def __init__(self, trials: Sequence[Trial], loaded: LoadedPlan, stopper: Stopper) -> None:
        self._trials, self._loaded, self._stopper = trials, loaded, stopper

    def __len__(self) -> int:
        return len(self._trials)

    def __getitem__(self, index: Any) -> Any:
        trial = self._trials[index]
        return None if self._stopper.is_closed(trial, self._loaded.tasks[trial.task].name) else trial


def run(
    loaded: LoadedPlan, store: Store, play: Play, executor: Executor, software: str = "", interleaved: bool = False
) -> Iterator[Result | None]:
    """Run what is left of a plan and yield each result once it is kept; None for a trial that was not needed.

    One policy after the other, so that a process never loads two of them: torch and JAX do not share one, and in
    processes the order of trials changes nothing.

    Args:
        interleaved: in the order of the plan instead, the scripted operator's trials last: policies take turns, so that
            drift of the rig meets all of them alike.

    Raises:
        EvaluationError: a checkpoint is not the one that the trials there were made with.
        TaskError: (of rldg_recorder.executors) a policy could not be made, or a process died.
    """
    stopper = Stopper(loaded.plan.stop, store.results)
    jobs = {policy.name: _job(loaded, store, policy, software) for policy in loaded.plan.policies}
    groups = [[name] for name in jobs]
    if interleaved:
        people = [policy.name for policy in loaded.plan.policies if policy.type == OPERATOR]
        groups = [[name for name in jobs if name not in people], people]
    done = {result.trial for result in store.results}
    for names in groups:
        left = [trial for trial in loaded.trials if trial.policy in names and trial.id not in done]
        work: Callable[[Trial | None], Result | None] = _Bound(play, {name: jobs[name] for name in names})
        for result in executor.map_in_order(work, _Wanted(left, loaded, stopper)):
            if result is not None:
                store.append(result)
                stopper.add(result)
            yield result


def _job(loaded: LoadedPlan, store: Store, policy: TriedPolicy, software: str) -> Job:
    """Of a policy whose checkpoint is still the one that its trials so far were made with; else EvaluationError."""
    digest = checkpoint_sha256(policy.checkpoint)
    mine = (result for result in store.results if result.policy == policy.name)
    other = next((result for result in mine if result.checkpoint_sha256 != digest), None)
    if other is not None:
        raise EvaluationError(
            f"{store.folder}: policy {policy.name}: checkpoint {policy.checkpoint} has changed since trial "
            f"{other.trial} ({other.checkpoint_sha256[:12]}, now {digest[:12]}); choose another --out"
        )
    return Job(
        loaded=loaded,
        plan_hash=loaded.hash,
        folder=str(store.folder),
        checkpoint_sha256=digest,
        software=software,
    )
