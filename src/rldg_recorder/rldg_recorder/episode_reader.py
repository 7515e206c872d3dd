"""From a bag to an :class:`Episode`: the one reader, for training sets, learners and reports alike.

Nothing is synchronised here. Each ``Step`` names its ``Observation`` by stamp; the reader looks it up and refuses the
bag where it is missing. Works without ROS: messages are decoded by the schemas that the bag itself holds.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from rldg_recorder.bag_reader import BagReader
from rldg_recorder.episode import BagError, Episode, EpisodeInfo, Image, read_info

OBSERVATION = "rldg_interfaces/msg/Observation"
STEP = "rldg_interfaces/msg/Step"
_JUMP_PERIODS = 10  # steps further apart than this were not taken one after the other
_NS = 1_000_000_000
_UNIT_TOLERANCE = 0.01  # of a quaternion, as in the live stream


def find_bags(folder: Path) -> list[Path]:
    """All folders below ``folder``, itself included, that hold an ``episode.yaml``, sorted by path.

    Raises:
        BagError: there is no such folder.
    """
    if not folder.is_dir():
        raise BagError(f"{folder}: no such folder; bags lie in bags/<session>/<number>")
    return sorted(path.parent for path in folder.rglob("episode.yaml"))


def read_episode(folder: Path) -> Episode:
    """Read the bag of one episode; images stay in the file until they are indexed.

    Raises:
        BagError: the bag is cut off or not one episode: a topic or field is missing, steps are missing, a step names an
            observation that is not there, a value is not finite, the clock jumped.
    """
    info = read_info(folder)
    if info.state == "recording":
        raise BagError(
            f"{folder}: is being recorded, or its recorder was killed; if so run: ./rldg bag salvage {folder}"
        )
    with BagReader(folder) as reader:
        topics = {kind: _only_topic(folder, reader, kind) for kind in (STEP, OBSERVATION)}
        steps: defaultdict[int, dict[int, Any]] = defaultdict(dict)  # by index and stamp
        observations: dict[int, Any] = {}
        try:
            for message in reader.messages(set(topics.values())):
                decoded = reader.decode(message.topic, message.data)
                if decoded.episode_id != info.episode_id:
                    continue
                if message.topic == topics[STEP]:
                    steps[int(decoded.index)].setdefault(_stamp(decoded.header.stamp), decoded)
                else:  # one that is said again, in lockstep, is the same
                    observations.setdefault(_stamp(decoded.header.stamp), decoded)
            ticks = [[at[stamp_ns] for stamp_ns in sorted(at)] for _, at in sorted(steps.items())]
            return _episode(folder, info, ticks, observations)
        except AttributeError as error:
            raise BagError(f"{folder}: {error}: recorded with another version of rldg_interfaces") from None


class _Images(Sequence[Image]):
    """Images of decoded observations, checked when they are read."""

    def __init__(self, folder: Path, messages: list[Any]) -> None:
        self._folder = folder
        self._messages = messages

    def __len__(self) -> int:
        return len(self._messages)

    @overload
    def __getitem__(self, row: int) -> Image: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Image]: ...

    def __getitem__(self, row: int | slice) -> Image | Sequence[Image]:
        if isinstance(row, slice):
            return _Images(self._folder, self._messages[row])
        message = self._messages[row]
        side, data = int(message.height), message.data
        if message.encoding != "rgb8" or message.width != side or message.step != 3 * side or len(data) != 3 * side**2:
            raise BagError(
                f"{self._folder}: image of row {row}: {message.encoding} {message.width} x {side}, "
                f"step {message.step}, {len(data)} bytes; must be rgb8, square and without padding"
            )
        return np.frombuffer(data, np.uint8).reshape(side, side, 3)


def _only_topic(folder: Path, reader: BagReader, kind: str) -> str:
    found = [name for name, topic in reader.topics.items() if topic.type == kind]
    if len(found) != 1:
        raise BagError(
            f"{folder}: holds {len(found)} topics of type {kind}, must hold one; record with the recorder node"
        )
    return found[0]


def _stamp(stamp: Any) -> int:
    return int(stamp.sec) * _NS + int(stamp.nanosec)


def _episode(folder: Path, info: EpisodeInfo, ticks: list[list[Any]], observations: dict[int, Any]) -> Episode:
    """``ticks``: the steps of each index. While an observation is late the arm holds and its index is said again."""
    steps = [said[0] for said in ticks]
    # the verdict on an observation may come a tick late
    ends = [next((step for step in said if step.is_last), said[0]) for said in ticks]
    _check_order(folder, info, steps, ends)
    answered: list[Any] = []
    for step in steps:
        stamp_ns = _stamp(step.observation_stamp)
        if stamp_ns not in observations:
            raise BagError(
                f"{folder}: step {step.index} names the observation of {stamp_ns} ns, which is not in the bag"
            )
        answered.append(observations[stamp_ns])

    def of_steps(get: Callable[[Any], Any], kind: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
        return np.array([get(step) for step in steps], dtype=kind)

    def of_ends(get: Callable[[Any], Any], kind: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
        return np.array([get(step) for step in ends], dtype=kind)

    def of_observations(get: Callable[[Any], Any], kind: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
        return np.array([get(observation) for observation in answered], dtype=kind)

    episode = Episode(
        folder=folder,
        info=info,
        images=_Images(folder, [observation.image for observation in answered]),
        stamp_ns=of_steps(lambda m: _stamp(m.header.stamp), np.int64),
        observation_stamp_ns=of_steps(lambda m: _stamp(m.observation_stamp), np.int64),
        is_last=of_ends(lambda m: m.is_last, np.bool_),
        reward=of_ends(lambda m: m.reward),
        terminated=of_ends(lambda m: m.terminated, np.bool_),
        truncated=of_ends(lambda m: m.truncated, np.bool_),
        source=of_steps(lambda m: m.source, np.uint8),
        policy_id=tuple(step.policy_id for step in steps),
        executed=of_steps(lambda m: m.executed),
        executed_gripper_closed=of_steps(lambda m: m.executed_gripper_closed, np.bool_),
        policy_action=of_steps(lambda m: m.policy_action),
        human_action=of_steps(lambda m: m.human_action),
        changed=of_steps(lambda m: m.changed, np.uint32),
        target=of_steps(lambda m: _pose(m.target)),
        command_age_s=of_steps(lambda m: m.command_age_s),
        tcp_pose=of_observations(lambda m: _pose(m.tcp_pose)),
        reset_pose=np.array(_pose(answered[0].reset_pose)),
        tcp_twist=of_observations(lambda m: _six(m.tcp_twist.linear, m.tcp_twist.angular)),
        wrench=of_observations(lambda m: _six(m.wrench.force, m.wrench.torque)),
        gripper_width_m=of_observations(lambda m: m.gripper_width_m),
        gripper_closed=of_observations(lambda m: m.gripper_closed, np.bool_),
        image_age_s=of_observations(lambda m: m.image_age_s),
        state_age_s=of_observations(lambda m: m.state_age_s),
        skew_s=of_observations(lambda m: m.skew_s),
    )
    _check_values(episode)
    return episode


def _check_order(folder: Path, info: EpisodeInfo, steps: list[Any], ends: list[Any]) -> None:
    if not steps:
        raise BagError(f"{folder}: holds no step of episode {info.episode_id}")
    missing = sorted(set(range(int(steps[-1].index) + 1)) - {int(step.index) for step in steps})
    if missing:
        raise BagError(
            f"{folder}: {len(missing)} of {steps[-1].index + 1} steps are missing, the first is {missing[0]}"
        )
    closing = [int(step.index) for step in ends if step.is_last]
    if closing not in ([], [int(steps[-1].index)]):
        raise BagError(f"{folder}: steps {closing} close the episode, only the last one ({steps[-1].index}) may")
    if info.state == "complete" and (not closing or info.steps != len(steps)):
        raise BagError(
            f"{folder}: episode.yaml says complete with {info.steps} steps, the bag holds {len(steps)} and "
            f"{'the' if closing else 'no'} closing step"
        )
    period_ns = info.task.control.period_s * _NS
    for before, after in itertools.pairwise(steps):
        passed_ns = _stamp(after.header.stamp) - _stamp(before.header.stamp)
        if not 0 < passed_ns <= _JUMP_PERIODS * period_ns:
            raise BagError(
                f"{folder}: the clock jumped by {passed_ns / _NS:.3f} s between steps {before.index} and "
                f"{after.index}; a tick takes {period_ns / _NS:.3f} s"
            )


def _check_values(episode: Episode) -> None:
    for name in ("executed", "reward", "target", "tcp_pose", "reset_pose", "tcp_twist", "wrench", "gripper_width_m"):
        bad = ~np.isfinite(getattr(episode, name))
        if bad.any():
            row = int(np.argwhere(bad)[0][0])
            raise BagError(f"{episode.folder}: {name} of row {row} is not finite")
    for name in ("target", "tcp_pose", "reset_pose"):
        length = np.linalg.norm(np.atleast_2d(getattr(episode, name))[:, 3:], axis=1)
        if (abs(length - 1.0) > _UNIT_TOLERANCE).any():
            row = int(abs(length - 1.0).argmax())
            raise BagError(
                f"{episode.folder}: {name} of row {row}: the quaternion has length {length[row]:.3g}, must be 1"
            )


def _pose(pose: Any) -> tuple[float, ...]:
    p, q = pose.position, pose.orientation
    return (p.x, p.y, p.z, q.x, q.y, q.z, q.w)


def _six(a: Any, b: Any) -> tuple[float, ...]:
    return (a.x, a.y, a.z, b.x, b.y, b.z)
