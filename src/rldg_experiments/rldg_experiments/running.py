"""Runs the stages of an experiment, as many at a time as the machine has cores for, and keeps what they make.

A workspace holds a folder for each stage, named by its key. ``stage.json`` is written when the stage is done, last of
all; a folder without it belongs to a stage that was interrupted, which is taken up or begun again by the next run.
Two runs in one workspace do not get in each other's way: whoever holds a stage's lock works on it, the other one waits.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from rldg_core.processes import XLA_FLAGS, tied
from rldg_evaluation.page import put
from rldg_experiments import stages
from rldg_experiments.plan import AnyStage, Experiment, ExperimentError, folder_name, keys, references

RECORD = "stage.json"
_LOCK = "lock"
_POLL_S = 0.1
_END_S = 20.0


class StageError(RuntimeError):
    """A stage failed; the message is one line: which, how, where its log is."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a stage that is done.

    Attributes:
        command: words after ``./rldg``.
        wall_s: of the last attempt; what was there already of an interrupted one is not in it.
        told: the object that the verb ended its output with.
    """

    name: str
    key: str
    about: str
    command: tuple[str, ...]
    wall_s: float
    software: str = ""
    told: dict[str, Any] = {}


class Handle(Protocol):
    """A verb that runs."""

    def status(self) -> int | None:
        """Its exit status, None while it runs."""

    def end(self) -> None:
        """End it."""


class Backend(Protocol):
    """Where verbs run."""

    cores: int

    def start(self, words: Sequence[str], folder: Path, cores: int, lock: int) -> Handle:
        """Run ``./rldg words`` with its output in the folder's files.

        Args:
            lock: file descriptor of a lock that is to last as long as the verb, even if this process does not.
        """


@dataclass
class _Local:
    """A verb in a process of this machine."""

    process: subprocess.Popen[bytes]

    def status(self) -> int | None:
        return self.process.poll()

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Here:
    """This machine."""

    def __init__(self, program: Sequence[str], cores: int = 0) -> None:
        self._program, self.cores = list(program), cores or len(os.sched_getaffinity(0))

    def start(self, words: Sequence[str], folder: Path, cores: int, lock: int) -> Handle:
        command = tied([*self._program, *words], signal.SIGTERM)
        with (folder / stages.TOLD).open("wb") as told, (folder / stages.LOG).open("ab") as log:
            return _Local(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=told,
                    stderr=log,
                    env=environment(cores),
                    process_group=0,
                    pass_fds=[lock],
                )
            )


class OnRay:
    """A Ray cluster (``RAY_ADDRESS``), or a local one that is started; the workspace lies on a disk that all share."""

    def __init__(self, program: Sequence[str]) -> None:
        try:
            import ray
        except ImportError:
            raise ExperimentError(
                "executor ray: the package is not installed; run pip install ray, or leave --executor out"
            ) from None
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        self._ray, self._program = ray, list(program)
        self.cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._largest = max(1, int(max(node["Resources"].get("CPU", 1) for node in ray.nodes())))

    def start(self, words: Sequence[str], folder: Path, cores: int, lock: int) -> Handle:
        cores = min(cores, self._largest)
        task = self._ray.remote(num_cpus=cores, max_retries=0)(_call)
        return _OnRay(self._ray, task.remote([*self._program, *words], str(folder), cores))


@dataclass
class _OnRay:
    ray: Any
    reference: Any

    def status(self) -> int | None:
        ready, _ = self.ray.wait([self.reference], timeout=0)
        if not ready:
            return None
        try:
            return int(self.ray.get(self.reference))
        except self.ray.exceptions.RayError:
            return 1

    def end(self) -> None:
        self.ray.cancel(self.reference)


def _call(command: list[str], folder: str, cores: int) -> int:
    """On a worker."""
    with (Path(folder) / stages.TOLD).open("wb") as told, (Path(folder) / stages.LOG).open("ab") as log:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=told, stderr=log, env=environment(cores), check=False
        ).returncode


def environment(cores: int) -> dict[str, str]:
    """Of a verb: lines of one width, and no more threads than it has cores."""
    changes = {"COLUMNS": "160", "TERM": "dumb", "PYTHONUNBUFFERED": "1"}
    if cores == 1:
        changes |= {
            "OMP_NUM_THREADS": "1",
            "XLA_FLAGS": XLA_FLAGS,
        }
    return {**os.environ, **changes}


@dataclass
class State:
    """How far a stage is.

    Attributes:
        phase: waiting, running, done or failed.
        kept: whether it was done before this run.
        done, total: of what the verb does; 0, 0 where nobody knows.
    """

    stage: AnyStage
    key: str
    folder: Path
    phase: str = "waiting"
    kept: bool = False
    began_s: float = 0.0
    line: str = ""
    done: int = 0
    total: int = 0
    record: Record | None = None
    command: list[str] = field(default_factory=list)


Show = Callable[[Sequence[State]], None]


def run(
    experiment: Experiment,
    workspace: Path,
    backend: Backend,
    show: Show = lambda states: None,
    again: Sequence[str] = (),
    software: str = "",
) -> dict[str, Record]:
    """Run what is left of an experiment; returns the record of each stage.

    Args:
        workspace: folder of all stages of all experiments.
        show: is told how far the stages are, a few times a second.
        again: names of stages that are done anew although they are done; what follows from them is done anew as well.
        software: version, for the record.

    Raises:
        ExperimentError: a file that a stage names is missing or wrong, or what it has made is.
        StageError: a stage failed; those that ran beside it are finished first.
    """
    names = [stage.name for stage in experiment.stages]
    unknown = sorted(set(again) - set(names))
    if unknown:
        raise ExperimentError(f"--again: no stage {unknown[0]!r}; there are {', '.join(names)}")
    workspace.mkdir(parents=True, exist_ok=True)
    repeated = _followers(experiment.stages, again)
    for name, folder in _folders(experiment, workspace).items():
        if name in repeated:
            (folder / RECORD).unlink(missing_ok=True)
            _clear(folder)
    states = survey(experiment, workspace)
    running: dict[str, tuple[Handle, Any]] = {}
    failed: list[str] = []
    try:
        while True:
            for state in states:
                if state.stage.name in running:
                    _proceed(state, running, failed, software)
            if not failed:
                _start_ready(states, running, backend)
            show(states)
            if all(state.phase == "done" for state in states):
                return {state.stage.name: state.record for state in states if state.record is not None}
            if failed and not running:
                raise StageError("; ".join(failed))
            time.sleep(_POLL_S)
    finally:
        for handle, lock in running.values():
            handle.end()
            lock.close()


def survey(experiment: Experiment, workspace: Path) -> list[State]:
    """How far an experiment is.

    Raises:
        ExperimentError: a file that a stage names is missing or wrong, or what it has made is.
    """
    names, folders = keys(experiment.stages), _folders(experiment, workspace)
    states = [State(stage, names[stage.name], folders[stage.name]) for stage in experiment.stages]
    for state in states:
        _look(state)
        state.kept = state.phase == "done"
    return states


def _folders(experiment: Experiment, workspace: Path) -> dict[str, Path]:
    names = keys(experiment.stages)
    return {stage.name: workspace.absolute() / folder_name(stage, names[stage.name]) for stage in experiment.stages}


def _followers(all_stages: Sequence[AnyStage], again: Sequence[str]) -> set[str]:
    found = set(again)
    for stage in all_stages:
        if found & set(references(stage)):
            found.add(stage.name)
    return found


def _look(state: State) -> None:
    """A stage whose record is there is done."""
    path = state.folder / RECORD
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except OSError:
        return
    except msgspec.MsgspecError as error:
        raise ExperimentError(f"{path}: {error}; delete {state.folder}, and the same command makes it again") from None
    if record.key != state.key:
        raise ExperimentError(f"{path}: key: is {record.key}, must be {state.key}; delete {state.folder}")
    stages.product(state.stage, state.folder)
    state.phase, state.record = "done", record


def _start_ready(states: Sequence[State], running: dict[str, tuple[Handle, Any]], backend: Backend) -> None:
    """Start the stages whose inputs are there and that the free cores suffice for, in the order of the experiment."""
    by_name = {state.stage.name: state for state in states}
    free = backend.cores - sum(stages.needs(by_name[name].stage, backend.cores) for name in running)
    for state in states:
        cores = stages.needs(state.stage, backend.cores)
        inputs = [by_name[name] for name in references(state.stage)]
        if state.phase != "waiting" or any(each.phase != "done" for each in inputs) or cores > free:
            continue
        state.folder.mkdir(exist_ok=True)
        lock = (state.folder / _LOCK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            state.line = "another run is at it"
            continue
        _look(state)  # another run may just have done it
        if state.phase == "done":
            lock.close()
            continue
        if not stages.takes_up(state.stage):
            _clear(state.folder)
        products = {each.stage.name: stages.product(each.stage, each.folder) for each in inputs}
        state.command = stages.command(state.stage, state.folder, products, cores)
        running[state.stage.name] = backend.start(state.command, state.folder, cores, lock.fileno()), lock
        state.phase, state.began_s = "running", time.monotonic()
        free -= cores


def _clear(folder: Path) -> None:
    """Empty a folder but for its lock, which somebody may hold."""
    for path in folder.glob("*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def _proceed(state: State, running: dict[str, tuple[Handle, Any]], failed: list[str], software: str) -> None:
    state.line = stages.last_line(state.folder)
    state.done, state.total = stages.done_of(state.stage, state.folder)
    handle, lock = running[state.stage.name]
    status = handle.status()
    if status is None:
        return
    del running[state.stage.name]
    with lock:
        if not stages.succeeded(state.stage, status, state.folder):
            state.phase = "failed"
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            failed.append(f"{state.stage.name}: {how}: {state.line}; log: {state.folder / stages.LOG}")
            return
        stages.product(state.stage, state.folder)
        state.record = Record(
            name=state.stage.name,
            key=state.key,
            about=stages.about(state.stage),
            command=tuple(map(_from_here, state.command)),
            wall_s=time.monotonic() - state.began_s,
            software=software,
            told={name: _from_here(said) for name, said in stages.told(state.folder).items()},
        )
        put(state.folder / RECORD, msgspec.json.format(msgspec.json.encode(state.record), indent=1))
        state.phase = "done"


def _from_here(said: Any) -> Any:
    """A path below the working directory as it is called from there: a record is no place for names of one machine."""
    return said.replace(f"{Path.cwd()}/", "") if isinstance(said, str) else said


def products(experiment: Experiment, workspace: Path) -> Mapping[str, Path]:
    """Where the products of an experiment that was run lie, by stage."""
    folders = _folders(experiment, workspace)
    return {stage.name: stages.product(stage, folders[stage.name]) for stage in experiment.stages}
