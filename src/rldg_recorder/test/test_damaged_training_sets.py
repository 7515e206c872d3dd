"""Damaged training sets: one line that names the file, never frames that are wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_sets import made, make_plan

from rldg_recorder.build import build
from rldg_recorder.edit import delete_episodes
from rldg_recorder.plan import DatasetError
from rldg_recorder.rlds_writer import Rlds, export_rlds
from rldg_recorder.training_set import CAMERA, TrainingSet

DATA = "data/chunk-000/file-000.parquet"
TABLE = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = f"videos/{CAMERA}/chunk-000/file-000.mp4"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build(make_plan(tmp_path), tmp_path, jobs=1, executor="serial", materialize=made)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_json(path: Path, change: Callable[[dict], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def change_table(path: Path, change: Callable[[dict], object]) -> None:
    with pq.ParquetFile(path) as file:
        groups = [file.read_row_group(group) for group in range(file.num_row_groups)]
    with pq.ParquetWriter(path, groups[0].schema) as writer:
        for group in groups:
            columns = group.to_pydict()
            change(columns)
            writer.write_table(pa.table(columns, schema=group.schema))


def read_all(folder: Path) -> None:
    training_set = TrainingSet(folder)
    for number in range(len(training_set)):
        list(training_set.episode(number).images)


@pytest.mark.parametrize("name", ["meta/info.json", "provenance.json", TABLE, DATA])
def test_a_file_that_is_cut_off_is_named(folder: Path, name: str) -> None:
    truncate(folder / name)
    with pytest.raises(DatasetError, match=name):
        read_all(folder)


@pytest.mark.parametrize("name", ["meta/info.json", DATA])
def test_a_file_that_is_missing_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DatasetError, match=name):
        read_all(folder)


def test_a_missing_episode_table_is_an_error(folder: Path) -> None:
    (folder / TABLE).unlink()
    with pytest.raises(DatasetError, match="says 3 episodes, the episode table lists 0"):
        read_all(folder)


def test_a_folder_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is this the folder of a training set"):
        TrainingSet(tmp_path / "nothing")


@pytest.mark.parametrize("version", ["v2.1", None, 3])
def test_another_version_is_refused(folder: Path, version: object) -> None:
    change_json(folder / "meta/info.json", lambda info: info.update(codebase_version=version))
    with pytest.raises(DatasetError, match=r"codebase_version is .*must be 'v3.0'"):
        TrainingSet(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fps", 0),
        ("fps", "ten"),
        ("total_episodes", 10**12),
        ("total_episodes", "three"),
        ("data_path", "../{chunk_index:999999999d}{file_index}"),
        ("data_path", "{"),
        ("features", []),
    ],
)
def test_hostile_values_are_refused(folder: Path, key: str, value: object) -> None:
    change_json(folder / "meta/info.json", lambda info: info.update({key: value}))
    with pytest.raises(DatasetError, match=r"(fps|path) is|says .* episodes|not a LeRobot"):
        TrainingSet(folder)


def test_a_set_without_wrist_images_is_neither_edited_nor_exported(folder: Path, tmp_path: Path) -> None:
    change_json(folder / "meta/info.json", lambda info: info["features"].pop(CAMERA))
    with pytest.raises(DatasetError, match="lists no images"):
        delete_episodes(folder, [0], tmp_path, "fewer")
    with pytest.raises(DatasetError, match="lists no images"):
        export_rlds(TrainingSet(folder), Rlds(tmp_path, "rlds"), executor="serial")


@pytest.mark.parametrize("key", ["total_episodes", "total_frames", "data_path", "features", "fps"])
def test_an_info_that_lacks_a_key_is_refused(folder: Path, key: str) -> None:
    change_json(folder / "meta/info.json", lambda info: info.pop(key))
    with pytest.raises(DatasetError):
        read_all(folder)


def test_counts_that_disagree_are_refused(folder: Path) -> None:
    change_json(folder / "meta/info.json", lambda info: info.update(total_frames=18))
    with pytest.raises(DatasetError, match="says 18 frames, the episode table lists 17"):
        TrainingSet(folder)


def test_a_table_whose_episodes_overlap_is_refused(folder: Path) -> None:
    change_table(folder / TABLE, lambda columns: columns["dataset_from_index"].__setitem__(1, 4))
    with pytest.raises(DatasetError, match="episode 1 has 9 frames, 4 to 14"):
        TrainingSet(folder)


def test_a_table_that_promises_more_frames_than_there_are_is_refused(folder: Path) -> None:
    def more(columns: dict) -> None:
        columns["length"][2], columns["dataset_to_index"][2] = 4, 18

    change_table(folder / TABLE, more)
    change_json(folder / "meta/info.json", lambda info: info.update(total_frames=18))
    change_json(folder / "provenance.json", lambda data: data["episodes"][2].update(length=4))
    with pytest.raises(DatasetError, match=r"has 17 rows, episode 2 should lie in rows 14 to 18"):
        read_all(folder)


def test_frames_of_another_episode_are_refused(folder: Path) -> None:
    change_table(folder / DATA, lambda columns: columns.update(episode_index=[0] * len(columns["episode_index"])))
    with pytest.raises(DatasetError, match="episode 1 say that they belong to another"):
        read_all(folder)


def test_provenance_of_other_episodes_is_refused(folder: Path) -> None:
    change_json(folder / "provenance.json", lambda data: data["episodes"].pop())
    with pytest.raises(DatasetError, match="lists other episodes"):
        TrainingSet(folder)


def test_a_frame_whose_image_is_damaged_is_named(folder: Path) -> None:
    def damage(columns: dict) -> None:
        columns[CAMERA][1] = {"bytes": columns[CAMERA][1]["bytes"][:50], "path": ""}

    change_table(folder / DATA, damage)
    training_set = TrainingSet(folder)
    training_set.images(0)[0]
    with pytest.raises(DatasetError, match=r"episode 0, frame 1: image of 50 bytes is damaged"):
        training_set.images(0)[1]


def test_a_column_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"has no column 'speed'; columns: .*action"):
        TrainingSet(folder).columns(["speed"])


def test_an_episode_that_is_not_there_is_named(folder: Path) -> None:
    for number in (-1, 3):
        with pytest.raises(DatasetError, match=f"there is no episode {number}, it has 3"):
            TrainingSet(folder).episode(number)


def test_a_video_that_is_cut_off_is_named(tmp_path: Path) -> None:
    folder = build(make_plan(tmp_path, video=True), tmp_path, jobs=1, executor="serial", materialize=made)
    truncate(folder / VIDEO)
    with pytest.raises(DatasetError, match=VIDEO):
        read_all(folder)
