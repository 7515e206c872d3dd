"""Assembling the one observation of a tick from streams with their own rates and stamps."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from rldg_core.frames import Array, Pose, body_delta, interpolate
from rldg_core.types import EpisodeStatus, Observation, Phase

WRENCH_CUTOFF_HZ = 10.0
FROZEN_MOTION_M = 0.003  # the arm moved this far while the image stayed the same to the last bit: the camera is frozen
FROZEN_MOTION_RAD = 0.05
_KNOWN_POSE_NS = 50_000_000  # a pose that is further from the image's stamp does not tell where the camera was

T = TypeVar("T")


class Track(Generic[T]):
    """The recent samples of one stream, in the order of their stamps."""

    def __init__(self, blend: Callable[[T, T, float], T], span_s: float = 1.0) -> None:
        self._blend = blend
        self._span_ns = round(span_s * 1e9)
        self._stamps: deque[int] = deque()
        self._values: deque[T] = deque()

    def add(self, stamp_ns: int, value: T) -> None:
        """Append a sample; one that is older than the newest starts the track again (the clock was reset)."""
        if self._stamps and stamp_ns <= self._stamps[-1]:
            if stamp_ns == self._stamps[-1]:
                self._values[-1] = value
                return
            self._stamps.clear()
            self._values.clear()
        self._stamps.append(stamp_ns)
        self._values.append(value)
        while stamp_ns - self._stamps[0] > self._span_ns:
            self._stamps.popleft()
            self._values.popleft()

    def at(self, stamp_ns: int) -> tuple[T, int]:
        """The value at a time, interpolated between its neighbours, and the distance (ns) to the farther one used.

        Outside the samples the nearest one is returned. Raises LookupError while there is none.
        """
        if not self._stamps:
            raise LookupError("no sample yet")
        i = bisect_left(self._stamps, stamp_ns)
        if i == len(self._stamps):
            return self._values[-1], stamp_ns - self._stamps[-1]
        if i == 0 or self._stamps[i] == stamp_ns:
            return self._values[i], self._stamps[i] - stamp_ns
        before, after = self._stamps[i - 1], self._stamps[i]
        fraction = (stamp_ns - before) / (after - before)
        value = self._blend(self._values[i - 1], self._values[i], fraction)
        return value, max(stamp_ns - before, after - stamp_ns)

    @property
    def newest_ns(self) -> int | None:
        return self._stamps[-1] if self._stamps else None


def _linear(a: Array, b: Array, fraction: float) -> Array:
    return a + fraction * (b - a)


class ObservationAssembler:
    """Collects camera, arm and gripper samples and the episode, and makes one :class:`Observation` when asked."""

    def __init__(self) -> None:
        self._pose: Track[Pose] = Track(interpolate)
        self._twist: Track[Array] = Track(_linear)
        self._wrench: Track[Array] = Track(_linear)
        self._gripper: Track[Array] = Track(_linear)
        self._raw_wrenches: deque[tuple[int, Array]] = deque(maxlen=1000)
        self._image: npt.NDArray[np.uint8] | None = None
        self._image_ns = 0
        self._watched_ns = -1
        self._gripper_closed = False
        self._episode = EpisodeStatus(stamp_ns=0)
        self._next_index = 0
        self._restart_filter = True
        self._still_image: npt.NDArray[np.uint8] | None = None
        self._still_since: Pose | None = None
        self._frozen = ""

    def add_pose(self, stamp_ns: int, pose: Pose) -> None:
        """TCP pose, base frame."""
        self._pose.add(stamp_ns, pose)

    def add_twist(self, stamp_ns: int, twist: Array) -> None:
        """TCP twist, TCP frame, shape (6,), m/s and rad/s."""
        self._twist.add(stamp_ns, twist)

    def add_wrench(self, stamp_ns: int, wrench: Array) -> None:
        """External wrench at the TCP, TCP frame, shape (6,), N and N m, not tared. Low-passed at 10 Hz when it is used.

        It waits until then, so that the result does not depend on whether it overtook the verdict that restarts the
        filter.
        """
        self._raw_wrenches.append((stamp_ns, wrench))

    def _filter_wrenches(self) -> None:
        while self._raw_wrenches:
            stamp_ns, wrench = self._raw_wrenches.popleft()
            newest = self._wrench.newest_ns
            if newest == stamp_ns:
                continue  # said again
            if not self._restart_filter and newest is not None and stamp_ns > newest:
                keep = float(np.exp(-2.0 * np.pi * WRENCH_CUTOFF_HZ * (stamp_ns - newest) * 1e-9))
                wrench = keep * self._wrench.at(newest)[0] + (1.0 - keep) * wrench
            self._restart_filter = False
            self._wrench.add(stamp_ns, wrench)

    def add_gripper(self, stamp_ns: int, width_m: float) -> None:
        self._gripper.add(stamp_ns, np.array([width_m]))

    def set_gripper_command(self, closed: bool) -> None:
        self._gripper_closed = closed

    def add_image(self, stamp_ns: int, image: npt.NDArray[np.uint8]) -> None:
        """Square RGB image, shape (side, side, 3); the newest wins. It is not copied."""
        self._image, self._image_ns = image, stamp_ns

    def set_episode(self, status: EpisodeStatus) -> None:
        """The latest verdict of the episode manager; a new running episode starts counting observations from 0."""
        was_running = self._episode.phase is Phase.RUNNING and status.episode_id == self._episode.episode_id
        if status.phase is Phase.RUNNING and not was_running:
            self._next_index = 0
        # the tare must not remember forces from before the reset; a verdict that is said again restarts nothing
        if status.phase is Phase.RESETTING and status.stamp_ns != self._episode.stamp_ns:
            self._restart_filter = True
        self._episode = status

    def missing(self) -> list[str]:
        """Names of the inputs that have not arrived yet."""
        tracks: dict[str, Track[Any]] = {
            "pose": self._pose,
            "twist": self._twist,
            "wrench": self._wrench,
            "gripper": self._gripper,
        }
        self._filter_wrenches()
        names = [name for name, track in tracks.items() if track.newest_ns is None]
        return names if self._image is not None else [*names, "image"]

    def faults(self) -> list[str]:
        """What is wrong with the inputs although they arrive."""
        return [self._frozen] if self._frozen else []

    def assemble(self, now_ns: int) -> Observation | None:
        """The newest image with the state interpolated to its stamp; None while an input is missing."""
        if self._image is None or self.missing():
            return None
        stamp_ns = self._image_ns
        pose, pose_skew = self._pose.at(stamp_ns)
        twist, twist_skew = self._twist.at(stamp_ns)
        wrench, wrench_skew = self._wrench.at(stamp_ns)
        gripper, gripper_skew = self._gripper.at(stamp_ns)
        tracks: list[Track[Any]] = [self._pose, self._twist, self._wrench, self._gripper]
        oldest_ns = min(track.newest_ns or 0 for track in tracks)  # a stream that fell silent must not hide
        if stamp_ns != self._watched_ns:
            self._watch_image(self._image, pose, pose_skew)
            self._watched_ns = stamp_ns
        running = self._episode.phase is Phase.RUNNING
        index = self._next_index if running else 0
        self._next_index += running
        return Observation(
            stamp_ns=stamp_ns,
            image=self._image,
            tcp_pose=pose,
            tcp_twist=twist,
            wrench=wrench - self._episode.tare if running else wrench,
            gripper_width_m=float(gripper[0]),
            gripper_closed=self._gripper_closed,
            instruction=self._episode.instruction if running else "",
            episode_id=self._episode.episode_id if running else "",
            index=index,
            reset_pose=self._episode.reset_pose if running else Pose.identity(),
            image_age_s=(now_ns - stamp_ns) * 1e-9,
            state_age_s=(now_ns - oldest_ns) * 1e-9,
            skew_s=max(pose_skew, twist_skew, wrench_skew, gripper_skew) * 1e-9,
        )

    def _watch_image(self, image: npt.NDArray[np.uint8], pose: Pose, skew_ns: int) -> None:
        """A live camera never repeats an image bit for bit while it moves.

        A resetting simulation puts the arm elsewhere from one sample to the next; poses in between never were.
        """
        if self._episode.phase is Phase.RESETTING:
            self._still_since, self._frozen = None, ""
            return
        if skew_ns > _KNOWN_POSE_NS:
            return
        if self._still_since is None or self._still_image is None or not np.array_equal(image, self._still_image):
            self._still_image, self._still_since, self._frozen = image, pose, ""
            return
        moved = body_delta(self._still_since, pose)
        distance, angle = float(np.linalg.norm(moved[:3])), float(np.linalg.norm(moved[3:]))
        if distance > FROZEN_MOTION_M or angle > FROZEN_MOTION_RAD:
            self._frozen = f"camera frozen: the image has not changed while the TCP moved {distance * 1000:.1f} mm"


def proprioception(observation: Observation) -> npt.NDArray[np.float32]:
    """What a specialist feels, shape (19,), float32.

    Position (m, 3) and rotation vector (rad, 3) of the TCP relative to the reset pose, body twist (m/s, rad/s, 6),
    tared wrench (N, N m, 6), gripper width (m, 1). Relative to the reset pose, so that it says nothing about where
    the fixture is.
    """
    return np.concatenate(
        [
            body_delta(observation.reset_pose, observation.tcp_pose),
            observation.tcp_twist,
            observation.wrench,
            [observation.gripper_width_m],
        ]
    ).astype(np.float32)
