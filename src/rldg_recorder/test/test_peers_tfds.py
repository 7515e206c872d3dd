"""TensorFlow Datasets reads our RLDS."""

from pathlib import Path

import numpy as np
import pytest
from made_sets import made, make_plan
from peers import TIMEOUT_S, run_peer

from rldg_recorder.build import build
from rldg_recorder.rlds_writer import Rlds, export_rlds
from rldg_recorder.training_set import TrainingSet

pytestmark = pytest.mark.timeout(TIMEOUT_S + 20)

READ = """
import json, sys
import numpy as np
import tensorflow_datasets as tfds
folder, out = sys.argv[1:]
builder = tfds.builder_from_directory(folder)
episodes, columns = [], {}
for split in ("train", "test"):
    for episode in builder.as_dataset(split=split):
        steps = list(episode["steps"].as_numpy_iterator())
        number = len(episodes)
        columns[f"image{number}"] = np.stack([step["observation"]["wrist_image"] for step in steps])
        columns[f"state{number}"] = np.stack([step["observation"]["state"] for step in steps])
        for name in ("action", "reward", "discount", "is_first", "is_last", "is_terminal"):
            columns[f"{name}{number}"] = np.stack([step[name] for step in steps])
        metadata = {name: value.numpy() for name, value in episode["episode_metadata"].items()}
        episodes.append({
            "split": split, "instruction": [step["language_instruction"].decode() for step in steps],
            "metadata": {k: v.decode() if isinstance(v, bytes) else bool(v) for k, v in metadata.items()},
        })
np.savez(out, **columns)
print(json.dumps({"splits": {k: v.num_examples for k, v in builder.info.splits.items()}, "episodes": episodes}))
"""


@pytest.mark.parametrize(("image_format", "tolerance"), [("png", 0.0), ("jpeg", 5.0)])
def test_tfds_returns_the_episodes(tmp_path: Path, image_format: str, tolerance: float) -> None:
    plan = make_plan(tmp_path, (5, 9, 3))
    training_set = TrainingSet(build(plan, tmp_path, jobs=1, executor="serial", materialize=made))
    folder = export_rlds(training_set, Rlds(tmp_path / "rlds", "set", image_format=image_format), executor="serial")
    said = run_peer("tensorflow_datasets", READ, folder, tmp_path / "read.npz")
    assert said["splits"] == {"train": 2, "test": 1}
    with np.load(tmp_path / "read.npz") as read:
        for number, planned in enumerate(plan.episodes):
            expected = made(planned, plan)
            images = read[f"image{number}"].astype(int)
            assert np.abs(images - np.stack(list(expected.images))).mean() <= tolerance
            np.testing.assert_array_equal(read[f"action{number}"], expected.action)
            np.testing.assert_array_equal(read[f"state{number}"], expected.state)
            np.testing.assert_array_equal(read[f"reward{number}"], expected.reward)
            np.testing.assert_array_equal(read[f"is_terminal{number}"], expected.done)
            assert read[f"is_last{number}"].tolist() == expected.done.tolist()
            episode = said["episodes"][number]
            assert episode["instruction"] == [planned.instruction] * len(expected)
            assert episode["metadata"]["file_path"] == planned.segments[0].bag
            assert episode["split"] == planned.split
