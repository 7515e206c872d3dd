"""Is a recording good enough to learn from? Judged while it grows and afterwards, with one answer.

The :class:`Auditor` is fed with exactly what the bag keeps of each message, in the order of the file, so the verdict
of the recorder and that of ``./rldg bag audit`` are the same computation. Rates and gaps are counted in header stamps
and between the first observation of the episode and its closing step: what lies around them is only context.

Verdict: ``fail`` where the episode cannot be trusted as training data (something of ``observation``, ``step`` or
``episode`` is lost, late or out of order), ``warn`` where something else is wrong, else ``ok``. Thresholds:

* rate: below 0.9 of what is expected warns, on a critical topic below 0.5 fails;
* gap: longer than 1.75 periods, and than half a control period, warns; on a critical topic longer than 5 periods fails;
* clock: a stamp that differs by more than 0.5 s from what the time of sending lets expect is a jump (real time);
* ages (real time): an image older than ``safety.max_observation_age_s`` fails, older than a control period warns, as do
  a skew above 50 ms and a command older than ``safety.max_action_age_s``;
* anything lost, duplicate, backwards, or from a second publisher: fails on a critical topic, else warns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path

import msgspec

from rldg_core.task import Task
from rldg_recorder.bag_reader import BagReader
from rldg_recorder.bag_writer import Topic
from rldg_recorder.episode import TopicInfo, read_info
from rldg_recorder.topics import OBSERVATION_TYPE, STEP_TYPE, TopicSpec, catalogue, find_spec
from rldg_recorder.wire import (
    Bytes,
    ObservationHead,
    StepHead,
    begins_with_header,
    observation_head,
    stamp_of,
    step_head,
)

AUDIT_FILE = "audit.yaml"

_NS = 1_000_000_000
_SLOW, _MUCH_TOO_SLOW = 0.9, 0.5  # of the expected rate
_GAP_PERIODS, _LONG_GAP_PERIODS = 1.75, 5.0
_JUMP_NS = _NS // 2
_MAX_SKEW_S = 0.05
_SILENT_S = 0.4  # and longer than three periods: a stream is reported as silent while it is
_SLOW_NOW = 0.7  # of the expected rate, over about the last second
_LOOK_BACK = 4  # calls of now()
_BEFORE = 128  # stamps kept of each topic until the episode begins

# how a bag's 32-bit sequence number is put together: who sent it, and its own count
_NUMBER_BITS = 28
_MAX_PUBLISHERS = 1 << (32 - _NUMBER_BITS)


def coded_sequence(publisher: int, number: int) -> int:
    """The sequence number a bag keeps: the publisher's own count, and above it which publisher of the topic it was.

    With one publisher it is that publisher's count. 0 means unknown; so does a publisher beyond the 15th.
    """
    if publisher >= _MAX_PUBLISHERS or number <= 0:
        return 0
    return publisher << _NUMBER_BITS | number & ((1 << _NUMBER_BITS) - 1)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong: where, what, and what to do about it."""

    level: str  # warn or fail
    topic: str  # "" where it is about the episode
    check: str
    text: str  # one line


class TopicFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted of one topic; stamps, within the episode."""

    messages: int  # in the bag
    expected_hz: float | None = None
    rate_hz: float | None = None
    gaps: int = 0
    longest_gap_s: float = 0.0
    lost: int = 0  # by sequence number; those that the recorder itself dropped are among them
    duplicates: int = 0
    backwards: int = 0
    publishers: int = 0


class AuditReport(msgspec.Struct, frozen=True, kw_only=True):
    """The file ``audit.yaml``."""

    verdict: str  # ok, warn or fail
    findings: tuple[Finding, ...]
    steps: int
    observations: int
    duration_s: float  # first observation to last step
    max_image_age_s: float
    max_state_age_s: float
    max_skew_s: float
    max_command_age_s: float
    topics: dict[str, TopicFigures]


class _Stream:
    """What is known of one topic."""

    def __init__(self, name: str, kind: str, stamped: bool, spec: TopicSpec | None, expected_hz: float | None) -> None:
        self.name, self.kind, self.stamped = name, kind, stamped
        self.critical = spec is not None and spec.critical
        self.latched = spec is not None and spec.latched
        self.shared = spec is not None and spec.shared
        self.expected_hz = expected_hz
        self.messages = self.counted = self.gaps = self.lost = self.duplicates = self.backwards = 0
        self.jumps = self.malformed = 0
        self.jump_ns = 0
        self.longest_ns = self.longest_at_ns = 0
        self.last_ns: int | None = None  # newest stamp within the episode
        self.heard_ns: int | None = None  # log time of the newest message
        self.before: deque[int] = deque(maxlen=_BEFORE)
        self.previous: dict[int, tuple[int, int]] = {}  # by publisher: stamp and time of sending
        self.numbers: dict[int, int] = {}  # by publisher
        self.publishers: list[int] = []  # that sent within the episode, in order of appearance
        self.sender = -1
        self.interleaved = False
        self.recent: deque[tuple[int, int]] = deque(maxlen=_LOOK_BACK)  # log time and messages by then


class Auditor:
    """Takes in what a bag keeps, message by message; see the module for what it looks at.

    Args:
        episode_id: whose recording it is.
        task: control rate and age limits.
        lockstep: time is simulated, and a message that is said again is normal.
        expected: the topics that were to be recorded, with their rates.
    """

    def __init__(self, episode_id: str, task: Task, lockstep: bool, expected: Mapping[str, TopicInfo]) -> None:
        self._episode_id, self._task, self._lockstep = episode_id, task, lockstep
        self._specs = catalogue(task, lockstep, cameras=True)
        self._expected = {name: info.expected_hz for name, info in expected.items()}
        self._streams: dict[str, _Stream] = {}
        self._begin_ns: int | None = None  # stamp of the first observation or step of the episode
        self._end_ns: int | None = None  # stamp of the closing step
        self._began_log_ns = 0
        self._newest_ns = 0
        self._observations: dict[int, int] = {}  # by stamp: index
        self._steps: dict[int, StepHead] = {}
        self._repeated = 0  # steps with the index of another one
        self._ages = [0.0, 0.0, 0.0, 0.0]  # image, state, skew, command: the largest (s)

    @property
    def steps(self) -> Mapping[int, StepHead]:
        """The steps of the episode so far, by index; of several with one index the first."""
        return self._steps

    def add_topic(self, topic: Topic) -> None:
        """Announce a topic before its first message."""
        spec = find_spec(self._specs, topic.name)
        stamped = begins_with_header(topic.definition)
        expected_hz = self._expected.get(topic.name)
        self._streams[topic.name] = _Stream(topic.name, topic.type, stamped, spec, expected_hz)

    def feed(self, topic: str, data: Bytes, log_ns: int, publish_ns: int, sequence: int) -> None:
        """Take in one message as the bag keeps it; ``sequence`` is a :func:`coded_sequence`."""
        stream = self._streams[topic]
        stream.messages += 1
        stream.heard_ns = log_ns
        stamp_ns = stamp_of(data) if stream.stamped else None
        if stream.kind in (OBSERVATION_TYPE, STEP_TYPE):
            try:
                self._feed_pair(step_head(data) if stream.kind == STEP_TYPE else observation_head(data), log_ns)
            except ValueError:
                stream.malformed += 1
                return
        publisher = sequence >> _NUMBER_BITS if sequence else 0
        if sequence:
            self._count_lost(stream, publisher, sequence & ((1 << _NUMBER_BITS) - 1))
        if not stream.stamped:
            return
        if stamp_ns is None:
            stream.malformed += 1
            return
        self._check_order(stream, publisher, stamp_ns, publish_ns)
        if self._begin_ns is None:
            stream.before.append(stamp_ns)
        else:
            self._count(stream, stamp_ns)

    def _feed_pair(self, head: StepHead | ObservationHead, log_ns: int) -> None:
        if head.episode_id != self._episode_id:
            return
        if self._begin_ns is None:
            self._began_log_ns = log_ns
            self._begin_ns = head.stamp_ns if isinstance(head, ObservationHead) else head.observation_stamp_ns
            for stream in self._streams.values():
                for stamp_ns in stream.before:
                    self._count(stream, stamp_ns)
                stream.before.clear()
        if isinstance(head, ObservationHead):
            self._observations[head.stamp_ns] = head.index
            ages = (head.image_age_s, head.state_age_s, head.skew_s, 0.0)
        else:
            known = self._steps.setdefault(head.index, head)
            self._repeated += known.stamp_ns != head.stamp_ns
            ages = (0.0, 0.0, 0.0, head.command_age_s)
            if head.is_last and self._end_ns is None:
                self._end_ns = head.stamp_ns
        self._ages = [max(old, new) for old, new in zip(self._ages, ages, strict=True)]

    def _count_lost(self, stream: _Stream, publisher: int, number: int) -> None:
        last = stream.numbers.get(publisher)
        if last is not None and number > last + 1:
            stream.lost += number - last - 1
        stream.numbers[publisher] = number if last is None else max(last, number)
        if self._begin_ns is None or self._end_ns is not None:
            return
        if publisher not in stream.publishers:
            stream.publishers.append(publisher)
        elif publisher != stream.sender:
            stream.interleaved = True
        stream.sender = publisher

    def _check_order(self, stream: _Stream, publisher: int, stamp_ns: int, publish_ns: int) -> None:
        before = stream.previous.get(publisher)
        stream.previous[publisher] = (stamp_ns, publish_ns)
        if before is None:
            return
        passed_ns = stamp_ns - before[0]
        stream.backwards += passed_ns < 0
        if self._lockstep or stream.latched:  # there the last word may be said again
            return
        stream.duplicates += passed_ns == 0
        jump_ns = passed_ns - (publish_ns - before[1])
        if abs(jump_ns) > _JUMP_NS:
            stream.jumps += 1
            stream.jump_ns = max(stream.jump_ns, jump_ns, key=abs)

    def _count(self, stream: _Stream, stamp_ns: int) -> None:
        """Rate and gaps, within the episode."""
        assert self._begin_ns is not None
        last_ns = self._begin_ns if stream.last_ns is None else stream.last_ns
        if stamp_ns < self._begin_ns or (self._end_ns is not None and stamp_ns > self._end_ns):
            return
        self._newest_ns = max(self._newest_ns, stamp_ns)
        stream.counted += stream.last_ns is None or stamp_ns > last_ns
        self._note_gap(stream, last_ns, stamp_ns)
        stream.last_ns = max(last_ns, stamp_ns)

    def _note_gap(self, stream: _Stream, last_ns: int, stamp_ns: int) -> None:
        assert self._begin_ns is not None
        gap_ns = stamp_ns - last_ns
        if gap_ns > stream.longest_ns:
            stream.longest_ns, stream.longest_at_ns = gap_ns, last_ns - self._begin_ns
        stream.gaps += gap_ns > self._allowed_gap_ns(stream)

    def _allowed_gap_ns(self, stream: _Stream) -> float:
        if stream.expected_hz is None:
            return float("inf")
        return max(_GAP_PERIODS / stream.expected_hz, 0.5 * self._task.control.period_s) * _NS

    # verdicts

    def now(self, log_ns: int) -> list[Finding]:
        """What is wrong at this moment, for ``/diagnostics``: what was counted so far, and what is silent or slow.

        Args:
            log_ns: the wall clock, that of the log times; to be called a few times a second.
        """
        if self._begin_ns is None or self._end_ns is not None:
            return []
        found = [finding for stream in self._streams.values() for finding in self._of_stream(stream)]
        for stream in self._streams.values():
            stream.recent.append((log_ns, stream.messages))
            if not stream.expected_hz:
                continue
            period_s = 1.0 / stream.expected_hz
            if self._lockstep:  # wall time says nothing: somebody else must be ahead
                behind_s = (self._newest_ns - (stream.last_ns or self._begin_ns)) / _NS
                silent = behind_s > 3.0 * period_s
            else:
                behind_s = (log_ns - (stream.heard_ns or log_ns)) / _NS
                silent = behind_s > max(3.0 * period_s, _SILENT_S)
            if silent:
                found.append(_finding(stream, "silent", f"silent for {behind_s:.1f} s; is its publisher alive?"))
            elif not self._lockstep and len(stream.recent) == _LOOK_BACK:
                began_ns, count = stream.recent[0]
                came, span_s = stream.messages - count, (log_ns - began_ns) / _NS
                if came + 1 < _SLOW_NOW * stream.expected_hz * span_s:  # one more or less is rounding
                    text = f"{came / span_s:.0f} Hz now, expected {stream.expected_hz:g} Hz"
                    found.append(_finding(stream, "slow", text, fail=False))
        if log_ns - self._began_log_ns > _NS:
            found += [self._missing(name) for name, rate_hz in self._expected.items() if rate_hz and self._absent(name)]
        return found

    def _absent(self, name: str) -> bool:
        return name not in self._streams or not self._streams[name].messages

    def _missing(self, name: str) -> Finding:
        spec = find_spec(self._specs, name)
        level = "fail" if spec is not None and spec.critical else "warn"
        text = f"no message, expected {self._expected[name]:g} Hz; is its publisher running?"
        return Finding(level=level, topic=name, check="missing", text=text)

    def report(self) -> AuditReport:
        """The verdict on what was fed so far, taken as the whole recording."""
        end_ns = self._newest_ns if self._end_ns is None else self._end_ns
        duration_s = 0.0 if self._begin_ns is None else max(0.0, (end_ns - self._begin_ns) / _NS)
        findings = [*self._of_episode()]
        figures = {}
        for name in sorted({*self._expected, *self._streams}):
            if self._absent(name):
                expected_hz = self._expected.get(name)
                figures[name] = TopicFigures(messages=0, expected_hz=expected_hz)
                findings += [self._missing(name)] if expected_hz else []
                continue
            stream = self._streams[name]
            longest_ns, gaps = stream.longest_ns, stream.gaps
            if self._begin_ns is not None and stream.expected_hz:
                tail_ns = end_ns - (self._begin_ns if stream.last_ns is None else stream.last_ns)
                longest_ns, gaps = max(longest_ns, tail_ns), gaps + (tail_ns > self._allowed_gap_ns(stream))
            rate_hz = stream.counted / duration_s if stream.stamped and duration_s > 0.0 else None
            figures[name] = TopicFigures(
                messages=stream.messages,
                expected_hz=stream.expected_hz,
                rate_hz=None if rate_hz is None else round(rate_hz, 3),
                gaps=gaps,
                longest_gap_s=round(longest_ns / _NS, 6),
                lost=stream.lost,
                duplicates=stream.duplicates,
                backwards=stream.backwards,
                publishers=len(stream.publishers),
            )
            findings += self._of_stream(stream)
            findings += self._of_rate(stream, duration_s, end_ns)
        levels = {finding.level for finding in findings}
        image_s, state_s, skew_s, command_s = (round(age_s, 6) for age_s in self._ages)
        return AuditReport(
            verdict="fail" if "fail" in levels else "warn" if levels else "ok",
            findings=tuple(findings),
            steps=len(self._steps),
            observations=len(self._observations),
            duration_s=round(duration_s, 6),
            max_image_age_s=image_s,
            max_state_age_s=state_s,
            max_skew_s=skew_s,
            max_command_age_s=command_s,
            topics=figures,
        )

    def _of_stream(self, stream: _Stream) -> list[Finding]:
        """What can be said at any time."""
        found = []
        if stream.lost:
            text = f"{stream.lost} of {stream.messages + stream.lost} messages are lost, by the publisher's count"
            found.append(_finding(stream, "lost", f"{text}; relieve the machine or raise max_queue_mb"))
        if stream.malformed:
            found.append(
                _finding(stream, "malformed", f"{stream.malformed} messages are cut off or have no valid stamp")
            )
        if stream.backwards:
            text = f"{stream.backwards} stamps are older than the one before; see who sets that clock"
            found.append(_finding(stream, "backwards", text))
        if stream.duplicates:
            text = f"{stream.duplicates} stamps occur twice; the publisher repeats itself"
            found.append(_finding(stream, "duplicates", text))
        if stream.jumps:
            text = f"the clock of the stamps jumped {stream.jumps} times, by up to {stream.jump_ns / _NS:+.2f} s"
            found.append(_finding(stream, "clock", f"{text}; synchronise it before recording"))
        if len(stream.publishers) > 1 and not stream.shared:
            how = "at once; stop one of them" if stream.interleaved else "one after the other; was one restarted?"
            text = f"{len(stream.publishers)} publishers {how}"
            found.append(_finding(stream, "publishers", text, fail=stream.interleaved))
        if stream.gaps:
            assert stream.expected_hz is not None
            text = (
                f"{stream.gaps} gaps, the longest {stream.longest_ns / _NS:.3f} s at {stream.longest_at_ns / _NS:.2f} s"
                f"; a message is due every {1.0 / stream.expected_hz:.3f} s"
            )
            found.append(_finding(stream, "gap", text, fail=self._is_long(stream, stream.longest_ns)))
        return found

    def _is_long(self, stream: _Stream, gap_ns: int) -> bool:
        return stream.expected_hz is not None and gap_ns * stream.expected_hz > _LONG_GAP_PERIODS * _NS

    def _of_rate(self, stream: _Stream, duration_s: float, end_ns: int) -> list[Finding]:
        """What can be said when the recording is over."""
        found = []
        if stream.expected_hz is None or not stream.stamped or self._begin_ns is None:
            return []
        last_ns = self._begin_ns if stream.last_ns is None else stream.last_ns
        if end_ns - last_ns > self._allowed_gap_ns(stream):
            text = f"silent for the last {(end_ns - last_ns) / _NS:.3f} s; did its publisher die?"
            found.append(_finding(stream, "gap", text, fail=self._is_long(stream, end_ns - last_ns)))
        due = stream.expected_hz * duration_s
        if stream.counted + 1 < _SLOW * due:  # one more or less is rounding
            text = f"{stream.counted / duration_s:.1f} Hz, expected {stream.expected_hz:g} Hz"
            found.append(_finding(stream, "rate", text, fail=stream.counted + 1 < _MUCH_TOO_SLOW * due))
        return found

    def _of_episode(self) -> list[Finding]:
        """Whether observations and steps belong together, one by one, and how old what they say was."""
        found = []

        def add(level: str, check: str, text: str) -> None:
            found.append(Finding(level=level, topic="", check=check, text=text))

        if not self._steps:
            add("fail", "steps", f"no step of episode {self._episode_id}; was the arbiter running?")
            return found
        last = max(self._steps)
        missing = sorted(set(range(min(last, 1_000_000) + 1)) - self._steps.keys())
        if missing:
            add("fail", "steps", f"{len(missing)} of {last + 1} steps are missing, the first is {missing[0]}")
        if self._repeated:
            add("warn", "steps", f"{self._repeated} ticks had no new observation, the arm was held; was a camera late?")
        unseen = [head.index for head in self._steps.values() if head.observation_stamp_ns not in self._observations]
        if unseen:
            add("fail", "pairs", f"{len(unseen)} steps name an observation that is not there, first step {unseen[0]}")
        unanswered = [index for index in self._observations.values() if index > last]
        if unanswered:
            add("warn", "pairs", f"{len(unanswered)} observations at the end have no step")
        if self._end_ns is None:
            add("fail", "closing", f"no closing step; the recording ends with step {last}")
        if self._lockstep:
            return found
        safety, (image_s, state_s, skew_s, command_s) = self._task.safety, self._ages
        if image_s > safety.max_observation_age_s or state_s > safety.max_observation_age_s:
            text = f"image or state was {max(image_s, state_s):.3f} s old, allowed are {safety.max_observation_age_s} s"
            add("fail", "age", f"{text}; check camera and arm driver")
        elif max(image_s, state_s) > self._task.control.period_s:
            add("warn", "age", f"image or state was {max(image_s, state_s):.3f} s old, more than a control period")
        if skew_s > _MAX_SKEW_S:
            add(
                "warn",
                "skew",
                f"image and state were {skew_s:.3f} s apart, {_MAX_SKEW_S} s is much; check their clocks",
            )
        if command_s > safety.max_action_age_s:
            add("warn", "age", f"a command answered an observation of {command_s:.3f} s before")
        return found


def _finding(stream: _Stream, check: str, text: str, fail: bool = True) -> Finding:
    return Finding(level="fail" if fail and stream.critical else "warn", topic=stream.name, check=check, text=text)


def audit_bag(folder: Path) -> AuditReport:
    """Judge a bag that lies on the disk.

    Raises:
        BagError: ``episode.yaml`` or the bag is missing, cut off or wrong.
    """
    info = read_info(folder)
    with BagReader(folder) as reader:
        auditor = Auditor(info.episode_id, info.task, info.lockstep, info.topics)
        for topic in reader.topics.values():
            auditor.add_topic(topic)
        for message in reader.messages():
            auditor.feed(message.topic, message.data, message.log_ns, message.publish_ns, message.sequence)
        return auditor.report()


def write_report(folder: Path, report: AuditReport) -> None:
    """Write ``audit.yaml`` beside the bag, whole or not at all."""
    part = folder / f".{AUDIT_FILE}.part"
    part.write_bytes(msgspec.yaml.encode(msgspec.to_builtins(report)))
    part.replace(folder / AUDIT_FILE)


def read_report(folder: Path) -> AuditReport:
    """The ``audit.yaml`` that the recorder left beside the bag."""
    return msgspec.yaml.decode((folder / AUDIT_FILE).read_bytes(), type=AuditReport)
