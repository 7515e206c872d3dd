"""RLDS: records as TensorFlow frames them, episodes as in the training set; read here by a parser that is apart."""

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_sets import contents, made, make_plan
from PIL import Image as Pillow

from rldg_recorder import rlds_writer
from rldg_recorder.build import build
from rldg_recorder.plan import DatasetError, Plan
from rldg_recorder.rlds_writer import Rlds, export_rlds, has_record
from rldg_recorder.training_set import TrainingSet


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return make_plan(tmp_path_factory.mktemp("bags"), (5, 9, 3))


@pytest.fixture(scope="module")
def training_set(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    return TrainingSet(build(plan, tmp_path_factory.mktemp("out"), jobs=1, executor="serial", materialize=made))


def export(training_set: TrainingSet, out: Path, name: str = "set", overwrite: bool = False, **rlds: Any) -> Path:
    return export_rlds(training_set, Rlds(out, name, **rlds), executor="serial", overwrite=overwrite)


def crc32c(data: bytes) -> int:
    """Bit by bit, from the polynomial."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path, check: bool = False) -> list[bytes]:
    file, found = io.BytesIO(path.read_bytes()), []
    while head := file.read(8):
        (length,) = struct.unpack("<Q", head)
        (head_crc,) = struct.unpack("<I", file.read(4))
        data = file.read(length)
        (crc,) = struct.unpack("<I", file.read(4))
        assert not check or (head_crc, crc) == (masked(head), masked(data))
        found.append(data)
    return found


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Fields of a protobuf message, all of which have a length here."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = varint()
        assert tag & 7 == 2
        length = varint()
        yield tag >> 3, data[at : at + length]
        at += length
        assert at <= len(data)


def parse(example: bytes) -> dict[str, object]:
    ((_, features),) = fields(example)
    found: dict[str, object] = {}
    for _, entry in fields(features):
        (_, key), (_, feature) = fields(entry)
        ((kind, values),) = fields(feature)
        parts = [value for _, value in fields(values)]
        if kind == 1:
            found[key.decode()] = parts
        else:
            found[key.decode()] = np.frombuffer(parts[0], "<f4" if kind == 2 else np.uint8)
    return found


def read(folder: Path, split: str) -> list[dict[str, object]]:
    return [parse(record) for path in sorted(folder.glob(f"*-{split}.*")) for record in records(path)]


def test_steps_are_the_frames_of_the_set(training_set: TrainingSet, plan: Plan, tmp_path: Path) -> None:
    folder = export(training_set, tmp_path)
    assert folder == tmp_path / "set" / "1.0.0"
    episodes = [*read(folder, "train"), *read(folder, "test")]
    assert len(episodes) == 3
    for number, steps in enumerate(episodes):
        expected, n = made(plan.episodes[number], plan), len(made(plan.episodes[number], plan))
        np.testing.assert_array_equal(steps["steps/action"], expected.action.ravel())
        np.testing.assert_array_equal(steps["steps/observation/state"], expected.state.ravel())
        np.testing.assert_array_equal(steps["steps/reward"], expected.reward)
        np.testing.assert_array_equal(steps["steps/discount"], [1.0] * (n - 1) + [0.0])
        np.testing.assert_array_equal(steps["steps/is_first"], np.arange(n) == 0)
        np.testing.assert_array_equal(steps["steps/is_last"], np.arange(n) == n - 1)
        np.testing.assert_array_equal(steps["steps/is_terminal"], np.arange(n) == n - 1)
        assert steps["steps/language_instruction"] == [expected.instruction.encode()] * n
        images = np.stack([np.asarray(Pillow.open(io.BytesIO(i))) for i in steps["steps/observation/wrist_image"]])
        assert np.abs(images.astype(int) - np.stack(list(expected.images))).mean() < 5.0


def test_metadata_say_where_an_episode_comes_from(training_set: TrainingSet, plan: Plan, tmp_path: Path) -> None:
    steps = read(export(training_set, tmp_path), "train")[1]
    assert steps["episode_metadata/file_path"] == [plan.episodes[1].segments[0].bag.encode()]
    assert steps["episode_metadata/policy"] == [b"policy1"] and steps["episode_metadata/outcome"] == [b"success"]
    np.testing.assert_array_equal(steps["episode_metadata/relabelled"], [0])


def test_records_carry_the_checksums_of_tensorflow(training_set: TrainingSet, tmp_path: Path) -> None:
    assert masked(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF
    folder = export(training_set, tmp_path)
    assert len(records(next(folder.glob("*-test.*")), check=True)) == 1


def test_png_images_are_without_loss(training_set: TrainingSet, plan: Plan, tmp_path: Path) -> None:
    folder = export(training_set, tmp_path, image_format="png")
    stored = read(folder, "test")[0]["steps/observation/wrist_image"]
    images = np.stack([np.asarray(Pillow.open(io.BytesIO(data))) for data in stored])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(images, np.stack(list(made(plan.episodes[2], plan).images)))
    assert '"encodingFormat": "png"' in (folder / "features.json").read_text()


def test_files_and_their_lengths_are_listed(
    training_set: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rlds_writer, "SHARD_FRAMES", 4)
    folder = export(training_set, tmp_path, name="plugs", version="2.0.1")
    names = sorted(path.name for path in folder.iterdir())
    files = ["test.tfrecord-00000-of-00001", "train.tfrecord-00000-of-00002", "train.tfrecord-00001-of-00002"]
    assert names == ["dataset_info.json", "features.json", *(f"plugs-{file}" for file in files)]
    info = json.loads((folder / "dataset_info.json").read_text())
    train, test = info["splits"]
    assert (train["name"], train["shardLengths"], test["shardLengths"]) == ("train", ["1", "1"], ["1"])
    assert int(train["numBytes"]) == sum(len(r) for file in folder.glob("*-train.*") for r in records(file))


def test_the_bytes_do_not_depend_on_the_executor(training_set: TrainingSet, tmp_path: Path) -> None:
    here = export(training_set, tmp_path / "a")
    apart = export_rlds(training_set, Rlds(tmp_path / "b", "set"), executor="processes", jobs=2)
    assert contents(here) == contents(apart)


def test_an_interrupted_export_goes_on_where_it_stopped(
    training_set: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write = rlds_writer._write_episode

    def fails_at_last(work: rlds_writer._Work) -> None:
        if work.number == 2 and 2 not in written:
            written.append(2)
            raise OSError("disk full")
        if not has_record(work.shard, work.rlds):
            written.append(work.number)
        write(work)

    monkeypatch.setattr(rlds_writer, "_write_episode", fails_at_last)
    with pytest.raises(DatasetError, match=r"episode 2 of .*disk full"):
        export(training_set, tmp_path)
    assert not (tmp_path / "set" / "1.0.0").exists()
    cut = sorted(tmp_path.rglob("shards/*-0.*"))[0]
    cut.write_bytes(cut.read_bytes()[:-1])
    folder = export(training_set, tmp_path)
    assert written == [0, 1, 2, 0, 2]
    assert contents(folder) == contents(export(training_set, tmp_path / "uninterrupted"))


def test_an_existing_version_is_refused_unless_it_may_be_replaced(training_set: TrainingSet, tmp_path: Path) -> None:
    export(training_set, tmp_path)
    with pytest.raises(DatasetError, match=r"1\.0\.0: exists already"):
        export(training_set, tmp_path)
    export(training_set, tmp_path, overwrite=True)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"name": "a-b"}, "must be a letter, then"),
        ({"name": "../x"}, "must be a letter, then"),
        ({"name": ""}, "must be a letter, then"),
        ({"version": "1.0"}, "three numbers"),
        ({"version": "../.."}, "three numbers"),
        ({"image_format": "gif"}, "png, jpeg"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(DatasetError, match=text):
        Rlds(tmp_path, **{"name": "set", **wrong})
