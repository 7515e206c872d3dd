"""From bags to labelled wrist images: which frame shows success, and which episodes a classifier may learn from.

An episode that failed shows no success anywhere. In one that succeeded by the task's rule, the last frames are the
successes that the rule counted and everything before is not. Where a person's label ended it, nobody knows which of the
frames before were already good: those as near to the last one as the rule's tolerances leave open are left out.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from rldg_core.frames import log_rotation, quaternion_conjugate, quaternion_multiply, quaternion_to_matrix
from rldg_core.judge import GOAL_REACHED
from rldg_core.task import Subject, Task
from rldg_core.types import Outcome
from rldg_recorder.episode import BagError, Episode, read_info
from rldg_recorder.episode_reader import read_episode

Share = Annotated[float, msgspec.Meta(gt=0.0, lt=0.5)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Reader = Callable[[Path], Episode]
Labels = npt.NDArray[np.int8]  # of Label
_STANDING = 0.25  # of a tolerance: an arm that moved less stood still


class ClassifierError(ValueError):
    """A classifier cannot be trained, loaded or used; the message is one line with the remedy."""


class Label(enum.IntEnum):
    UNSURE = -1
    NEGATIVE = 0
    POSITIVE = 1


class ClassifierConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person may want to change about the training of a classifier."""

    seed: int = 0
    false_positive_rate: Share = 0.01  # wanted, of frames that show no success
    consecutive_ticks: Annotated[int, msgspec.Meta(ge=1, le=20)] = 2  # of the decision
    held_out: Share = 0.2  # of the episodes for calibration, and as many for the report
    min_successes: Annotated[int, msgspec.Meta(ge=5)] = 20  # episodes
    min_failures: Annotated[int, msgspec.Meta(ge=5)] = 10
    min_recall: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.8  # on the held-out episodes
    views: Annotated[int, msgspec.Meta(ge=1, le=8)] = 4  # of a training frame: itself and random crops
    negatives_per_episode: Count = 25  # in training; half of them the last ones
    rounds: Count = 60  # of training, at most
    patience: Count = 8  # rounds without progress that end it


class Part(enum.StrEnum):
    """What the frames of an episode are for."""

    TRAINING = "training"
    CALIBRATION = "calibration"
    TEST = "test"


@dataclass(frozen=True)
class Candidate:
    """An episode that may be learnt from."""

    folder: Path
    success: bool
    scene: str


def label_rows(episode: Episode) -> Labels:
    """What each row's image shows, shape (n,), values of :class:`Label`; see the module."""
    info, n = episode.info, len(episode)
    labels = np.full(n, Label.NEGATIVE, np.int8)
    if info.outcome is not Outcome.SUCCESS:
        return labels
    rule = info.task.success
    if info.reason == GOAL_REACHED and not info.labels:
        labels[-rule.consecutive_ticks :] = Label.POSITIVE
        return labels
    same_grip = episode.gripper_closed == episode.gripper_closed[-1]
    if rule.subject is Subject.OBJECT:  # the arm's pose does not say where the object is
        labels[_run_at_the_end(same_grip)] = Label.UNSURE
    else:
        away = _tolerances_away(episode)
        # the last row is within one tolerance of the goal, so what is beyond two of it is outside
        labels[(away <= 2.0) & same_grip] = Label.UNSURE
        labels[_run_at_the_end((away <= _STANDING) & same_grip)] = Label.POSITIVE
    labels[-1] = Label.POSITIVE
    return labels


def _run_at_the_end(rows: npt.NDArray[np.bool_]) -> slice:
    others = np.flatnonzero(~rows)
    return slice(int(others[-1]) + 1 if len(others) else 0, len(rows))


def _tolerances_away(episode: Episode) -> npt.NDArray[np.float64]:
    """How far the TCP is from where it ended, in tolerances of the rule, shape (n,)."""
    task = episode.info.task
    axes = quaternion_to_matrix(task.fixture.pose.pose().quaternion)
    offset = (episode.tcp_pose[:, :3] - episode.tcp_pose[-1, :3]) @ axes / task.success.position_tolerance_m
    back = quaternion_conjugate(episode.tcp_pose[-1, 3:])
    turned = [np.linalg.norm(log_rotation(quaternion_multiply(back, q))) for q in episode.tcp_pose[:, 3:]]
    return np.maximum(np.abs(offset).max(axis=1), np.array(turned) / task.success.rotation_tolerance_rad)


