"""The heads of serialised messages (CDR), read without ROS and without decoding the rest.

The recorder and its audit look at every message; a stamp costs them one ``struct`` call this way, and an image none.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

Bytes = bytes | memoryview

_NS = 1_000_000_000
_HEADER = re.compile(r"std_msgs/(msg/)?Header\s+\w+")
_BODY = 4  # after the encapsulation header, whose second byte says which byte order; offsets count from here


@dataclass(frozen=True, slots=True)
class ObservationHead:
    """What the audit needs of a ``rldg_interfaces/msg/Observation``."""

    stamp_ns: int
    episode_id: str
    index: int
    image_age_s: float
    state_age_s: float
    skew_s: float


@dataclass(frozen=True, slots=True)
class StepHead:
    """What recorder and audit need of a ``rldg_interfaces/msg/Step``."""

    stamp_ns: int
    observation_stamp_ns: int
    episode_id: str
    index: int
    is_first: bool
    is_last: bool
    source: int
    policy_id: str
    command_age_s: float


def begins_with_header(definition: str) -> bool:
    """Whether the first field of a message definition is a ``std_msgs/Header``."""
    for line in definition.splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("==="):
            return False
        if text and "=" not in text:
            return _HEADER.fullmatch(text) is not None
    return False


def stamp_of(data: Bytes) -> int | None:
    """``header.stamp`` in nanoseconds of a message that begins with a header; None where there is no valid one."""
    if len(data) < 12 or data[0] != 0 or data[1] > 1:
        return None
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] else ">iI", data, 4)
    return int(seconds * _NS + nanoseconds) if nanoseconds < _NS else None


def observation_head(data: Bytes) -> ObservationHead:
    """Raises:
    ValueError: the message is cut off or not an observation.
    """
    cursor = _Cursor(data)
    stamp_ns = cursor.stamp()
    cursor.string()  # frame_id
    return ObservationHead(stamp_ns, cursor.string(), cursor.number("I"), *cursor.last_floats(3))


def step_head(data: Bytes) -> StepHead:
    """Raises:
    ValueError: the message is cut off or not a step.
    """
    cursor = _Cursor(data)
    stamp_ns = cursor.stamp()
    cursor.string()  # frame_id
    observation_stamp_ns, episode_id, index = cursor.stamp(), cursor.string(), cursor.number("I")
    is_first, is_last = bool(cursor.number("B")), bool(cursor.number("B"))
    cursor.number("I")  # reward, a float32
    cursor.number("B"), cursor.number("B")  # terminated, truncated
    source, policy_id = cursor.number("B"), cursor.string()
    (age_s,) = cursor.last_floats(1)
    return StepHead(stamp_ns, observation_stamp_ns, episode_id, index, is_first, is_last, source, policy_id, age_s)


class _Cursor:
    def __init__(self, data: Bytes) -> None:
        if len(data) < _BODY or data[0] != 0 or data[1] > 1:
            raise ValueError(f"{len(data)} bytes that do not begin with a CDR header")
        self._data = data
        self._order = "<" if data[1] else ">"
        self._at = 0

    def number(self, kind: str) -> int:
        size = struct.calcsize(kind)
        self._at += -self._at % size
        try:
            (value,) = struct.unpack_from(self._order + kind, self._data, _BODY + self._at)
        except struct.error:
            raise ValueError(f"cut off after {len(self._data)} bytes") from None
        self._at += size
        return int(value)

    def stamp(self) -> int:
        return self.number("i") * _NS + self.number("I")

    def string(self) -> str:
        length = self.number("I")
        begin = _BODY + self._at
        if length < 1 or begin + length > len(self._data):
            raise ValueError(f"a text of {length} bytes in a message of {len(self._data)}")
        self._at += length
        return bytes(self._data[begin : begin + length - 1]).decode(errors="replace")

    def last_floats(self, count: int) -> tuple[float, ...]:
        if len(self._data) < _BODY + self._at + 4 * count:
            raise ValueError(f"cut off after {len(self._data)} bytes")
        return struct.unpack_from(f"{self._order}{count}f", self._data, len(self._data) - 4 * count)
