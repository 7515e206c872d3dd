"""From a planned episode to frames: the one place where bags become training data.

A frame is an observation and the executed action that answered it. The closing step of a bag is no frame; its reward
belongs to the frame before it. Lower rates compose deltas and never just drop them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from rldg_core.frames import Array, Pose, apply_body_delta, body_delta
from rldg_core.images import square
from rldg_core.observation import proprioception
from rldg_core.types import Source
from rldg_recorder.episode import BagError, Episode, EpisodeInfo, Floats, Image
from rldg_recorder.episode_reader import read_episode
from rldg_recorder.frames import STATE_NAMES, BagRecord, TrainingEpisode
from rldg_recorder.plan import DatasetError, Plan, PlannedEpisode, Segment
from rldg_recorder.relabel import relabelled

Reader = Callable[[Path], Episode]
_NO_IMAGE = np.zeros((0, 0, 3), np.uint8)


def compose(deltas: npt.ArrayLike) -> Array:
    """The one body-frame delta that does what several do one after the other.

    Args:
        deltas: shape (k, 6), m and rotation vectors (rad), each in the body frame at its own time.

    Returns:
        Shape (6,), in the body frame at the beginning. A pure translation stays one.
    """
    pose = Pose.identity()
    for delta in np.asarray(deltas, dtype=np.float64):
        pose = apply_body_delta(pose, delta)
    return body_delta(Pose.identity(), pose)


def materialize(planned: PlannedEpisode, plan: Plan, read: Reader = read_episode) -> TrainingEpisode:
    """Read the bags of a planned episode and make its frames; images are read and resized when they are indexed.

    With a stride of k, k steps in a row become one frame: image, state and provenance of the first, deltas composed and
    expressed in units of k times the task's scale, rewards summed, the last gripper state. A composed delta that turns
    out of the box (a rotation on the way) is clipped to [-1, 1]. The state of a spliced episode is relative to the
    reset pose of its first bag throughout, so that it has no jump.

    Raises:
        DatasetError: a bag cannot be read, has fewer rows than planned, contradicts the plan's rate or another segment,
            or the relabelling policy fails.
    """
    parts = [_part(segment, planned, plan, read) for segment in planned.segments]
    first = parts[0]
    for part in parts[1:]:
        if not np.array_equal(part.scale, first.scale):
            raise DatasetError(
                f"{part.episode.folder}: action scale {part.scale} differs from {first.scale} of {first.episode.folder}"
            )
    infos = {part.bag: part.episode.info for part in parts}
    bags = tuple(infos)
    reset_pose = first.episode.reset_pose
    return TrainingEpisode(
        instruction=planned.instruction,
        split=planned.split,
        rate_hz=plan.rate_hz,
        images=_Squared(
            [(part.episode.images, int(row)) for part in parts for row in part.rows], plan.image_size_px, bags
        ),
        state=np.concatenate([_state(part.episode, part.rows, reset_pose) for part in parts]),
        action=np.concatenate([part.action for part in parts]),
        reward=np.concatenate([part.reward for part in parts]),
        done=np.concatenate([part.done for part in parts]),
        source=np.concatenate([part.source for part in parts]),
        bag=np.concatenate([np.full(len(part.rows), bags.index(part.bag), np.int64) for part in parts]),
        row=np.concatenate([part.rows for part in parts]),
        bags=tuple(bag_record(path, infos[path]) for path in bags),
        policy_id=tuple(policy for part in parts for policy in part.policy_id),
        scale=tuple(first.scale.tolist()),
        relabelled=bool(planned.relabel),
    )


@dataclasses.dataclass(frozen=True)
class _Part:
    """The frames that one segment gives."""

    bag: str
    episode: Episode
    rows: npt.NDArray[np.int64]  # (n,), the first row of each frame
    action: npt.NDArray[np.float32]
    reward: npt.NDArray[np.float32]
    done: npt.NDArray[np.bool_]
    source: npt.NDArray[np.int64]
    policy_id: tuple[str, ...]
    scale: Array


def _part(segment: Segment, planned: PlannedEpisode, plan: Plan, read: Reader) -> _Part:
    try:
        episode = read(Path(segment.bag))
    except BagError as error:
        raise DatasetError(str(error)) from None
    control, stride = episode.info.task.control, planned.stride
    if abs(control.rate_hz / stride - plan.rate_hz) > 1e-6:
        raise DatasetError(
            f"{segment.bag}: {control.rate_hz} Hz with stride {stride} is not the {plan.rate_hz} Hz of the set"
        )
    rows = np.array(segment.rows, dtype=np.int64)
    if len(rows) == 0 or rows[0] < 0 or rows[-1] >= episode.actions or (np.diff(rows) <= 0).any():
        raise DatasetError(
            f"{segment.bag}: planned rows {rows[:1]} to {rows[-1:]} must rise within its {episode.actions} actions; "
            "the bag has changed since the plan was made: plan again"
        )
    if planned.relabel:
        deltas, closed = relabelled(episode, segment.rows, planned.relabel, plan.relabel_parameters)
    else:
        deltas, closed = episode.executed[rows], episode.executed_gripper_closed[rows]
    reward, terminated = _earned(episode, rows)
    starts = np.arange(0, len(rows), stride)
    ends = np.minimum(starts + stride, len(rows)) - 1
    if stride > 1:
        deltas = np.array([compose(deltas[s : s + stride] * control.scale) for s in starts]) / (control.scale * stride)
    first = rows[starts]
    return _Part(
        bag=segment.bag,
        episode=episode,
        rows=first,
        action=np.column_stack([np.clip(deltas, -1.0, 1.0), ~closed[ends]]).astype(np.float32),
        reward=np.add.reduceat(reward, starts).astype(np.float32),
        done=np.logical_or.reduceat(terminated, starts),
        source=np.full(len(first), int(Source.POLICY)) if planned.relabel else episode.source[first].astype(np.int64),
        policy_id=tuple(
            planned.relabel or (episode.policy_id[row] if episode.source[row] == Source.POLICY else "") for row in first
        ),
        scale=control.scale * stride,
    )


def bag_record(path: str, info: EpisodeInfo) -> BagRecord:
    """What a training set remembers of a bag."""
    return BagRecord(
        path=path,
        episode_id=info.episode_id,
        task=info.task.name,
        scene=info.scene,
        seed=info.seed,
        outcome=info.outcome.name.lower(),
        robot=info.robot.name if info.robot is not None else "",
        policies=info.policies,
    )


def _earned(episode: Episode, rows: npt.NDArray[np.int64]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Reward and end of each row's action, which arrive with the next row; rows left out pay to the row before."""
    reward = np.append(episode.reward[1:], 0.0)
    terminated = np.append(episode.terminated[1:], False)
    until = np.append(rows[1:], rows[-1] + 1)
    return (
        np.array([reward[a:b].sum() for a, b in zip(rows, until, strict=True)]),
        np.array([terminated[a:b].any() for a, b in zip(rows, until, strict=True)]),
    )


