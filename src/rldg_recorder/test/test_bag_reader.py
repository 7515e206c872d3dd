"""The bag reader: our bags and those of others, without copies; what is damaged is refused and never half read."""

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from mcap.writer import CompressionType
from mcap.writer import Writer as LibraryWriter
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode

from rldg_recorder import bag_reader, testing_bags
from rldg_recorder.bag_reader import BagReader
from rldg_recorder.bag_writer import CHUNK, MAGIC, McapWriter, Topic
from rldg_recorder.episode import BagError
from rldg_recorder.testing_bags import TYPES, Item, episode_items, topic, write_bag

TEXT = Topic("/text", "std_msgs/msg/String", "string data\n")
FILE, METADATA = "0001_0.mcap", "metadata.yaml"


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return list(episode_items(ticks=4))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, items: list[Item]) -> Path:
    folder = tmp_path_factory.mktemp("reader") / "0001"
    write_bag(folder, iter(items))
    return folder


@pytest.fixture
def bag(tmp_path: Path, whole: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(whole, tmp_path / "0001")


def read(folder: Path) -> list[tuple[str, bytes, int, int]]:
    with BagReader(folder) as reader:
        return [(m.topic, bytes(m.data), m.publish_ns, m.sequence) for m in reader.messages()]


def change_metadata(bag: Path, **changes: object) -> None:
    path = bag / METADATA
    data = msgspec.yaml.decode(path.read_bytes())
    data["rosbag2_bagfile_information"].update(changes)
    path.write_bytes(msgspec.yaml.encode(data))


# --- what is read ----------------------------------------------------------------------------------------------------


def test_messages_come_back_in_order_with_times_and_sequence(whole: Path, items: list[Item]) -> None:
    assert read(whole) == list(items)


def test_topics_counts_and_definitions_are_known_before_a_message_is_read(whole: Path) -> None:
    with BagReader(whole) as reader:
        assert reader.topics == {name: topic(name) for name in TYPES}
        assert reader.counts == {"/episode": 4, "/observation": 4, "/step": 4, "/current_pose": 400}


def test_some_topics_can_be_asked_for(whole: Path, items: list[Item]) -> None:
    with BagReader(whole) as reader:
        found = [(message.topic, bytes(message.data)) for message in reader.messages(["/step", "/episode"])]
        assert list(reader.messages([])) == []
    assert found == [(item.topic, item.data) for item in items if item.topic in ("/step", "/episode")]


def test_a_topic_that_is_not_there_is_refused_with_those_that_are(whole: Path) -> None:
    with BagReader(whole) as reader:
        with pytest.raises(BagError, match="no topic /nothing; topics of the bag: /current_pose, /episode"):
            reader.messages(["/nothing"])
        with pytest.raises(BagError, match="no topic /nothing"):
            reader.decode("/nothing", b"")


def test_decoded_arrays_are_views_of_the_file(whole: Path) -> None:
    with BagReader(whole) as reader:
        message = next(reader.messages(["/observation"]))
        image = reader.decode("/observation", message.data).image.data
    assert image.dtype == np.uint8
    assert image.shape == (128 * 128 * 3,)
    assert np.shares_memory(image, np.frombuffer(message.data, np.uint8))
    assert not image.flags.writeable


def test_what_was_read_stays_after_the_bag_was_closed(bag: Path, items: list[Item]) -> None:
    with BagReader(bag) as reader:
        messages = list(reader.messages())
    shutil.rmtree(bag)
    assert [bytes(message.data) for message in messages] == [item.data for item in items]


def test_messages_decode_without_ros(whole: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from rldg_recorder.bag_reader import BagReader\n"
        f"with BagReader(pathlib.Path({str(whole)!r})) as bag:\n"
        "    print([bag.decode(m.topic, m.data).index for m in bag.messages(['/step'])])\n"
        "assert 'rclpy' not in sys.modules and 'rldg_interfaces' not in sys.modules\n"
    )
    bare = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[0, 1, 2, 3]\n", "")


def test_threads_may_decode_at_once(whole: Path) -> None:
    bag_reader.decoder.cache_clear()

    def indices(_: int) -> list[int]:
        with BagReader(whole) as reader:
            return [reader.decode(m.topic, m.data).index for m in reader.messages(["/step", "/observation"])]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(indices, range(8))) == [[0, 0, 1, 1, 2, 2, 3, 3]] * 8


@pytest.mark.parametrize("data", [b"", b"\x00\x01\x00\x00", bytes(3000), b"\x00\x01\x00\x00" + b"\xff" * 5000])
def test_data_of_another_type_is_refused(whole: Path, data: bytes) -> None:
    with BagReader(whole) as reader, pytest.raises(BagError, match=r"/step: .* is no rldg_interfaces/msg/Step"):
        reader.decode("/step", data)


