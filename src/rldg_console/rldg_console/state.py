"""What the console knows of a cell: fed by the topics, read as one record that a page can show.

Pure, and not for several threads. Times without a stamp are those of a steady clock.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

import msgspec
import numpy as np

from rldg_core.events import Event, EventKind
from rldg_core.task import Task
from rldg_core.types import ActionChunk, EpisodeStatus, Observation, Outcome, Phase, Source, Step
from rldg_core.yaml_text import decode_yaml
from rldg_evaluation.statistics import Count, wilson

MAX_EVENTS = 60
MAX_POLICIES = 32  # beyond these, new names are ignored: whoever invents names must not fill the memory
MAX_TROUBLES = 100
_FORGET_S = 10.0  # a policy or a check that was silent for longer is not listed any more
_RECENT = 30  # outcomes that are shown one by one
_LATENCIES = 20
_BAD = {EventKind.SWAP_ROLLED_BACK, EventKind.FORCE_GUARD, EventKind.FAULT, EventKind.RECOVERY_FAILED}
_STOPS = {EventKind.ESTOP_LATCHED, EventKind.ABORTED}

Level = Literal["info", "good", "warn", "bad"]


class Entry(msgspec.Struct, frozen=True):
    """A line of the log. ``stamp_s``: node clock."""

    stamp_s: float
    level: Level
    text: str


class PolicyView(msgspec.Struct, frozen=True):
    """A policy that answers. Age: of the observation that it answered last; latency: the median of recent answers."""

    policy_id: str
    name: str
    checkpoint: str
    selected: bool
    age_s: float
    latency_s: float


class SuccessView(msgspec.Struct, frozen=True):
    """Episodes since the console came up; aborted ones are no trials. ``low``, ``high``: Wilson's 95 % interval."""

    successes: int
    trials: int
    aborted: int
    low: float
    high: float
    recent: list[str]


class Trouble(msgspec.Struct, frozen=True):
    level: Level
    name: str
    text: str


class View(msgspec.Struct, frozen=True, kw_only=True, tag="state", tag_field="type"):
    """All that a page shows of a cell at one moment."""

    silent_s: float | None  # since the last step; None: there was none
    source: str
    policy_id: str  # in authority, "" for none
    reason: str  # why nobody drives
    changed: list[str]  # what the safety rules changed
    command_age_s: float
    estop: str  # why it is latched, "" if it is not
    phase: str
    episode_id: str
    scene: str
    seed: int
    instruction: str
    outcome: str
    outcome_reason: str
    time_s: float
    limit_s: float
    force_n: float
    gripper_mm: float
    gripper_closed: bool
    tcp_mm: list[float]
    intervened: float  # share of the episode's steps that a person drove
    policies: list[PolicyView]
    success: SuccessView
    troubles: list[Trouble]
    keys: int | None  # which browser holds the keys
    viewers: int


class _Policy:
    def __init__(self) -> None:
        self.answered_ns = -1
        self.heard_s = 0.0
        self.latencies_s: deque[float] = deque(maxlen=_LATENCIES)


