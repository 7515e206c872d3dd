"""RLDS in the layout of TensorFlow Datasets, written without TensorFlow: what OpenVLA and Octo train from.

One ``tf.train.Example`` per episode in TFRecord files, with ``features.json`` and ``dataset_info.json`` beside them.
Encodings: https://protobuf.dev/programming-guides/encoding, tensorflow/core/example/example.proto, and
tensorflow/core/lib/io/record_writer.h for the frame around a record.
"""

from __future__ import annotations

import functools
import io
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from rldg_recorder import png
from rldg_recorder.executors import TaskError, make_executor
from rldg_recorder.frames import ACTION_NAMES, STATE_NAMES, TrainingEpisode
from rldg_recorder.partial import partial_folder, put
from rldg_recorder.plan import DatasetError, digest
from rldg_recorder.training_set import TrainingSet

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

IMAGE_FORMATS = ("png", "jpeg")
SHARD_FRAMES = 1000  # a file with so many frames gets no further episode
_FORMAT = 1  # raise it whenever records of an interrupted build or export must not be used again
_FRAME_BYTES = 16  # of a record, beside its data
_CLASS = "tensorflow_datasets.core.features."

Values = Sequence[bytes] | npt.NDArray[Any]


@dataclass(frozen=True)
class Rlds:
    """An RLDS set to be written.

    Attributes:
        out: gets ``<name>/<version>``; it is the ``data_dir`` of the trainers.
        name: letters, digits and _.
        version: three numbers.
        image_format: "png", or "jpeg" with loss in a quarter of the space; a set's own costs least.

    Raises:
        DatasetError: one of them is wrong.
    """

    out: Path
    name: str
    version: str = "1.0.0"
    image_format: str = "png"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,99}", self.name):
            raise DatasetError(
                f"name {self.name[:120]!r} of an RLDS set: must be a letter, then letters, digits and _; give one"
            )
        if not re.fullmatch(r"\d{1,4}\.\d{1,4}\.\d{1,4}", self.version):
            raise DatasetError(f"version {self.version[:40]!r} of an RLDS set: must be three numbers, like 1.0.0")
        if self.image_format not in IMAGE_FORMATS:
            raise DatasetError(f"image format {self.image_format!r}: must be one of {', '.join(IMAGE_FORMATS)}")

    @property
    def target(self) -> Path:
        return self.out / self.name / self.version

    def encode(self, picture: Picture) -> bytes:
        """An image as it is stored."""
        return png.encode(np.asarray(picture)) if self.image_format == "png" else png.encode_jpeg(picture)

    def record(self, shard: Path) -> Path:
        """Where the record of an episode lies whose shard this is."""
        return shard.with_suffix(f".{self.image_format}.record{_FORMAT}")


def format_of(training_set: TrainingSet) -> str:
    """The image format that needs no encoding."""
    images = training_set.encoded_images(0) if len(training_set) else None
    return "jpeg" if images and not png.is_png(images[0]) else "png"


def name_of(set_name: str) -> str:
    """The name of a training set with _ for what an RLDS set may not have in its own."""
    return re.sub(r"\W", "_", set_name)


