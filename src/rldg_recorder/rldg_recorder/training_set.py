"""A training set on disk: its layout (LeRobotDataset v3.0 and two files of ours), and the reader.

``provenance.json`` says where every frame comes from: the columns ``provenance.bag`` and ``provenance.policy`` of a
frame index into its lists, ``provenance.row`` is the row of the bag's episode, ``provenance.source`` a
:class:`rldg_core.types.Source`. ``dataset_statistics.json`` is what OpenVLA and Octo normalise with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import msgspec
import numpy as np
import numpy.typing as npt

from rldg_recorder import png
from rldg_recorder.episode import Image
from rldg_recorder.frames import BagRecord, TrainingEpisode
from rldg_recorder.plan import DatasetError

VERSION = "v3.0"  # codebase_version of LeRobot
FORMAT = 1  # of provenance.json

CAMERA = "observation.images.wrist"
INFO_FILE = "meta/info.json"
STATS_FILE = "meta/stats.json"
TASKS_FILE = "meta/tasks.parquet"
EPISODES_FILE = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_FILE = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_FILE = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
STATISTICS_FILE = "dataset_statistics.json"
PROVENANCE_FILE = "provenance.json"

_COLUMNS = ("observation.state", "action", "next.reward", "next.done")
_PROVENANCE = ("provenance.source", "provenance.bag", "provenance.row", "provenance.policy")


class SegmentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Steps of one bag in an episode, before its rate was changed."""

    bag: int  # index into the bags
    rows: tuple[int, ...]


class EpisodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an episode beside its frames."""

    length: int  # frames
    instruction: str
    rate_hz: float
    split: str = "train"
    group: str = ""
    stride: int = 1
    relabel: str = ""
    relabelled: bool = False
    scale: tuple[float, ...] = ()  # (6,): what an action of all ones means, m and rad
    segments: tuple[SegmentRecord, ...] = ()


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """The file ``provenance.json``."""

    format: int = FORMAT
    name: str
    bags: tuple[BagRecord, ...] = ()
    policies: tuple[str, ...] = ()  # "" where no policy acted
    recipe: str = ""
    recipe_sha256: str = ""
    episodes: tuple[EpisodeRecord, ...] = ()


@dataclass(frozen=True)
class _Place:
    """Where the frames of an episode lie."""

    path: Path
    start: int  # first row in the file
    length: int
    video: Path | None
    video_start: int  # first frame in the video


class TrainingSet:
    """A training set in the format of LeRobot v3.0, read with pyarrow; images are decoded when they are indexed.

    Sets of other origin are read as far as they have the columns: :meth:`columns` always works, :meth:`episode` needs
    all that :mod:`rldg_recorder.build` writes.

    Raises:
        DatasetError: a file is missing or cut off, the format has another version, the files contradict each other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info: dict[str, Any] = _read_json(folder / INFO_FILE, dict[str, Any])
        version = self.info.get("codebase_version")
        if version != VERSION:
            raise DatasetError(
                f"{folder / INFO_FILE}: codebase_version is {version!r}, must be {VERSION!r}; "
                "convert the set with LeRobot or build it anew"
            )
        try:
            self._read_tables()
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{folder}: not a LeRobot {VERSION} set: {type(error).__name__}: {error}") from None

    @property
    def name(self) -> str:
        return self.provenance.name

    @property
    def episodes(self) -> tuple[EpisodeRecord, ...]:
        return self.provenance.episodes

    @property
    def picture(self) -> tuple[int, bool]:
        """Side of the wrist images (px), and whether they are in a video; raises DatasetError where there are none."""
        try:
            image = self.info["features"][CAMERA]
            return int(image["shape"][0]), image["dtype"] == "video"
        except (LookupError, TypeError, ValueError):
            raise DatasetError(f"{self.folder}: {INFO_FILE} lists no images {CAMERA!r} that could be used") from None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Frames of each episode."""
        return tuple(place.length for place in self._places)

    @property
    def frames(self) -> int:
        return sum(self.lengths)

    def __len__(self) -> int:
        return len(self._places)

    def columns(
        self, names: Collection[str], episodes: Iterable[int] | None = None
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Columns without images as arrays of shape (n,) or (n, d), frames in order.

        Args:
            names: of features, see ``info["features"]``.
            episodes: numbers of the episodes wanted; all where None.

        Raises:
            DatasetError: a column is missing, a file is cut off, or rows belong to another episode than the table says.
        """
        wanted = range(len(self)) if episodes is None else episodes
        parts = [self._read(number, names) for number in wanted]
        return {name: np.concatenate([_array(part.column(name)) for part in parts]) for name in names}

    def images(self, number: int, camera: str = CAMERA) -> Sequence[Image]:
        """The images of an episode; raises as :meth:`columns`."""
        place = self._place(number)
        if place.video is not None:
            return _VideoImages(place.video, place.video_start, place.length)
        table = self._read(number, (camera,))
        return _StillImages(f"{place.path}: episode {number}", table.column(camera).combine_chunks().field("bytes"))

    def encoded_images(self, number: int, camera: str = CAMERA) -> Sequence[bytes] | None:
        """The images of an episode as they are stored, or None where they are in a video; raises as :meth:`columns`."""
        images = self.images(number, camera)
        return images.encoded() if isinstance(images, _StillImages) else None

    def episode(self, number: int) -> TrainingEpisode:
        """An episode as it was written; raises as :meth:`columns`."""
        record = self.episodes[self._checked(number)]
        table = self.columns((*_COLUMNS, *_PROVENANCE), (number,))
        source, bag, row, policy = (table[name].astype(np.int64) for name in _PROVENANCE)
        bags, policies = self.provenance.bags, self.provenance.policies
        used, local = np.unique(bag, return_inverse=True)
        if (bag < 0).any() or (bag >= len(bags)).any() or (policy < 0).any() or (policy >= len(policies)).any():
            raise DatasetError(f"{self.folder}: episode {number}: its frames name bags or policies that are not listed")
        first = list(dict.fromkeys(bag.tolist()))  # in the order of the episode
        order = np.array([first.index(number) for number in used.tolist()], dtype=np.int64)
        return TrainingEpisode(
            instruction=record.instruction,
            split=record.split,
            rate_hz=record.rate_hz,
            images=self.images(number),
            state=table["observation.state"].astype(np.float32),
            action=table["action"].astype(np.float32),
            reward=table["next.reward"].astype(np.float32),
            done=table["next.done"].astype(np.bool_),
            source=source,
            bag=order[local],
            row=row,
            bags=tuple(bags[index] for index in first),
            policy_id=tuple(policies[index] for index in policy.tolist()),
            scale=record.scale,
            relabelled=record.relabelled,
        )

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """``dataset_statistics.json``: by the set's name, as OpenVLA and Octo read it; raises DatasetError."""
        return _read_json(self.folder / STATISTICS_FILE, dict[str, Any])

    # reading

    def _read_tables(self) -> None:
        info, fps = self.info, self.info["fps"]
        if not isinstance(fps, int | float) or not 0.0 < fps <= 1000.0:
            raise DatasetError(f"{self.folder / INFO_FILE}: fps is {fps!r}, must be a rate in (0, 1000] Hz")
        video = info["features"].get(CAMERA, {}).get("dtype") == "video"
        for key, pattern in (("data_path", DATA_FILE), ("video_path", VIDEO_FILE))[: 1 + video]:
            if info[key] != pattern:  # never filled in: it may come from anywhere
                raise DatasetError(f"{self.folder / INFO_FILE}: {key} is {str(info[key])[:99]!r}, must be {pattern!r}")
        rows: list[dict[str, Any]] = []
        for path in sorted((self.folder / "meta" / "episodes").glob("*/*.parquet")):
            rows += _episode_rows(path)
        if [row["episode_index"] for row in rows] != list(range(len(rows))) or len(rows) != info["total_episodes"]:
            raise DatasetError(
                f"{self.folder}: {INFO_FILE} says {info['total_episodes']} episodes, "
                f"the episode table lists {len(rows)}, or not in order"
            )
        firsts: dict[Path, int] = {}
        self._places: list[_Place] = []
        total = 0
        for row in rows:
            start, end = row["dataset_from_index"], row["dataset_to_index"]
            if start != total or end - start != row["length"]:
                raise DatasetError(
                    f"{self.folder}: episode {row['episode_index']} has {row['length']} frames, {start} to {end} in "
                    f"the set, but {total} come before it"
                )
            total = end
            path = self.folder / DATA_FILE.format(
                chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
            )
            video_path, video_start = None, 0
            if video:
                key = f"videos/{CAMERA}"
                video_path = self.folder / VIDEO_FILE.format(
                    video_key=CAMERA, chunk_index=row[f"{key}/chunk_index"], file_index=row[f"{key}/file_index"]
                )
                video_start = round(row[f"{key}/from_timestamp"] * fps)
            first = firsts.setdefault(path, start)
            self._places.append(_Place(path, start - first, row["length"], video_path, video_start))
        if total != info["total_frames"]:
            raise DatasetError(
                f"{self.folder}: {INFO_FILE} says {info['total_frames']} frames, the episode table lists {total}"
            )
        for path in {place.path for place in self._places} | {place.video for place in self._places if place.video}:
            if not path.is_file():
                raise DatasetError(f"{path}: is missing; build the set anew")
        self._groups: dict[Path, npt.NDArray[np.int64]] = {}
        self.provenance = self._read_provenance(rows, fps)

    def _read_provenance(self, rows: list[dict[str, Any]], fps: float) -> Provenance:
        path = self.folder / PROVENANCE_FILE
        if not path.exists():
            return Provenance(
                name=self.folder.name,
                episodes=tuple(
                    EpisodeRecord(length=row["length"], instruction=", ".join(row["tasks"]), rate_hz=fps)
                    for row in rows
                ),
            )
        provenance = _read_json(path, Provenance)
        if tuple(record.length for record in provenance.episodes) != self.lengths:
            raise DatasetError(f"{path}: lists other episodes than {EPISODES_FILE.partition('/chunk')[0]}")
        return provenance

    def _checked(self, number: int) -> int:
        if not 0 <= number < len(self):
            raise DatasetError(f"{self.folder}: there is no episode {number}, it has {len(self)}")
        return number

    def _place(self, number: int) -> _Place:
        return self._places[self._checked(number)]

    def _read(self, number: int, names: Collection[str]) -> Any:
        """Table of the frames of one episode."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        place = self._place(number)
        missing = set(names) - set(self.info["features"])
        if missing:
            known = ", ".join(self.info["features"])
            raise DatasetError(f"{self.folder}: has no column {min(missing)!r}; columns: {known}")
        try:
            with pq.ParquetFile(place.path) as file:
                if place.path not in self._groups:
                    counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                    self._groups[place.path] = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
                ends = self._groups[place.path]
                if place.start + place.length > ends[-1]:
                    raise DatasetError(
                        f"{place.path}: has {ends[-1]} rows, episode {number} should lie in rows {place.start} to "
                        f"{place.start + place.length}"
                    )
                first = int(np.searchsorted(ends, place.start, side="right")) - 1
                last = int(np.searchsorted(ends, place.start + place.length, side="left"))
                table = file.read_row_groups(
                    list(range(first, last)), columns=[*names, "episode_index"], use_threads=False
                ).slice(place.start - int(ends[first]), place.length)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(place.path, error) from None
        if "episode_index" not in table.column_names or not set(names) <= set(table.column_names):
            raise DatasetError(f"{place.path}: lacks columns that {INFO_FILE} lists; build the set anew")
        if (_array(table.column("episode_index")) != number).any():
            raise DatasetError(f"{place.path}: rows of episode {number} say that they belong to another; build it anew")
        return table


class _StillImages(Sequence[Image]):
    def __init__(self, where: str, data: Any) -> None:
        self._where = where
        self._data = data  # pyarrow array of bytes

    def __len__(self) -> int:
        return len(self._data)

    @overload
    def __getitem__(self, row: int) -> Image: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Image]: ...

    def __getitem__(self, row: int | slice) -> Image | Sequence[Image]:
        if isinstance(row, slice):
            return _StillImages(self._where, self._data.take(list(range(*row.indices(len(self))))))
        try:
            return png.decode(self._data[row].as_py() or b"")
        except ValueError as error:
            raise DatasetError(f"{self._where}, frame {row}: {error}") from None

    def encoded(self) -> list[bytes]:
        return list(self._data.to_pylist())


class _VideoImages(Sequence[Image]):
    """Decoded all at once when the first one is wanted: frames depend on each other."""

    def __init__(self, path: Path, start: int, length: int) -> None:
        self._path = path
        self._start = start
        self._length = length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, row: int) -> Image: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Image]: ...

    def __getitem__(self, row: int | slice) -> Image | Sequence[Image]:
        return self._decoded[row]

    @cached_property
    def _decoded(self) -> list[Image]:
        import av

        images: list[Image] = []
        try:
            with av.open(str(self._path)) as container:
                stream = container.streams.video[0]
                if stream.time_base is None or stream.average_rate is None:
                    raise DatasetError(f"{self._path}: says neither its time base nor its rate")
                ticks = 1 / (stream.time_base * stream.average_rate)
                container.seek(round(self._start * ticks), stream=stream)
                for frame in container.decode(stream):
                    number = round((frame.pts or 0) / ticks)
                    if self._start <= number < self._start + self._length:
                        images.append(np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8))
                    elif images:
                        break
        except (av.FFmpegError, OSError, IndexError) as error:
            raise _damaged(self._path, error) from None
        if len(images) != self._length:
            raise DatasetError(
                f"{self._path}: has {len(images)} of the {self._length} frames from {self._start} on; build it anew"
            )
        return images


def _episode_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if not name.startswith("stats/")]
            return list(file.read(columns=names, use_threads=False).to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def _read_json(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}; is this the folder of a training set?") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: {' '.join(str(error).split())[:200]}") from None


def _damaged(path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"{path}: damaged or cut off: {' '.join(str(error).split())[:160]}; build the set anew")


def _array(column: Any) -> npt.NDArray[Any]:
    """Of a pyarrow column: shape (n,), or (n, d) where it holds lists of one length."""
    import pyarrow as pa

    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        return np.asarray(array.flatten().to_numpy(zero_copy_only=False)).reshape(len(array), array.type.list_size)
    if pa.types.is_list(array.type):
        return np.array(array.to_pylist())
    return np.asarray(array.to_numpy(zero_copy_only=False))
