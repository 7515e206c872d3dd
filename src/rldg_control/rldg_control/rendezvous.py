"""Waiting for several senders to reach the same stamp, in lockstep."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable


class Rendezvous:
    """Who has answered a stamp, who is waited for, and who was given up on.

    A sender that did not answer within ``timeout_s`` of wall time is not waited for again until it speaks, so that one
    dead node costs one time-out and not one per tick.
    """

    def __init__(self, names: Iterable[str], timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._reached = dict.fromkeys(names, -1)
        self._required: dict[str, int] = {}
        self._absent: set[str] = set()
        self._timeout_s = timeout_s
        self._clock = clock
        self._waiting: tuple[int, float] | None = None  # a stamp and the wall time since when it is waited for

    @property
    def absent(self) -> list[str]:
        """Senders that were given up on, sorted."""
        return sorted(self._absent)

    def arrive(self, name: str, stamp_ns: int) -> None:
        """A sender has reached a stamp."""
        self._reached[name] = stamp_ns
        self._absent.discard(name)

    def require(self, name: str, stamp_ns: int) -> None:
        """From now on wait for ``name`` to reach this stamp, not the common one."""
        self._required[name] = stamp_ns

    def complete(self, stamp_ns: int) -> bool:
        """Whether everyone who is waited for has reached ``stamp_ns``; the wait for it begins with the first call."""
        if self._waiting is None or self._waiting[0] != stamp_ns:
            self._waiting = (stamp_ns, self._clock())
        return not self._missing(stamp_ns)

    def expire(self) -> list[str]:
        """Give up on those who are late; returns their names, sorted, or nothing while there is still time."""
        if self._waiting is None or self._clock() - self._waiting[1] < self._timeout_s:
            return []
        late = self._missing(self._waiting[0])
        self._absent.update(late)
        return late

    def _missing(self, stamp_ns: int) -> list[str]:
        return sorted(
            name
            for name, reached in self._reached.items()
            if reached < self._required.get(name, stamp_ns) and name not in self._absent
        )