def export_rlds(
    training_set: TrainingSet,
    rlds: Rlds,
    *,
    jobs: int | None = None,
    executor: str = "processes",
    progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a training set as RLDS; the same set gives the same bytes. An interrupted export goes on where it stopped.

    Where the bags are still to be read, :func:`rldg_recorder.build.build` writes both in one pass.

    Args:
        jobs, executor, progress, overwrite: as in :func:`rldg_recorder.build.build`; all cores where None.

    Returns:
        The folder of the version.

    Raises:
        DatasetError: the folder exists, or the set is damaged.
    """
    if not len(training_set):
        raise DatasetError(f"{training_set.folder}: has no episode")
    side_px, _ = training_set.picture
    workers = make_executor(executor, jobs or len(os.sched_getaffinity(0)))
    with open_rlds(rlds, overwrite) as writer:
        key = digest(_identity(training_set.folder))
        work = [
            _Work(training_set.folder, number, rlds, writer.partial / "shards" / f"{key}-{number}")
            for number in range(len(training_set))
        ]
        done = 0
        try:
            with closing(workers.map_in_order(_write_episode, work)) as results:
                for _ in results:
                    record = training_set.episodes[done]
                    writer.add(work[done].shard, record.split, record.length)
                    done += 1
                    if progress is not None:
                        progress(done, len(work))
        except TaskError as error:
            raise DatasetError(f"episode {error.index} of {training_set.folder}: {error}") from error
        return writer.finish(side_px, float(training_set.info["fps"]))


@contextmanager
def open_rlds(rlds: Rlds, overwrite: bool) -> Iterator[RldsWriter]:
    """What puts an RLDS set together, by one process at a time.

    Raises:
        DatasetError: the set exists and must not be replaced, or another process writes it.
    """
    with partial_folder(rlds.target, overwrite) as partial:
        yield RldsWriter(rlds, partial)


class RldsWriter:
    """Puts the records of episodes together, in order; the set appears under its name when it is finished."""

    def __init__(self, rlds: Rlds, partial: Path) -> None:
        self.partial = partial
        self._rlds = rlds
        self._files: dict[str, list[list[int]]] = {}  # by split: of each file, the sizes of its examples (bytes)
        self._split, self._room = "", 0
        self._frames = 0

    def add(self, shard: Path, split: str, frames: int) -> None:
        """Append the episode whose shard this is."""
        if split != self._split or self._room <= 0:
            self._files.setdefault(split, []).append([])
            self._split, self._room = split, SHARD_FRAMES
        files = self._files[split]
        record = self._rlds.record(shard)
        with record.open("rb") as source, self._path(split, len(files) - 1).open("ab") as file:
            shutil.copyfileobj(source, file)
        files[-1].append(record.stat().st_size - _FRAME_BYTES)
        self._room -= frames
        self._frames += frames

    def finish(self, side_px: int, rate_hz: float) -> Path:
        """Write what is known only now, and give the set its name; returns its folder."""
        made, rlds = self.partial / "set", self._rlds
        for split, files in self._files.items():
            for index in range(len(files)):
                path = self._path(split, index)
                path.rename(f"{path}-of-{len(files):05d}")
        episodes = sum(len(sizes) for files in self._files.values() for sizes in files)
        _write_json(made / "features.json", _features(side_px, rlds.image_format))
        info = {"name": rlds.name, "version": rlds.version, "fileFormat": "tfrecord", "moduleName": "rldg_recorder"}
        description = f"{episodes} episodes, {self._frames} frames at {rate_hz:g} Hz"
        splits = [_split(split, files) for split, files in self._files.items()]
        _write_json(made / "dataset_info.json", {**info, "description": description, "splits": splits})
        put(self.partial, rlds.target)
        return rlds.target

    def _path(self, split: str, index: int) -> Path:
        return self.partial / "set" / f"{self._rlds.name}-{split}.tfrecord-{index:05d}"


def _split(name: str, files: list[list[int]]) -> dict[str, Any]:
    return {
        "name": name,
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "numBytes": str(sum(map(sum, files))),
        "shardLengths": [str(len(sizes)) for sizes in files],
    }


def _identity(folder: Path) -> list[tuple[str, int, int]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


# in a worker


@dataclass(frozen=True)
class _Work:
    """One episode of a training set."""

    folder: Path
    number: int
    rlds: Rlds
    shard: Path


_open = functools.lru_cache(maxsize=1)(TrainingSet)


def _write_episode(work: _Work) -> None:
    from PIL import Image as Pillow

    if has_record(work.shard, work.rlds):
        return
    training_set, number = _open(work.folder), work.number
    episode = training_set.episode(number)
    images = training_set.encoded_images(number)
    if images is None or any(png.is_png(image) != (work.rlds.image_format == "png") for image in images):
        images = [work.rlds.encode(Pillow.fromarray(image)) for image in episode.images]
    write_record(work.shard, work.rlds, episode, images, training_set.episodes[number].group)


def write_record(shard: Path, rlds: Rlds, episode: TrainingEpisode, images: Sequence[bytes], group: str) -> None:
    """Write the record of an episode beside its shard, all of it or nothing.

    Args:
        images: as :meth:`Rlds.encode` makes them.
        group: name of the recipe's source that it came through.
    """
    path = rlds.record(shard)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        file.writelines(_record(_example(_episode_features(episode, images, group))))
    part.replace(path)


def has_record(shard: Path, rlds: Rlds) -> bool:
    """Whether the record of a shard is there and whole."""
    try:
        with rlds.record(shard).open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            return file.seek(0, io.SEEK_END) == length + _FRAME_BYTES
    except (OSError, struct.error):
        return False


def _episode_features(episode: TrainingEpisode, images: Sequence[bytes], group: str) -> dict[str, Values]:
    """``steps`` hold ``observation`` (``wrist_image``, ``state``), ``action``, ``reward``, ``discount`` (0 where the
    episode terminated), ``is_first``, ``is_last``, ``is_terminal`` and ``language_instruction``; ``episode_metadata``
    says where an episode comes from.
    """
    count = len(episode)
    frames = np.arange(count)
    last = frames == count - 1
    terminal = last & episode.done

    def text(words: Sequence[str]) -> list[bytes]:
        return [" + ".join(dict.fromkeys(words)).encode()]

    return {
        "steps/observation/wrist_image": images,
        "steps/observation/state": episode.state,
        "steps/action": episode.action,
        "steps/reward": episode.reward,
        "steps/discount": (~terminal).astype(np.float32),
        "steps/is_first": frames == 0,
        "steps/is_last": last,
        "steps/is_terminal": terminal,
        "steps/language_instruction": [episode.instruction.encode()] * count,
        "episode_metadata/file_path": text([bag.path for bag in episode.bags]),
        "episode_metadata/episode_id": text([bag.episode_id for bag in episode.bags]),
        "episode_metadata/task": text([bag.task for bag in episode.bags]),
        "episode_metadata/scene": text([bag.scene for bag in episode.bags]),
        "episode_metadata/outcome": text([bag.outcome for bag in episode.bags]),
        "episode_metadata/policy": text([policy for policy in episode.policy_id if policy]),
        "episode_metadata/group": text([group]),
        "episode_metadata/relabelled": np.array([episode.relabelled]),
    }


def _features(side_px: int, image_format: str) -> dict[str, Any]:
    """What ``features.json`` says: the same tree as :func:`_episode_features`."""

    def tensor(kind: str, *shape: int) -> dict[str, Any]:
        dimensions = {"dimensions": [str(size) for size in shape]} if shape else {}
        name = "tensor_feature.Tensor" if shape else "scalar.Scalar"
        return {"pythonClassName": _CLASS + name, "tensor": {"shape": dimensions, "dtype": kind, "encoding": "none"}}

    def tree(**features: Any) -> dict[str, Any]:
        return {"pythonClassName": _CLASS + "features_dict.FeaturesDict", "featuresDict": {"features": features}}

    text = {"pythonClassName": _CLASS + "text_feature.Text", "text": {}}
    shape = {"dimensions": [str(side_px), str(side_px), "3"]}
    image = {
        "pythonClassName": _CLASS + "image_feature.Image",
        "image": {"shape": shape, "dtype": "uint8", "encodingFormat": image_format},
    }
    steps = tree(
        observation=tree(wrist_image=image, state=tensor("float32", len(STATE_NAMES))),
        action=tensor("float32", len(ACTION_NAMES)),
        reward=tensor("float32"),
        discount=tensor("float32"),
        is_first=tensor("bool"),
        is_last=tensor("bool"),
        is_terminal=tensor("bool"),
        language_instruction=text,
    )
    words = ("file_path", "episode_id", "task", "scene", "outcome", "policy", "group")
    return tree(
        steps={"pythonClassName": _CLASS + "dataset_feature.Dataset", "sequence": {"feature": steps, "length": "-1"}},
        episode_metadata=tree(**dict.fromkeys(words, text), relabelled=tensor("bool")),
    )


# encoding


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, *parts: bytes) -> bytes:
    """A field of bytes: a message, a string or packed numbers."""
    return b"".join((_varint(number << 3 | 2), _varint(sum(map(len, parts))), *parts))


def _feature(values: Values) -> bytes:
    """``Feature``: ``bytes_list``, ``float_list`` or, for truth values, ``int64_list``."""
    if not isinstance(values, np.ndarray):
        return _field(1, *(_field(1, value) for value in values))
    if values.dtype == np.bool_:
        return _field(3, _field(1, values.tobytes()))  # a varint below 128 is one byte
    return _field(2, _field(1, values.astype("<f4").tobytes()))


def _example(features: dict[str, Values]) -> bytes:
    entries = (_field(1, _field(1, key.encode()), _field(2, _feature(features[key]))) for key in sorted(features))
    return _field(1, *entries)


def _record(data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    length = struct.pack("<Q", len(data))
    return length, masked_crc(length), data, masked_crc(data)


def masked_crc(data: bytes) -> bytes:
    import google_crc32c

    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _write_json(path: Path, value: Any) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2))
