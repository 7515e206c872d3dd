"""The bag writer: what it writes is a rosbag2 bag that others read, and what it cannot write it says."""

import os
import resource
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mcap.exceptions import EndOfFile
from mcap.reader import make_reader
from mcap.records import Message as McapMessage
from mcap.stream_reader import StreamReader
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer

from rldg_recorder import bag_writer, testing_bags
from rldg_recorder.bag_reader import BagReader
from rldg_recorder.bag_writer import McapWriter, Rosbag2Writer, Topic, open_writer
from rldg_recorder.salvage import salvage
from rldg_recorder.testing_bags import TYPES, Item, episode_items, topic, write_bag

TEXT = Topic("/text", "std_msgs/msg/String", "string data\n")


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return list(episode_items(ticks=6))


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory, items: list[Item]) -> Path:
    folder = tmp_path_factory.mktemp("writer") / "0001"
    write_bag(folder, iter(items))
    return folder


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[McapWriter]:
    made = McapWriter(tmp_path / "0001")
    yield made
    made.close()


def messages_on_disk(folder: Path) -> int:
    """As many as whoever finds the file now can read."""
    count = 0
    with (folder / f"{folder.name}_0.mcap").open("rb") as file:
        try:
            for record in StreamReader(file, emit_chunks=False).records:
                count += isinstance(record, McapMessage)
        except EndOfFile:
            pass
    return count


# --- peers -----------------------------------------------------------------------------------------------------------


def test_the_mcap_library_reads_every_message_with_its_times_and_sequence(bag: Path, items: list[Item]) -> None:
    with (bag / "0001_0.mcap").open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        found = [
            (channel.topic, message.data, message.publish_time, message.log_time - 1000, message.sequence)
            for _, channel, message in reader.iter_messages(log_time_order=False)
        ]
        assert reader.get_header().profile == "ros2"
        assert [note.name for note in reader.iter_metadata()] == ["rosbag2"]
    assert found == [(name, data, stamp, stamp, sequence) for name, data, stamp, sequence in items]


