"""Training sets: what was written is read back, in the layout of LeRobot v3.0."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_sets import SIDE_PX, made, make_plan

from rldg_recorder import lerobot_writer
from rldg_recorder.build import build
from rldg_recorder.plan import DatasetError, Plan, PlannedEpisode, Segment
from rldg_recorder.statistics import column_statistics
from rldg_recorder.training_set import CAMERA, TrainingSet

ARRAYS = ("state", "action", "reward", "done", "source", "bag", "row")


def build_set(plan: Plan, root: Path) -> TrainingSet:
    return TrainingSet(build(plan, root, jobs=1, executor="serial", materialize=made))


def check_same(training_set: TrainingSet, plan: Plan) -> None:
    for number, planned in enumerate(plan.episodes):
        expected, found = made(planned, plan), training_set.episode(number)
        for name in ARRAYS:
            value = getattr(found, name)
            np.testing.assert_array_equal(value, getattr(expected, name), name)
            assert value.dtype == getattr(expected, name).dtype, name
        for name in ("instruction", "split", "rate_hz", "bags", "policy_id", "scale", "relabelled"):
            assert getattr(found, name) == getattr(expected, name), name
        if not plan.video:
            np.testing.assert_array_equal(np.stack(list(found.images)), np.stack(list(expected.images)))


def test_episodes_come_back_bit_by_bit(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    training_set = build_set(plan, tmp_path)
    assert (training_set.name, len(training_set), training_set.frames) == ("set", 3, 17)
    check_same(training_set, plan)


def test_a_spliced_episode_keeps_the_order_of_its_bags(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, (4, 4))
    first, second = (planned.segments[0] for planned in plan.episodes)
    spliced = PlannedEpisode(
        segments=(Segment(bag=second.bag, rows=(0, 1)), Segment(bag=first.bag, rows=(2, 3))), instruction="insert"
    )
    plan = Plan(name="set", episodes=(plan.episodes[0], spliced), rate_hz=10.0, image_size_px=SIDE_PX)
    training_set = build_set(plan, tmp_path)
    check_same(training_set, plan)
    assert [segment.bag for segment in training_set.episodes[1].segments] == [1, 0]
    np.testing.assert_array_equal(training_set.columns(["provenance.bag"], [1])["provenance.bag"], [1, 1, 0, 0])


def test_images_are_read_by_index_and_by_slice(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    images, expected = build_set(plan, tmp_path).images(1), made(plan.episodes[1], plan).images
    np.testing.assert_array_equal(images[-1], expected[-1])
    np.testing.assert_array_equal(np.stack(list(images[2:8:3])), np.stack(list(expected[2:8:3])))


def test_a_video_has_every_frame_at_its_time(tmp_path: Path) -> None:
    import av

    plan = make_plan(tmp_path, (5, 9, 3), video=True)
    training_set = build_set(plan, tmp_path)
    check_same(training_set, plan)
    for number, planned in enumerate(plan.episodes):
        found, expected = (
            np.stack(list(i)).astype(int) for i in (training_set.images(number), made(planned, plan).images)
        )
        own = np.abs(found - expected).mean()
        neighbour = np.abs(found[1:] - expected[:-1]).mean()
        assert found.shape == expected.shape and own < 6.0 and own < neighbour
    path = training_set.folder / "videos" / CAMERA / "chunk-000" / "file-000.mp4"
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(17) / 10.0, atol=1e-9)


def test_a_video_of_odd_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"episode 0 of set.*33 pixels.*even"):
        build_set(make_plan(tmp_path, video=True, image_size_px=33), tmp_path)


def test_columns_are_read_for_the_episodes_asked_for(tmp_path: Path) -> None:
    columns = build_set(make_plan(tmp_path), tmp_path).columns(["index", "action", "task_index"], [2, 0])
    np.testing.assert_array_equal(columns["index"], [14, 15, 16, 0, 1, 2, 3, 4])
    assert columns["action"].shape == (8, 7) and columns["action"].dtype == np.float32
    assert set(columns["task_index"]) == {0}


def test_files_hold_one_row_group_for_each_episode_and_roll_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lerobot_writer, "_MB", 100)
    monkeypatch.setattr(lerobot_writer, "CHUNK_FILES", 2)
    plan = make_plan(tmp_path, (9, 9, 2, 2, 9))
    training_set = build_set(plan, tmp_path)
    files = sorted(path.relative_to(training_set.folder).as_posix() for path in training_set.folder.glob("data/*/*"))
    chunks = ("chunk-000/file-000", "chunk-000/file-001", "chunk-001/file-000", "chunk-001/file-001")
    assert files == [f"data/{name}.parquet" for name in chunks]
    groups = [pq.read_metadata(training_set.folder / file).num_row_groups for file in files]
    assert groups == [1, 1, 2, 1]
    check_same(training_set, plan)


def test_videos_roll_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot_writer, "_MB", 1)
    training_set = build_set(make_plan(tmp_path, (5, 4), video=True), tmp_path)
    assert len(list(training_set.folder.glob("videos/*/*/*.mp4"))) == 2
    assert [len(list(training_set.images(number))) for number in (0, 1)] == [5, 4]


def test_the_info_names_splits_rate_and_features(tmp_path: Path) -> None:
    info = build_set(make_plan(tmp_path), tmp_path).info
    assert info["splits"] == {"train": "0:2", "test": "2:3"}
    assert (info["fps"], info["total_frames"], info["total_tasks"]) == (10, 17, 2)
    assert info["features"][CAMERA]["shape"] == [SIDE_PX, SIDE_PX, 3]
    assert len(info["features"]["observation.state"]["names"]) == 19


def test_splits_that_are_not_contiguous_are_refused(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    shuffled = Plan(name="set", episodes=(*plan.episodes, plan.episodes[0]), rate_hz=10.0, image_size_px=SIDE_PX)
    with pytest.raises(DatasetError, match="episode 3 is of split 'train' again"):
        build_set(shuffled, tmp_path)


def test_normalisation_is_over_all_frames_of_the_training_split(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    training_set = build_set(plan, tmp_path)
    frames = np.concatenate([made(planned, plan).action for planned in plan.episodes[:2]])
    found = training_set.statistics["set"]
    assert (found["num_transitions"], found["num_trajectories"]) == (14, 2)
    assert found["action"].pop("mask") == [True] * 6 + [False]
    expected = column_statistics(frames)
    assert found["action"] == {name: expected[name] for name in ("min", "max", "mean", "std", "q01", "q99")}
    assert len(found["proprio"]["q99"]) == 19


def test_a_set_without_training_episodes_is_refused(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    with pytest.raises(DatasetError, match="no episode has the split 'train'"):
        build_set(Plan(name="set", episodes=plan.episodes[2:], rate_hz=10.0, image_size_px=SIDE_PX), tmp_path)


def test_image_statistics_are_those_of_all_pixels(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    training_set = build_set(plan, tmp_path)
    pixels = np.concatenate([np.stack(list(made(planned, plan).images)) for planned in plan.episodes])
    expected = column_statistics(pixels.reshape(-1, 3) / 255.0)
    found = json.loads((training_set.folder / "meta/stats.json").read_text())[CAMERA]
    assert found.pop("count") == [17]
    for name, values in found.items():
        np.testing.assert_allclose(np.reshape(values, 3), expected[name], atol=1e-12, err_msg=name)


def test_every_episode_has_its_statistics(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    folder = build_set(plan, tmp_path).folder
    rows = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert rows[1]["stats/action/mean"] == column_statistics(made(plan.episodes[1], plan).action)["mean"]
    assert rows[1]["stats/index/min"] == [5] and rows[1]["stats/next.done/max"] == [True]
    assert np.shape(rows[1][f"stats/{CAMERA}/q50"]) == (3, 1, 1)


def test_provenance_names_bags_policies_and_recipe(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    provenance = build_set(plan, tmp_path).provenance
    assert [bag.path for bag in provenance.bags] == [planned.segments[0].bag for planned in plan.episodes]
    bag = provenance.bags[1]
    assert (bag.episode_id, bag.task, bag.scene, bag.seed, bag.outcome) == ("s/0001", "peg", "seen", 1, "success")
    assert bag.policies[0].checkpoint_hash == "c0ffee"
    assert provenance.policies == ("", "policy0", "policy1")
    assert provenance.recipe == "name: set\n" and len(provenance.recipe_sha256) == 64
    record = provenance.episodes[1]
    assert (record.length, record.split, record.group, record.rate_hz) == (9, "train", "all", 10.0)
    assert record.segments[0].rows == plan.episodes[1].segments[0].rows and record.scale[3] == 0.05


def test_a_set_without_provenance_still_gives_columns_and_images(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    folder = build_set(plan, tmp_path).folder
    (folder / "provenance.json").unlink()
    foreign = TrainingSet(folder)
    assert [record.instruction for record in foreign.episodes[:2]] == ["insert plug 0", "insert plug 1"]
    np.testing.assert_array_equal(foreign.columns(["action"], [1])["action"], made(plan.episodes[1], plan).action)
    np.testing.assert_array_equal(foreign.images(2)[1], made(plan.episodes[2], plan).images[1])
    with pytest.raises(DatasetError, match="bags or policies that are not listed"):
        foreign.episode(0)
