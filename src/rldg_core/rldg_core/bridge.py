"""The rate bridge: what policies of any rate said, as one action a tick.

A chunk answers one observation, and its first action is due at the tick at which that observation was in force: that
is what the policy was trained on, whatever the time from capture to tick. From there on the position in the chunk is
the time that has passed, so that a lost tick or a slow answer never re-times a plan. How long an answer takes is
measured.
"""

from __future__ import annotations

import enum
import re
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from rldg_core.frames import Array
from rldg_core.task import Task
from rldg_core.types import ACTION_SIZE, Action, ActionChunk

MAX_CHUNK = 256  # longest chunk that is accepted
MAX_POLICIES = 32  # as many are remembered
FORGET_S = 60.0  # a policy that was silent for so long makes room for another
SLOW_PACE = 0.5  # of LateRule.SLOW_DOWN
_ENSEMBLE_CHUNKS = 32  # as many consecutive chunks are merged at most
_MEASURED_ANSWERS = 100  # running percentiles are of so many
_USUAL_ANSWERS = 10  # what is usual is judged by so many
_EPSILON = 1e-3  # of a period: a period that travelled as a float32 is no multiple of a nanosecond


class LateRule(enum.StrEnum):
    """What a chunk is good for once the observation that it answers is older than ``safety.max_action_age_s``."""

    HOLD = "hold"  # nothing
    REST_OF_CHUNK = "rest_of_chunk"  # the actions that are still due
    SLOW_DOWN = "slow_down"  # the same at half the speed, along the same path


@dataclass(frozen=True)
class Bridging:
    """How chunks become actions.

    Attributes:
        late: what happens when the next answer is late.
        ensemble: weight of a chunk that is one period older than the newest, in [0, 1]; 0 = only the newest counts. The
            chunks that cover a tick are averaged with it (temporal ensembling: Zhao et al. 2023, arXiv 2304.13705).
    """

    late: LateRule = LateRule.REST_OF_CHUNK
    ensemble: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.ensemble <= 1.0:
            raise ValueError(f"ensemble: {self.ensemble}, must be in [0, 1]")


@dataclass(frozen=True)
class Latency:
    """From the capture of an observation to the arrival of its answer, over the last answers."""

    answers: int
    p50_s: float
    p95_s: float


@dataclass
class _Stream:
    """What one policy said."""

    chunks: deque[ActionChunk] = field(default_factory=lambda: deque(maxlen=_ENSEMBLE_CHUNKS))  # newest last
    refusal: str = ""  # why the last one was refused
    complaint: str = ""  # why it has no answer, as it says itself
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=_MEASURED_ANSWERS))
    answered_tick: int = 0  # the tick before the newest answer
    intervals: deque[int] = field(default_factory=lambda: deque(maxlen=_USUAL_ANSWERS))  # ticks from answer to answer


def is_policy_id(text: str) -> bool:
    """Whether a policy may call itself so: something that fits a log line."""
    return re.fullmatch(r"[A-Za-z0-9_./-]{1,64}", text) is not None


