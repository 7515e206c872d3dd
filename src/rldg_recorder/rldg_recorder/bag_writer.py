"""Write a rosbag2 bag: one MCAP file, and ``metadata.yaml`` when it is closed.

Chunks are put together here and not by the ``mcap`` library because the library copies every payload several times and
cannot end a chunk at a chosen time. A payload goes from the caller to the page cache in one copy, and what a chunk
holds survives a kill of the process as soon as the chunk has ended. Layout: https://mcap.dev/spec, profile ``ros2``.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import importlib.util
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec
from isal import isal_zlib
from mcap import records
from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode

from rldg_core.yaml_text import decode_yaml

MAGIC = b"\x89MCAP0\r\n"
METADATA_FILE = "metadata.yaml"
METADATA_VERSION = 9  # of rosbag2 in Jazzy and Kilted
CHUNK_BYTES = 4 << 20  # a chunk ends when it has reached this size
MESSAGE = struct.Struct("<BQHIQQ")  # opcode, length, channel, sequence, log time, publish time
CHUNK = struct.Struct("<BQQQQIIQ")  # opcode, length, start, end, uncompressed size, CRC, compression "", size
SMALL_BYTES = 2048
WRITE_BYTES = 1 << 20  # more in one call makes the kernel look for large pages, up to five times slower
IOV_MAX = os.sysconf("SC_IOV_MAX")


class Topic(msgspec.Struct, frozen=True):
    """A topic as a bag describes it."""

    name: str
    type: str  # package/msg/Name
    definition: str  # ros2msg text with nested types, see rldg_recorder.definitions
    type_hash: str = ""
    qos: str = ""  # offered profiles: YAML text of a list, as rosbag2 writes it


class BagWriter(Protocol):
    """What records a bag. Used by one thread at a time."""

    bytes_written: int

    def add_topic(self, topic: Topic) -> int:
        """Announce a topic; its id for :meth:`write`. ValueError: it is there already, or its QoS is not a list."""

    def write(self, topic: int, data: bytes, log_ns: int, publish_ns: int, sequence: int = 0) -> None:
        """Take in one message.

        Args:
            topic: what :meth:`add_topic` returned.
            data: CDR with its 4 bytes of header; not copied, so the caller must leave it as it is.
            log_ns: when it was received, publish_ns: when it was sent; both not negative.
            sequence: the publisher's count of messages; the lowest 32 bits are kept.

        Raises:
            ValueError: unknown topic, a time out of range, or the bag is closed.
            OSError: the disk is full or failed. What was written is left for ``./rldg bag salvage``.
        """

    def flush(self) -> None:
        """Make everything taken in so far survive a kill of this process. Raises as :meth:`write`."""

    def close(self) -> None:
        """Write index and ``metadata.yaml``; idempotent. After an OSError it only closes the file."""


def open_writer(folder: Path, storage: str = "auto") -> BagWriter:
    """Create the folder of a bag and begin it.

    Args:
        folder: must not exist; its parents are created. The file in it is called ``<folder name>_0.mcap``.
        storage: "mcap", "rosbag2", or "auto": rosbag2 where its Python package is installed, else mcap.

    Raises:
        FileExistsError: the folder exists.
        OSError: it cannot be created.
        ValueError: there is no such storage.
    """
    if storage not in ("auto", "mcap", "rosbag2"):
        raise ValueError(f"bag storage {storage!r}: must be auto, mcap or rosbag2")
    if storage == "auto":
        storage = "rosbag2" if importlib.util.find_spec("rosbag2_py") else "mcap"
    if folder.exists():
        raise FileExistsError(errno.EEXIST, f"{folder}: exists already; record into a new folder or remove it")
    return Rosbag2Writer(folder) if storage == "rosbag2" else McapWriter(folder)


class McapWriter:
    """The bag writer of this package; see :class:`BagWriter` and :func:`open_writer`.

    Args:
        folder: is created.
        file_name: of the file in it; ``<folder name>_0.mcap`` where "".
    """

    def __init__(self, folder: Path, file_name: str = "") -> None:
        self.bytes_written = 0
        self.path = folder / (file_name or f"{folder.name}_0.mcap")
        self._topics: list[Topic] = []
        self._counts: list[int] = []
        self._schemas: dict[tuple[str, str], records.Schema] = {}
        self._channels: list[records.Channel] = []
        self._chunks: list[records.ChunkIndex] = []
        folder.mkdir(parents=True)
        self._fd: int | None = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # salvage keeps away from a file that is being written, where the disk knows locks
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._begin_chunk()
        self._append([MAGIC, _encode(records.Header("ros2", "rldg_recorder"))])

    def add_topic(self, topic: Topic) -> int:
        self._check_open()
        if any(topic.name == known.name for known in self._topics):
            raise ValueError(f"{self.path}: topic {topic.name} is there already")
        _profiles(topic)
        kind = topic.type, topic.definition
        schema = self._schemas.get(kind)
        new: list[records.McapRecord] = []
        if schema is None:
            schema = records.Schema(len(self._schemas) + 1, topic.definition.encode(), "ros2msg", topic.type)
            self._schemas[kind] = schema
            new.append(schema)
        notes = {"offered_qos_profiles": topic.qos or "[]", "topic_type_hash": topic.type_hash}
        channel = records.Channel(len(self._topics) + 1, topic.name, "cdr", notes, schema.id)
        self._topics.append(topic)
        self._counts.append(0)
        self._channels.append(channel)
        self._append([*map(_encode, new), _encode(channel)])
        return channel.id

    def write(self, topic: int, data: bytes, log_ns: int, publish_ns: int, sequence: int = 0) -> None:
        self._check_open()
        if not 0 < topic <= len(self._topics):
            raise ValueError(f"{self.path}: there is no topic number {topic}; add_topic gives the numbers")
        size = len(data)
        try:
            header = MESSAGE.pack(Opcode.MESSAGE, 22 + size, topic, sequence & 0xFFFFFFFF, log_ns, publish_ns)
        except struct.error:
            raise ValueError(f"{self.path}: times {log_ns} and {publish_ns} ns: must be in [0, 2**64)") from None
        self._index.setdefault(topic, []).extend((log_ns, self._size))
        # many small buffers cost more than joining them
        self._buffers += (header + data,) if size < SMALL_BYTES else (header, data)
        self._size += len(header) + size
        if self._size >= CHUNK_BYTES:
            self._end_chunk()

    def flush(self) -> None:
        self._check_open()
        self._end_chunk()

    def close(self) -> None:
        if self._fd is None:
            return
        self._end_chunk()
        metadata = self._metadata()
        note = records.Metadata("rosbag2", {"serialized_metadata": msgspec.yaml.encode(metadata).decode()})
        note_at, noted = self.bytes_written, _encode(note)
        self._append([noted, _encode(records.DataEnd(0))])
        groups: dict[Opcode, Sequence[records.McapRecord]] = {
            Opcode.SCHEMA: list(self._schemas.values()),
            Opcode.CHANNEL: self._channels,
            Opcode.STATISTICS: [self._statistics()],
            Opcode.CHUNK_INDEX: self._chunks,
            Opcode.METADATA_INDEX: [records.MetadataIndex(note_at, len(noted), note.name)],
        }
        at = start = self.bytes_written
        summary, offsets = [], []
        for opcode, group in groups.items():
            if group:
                summary.append(b"".join(map(_encode, group)))
                offsets.append(_encode(records.SummaryOffset(opcode, at, len(summary[-1]))))
                at += len(summary[-1])
        end = b"".join([*summary, *offsets, _encode(records.Footer(start, at, 0))[:-4]])
        self._append([end, struct.pack("<I", zlib.crc32(end)), MAGIC])
        try:
            os.fsync(self._fd)
            self._let_go()
            text = msgspec.yaml.encode({"rosbag2_bagfile_information": metadata})
            write_durably(self.path.with_name(METADATA_FILE), text)
        except OSError as error:
            raise self._failure(error) from None

    # --- chunks ----------------------------------------------------------------------------------------------------

    def _begin_chunk(self) -> None:
        self._buffers: list[bytes] = [b""]  # the first becomes the header of the chunk
        self._size = 0
        self._index: dict[int, list[int]] = {}  # by topic: log time and offset of each message, one after the other

    def _end_chunk(self) -> None:
        if not self._size:
            return
        crc = 0
        for buffer in self._buffers:
            crc = isal_zlib.crc32(buffer, crc)
        size, length = self._size, CHUNK.size + self._size
        start_ns = min(min(entries[::2]) for entries in self._index.values())
        end_ns = max(max(entries[::2]) for entries in self._index.values())
        self._buffers[0] = CHUNK.pack(Opcode.CHUNK, length - 9, start_ns, end_ns, size, crc, 0, size)
        at = self.bytes_written
        offsets, index_length = {}, 0
        for topic, entries in self._index.items():
            offsets[topic] = at + length + index_length
            count = len(entries)
            index = struct.pack(f"<BQHI{count}Q", Opcode.MESSAGE_INDEX, 6 + 8 * count, topic, 8 * count, *entries)
            self._buffers.append(index)
            index_length += len(index)
            self._counts[topic - 1] += count // 2
        self._append(self._buffers)
        self._chunks.append(
            records.ChunkIndex(length, at, "", size, end_ns, index_length, offsets, start_ns, uncompressed_size=size)
        )
        self._begin_chunk()

    def _append(self, buffers: list[bytes]) -> None:
        assert self._fd is not None
        try:
            for batch in _batches(buffers):
                self.bytes_written += _write_all(self._fd, batch)
        except OSError as error:
            raise self._failure(error) from None

    # --- what describes them ---------------------------------------------------------------------------------------

    def _statistics(self) -> records.Statistics:
        start_ns, end_ns = self._span_ns()
        return records.Statistics(
            attachment_count=0,
            channel_count=len(self._channels),
            channel_message_counts={number: count for number, count in enumerate(self._counts, 1) if count},
            chunk_count=len(self._chunks),
            message_count=sum(self._counts),
            message_end_time=end_ns,
            message_start_time=start_ns,
            metadata_count=1,
            schema_count=len(self._schemas),
        )

    def _metadata(self) -> dict[str, Any]:
        """What rosbag2 writes in version 9 (rosbag2_storage/yaml.hpp)."""
        start_ns, end_ns = self._span_ns()
        span = {
            "duration": {"nanoseconds": end_ns - start_ns},
            "starting_time": {"nanoseconds_since_epoch": start_ns},
            "message_count": sum(self._counts),
        }
        topics = [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": _profiles(topic),
                    "type_description_hash": topic.type_hash,
                },
                "message_count": count,
            }
            for topic, count in zip(self._topics, self._counts, strict=True)
        ]
        return {
            "version": METADATA_VERSION,
            "storage_identifier": "mcap",
            **span,
            "topics_with_message_count": topics,
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [self.path.name],
            "files": [{"path": self.path.name, **span}],
            "custom_data": None,
            "ros_distro": os.environ.get("ROS_DISTRO", ""),
        }

    def _span_ns(self) -> tuple[int, int]:
        """Log times of the first and the last message, 0 and 0 without any."""
        starts = [chunk.message_start_time for chunk in self._chunks]
        return min(starts, default=0), max((chunk.message_end_time for chunk in self._chunks), default=0)

    # --- life ------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._fd is None:
            raise ValueError(f"{self.path}: is closed; nothing can be written any more")

    def _let_go(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _failure(self, error: OSError) -> OSError:
        with suppress(OSError):
            self._let_go()
        remedy = f"free some space, then run ./rldg bag salvage {self.path.parent}"
        return OSError(error.errno, f"{self.path}: the recording is cut off: {error.strerror}; {remedy}")


class Rosbag2Writer:
    """A bag written by rosbag2's own storage; see :class:`BagWriter` and :func:`open_writer`.

    Its Python interface (Jazzy and newer) keeps no sequence numbers, takes the definitions of types from the
    installation, and ends a chunk by size only (768 KiB), so ``flush`` can promise nothing: a kill costs the chunk that
    is open, and a bag that is being recorded is not locked against salvage.
    """

    def __init__(self, folder: Path) -> None:
        self.bytes_written = 0  # payloads
        self._folder = folder
        self._rosbag2: Any = importlib.import_module("rosbag2_py")
        self._topics: list[str] = []
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._writer: Any = self._rosbag2.SequentialWriter()
        options = self._rosbag2.StorageOptions(uri=str(folder), storage_id="mcap")
        with self._errors():
            self._writer.open(options, self._rosbag2.ConverterOptions("cdr", "cdr"))

    def add_topic(self, topic: Topic) -> int:
        self._check_open()
        if topic.name in self._topics:
            raise ValueError(f"{self._folder}: topic {topic.name} is there already")
        _profiles(topic)
        number = len(self._topics) + 1
        metadata = self._rosbag2.TopicMetadata(
            id=number,
            name=topic.name,
            type=topic.type,
            serialization_format="cdr",
            offered_qos_profiles=self._rosbag2.to_rclcpp_qos_vector(topic.qos or "[]", METADATA_VERSION),
            type_description_hash=topic.type_hash,
        )
        with self._errors():
            self._writer.create_topic(metadata)
        self._topics.append(topic.name)
        return number

    def write(self, topic: int, data: bytes, log_ns: int, publish_ns: int, sequence: int = 0) -> None:
        self._check_open()
        if not 0 < topic <= len(self._topics):
            raise ValueError(f"{self._folder}: there is no topic number {topic}; add_topic gives the numbers")
        with self._errors():
            self._writer.write(self._topics[topic - 1], data, log_ns, publish_ns)
        self.bytes_written += len(data)

    def flush(self) -> None:
        self._check_open()

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with self._errors():
                writer.close()

    def _check_open(self) -> None:
        if self._writer is None:
            raise ValueError(f"{self._folder}: is closed; nothing can be written any more")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """rosbag2 raises RuntimeError for whatever goes wrong in it."""
        try:
            yield
        except RuntimeError as error:
            self._writer = None
            said = " ".join(str(error).split())[:160]
            raise OSError(
                errno.EIO, f"{self._folder}: rosbag2: {said}; see that the disk has space, then ./rldg bag salvage"
            ) from None


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that, whatever happens, a reader finds the old one or the new one, never half of one."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a loss of power."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _encode(record: records.McapRecord) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    return builder.end()


def _profiles(topic: Topic) -> list[Any]:
    """The QoS profiles of a topic as data."""
    try:
        profiles = decode_yaml(topic.qos or "[]")
    except ValueError:
        profiles = None
    if not isinstance(profiles, list):
        raise ValueError(f"topic {topic.name}: qos {topic.qos[:60]!r}: must be the YAML text of a list of profiles")
    return profiles


def _batches(buffers: Sequence[bytes]) -> Iterator[list[bytes | memoryview]]:
    """Buffers in portions for one system call each."""
    batch: list[bytes | memoryview] = []
    size = 0
    for buffer in buffers:
        for at in range(0, len(buffer), WRITE_BYTES):
            piece = buffer if len(buffer) <= WRITE_BYTES else memoryview(buffer)[at : at + WRITE_BYTES]
            if size + len(piece) > WRITE_BYTES or len(batch) == IOV_MAX:
                yield batch
                batch, size = [], 0
            batch.append(piece)
            size += len(piece)
    if batch:
        yield batch


def _write_all(fd: int, buffers: Sequence[bytes | memoryview]) -> int:
    """Write buffers, at most IOV_MAX, one after the other; returns how many bytes that were."""
    size = sum(map(len, buffers))
    done = os.writev(fd, buffers)
    while done < size:  # the disk is nearly full
        skip, rest = done, []
        for buffer in buffers:
            if skip < len(buffer):
                rest.append(memoryview(buffer)[skip:])
            skip = max(0, skip - len(buffer))
        done += os.writev(fd, rest)
    return size
