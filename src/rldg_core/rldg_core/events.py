"""What happens rarely and must never be silent: swaps, e-stop, faults of the arm. One YAML mapping each."""

from __future__ import annotations

import enum

import msgspec

from rldg_core.yaml_text import decode_yaml


class EventKind(enum.StrEnum):
    SWAP_REQUESTED = "swap_requested"
    SWAP_HANDED_OVER = "swap_handed_over"  # from this tick on the new policy has the door
    SWAP_COMPLETED = "swap_completed"  # it has passed its probation
    SWAP_ROLLED_BACK = "swap_rolled_back"  # the old one has the door again
    SWAP_SUPERSEDED = "swap_superseded"  # another swap was asked for meanwhile
    SWAP_REFUSED = "swap_refused"  # the policy does not answer, or not soundly: nothing changes
    ESTOP_LATCHED = "estop_latched"
    ESTOP_RELEASED = "estop_released"
    FORCE_GUARD = "force_guard"  # the contact force was above its limit
    FAULT = "fault"  # the arm stopped by itself
    RECOVERING = "recovering"  # its driver was asked to clear the fault
    RECOVERY_FAILED = "recovery_failed"
    RECOVERED = "recovered"  # the arm obeys again, and holds
    RESUMED = "resumed"  # whoever drove may drive again
    ABORTED = "aborted"  # the episode is given up
    LABELLED = "labelled"  # a person's verdict was taken; the episode ends with it at the next observation


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event. ``policy_id`` is the new policy of a swap, ``previous`` the one that had the door before."""

    stamp_ns: int
    kind: EventKind
    policy_id: str = ""
    previous: str = ""
    reason: str = ""
    episode_id: str = ""
    index: int = 0

    def yaml(self) -> str:
        return msgspec.yaml.encode(self).decode()

    def line(self) -> str:
        """For a log."""
        swap = f" {self.previous or 'none'} -> {self.policy_id or 'none'}" if self.kind.startswith("swap") else ""
        return f"{self.kind.replace('_', ' ')}{swap}" + (f": {self.reason}" if self.reason else "")


def parse_event(text: str) -> Event:
    """The inverse of :meth:`Event.yaml`. Raises ValueError with one line."""
    try:
        return msgspec.convert(decode_yaml(text.encode()), Event)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"event: {' '.join(str(error).split())}") from None
