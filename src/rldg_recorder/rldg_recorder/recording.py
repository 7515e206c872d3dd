"""Which messages belong to which episode: decided message by message, without ROS and without waiting for a disk.

A bag opens when the ``episode`` topic says RUNNING with an id that was not recorded yet. Topics race each other, so
what came shortly before (the pre-roll) and the last word of each latched topic go into it first. It closes when both
the closing step and the verdict are there, or when they can no longer be hoped for. Everything slow is the sink's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from rldg_core.types import EpisodeStatus, Outcome, Phase
from rldg_recorder.episode import LabelInfo
from rldg_recorder.wire import step_head

PRE_ROLL_BYTES = 64 << 20
GRACE_S = 2.0  # of wall time: from the first sign of the end until the rest of it is given up
LINGER_S = 0.2  # of wall time: how much later than the closing step a message of the episode may come
_REMEMBERED = 10_000  # episodes


class Message(NamedTuple):
    """One message as it arrived."""

    topic: str  # absolute
    data: bytes  # CDR
    log_ns: int  # received, wall clock
    publish_ns: int  # sent, wall clock of the publisher
    sequence: int  # the publisher's count, 0 where unknown
    publisher: bytes  # its id, b"" where unknown


class Ending(NamedTuple):
    """How a recording ended."""

    complete: bool  # closing step and verdict are there, and the first step was
    reason: str  # why it is partial, "" if it is not
    verdict: EpisodeStatus | None  # the last ENDED of the episode
    labels: tuple[LabelInfo, ...]  # verdicts that were changed while it was still open


class Sink(Protocol):
    """Where recordings go. No method blocks or raises."""

    def open(self, status: EpisodeStatus, first: Sequence[Message]) -> None:
        """A new bag, beginning with these messages."""

    def put(self, message: Message) -> None:
        """One more message of the open bag."""

    def close(self, ending: Ending) -> None:
        """The open bag is over."""

    def relabel(self, status: EpisodeStatus) -> None:
        """An episode that was closed before has this verdict now."""


class Recording:
    """Sorts the stream into bags. Call from one thread.

    Args:
        sink: takes bags and messages.
        step_topic: absolute name of ``step``, which says where an episode begins and ends.
        latched: absolute names of the topics whose last message counts until the next.
        pre_roll_s: how much of the time before an episode goes into its bag.
    """

    def __init__(self, sink: Sink, step_topic: str, latched: Collection[str], pre_roll_s: float) -> None:
        self._sink = sink
        self._step_topic = step_topic
        self._latched_topics = latched
        self._pre_roll_ns = round(pre_roll_s * 1e9)
        self._ring: deque[tuple[int, Message]] = deque()
        self._ring_bytes = 0
        self._latched: dict[tuple[str, bytes], Message] = {}  # by topic and publisher
        self._known: dict[str, None] = {}  # episodes that have or had a bag, oldest first
        self._forget()

    def _forget(self) -> None:
        self.episode_id = ""  # of the open bag, "" for none
        self._verdict: EpisodeStatus | None = None
        self._labels: tuple[LabelInfo, ...] = ()
        self._first_step: int | None = None
        self._closing_step = False
        self._ending_s: float | None = None  # wall time of the first sign of the end
        self._complete_s: float | None = None  # wall time at which both signs were there

    def arrive(self, message: Message, clock_ns: int, now_s: float) -> None:
        """Any message but those of ``episode``.

        Args:
            message: as it arrived.
            clock_ns: the clock that the pre-roll is measured with: in lockstep that of the cycle, else the wall's.
            now_s: monotonic wall time.
        """
        self._keep(message, clock_ns)
        if self.episode_id and message.topic == self._step_topic:
            self._see_step(message, now_s)

    def on_episode(self, message: Message, status: EpisodeStatus, clock_ns: int, now_s: float) -> None:
        """A message of ``episode``, with what it says; ``now_s`` is monotonic wall time."""
        if status.phase is Phase.RUNNING and status.episode_id and status.episode_id not in self._known:
            self._close("a new episode began before its end")
            self._keep(message, clock_ns)
            self._open(status, message, now_s)
            return
        self._keep(message, clock_ns)
        if status.episode_id == self.episode_id and status.phase is Phase.ENDED:
            changed = self._verdict is not None and self._verdict.outcome != status.outcome
            if changed:
                self._labels += (label_of(status),)
            if changed or self._verdict is None:
                self._verdict = status
            self._note_end(now_s)
        elif status.phase is Phase.ENDED and status.episode_id:
            self._sink.relabel(status)
        elif self.episode_id and status.episode_id != self.episode_id:
            self._note_end(now_s)  # the manager went on

    def poll(self, now_s: float) -> None:
        """Close what is over; to be called about ten times a second."""
        if self._complete_s is not None and now_s - self._complete_s >= LINGER_S:
            self._close("")
        elif self._ending_s is not None and now_s - self._ending_s >= GRACE_S:
            missing = "closing step" if not self._closing_step else "verdict"
            self._close(f"no {missing} came within {GRACE_S:g} s")

    def stop(self, reason: str) -> None:
        """Close what is open, whatever there is of it. An episode that goes on will get another bag."""
        self._close(reason)
        self._ring.clear()
        self._ring_bytes = 0
        self._known.clear()

    def remember(self, message: Message) -> None:
        """The last word of a latched topic, which is not said again; :meth:`arrive` does this too."""
        if message.topic in self._latched_topics:
            self._latched[message.topic, message.publisher] = message

    def _keep(self, message: Message, clock_ns: int) -> None:
        self.remember(message)
        ring = self._ring
        ring.append((clock_ns, message))
        self._ring_bytes += len(message.data)
        # a clock that was set back makes everything before it old as well
        while ring and (abs(clock_ns - ring[0][0]) > self._pre_roll_ns or self._ring_bytes > PRE_ROLL_BYTES):
            self._ring_bytes -= len(ring.popleft()[1].data)
        if self.episode_id:
            self._sink.put(message)

    def _open(self, status: EpisodeStatus, message: Message, now_s: float) -> None:
        self.episode_id = status.episode_id
        self._known[status.episode_id] = None
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        recent = [entry for _, entry in self._ring]
        there = {id(entry) for entry in recent}
        if id(message) not in there:  # larger than the whole pre-roll
            recent.append(message)
        # they keep their time of sending; by the time of receiving, a player would wait from then on
        began_ns = recent[0].log_ns
        latched = [
            entry._replace(log_ns=max(began_ns, entry.log_ns))
            for entry in self._latched.values()
            if id(entry) not in there and entry is not message
        ]
        self._sink.open(status, [*latched, *recent])
        for entry in recent:
            if entry.topic == self._step_topic:
                self._see_step(entry, now_s)

    def _see_step(self, message: Message, now_s: float) -> None:
        try:
            head = step_head(message.data)
        except ValueError:
            return  # recorded all the same; the audit counts it
        if head.episode_id != self.episode_id:
            return
        if self._first_step is None:
            self._first_step = head.index
        if head.is_last:
            self._closing_step = True
            self._note_end(now_s)

    def _note_end(self, now_s: float) -> None:
        if self._ending_s is None:
            self._ending_s = now_s
        if self._complete_s is None and self._closing_step and self._verdict is not None:
            self._complete_s = now_s
            # what follows is the pre-roll of the next episode; it goes into this bag too, until the bag is closed
            self._ring.clear()
            self._ring_bytes = 0

    def _close(self, reason: str) -> None:
        if not self.episode_id:
            return
        over = self._complete_s is not None
        if over:
            reason = f"recorded from step {self._first_step} on" if self._first_step else ""
        self._sink.close(Ending(over and not reason, reason, self._verdict, self._labels))
        self._forget()


def label_of(status: EpisodeStatus) -> LabelInfo:
    """A changed verdict as ``episode.yaml`` keeps it."""
    return LabelInfo(outcome=Outcome(status.outcome), reason=status.reason, stamp_ns=status.stamp_ns)
