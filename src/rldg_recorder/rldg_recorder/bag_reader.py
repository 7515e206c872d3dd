"""Read the rosbag2 bags in MCAP files: those of this package, of stock rosbag2 and of the ``rosbags`` library.

Files are mapped into memory, so a message of an uncompressed chunk is a view and costs no copy. Every length is checked
against what holds it before it is used.
"""

from __future__ import annotations

import functools
import io
import mmap
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from mcap import records
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode

from rldg_core.yaml_text import decode_yaml
from rldg_recorder.bag_writer import MAGIC, METADATA_FILE, METADATA_VERSION, Topic
from rldg_recorder.episode import BagError

OPENING = struct.Struct("<BQ")  # of every record: opcode, length of what follows
MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_HEAD = struct.Struct("<BQH")  # of a message: opcode, length, channel
_INDEX = struct.Struct("<HI")  # of a message index: channel, length of its entries
_INDEX_ENTRY = np.dtype([("log_ns", "<u8"), ("offset", "<u8")])
CHUNK = struct.Struct("<QQQII")  # start, end, uncompressed size, CRC, length of the name of the compression
FOOTER_BYTES = OPENING.size + 20
MAX_CHUNK_BYTES = 1 << 30  # uncompressed; what claims more is damaged or hostile

R = TypeVar("R")


class Message(NamedTuple):
    """One message of a bag."""

    topic: str
    data: bytes | memoryview  # CDR with its header
    log_ns: int
    publish_ns: int
    sequence: int


