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
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from rldg_recorder.build import partial_folder, put
from rldg_recorder.episode import Image
from rldg_recorder.executors import TaskError, make_executor
from rldg_recorder.frames import ACTION_NAMES, STATE_NAMES, TrainingEpisode
from rldg_recorder.plan import DatasetError, digest
from rldg_recorder.training_set import Provenance, TrainingSet

IMAGE_FORMATS = ("jpeg", "png")
SHARD_FRAMES = 1000  # a file with so many frames gets no further episode
_FORMAT = 1  # raise it whenever files of an interrupted export must not be used again
_FRAME_BYTES = 16  # of a record, beside its data
_CLASS = "tensorflow_datasets.core.features."

Values = Sequence[bytes] | npt.NDArray[Any]


@dataclass(frozen=True)
class _Work:
    """The episodes of one file."""

    folder: Path
    first: int
    end: int
    shard: Path
    image_format: str
    quality: int


def export_rlds(
    training_set: TrainingSet,
    out: Path,
    name: str | None = None,
    version: str = "1.0.0",
    *,
    image_format: str = "jpeg",
    quality: int = 95,
    jobs: int | None = None,
    executor: str = "processes",
    progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a training set as RLDS; the same set gives the same bytes. An interrupted export goes on where it stopped.

    Steps hold ``observation`` (``wrist_image``, ``state``), ``action``, ``reward``, ``discount`` (0 where the episode
    terminated), ``is_first``, ``is_last``, ``is_terminal`` and ``language_instruction``; ``episode_metadata`` says
    where an episode comes from.

    Args:
        out: gets ``<name>/<version>``; it is the ``data_dir`` of the trainers.
        name: letters, digits and _; that of the set, with _ for other characters, where None.
        version: three numbers.
        image_format: "jpeg", or "png" without loss.
        quality: of JPEG, 1 to 100.
        jobs, executor, progress, overwrite: as in :func:`rldg_recorder.build.build`; all cores where None. Progress
            counts files.

    Returns:
        The folder of the version.

    Raises:
        DatasetError: an argument is wrong, the folder exists, or the set is damaged.
    """
    name = re.sub(r"\W", "_", training_set.name) if name is None else name
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,99}", name):
        raise DatasetError(
            f"name {name[:120]!r} of an RLDS set: must be a letter, then letters, digits and _; give one"
        )
    if not re.fullmatch(r"\d{1,4}\.\d{1,4}\.\d{1,4}", version):
        raise DatasetError(f"version {version[:40]!r} of an RLDS set: must be three numbers, like 1.0.0")
    if image_format not in IMAGE_FORMATS or not 1 <= quality <= 100:
        raise DatasetError(
            f"image format {image_format!r} of quality {quality}: must be one of {', '.join(IMAGE_FORMATS)}, 1 to 100"
        )
    target = out / name / version
    if target.exists() and not overwrite:
        raise DatasetError(f"{target}: exists already; choose another name or version, remove it or overwrite it")
    if not len(training_set):
        raise DatasetError(f"{training_set.folder}: has no episode")
    workers = make_executor(executor, jobs or len(os.sched_getaffinity(0)))
    with partial_folder(out / name / f".{version}.partial") as partial:
        key = digest((_FORMAT, image_format, quality, _identity(training_set.folder)))
        files = list(_files(training_set))
        work = [
            _Work(training_set.folder, first, end, partial / "shards" / f"{key}-{first}-{end}", image_format, quality)
            for _, first, end in files
        ]
        try:
            with closing(workers.map_in_order(_write_file, work)) as results:
                for done, _ in enumerate(results, start=1):
                    if progress is not None:
                        progress(done, len(work))
        except TaskError as error:
            _, first, end = files[error.index]
            raise DatasetError(f"episodes {first} to {end - 1} of {training_set.folder}: {error}") from error
        made = partial / "set"
        splits = []
        for split in dict.fromkeys(split for split, _, _ in files):
            mine = [(w.shard, w.end - w.first) for w, file in zip(work, files, strict=True) if file[0] == split]
            splits.append(_split(name, split, mine))
            for index, (shard, _) in enumerate(mine):
                shard.replace(made / f"{name}-{split}.tfrecord-{index:05d}-of-{len(mine):05d}")
        side_px = training_set.images(0)[0].shape[0]
        _write_json(made / "features.json", _features(side_px, image_format))
        info = {"name": name, "version": version, "fileFormat": "tfrecord", "moduleName": "rldg_recorder"}
        description = f"{len(training_set)} episodes, {training_set.frames} frames at {training_set.info['fps']} Hz"
        _write_json(made / "dataset_info.json", {**info, "description": description, "splits": splits})
        put(partial, target)
    return target


def _files(training_set: TrainingSet) -> Iterator[tuple[str, int, int]]:
    """Split, first episode and end of each file."""
    first, frames = 0, 0
    for index, record in enumerate(training_set.episodes):
        frames += record.length
        following = training_set.episodes[index + 1] if index + 1 < len(training_set) else None
        if following is None or following.split != record.split or frames >= SHARD_FRAMES:
            yield record.split, first, index + 1
            first, frames = index + 1, 0


def _split(name: str, split: str, shards: list[tuple[Path, int]]) -> dict[str, Any]:
    size = sum(shard.stat().st_size - _FRAME_BYTES * episodes for shard, episodes in shards)
    return {
        "name": split,
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "numBytes": str(size),
        "shardLengths": [str(episodes) for _, episodes in shards],
    }


def _identity(folder: Path) -> list[tuple[str, int, int]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


# in a worker

_open = functools.lru_cache(maxsize=1)(TrainingSet)


def _write_file(work: _Work) -> None:
    if work.shard.exists():
        return
    training_set = _open(work.folder)
    part = work.shard.with_name(f"{work.shard.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        for number in range(work.first, work.end):
            episode = training_set.episode(number)
            images = _encoded(training_set, number, episode, work.image_format, work.quality)
            file.writelines(_record(_example(_episode_features(episode, images, training_set.provenance, number))))
    part.replace(work.shard)


def _encoded(
    training_set: TrainingSet, number: int, episode: TrainingEpisode, image_format: str, quality: int
) -> list[bytes]:
    from rldg_recorder import png

    if image_format == "png":
        stored = training_set.encoded_images(number)
        return list(stored) if stored is not None else [png.encode(image) for image in episode.images]
    return [_jpeg(image, quality) for image in episode.images]


def _jpeg(image: Image, quality: int) -> bytes:
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _episode_features(
    episode: TrainingEpisode, images: list[bytes], provenance: Provenance, number: int
) -> dict[str, Values]:
    count = len(episode)
    frames = np.arange(count)
    last = frames == count - 1
    terminal = last & episode.done
    bags = {record.path: record for record in provenance.bags}
    records = [bags[path] for path in episode.bags]

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
        "episode_metadata/file_path": text(episode.bags),
        "episode_metadata/episode_id": text([record.episode_id for record in records]),
        "episode_metadata/task": text([record.task for record in records]),
        "episode_metadata/scene": text([record.scene for record in records]),
        "episode_metadata/outcome": text([record.outcome for record in records]),
        "episode_metadata/policy": text([policy for policy in episode.policy_id if policy]),
        "episode_metadata/group": text([provenance.episodes[number].group]),
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
    return length, _masked_crc(length), data, _masked_crc(data)


def _masked_crc(data: bytes) -> bytes:
    import google_crc32c

    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _write_json(path: Path, value: Any) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2))