def test_a_topic_without_a_definition_can_be_read_but_not_decoded(tmp_path: Path) -> None:
    writer = McapWriter(tmp_path / "0001")
    writer.write(writer.add_topic(msgspec.structs.replace(TEXT, definition="no [definition")), b"data", 1, 1)
    writer.close()
    with BagReader(tmp_path / "0001") as reader:
        message = next(reader.messages())
        with pytest.raises(BagError, match="no usable ros2msg definition of std_msgs/msg/String"):
            reader.decode(message.topic, message.data)


# --- bags of others --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_a_bag_of_the_rosbags_library_can_be_read(tmp_path: Path, items: list[Item], compress: bool) -> None:
    theirs = Writer(tmp_path / "theirs", version=9, storage_plugin=StoragePlugin.MCAP)
    if compress:
        theirs.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with theirs:
        connections: dict[str, Connection] = {
            name: theirs.add_connection(name, kind, typestore=testing_bags.store()) for name, kind in TYPES.items()
        }
        for item in items:
            theirs.write(connections[item.topic], item.stamp_ns, item.data)
    assert read(tmp_path / "theirs") == [(item.topic, item.data, item.stamp_ns, 0) for item in items]
    with BagReader(tmp_path / "theirs") as reader:
        message = next(reader.messages(["/observation"]))
        assert reader.decode(message.topic, message.data).image.encoding == "rgb8"


@pytest.mark.parametrize("compression", CompressionType)
@pytest.mark.parametrize("chunked", [True, False])
def test_every_compression_and_bags_without_chunks_can_be_read(
    bag: Path, items: list[Item], compression: CompressionType, chunked: bool
) -> None:
    with (bag / FILE).open("wb") as file:
        library = LibraryWriter(file, compression=compression, use_chunking=chunked)
        library.start("ros2")
        numbers = {}
        for name in TYPES:
            schema = library.register_schema(TYPES[name], "ros2msg", topic(name).definition.encode())
            numbers[name] = library.register_channel(name, "cdr", schema)
        for item in items:
            library.add_message(numbers[item.topic], item.stamp_ns, item.data, item.stamp_ns, item.sequence)
        library.finish()
    assert read(bag) == list(items)


def test_a_bag_of_several_files_is_read_in_the_order_of_its_metadata(bag: Path, tmp_path: Path) -> None:
    more = list(episode_items(ticks=2, begin_ns=9 * 10**9))
    write_bag(tmp_path / "more", iter(more))
    (tmp_path / "more" / "more_0.mcap").rename(bag / "0001_1.mcap")
    data = msgspec.yaml.decode((bag / METADATA).read_bytes())["rosbag2_bagfile_information"]
    for entry in data["topics_with_message_count"]:
        entry["message_count"] += sum(item.topic == entry["topic_metadata"]["name"] for item in more)
    files = ["0001_1.mcap", FILE]
    change_metadata(bag, relative_file_paths=files, topics_with_message_count=data["topics_with_message_count"])
    assert read(bag) == more + list(episode_items(ticks=4))


# --- metadata --------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="there is no such folder"):
        BagReader(tmp_path / "nothing")


def test_missing_metadata_is_said_with_the_remedy(bag: Path) -> None:
    (bag / METADATA).unlink()
    with pytest.raises(BagError, match=r"metadata\.yaml: is missing.*\./rldg bag salvage .*0001$"):
        BagReader(bag)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"a: 1", b"rosbag2_bagfile_information: 3", b"[" * 100_000])
def test_metadata_that_is_no_metadata_is_said(bag: Path, text: bytes) -> None:
    (bag / METADATA).write_bytes(text)
    with pytest.raises(BagError, match=r"metadata\.yaml: is damaged: ") as error:
        BagReader(bag)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"version": 10}, {"storage_identifier": "sqlite3"}, {"compression_mode": "file"}])
def test_bags_of_another_kind_are_refused(bag: Path, change: dict[str, object]) -> None:
    change_metadata(bag, **change)
    with pytest.raises(BagError, match=r"only version up to 9, storage 'mcap'.*ros2 bag convert"):
        BagReader(bag)


@pytest.mark.parametrize("name", ["../0001_0.mcap", "/etc/passwd", "", ".", ".."])
def test_files_outside_the_folder_are_refused(bag: Path, name: str) -> None:
    change_metadata(bag, relative_file_paths=[name])
    with pytest.raises(BagError, match=r"must be the name of a file beside it|is a directory|Is a directory"):
        BagReader(bag)


def test_a_missing_file_is_said(bag: Path) -> None:
    (bag / FILE).unlink()
    with pytest.raises(BagError, match=r"0001_0\.mcap: cannot be read: No such file"):
        BagReader(bag)


def test_counts_that_differ_from_the_metadata_are_said(bag: Path) -> None:
    change_metadata(bag, topics_with_message_count=[{"topic_metadata": {"name": "/step"}, "message_count": 5}])
    with pytest.raises(BagError, match=r"metadata\.yaml says 5 messages of /step, the files 4; run: \./rldg bag salv"):
        BagReader(bag)


