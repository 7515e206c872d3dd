"""Salvage: a bag that was cut off becomes one that can be read, and its episode.yaml says what is in it."""

import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from rosbags.highlevel import AnyReader

from rldg_core.task import load_task
from rldg_core.types import Outcome, Phase, Source
from rldg_recorder import salvage as module
from rldg_recorder.bag_reader import BagReader
from rldg_recorder.bag_writer import MAGIC, McapWriter, open_writer
from rldg_recorder.episode import (
    INFO_FILE,
    BagError,
    EpisodeInfo,
    LabelInfo,
    PolicyInfo,
    TopicInfo,
    read_info,
    write_info,
)
from rldg_recorder.salvage import CUT_OFF, salvage
from rldg_recorder.testing_bags import TYPES, Item, episode_items, header, serialise, topic, write_bag, write_items

FILE, BROKEN, METADATA = "0001_0.mcap", "0001_0.mcap.broken", "metadata.yaml"


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return list(episode_items(ticks=10))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, items: list[Item]) -> Path:
    """A bag whose recorder wrote index and metadata, but not the last ``episode.yaml``."""
    folder = tmp_path_factory.mktemp("salvage") / "0001"
    write_bag(folder, iter(items))
    write_info(folder, begun())
    return folder


@pytest.fixture
def bag(tmp_path: Path, whole: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "0001")


def begun() -> EpisodeInfo:
    """What the recorder writes when the episode begins."""
    return EpisodeInfo(
        state="recording",
        session_id="s",
        episode_id="s/0001",
        scene="seen",
        operator="anna",
        policies=(PolicyInfo(policy_id="scripted", checkpoint_hash="abc"),),
        topics={"/step": TopicInfo(type=TYPES["/step"], expected_hz=10.0)},
        software={"rldg": "1"},
        task=load_task("usb_insertion"),
    )


def cut(bag: Path, keep: float) -> None:
    """Leave the folder as a kill would: a part of the file and no metadata."""
    data = (bag / FILE).read_bytes()
    (bag / FILE).write_bytes(data[: int(len(data) * keep)])
    (bag / METADATA).unlink()


def read(folder: Path) -> list[tuple[str, bytes, int, int]]:
    with BagReader(folder) as reader:
        return [(m.topic, bytes(m.data), m.publish_ns, m.sequence) for m in reader.messages()]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.77, 0.9999])
def test_all_messages_up_to_the_cut_are_recovered_as_they_were(bag: Path, items: list[Item], keep: float) -> None:
    cut(bag, keep)
    size = (bag / FILE).stat().st_size
    info = salvage(bag)
    found = read(bag)
    assert found == list(items[: len(found)])
    assert info.salvage is not None
    assert info.salvage.messages == len(found)
    # nothing that lay whole in front of the cut is missing: the next message would not fit into what was lost
    if len(found) < len(items):
        assert info.salvage.lost_bytes < len(items[len(found)].data) + 31
        assert sum(len(data) for _, data, _, _ in found) > size * 0.6


def test_others_read_the_salvaged_bag(bag: Path, items: list[Item]) -> None:
    cut(bag, 0.6)
    salvage(bag)
    with AnyReader([bag]) as reader:
        assert {connection.topic: connection.msgtype for connection in reader.connections} == TYPES
        found = [bytes(raw) for _, _, raw in reader.messages()]
    assert sorted(found) == sorted(item.data for item in items[: len(found)])


def test_the_file_that_was_cut_off_is_kept(bag: Path) -> None:
    cut(bag, 0.6)
    before = (bag / FILE).read_bytes()
    salvage(bag)
    assert (bag / BROKEN).read_bytes() == before
    assert sorted(path.name for path in bag.iterdir()) == [FILE, BROKEN, INFO_FILE, METADATA]


def test_messages_behind_a_damaged_chunk_are_recovered_and_the_loss_is_said(bag: Path, items: list[Item]) -> None:
    data = bytearray((bag / FILE).read_bytes())
    at = data.index(items[0].data)
    data[at + 10] ^= 1
    (bag / FILE).write_bytes(data)
    info = salvage(bag)
    found = read(bag)
    assert found == list(items[-len(found) :])
    assert 0 < len(found) < len(items)
    assert info.salvage is not None
    assert info.salvage.note == "damaged chunks left out: 1"
    assert info.salvage.lost_bytes > 0


