"""A fault of the arm, its recovery, and what becomes of the episode, as explicit stages. Nothing of it is silent.

    CLEAR ─ mode 4, 5 → FAULT ─ recover asked → RECOVERING ─ mode 1, 2 → SETTLING ─ held for a while → CLEAR
                          ↑ └─────── mode 1, 2 ────────────────────────────↑  │
                          └── refused, no answer, still in mode 4 ────────┘   └─ mode 4, 5 → FAULT

A running episode resumes with the last transition, or is aborted: at once where ``resume`` is off, else when the fault
lasts longer than ``abort_after_s``.
"""

from __future__ import annotations

import enum

from rldg_core.events import Event, EventKind

OTHER, IDLE, MOVE, REFLEX, USER_STOP = 0, 1, 2, 4, 5  # robot_mode, as libfranka numbers them
_CAUSES = {
    REFLEX: "robot mode 4, reflex: clear the cause, then call arbiter/recover",
    USER_STOP: "robot mode 5, user stop: release the button at the robot",
}
ANSWER_TIMEOUT_S = 10.0


class Stage(enum.StrEnum):
    CLEAR = "clear"
    FAULT = "fault"
    RECOVERING = "recovering"
    SETTLING = "settling"


class Recovery:
    """See the module's text. Times are those of the ticks.

    Args:
        resume: the episode goes on after a recovery.
        settle_s: the recovered arm holds for so long before anybody may drive.
        abort_after_s: longest fault that an episode outlives.
    """

    def __init__(self, resume: bool = True, settle_s: float = 0.5, abort_after_s: float = 10.0) -> None:
        self._resume = resume
        self._settle_ns, self._abort_after_ns = round(settle_s * 1e9), round(abort_after_s * 1e9)
        self.stage = Stage.CLEAR
        self.mode = 0
        self._since_ns = self._began_ns = 0  # of the stage, of the fault
        self._abort = ""
        self._aborted = False  # asked for during this fault
        self._events: list[Event] = []

    @property
    def blocked(self) -> str:
        """Why nobody may drive, "" if somebody may."""
        match self.stage:
            case Stage.CLEAR:
                return ""
            case Stage.FAULT:
                return _CAUSES[self.mode]
            case Stage.RECOVERING:
                return f"robot mode {self.mode}: recovering"
            case Stage.SETTLING:
                return "the arm has recovered and settles"

    def on_mode(self, mode: int, now_ns: int) -> bool:
        """The robot's mode; returns whether the arm has just become obedient again: it may stand elsewhere."""
        before, self.mode = self.mode, mode
        if mode in _CAUSES:
            if self.stage in (Stage.CLEAR, Stage.SETTLING):
                if self.stage is Stage.CLEAR:
                    self._began_ns, self._aborted = now_ns, False
                self._enter(Stage.FAULT, now_ns, EventKind.FAULT, _CAUSES[mode])
            elif mode != before:
                self._enter(Stage.FAULT, now_ns, EventKind.FAULT, _CAUSES[mode])
            return False
        if self.stage in (Stage.FAULT, Stage.RECOVERING):
            self._enter(Stage.SETTLING, now_ns, EventKind.RECOVERED, f"after {(now_ns - self._began_ns) * 1e-9:.1f} s")
            return True
        return False

    def ask(self, now_ns: int) -> str:
        """Somebody wants the driver to recover; returns why it cannot be asked to, "" if it is to be asked now."""
        if self.stage is Stage.RECOVERING:
            return "a recovery is under way"
        if self.stage is not Stage.FAULT:
            return "the robot has no error to recover from"
        if self.mode != REFLEX:
            return _CAUSES[self.mode]
        self._enter(Stage.RECOVERING, now_ns, EventKind.RECOVERING)
        return ""

    def answered(self, failure: str, now_ns: int) -> None:
        """The driver's answer; "" for success, which counts once the mode says so too."""
        if self.stage is Stage.RECOVERING and failure:
            self._enter(Stage.FAULT, now_ns, EventKind.RECOVERY_FAILED, failure)

    def tick(self, now_ns: int, running: bool) -> str:
        """The time goes on; returns why the running episode is to be aborted, once, else "".

        Args:
            now_ns: time of the tick.
            running: an episode runs.
        """
        age_ns = now_ns - self._since_ns
        if self.stage is Stage.RECOVERING and age_ns > ANSWER_TIMEOUT_S * 1e9:
            failure = f"robot mode is still {self.mode} after {ANSWER_TIMEOUT_S:g} s"
            self._enter(Stage.FAULT, now_ns, EventKind.RECOVERY_FAILED, failure)
        elif self.stage is Stage.SETTLING and age_ns >= self._settle_ns:
            self._enter(Stage.CLEAR, now_ns, EventKind.RESUMED)
            return ""
        if self.stage is Stage.CLEAR or not running or self._aborted:
            return ""
        lasted_ns = now_ns - self._began_ns
        if self._resume and (self.stage is Stage.SETTLING or lasted_ns <= self._abort_after_ns):
            return ""
        self._aborted = True
        reason = f"the arm stopped by itself ({_CAUSES.get(self.mode, 'recovered')})"
        self._events.append(Event(stamp_ns=now_ns, kind=EventKind.ABORTED, reason=reason))
        return reason

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    def _enter(self, stage: Stage, now_ns: int, kind: EventKind, reason: str = "") -> None:
        self.stage, self._since_ns = stage, now_ns
        self._events.append(Event(stamp_ns=now_ns, kind=kind, reason=reason))
