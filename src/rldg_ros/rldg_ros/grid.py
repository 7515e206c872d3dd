"""A timer whose ticks lie on multiples of the control period of the node clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rldg_ros.base import OK, WARN, BaseNode

_WINDOW = 600  # ticks over which lateness is summarised: a minute at 10 Hz


class GridTimer:
    """Calls ``tick(now_ns)`` at every multiple of ``period_s`` of the node clock, less ``lead_s``.

    The underlying timer is armed anew for each tick, so its phase neither drifts nor depends on when the node started.
    Ticks that pass while a callback runs are skipped, not caught up, and counted.
    """

    def __init__(self, node: BaseNode, period_s: float, tick: Callable[[int], None], lead_s: float = 0.0) -> None:
        self._node = node
        self._clock = node.get_clock()
        self._period_ns = round(period_s * 1e9)
        self._offset_ns = -round(lead_s * 1e9) % self._period_ns
        self._tick = tick
        self._lateness_ns: deque[int] = deque(maxlen=_WINDOW)
        self.missed = self._reported = 0
        self._due_ns = self._next(self._clock.now().nanoseconds)
        self._timer = node.create_timer(period_s, self._fire, autostart=False)
        self._arm(self._clock.now().nanoseconds)

    def stop(self) -> None:
        """No tick after this."""
        self._timer.cancel()
        self._node.destroy_timer(self._timer)

    def report(self) -> None:
        """Put missed ticks and lateness into the node's diagnostics."""
        new, self._reported = self.missed - self._reported, self.missed
        self._node.report(
            "ticks",
            WARN if new else OK,
            f"missed {new} ticks in the last second" if new else "",
            missed=self.missed,
            lateness_p99_ms=round(self.lateness_p99_s() * 1e3, 3),
        )

    def lateness_p99_s(self) -> float:
        """99th percentile of how late recent ticks started, s; 0 before the first."""
        ordered = sorted(self._lateness_ns)
        return ordered[int(0.99 * (len(ordered) - 1))] * 1e-9 if ordered else 0.0

    def _next(self, now_ns: int) -> int:
        """The first grid instant after ``now_ns``."""
        return (now_ns - self._offset_ns) // self._period_ns * self._period_ns + self._period_ns + self._offset_ns

    def _arm(self, now_ns: int) -> None:
        self._timer.timer_period_ns = max(self._due_ns - now_ns, 1)
        self._timer.reset()

    def _fire(self) -> None:
        now_ns = self._clock.now().nanoseconds
        wait_ns = self._due_ns - now_ns
        if wait_ns > 2 * self._period_ns:  # the clock was set back
            self._due_ns = self._next(now_ns)
        elif wait_ns <= 0:
            self._lateness_ns.append(-wait_ns)
            self._tick(now_ns)
            now_ns = self._clock.now().nanoseconds
            due_ns = self._next(now_ns)
            self.missed += (due_ns - self._due_ns) // self._period_ns - 1
            self._due_ns = due_ns
        self._arm(now_ns)