class BagReader:
    """A bag, open for reading; also a context manager.

    Args:
        folder: with ``metadata.yaml`` and the files that it names.

    Attributes:
        topics: by name, in the order of the bag.
        counts: messages of each topic.

    Raises:
        BagError: something is missing, cut off, damaged or contradicts itself; :meth:`messages` and :meth:`decode`
            raise it too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.topics: dict[str, Topic] = {}
        self.counts: Counter[str] = Counter()
        self._files: list[_File] = []
        names, expected = _read_metadata(folder)
        for name in names:
            file = _File(folder / name, self._wrong)
            self._files.append(file)
            for number, topic in file.read_summary().items():
                known = self.topics.setdefault(topic.name, topic)
                if (known.type, known.definition) != (topic.type, topic.definition):
                    raise self._wrong(file.path, f"topic {topic.name} is {topic.type} here and {known.type} before")
                self.counts[topic.name] += file.counts[number]
        for name in expected | self.counts:
            if expected[name] != self.counts[name]:
                there = f"{METADATA_FILE} says {expected[name]} messages of {name}, the files {self.counts[name]}"
                raise self._wrong(folder, there)

    def messages(self, topics: Collection[str] | None = None) -> Iterator[Message]:
        """All messages of some topics (of all where None), in the order of the files.

        Raises:
            BagError: a topic that is not in the bag, or the file is damaged: raised where the damage is met.
        """
        missing = sorted(set(topics or ()) - set(self.topics))
        if missing:
            known = ", ".join(sorted(self.topics)) or "none"
            raise BagError(f"{self.folder}: there is no topic {missing[0]}; topics of the bag: {known}")
        return self._messages(set(self.topics if topics is None else topics))

    def _messages(self, wanted: set[str]) -> Iterator[Message]:
        for file in self._files:
            found: Counter[int] = Counter()
            names = {number: topic.name for number, topic in file.channels.items() if topic.name in wanted}
            for at, body in file.walk(file.channels.keys() - names.keys()):
                if len(body) < MESSAGE.size:
                    raise self._wrong(file.path, f"record at byte {at} is too short for a message")
                channel, sequence, log_ns, publish_ns = MESSAGE.unpack_from(body)
                if channel in names:
                    found[channel] += 1
                    yield Message(names[channel], body[MESSAGE.size :], log_ns, publish_ns, sequence)
                elif channel not in file.channels:
                    raise self._wrong(file.path, f"message at byte {at} is of channel {channel}, which is not there")
            for number, name in names.items():
                if found[number] != file.counts[number]:
                    there = f"holds {found[number]} messages of {name}, its index says {file.counts[number]}"
                    raise self._wrong(file.path, there)

    def decode(self, topic: str, data: bytes | memoryview) -> Any:
        """A message as an object with the fields of its type; arrays of numbers are views of ``data``, read only."""
        try:
            return decoder(self.topics[topic].type, self.topics[topic].definition)(data)
        except KeyError:
            raise BagError(f"{self.folder}: there is no topic {topic}") from None
        except ValueError as error:
            raise BagError(f"{self.folder}: topic {topic}: {error}") from None

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _wrong(self, path: Path, what: str) -> BagError:
        return BagError(f"{path}: {what}; run: ./rldg bag salvage {self.folder}")


class _File:
    """One MCAP file, mapped into memory."""

    def __init__(self, path: Path, wrong: Callable[[Path, str], BagError]) -> None:
        self.path = path
        self.channels: dict[int, Topic] = {}
        self.counts: Counter[int] = Counter()  # by channel
        self._wrong = wrong
        self._data_end = 0
        try:
            self._map, self._view = map_file(path)
        except OSError as error:
            raise wrong(path, f"cannot be read: {error.strerror}") from None

    def read_summary(self) -> dict[int, Topic]:
        """Read topics and counts from the end of the file; returns the topics by number of their channel."""
        view, size = self._view, len(self._view)
        if size < len(MAGIC) or view[: len(MAGIC)] != MAGIC:
            raise self._wrong(self.path, "is no MCAP file: wrong magic bytes at its beginning")
        footer_at = size - len(MAGIC) - FOOTER_BYTES
        if footer_at < len(MAGIC) or view[-len(MAGIC) :] != MAGIC:
            raise self._wrong(self.path, "is cut off: wrong magic bytes at its end")
        try:
            _, opcode, body = next(records_in(view, footer_at, size - len(MAGIC)))
            footer = parse(records.Footer, body)
            start = footer.summary_start
            if opcode != Opcode.FOOTER or not len(MAGIC) <= start <= footer_at:
                raise ValueError("has no index, or one in the wrong place")
            if footer.summary_crc and isal_zlib.crc32(view[start : -len(MAGIC) - 4]) != footer.summary_crc:
                raise ValueError("its index is damaged: wrong CRC")
            self._data_end = start
            self._read_index(start, footer_at)
        except ValueError as error:
            raise self._wrong(self.path, str(error)) from None
        return self.channels

    def _read_index(self, start: int, end: int) -> None:
        schemas: dict[int, records.Schema] = {}
        counts: dict[int, int] | None = None
        for _, opcode, body in records_in(self._view, start, end):
            if opcode == Opcode.SCHEMA:
                schema = parse(records.Schema, body)
                schemas[schema.id] = schema
            elif opcode == Opcode.CHANNEL:
                channel = parse(records.Channel, body)
                self.channels[channel.id] = topic_of(channel, schemas)
            elif opcode == Opcode.STATISTICS:
                counts = parse(records.Statistics, body).channel_message_counts
        if counts is None:
            raise ValueError("its index has no statistics")
        if set(counts) - set(self.channels):
            raise ValueError(f"its index counts messages of channel {min(set(counts) - set(self.channels))}, not there")
        self.counts.update(counts)

    def walk(self, passed: Collection[int] = ()) -> Iterator[tuple[int, memoryview]]:
        """All messages but those of some channels: where the record that holds them begins, and their body."""
        try:
            for at, opcode, body in records_in(self._view, len(MAGIC), self._data_end, passed):
                if opcode == Opcode.MESSAGE:
                    yield at, body
                elif opcode == Opcode.CHUNK:
                    try:
                        inside = chunk_data(body)
                        for _, opcode, message in self._records_of(inside, at + OPENING.size + len(body), passed):
                            if opcode == Opcode.MESSAGE:
                                yield at, message
                    except ValueError as error:
                        raise ValueError(f"chunk at byte {at}: {error}") from None
                    # what was read leaves the resident memory of the process; a view that is used again brings it back
                    begin = at - at % mmap.PAGESIZE
                    self._map.madvise(mmap.MADV_DONTNEED, begin, at + OPENING.size + len(body) - begin)
        except ValueError as error:
            raise self._wrong(self.path, str(error)) from None

    def _records_of(
        self, inside: memoryview, index_at: int, passed: Collection[int]
    ) -> Iterator[tuple[int, int, memoryview]]:
        """The records of a chunk but for messages of some channels, found by the index behind the chunk where it has
        one: most of a bag is messages that nobody asks for. What the index leaves out is missing in the count.
        """
        offsets: list[npt.NDArray[np.uint64]] = []
        indexed = False
        for _, opcode, body in records_in(self._view, index_at, self._data_end):
            if opcode != Opcode.MESSAGE_INDEX:
                break
            channel, entries = _index_of(body)
            if channel not in self.channels:
                raise ValueError(f"its index has channel {channel}, which is not there")
            indexed = True
            if channel not in passed:
                offsets.append(entries["offset"])
        if not indexed or not passed:
            yield from records_in(inside, 0, len(inside), passed)
            return
        for offset in np.sort(np.concatenate(offsets)).tolist() if offsets else ():
            if offset >= len(inside):
                raise ValueError(f"its index names byte {offset} of {len(inside)}")
            yield next(records_in(inside, offset, len(inside)))

    def close(self) -> None:
        """Let go of the file; views that are still in use keep it mapped."""
        del self._view, self._map


def map_file(path: Path) -> tuple[mmap.mmap, memoryview]:
    """A file in memory, read only. Raises OSError; an empty file is a view of nothing."""
    with path.open("rb") as file:
        if file.seek(0, io.SEEK_END) == 0:
            anonymous = mmap.mmap(-1, 1)
            return anonymous, memoryview(anonymous)[:0]
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return mapped, memoryview(mapped)


class TornError(ValueError):
    """A record does not fit into what holds it; ``at`` is where it begins."""

    def __init__(self, at: int, text: str) -> None:
        super().__init__(text)
        self.at = at


def records_in(
    view: memoryview, start: int, end: int, passed: Collection[int] = ()
) -> Iterator[tuple[int, int, memoryview]]:
    """Records one after the other: where each begins, its opcode and its body.

    Args:
        passed: channels whose messages are left out.

    Raises:
        TornError: the next record does not fit before ``end``.
    """
    at, unpack, opening = start, OPENING.unpack_from, OPENING.size
    while (at := _pass(view, at, end, passed)) < end:
        if end - at < opening:
            raise TornError(at, f"record at byte {at}: only {end - at} bytes are left of it")
        opcode, length = unpack(view, at)
        body_at = at + opening
        following = body_at + length
        if following > end:
            raise TornError(at, f"record at byte {at}: claims {length} bytes, {end - body_at} are left")
        yield at, opcode, view[body_at:following]
        at = following


def _index_of(body: memoryview) -> tuple[int, npt.NDArray[Any]]:
    """Channel and entries of a message index record."""
    if len(body) < _INDEX.size:
        raise ValueError("its index is too short")
    channel, size = _INDEX.unpack_from(body)
    if size % _INDEX_ENTRY.itemsize or _INDEX.size + size > len(body):
        raise ValueError(f"its index of channel {channel} claims {size} bytes, has {len(body) - _INDEX.size}")
    return channel, np.frombuffer(body, _INDEX_ENTRY, size // _INDEX_ENTRY.itemsize, _INDEX.size)


def _pass(view: memoryview, at: int, end: int, passed: Collection[int]) -> int:
    """Where the next record stands that is no message of these channels; most of a bag is such messages."""
    unpack, opening, shortest, opcode_of_messages = _HEAD.unpack_from, OPENING.size, MESSAGE.size, int(Opcode.MESSAGE)
    while passed and end - at >= _HEAD.size:
        opcode, length, channel = unpack(view, at)
        following = at + opening + length
        if opcode != opcode_of_messages or channel not in passed or length < shortest or following > end:
            break
        at = following
    return at


def chunk_data(body: memoryview, torn: bool = False) -> memoryview:
    """The records of a chunk, uncompressed and checked.

    Args:
        body: of the chunk record.
        torn: its end is missing; what there is of an uncompressed one comes back, unchecked.

    Raises:
        ValueError: it is damaged, or compressed in a way that is not known.
    """
    if len(body) < CHUNK.size + 8:
        raise ValueError("is too short")
    _, _, size, crc, letters = CHUNK.unpack_from(body)
    at = CHUNK.size + letters + 8
    if at > len(body):
        raise ValueError(f"claims a name of {letters} bytes for its compression")
    compression = bytes(body[CHUNK.size : at - 8])
    (stored,) = struct.unpack_from("<Q", body, at - 8)
    if torn and not compression:
        return body[at : at + size]
    data = body[at : at + stored]
    if len(data) != stored:
        raise ValueError(f"claims {stored} bytes, has {len(data)}")
    if compression:
        if size > MAX_CHUNK_BYTES:
            raise ValueError(f"claims {size} bytes, at most {MAX_CHUNK_BYTES} are read")
        data = memoryview(_decompress(compression, data, size))
    if len(data) != size:
        raise ValueError(f"claims {size} bytes, holds {len(data)}")
    if crc and isal_zlib.crc32(data) != crc:
        raise ValueError("is damaged: wrong CRC")
    return data


def _decompress(compression: bytes, data: memoryview, size: int) -> bytes:
    """At most one byte more than ``size``, so that nothing grows beyond what the chunk claims."""
    try:
        if compression == b"zstd":
            import zstandard

            with zstandard.ZstdDecompressor().stream_reader(data) as stream:
                return stream.read(size + 1)
        if compression == b"lz4":
            import lz4.frame  # type: ignore[import-untyped]

            return lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
    except Exception as error:  # each library has its own
        raise ValueError(f"cannot be decompressed: {error}") from None
    raise ValueError(f"is compressed with {compression[:20]!r}, must be none, zstd or lz4")


def parse(kind: type[R], body: memoryview) -> R:
    """One record of the ``mcap`` library. Raises ValueError."""
    try:
        return kind.read(ReadDataStream(io.BytesIO(body)))  # type: ignore[attr-defined]
    except (McapError, struct.error, ValueError):
        raise ValueError(f"holds a damaged {kind.__name__} record") from None


def topic_of(channel: records.Channel, schemas: dict[int, records.Schema]) -> Topic:
    """What a channel says about its topic. Raises ValueError where its schema is missing or is no text."""
    schema = schemas.get(channel.schema_id)
    if schema is None or channel.message_encoding != "cdr":
        raise ValueError(f"topic {channel.topic} has encoding {channel.message_encoding!r}, must be cdr with a schema")
    definition = schema.data.decode() if schema.encoding == "ros2msg" else ""
    notes = channel.metadata
    qos = notes.get("offered_qos_profiles", "")
    return Topic(channel.topic, schema.name, definition, notes.get("topic_type_hash", ""), qos)


@functools.cache
def decoder(type_name: str, definition: str) -> Callable[[bytes | memoryview], Any]:
    """What turns CDR of a type into objects.

    Raises:
        ValueError: the definition is none, or (from what is returned) the data is not of that type.
    """
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.EMPTY)
    try:
        store.register(get_types_from_msg(definition, type_name))
        store.get_msgdef(type_name)
    except Exception:  # of the parser
        raise ValueError(f"the bag holds no usable ros2msg definition of {type_name}") from None

    def decode(data: bytes | memoryview) -> Any:
        try:
            return store.deserialize_cdr(data, type_name)
        except Exception as error:  # generated code meets wrong data in many ways
            raise ValueError(f"a message of {len(data)} bytes is no {type_name}: {error}") from None

    return decode


def _read_metadata(folder: Path) -> tuple[list[str], Counter[str]]:
    """File names of a bag in their order, and messages by topic, as ``metadata.yaml`` says."""
    path = folder / METADATA_FILE
    remedy = f"run: ./rldg bag salvage {folder}"
    if not folder.is_dir():
        raise BagError(f"{folder}: there is no such folder; a bag is a folder with {METADATA_FILE}")
    try:
        data: Any = decode_yaml(path.read_bytes())
        info = msgspec.convert(data["rosbag2_bagfile_information"], _Metadata, strict=False)
    except FileNotFoundError:
        raise BagError(f"{path}: is missing, so the recording was cut off, or this is no bag; {remedy}") from None
    except OSError as error:
        raise BagError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise BagError(f"{path}: is damaged: {' '.join(str(error).split())[:160]}; {remedy}") from None
    if (
        info.version > METADATA_VERSION
        or info.storage_identifier != "mcap"
        or info.compression_mode not in ("", "none")
    ):
        found = f"version {info.version}, storage {info.storage_identifier!r}, compression {info.compression_mode!r}"
        allowed = f"version up to {METADATA_VERSION}, storage 'mcap', compression ''"
        raise BagError(f"{path}: {found}: only {allowed} can be read; convert it with: ros2 bag convert")
    for name in info.relative_file_paths:
        if not name or Path(name).name != name:
            raise BagError(f"{path}: relative_file_paths: {name!r} must be the name of a file beside it")
    expected: Counter[str] = Counter()
    for topic in info.topics_with_message_count:
        expected[topic.topic_metadata.name] += topic.message_count
    return info.relative_file_paths, expected


class _TopicName(msgspec.Struct):
    name: str


class _TopicCount(msgspec.Struct):
    topic_metadata: _TopicName
    message_count: int


class _Metadata(msgspec.Struct):
    version: int
    storage_identifier: str
    relative_file_paths: list[str]
    topics_with_message_count: list[_TopicCount]
    compression_mode: str = ""
