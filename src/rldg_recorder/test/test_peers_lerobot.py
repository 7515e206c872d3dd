"""A released LeRobot opens our sets and returns what was written."""

from pathlib import Path

import numpy as np
import pytest
from made_sets import made, make_plan
from peers import TIMEOUT_S, run_peer

from rldg_recorder.build import build
from rldg_recorder.plan import Plan

pytestmark = pytest.mark.timeout(TIMEOUT_S + 20)

OPEN = """
import json, sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
root, out = sys.argv[1:]
"""

IMAGES = (
    OPEN
    + """
data = LeRobotDataset("rldg/set", root=root)
camera = "observation.images.wrist"
rows = [data[index] for index in range(len(data))]
columns = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0] if name != "task"}
np.savez(out, **columns)
chunks = LeRobotDataset("rldg/set", root=root, delta_timestamps={"action": [0.0, 0.1, 0.2]})
only = LeRobotDataset("rldg/set", root=root, episodes=[1])
print(json.dumps({
    "fps": data.fps, "episodes": data.num_episodes, "frames": data.num_frames, "only": len(only),
    "tasks": list(data.meta.tasks.index), "task": [row["task"] for row in rows],
    "chunk": chunks[4]["action"].tolist(), "pad": chunks[4]["action_is_pad"].tolist(),
    "q99": data.meta.stats["action"]["q99"].tolist(), "mean": data.meta.stats[camera]["mean"].shape,
}))
"""
)

VIDEO = (
    OPEN
    + """
import av
data = LeRobotDataset("rldg/set", root=root)
camera = "observation.images.wrist"
paths = {str(data.root / data.meta.get_video_file_path(index, camera)) for index in range(data.num_episodes)}
frames, times = [], []
for path in sorted(paths):
    with av.open(path) as container:
        for frame in container.decode(video=0):
            frames.append(frame.to_ndarray(format="rgb24"))
            times.append(float(frame.pts * frame.time_base))
np.savez(out, frames=np.stack(frames))
spans = [[row[f"videos/{camera}/{end}_timestamp"] for end in ("from", "to")] for row in data.meta.episodes]
print(json.dumps({"keys": data.meta.video_keys, "times": times, "spans": spans, "frames": len(data)}))
"""
)

# merging rewrites the set with LeRobot's own tools, so every column of the episode table must be as they expect
MERGE = (
    OPEN
    + """
from pathlib import Path
from lerobot.datasets.aggregate import aggregate_datasets
aggregate_datasets(["rldg/set", "rldg/set"], "rldg/merged", roots=[Path(root), Path(root)], aggr_root=Path(out))
data = LeRobotDataset("rldg/merged", root=out)
print(json.dumps({"episodes": data.num_episodes, "frames": len(data), "last": data[len(data) - 1]["action"].tolist()}))
"""
)


def build_set(tmp_path: Path, **options: object) -> tuple[Plan, Path]:
    plan = make_plan(tmp_path, (5, 9, 3), image_size_px=64, **options)
    return plan, build(plan, tmp_path, jobs=1, executor="serial", materialize=made)


def test_lerobot_returns_the_frames_and_actions_bit_by_bit(tmp_path: Path) -> None:
    plan, folder = build_set(tmp_path)
    said = run_peer("lerobot", IMAGES, folder, tmp_path / "read.npz")
    episodes = [made(planned, plan) for planned in plan.episodes]
    assert (said["fps"], said["episodes"], said["frames"], said["only"]) == (10, 3, 17, 9)
    assert said["tasks"] == ["insert plug 0", "insert plug 1"]
    assert said["task"] == [episode.instruction for episode in episodes for _ in range(len(episode))]
    with np.load(tmp_path / "read.npz") as read:
        images = np.concatenate([np.stack(list(episode.images)) for episode in episodes]).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(read["observation.images.wrist"] * 255.0, images)
        for column, name in (("action", "action"), ("observation.state", "state"), ("next.reward", "reward")):
            np.testing.assert_array_equal(read[column], np.concatenate([getattr(e, name) for e in episodes]))
        np.testing.assert_array_equal(read["next.done"], np.concatenate([episode.done for episode in episodes]))
        np.testing.assert_array_equal(read["index"], np.arange(17))
        np.testing.assert_array_equal(read["provenance.bag"], np.repeat([0, 1, 2], [5, 9, 3]))
    last = episodes[0].action[4]  # of the first episode: repeated beyond its end
    np.testing.assert_array_equal(np.float32(said["chunk"]), [last] * 3)
    assert said["pad"] == [False, True, True]
    assert len(said["q99"]) == 7 and said["mean"] == [3, 1, 1]


def test_lerobot_finds_every_frame_of_a_video_at_its_time(tmp_path: Path) -> None:
    plan, folder = build_set(tmp_path, video=True)
    said = run_peer("lerobot", VIDEO, folder, tmp_path / "read.npz")
    assert said["keys"] == ["observation.images.wrist"] and said["frames"] == 17
    np.testing.assert_allclose(said["times"], np.arange(17) / 10.0, atol=1e-9)
    np.testing.assert_allclose(said["spans"], [[0.0, 0.5], [0.5, 1.4], [1.4, 1.7]], atol=1e-9)
    expected = np.concatenate([np.stack(list(made(planned, plan).images)) for planned in plan.episodes])
    with np.load(tmp_path / "read.npz") as read:
        assert np.abs(read["frames"].astype(int) - expected).mean() < 5.0


def test_lerobot_merges_our_sets(tmp_path: Path) -> None:
    plan, folder = build_set(tmp_path)
    said = run_peer("lerobot", MERGE, folder, tmp_path / "merged")
    assert (said["episodes"], said["frames"]) == (6, 34)
    np.testing.assert_array_equal(np.float32(said["last"]), made(plan.episodes[2], plan).action[-1])
