"""From steps to transitions: the same ones whether an episode comes live or out of its bag.

A transition is a pair of consecutive steps: action t was executed after observation t, and what it earned stands in
step t + 1 (docs/architecture.md, "An episode"). The closing step is not an action. The identity of a transition,
(episode_id, t), does not depend on the way it came: what the stream lost is taken from the bag, and nothing twice.

An episode in which no policy took part is a demonstration, and only if it succeeded: transitions of a failed one would
teach the critics that what an expert does leads nowhere. So nothing is known of an episode's transitions until a policy
has driven in it or it has ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from rldg_core.frames import Pose
from rldg_core.types import Action, EpisodeStatus, Observation, Outcome, Phase, Source, Step
from rldg_recorder.episode import Episode
from rldg_rl.checkpoint import Label
from rldg_rl.features import Features
from rldg_rl.replay import Transition

Encode = Callable[[Observation], Features]

_OBSERVATIONS = 32  # of the newest that wait for the step that names them
_STEPS = 32  # likewise, when a step overtook its observation
_STILL = 1e-6  # largest component of an action that is none
_EPISODES = 64  # whose verdict may still be changed


class Earned(NamedTuple):
    """What a step came to, as it stands in the one after it."""

    reward: float
    terminated: bool
    truncated: bool


def transition(
    episode_id: str,
    step: Step,
    seen: tuple[Features, Features],
    earned: Earned,
    *,
    gripper_was_closed: bool,
    with_gripper: bool,
    demo: bool = False,
) -> Transition:
    """One step of an episode as a transition. The action is the one executed.

    Args:
        seen: the features before and after the step.
        gripper_was_closed: the held state before it.
    """
    executed = step.executed
    toggled = executed.gripper_closed != gripper_was_closed
    # a human keeps the door for some ticks after letting go; standing still then is nothing that was shown
    shown = toggled or bool(np.abs(executed.delta).max() > _STILL)
    action = np.append(executed.delta, float(executed.gripper_closed)) if with_gripper else executed.delta
    return Transition(
        episode_id=episode_id,
        t=step.index,
        features=seen[0],
        next_features=seen[1],
        action=action.astype(np.float32),
        reward=float(earned.reward),
        terminated=earned.terminated,
        truncated=earned.truncated,
        intervention=step.source is Source.HUMAN and shown,
        demo=demo,
        toggled=toggled,
    )


class _Row(NamedTuple):
    """A step and the features of the observation that it names."""

    step: Step
    features: Features
    gripper_was_closed: bool


class _Collector:
    """The rows of one episode, in any order, and the transitions between them."""

    def __init__(self, episode_id: str, with_gripper: bool) -> None:
        self._episode_id, self._with_gripper = episode_id, with_gripper
        self._rows: dict[int, _Row] = {}
        self._made: set[int] = set()
        self._waiting: list[Transition] = []  # while nobody but a human has driven
        self._policy_drove = False
        self.closing: int | None = None

    def add(self, row: _Row) -> list[Transition]:
        """Take in a row; what is certain now."""
        index = row.step.index
        if index in self._rows:
            return []
        self._rows[index] = row
        if row.step.is_last:
            self.closing = index
        else:
            self._policy_drove |= row.step.source is Source.POLICY
        for t in (index - 1, index):
            if t in self._rows and t + 1 in self._rows and t not in self._made and not self._rows[t].step.is_last:
                self._made.add(t)
                self._waiting.append(self._transition(t))
        self._forget()
        if self._policy_drove:
            return self.release()
        demonstrated = row.step.is_last and row.step.terminated and row.step.reward > 0.0
        return self.release(demo=True) if demonstrated else []

    def release(self, *, demo: bool = False) -> list[Transition]:
        """Everything that waited."""
        ready = [transition._replace(demo=demo) for transition in sorted(self._waiting, key=lambda found: found.t)]
        self._waiting.clear()
        return ready

    def label(self, outcome: Outcome) -> list[Transition | Label]:
        """A verdict that came after the end: a demonstration that counts after all, or another reward."""
        if self.closing is None or not self.closing:
            return []
        reward, terminated, _ = earned(outcome)
        label = Label(self._episode_id, self.closing - 1, reward, terminated)
        counts = bool(self._waiting) and outcome is Outcome.SUCCESS
        return [*(self.release(demo=True) if counts else []), label]

    def _transition(self, t: int) -> Transition:
        before, after = self._rows[t], self._rows[t + 1]
        return transition(
            self._episode_id,
            before.step,
            (before.features, after.features),
            Earned(after.step.reward, after.step.terminated, after.step.truncated),
            gripper_was_closed=before.gripper_was_closed,
            with_gripper=self._with_gripper,
        )

    def _forget(self) -> None:
        """Features that no transition will need again; their rows stay known."""
        nothing = np.zeros(0, np.float32)
        for t in [t for t in self._made if t - 1 in self._made or t == 0]:
            self._rows[t] = self._rows[t]._replace(features=nothing)


def earned(outcome: Outcome) -> Earned:
    """What an episode's last action came to, by the verdict on the episode."""
    reward = float(outcome is Outcome.SUCCESS)
    return Earned(reward, outcome in (Outcome.SUCCESS, Outcome.FAILURE), outcome in (Outcome.TIMEOUT, Outcome.ABORTED))


