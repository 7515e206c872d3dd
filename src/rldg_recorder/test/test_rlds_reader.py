"""RLDS sets come back as they were written, and damaged ones are refused."""

from pathlib import Path

import numpy as np
import pytest
from made_sets import made, make_plan

from rldg_recorder.build import build
from rldg_recorder.plan import DatasetError
from rldg_recorder.rlds_reader import read_rlds
from rldg_recorder.rlds_writer import Rlds, export_rlds
from rldg_recorder.training_set import TrainingSet


@pytest.fixture(scope="module")
def training_set(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    plan = make_plan(tmp_path_factory.mktemp("bags"), (5, 9, 3))
    return TrainingSet(build(plan, tmp_path_factory.mktemp("out"), jobs=1, executor="serial", materialize=made))


@pytest.fixture
def folder(training_set: TrainingSet, tmp_path: Path) -> Path:
    return export_rlds(training_set, Rlds(tmp_path, "set"), executor="serial")


def test_every_step_comes_back(training_set: TrainingSet, folder: Path) -> None:
    read = [*read_rlds(folder), *read_rlds(folder, "test")]
    assert [len(episode) for episode in read] == [5, 9, 3]
    for number, episode in enumerate(read):
        made_episode = training_set.episode(number)
        assert episode.bytes_of("steps/observation/wrist_image") == training_set.encoded_images(number)
        np.testing.assert_array_equal(episode.numbers_of("steps/action", 7), made_episode.action)
        np.testing.assert_array_equal(episode.numbers_of("steps/observation/state", 19), made_episode.state)
        assert set(episode.bytes_of("steps/language_instruction")) == {made_episode.instruction.encode()}
        assert episode.numbers_of("steps/is_first").tolist() == [1] + [0] * (len(episode) - 1)


def test_what_is_not_there_is_named_with_what_is(folder: Path) -> None:
    episode = next(read_rlds(folder))
    with pytest.raises(DatasetError, match=r"no images or texts 'steps/image'; there are: .*steps/observation/wrist"):
        episode.bytes_of("steps/image")
    with pytest.raises(DatasetError, match=r"record 0: has no numbers 'steps/language_instruction'"):
        episode.numbers_of("steps/language_instruction")
    with pytest.raises(DatasetError, match="has 35 numbers 'steps/action', must have 6 for each of 5 steps"):
        episode.numbers_of("steps/action", 6)


def test_a_split_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(DatasetError, match="no split 'val'; there are: test, train"):
        list(read_rlds(folder, "val"))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"name": "../set", "splits": [{"name": "train"}]}'])
def test_a_damaged_or_hostile_description_is_refused(folder: Path, text: str) -> None:
    (folder / "dataset_info.json").write_text(text)
    with pytest.raises(DatasetError, match=r"is damaged|must be a name without folders"):
        list(read_rlds(folder))


def test_a_folder_without_a_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset_info.json: cannot be read"):
        list(read_rlds(tmp_path))


def test_a_file_that_is_cut_off_anywhere_is_refused(folder: Path) -> None:
    (file,) = folder.glob("set-train.tfrecord-*")
    data = file.read_bytes()
    for size in (1, 11, 12, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:size])
        with pytest.raises(DatasetError, match="damaged or cut off"):
            list(read_rlds(folder))
    file.unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        list(read_rlds(folder))


def test_a_flipped_bit_anywhere_is_refused(folder: Path) -> None:
    (file,) = folder.glob("set-train.tfrecord-*")
    data = bytearray(file.read_bytes())
    for at in np.random.default_rng(0).integers(0, len(data), 20).tolist():
        file.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        with pytest.raises(DatasetError, match="damaged"):
            list(read_rlds(folder))


def test_a_missing_record_is_noticed(folder: Path) -> None:
    (file,) = folder.glob("set-train.tfrecord-*")
    file.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"holds 0 records, dataset_info.json says 2"):
        list(read_rlds(folder))


def test_a_record_that_is_no_example_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rldg_recorder import rlds_reader

    (file,) = folder.glob("set-train.tfrecord-*")
    monkeypatch.setattr(rlds_reader, "masked_crc", lambda data: b"\x00\x00\x00\x00")
    for body in (b"\x0b", b"\x0a\xff\x01", b"\xff" * 12, b"\x08\x01"):
        file.write_bytes(len(body).to_bytes(8, "little") + bytes(4) + body + bytes(4))
        with pytest.raises(DatasetError, match=r"record 0: is no tf.train.Example"):
            list(read_rlds(folder))