def candidates(bags: Sequence[Path]) -> tuple[Task, list[Candidate], Counter[str]]:
    """Which of the bags may be learnt from, by what their ``episode.yaml`` says.

    Returns:
        Their task, those of use, and how many were left out for which reason.

    Raises:
        ClassifierError: no bags, or bags of several tasks.
    """
    found: list[Candidate] = []
    tasks: dict[str, Task] = {}
    left_out: Counter[str] = Counter()
    for folder in bags:
        try:
            info = read_info(folder)
        except BagError:
            left_out["episode.yaml cannot be read"] += 1
            continue
        tasks[info.task.name] = info.task
        if info.state != "complete":
            left_out[f"not complete: {info.state}"] += 1
        elif info.audit == "fail":
            left_out["its audit failed"] += 1
        elif info.outcome not in (Outcome.SUCCESS, Outcome.FAILURE, Outcome.TIMEOUT):
            left_out[f"outcome {info.outcome.value}"] += 1
        else:
            found.append(Candidate(folder, info.outcome is Outcome.SUCCESS, info.scene))
    if len(tasks) != 1:
        named = ", ".join(sorted(tasks)) or "none"
        raise ClassifierError(f"bags: of tasks {named}; a classifier learns one task: name bags of one")
    return next(iter(tasks.values())), found, left_out


def check_enough(found: Sequence[Candidate], config: ClassifierConfig, left_out: Counter[str]) -> None:
    """Raises ClassifierError where there are too few episodes of a kind."""
    successes = sum(candidate.success for candidate in found)
    failures = len(found) - successes
    if successes < config.min_successes or failures < config.min_failures:
        reasons = "".join(f"; left out {count}: {reason}" for reason, count in left_out.most_common())
        raise ClassifierError(
            f"bags: {successes} successful and {failures} failed episodes, needs at least {config.min_successes} and "
            f"{config.min_failures}{reasons}; record more"
        )


def split(found: Sequence[Candidate], config: ClassifierConfig) -> list[Part]:
    """What each episode is for: whole episodes, the same shares of the successful and of the failed ones."""
    rng = np.random.default_rng([config.seed, 0x5917])
    parts = [Part.TRAINING] * len(found)
    for success in (True, False):
        order = rng.permutation([i for i, candidate in enumerate(found) if candidate.success is success])
        count = max(1, round(config.held_out * len(order)))
        for part, chosen in ((Part.CALIBRATION, order[:count]), (Part.TEST, order[count : 2 * count])):
            for i in chosen:
                parts[i] = part
    return parts


@dataclass(frozen=True)
class Frames:
    """Encoded frames.

    Attributes:
        cells: (n, views, 112 * 80), float16.
        positive: (n,).
        episode: (n,), number of the candidate that each is from.
        row: (n,), in its episode.
    """

    cells: npt.NDArray[np.float16]
    positive: npt.NDArray[np.bool_]
    episode: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]


Encode = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


def encode(
    found: Sequence[Candidate],
    wanted: Sequence[int],
    cells: Encode,
    read: Reader = read_episode,
    negatives: int | None = None,
    rng: np.random.Generator | None = None,
) -> Frames:
    """Encode the labelled frames of the episodes numbered ``wanted``.

    Args:
        cells: from an image to (views, 112 * 80).
        negatives: of each episode at most, half of them the last ones and half drawn; None for all.

    Raises:
        ClassifierError: a bag cannot be read, or its images are too small.
    """
    rng = rng or np.random.default_rng(0)
    encoded, positive, numbers, rows = [], [], [], []
    for number in wanted:
        folder = found[number].folder
        try:
            episode = read(folder)
            labels = label_rows(episode)
            for row in _chosen(labels, negatives, rng):
                encoded.append(cells(episode.images[row]).astype(np.float16))
                positive.append(labels[row] == Label.POSITIVE)
                numbers.append(number)
                rows.append(row)
        except BagError as error:
            raise ClassifierError(f"{error}; or leave this bag out") from None
        except ValueError as error:
            raise ClassifierError(f"{folder}: {error}") from None
    return Frames(np.stack(encoded), np.array(positive), np.array(numbers), np.array(rows))


def _chosen(labels: Labels, negatives: int | None, rng: np.random.Generator) -> list[int]:
    positive, rest = np.flatnonzero(labels == Label.POSITIVE), np.flatnonzero(labels == Label.NEGATIVE)
    if negatives is not None and len(rest) > negatives:
        last = negatives // 2
        drawn = rng.choice(rest[: len(rest) - last], negatives - last, replace=False)
        rest = np.concatenate([np.sort(drawn), rest[len(rest) - last :]])
    return [int(row) for row in np.concatenate([rest, positive])]