def test_zeros_at_the_end_as_a_loss_of_power_leaves_them_are_no_messages(bag: Path, items: list[Item]) -> None:
    cut(bag, 0.6)
    with (bag / FILE).open("ab") as file:
        file.write(bytes(5000))
    info = salvage(bag)
    found = read(bag)
    assert info.salvage is not None
    assert info.salvage.lost_bytes >= 5000 - len(items[len(found)].data)
    assert [entry[1] for entry in found[:-1]] == [item.data for item in items[: len(found) - 1]]


def test_garbage_inside_a_torn_chunk_ends_the_recovery(bag: Path, items: list[Item]) -> None:
    cut(bag, 0.6)
    data = bytearray((bag / FILE).read_bytes())
    clean = shutil.copytree(bag, bag.parent / "clean" / "0001")
    salvage(clean)
    sound = len(read(clean)) - 20  # inside the torn chunk
    at = data.rindex(items[sound].data) - 31
    data[at:] = b"\xee" * (len(data) - at)
    (bag / FILE).write_bytes(data)
    info = salvage(bag)
    assert read(bag) == list(items[:sound])
    assert info.salvage is not None
    assert info.salvage.lost_bytes == len(data) - at


@pytest.mark.parametrize("content", [b"", b"text", MAGIC[:4], bytes(1000)])
def test_a_file_in_which_nothing_was_recorded_is_refused_and_left(bag: Path, content: bytes) -> None:
    cut(bag, 0.6)
    (bag / FILE).write_bytes(content)
    before = snapshot(bag)
    with pytest.raises(BagError, match="nothing can be recovered"):
        salvage(bag)
    assert snapshot(bag) == before


@pytest.mark.parametrize("keep", [8, 9, 30, 60, 200, 3000, 12_000])
def test_a_recording_killed_at_its_very_beginning_becomes_an_empty_bag(bag: Path, keep: int) -> None:
    cut(bag, 1.0)
    (bag / FILE).write_bytes((bag / FILE).read_bytes()[:keep])
    assert salvage(bag).steps == 0
    assert read(bag) == []


# --- episode.yaml ----------------------------------------------------------------------------------------------------


def test_a_recording_that_was_cut_off_is_a_partial_aborted_episode(bag: Path, items: list[Item]) -> None:
    cut(bag, 0.6)
    info = salvage(bag)
    found = read(bag)
    steps = sum(entry[0] == "/step" for entry in found)
    assert (info.state, info.outcome, info.reason) == ("partial", Outcome.ABORTED, CUT_OFF)
    assert info.steps == steps
    assert info.human_steps == len(range(0, steps, 3))
    assert info.duration_s == pytest.approx((steps - 1) * 0.1)
    assert info.policies == (PolicyInfo(policy_id="scripted", checkpoint_hash="abc", steps=steps - info.human_steps),)
    assert info.topics["/step"] == TopicInfo(type=TYPES["/step"], messages=steps, expected_hz=10.0)
    assert (info.operator, info.software) == ("anna", {"rldg": "1"})
    assert read_info(bag) == info


def test_a_bag_with_its_closing_step_is_complete_with_the_verdict_of_the_manager(bag: Path) -> None:
    cut(bag, 0.9999)
    info = salvage(bag)
    assert (info.state, info.outcome, info.reason) == ("complete", Outcome.SUCCESS, "goal reached")


def test_an_outcome_that_was_written_stays_where_the_bag_says_nothing_else(bag: Path) -> None:
    write_info(bag, msgspec.structs.replace(begun(), state="partial", outcome=Outcome.FAILURE, reason="operator"))
    cut(bag, 0.6)
    info = salvage(bag)
    assert (info.outcome, info.reason) == (Outcome.FAILURE, "operator")


