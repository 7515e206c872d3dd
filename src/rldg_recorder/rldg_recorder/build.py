"""Carry out a plan: bags in, a training set in the format of LeRobot v3.0 out.

Every episode is worked out and encoded by itself into a shard, in whatever process the executor provides; this process
puts the shards together in order. Shards are named by what they are made from, so a build that was interrupted goes on
where it stopped, also after the recipe has changed: what is still wanted is used again. The set appears under its name
at the end, whole, or not at all.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rldg_recorder.executors import TaskError, make_executor
from rldg_recorder.frames import TrainingEpisode
from rldg_recorder.lerobot_writer import LeRobotWriter, encode, is_whole
from rldg_recorder.materialize import materialize
from rldg_recorder.plan import DatasetError, Plan, PlannedEpisode, digest

_SHARD_FORMAT = 1  # raise it whenever shards of before must not be used again

Materialize = Callable[[PlannedEpisode, Plan], TrainingEpisode]


@dataclass(frozen=True)
class _Work:
    """One episode to be made; small, because it is sent to other processes."""

    planned: PlannedEpisode
    options: Plan  # without episodes
    shard: Path
    materialize: Materialize


def build(
    plan: Plan,
    out: Path,
    *,
    jobs: int,
    executor: str = "processes",
    progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
    materialize: Materialize = materialize,
) -> Path:
    """Write the training set of a plan; the same bags and plan give the same bytes, whatever the executor.

    Args:
        out: folder that gets the set as ``out/<plan.name>``, and while it is being made ``out/.<plan.name>.partial``.
            The latter is left by an interrupted or failed build, for the next one to go on from.
        jobs: episodes that are worked on at a time.
        executor: one of :data:`rldg_recorder.executors.EXECUTORS`. Processes are spawned: a script that calls this must
            have its ``if __name__ == "__main__"``.
        progress: called with the number of finished episodes and of all.
        overwrite: replace a set of this name; otherwise it is refused.
        materialize: makes a planned episode; a function that other processes can import.

    Returns:
        The folder of the set.

    Raises:
        DatasetError: the plan or one of its episodes is wrong (the message names it), or the set exists.
        OSError: the disk is full or failed.
    """
    _check(plan)
    target = out / plan.name
    if target.exists() and not overwrite:
        raise DatasetError(f"{target}: exists already; choose another name, remove it or overwrite it")
    options = msgspec.structs.replace(plan, name="", episodes=(), recipe="")
    workers = make_executor(executor, jobs)
    with partial_folder(out / f".{plan.name}.partial") as partial:
        identities = {bag: _identity(bag) for bag in sorted({s.bag for e in plan.episodes for s in e.segments})}
        work = []
        for planned in plan.episodes:
            bags = [identities[segment.bag] for segment in planned.segments]
            key = digest((_SHARD_FORMAT, planned, options, bags))
            work.append(_Work(planned, options, partial / "shards" / f"{key}.npz", materialize))
        writer = LeRobotWriter(partial / "set", plan)
        done = 0
        try:
            with closing(writer), closing(workers.map_in_order(_make_shard, work)) as results:
                for _ in results:
                    writer.add(work[done].shard, work[done].planned)
                    done += 1
                    if progress is not None:
                        progress(done, len(work))
                writer.finish()
        except TaskError as error:
            raise DatasetError(f"{_describe(error.index, plan)}: {error}") from error
        put(partial, target)
    return target


def _make_shard(work: _Work) -> None:
    """In a worker."""
    if not is_whole(work.shard, work.options.video):
        encode(work.materialize(work.planned, work.options), work.shard, work.options.video)


def _check(plan: Plan) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", plan.name):
        raise DatasetError(
            f"name {plan.name[:120]!r} of the set: must be 1 to 100 letters, digits, _ - or ., no . first"
        )
    if not plan.episodes:
        raise DatasetError(f"set {plan.name}: the plan has no episode; select more bags")
    if not 0.0 < plan.rate_hz <= 1000.0:
        raise DatasetError(f"set {plan.name}: rate_hz is {plan.rate_hz}, must be in (0, 1000]")
    for index, planned in enumerate(plan.episodes):
        if not planned.segments:
            raise DatasetError(f"{_describe(index, plan)}: has no segment")


def _describe(index: int, plan: Plan) -> str:
    segments = plan.episodes[index].segments
    return f"episode {index} of {plan.name}" + (
        f" ({' + '.join(segment.bag for segment in segments)})" if segments else ""
    )


def _identity(bag: str) -> tuple[str, list[tuple[str, int, int]]]:
    """Path of a bag, and name, size (bytes) and time (ns) of its files: other content has another identity."""
    try:
        files = sorted(entry for entry in Path(bag).iterdir() if entry.is_file())
        return bag, [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except OSError as error:
        raise DatasetError(f"{bag}: the bag cannot be read: {error.strerror}; plan the set anew") from None


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """The folder of a set in the making, used by one build at a time: ``shards``, and ``set`` without files.

    Raises:
        DatasetError: another build uses it.
    """
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatasetError(f"{folder}: another build of this set is running; wait for it or end it") from None
        shutil.rmtree(folder / "set", ignore_errors=True)
        (folder / "set").mkdir()
        yield folder
    finally:
        os.close(descriptor)


def put(partial: Path, target: Path) -> None:
    """Give ``partial/set``, which is whole, its name, and remove the rest. What stood there is replaced."""
    for path in (partial / "set").rglob("*"):
        if path.is_file():  # on disk before the name says that it is whole
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    old = partial / "old"
    if target.exists():
        target.replace(old)
    (partial / "set").replace(target)
    shutil.rmtree(partial)