class _NoImages(Sequence[Image]):
    """Stands in where an observation is needed for its state only."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, row: int | slice) -> Image:  # type: ignore[override]
        return _NO_IMAGE


def _state(episode: Episode, rows: npt.NDArray[np.int64], reset_pose: Floats) -> npt.NDArray[np.float32]:
    blind = dataclasses.replace(episode, images=_NoImages(), reset_pose=reset_pose)
    state = [proprioception(blind.observation(int(row))) for row in rows]
    return np.array(state, dtype=np.float32).reshape(len(rows), len(STATE_NAMES))


class _Squared(Sequence[Image]):
    """Images of several bags at the size of the set."""

    def __init__(self, images: list[tuple[Sequence[Image], int]], side_px: int, bags: tuple[str, ...]) -> None:
        self._images, self._side_px, self._bags = images, side_px, bags

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, frame: int) -> Image: ...

    @overload
    def __getitem__(self, frame: slice) -> Sequence[Image]: ...

    def __getitem__(self, frame: int | slice) -> Image | Sequence[Image]:
        if isinstance(frame, slice):
            return _Squared(self._images[frame], self._side_px, self._bags)
        images, row = self._images[frame]
        image = images[row]
        if image.shape[0] < self._side_px:
            raise DatasetError(
                f"{', '.join(self._bags)}: images of {image.shape[0]} px are smaller than format.image_size_px "
                f"{self._side_px}; ask for no more than they have"
            )
        return square(image, self._side_px)