def test_a_verdict_that_was_changed_becomes_a_label(tmp_path: Path) -> None:
    def verdict(stamp_ns: int, outcome: Outcome) -> Item:
        names = {"episode_id": "s/0001", "outcome": outcome.value, "reason": "operator label"}
        data = serialise(TYPES["/episode"], header=header(stamp_ns), phase=int(Phase.ENDED), **names)
        return Item("/episode", data, stamp_ns, 1)

    items = [*episode_items(ticks=3), verdict(5 * 10**9, Outcome.FAILURE), verdict(5 * 10**9, Outcome.FAILURE)]
    write_bag(tmp_path / "0001", iter(items))
    write_info(tmp_path / "0001", begun())
    info = salvage(tmp_path / "0001")
    assert info.outcome is Outcome.FAILURE
    assert info.labels == (LabelInfo(outcome=Outcome.FAILURE, reason="operator label", stamp_ns=5 * 10**9),)


def test_steps_of_other_episodes_and_repeated_ones_do_not_count(tmp_path: Path) -> None:
    mine = list(episode_items(ticks=3))
    others = [item for item in episode_items("s/0000", ticks=5, begin_ns=1) if item.topic != "/current_pose"]
    write_bag(tmp_path / "0001", iter([*others, *mine, *mine]))
    write_info(tmp_path / "0001", begun())
    info = salvage(tmp_path / "0001")
    assert (info.steps, info.human_steps, info.duration_s) == (3, 1, pytest.approx(0.2))


def test_a_policy_that_took_over_later_is_named(tmp_path: Path) -> None:
    fields = {"episode_id": "s/0001", "source": int(Source.POLICY), "policy_id": "other"}
    step = serialise(TYPES["/step"], header=header(10**9), **fields)
    write_bag(tmp_path / "0001", iter([Item("/step", step, 10**9, 1)]))
    write_info(tmp_path / "0001", begun())
    assert [(p.policy_id, p.steps) for p in salvage(tmp_path / "0001").policies] == [("scripted", 0), ("other", 1)]


@pytest.mark.parametrize("content", [None, b"", b"{", b"format: 1\nstate: recording\n"])
def test_a_lost_episode_yaml_is_made_anew_from_the_bag(bag: Path, content: bytes | None) -> None:
    cut(bag, 0.6)
    (bag / INFO_FILE).unlink()
    if content is not None:
        (bag / INFO_FILE).write_bytes(content)
    info = salvage(bag)
    assert (info.session_id, info.episode_id, info.scene, info.seed) == ("s", "s/0001", "seen", 7)
    assert (info.instruction, info.task) == ("insert", load_task("usb_insertion"))
    assert info.began_ns == 10**9 + 1000
    assert info.salvage is not None
    assert info.salvage.note == "episode.yaml was missing: operator, software and lockstep are not known"
    assert read_info(bag) == info
    kept = bag / f"{INFO_FILE}.broken"
    assert (kept.read_bytes() if kept.exists() else None) == content


def test_without_episode_yaml_and_without_a_verdict_nobody_knows_the_task(tmp_path: Path) -> None:
    write_bag(tmp_path / "0001", (item for item in episode_items(ticks=3) if item.topic != "/episode"))
    cut(tmp_path / "0001", 0.6)
    before = snapshot(tmp_path / "0001")
    with pytest.raises(BagError, match=r"episode\.yaml is missing, and no message of the bag says which task"):
        salvage(tmp_path / "0001")
    assert snapshot(tmp_path / "0001") == before


def test_without_episode_yaml_a_task_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_bag(tmp_path / "0001", episode_items(ticks=3, task="no_such_task"))
    with pytest.raises(BagError, match=r"episode\.yaml is missing, and the task of the bag: .*no_such_task"):
        salvage(tmp_path / "0001")


def test_steps_of_another_release_are_refused(tmp_path: Path) -> None:
    writer = McapWriter(tmp_path / "0001")
    other = msgspec.structs.replace(topic("/step"), definition="string data\n")
    writer.write(writer.add_topic(other), b"\x00\x01\x00\x00\x01\x00\x00\x00\x00", 1, 1)
    writer.close()
    write_info(tmp_path / "0001", begun())
    with pytest.raises(BagError, match="are not those of this release"):
        salvage(tmp_path / "0001")


# --- again, and in between -------------------------------------------------------------------------------------------


