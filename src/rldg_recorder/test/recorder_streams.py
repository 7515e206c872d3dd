"""Streams of messages for the tests of recorder and audit."""

from __future__ import annotations

from collections.abc import Iterable

from rldg_core.types import EpisodeStatus, Outcome, Phase
from rldg_recorder.recording import Message
from rldg_recorder.testing_bags import Item, serialise

WALL_NS = 1_700_000_000_000_000_000  # when stamp 0 was


def arrived(item: Item, delay_ns: int = 1_000_000) -> Message:
    """As it reaches the recorder: sent at its stamp, received a moment later, one publisher for each topic."""
    sent_ns = WALL_NS + item.stamp_ns
    return Message(item.topic, item.data, sent_ns + delay_ns, sent_ns, item.sequence, item.topic.encode())


def all_arrived(items: Iterable[Item]) -> list[Message]:
    return [arrived(item) for item in items]


def status(
    phase: Phase, episode_id: str = "s/0001", outcome: Outcome = Outcome.NONE, reason: str = "", stamp_ns: int = 0
) -> EpisodeStatus:
    session_id = episode_id.partition("/")[0]
    return EpisodeStatus(stamp_ns, session_id, episode_id, "usb_insertion", "seen", 7, "insert", phase, outcome, reason)


def plain(topic: str, number: int = 1, log_ns: int = WALL_NS, size: int = 40, publisher: bytes = b"p") -> Message:
    """A message of no particular content."""
    return Message(topic, number.to_bytes(8, "little") + bytes(size - 8), log_ns, log_ns, number, publisher)


def step(index: int, episode_id: str = "s/0001", last: bool = False, **fields: object) -> Message:
    """A step, at 10 Hz."""
    stamp_ns = 10**9 + index * 10**8
    stamp = {"sec": stamp_ns // 10**9, "nanosec": stamp_ns % 10**9}
    values = {"episode_id": episode_id, "index": index, "is_first": index == 0, "is_last": last, **fields}
    data = serialise(
        "rldg_interfaces/msg/Step", header={"stamp": stamp, "frame_id": ""}, observation_stamp=stamp, **values
    )
    return Message("/step", data, WALL_NS + stamp_ns, WALL_NS + stamp_ns, index + 1, b"arbiter")
