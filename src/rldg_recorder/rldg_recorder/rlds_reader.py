"""Read RLDS sets in the layout of TensorFlow Datasets without TensorFlow: ours, and those that others publish.

Encodings as in :mod:`rldg_recorder.rlds_writer`. Files are mapped into memory, every length is checked against what
holds it, and every record against its checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from rldg_recorder.bag_reader import map_file
from rldg_recorder.plan import DatasetError
from rldg_recorder.rlds_writer import masked_crc

Feature = list[bytes] | npt.NDArray[np.float32] | npt.NDArray[np.int64]
"""Bytes (images, texts), or numbers, one after the other."""


@dataclass(frozen=True)
class RldsEpisode:
    """One example of a set.

    Attributes:
        where: file and record, for messages.
        features: by flat key; those of ``steps/...`` hold one entry per step after the other.
    """

    where: str
    features: dict[str, Feature]

    def __len__(self) -> int:
        """Steps; raises DatasetError where there is no ``steps/is_last``, which every RLDS set has."""
        return len(self.numbers_of("steps/is_last"))

    def bytes_of(self, key: str) -> list[bytes]:
        """Images or texts; raises DatasetError where there are none of that name."""
        found = self.features.get(key)
        if not isinstance(found, list):
            raise self._wrong(f"has no images or texts {key!r}")
        return found

    def numbers_of(self, key: str, size: int | None = None) -> npt.NDArray[Any]:
        """Numbers of shape (n,), or (n, size); raises DatasetError where there are none of that name and shape."""
        found = self.features.get(key)
        if not isinstance(found, np.ndarray):
            raise self._wrong(f"has no numbers {key!r}")
        if size is None:
            return found
        if len(found) != size * len(self):
            raise self._wrong(f"has {len(found)} numbers {key!r}, must have {size} for each of {len(self)} steps")
        return found.reshape(-1, size)

    def _wrong(self, what: str) -> DatasetError:
        known = ", ".join(sorted(self.features)[:20])
        return DatasetError(f"{self.where}: {what}; there are: {known}")


def read_rlds(folder: Path, split: str = "train") -> Iterator[RldsEpisode]:
    """The episodes of a split, in the order of its files.

    Args:
        folder: of the version, ``<data_dir>/<name>/<version>``.

    Raises:
        DatasetError: a file is missing, cut off or damaged, there is no such split, or it is no TFRecord set.
    """
    path = folder / "dataset_info.json"
    try:
        info = msgspec.json.decode(path.read_bytes())
        name, splits = str(info["name"]), {str(each["name"]): each for each in info["splits"]}
        kind = str(info.get("fileFormat", "tfrecord"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}; name <data_dir>/<name>/<version>") from None
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: is damaged: {error}") from None
    if split not in splits:
        raise DatasetError(f"{path}: has no split {split!r}; there are: {', '.join(sorted(splits)) or 'none'}")
    if kind != "tfrecord" or Path(name).name != name:
        raise DatasetError(f"{path}: {name!r} is of format {kind!r}; must be a name without folders, and 'tfrecord'")
    lengths = [int(length) for length in splits[split].get("shardLengths", ())]
    for index, length in enumerate(lengths):
        file = folder / f"{name}-{split}.tfrecord-{index:05d}-of-{len(lengths):05d}"
        count = 0
        for record in _records(file):
            where = f"{file}: record {count}"
            count += 1
            try:
                features = dict(_features(record))
            except (ValueError, IndexError) as error:
                raise DatasetError(f"{where}: is no tf.train.Example: {error}") from None
            yield RldsEpisode(where, features)
        if count != length:
            raise DatasetError(f"{file}: holds {count} records, {path.name} says {length}")


def _records(path: Path) -> Iterator[memoryview]:
    try:
        _, view = map_file(path)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    at = 0
    while at < len(view):
        head = bytes(view[at : at + 12])
        if len(head) < 12 or masked_crc(head[:8]) != head[8:]:
            raise DatasetError(f"{path}: is damaged or cut off at byte {at}")
        (length,) = struct.unpack("<Q", head[:8])
        end = at + 12 + length
        data = bytes(view[at + 12 : end])
        if end + 4 > len(view) or masked_crc(data) != bytes(view[end : end + 4]):
            raise DatasetError(f"{path}: the record at byte {at} is damaged or cut off")
        yield memoryview(data)
        at = end + 4


# protocol buffers: https://protobuf.dev/programming-guides/encoding


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    at = 0
    while at < len(view):
        key, at = _varint(view, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(view, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(view, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(view):
            raise ValueError(f"a field claims {size} bytes, {len(view) - at} are left")
        yield number, view[at : at + size]
        at += size


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError(f"a number at byte {at} has no end")


def _features(record: memoryview) -> Iterator[tuple[str, Feature]]:
    for _, features in _messages(record):
        for _, entry in _messages(features):
            parts = dict(_messages(entry))
            yield bytes(parts.get(1, b"")).decode(), _feature(parts.get(2, memoryview(b"")))


def _messages(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    for number, value in _fields(view):
        if isinstance(value, int):
            raise ValueError(f"field {number} is a number")
        yield number, value


def _feature(view: memoryview) -> Feature:
    for number, values in _messages(view):
        if number == 1:
            return [bytes(value) for _, value in _messages(values)]
        if number == 2:
            # packed, or one field for each number
            return np.frombuffer(b"".join(value for _, value in _messages(values)), "<f4").astype(np.float32)
        if number == 3:
            return np.array(list(_integers(values)), dtype=np.int64)
    return []


def _integers(view: memoryview) -> Iterator[int]:
    for _, value in _fields(view):
        if isinstance(value, int):
            yield _signed(value)
            continue
        at = 0
        while at < len(value):
            found, at = _varint(value, at)
            yield _signed(found)


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
