"""Carry out a plan: bags in, a training set in the format of LeRobot v3.0 out.

Every episode is worked out and encoded by itself into a shard, in whatever process the executor provides; this process
puts the shards together in order. Shards are named by what they are made from, so a build that was interrupted goes on
where it stopped, also after the recipe has changed: what is still wanted is used again. The set appears under its name
at the end, whole, or not at all. The same set as RLDS is made on the way where it is wanted: its images are encoded
while they are at hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rldg_recorder.executors import TaskError, make_executor
from rldg_recorder.frames import TrainingEpisode
from rldg_recorder.lerobot_writer import LeRobotWriter, encode, encoded_images, is_whole
from rldg_recorder.materialize import materialize
from rldg_recorder.partial import partial_folder, put
from rldg_recorder.plan import DatasetError, Plan, PlannedEpisode, digest
from rldg_recorder.rlds_writer import Rlds, has_record, open_rlds, write_record

_SHARD_FORMAT = 1  # raise it whenever shards of before must not be used again

Materialize = Callable[[PlannedEpisode, Plan], TrainingEpisode]


@dataclass(frozen=True)
class _Work:
    """One episode to be made; small, because it is sent to other processes."""

    planned: PlannedEpisode
    options: Plan  # without episodes
    shard: Path
    materialize: Materialize
    rlds: Rlds | None


def build(
    plan: Plan,
    out: Path,
    *,
    jobs: int,
    executor: str = "processes",
    progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
    materialize: Materialize = materialize,
    rlds: Rlds | None = None,
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
        rlds: also write the set as RLDS, as :func:`rldg_recorder.rlds_writer.export_rlds` would (but the images of a
            video as they are in the bags).

    Returns:
        The folder of the set.

    Raises:
        DatasetError: the plan or one of its episodes is wrong (the message names it), or the set exists.
        OSError: the disk is full or failed.
    """
    _check(plan)
    target = out / plan.name
    if rlds is not None and target.resolve() in rlds.target.resolve().parents:
        raise DatasetError(f"RLDS {rlds.target}: lies in the set; choose another folder for it")
    options = msgspec.structs.replace(plan, name="", episodes=(), recipe="")
    workers = make_executor(executor, jobs)
    also = nullcontext() if rlds is None else open_rlds(rlds, overwrite)
    with partial_folder(target, overwrite) as partial, also as rlds_writer:
        identities = {bag: _identity(bag) for bag in sorted({s.bag for e in plan.episodes for s in e.segments})}
        work = []
        for planned in plan.episodes:
            bags = [identities[segment.bag] for segment in planned.segments]
            key = digest((_SHARD_FORMAT, planned, options, bags))
            work.append(_Work(planned, options, partial / "shards" / f"{key}.npz", materialize, rlds))
        writer = LeRobotWriter(partial / "set", plan)
        done = 0
        try:
            with closing(writer), closing(workers.map_in_order(_make_shard, work)) as results:
                for _ in results:
                    shard, planned = work[done].shard, work[done].planned
                    frames = writer.add(shard, planned)
                    if rlds_writer is not None:
                        rlds_writer.add(shard, planned.split, frames)
                    done += 1
                    if progress is not None:
                        progress(done, len(work))
                writer.finish()
        except TaskError as error:
            raise DatasetError(f"{_describe(error.index, plan)}: {error}") from error
        if rlds_writer is not None:
            rlds_writer.finish(plan.image_size_px, plan.rate_hz)
        put(partial, target)
    return target


def _make_shard(work: _Work) -> None:
    """In a worker."""
    video, rlds = work.options.video, work.rlds
    if is_whole(work.shard, video) and (rlds is None or has_record(work.shard, rlds)):
        return
    episode = work.materialize(work.planned, work.options)
    if rlds is None:
        encode(episode, work.shard, work.options)
        return
    images: list[bytes] = []
    same = not video and (rlds.image_format == "jpeg") == work.options.jpeg
    encode(episode, work.shard, work.options, each=lambda image: None if same else images.append(rlds.encode(image)))
    write_record(work.shard, rlds, episode, encoded_images(work.shard) if same else images, work.planned.group)


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
