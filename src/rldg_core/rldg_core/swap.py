"""Who has the door, and how it changes hands while the arm moves.

A swap goes: requested (the new policy answers already, without authority) → handed over between two ticks → on
probation → completed. Meanwhile the policy that had the door before keeps answering, and gets the door back at the very
tick at which the new one has no answer, is refused or falls silent. Where nobody had the door before, there is nobody
to give it back to, and no probation: the arm holds while the policy fails.

What the arm is told passes the same limits at every tick, whoever drives, so a hand-over cannot move the target further
than any other tick may.
"""

from __future__ import annotations

from rldg_core.events import Event, EventKind

PROBATION_TICKS = 10


class Authority:
    """The policy in authority and the state of the last swap.

    Args:
        probation_ticks: at so many ticks in all the new policy must have had an answer.
    """

    def __init__(self, probation_ticks: int = PROBATION_TICKS) -> None:
        self._probation_ticks = probation_ticks
        self._selected = ""
        self._previous: str | None = None  # who gets the door back; None where no swap is under way
        self._passed: int | None = None  # ticks of probation; None before the hand-over
        self._events: list[Event] = []

    @property
    def selected(self) -> str:
        """Id of the policy that may drive, "" for none."""
        return self._selected

    @property
    def proven(self) -> str:
        """Id of the policy that has passed its probation, or was set without one."""
        return self._selected if self._previous is None else self._previous

    @property
    def on_trial(self) -> bool:
        """Whether a swap is under way."""
        return self._previous is not None

    def set(self, policy_id: str) -> None:
        """Let a policy drive without probation, from the next tick on."""
        self._selected, self._previous, self._passed = policy_id, None, None

    def request(self, policy_id: str, now_ns: int) -> None:
        """Begin a swap to a policy whose answers were found fresh; "" takes the door from all."""
        if policy_id == self._selected:
            return
        if self._previous == policy_id:
            self._back(now_ns, "requested")
            return
        if self._previous is not None:
            self._say(now_ns, EventKind.SWAP_SUPERSEDED, f"by {policy_id or 'none'}")
        self._previous, self._selected, self._passed = self.proven, policy_id, None
        self._say(now_ns, EventKind.SWAP_REQUESTED)

    def judge(self, now_ns: int, fault: str, answered: bool) -> str:
        """A tick of a swap: hand over, count, complete or roll back. To be called before anybody drives at this tick.

        Args:
            now_ns: time of the tick.
            fault: why the new policy must not drive, "" if it may.
            answered: it has an answer for this tick.

        Returns:
            Why the swap was rolled back at this tick, "" if it was not.
        """
        if self._previous is None:
            return ""
        if fault and self._previous:
            reason = f"swap to {self._selected!r} rolled back: {fault}"
            self._back(now_ns, fault)
            return reason
        if self._passed is None:
            self._passed = 0
            self._say(now_ns, EventKind.SWAP_HANDED_OVER)
        self._passed += answered
        if self._passed >= self._probation_ticks or not self._selected or not self._previous:
            self._say(now_ns, EventKind.SWAP_COMPLETED)
            self._previous = self._passed = None
        return ""

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    def _back(self, now_ns: int, reason: str) -> None:
        self._say(now_ns, EventKind.SWAP_ROLLED_BACK, reason)
        self.set(self.proven)

    def _say(self, now_ns: int, kind: EventKind, reason: str = "") -> None:
        self._events.append(
            Event(stamp_ns=now_ns, kind=kind, policy_id=self._selected, previous=self.proven, reason=reason)
        )
