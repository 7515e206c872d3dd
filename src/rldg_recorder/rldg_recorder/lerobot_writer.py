"""LeRobotDataset v3.0, written with pyarrow and PyAV: no LeRobot and no pandas is needed.

The work is split so that it can be shared out. :func:`encode` does what costs time for one episode, in any process,
and leaves a shard: a file that does not know where in the set it belongs. :class:`LeRobotWriter` puts shards together
in the order of the set. Both are pure functions of what they are given, so a set has the same bytes however it was
made.

Statistics: ``meta/stats.json`` and those in the episode table cover all frames, as LeRobot's own do (but quantiles are
exact). ``dataset_statistics.json``, which policies are normalised with, covers the split "train" only.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from rldg_recorder import png
from rldg_recorder.episode import Image
from rldg_recorder.frames import ACTION_NAMES, STATE_NAMES, BagRecord, TrainingEpisode
from rldg_recorder.plan import DatasetError, Plan, PlannedEpisode
from rldg_recorder.statistics import QUANTILES, column_statistics
from rldg_recorder.training_set import (
    CAMERA,
    DATA_FILE,
    EPISODES_FILE,
    INFO_FILE,
    PROVENANCE_FILE,
    STATISTICS_FILE,
    STATS_FILE,
    TASKS_FILE,
    VERSION,
    VIDEO_FILE,
    EpisodeRecord,
    Provenance,
    SegmentRecord,
)

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

CHUNK_FILES = 1000  # files in a folder
DATA_FILE_MB = 100  # a file of this size gets no further episode
VIDEO_FILE_MB = 200
_MB = 1 << 20
_EPISODE_ROWS = 64  # rows of the episode table that are written at a time

# Every second frame can be decoded by itself, and none refers to a later one: cheap random access, and episodes are
# strung together without encoding them again. One thread: the bytes must not depend on the machine.
VIDEO_CODEC, VIDEO_PIXELS = "libx264", "yuv420p"
_VIDEO_OPTIONS = {"g": "2", "bf": "0", "crf": "18", "preset": "veryfast", "threads": "1"}

_SCALARS = {
    "next.reward": "float32",
    "next.done": "bool",
    "provenance.bag": "int64",
    "provenance.row": "int64",
    "provenance.source": "int64",
    "provenance.policy": "int64",
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
_VECTORS = {"observation.state": STATE_NAMES, "action": ACTION_NAMES}


class ShardInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a shard holds beside its arrays."""

    instruction: str
    split: str
    rate_hz: float
    scale: tuple[float, ...]
    relabelled: bool
    policies: tuple[str, ...]
    bags: tuple[BagRecord, ...]
    side_px: int


def encode(
    episode: TrainingEpisode, path: Path, plan: Plan, each: Callable[[Picture], object] = lambda picture: None
) -> None:
    """Write the shard of an episode, all of it or nothing: a file of arrays, and the images in a file beside it.

    Args:
        plan: says the format of the images.
        each: is shown every image, in order, while it is there anyway.

    Raises:
        DatasetError: there is no frame, images differ in size or do not fit the video format.
        BagError: an image is damaged.
    """
    if len(episode) == 0:
        raise DatasetError("the episode has no frame; leave it out")
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    policies = tuple(dict.fromkeys(episode.policy_id))
    arrays: dict[str, npt.NDArray[Any]] = {
        "observation.state": _require(episode, "state", (len(episode), len(STATE_NAMES)), np.float32),
        "action": _require(episode, "action", (len(episode), len(ACTION_NAMES)), np.float32),
        "next.reward": _require(episode, "reward", (len(episode),), np.float32),
        "next.done": _require(episode, "done", (len(episode),), np.bool_),
        "provenance.bag": _require(episode, "bag", (len(episode),), np.int64),
        "provenance.row": _require(episode, "row", (len(episode),), np.int64),
        "provenance.source": _require(episode, "source", (len(episode),), np.int64),
        "provenance.policy": np.array([policies.index(name) for name in episode.policy_id], dtype=np.int64),
    }
    arrays["histogram"] = np.zeros((3, 256), np.int64)
    side_px = episode.images[0].shape[0]
    images = _images(episode, side_px, arrays["histogram"], each)
    if plan.video:
        ends = _write_video(part, images, side_px, episode.rate_hz)
    else:
        ends = _write_images(part, images, plan.jpeg)
    arrays["image_ends"] = np.array(ends, dtype=np.int64)
    part.replace(images_of(path, plan.video))
    info = ShardInfo(
        instruction=episode.instruction,
        split=episode.split,
        rate_hz=episode.rate_hz,
        scale=tuple(episode.scale),
        relabelled=episode.relabelled,
        policies=policies,
        bags=episode.bags,
        side_px=side_px,
    )
    arrays["info"] = np.frombuffer(msgspec.json.encode(info), np.uint8)
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    part.replace(path)  # last: a shard that is there is whole