# --- damaged files ---------------------------------------------------------------------------------------------------


def damage(bag: Path, change: Callable[[bytearray], None]) -> None:
    data = bytearray((bag / FILE).read_bytes())
    change(data)
    (bag / FILE).write_bytes(data)


def first_chunk(data: bytes | bytearray) -> int:
    at = len(MAGIC)
    while data[at] != 0x06:
        at += 9 + struct.unpack_from("<Q", data, at + 1)[0]
    return at


def test_a_file_that_is_no_mcap_file_is_refused(bag: Path) -> None:
    damage(bag, lambda data: data.__setitem__(0, 0))
    with pytest.raises(BagError, match="is no MCAP file: wrong magic bytes at its beginning"):
        BagReader(bag)


@pytest.mark.parametrize("keep", [0, 3, 8, 20, 45, 1000, 100_000, -1, -8, -9, -37, -38, -500])
def test_a_file_that_is_cut_off_anywhere_is_refused_with_the_remedy(bag: Path, keep: int) -> None:
    data = (bag / FILE).read_bytes()
    (bag / FILE).write_bytes(data[:keep])
    with pytest.raises(BagError, match=r"(is cut off|is no MCAP file).*run: \./rldg bag salvage .*0001$"):
        BagReader(bag)


def test_a_changed_byte_of_a_payload_is_noticed(bag: Path) -> None:
    damage(bag, lambda data: data.__setitem__(first_chunk(data) + 30_000, data[first_chunk(data) + 30_000] ^ 1))
    with pytest.raises(BagError, match=r"chunk at byte \d+: is damaged: wrong CRC; run: \./rldg bag salvage"):
        read(bag)


def test_a_chunk_that_claims_an_absurd_length_is_refused(bag: Path) -> None:
    damage(bag, lambda data: struct.pack_into("<Q", data, first_chunk(data) + 1, 2**63))
    with pytest.raises(BagError, match=r"record at byte \d+: claims 9223372036854775808 bytes"):
        read(bag)


@pytest.mark.parametrize("compression", [b"zstd", b"lz4"])
@pytest.mark.parametrize("claimed", [2**62, 2**31, 1000])
def test_a_compressed_chunk_that_claims_an_absurd_size_is_refused(compression: bytes, claimed: int) -> None:
    import lz4.frame  # type: ignore[import-untyped]
    import zstandard

    bomb = bytes(64 << 20)
    packed = zstandard.compress(bomb) if compression == b"zstd" else lz4.frame.compress(bomb)
    body = b"".join(
        [
            struct.pack("<QQQII", 0, 0, claimed, 0, len(compression)),
            compression,
            struct.pack("<Q", len(packed)),
            packed,
        ]
    )
    expected = rf"claims {claimed} bytes, (at most|holds {claimed + 1})"
    with pytest.raises(ValueError, match=expected):
        bag_reader.chunk_data(memoryview(body))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "too short"),
        (struct.pack("<QQQIIQ", 0, 0, 5, 0, 2**31, 5), "claims a name of 2147483648 bytes"),
        (struct.pack("<QQQIIQ", 0, 0, 5, 0, 0, 5), "claims 5 bytes, has 0"),
        (struct.pack("<QQQII", 0, 0, 5, 0, 3) + b"bz2" + struct.pack("<Q", 0), "compressed with b'bz2'"),
        (struct.pack("<QQQII", 0, 0, 5, 0, 4) + b"zstd" + struct.pack("<Q4s", 4, b"abcd"), "cannot be decompressed"),
    ],
)
def test_a_chunk_that_contradicts_itself_is_refused(body: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        bag_reader.chunk_data(memoryview(body))


def test_a_message_that_the_index_counts_and_the_file_lacks_is_noticed(bag: Path) -> None:
    def blank_first_message(data: bytearray) -> None:
        at = first_chunk(data)
        data[at + CHUNK.size] = 0x80  # an opcode that readers skip
        struct.pack_into("<I", data, at + 9 + 24, 0)  # no CRC

    damage(bag, blank_first_message)
    with pytest.raises(BagError, match=r"holds 3 messages of /observation, its index says 4"):
        read(bag)


def test_bytes_changed_at_random_give_a_clear_error_or_the_same_messages(bag: Path, items: list[Item]) -> None:
    data = (bag / FILE).read_bytes()
    chance = random.Random(1)
    outcomes = set()
    for _ in range(150):
        changed = bytearray(data)
        # half of them in the index, where most of the structure is
        first = 0 if chance.random() < 0.5 else len(data) - 8000
        for _ in range(chance.randint(1, 3)):
            changed[chance.randrange(first, len(data))] = chance.randrange(256)
        (bag / FILE).write_bytes(changed)
        try:
            assert [message[1] for message in read(bag)] == [item.data for item in items]
            outcomes.add("same")
        except BagError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
    assert "refused" in outcomes