class RateBridge:
    """Keeps what policies say and gives what is due.

    Args:
        task: control period and age limits.
        tcp_frame: frame id that actions must carry.
        bridging: the rules.
    """

    def __init__(self, task: Task, tcp_frame: str, bridging: Bridging) -> None:
        self._safety = task.safety
        self._period_s = task.control.period_s
        self._tcp_frame = tcp_frame
        self._bridging = bridging
        self._streams: dict[str, _Stream] = {}
        self._in_force: deque[tuple[int, int]] = deque(maxlen=MAX_CHUNK)  # of the last ticks: stamp, observation stamp
        self._ticks = 0  # at which a policy could be expected to have answered

    # what comes in

    def offer(self, chunk: ActionChunk, now_ns: int | None = None) -> str:
        """Take in an answer; the newest of each policy counts.

        Args:
            chunk: the answer.
            now_ns: time of its arrival, to measure the latency; None: not measured.

        Returns:
            "" if it was kept, else why it was refused.
        """
        stream = self._streams.get(chunk.policy_id)
        if stream is None:
            if not is_policy_id(chunk.policy_id) or not self._room():
                allowed = f"1 to 64 letters, digits, _ - . or /, of at most {MAX_POLICIES} policies"
                return f"policy id {chunk.policy_id[:32]!r}: must be {allowed}"
            stream = self._streams[chunk.policy_id] = _Stream()
        refusal = self._refusal(chunk)
        if refusal:
            stream.refusal = refusal
            return refusal
        newest = stream.chunks[-1] if stream.chunks else None
        if newest is not None and chunk.observation_stamp_ns < newest.observation_stamp_ns:
            return ""  # a newer one is there
        stream.refusal = stream.complaint = ""
        if newest is not None and chunk.observation_stamp_ns == newest.observation_stamp_ns:
            stream.chunks[-1] = chunk  # said again
            return ""
        stream.chunks.append(chunk)
        if newest is not None:
            stream.intervals.append(self._ticks - stream.answered_tick)
        stream.answered_tick = self._ticks
        if now_ns is not None:
            stream.latencies_s.append((now_ns - chunk.observation_stamp_ns) * 1e-9)
        return ""

    def complain(self, policy_id: str, trouble: str) -> None:
        """A policy says itself why it has no answer; forgotten at its next one."""
        stream = self._streams.get(policy_id)
        if stream is not None:
            stream.complaint = trouble

    def begin_tick(self, now_ns: int, observation_stamp_ns: int) -> bool:
        """A tick with this observation in force; returns whether the observation is the one of the tick before."""
        repeated = bool(self._in_force) and self._in_force[-1][1] == observation_stamp_ns
        self._in_force.append((now_ns, observation_stamp_ns))
        return repeated

    def expect_answers(self) -> None:
        """At this tick a policy could have answered: it counts as missed where none did since the last."""
        self._ticks += 1

    def begin_episode(self) -> None:
        """What nobody answered before this does not count as missed."""
        for stream in self._streams.values():
            stream.answered_tick = self._ticks

    # what is known

    @property
    def policies(self) -> list[str]:
        """Ids of the policies that were heard, sorted."""
        return sorted(name for name, stream in self._streams.items() if stream.chunks)

    def refusal(self, policy_id: str) -> str:
        """Why the last thing that this policy said was refused, "" if it was not."""
        stream = self._streams.get(policy_id)
        return stream.refusal if stream is not None else ""

    def complaint(self, policy_id: str) -> str:
        """Why this policy has no answer, as it says itself, "" if it says nothing."""
        stream = self._streams.get(policy_id)
        return stream.complaint if stream is not None else ""

    def staleness(self, policy_id: str, now_ns: int) -> str:
        """Why nothing that this policy said may be executed any more, "" if something may."""
        stream = self._streams.get(policy_id)
        if stream is None or not stream.chunks:
            return f"policy {policy_id!r} has sent no action"
        age_s = (now_ns - stream.chunks[-1].observation_stamp_ns) * 1e-9
        if age_s > self._lifetime_s(stream.chunks[-1]):
            says = f"; it says: {stream.complaint}" if stream.complaint else ""
            return f"policy {policy_id!r} is stale: its last action answers an observation {age_s:.2f} s old{says}"
        return ""

    def has_answered(self, policy_id: str, since_ns: int) -> bool:
        """Whether a policy has answered an observation that is not older than this."""
        stream = self._streams.get(policy_id)
        return stream is not None and bool(stream.chunks) and stream.chunks[-1].observation_stamp_ns >= since_ns

    def is_ahead(self, policy_id: str, other_id: str) -> bool:
        """Whether a policy has answered a newer observation than another."""
        other = self._streams.get(other_id)
        newest_ns = other.chunks[-1].observation_stamp_ns if other is not None and other.chunks else -1
        return self.has_answered(policy_id, newest_ns + 1)

    def silence(self, policy_id: str) -> str:
        """Why this policy is later than it usually is, "" if it is not: one tick more than usual is allowed.

        What is usual is the longest of its last intervals, but never more than its chunk is long.
        """
        stream = self._streams.get(policy_id)
        if stream is None or not stream.chunks:
            return f"policy {policy_id!r} has sent no action"
        chunk = stream.chunks[-1]
        covered = max(1, round(len(chunk.deltas) * chunk.period_s / self._period_s))
        usual = max(1, min(max(stream.intervals, default=1), covered))
        missed = self._ticks - stream.answered_tick - 1  # the answer to this tick's observation need not be there yet
        return f"policy {policy_id!r} fell silent: no answer for {missed} ticks" if missed > usual else ""

    def latency(self, policy_id: str) -> Latency | None:
        """Measured latency of a policy, None where nothing was measured."""
        stream = self._streams.get(policy_id)
        if stream is None or not stream.latencies_s:
            return None
        p50_s, p95_s = np.percentile(stream.latencies_s, (50, 95)).tolist()
        return Latency(len(stream.latencies_s), p50_s, p95_s)

    def due(self, policy_id: str, now_ns: int, since_ns: int) -> tuple[Action | None, str]:
        """A policy's action for this tick, or why there is none.

        Args:
            policy_id: which policy.
            now_ns: time of the tick.
            since_ns: answers to older observations do not count (they belong to another episode).
        """
        refusal = self.refusal(policy_id)
        if refusal:
            return None, f"policy {policy_id!r} refused: {refusal}"
        stale = self.staleness(policy_id, now_ns)
        if stale:
            return None, stale
        if not self.has_answered(policy_id, since_ns):
            return None, f"policy {policy_id!r} has not answered an observation of this episode yet"
        stream = self._streams[policy_id]
        newest = stream.chunks[-1]
        position, pace = self._position(newest, now_ns)
        index = min(int(position), len(newest.deltas) - 1)  # the last one is kept until it is too old
        delta = np.asarray(newest.deltas[index], dtype=np.float64)
        if self._bridging.ensemble > 0.0:
            delta = self._merged(stream, now_ns, since_ns, delta)
        return Action(delta * pace, bool(newest.gripper_closed[index])), ""

    # parts

    def _room(self) -> bool:
        """Whether one policy more can be remembered; one that was silent for long is forgotten where it must be."""
        if len(self._streams) < MAX_POLICIES:
            return True
        now_ns = self._in_force[-1][1] if self._in_force else 0

        def heard_ns(policy_id: str) -> int:
            chunks = self._streams[policy_id].chunks
            return chunks[-1].observation_stamp_ns if chunks else 0

        oldest = min(self._streams, key=heard_ns)
        if now_ns - heard_ns(oldest) <= FORGET_S * 1e9:
            return False
        del self._streams[oldest]
        return True

    def _refusal(self, chunk: ActionChunk) -> str:
        deltas = np.asarray(chunk.deltas)
        if chunk.frame_id != self._tcp_frame:
            return f"action in frame {chunk.frame_id!r}, must be {self._tcp_frame!r}"
        if deltas.ndim != 2 or deltas.shape[1] != ACTION_SIZE or not 1 <= len(deltas) <= MAX_CHUNK:
            return f"action chunk has shape {deltas.shape}, must be (1 to {MAX_CHUNK}, {ACTION_SIZE})"
        if len(chunk.gripper_closed) != len(deltas):
            return f"action chunk has {len(chunk.gripper_closed)} gripper states for {len(deltas)} deltas"
        if not np.isfinite(deltas).all():
            return "action is not finite"
        if not 0.0 < chunk.period_s <= 10.0:
            return f"action chunk has period {chunk.period_s} s, must be in (0, 10]"
        if self._in_force and chunk.observation_stamp_ns > self._in_force[-1][1] + 10**9:
            return "action answers an observation from the future"
        return ""

    def _lifetime_s(self, chunk: ActionChunk) -> float:
        """How old the observation may be that a chunk answers."""
        limit_s, rest_s = self._safety.max_action_age_s, (len(chunk.deltas) - 1) * chunk.period_s
        stretch = {LateRule.HOLD: 0.0, LateRule.REST_OF_CHUNK: 1.0, LateRule.SLOW_DOWN: 1.0 / SLOW_PACE}
        lifetime_s = limit_s + stretch[self._bridging.late] * rest_s
        return min(lifetime_s, max(limit_s, self._safety.max_chunk_age_s))

    def _position(self, chunk: ActionChunk, now_ns: int) -> tuple[float, float]:
        """Where in the chunk this tick is (periods of the chunk since its first action was due), and the pace there."""
        elapsed_s = max(now_ns - self._due_ns(chunk.observation_stamp_ns, now_ns), 0) * 1e-9
        pace, late_s = 1.0, elapsed_s - self._safety.max_action_age_s
        if self._bridging.late is LateRule.SLOW_DOWN and late_s > -_EPSILON * self._period_s:
            pace = SLOW_PACE
            elapsed_s -= (1.0 - pace) * late_s
        return elapsed_s / chunk.period_s + _EPSILON, pace

    def _due_ns(self, observation_stamp_ns: int, now_ns: int) -> int:
        """When the first action that answers an observation is or was due: the tick at which that was in force."""
        due_ns = now_ns
        for tick_ns, stamp_ns in reversed(self._in_force):
            if stamp_ns < observation_stamp_ns:
                break
            # an observation that was overtaken before its tick: as many whole periods earlier
            ahead = round((stamp_ns - observation_stamp_ns) * 1e-9 / self._period_s)
            due_ns = tick_ns - round(ahead * self._period_s * 1e9)
        return due_ns

    def _merged(self, stream: _Stream, now_ns: int, since_ns: int, newest_delta: Array) -> Array:
        """The mean of what the chunks of a policy say about this tick, shape (6,); newer ones weigh more."""
        newest_ns = stream.chunks[-1].observation_stamp_ns
        weights, deltas = [1.0], [newest_delta]
        for chunk in list(stream.chunks)[:-1]:
            position, _ = self._position(chunk, now_ns)
            age_s = (now_ns - chunk.observation_stamp_ns) * 1e-9
            if (
                chunk.observation_stamp_ns < since_ns
                or age_s > self._lifetime_s(chunk)
                or position >= len(chunk.deltas)
            ):
                continue
            periods = (newest_ns - chunk.observation_stamp_ns) * 1e-9 / self._period_s
            weights.append(self._bridging.ensemble**periods)
            deltas.append(np.asarray(chunk.deltas[int(position)], dtype=np.float64))
        merged: Array = (np.array(weights) / sum(weights)) @ np.array(deltas)
        return merged
