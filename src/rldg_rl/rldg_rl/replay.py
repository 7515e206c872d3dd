"""What the learner remembers: observations stored once, and transitions that name two of them.

A transition refers to its observation and its next observation explicitly, so nothing depends on the order in which
transitions arrive or on episodes being whole: a burst of interventions in the middle of an episode is as good as the
episode. Online transitions, and demonstrations with interventions, are two lists over the same rows.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rldg_core.types import ACTION_SIZE
from rldg_rl.networks import Spec
from rldg_rl.rlpd import Batch


class ReplayError(ValueError):
    """A transition cannot be stored or a batch cannot be drawn; the message is one line."""


class Transition(NamedTuple):
    """One executed action and what came of it; (episode_id, t) is its identity.

    Attributes:
        episode_id: unique among all sessions.
        t: index of the observation in its episode.
        features: of the observation, (spec.features,) or, with several views of its image, (views, spec.features).
        next_features: of the next observation, likewise.
        action: (spec.action,), executed, policy frame, each in [-1, 1]; the seventh is 1 where the gripper was told
            to hold closed and 0 where open.
        reward: that the next observation earned.
        terminated: the next observation ended the episode by success or failure.
        truncated: it ran out of time, or was cut off: what follows is worth what the critics say.
        intervention: a human acted.
        demo: of a demonstration; goes to the demonstrations only.
        toggled: the action changed the held state of the gripper.
    """

    episode_id: str
    t: int
    features: npt.NDArray[np.floating]
    next_features: npt.NDArray[np.floating]
    action: npt.NDArray[np.floating]
    reward: float
    terminated: bool
    truncated: bool
    intervention: bool
    demo: bool
    toggled: bool = False


def checked(transition: Transition, spec: Spec, views: int) -> Transition:
    """The transition as it is stored: arrays in the types of ``spec``, features (views, spec.features).

    Raises:
        ReplayError: wrong shape, values that are not finite, actions out of range, contradictory ends.
    """
    where = f"transition {transition.episode_id[:64]!r} {transition.t}"
    if not 1 <= len(transition.episode_id) <= 200 or not 0 <= transition.t < 2**31:
        raise ReplayError(f"{where}: needs an episode id of 1 to 200 characters and an index of at least 0")
    stored = []
    for name in ("features", "next_features"):
        with np.errstate(over="ignore"):  # what half precision cannot hold is reported below
            values = np.asarray(getattr(transition, name)).astype(spec.dtype)
        if values.shape not in ([(1, spec.features), (spec.features,)] if views == 1 else [(views, spec.features)]):
            raise ReplayError(f"{where}: {name} has shape {values.shape}, must be {(views, spec.features)}")
        if not np.isfinite(values).all():
            raise ReplayError(f"{where}: {name} holds a value that is not finite")
        stored.append(values.reshape(views, spec.features))
    action = np.asarray(transition.action, dtype=np.float32)
    if action.shape != (spec.action,):
        raise ReplayError(f"{where}: action has shape {action.shape}, must be {(spec.action,)}")
    if not (np.abs(action) <= 1.0).all():  # also where it is not a number
        raise ReplayError(f"{where}: action {action} leaves [-1, 1]; store what was executed, in the policy frame")
    if spec.gripper and action[ACTION_SIZE] not in (0.0, 1.0):
        raise ReplayError(f"{where}: gripper state is {action[ACTION_SIZE]}, must be 0 (open) or 1 (closed)")
    if not np.isfinite(transition.reward):
        raise ReplayError(f"{where}: reward is {transition.reward}, must be finite")
    if transition.terminated and transition.truncated:
        raise ReplayError(f"{where}: is both terminated and truncated, must be at most one of them")
    return transition._replace(features=stored[0], next_features=stored[1], action=action)


class _Ring:
    """Rows in the order in which they came, of which the newest ``capacity`` are kept."""

    def __init__(self, capacity: int) -> None:
        self.rows = np.zeros(capacity, np.int32)
        self.total = 0

    def __len__(self) -> int:
        return min(self.total, len(self.rows))

    def push(self, row: int) -> int | None:
        """Append a row; returns the one that had to go."""
        place = self.total % len(self.rows)
        gone = int(self.rows[place]) if self.total >= len(self.rows) else None
        self.rows[place] = row
        self.total += 1
        return gone


class _Slots:
    """An array whose first axis grows by and by, and whose entries are handed out and taken back."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.data = np.zeros((0, *shape), dtype)
        self.users = np.zeros(0, np.int32)
        self._used = 0
        self._free: list[int] = []

    def take(self) -> int:
        if self._free:
            slot = self._free.pop()
        else:
            slot = self._used
            self._used += 1
            if slot == len(self.data):
                # large arrays move without being copied, and nobody keeps a view of them
                size = slot + max(256, slot // 16)
                self.data.resize((size, *self.data.shape[1:]), refcheck=False)
                self.users.resize(size, refcheck=False)
        self.users[slot] = 1
        return slot

    def share(self, slot: int) -> int:
        self.users[slot] += 1
        return slot

    def give_back(self, slot: int) -> bool:
        """One user less; whether it was the last."""
        self.users[slot] -= 1
        if self.users[slot] == 0:
            self._free.append(slot)
        return bool(self.users[slot] == 0)


class Replay:
    """Online transitions and demonstrations.

    Args:
        spec: shapes; features are stored as spec.dtype.
        capacity: of either list; the oldest go first.
        views: encoded crops of every observation.

    Attributes:
        successes: demonstrations or interventions seen that ended with a reward, gone ones included.
    """

    def __init__(self, spec: Spec, capacity: int, views: int = 1) -> None:
        self.spec, self.views = spec, views
        row = [
            ("frame", np.int32),
            ("next_frame", np.int32),
            ("action", np.float32, (spec.action,)),
            ("reward", np.float32),
            ("terminated", np.bool_),
            ("toggled", np.bool_),
            ("key", np.int64),
        ]
        self._frames = _Slots((views, spec.features), spec.dtype)
        self._rows = _Slots((), np.dtype(row))
        self._online, self._demos = _Ring(capacity), _Ring(capacity)
        self._episodes: dict[str, int] = {}
        self._row_of: dict[int, int] = {}  # by episode and index; -1 where it is gone: what has been seen stays seen
        self._held = 0
        self.successes = 0

    @property
    def online(self) -> int:
        """Online transitions that are held."""
        return len(self._online)

    @property
    def demos(self) -> int:
        """Transitions of demonstrations and interventions that are held."""
        return len(self._demos)

    @property
    def env_steps(self) -> int:
        """Online transitions ever added."""
        return self._online.total

    def _key(self, episode_id: str, t: int) -> int:
        return self._episodes.setdefault(episode_id, len(self._episodes)) << 32 | t

    def knows(self, transition: Transition) -> bool:
        """Whether a transition of this identity has been added, even if it is gone."""
        return self._key(transition.episode_id, transition.t) in self._row_of

    def add(self, transition: Transition) -> bool:
        """Store a transition that :func:`checked` has passed; whether it was new."""
        if self.knows(transition):
            return False
        key = self._key(transition.episode_id, transition.t)
        row = self._rows.take()
        # neighbours of the same episode have seen the same observations, whichever of them comes first
        frame = self._frame(transition.features, key - 1 if transition.t else -1, "next_frame")
        next_frame = self._frame(transition.next_features, key + 1, "frame")
        self._rows.data[row] = (
            frame,
            next_frame,
            transition.action,
            transition.reward,
            transition.terminated,
            transition.toggled,
            key,
        )
        self._row_of[key] = row
        self._held += 1
        if transition.demo or transition.intervention:
            self.successes += transition.terminated and transition.reward > 0.0
            self._push(self._demos, row)
        if not transition.demo:
            self._push(self._online, row)
        self._leave(row)
        return True

    def _frame(self, values: npt.NDArray[np.floating], neighbour: int, column: str) -> int:
        """The slot that holds these values: the neighbour's if it has them, else a new one."""
        row = self._row_of.get(neighbour, -1)
        if row >= 0:
            slot = int(self._rows.data[column][row])
            if np.array_equal(self._frames.data[slot], values):
                return self._frames.share(slot)
        slot = self._frames.take()
        self._frames.data[slot] = values
        return slot

    def _push(self, ring: _Ring, row: int) -> None:
        gone = ring.push(self._rows.share(row))
        if gone is not None:
            self._leave(gone)

    def _leave(self, row: int) -> None:
        if self._rows.give_back(row):
            held = self._rows.data[row]
            self._held -= 1
            self._row_of[int(held["key"])] = -1
            self._frames.give_back(int(held["frame"]))
            self._frames.give_back(int(held["next_frame"]))

    def relabel(self, episode_id: str, t: int, reward: float, terminated: bool) -> bool:
        """Change what a transition earned, after an operator's verdict; whether it is held."""
        row = self._row_of.get(self._key(episode_id, t), -1)
        if row >= 0:
            self._rows.data["reward"][row], self._rows.data["terminated"][row] = reward, terminated
        return row >= 0

    def sample(self, rng: np.random.Generator, groups: int, size: int) -> Batch:
        """Draw ``groups`` batches with replacement, half of each from either list (RLPD section 4.1).

        While one list is empty all come from the other. Observation and next observation draw their views
        independently.

        Returns:
            Arrays with leading axes (groups, size).

        Raises:
            ReplayError: both lists are empty.
        """
        if not self.online and not self.demos:
            raise ReplayError("replay: holds nothing to draw from; add transitions first")
        from_demos = size // 2 if self.online and self.demos else size * bool(self.demos)
        picked = [
            ring.rows[rng.integers(0, max(1, len(ring)), (groups, count))]
            for ring, count in ((self._online, size - from_demos), (self._demos, from_demos))
        ]
        rows = self._rows.data[np.concatenate(picked, axis=1)]
        view, next_view = rng.integers(0, self.views, (2, groups, size))
        return Batch(
            features=self._frames.data[rows["frame"], view],
            next_features=self._frames.data[rows["next_frame"], next_view],
            action=rows["action"],
            reward=rows["reward"],
            terminated=rows["terminated"].astype(np.float32),
            toggled=rows["toggled"].astype(np.float32),
        )

    @property
    def bytes_per_transition(self) -> float:
        """Memory of everything here, per transition held; 0.0 while there is none."""
        arrays = [self._frames.data, self._frames.users, self._rows.data, self._rows.users]
        arrays += [self._online.rows, self._demos.rows]
        index = sys.getsizeof(self._row_of) + 2 * sys.getsizeof(2**40) * len(self._row_of)
        return (sum(array.nbytes for array in arrays) + index) / self._held if self._held else 0.0
