"""Built sets are merged, thinned and split from themselves alone, with nothing lost of any frame."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import made_sets
import numpy as np
import pytest

from rldg_core.testing import make_task
from rldg_recorder.build import build
from rldg_recorder.edit import delete_episodes, merge_sets, split_set
from rldg_recorder.episode import write_info
from rldg_recorder.plan import DatasetError, Plan
from rldg_recorder.testing import make_info
from rldg_recorder.training_set import TrainingSet


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def built(root: Path, name: str = "set", **changes: Any) -> Path:
    plan = made_sets.make_plan(root, name=name, **changes)
    folder = build(plan, root / "sets", jobs=1, executor="serial", materialize=made_sets.made)
    shutil.rmtree(root / "bags")  # a set must be enough
    return folder


def assert_same_episode(one: TrainingSet, i: int, other: TrainingSet, j: int) -> None:
    a, b = one.episode(i), other.episode(j)
    for name in ("state", "action", "reward", "done", "source", "bag", "row"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.bags, a.policy_id, a.instruction, a.scale, a.rate_hz) == (
        b.bags,
        b.policy_id,
        b.instruction,
        b.scale,
        b.rate_hz,
    )
    assert one.encoded_images(i) == other.encoded_images(j)


def test_a_merged_set_holds_all_episodes_with_train_before_test(tmp_path) -> None:
    folders = [built(tmp_path / "a"), built(tmp_path / "b", lengths=(4, 6))]
    a, b = (TrainingSet(folder) for folder in folders)
    merged = TrainingSet(merge_sets(folders, tmp_path, "both"))
    assert [record.split for record in merged.episodes] == ["train"] * 3 + ["test"] * 2
    for i, (one, j) in enumerate([(a, 0), (a, 1), (b, 0), (a, 2), (b, 1)]):
        assert_same_episode(merged, i, one, j)
    assert len(merged.provenance.bags) == 5
    assert merged.provenance.bags[0] == a.provenance.bags[0]


def test_merging_one_set_gives_the_same_files(tmp_path) -> None:
    folder = built(tmp_path / "a")
    copy = merge_sets([folder], tmp_path, "set")
    names = [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file()]
    assert names == [p.relative_to(copy) for p in sorted(copy.rglob("*")) if p.is_file()]
    assert [name for name in names if (folder / name).read_bytes() != (copy / name).read_bytes()] == []


def test_sets_that_share_a_bag_do_not_merge(tmp_path) -> None:
    folder = built(tmp_path / "a")
    with pytest.raises(DatasetError, match=r"merge: .*/bags/0000 is in .*/set and in .*/copy; delete it from one"):
        merge_sets([folder, merge_sets([folder], tmp_path, "copy")], tmp_path, "both")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"rate_hz": 5.0}, "rate is 10 .* and 5"),
        ({"image_size_px": 64}, "image size"),
        ({"video": True}, "image format"),
    ],
)
def test_sets_of_different_kinds_do_not_merge(changes, what, tmp_path) -> None:
    folders = [built(tmp_path / "a"), built(tmp_path / "b", **changes)]
    with pytest.raises(DatasetError, match=f"merge: {what}"):
        merge_sets(folders, tmp_path, "both")


def test_deleted_episodes_are_gone_and_the_others_unchanged(tmp_path) -> None:
    folder = built(tmp_path / "a")
    before, after = TrainingSet(folder), TrainingSet(delete_episodes(folder, {1}, tmp_path, "less"))
    assert len(after) == 2 and after.name == "less"
    assert_same_episode(after, 0, before, 0)
    assert_same_episode(after, 1, before, 2)
    assert len(after.provenance.bags) == 2
    assert after.statistics["less"]["num_trajectories"] == 1


def test_an_episode_that_is_not_there_cannot_be_deleted(tmp_path) -> None:
    with pytest.raises(DatasetError, match="there is no episode 7, it has 0 to 2"):
        delete_episodes(built(tmp_path / "a"), {0, 7}, tmp_path, "less")


def test_a_set_does_not_become_empty(tmp_path) -> None:
    with pytest.raises(DatasetError, match="no episode would be left"):
        delete_episodes(built(tmp_path / "a"), {0, 1, 2}, tmp_path, "less")


def test_an_existing_set_is_not_overwritten(tmp_path) -> None:
    folder = built(tmp_path / "a")
    with pytest.raises(DatasetError, match="exists already"):
        delete_episodes(folder, {0}, folder.parent, folder.name)
    assert len(TrainingSet(folder)) == 3


def test_a_set_is_split_anew_by_episode(tmp_path) -> None:
    folder = built(tmp_path / "a", lengths=(3,) * 10)
    again = TrainingSet(split_set(folder, 0.3, tmp_path, "again"))
    assert [record.split for record in again.episodes] == ["train"] * 7 + ["test"] * 3
    bags = {again.episode(i).bags[0] for i in range(10)}
    assert len(bags) == 10


def test_episodes_of_one_start_stay_on_one_side(tmp_path) -> None:
    plan: Plan = made_sets.make_plan(tmp_path, lengths=(3,) * 8)
    for number, planned in enumerate(plan.episodes):  # two of each seed
        info = make_info(make_task(), steps=4, seed=number // 2, episode_id=f"s/{number}")
        write_info(Path(planned.segments[0].bag), info)
    folder = build(plan, tmp_path, jobs=1, executor="serial", materialize=made_sets.made)
    again = TrainingSet(split_set(folder, 0.25, tmp_path, "again", seed=1))
    sides: dict[int, set[str]] = {}
    for record in again.episodes:
        sides.setdefault(again.provenance.bags[record.segments[0].bag].seed, set()).add(record.split)
    assert sorted(map(sorted, sides.values())) == [["test"], ["train"], ["train"], ["train"]]


def test_a_video_set_is_encoded_again(tmp_path) -> None:
    folder = built(tmp_path / "a", video=True)
    before, after = TrainingSet(folder), TrainingSet(delete_episodes(folder, {0}, tmp_path, "less"))
    difference = np.abs(np.int16(before.episode(1).images[3]) - np.int16(after.episode(0).images[3]))
    assert difference.mean() < 3.0
    np.testing.assert_array_equal(before.episode(1).action, after.episode(0).action)


def test_a_set_of_unknown_origin_is_refused(tmp_path) -> None:
    folder = built(tmp_path / "a")
    (folder / "provenance.json").unlink()
    with pytest.raises(DatasetError, match="only built sets can be edited"):
        merge_sets([folder], tmp_path, "both")


def test_an_interrupted_edit_leaves_no_set(tmp_path, monkeypatch) -> None:
    folder = built(tmp_path / "a")

    def full(_: object) -> None:
        raise OSError("full")

    monkeypatch.setattr("rldg_recorder.edit.LeRobotWriter.finish", full)
    with pytest.raises(OSError, match="full"):
        delete_episodes(folder, {0}, tmp_path, "less")
    assert not (tmp_path / "less").exists()