def images_of(shard: Path, video: bool) -> Path:
    """Where the images of a shard lie: PNG or JPEG files one after the other, or a video."""
    return shard.with_suffix(".mp4" if video else ".images")


def encoded_images(shard: Path) -> list[bytes]:
    """The image files of a shard without video, in order."""
    with np.load(shard, allow_pickle=False) as file:
        ends = file["image_ends"].tolist()
    data = memoryview(images_of(shard, video=False).read_bytes())
    return [bytes(data[begin:end]) for begin, end in itertools.pairwise(ends)]


def is_whole(shard: Path, video: bool) -> bool:
    """Whether a shard is there and can be read."""
    try:
        with np.load(shard, allow_pickle=False) as file:  # its directory stands at the end of the file
            return bool(images_of(shard, video).stat().st_size == file["image_ends"][-1])
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return False


class LeRobotWriter:
    """Puts shards together, in order, to a training set in a new folder. ``meta/info.json`` is written last."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder = folder
        self._plan = plan
        self._tasks: dict[str, int] = {}
        self._bags: dict[str, int] = {}
        self._bag_records: list[BagRecord] = []
        self._policies: dict[str, int] = {}
        self._records: list[EpisodeRecord] = []
        self._columns: defaultdict[str, list[npt.NDArray[Any]]] = defaultdict(list)
        self._histogram = np.zeros((3, 256), np.int64)
        self._side_px = 0
        self._frames = 0
        self._rows: list[dict[str, Any]] = []
        self._schema = _data_schema(plan.video)
        self._data = _Files(folder, DATA_FILE, DATA_FILE_MB)
        self._videos = _Files(folder, VIDEO_FILE, VIDEO_FILE_MB)
        self._table: Any = None
        self._video: _VideoFile | None = None
        self._episode_table: Any = None

    def add(self, shard: Path, planned: PlannedEpisode) -> int:
        """Append an episode; returns the number of its frames.

        Raises:
            DatasetError: the shard is damaged, or its images differ in size from those before it.
        """
        try:
            with np.load(shard, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            info = msgspec.json.decode(arrays.pop("info").tobytes(), type=ShardInfo)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{shard}: damaged ({error}); remove it and build again") from None
        if self._side_px not in (0, info.side_px):
            raise DatasetError(
                f"images of {info.side_px} pixels, those before have {self._side_px}; give the set one size"
            )
        self._side_px = info.side_px
        number, length = len(self._records), len(arrays["action"])
        bag_index = np.array([self._index_bag(record) for record in info.bags], dtype=np.int64)
        policy_index = np.array([_index(self._policies, name) for name in info.policies], dtype=np.int64)
        frame = np.arange(length, dtype=np.int64)
        columns = {
            **{name: arrays[name] for name in (*_VECTORS, *_SCALARS) if name in arrays},
            "provenance.bag": bag_index[arrays["provenance.bag"]],
            "provenance.policy": policy_index[arrays["provenance.policy"]],
            "timestamp": (frame / self._plan.rate_hz).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(length, number),
            "index": frame + self._frames,
            "task_index": np.full(length, _index(self._tasks, info.instruction)),
        }
        row = {
            "episode_index": number,
            "tasks": [info.instruction],
            "length": length,
            **self._write_data(
                columns, None if self._plan.video else _read_images(shard, arrays["image_ends"], self._plan.jpeg)
            ),
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
            **(self._write_video(shard, length) if self._plan.video else {}),
        }
        for name, stats in {**_statistics(columns), CAMERA: _image_statistics(arrays["histogram"], length)}.items():
            row |= {f"stats/{name}/{statistic}": value for statistic, value in stats.items()}
        self._write_episode_row({**row, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        for name, values in columns.items():
            self._columns[name].append(values)
        self._histogram += arrays["histogram"]
        self._frames += length
        self._records.append(
            EpisodeRecord(
                length=length,
                instruction=info.instruction,
                rate_hz=info.rate_hz,
                split=info.split,
                group=planned.group,
                stride=planned.stride,
                relabel=planned.relabel,
                relabelled=info.relabelled,
                scale=info.scale,
                segments=tuple(
                    SegmentRecord(bag=self._bags[segment.bag], rows=segment.rows) for segment in planned.segments
                ),
            )
        )
        return length

    def finish(self) -> None:
        """Write what is known only now, and ``meta/info.json``.

        Raises:
            DatasetError: the splits are not contiguous, or there is no episode to take statistics of.
        """
        self.close()
        splits = _splits([record.split for record in self._records])
        if "train" not in splits:
            raise DatasetError(f"set {self._plan.name}: no episode has the split 'train', whose statistics are needed")
        columns = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        everywhere = {n: s for name, values in columns.items() for n, s in _statistics({name: values}).items()}
        stats = {**everywhere, CAMERA: _image_statistics(self._histogram, self._frames)}
        _write_json(self._folder / STATS_FILE, stats)
        train = np.isin(columns["episode_index"], [i for i, r in enumerate(self._records) if r.split == "train"])
        _write_json(self._folder / STATISTICS_FILE, {self._plan.name: self._normalisation(columns, train)})
        provenance = Provenance(
            name=self._plan.name,
            bags=tuple(self._bag_records),
            policies=tuple(self._policies),
            recipe=self._plan.recipe,
            recipe_sha256=hashlib.sha256(self._plan.recipe.encode()).hexdigest(),
            episodes=tuple(self._records),
        )
        _write_json(self._folder / PROVENANCE_FILE, provenance)
        self._write_tasks()
        rate_hz = self._plan.rate_hz
        robots = {bag.robot for bag in provenance.bags if bag.robot}
        info = {
            "codebase_version": VERSION,
            "robot_type": robots.pop() if len(robots) == 1 else None,
            "total_episodes": len(self._records),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": DATA_FILE_MB,
            "video_files_size_in_mb": VIDEO_FILE_MB,
            "fps": int(rate_hz) if rate_hz == int(rate_hz) else rate_hz,
            "splits": splits,
            "data_path": DATA_FILE,
            "video_path": VIDEO_FILE if self._plan.video else None,
            "features": self._features(),
        }
        _write_json(self._folder / INFO_FILE, info)

    def close(self) -> None:
        """Close all files; the set is not whole unless :meth:`finish` was called."""
        if self._rows:
            self._flush_episode_rows()
        for file in (self._table, self._video, self._episode_table):
            if file is not None:
                file.close()
        self._table = self._video = self._episode_table = None

    # parts

    def _index_bag(self, record: BagRecord) -> int:
        if record.path not in self._bags:
            self._bag_records.append(record)
        return _index(self._bags, record.path)

    def _write_data(self, columns: dict[str, npt.NDArray[Any]], images: Any) -> dict[str, int]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        values: dict[str, Any] = {CAMERA: images}
        for name, column in columns.items():
            flat = pa.array(column.ravel())
            values[name] = flat if column.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, column.shape[1])
        table = pa.table([values[name] for name in self._schema.names], schema=self._schema)
        if self._data.needs_next(table.nbytes):
            if self._table is not None:
                self._table.close()
            self._table = pq.ParquetWriter(
                self._data.next(),
                self._schema,
                # PNG is deflated already, and no page of it is like another
                compression={name: "NONE" if name == f"{CAMERA}.bytes" else "SNAPPY" for name in _leaves(self._schema)},
                use_dictionary=[name for name, kind in _SCALARS.items() if kind == "int64"],
                write_statistics=[*_SCALARS],
            )
        self._table.write_table(table)  # one row group
        return {"data/chunk_index": self._data.chunk, "data/file_index": self._data.file}

    def _write_video(self, shard: Path, length: int) -> dict[str, Any]:
        segment = images_of(shard, video=True)
        if self._videos.needs_next(segment.stat().st_size):
            if self._video is not None:
                self._video.close()
            self._video = _VideoFile(self._videos.next(CAMERA), _rate(self._plan.rate_hz))
        assert self._video is not None
        start = self._video.append(segment)
        key = f"videos/{CAMERA}"
        return {
            f"{key}/chunk_index": self._videos.chunk,
            f"{key}/file_index": self._videos.file,
            f"{key}/from_timestamp": start / self._plan.rate_hz,
            f"{key}/to_timestamp": (start + length) / self._plan.rate_hz,
        }

    def _write_episode_row(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == _EPISODE_ROWS:
            self._flush_episode_rows()

    def _flush_episode_rows(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pylist(self._rows, schema=self._episode_table and self._episode_table.schema)
        if self._episode_table is None:
            path = self._folder / EPISODES_FILE.format(chunk_index=0, file_index=0)
            path.parent.mkdir(parents=True)
            self._episode_table = pq.ParquetWriter(path, table.schema, compression="snappy")
        self._episode_table.write_table(table)
        self._rows = []

    def _write_tasks(self) -> None:
        """``tasks.parquet`` with the task as the index, as pandas writes and reads it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        def column(name: str, pandas_type: str, numpy_type: str) -> dict[str, Any]:
            kinds = {"pandas_type": pandas_type, "numpy_type": numpy_type}
            return {"name": name, "field_name": name, **kinds, "metadata": None}

        described = {
            "index_columns": ["task"],
            "column_indexes": [
                {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
            ],
            "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
            "pandas_version": "2.0.0",
        }
        schema = pa.schema(
            [("task_index", pa.int64()), ("task", pa.string())], metadata={"pandas": msgspec.json.encode(described)}
        )
        table = pa.table([list(self._tasks.values()), list(self._tasks)], schema=schema)
        pq.write_table(table, self._folder / TASKS_FILE)

    def _normalisation(self, columns: dict[str, npt.NDArray[Any]], rows: npt.NDArray[np.bool_]) -> dict[str, Any]:
        names = ("min", "max", "mean", "std", "q01", "q99")
        found: dict[str, Any] = {}
        for key, column in (("action", "action"), ("proprio", "observation.state")):
            stats = column_statistics(columns[column][rows])
            found[key] = {name: stats[name] for name in names}
        found["action"]["mask"] = [name != "gripper_open" for name in ACTION_NAMES]  # what is normalised
        return {
            **found,
            "num_transitions": int(rows.sum()),
            "num_trajectories": sum(record.split == "train" for record in self._records),
        }

    def _features(self) -> dict[str, Any]:
        side = self._side_px
        image: dict[str, Any] = {
            "dtype": "video" if self._plan.video else "image",
            "shape": [side, side, 3],
            "names": ["height", "width", "channels"],
        }
        if self._plan.video:
            image["info"] = {
                "video.height": side,
                "video.width": side,
                "video.codec": "h264",
                "video.pix_fmt": VIDEO_PIXELS,
                "video.is_depth_map": False,
                "video.fps": self._plan.rate_hz,
                "video.channels": 3,
                "has_audio": False,
            }
        return {
            CAMERA: image,
            **{n: {"dtype": "float32", "shape": [len(names)], "names": names} for n, names in _VECTORS.items()},
            **{name: {"dtype": kind, "shape": [1], "names": None} for name, kind in _SCALARS.items()},
        }


class _Files:
    """Which file the next episode goes into."""

    def __init__(self, folder: Path, pattern: str, limit_mb: int) -> None:
        self._folder = folder
        self._pattern = pattern
        self._limit = limit_mb * _MB
        self._size = 0
        self._count = 0

    def needs_next(self, size: int) -> bool:
        """Take in an episode of so many bytes; whether it begins a file."""
        begins = self._count == 0 or self._size + size > self._limit
        self._size = size if begins else self._size + size
        return begins

    def next(self, video_key: str = "") -> Path:
        self._count += 1
        path = self._folder / self._pattern.format(video_key=video_key, chunk_index=self.chunk, file_index=self.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def chunk(self) -> int:
        return (self._count - 1) // CHUNK_FILES

    @property
    def file(self) -> int:
        return (self._count - 1) % CHUNK_FILES


class _VideoFile:
    """An mp4 that takes in others as they are."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        import av

        self._container: Any = av.open(str(path), "w", options={"fflags": "+bitexact"})
        self._stream: Any = None
        self._period = 1 / rate
        self._frames = 0

    def append(self, path: Path) -> int:
        """Returns the number of its first frame."""
        import av

        start = self._frames
        with av.open(str(path)) as source:
            stream = source.streams.video[0]
            if self._stream is None:
                self._stream = self._container.add_stream_from_template(stream)
                self._stream.time_base = self._period
            for packet in source.demux(stream):
                if packet.size == 0:  # the end
                    continue
                packet.stream = self._stream
                packet.time_base = self._period
                packet.pts = packet.dts = self._frames
                packet.duration = 1
                self._container.mux(packet)
                self._frames += 1
        return start

    def close(self) -> None:
        self._container.close()


def _write_images(path: Path, images: Iterator[tuple[Image, Picture]], jpeg: bool) -> list[int]:
    """Returns where each image begins in the file, and where the last one ends."""
    ends = [0]
    with path.open("wb") as file:
        for image, picture in images:
            ends.append(ends[-1] + file.write(png.encode_jpeg(picture) if jpeg else png.encode(image)))
    return ends


def _read_images(shard: Path, ends: npt.NDArray[np.int64], jpeg: bool) -> Any:
    """The images of a shard as a pyarrow array."""
    import pyarrow as pa

    data = pa.py_buffer(images_of(shard, video=False).read_bytes())
    encoded = pa.Array.from_buffers(pa.large_binary(), len(ends) - 1, [None, pa.py_buffer(ends), data])
    paths = pa.array([f"frame-{index:06d}.{'jpg' if jpeg else 'png'}" for index in range(len(ends) - 1)])
    return pa.StructArray.from_arrays([encoded.cast(pa.binary()), paths], names=["bytes", "path"])


def _write_video(path: Path, images: Iterator[tuple[Image, Picture]], side_px: int, rate_hz: float) -> list[int]:
    """Returns where the video begins and ends."""
    import av

    if side_px % 2:
        raise DatasetError(f"images of {side_px} pixels: a video needs an even number; choose another image size")
    rate = _rate(rate_hz)
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream(VIDEO_CODEC, rate=rate, options=_VIDEO_OPTIONS)
        stream.width = stream.height = side_px
        stream.pix_fmt = VIDEO_PIXELS
        for row, (image, _) in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = row, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return [0, path.stat().st_size]


def _images(
    episode: TrainingEpisode, side_px: int, histogram: npt.NDArray[np.int64], each: Callable[[Picture], object]
) -> Iterator[tuple[Image, Picture]]:
    """The images of an episode, checked, as arrays and as pictures; ``each`` is shown them, values are counted."""
    from PIL import Image as Pillow

    shape = (side_px, side_px, 3)
    for row in range(len(episode)):
        image = episode.images[row]
        if image.shape != shape or image.dtype != np.uint8:
            raise DatasetError(
                f"image of frame {row} has shape {image.shape} and type {image.dtype}; must be {shape} and uint8"
            )
        picture = Pillow.fromarray(image)
        histogram += np.array(picture.histogram()).reshape(3, 256)
        each(picture)
        yield image, picture


def _require(episode: TrainingEpisode, name: str, shape: tuple[int, ...], kind: Any) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = getattr(episode, name)
    if values.shape != shape or values.dtype != kind:
        raise DatasetError(
            f"{name} has shape {values.shape} and type {values.dtype}; must be {shape} and {np.dtype(kind)}"
        )
    return np.ascontiguousarray(values)


def _rate(rate_hz: float) -> Fraction:
    return Fraction(rate_hz).limit_denominator(10_000)


def _index(known: dict[str, int], name: str) -> int:
    return known.setdefault(name, len(known))


def _splits(splits: Sequence[str]) -> dict[str, str]:
    """First and last episode of each split, as ``info.json`` says it."""
    found: dict[str, tuple[int, int]] = {}
    for index, split in enumerate(splits):
        first, end = found.get(split, (index, index))
        if end != index:
            raise DatasetError(f"episode {index} is of split {split!r} again; the episodes of a split are neighbours")
        found[split] = first, index + 1
    return {split: f"{first}:{end}" for split, (first, end) in found.items()}


def _statistics(columns: dict[str, npt.NDArray[Any]]) -> dict[str, dict[str, Any]]:
    """By column and statistic, with the types that LeRobot uses."""
    wide = [values.reshape(len(values), -1) for values in columns.values()]
    together = column_statistics(np.concatenate(wide, axis=1, dtype=np.float64))  # one by one takes ten times as long
    found: dict[str, dict[str, Any]] = {}
    at = 0
    for (name, values), part in zip(columns.items(), wide, strict=True):
        stats: dict[str, list[Any]] = {key: values_of[at : at + part.shape[1]] for key, values_of in together.items()}
        if values.dtype.kind in "ib":  # the extremes keep the type of the column
            stats |= {key: [values.dtype.type(value).item() for value in stats[key]] for key in ("min", "max")}
        found[name] = {**stats, "count": [len(values)]}
        at += part.shape[1]
    return found


def _image_statistics(histogram: npt.NDArray[np.int64], images: int) -> dict[str, Any]:
    """Exact statistics of all pixels in [0, 1], of shape (3, 1, 1), from how often each value occurs."""
    values = np.arange(256) / 255.0
    stats: dict[str, list[float]] = defaultdict(list)
    for counts in histogram:
        total = int(counts.sum())
        ends = np.cumsum(counts)
        mean = float(counts @ values) / total
        stats["min"].append(float(values[np.searchsorted(ends, 1)]))
        stats["max"].append(float(values[np.searchsorted(ends, total)]))
        stats["mean"].append(mean)
        stats["std"].append(float(np.sqrt(counts @ (values - mean) ** 2 / total)))
        for name, quantile in QUANTILES.items():
            position = quantile * (total - 1)
            low, high = (values[np.searchsorted(ends, np.array(f(position)) + 1)] for f in (np.floor, np.ceil))
            stats[name].append(float(low + (high - low) * (position % 1.0)))
    return {**{name: [[[value]] for value in channels] for name, channels in stats.items()}, "count": [images]}


def _data_schema(video: bool) -> Any:
    import pyarrow as pa

    kinds = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}
    fields: list[tuple[str, Any]] = []
    features: dict[str, Any] = {}  # as the package datasets describes them
    if not video:
        fields.append((CAMERA, pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
        features[CAMERA] = {"_type": "Image"}
    for name, names in _VECTORS.items():
        fields.append((name, pa.list_(pa.float32(), len(names))))
        features[name] = {"feature": {"dtype": "float32", "_type": "Value"}, "length": len(names), "_type": "List"}
    for name, kind in _SCALARS.items():
        fields.append((name, kinds[kind]))
        features[name] = {"dtype": kind, "_type": "Value"}
    return pa.schema(fields, metadata={"huggingface": msgspec.json.encode({"info": {"features": features}})})


def _leaves(schema: Any) -> list[str]:
    leaves = []
    for name in schema.names:
        if name == CAMERA:
            leaves += [f"{CAMERA}.bytes", f"{CAMERA}.path"]
        else:
            leaves.append(f"{name}.list.element" if name in _VECTORS else name)
    return leaves


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2))