class CellState:
    """Takes in what the cell says.

    Args:
        task: gives periods and limits.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._step: Step | None = None
        self._stepped_s = 0.0
        self._episode = EpisodeStatus(stamp_ns=0, task=task.name)
        self._observation: Observation | None = None
        self._policies: dict[str, _Policy] = {}
        self._cards: dict[str, tuple[str, str]] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._steps = self._by_hand = 0  # of this episode
        self._taken_ns: int | None = None  # since when a person drives
        self._troubles: dict[str, tuple[Trouble, float]] = {}
        self._events: deque[Entry] = deque(maxlen=MAX_EVENTS)
        self.told = 0  # entries of the log so far

    @property
    def events(self) -> list[Entry]:
        """The last entries of the log, oldest first."""
        return list(self._events)

    def on_step(self, step: Step, now_s: float) -> None:
        before, self._step, self._stepped_s = self._step, step, now_s
        if before is None or step.episode_id != before.episode_id:
            self._steps = self._by_hand = 0
        self._steps += 1
        self._by_hand += step.source is Source.HUMAN
        if step.source is Source.HUMAN and self._taken_ns is None:
            self._taken_ns = step.stamp_ns
            whom = f" from {step.policy_id}" if step.policy_id and step.episode_id else ""
            self._tell(step.stamp_ns, "info", f"a person takes over{whom}")
        elif step.human_action is None and self._taken_ns is not None:  # a hold in between is no letting go
            lasted_s = (step.stamp_ns - self._taken_ns) * 1e-9
            self._taken_ns = None
            self._tell(step.stamp_ns, "info", f"the person let go after {lasted_s:.1f} s")

    def on_episode(self, episode: EpisodeStatus) -> None:
        before, ended = self._episode, episode.phase is Phase.ENDED
        # a new verdict on an earlier episode does not end the one that runs
        if not ended or before.episode_id in ("", episode.episode_id):
            self._episode = episode
        if not ended:
            if episode.phase is Phase.RUNNING and before.phase is not Phase.RUNNING:
                self._tell(episode.stamp_ns, "info", f"episode {_number(episode)} begins, seed {episode.seed}")
            return
        if self._outcomes.get(episode.episode_id) is episode.outcome:
            return
        self._outcomes[episode.episode_id] = episode.outcome
        good = episode.outcome is Outcome.SUCCESS
        why = f": {episode.reason}" if episode.reason else ""
        line = f"episode {_number(episode)}: {episode.outcome}{why}"
        self._tell(episode.stamp_ns, "good" if good else "warn", line)

    def on_observation(self, observation: Observation) -> None:
        self._observation = observation

    def on_action(self, chunk: ActionChunk, now_ns: int, now_s: float) -> None:
        policy = self._policies.get(chunk.policy_id)
        if policy is None:
            if len(self._policies) >= MAX_POLICIES:
                return
            policy = self._policies[chunk.policy_id] = _Policy()
        if chunk.observation_stamp_ns != policy.answered_ns:
            policy.answered_ns = chunk.observation_stamp_ns
            policy.latencies_s.append((now_ns - chunk.observation_stamp_ns) * 1e-9)
        policy.heard_s = now_s

    def on_card(self, text: str) -> None:
        """A policy's card. Raises ValueError where it is none."""
        card = decode_yaml(text.encode())
        if not isinstance(card, dict) or not isinstance(card.get("policy_id"), str):
            raise ValueError(f"policy_card: {text[:80]!r} names no policy_id")
        if len(self._cards) < MAX_POLICIES or card["policy_id"] in self._cards:
            self._cards[card["policy_id"]] = str(card.get("name", "")), str(card.get("checkpoint_hash", ""))[:12]

    def on_event(self, event: Event) -> None:
        if event.kind in _BAD:
            level: Level = "bad"
        elif event.kind in _STOPS:
            level = "warn"
        else:
            level = "good" if event.kind is EventKind.SWAP_COMPLETED else "info"
        self._tell(event.stamp_ns, level, event.line())

    def on_check(self, name: str, level: Level, text: str, now_s: float) -> None:
        """A check of a node's diagnostics, said again every second; "info" where it is in order."""
        if level == "info":
            self._troubles.pop(name, None)
        elif name in self._troubles or len(self._troubles) < MAX_TROUBLES:
            self._troubles[name] = Trouble(level, name, text), now_s

    def view(self, now_ns: int, now_s: float, keys: int | None = None, viewers: int = 0) -> View:
        """What is to be shown now."""
        step, episode, observation = self._step, self._episode, self._observation
        reason = step.reason if step is not None else ""
        self._policies = {name: p for name, p in self._policies.items() if now_s - p.heard_s <= _FORGET_S}
        self._troubles = {name: t for name, t in self._troubles.items() if now_s - t[1] <= _FORGET_S}
        troubles = [trouble for trouble, _ in self._troubles.values()]
        return View(
            silent_s=now_s - self._stepped_s if step is not None else None,
            source=step.source.name.lower() if step is not None else "hold",
            policy_id=step.policy_id if step is not None else "",
            reason=reason,
            changed=[str(flag.name).lower() for flag in step.changed] if step is not None else [],
            command_age_s=step.command_age_s if step is not None else 0.0,
            estop=reason.removeprefix("e-stop: ") if reason.startswith("e-stop: ") else "",
            phase=episode.phase.name.lower(),
            episode_id=episode.episode_id,
            scene=episode.scene,
            seed=episode.seed,
            instruction=episode.instruction,
            outcome=str(episode.outcome),
            outcome_reason=episode.reason,
            time_s=episode.index * self._task.control.period_s,
            limit_s=self._task.time_limit_s,
            force_n=float(np.linalg.norm(observation.wrench[:3])) if observation is not None else 0.0,
            gripper_mm=observation.gripper_width_m * 1e3 if observation is not None else 0.0,
            gripper_closed=observation is not None and observation.gripper_closed,
            tcp_mm=(observation.tcp_pose.position * 1e3).round(1).tolist() if observation is not None else [],
            intervened=self._by_hand / self._steps if self._steps else 0.0,
            policies=[self._policy(name, policy, now_ns) for name, policy in sorted(self._policies.items())],
            success=self._success(),
            troubles=sorted(troubles, key=lambda trouble: (trouble.level != "bad", trouble.name)),
            keys=keys,
            viewers=viewers,
        )

    def _policy(self, policy_id: str, policy: _Policy, now_ns: int) -> PolicyView:
        name, checkpoint = self._cards.get(policy_id, ("", ""))
        return PolicyView(
            policy_id=policy_id,
            name=name,
            checkpoint=checkpoint,
            selected=self._step is not None and self._step.policy_id == policy_id,
            age_s=(now_ns - policy.answered_ns) * 1e-9,
            latency_s=float(np.median(policy.latencies_s)),
        )

    def _success(self) -> SuccessView:
        outcomes = list(self._outcomes.values())
        aborted = outcomes.count(Outcome.ABORTED)
        count = Count(outcomes.count(Outcome.SUCCESS), len(outcomes) - aborted)
        low, high = wilson(count)
        recent = [str(outcome) for outcome in outcomes[-_RECENT:]]
        return SuccessView(count.successes, count.trials, aborted, low, high, recent)

    def _tell(self, stamp_ns: int, level: Level, text: str) -> None:
        self._events.append(Entry(stamp_ns * 1e-9, level, text))
        self.told += 1


def _number(episode: EpisodeStatus) -> str:
    """The part of an episode's id that tells it from others of its session."""
    return episode.episode_id.rpartition("/")[2]
