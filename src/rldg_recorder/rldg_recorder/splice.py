"""The beginning of one episode, the end of another, joined where their states are near.

RLDG uses it where a specialist was trained on a part of the task only: people grasp and carry, the specialist inserts.
What is joined must be one motion of one arm on one scene, so everything that a camera or a controller would notice is
compared, and a join out of limits is refused with its numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rldg_recorder.episode import BagError, Episode, EpisodeInfo, Floats
from rldg_recorder.items import Dropped, Item, Reader
from rldg_recorder.plan import DatasetError, Segment
from rldg_recorder.recipe import SPLICED, Event, Splice, Until


@dataclasses.dataclass(frozen=True)
class Gap:
    """The jump from the last state of a prefix to the first of a suffix."""

    position_m: float
    angle_rad: float
    speed_m_s: float
    angular_speed_rad_s: float
    width_m: float

    def __str__(self) -> str:
        return (
            f"{self.position_m * 1000:.1f} mm, {self.angle_rad:.3f} rad, {self.speed_m_s:.3f} m/s, "
            f"{self.angular_speed_rad_s:.3f} rad/s, gripper {self.width_m * 1000:.1f} mm"
        )


@dataclasses.dataclass(frozen=True)
class Join:
    """Where two episodes come nearest to each other."""

    row: int  # of the prefix: the state that is replaced by the suffix's
    suffix: int  # index of the suffix episode
    suffix_row: int
    gap: Gap
    score: float  # the largest gap over its limit; at most 1 may be joined


def event_row(episode: Episode, until: Until) -> int | None:
    """First row whose *state* comes after the event, or None if it never happens."""
    n = episode.actions
    closed = episode.executed_gripper_closed[:n]
    before = np.concatenate([episode.gripper_closed[:1], closed[:-1]])
    if until.event is Event.CONTACT:
        return _first(np.linalg.norm(episode.wrench[:n, :3], axis=1) >= until.contact_n)
    if until.event is Event.RELEASE:
        row = _first(~closed & before)
        return None if row is None else row + 1
    row = _first(closed & ~before)
    if until.event is Event.GRASP or row is None:
        return None if row is None else row + 1
    height = episode.tcp_pose[:n, 2]
    return _first((np.arange(n) > row) & (height >= height[row] + until.lift_m))


def handoff_rows(episode: Episode, until: Until) -> range:
    """Rows at whose states the suffix may take over; empty if the event never happens."""
    row = event_row(episode, until)
    if row is None:
        return range(0)
    first = max(row + until.after_steps, 1)
    return range(first, min(first + until.window_steps, episode.actions))


def incompatible(prefix: EpisodeInfo, suffix: EpisodeInfo) -> str:
    """Why two episodes can never be joined, "" if they can."""
    a, b = prefix.task, suffix.task
    pairs = (
        ("task", a.name, b.name),
        ("scene", prefix.scene, suffix.scene),
        ("instruction", prefix.instruction, suffix.instruction),
        ("control rate", a.control.rate_hz, b.control.rate_hz),
        ("action scale", a.control.scale.tolist(), b.control.scale.tolist()),
        ("set-point rule", a.control.setpoint.value, b.control.setpoint.value),
        ("gripper", a.control.gripper.value, b.control.gripper.value),
    )
    for name, one, other in pairs:
        if one != other:
            return f"{name} differs: {one} and {other}"
    if a.impedance != b.impedance:
        return "impedance differs"
    if a.fixture.pose != b.fixture.pose:
        return "the fixture stands elsewhere"
    return ""


def same_place_only(info: EpisodeInfo, splice: Splice) -> bool:
    """Whether the fixture moves so far between episodes that only those of one seed see it in one place."""
    moves = info.task.fixture.randomize
    return max(moves.xyz_m) > splice.max_gap_m or moves.yaw_rad > splice.max_gap_rad


class Suffixes:
    """States of all episodes that may follow, side by side.

    Args:
        episodes: in the order of the indices in :class:`Join`; their images are not looked at.
        rows: of each, those that may be used.
    """

    def __init__(self, episodes: Sequence[Episode], rows: Sequence[Sequence[int]], splice: Splice) -> None:
        self._splice = splice
        self._infos = [episode.info for episode in episodes]
        kept = [_allowed_rows(episode, r, splice.until) for episode, r in zip(episodes, rows, strict=True)]
        self._episode = np.repeat(np.arange(len(kept)), [len(r) for r in kept])
        self._row = np.concatenate([np.empty(0, np.int64), *kept])
        self._state = np.concatenate([np.empty((0, 14)), *(_states(e, r) for e, r in zip(episodes, kept, strict=True))])
        self._closed = np.concatenate(
            [np.empty(0, bool), *(e.gripper_closed[r] for e, r in zip(episodes, kept, strict=True))]
        )
        self._free = np.ones(len(kept), dtype=bool)

    def take(self, index: int) -> None:
        """No other prefix may use this episode: no frame stands twice in a set."""
        self._free[index] = False

    def nearest(self, prefix: Episode, rows: Sequence[int]) -> tuple[Join | None, str]:
        """The best place to go on from one of the prefix's rows, or None and why there is none at all."""
        reasons = [incompatible(prefix.info, info) for info in self._infos]
        allowed = np.array([not reason for reason in reasons], dtype=bool)
        if not allowed.any():
            return None, next(iter(reasons), "there is no suffix")
        seeds = np.array([info.seed == prefix.info.seed for info in self._infos], dtype=bool)
        if same_place_only(prefix.info, self._splice):
            allowed &= seeds
            if not allowed.any():
                return None, f"the fixture moves between episodes and no suffix has seed {prefix.info.seed}"
        allowed &= self._free
        best: Join | None = None
        for row in rows:
            closed = bool(prefix.gripper_closed[row])
            usable = allowed[self._episode] & (self._closed == closed)
            if prefix.info.task.object is not None and not closed:
                usable &= seeds[self._episode]  # the object lies where the seed put it
            candidates = np.flatnonzero(usable)
            if len(candidates) == 0:
                continue
            gaps = _gaps(_states(prefix, np.array([row]))[0], self._state[candidates])
            scores = (gaps / self._limits()).max(axis=1)
            i = int(np.argmin(scores))
            if best is None or scores[i] < best.score:
                at = candidates[i]
                best = Join(row, int(self._episode[at]), int(self._row[at]), Gap(*gaps[i].tolist()), float(scores[i]))
        return best, "" if best is not None else "no free suffix is in the same gripper state and place"

    def _limits(self) -> Floats:
        s = self._splice
        return np.array([s.max_gap_m, s.max_gap_rad, s.max_speed_gap_m_s, s.max_speed_gap_rad_s, s.max_gap_width_m])