def test_a_whole_bag_is_left_alone_and_it_says_so(bag: Path) -> None:
    write_info(bag, msgspec.structs.replace(begun(), state="complete", outcome=Outcome.SUCCESS))
    before = snapshot(bag)
    info = salvage(bag)
    assert info.salvage is not None
    assert info.salvage.note == "the bag is whole: nothing was changed"
    assert snapshot(bag) == before


def test_of_a_whole_bag_only_the_unfinished_episode_yaml_is_written(bag: Path) -> None:
    before = snapshot(bag)
    info = salvage(bag)
    assert (info.state, info.outcome, info.steps) == ("complete", Outcome.SUCCESS, 10)
    assert {**snapshot(bag), INFO_FILE: b""} == {**before, INFO_FILE: b""}
    assert read_info(bag) == info


def test_salvage_of_a_salvaged_bag_changes_nothing(bag: Path) -> None:
    cut(bag, 0.6)
    salvage(bag)
    before = snapshot(bag)
    salvage(bag)
    assert snapshot(bag) == before


CHANGES = 9  # calls with which a salvage changes the folder


class PowerLossError(Exception):
    pass


@pytest.mark.parametrize("survive", range(CHANGES + 1))
def test_a_loss_of_power_at_any_change_loses_nothing(
    bag: Path, items: list[Item], monkeypatch: pytest.MonkeyPatch, survive: int
) -> None:
    """Each call that changes the folder is once the last one that happens; then it is run again."""
    cut(bag, 0.6)
    original = (bag / FILE).read_bytes()
    expected = shutil.copytree(bag, bag.parent / "expected" / "0001")
    undisturbed = salvage(expected)
    left = survive

    def guarded(function: object) -> object:
        def call(*args: object, **options: object) -> object:
            nonlocal left
            if left == 0:
                raise PowerLossError
            left -= 1
            return function(*args, **options)  # type: ignore[operator]

        return call

    with monkeypatch.context() as patch:
        for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "write_bytes"):
            patch.setattr(Path, name, guarded(getattr(Path, name)))
        try:
            salvage(bag)
        except PowerLossError:
            assert survive < CHANGES
        else:
            assert survive == CHANGES
    assert original in snapshot(bag).values()
    info = salvage(bag)
    assert read(bag) == read(expected)
    assert (info.steps, info.outcome, info.reason) == (undisturbed.steps, Outcome.ABORTED, CUT_OFF)
    assert sorted(path.name for path in bag.iterdir()) == [FILE, BROKEN, INFO_FILE, METADATA]


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_bag_that_is_being_recorded_is_refused_and_not_disturbed(tmp_path: Path, items: list[Item]) -> None:
    writer = open_writer(tmp_path / "0001", "mcap")
    write_info(tmp_path / "0001", begun())

    def interrupted() -> Iterator[Item]:
        yield from islice(items, 500)
        with pytest.raises(BagError, match=r"0001_0\.mcap: is being recorded; stop the recorder first"):
            salvage(tmp_path / "0001")
        yield from islice(items, 500, None)

    write_items(writer, interrupted())
    writer.close()
    assert read(tmp_path / "0001") == list(items)


def test_a_disk_without_room_for_the_copy_is_said_before_anything_changes(
    bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(bag, 0.6)
    before = snapshot(bag)
    usage = shutil.disk_usage(bag)._replace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(BagError, match=r"the copy needs \d+ bytes, the disk has 1000; free some space first"):
        salvage(bag)
    assert snapshot(bag) == before


def test_a_disk_that_fills_while_the_copy_is_written_leaves_everything_as_it_was(
    bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(bag, 0.6)
    before = snapshot(bag)

    def full(*_: object) -> NoReturn:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("rldg_recorder.bag_writer._write_all", full)
    with pytest.raises(BagError, match=r"its copy cannot be written: .*No space left on device"):
        salvage(bag)
    assert snapshot(bag) == before


@pytest.mark.parametrize("files", [0, 2])
def test_a_folder_without_its_one_file_is_refused(tmp_path: Path, files: int) -> None:
    for number in range(files):
        (tmp_path / f"0001_{number}.mcap").write_bytes(MAGIC)
    with pytest.raises(BagError, match=rf"holds {files} \.mcap files; a recording that can be salvaged has one"):
        salvage(tmp_path)


def test_a_folder_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="there is no such folder"):
        salvage(tmp_path / "nothing")