class Stream:
    """The transitions of the live stream. Messages of the three topics may overtake each other.

    Args:
        encode: called once for each observation of an episode.
        with_gripper: whether the task uses it.
    """

    def __init__(self, encode: Encode, *, with_gripper: bool) -> None:
        self._encode, self._with_gripper = encode, with_gripper
        self._observations: deque[Observation] = deque(maxlen=_OBSERVATIONS)
        self._steps: deque[Step] = deque(maxlen=_STEPS)
        self._episodes: dict[str, _Collector] = {}
        self._verdicts: dict[str, Outcome] = {}

    def observation(self, observation: Observation) -> list[Transition]:
        """Take in an observation."""
        self._observations.append(observation)
        for step in self._steps:
            if step.observation_stamp_ns == observation.stamp_ns:
                self._steps.remove(step)
                return self._joined(step, observation)
        return []

    def step(self, step: Step) -> list[Transition]:
        """Take in a step; those between episodes are passed over."""
        if not step.episode_id:
            return []
        for observation in reversed(self._observations):
            if observation.stamp_ns == step.observation_stamp_ns:
                return self._joined(step, observation)
        self._steps.append(step)
        return []

    def episode(self, status: EpisodeStatus) -> list[Transition | Label]:
        """Take in a verdict; one that differs from the one before relabels."""
        if status.phase is not Phase.ENDED:
            return []
        before = self._verdicts.setdefault(status.episode_id, status.outcome)
        self._verdicts[status.episode_id] = status.outcome
        _keep_newest(self._verdicts)
        collector = self._episodes.get(status.episode_id)
        return collector.label(status.outcome) if collector is not None and before is not status.outcome else []

    def _joined(self, step: Step, observation: Observation) -> list[Transition]:
        collector = self._episodes.setdefault(step.episode_id, _Collector(step.episode_id, self._with_gripper))
        _keep_newest(self._episodes)
        return collector.add(_Row(step, self._encode(observation), observation.gripper_closed))


def _keep_newest(known: dict[str, Any]) -> None:
    while len(known) > _EPISODES:
        del known[next(iter(known))]


def from_bag(episode: Episode, encode: Encode, *, with_gripper: bool) -> Iterator[Transition | Label]:
    """The transitions of a recorded episode, and the verdict in force where it was changed afterwards.

    Equal to what :class:`Stream` gives for the same messages. Of an episode that was cut off, as many as are whole.
    """
    collector = _Collector(episode.info.episode_id, with_gripper)
    for row in range(len(episode)):
        observation = episode.observation(row)
        yield from collector.add(_Row(_step(episode, row), encode(observation), observation.gripper_closed))
    if episode.info.labels:
        yield from collector.label(episode.info.outcome)


def _step(episode: Episode, row: int) -> Step:
    """What matters here of a recorded step."""
    return Step(
        stamp_ns=int(episode.stamp_ns[row]),
        observation_stamp_ns=int(episode.observation_stamp_ns[row]),
        source=Source(int(episode.source[row])),
        executed=Action(episode.executed[row], bool(episode.executed_gripper_closed[row])),
        target=Pose.identity(),
        episode_id=episode.info.episode_id,
        index=row,
        is_last=bool(episode.is_last[row]),
        reward=float(episode.reward[row]),
        terminated=bool(episode.terminated[row]),
        truncated=bool(episode.truncated[row]),
    )
