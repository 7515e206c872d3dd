"""Built training sets, taken apart and put together again: merge, delete episodes, split.

Works from the sets alone, their bags may be gone. Numbers and provenance are taken over as they are and PNG images stay
the same to the last bit; images in a video are encoded again and lose a little, so rebuild such a set where its bags
are still there. A set is never changed in place.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from rldg_recorder.algebra import split_off
from rldg_recorder.frames import BagRecord
from rldg_recorder.lerobot_writer import LeRobotWriter, encode
from rldg_recorder.partial import partial_folder, put
from rldg_recorder.plan import DatasetError, Plan, PlannedEpisode, Segment
from rldg_recorder.training_set import TrainingSet

_Chosen = tuple[TrainingSet, int, str]  # an episode of a set, and the split it goes to


def merge_sets(folders: Sequence[Path], out: Path, name: str) -> Path:
    """One set of several, train before test.

    Returns:
        The folder ``out/name``.

    Raises:
        DatasetError: rate, image size, image format or action scale differ, a row of a bag is in two of them, or
            ``out/name`` exists.
    """
    sets = [TrainingSet(folder) for folder in folders]
    seen: dict[tuple[str, int], TrainingSet] = {}
    for one in sets:
        for attribute, value, wanted in zip(_KIND, _kind(one), _kind(sets[0]), strict=True):
            if value != wanted:
                raise DatasetError(
                    f"merge: {attribute} is {wanted} in {sets[0].folder} and {value} in {one.folder}; "
                    "build them with the same"
                )
        rows = {(bag.path, row) for n in range(len(one)) for bag, of_bag in _segments(one, n) for row in of_bag}
        twice = sorted(rows & seen.keys())
        if twice:
            raise DatasetError(
                f"merge: {twice[0][0]} is in {seen[twice[0]].folder} and in {one.folder}; delete it from one first"
            )
        seen |= dict.fromkeys(rows, one)
    return _write([(one, n, one.episodes[n].split) for one in sets for n in range(len(one))], out, name)


def delete_episodes(folder: Path, numbers: Collection[int], out: Path, name: str) -> Path:
    """The set without some of its episodes.

    Returns:
        The folder ``out/name``.

    Raises:
        DatasetError: there is no such episode, none would be left, or ``out/name`` exists.
    """
    one = TrainingSet(folder)
    unknown = sorted(set(numbers) - set(range(len(one))))
    if unknown:
        raise DatasetError(f"{folder}: there is no episode {unknown[0]}, it has 0 to {len(one) - 1}")
    return _write([(one, n, one.episodes[n].split) for n in range(len(one)) if n not in numbers], out, name)


def split_set(folder: Path, test: float, out: Path, name: str, seed: int = 0) -> Path:
    """The set with another split by whole episodes; see :func:`rldg_recorder.algebra.split`.

    Args:
        test: share of the episodes of each object that are put aside, in (0, 1).

    Returns:
        The folder ``out/name``.

    Raises:
        DatasetError: it cannot be split, or ``out/name`` exists.
    """
    one = TrainingSet(folder)
    bags = [[bag for bag, _ in _segments(one, n)] for n in range(len(one))]
    ties: list[list[Hashable]] = [
        [*(bag.path for bag in of), *((bag.task, bag.scene, bag.seed) for bag in of)] for of in bags
    ]
    objects = [f"{of[0].task}/{of[0].scene}" if of else "" for of in bags]
    aside = split_off(objects, ties, test, np.random.default_rng(seed))
    return _write([(one, n, "test" if n in aside else "train") for n in range(len(one))], out, name)


_KIND = ("rate", "image size", "image format", "action scale")


def _kind(one: TrainingSet) -> tuple[object, ...]:
    scales = sorted({record.scale for record in one.episodes})
    side_px, video = one.picture
    return one.info["fps"], side_px, "video" if video else "image", scales


def _segments(one: TrainingSet, number: int) -> list[tuple[BagRecord, tuple[int, ...]]]:
    record = one.episodes[number]
    if not record.segments:
        raise DatasetError(
            f"{one.folder}: nothing says where episode {number} comes from; only built sets can be edited"
        )
    return [(one.provenance.bags[segment.bag], segment.rows) for segment in record.segments]


def _write(chosen: Sequence[_Chosen], out: Path, name: str) -> Path:
    chosen = sorted(chosen, key=lambda choice: choice[2] != "train")  # stable: in the order of the sets
    sets = list(dict.fromkeys(one for one, _, _ in chosen))
    target = out / name
    if not chosen:
        raise DatasetError(f"{target}: no episode would be left")
    side_px, video = sets[0].picture
    episodes = tuple(_planned(*choice) for choice in chosen)
    plan = Plan(
        name=name,
        episodes=episodes,
        rate_hz=float(sets[0].info["fps"]),
        image_size_px=side_px,
        video=video,
        recipe="---\n".join(one.provenance.recipe for one in sets),
    )
    with partial_folder(target) as partial:
        with closing(LeRobotWriter(partial / "set", plan)) as writer:
            for index, ((one, number, split), planned) in enumerate(zip(chosen, episodes, strict=True)):
                shard = partial / "shards" / f"{index}.npz"
                episode = replace(one.episode(number), split=split)
                encode(episode, shard, plan)
                writer.add(shard, planned)
                for file in partial.glob("shards/*"):
                    file.unlink()
            writer.finish()
        put(partial, target)
    return target


def _planned(one: TrainingSet, number: int, split: str) -> PlannedEpisode:
    record = one.episodes[number]
    return PlannedEpisode(
        segments=tuple(Segment(bag=bag.path, rows=rows) for bag, rows in _segments(one, number)),
        instruction=record.instruction,
        group=record.group,
        split=split,
        stride=record.stride,
        relabel=record.relabel,
    )
