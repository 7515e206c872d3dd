"""What generalists are trained on, whichever format it has on disk: images, executed actions, instructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import msgspec
import numpy as np
import numpy.typing as npt

from rldg_policies.normalisation import ActionStatistics, read_statistics
from rldg_recorder import png
from rldg_recorder.episode import Image
from rldg_recorder.frames import ACTION_NAMES
from rldg_recorder.plan import DatasetError
from rldg_recorder.rlds_reader import RldsEpisode, read_rlds
from rldg_recorder.statistics import column_statistics
from rldg_recorder.training_set import INFO_FILE, STATISTICS_FILE, TrainingSet

HELD_OUT = 0.1  # share of the episodes of a set that has no split "test"


@dataclass(frozen=True)
class FrameEpisode:
    """One episode.

    Attributes:
        images: T images (side, side, 3) uint8, decoded when they are indexed.
        action: (T, d) float32: delta in [-1, 1], TCP frame; then, where d is 7, the held gripper state, 1 open.
        instruction: what it was told.
    """

    images: Sequence[Image]
    action: npt.NDArray[np.float32]
    instruction: str

    def __len__(self) -> int:
        return len(self.action)


@dataclass(frozen=True)
class TrainingFrames:
    """A set, split by episode.

    Attributes:
        name: of the set, under which its statistics stand.
        rate_hz: of the frames.
        scale: what an action of all ones means, (6,) in m and rad; empty where the set does not say.
        train, held_out: episodes; those held out are for judging only.
        statistics: what ``dataset_statistics.json`` holds: of the training episodes.
        many_scales: the same action means different things in different episodes, so that no task can be served.
    """

    name: str
    rate_hz: float
    scale: tuple[float, ...]
    train: tuple[FrameEpisode, ...]
    held_out: tuple[FrameEpisode, ...]
    statistics: dict[str, Any]
    many_scales: bool = False

    @property
    def action_statistics(self) -> ActionStatistics:
        return read_statistics(self.statistics, self.name)[1]

    @property
    def action_dim(self) -> int:
        return int(self.train[0].action.shape[1])


def load_frames(folder: Path, image: str = "wrist_image", seed: int = 0) -> TrainingFrames:
    """Read a training set: LeRobot v3.0 (``datasets/<name>``) or RLDS (``<data_dir>/<name>/<version>``).

    Args:
        image: in RLDS, which image of the observation.
        seed: chooses the episodes that are held out where the set has no split ``test``.

    Raises:
        DatasetError: there is no such set, it is damaged, or has no episode to train on, or none to hold out.
        StatisticsError: its statistics are wrong.
    """
    if (folder / INFO_FILE).is_file():
        return _lerobot(folder, seed)
    if (folder / "dataset_info.json").is_file():
        return _rlds(folder, image, seed)
    raise DatasetError(
        f"{folder}: is no training set: neither {INFO_FILE} (LeRobot) nor dataset_info.json (RLDS, name the folder of "
        "the version) is there; make one with ./rldg dataset build"
    )


def _lerobot(folder: Path, seed: int) -> TrainingFrames:
    found = TrainingSet(folder)
    scales = {record.scale for record in found.episodes}
    if len(scales) > 1:
        raise DatasetError(f"{folder}: has actions of {len(scales)} scales; run ./rldg dataset verify {folder}")
    actions = [np.asarray(found.columns(("action",), (number,))["action"], np.float32) for number in range(len(found))]
    episodes = [
        FrameEpisode(found.images(number), actions[number], record.instruction)
        for number, record in enumerate(found.episodes)
    ]
    train, held_out = _split(folder, episodes, [record.split for record in found.episodes], seed)
    try:
        statistics = msgspec.json.decode((folder / STATISTICS_FILE).read_bytes())
    except OSError as error:
        raise DatasetError(f"{folder / STATISTICS_FILE}: cannot be read: {error.strerror}; build it anew") from None
    except msgspec.DecodeError as error:
        raise DatasetError(f"{folder / STATISTICS_FILE}: is not JSON: {error}; build the set anew") from None
    frames = TrainingFrames(
        found.name, float(found.info["fps"]), scales.pop() if scales else (), train, held_out, statistics
    )
    _check(folder, frames)
    return frames


def _rlds(folder: Path, image: str, seed: int) -> TrainingFrames:
    info = msgspec.json.decode((folder / "dataset_info.json").read_bytes())
    splits = [str(each.get("name")) for each in info.get("splits", ())]
    read = [(split, episode) for split in splits if split in ("train", "test") for episode in read_rlds(folder, split)]
    episodes = [_episode(episode, f"steps/observation/{image}") for _, episode in read]
    train, held_out = _split(folder, episodes, [split for split, _ in read], seed)
    frames = _with_statistics(str(info["name"]), train, held_out)
    _check(folder, frames)
    return frames


def frames_of(name: str, episodes: Sequence[FrameEpisode], seed: int) -> TrainingFrames:
    """Episodes that come from no set, of tasks with different rates and scales.

    Raises:
        DatasetError: see :func:`load_frames`.
    """
    train, held_out = _split(Path(name), episodes, [""] * len(episodes), seed)
    frames = replace(_with_statistics(name, train, held_out), many_scales=True)
    _check(Path(name), frames)
    return frames


def _with_statistics(name: str, train: tuple[FrameEpisode, ...], held_out: tuple[FrameEpisode, ...]) -> TrainingFrames:
    action = np.concatenate([episode.action for episode in train])
    mask = [index < 6 for index in range(action.shape[1])]
    statistics = {
        name: {
            "action": {**column_statistics(action), "mask": mask},
            "num_transitions": len(action),
            "num_trajectories": len(train),
        }
    }
    return TrainingFrames(name, float("nan"), (), train, held_out, statistics)


def _episode(episode: RldsEpisode, image_key: str) -> FrameEpisode:
    numbers = episode.numbers_of("steps/action")
    size = len(numbers) // max(len(episode), 1)
    encoded, texts = episode.bytes_of(image_key), episode.bytes_of("steps/language_instruction")
    if len(encoded) != len(episode) or len(texts) != len(episode) or not size:
        raise DatasetError(
            f"{episode.where}: has {len(encoded)} images, {len(texts)} instructions and {len(numbers)} numbers of "
            f"actions in {len(episode)} steps"
        )
    images = EncodedImages(encoded, episode.where)
    return FrameEpisode(images, episode.numbers_of("steps/action", size), texts[0].decode(errors="replace"))


def _split(
    folder: Path, episodes: Sequence[FrameEpisode], splits: Sequence[str], seed: int
) -> tuple[tuple[FrameEpisode, ...], tuple[FrameEpisode, ...]]:
    held = {number for number, split in enumerate(splits) if split == "test"}
    if not held and len(episodes) > 1:
        count = max(1, round(HELD_OUT * len(episodes)))
        held = set(np.random.default_rng([seed, 0x4E1D]).permutation(len(episodes))[:count].tolist())
    if not held or len(held) == len(episodes):
        raise DatasetError(f"{folder}: has {len(episodes)} episodes; needs one to train on and one to hold out")
    train = tuple(episode for number, episode in enumerate(episodes) if number not in held)
    return train, tuple(episodes[number] for number in sorted(held))


def _check(folder: Path, frames: TrainingFrames) -> None:
    sizes = {episode.action.shape[1] for episode in (*frames.train, *frames.held_out)}
    if len(sizes) > 1 or sizes != {frames.action_statistics.size}:
        raise DatasetError(
            f"{folder}: actions have {', '.join(map(str, sorted(sizes)))} numbers, their statistics "
            f"{frames.action_statistics.size}; one size is needed, such as {len(ACTION_NAMES)}"
        )
    for episode in (*frames.train, *frames.held_out):
        if len(episode) == 0 or not np.isfinite(episode.action).all():
            raise DatasetError(f"{folder}: an episode is empty or has an action that is not finite; build it anew")
        if not episode.instruction.strip():
            raise DatasetError(f"{folder}: an episode has no instruction; give the task one and build the set anew")


class EncodedImages(Sequence[Image]):
    """Images that are decoded when they are indexed."""

    def __init__(self, encoded: Sequence[bytes], where: str) -> None:
        self._encoded, self._where = encoded, where

    def __len__(self) -> int:
        return len(self._encoded)

    @overload
    def __getitem__(self, row: int) -> Image: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Image]: ...

    def __getitem__(self, row: int | slice) -> Image | Sequence[Image]:
        if isinstance(row, slice):
            return EncodedImages(self._encoded[row], self._where)
        try:
            return png.decode(self._encoded[row])
        except ValueError as error:
            raise DatasetError(f"{self._where}, step {row}: {error}") from None
