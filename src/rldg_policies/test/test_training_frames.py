"""Training sets in both formats give the same frames, split by episode."""

import json
from pathlib import Path

import numpy as np
import pytest

from rldg_policies.training_frames import load_frames
from rldg_recorder.build import build
from rldg_recorder.edit import delete_episodes
from rldg_recorder.frames import BagRecord, TrainingEpisode
from rldg_recorder.plan import DatasetError, Plan, PlannedEpisode, Segment
from rldg_recorder.rlds_writer import Rlds, export_rlds
from rldg_recorder.training_set import TrainingSet

SIDE_PX = 16


def made(planned: PlannedEpisode, plan: Plan) -> TrainingEpisode:
    """Frames that follow from the name of the bag."""
    (segment,) = planned.segments
    number, n = int(Path(segment.bag).name), len(segment.rows)
    rng = np.random.default_rng(number)
    bag = BagRecord(path=segment.bag, episode_id=f"s/{number}", task="usb", scene="", seed=number, outcome="success")
    return TrainingEpisode(
        instruction=planned.instruction,
        split=planned.split,
        rate_hz=plan.rate_hz,
        images=list(rng.integers(0, 255, (n, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)),
        state=rng.normal(size=(n, 19)).astype(np.float32),
        action=np.column_stack([rng.uniform(-1, 1, (n, 6)), np.zeros(n)]).astype(np.float32),
        reward=np.zeros(n, np.float32),
        done=np.zeros(n, np.bool_),
        source=np.ones(n, np.int64),
        bag=np.zeros(n, np.int64),
        row=np.arange(n),
        bags=(bag,),
        policy_id=("p",) * n,
        scale=(0.02, 0.02, 0.02, 0.1, 0.1, 0.1),
    )


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    episodes = []
    for number in range(5):
        bag = tmp_path / "bags" / str(number)
        bag.mkdir(parents=True)
        segment = Segment(bag=str(bag), rows=tuple(range(3 + number)))
        split = "test" if number == 4 else "train"
        episodes.append(PlannedEpisode(segments=(segment,), instruction=f"do {number % 2}", split=split))
    return Plan(name="small", episodes=tuple(episodes), rate_hz=10.0, image_size_px=SIDE_PX)


@pytest.fixture
def folder(plan: Plan, tmp_path: Path) -> Path:
    return build(plan, tmp_path / "sets", jobs=1, executor="serial", materialize=made)


def test_a_set_is_read_with_its_own_split_scale_and_statistics(folder: Path) -> None:
    frames = load_frames(folder)
    assert (frames.name, frames.rate_hz, frames.action_dim) == ("small", 10.0, 7)
    assert [len(episode) for episode in frames.train] == [3, 4, 5, 6] and [len(e) for e in frames.held_out] == [7]
    assert frames.scale == (0.02, 0.02, 0.02, 0.1, 0.1, 0.1)
    assert frames.action_statistics.normalised.tolist() == [True] * 6 + [False]
    assert [episode.instruction for episode in frames.train] == ["do 0", "do 1", "do 0", "do 1"]


def test_rlds_gives_the_same_frames_and_statistics(folder: Path, tmp_path: Path) -> None:
    one = load_frames(folder)
    other = load_frames(export_rlds(TrainingSet(folder), Rlds(tmp_path / "rlds", "small"), executor="serial"))
    for mine, theirs in zip((*one.train, *one.held_out), (*other.train, *other.held_out), strict=True):
        np.testing.assert_array_equal(mine.action, theirs.action)
        np.testing.assert_array_equal(np.stack(list(mine.images)), np.stack(list(theirs.images)))
        assert mine.instruction == theirs.instruction
    np.testing.assert_allclose(one.action_statistics.low, other.action_statistics.low, atol=1e-6)


def test_without_a_test_split_whole_episodes_are_held_out_the_same_for_a_seed(folder: Path, tmp_path: Path) -> None:
    trained = delete_episodes(folder, [4], tmp_path, "all-train")
    frames = [load_frames(trained, seed=seed) for seed in (0, 0, 1, 2, 3)]
    held = [[len(episode) for episode in each.held_out] for each in frames]
    assert held[0] == held[1] and len({tuple(each) for each in held}) > 1
    assert all(len(each.train) == 3 for each in frames)


def test_a_folder_without_a_set_says_what_would_be_one(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"is no training set: neither .*; make one with ./rldg dataset build"):
        load_frames(tmp_path)


def test_statistics_of_another_set_are_refused(folder: Path) -> None:
    path = folder / "dataset_statistics.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"other": content["small"]}))
    with pytest.raises(ValueError, match="has no statistics of 'small'; there are: other"):
        load_frames(folder)


@pytest.mark.parametrize("text", ["", "{"])
def test_damaged_statistics_are_refused(folder: Path, text: str) -> None:
    (folder / "dataset_statistics.json").write_text(text)
    with pytest.raises(DatasetError, match="is not JSON"):
        load_frames(folder)


def test_an_image_that_was_asked_for_must_be_there(folder: Path, tmp_path: Path) -> None:
    rlds = export_rlds(TrainingSet(folder), Rlds(tmp_path / "rlds", "small"), executor="serial")
    with pytest.raises(DatasetError, match="no images or texts 'steps/observation/primary'"):
        load_frames(rlds, image="primary")