def test_the_index_finds_messages_by_time(bag: Path, items: list[Item]) -> None:
    begin, end = items[len(items) // 2].stamp_ns, items[-1].stamp_ns
    with (bag / "0001_0.mcap").open("rb") as file:
        found = list(make_reader(file).iter_messages(starting_at=begin + 1000, ending_before=end + 1000))
    assert len(found) == sum(begin <= item.stamp_ns < end for item in items)


def test_the_rosbags_library_reads_messages_types_hashes_and_qos(bag: Path, items: list[Item]) -> None:
    with AnyReader([bag]) as reader:
        by_topic = {connection.topic: connection for connection in reader.connections}
        assert {name: connection.msgtype for name, connection in by_topic.items()} == TYPES
        assert {name: connection.digest for name, connection in by_topic.items()} == {
            name: topic(name).type_hash for name in TYPES
        }
        assert by_topic["/step"].ext.offered_qos_profiles[0].reliability.name == "RELIABLE"  # type: ignore[union-attr]
        found = sorted((connection.topic, stamp - 1000, bytes(raw)) for connection, stamp, raw in reader.messages())
        assert found == sorted((name, stamp, data) for name, data, stamp, _ in items)
        _, _, raw = next(reader.messages([by_topic["/observation"]]))
        assert reader.deserialize(raw, TYPES["/observation"]).image.width == testing_bags.IMAGE_PX  # type: ignore[attr-defined]


def test_metadata_has_the_keys_that_another_writer_of_version_9_writes(bag: Path, tmp_path: Path) -> None:
    with Writer(tmp_path / "theirs", version=9, storage_plugin=StoragePlugin.MCAP) as theirs:
        connection = theirs.add_connection("/step", TYPES["/step"], typestore=testing_bags.store())
        theirs.write(connection, 1, testing_bags.serialise(TYPES["/step"]))

    def shape(value: object) -> object:
        if isinstance(value, dict):
            return {key: shape(inner) for key, inner in value.items()}
        return [shape(inner) for inner in value[:1]] if isinstance(value, list) else None

    ours = msgspec.yaml.decode((bag / "metadata.yaml").read_bytes())
    for entry in ours["rosbag2_bagfile_information"]["topics_with_message_count"]:
        entry["topic_metadata"]["offered_qos_profiles"] = []
    assert shape(ours) == shape(msgspec.yaml.decode((tmp_path / "theirs" / "metadata.yaml").read_bytes()))


def test_metadata_counts_and_times_are_those_of_the_messages(bag: Path, items: list[Item]) -> None:
    info = msgspec.yaml.decode((bag / "metadata.yaml").read_bytes())["rosbag2_bagfile_information"]
    stamps = [item.stamp_ns + 1000 for item in items]
    assert info["message_count"] == info["files"][0]["message_count"] == len(items)
    assert info["starting_time"]["nanoseconds_since_epoch"] == min(stamps)
    assert info["duration"]["nanoseconds"] == max(stamps) - min(stamps)
    assert info["relative_file_paths"] == ["0001_0.mcap"]


def test_a_bag_without_messages_can_be_read(tmp_path: Path) -> None:
    write_bag(tmp_path / "0001", iter(()))
    with BagReader(tmp_path / "0001") as reader:
        assert list(reader.messages()) == []
        assert list(reader.topics) == list(TYPES)
    with AnyReader([tmp_path / "0001"]) as theirs:
        assert theirs.message_count == 0


# --- chunks ----------------------------------------------------------------------------------------------------------


def test_what_was_flushed_can_be_read_while_the_bag_is_open(writer: McapWriter) -> None:
    number = writer.add_topic(TEXT)
    writer.write(number, b"12345678", 1, 1)
    assert messages_on_disk(writer.path.parent) == 0
    writer.flush()
    assert messages_on_disk(writer.path.parent) == 1


def test_a_chunk_that_is_full_is_written_without_a_flush(writer: McapWriter) -> None:
    number = writer.add_topic(TEXT)
    writer.write(number, bytes(bag_writer.CHUNK_BYTES), 1, 1)
    assert messages_on_disk(writer.path.parent) == 1


def test_a_chunk_may_have_more_buffers_than_one_system_call_takes(writer: McapWriter) -> None:
    number = writer.add_topic(TEXT)
    payloads = [index.to_bytes(4, "little") * 1024 for index in range(1000)]
    assert 2 * len(payloads) > bag_writer.IOV_MAX
    for index, data in enumerate(payloads):
        writer.write(number, data, index, index)
    writer.close()
    with BagReader(writer.path.parent) as reader:
        assert [bytes(message.data) for message in reader.messages()] == payloads


def test_a_system_call_that_takes_a_part_is_continued(writer: McapWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    number = writer.add_topic(TEXT)
    monkeypatch.setattr(bag_writer.os, "writev", lambda fd, buffers: os.write(fd, b"".join(buffers)[:999]))
    payloads = [bytes([index]) * 3000 for index in range(20)]
    for index, data in enumerate(payloads):
        writer.write(number, data, index, index)
    writer.close()
    with BagReader(writer.path.parent) as reader:
        assert [bytes(message.data) for message in reader.messages()] == payloads
    assert writer.bytes_written == writer.path.stat().st_size


def test_of_a_long_sequence_number_the_low_bits_are_kept(writer: McapWriter) -> None:
    writer.write(writer.add_topic(TEXT), b"", 1, 1, sequence=2**32 + 5)
    writer.close()
    with BagReader(writer.path.parent) as reader:
        assert next(reader.messages()).sequence == 5


# --- wrong use -------------------------------------------------------------------------------------------------------


def test_a_folder_that_exists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="exists already; record into a new folder"):
        open_writer(tmp_path, "mcap")


def test_a_storage_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bag storage 'sqlite3': must be auto, mcap or rosbag2"):
        open_writer(tmp_path / "0001", "sqlite3")


def test_nothing_can_be_written_after_close_and_close_may_be_repeated(writer: McapWriter) -> None:
    number = writer.add_topic(TEXT)
    writer.close()
    writer.close()
    for call in (lambda: writer.write(number, b"", 1, 1), lambda: writer.add_topic(topic("/step")), writer.flush):
        with pytest.raises(ValueError, match="is closed"):
            call()


@pytest.mark.parametrize("number", [-1, 0, 2])
def test_a_topic_that_was_not_announced_is_refused(writer: McapWriter, number: int) -> None:
    writer.add_topic(TEXT)
    with pytest.raises(ValueError, match=f"no topic number {number}"):
        writer.write(number, b"", 1, 1)


def test_a_topic_is_announced_once(writer: McapWriter) -> None:
    writer.add_topic(TEXT)
    with pytest.raises(ValueError, match="/text is there already"):
        writer.add_topic(TEXT)


@pytest.mark.parametrize("qos", ["{a: 1}", "[", "text"])
def test_qos_that_is_no_list_is_refused(writer: McapWriter, qos: str) -> None:
    with pytest.raises(ValueError, match=r"/text: qos .* must be the YAML text of a list"):
        writer.add_topic(msgspec.structs.replace(TEXT, qos=qos))


@pytest.mark.parametrize("times", [(-1, 0), (0, -1), (2**64, 0)])
def test_times_that_the_format_cannot_hold_are_refused(writer: McapWriter, times: tuple[int, int]) -> None:
    number = writer.add_topic(TEXT)
    with pytest.raises(ValueError, match=r"must be in \[0, 2\*\*64\)"):
        writer.write(number, b"", *times)


# --- a full disk -----------------------------------------------------------------------------------------------------


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_is_said_once_with_the_remedy_and_what_was_written_is_recovered(tmp_path: Path) -> None:
    folder = tmp_path / "0001"
    items = list(episode_items(ticks=20))
    writer = open_writer(folder, "mcap")
    with (
        file_size_limit(500_000),
        pytest.raises(OSError, match=r"cut off: File too large; free some.*bag salvage") as e,
    ):
        testing_bags.write_items(writer, iter(items))
    assert str(folder / "0001_0.mcap") in str(e.value)
    assert "\n" not in str(e.value)
    writer.close()
    assert not (folder / "metadata.yaml").exists()
    found = salvage(folder)
    assert found.salvage is not None and found.salvage.messages > 0
    with BagReader(folder) as reader:
        recovered = [(message.topic, bytes(message.data)) for message in reader.messages()]
    assert recovered == [(item.topic, item.data) for item in items[: len(recovered)]]
    assert sum(len(data) for _, data in recovered) > 400_000


def test_a_disk_that_fills_while_closing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = open_writer(tmp_path / "0001", "mcap")
    writer.write(writer.add_topic(TEXT), b"12345678", 1, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bag_writer, "write_durably", full)
    with pytest.raises(OSError, match="No space left on device; free some space"):
        writer.close()
    writer.close()


# --- rosbag2_py ------------------------------------------------------------------------------------------------------


class StandIn(types.ModuleType):
    """The part of rosbag2_py (Jazzy, Kilted) that is used, with its signatures; it notes what it was called with."""

    def __init__(self) -> None:
        super().__init__("rosbag2_py")
        calls: list[tuple[Any, ...]] = []
        self.calls = calls

        class StorageOptions:
            def __init__(self, uri: str, storage_id: str = "") -> None:
                self.values = (uri, storage_id)

        class ConverterOptions:
            def __init__(self, input_serialization_format: str = "", output_serialization_format: str = "") -> None:
                self.values = (input_serialization_format, output_serialization_format)

        class TopicMetadata:
            def __init__(
                self,
                id: int,
                name: str,
                type: str,
                serialization_format: str,
                offered_qos_profiles: list[object] | None = None,
                type_description_hash: str = "",
            ) -> None:
                self.values = (id, name, type, serialization_format, offered_qos_profiles, type_description_hash)

        class SequentialWriter:
            def open(self, storage: StorageOptions, converter: ConverterOptions) -> None:
                calls.append(("open", *storage.values, *converter.values))

            def create_topic(self, metadata: TopicMetadata) -> None:
                calls.append(("create_topic", *metadata.values))

            def write(self, name: str, data: bytes, recv_timestamp: int, send_timestamp: int) -> None:
                calls.append(("write", name, data, recv_timestamp, send_timestamp))

            def close(self) -> None:
                calls.append(("close",))

        self.StorageOptions, self.ConverterOptions = StorageOptions, ConverterOptions
        self.TopicMetadata, self.SequentialWriter = TopicMetadata, SequentialWriter
        self.to_rclcpp_qos_vector = lambda text, version: [(version, text)]


@pytest.fixture
def rosbag2(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    module = StandIn()
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "rosbag2_py", module)
    return module


def test_rosbag2_is_used_where_it_is_installed(tmp_path: Path, rosbag2: StandIn) -> None:
    writer = open_writer(tmp_path / "session" / "0001")
    assert isinstance(writer, Rosbag2Writer)
    number = writer.add_topic(topic("/step"))
    writer.write(number, b"data", 5, 4, 3)
    writer.flush()
    writer.close()
    writer.close()
    hashed = topic("/step").type_hash
    assert rosbag2.calls == [
        ("open", str(tmp_path / "session" / "0001"), "mcap", "cdr", "cdr"),
        ("create_topic", 1, "/step", TYPES["/step"], "cdr", [(9, testing_bags.QOS)], hashed),
        ("write", "/step", b"data", 5, 4),
        ("close",),
    ]
    assert writer.bytes_written == 4


def test_what_rosbag2_raises_is_said_in_one_line(tmp_path: Path, rosbag2: StandIn) -> None:
    writer = open_writer(tmp_path / "0001")
    number = writer.add_topic(TEXT)

    def fail(*_: object) -> None:
        raise RuntimeError("disk\nfull")

    rosbag2.SequentialWriter.write = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(OSError, match="rosbag2: disk full; "):
        writer.write(number, b"", 1, 1)
    writer.close()


def test_rosbag2_and_mcap_refuse_the_same_wrong_use(tmp_path: Path, rosbag2: StandIn) -> None:
    writer = open_writer(tmp_path / "0001")
    writer.add_topic(TEXT)
    with pytest.raises(ValueError, match="is there already"):
        writer.add_topic(TEXT)
    with pytest.raises(ValueError, match="no topic number 2"):
        writer.write(2, b"", 1, 1)
    writer.close()
    with pytest.raises(ValueError, match="is closed"):
        writer.write(1, b"", 1, 1)