def splice_items(
    prefixes: Sequence[Item], suffixes: Sequence[Item], splice: Splice, read: Reader
) -> tuple[list[Item], list[Dropped]]:
    """Join every prefix, in order, with the nearest suffix that is still free.

    Raises:
        DatasetError: not a single join is within the limits; says how near the nearest came.
    """
    dropped: list[Dropped] = []
    followers, episodes = [], []
    for item in suffixes:
        try:
            episodes.append(_without_images(read(item.folder)))
            followers.append(item)
        except BagError as error:
            dropped.append(Dropped(item.folder, splice.suffix, "unreadable", str(error)))
    states = Suffixes(episodes, [item.planned.segments[0].rows for item in followers], splice)
    spliced: list[Item] = []
    misses: list[tuple[float, str]] = []
    used: set[int] = set()
    for item in prefixes:
        try:
            episode = _without_images(read(item.folder))
        except BagError as error:
            dropped.append(Dropped(item.folder, splice.prefix, "unreadable", str(error)))
            continue
        rows = handoff_rows(episode, splice.until)
        if not rows:
            dropped.append(Dropped(item.folder, splice.prefix, f"no {splice.until.event.value} to splice at"))
            continue
        join, reason = states.nearest(episode, rows)
        if join is None or join.score > 1.0:
            detail = reason if join is None else f"nearest: {join.gap} ({followers[join.suffix].folder})"
            misses.append((np.inf if join is None else join.score, detail))
            dropped.append(Dropped(item.folder, splice.prefix, "no suffix near", detail))
            continue
        head = tuple(row for row in item.planned.segments[0].rows if row < join.row)
        if not head:
            dropped.append(Dropped(item.folder, splice.prefix, "nothing left before the splice"))
            continue
        states.take(join.suffix)
        used.add(join.suffix)
        tail = followers[join.suffix]
        rest = tuple(row for row in tail.planned.segments[0].rows if row >= join.suffix_row)
        segments = (
            Segment(bag=item.planned.segments[0].bag, rows=head),
            Segment(bag=tail.planned.segments[0].bag, rows=rest),
        )
        joined = item.replace(segments=segments, group=SPLICED)
        spliced.append(dataclasses.replace(joined, infos=(*item.infos, *tail.infos)))
    if prefixes and not spliced:
        limits = Gap(
            splice.max_gap_m,
            splice.max_gap_rad,
            splice.max_speed_gap_m_s,
            splice.max_speed_gap_rad_s,
            splice.max_gap_width_m,
        )
        why = min(misses)[1] if misses else f"no prefix has a {splice.until.event.value}"
        raise DatasetError(
            f"splice: none of {len(prefixes)} episodes of {splice.prefix!r} can be continued by one of "
            f"{len(suffixes)} of {splice.suffix!r}: {why}; limits: {limits}; record starts nearer or widen the limits"
        )
    dropped += [
        Dropped(item.folder, splice.suffix, "no prefix took it") for i, item in enumerate(followers) if i not in used
    ]
    return spliced, dropped


def _without_images(episode: Episode) -> Episode:
    """Images keep a whole bag in memory; states are enough here."""
    return dataclasses.replace(episode, images=())


def _first(condition: npt.NDArray[np.bool_]) -> int | None:
    return int(np.argmax(condition)) if condition.any() else None


def _allowed_rows(episode: Episode, rows: Sequence[int], until: Until) -> npt.NDArray[np.int64]:
    """Before its own first contact a suffix is in another phase; the other events show in the gripper's state."""
    first = event_row(episode, until) if until.event is Event.CONTACT else 0
    kept = [] if first is None else [row for row in rows if row >= first]
    return np.array(kept, dtype=np.int64)


def _states(episode: Episode, rows: npt.NDArray[np.int64]) -> Floats:
    """Pose, twist and gripper width of some rows, shape (n, 14)."""
    return np.column_stack([episode.tcp_pose[rows], episode.tcp_twist[rows], episode.gripper_width_m[rows]])


def _gaps(state: Floats, others: Floats) -> Floats:
    """From one state, shape (14,), to others, shape (n, 14): the fields of :class:`Gap`, shape (n, 5)."""
    difference = others - state
    # rounding can lift the product of two unit quaternions above 1
    cosine = np.minimum(np.abs(others[:, 3:7] @ state[3:7]), 1.0)
    return np.column_stack(
        [
            np.linalg.norm(difference[:, :3], axis=1),
            2.0 * np.arccos(cosine),
            np.linalg.norm(difference[:, 7:10], axis=1),
            np.linalg.norm(difference[:, 10:13], axis=1),
            np.abs(difference[:, 13]),
        ]
    )
