"""Drives a real arm through whatever :class:`Arm` stands for it: set-points, watchdog, faults, recovery, joint reset.

    CONNECTING ─ connected, free of errors → TRACKING ⇄ HOMING (joint reset)
                 └ with errors ─────────────────┐  │ reflex, command rejected, user stop, no new state, link lost
                                                ↓  ↓
                                    FAULT ── recover → TRACKING, from where the arm stands

In FAULT nothing is commanded, and nothing ends it but :meth:`ArmDriver.recover`: not a link that comes back, and not a
user stop that is released. One thread owns the arm (:meth:`ArmDriver.step`); the rest may be called from any.
"""

from __future__ import annotations

import contextlib
import enum
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from rldg_core.frames import Array, Pose, rotation_angle
from rldg_core.impedance import filter_target
from rldg_core.recovery import IDLE, MOVE, OTHER, REFLEX, USER_STOP
from rldg_core.target_gate import TargetGate
from rldg_core.task import Gains, Impedance
from rldg_core.types import ArmState

PERIOD_S = 0.005  # at which the set-point filter runs here, and the law's far below this
FAR_M, FAR_RAD = 0.3, 0.8  # a target further from the measured pose is nobody's intention
_CONNECT_AGAIN_S = 1.0
_HOMING_TIMEOUT_S = 60.0
_HANG_S = 10.0
_BEGIN_S = 1.0  # in which a motion must have begun
_RECOVERIES, _RECOVERY_SPAN_S = 5, 60.0  # whoever needs more has not cleared the cause


class LinkLost(RuntimeError):
    """There is no connection to the robot; the message says why and what to do."""


class ArmFault(RuntimeError):
    """The robot stopped, or refused what it was told; the message says why."""


@dataclass(frozen=True)
class Reading:
    """What the robot says at one moment.

    Attributes:
        state: what is measured.
        mode: libfranka's number, see :mod:`rldg_core.recovery`.
        errors: names of the errors that are in force.
        robot_time_s: the robot's clock.
        stamp_ns: the node's clock when this arrived.
        success_rate: share of the last 100 commands that the robot received in time.
    """

    state: ArmState
    mode: int
    errors: tuple[str, ...] = ()
    robot_time_s: float = 0.0
    stamp_ns: int = 0
    success_rate: float = 0.0


class Arm(Protocol):
    """A connected robot. Every call may raise :class:`LinkLost` or :class:`ArmFault`."""

    def read(self) -> Reading:
        """The newest state; may wait for it."""

    def moves(self) -> bool:
        """Whether a motion is under way; raises what ended it, once."""

    def track(self, target: Pose, gains: Gains, posture_rad: Array) -> None:
        """Begin to run the impedance law, with the null space pulling towards ``posture_rad``."""

    def aim(self, target: Pose) -> None:
        """The filtered set-point, base frame."""

    def set_gains(self, gains: Gains) -> None:
        """Gains of the law that is running."""

    def move_joints(self, goal_rad: Sequence[float]) -> None:
        """End the law and begin a slow motion to a posture."""

    def stop(self) -> None:
        """Let the present motion end as soon as it can; does not wait."""

    def recover(self) -> None:
        """Wait, not long, until nothing moves, and clear the errors."""

    def close(self) -> None:
        """Disconnect; must not raise."""


class Stage(enum.StrEnum):
    CONNECTING = "connecting"
    TRACKING = "tracking"
    HOMING = "homing"
    FAULT = "fault"


@dataclass
class _Wish:
    """What other threads want; guarded by the driver's lock."""

    target: Pose | None = None
    hold: bool = False
    recover: list[Future[str]] = field(default_factory=list)
    home: list[Future[str]] = field(default_factory=list)


class ArmDriver:
    """See the module's text.

    Args:
        connect: opens the arm; raises :class:`LinkLost` where it cannot.
        gate: through which the targets come; watched here, so that the arm holds even if nobody else is awake.
        impedance: filter and null space of the task; its compliant gains are those at start.
        home_rad: posture of the joint reset.
        stale_s: without a new state for so long, the link is not to be trusted.
        clock: wall time, s.
    """

    def __init__(
        self,
        connect: Callable[[], Arm],
        gate: TargetGate,
        impedance: Impedance,
        home_rad: Sequence[float],
        stale_s: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._gate = gate
        self._impedance = impedance
        self._home_rad = home_rad
        self._stale_s = stale_s
        self._clock = clock
        self._lock = threading.Lock()
        self._wish = _Wish()
        self._gains = self._applied = impedance.compliance
        self._arm: Arm | None = None
        self._next_connect_s = -math.inf
        self._advanced_s = 0.0  # when the robot's clock was last seen to go on
        self._target = self._filtered = Pose.identity()
        self._homing: Future[str] | None = None
        self._homing_since_s = 0.0
        self._recovered_s: deque[float] = deque(maxlen=_RECOVERIES)
        self.stage = Stage.CONNECTING
        self.trouble = "connecting"  # "" while tracking
        self.reading: Reading | None = None
        self._stepped_s = math.inf

    @property
    def mode(self) -> int:
        """``robot_mode``: a fault of any kind is REFLEX, unless it is the user stop."""
        match self.stage:
            case Stage.CONNECTING:
                return OTHER
            case Stage.FAULT:
                stopped = self._arm is not None and self.reading is not None and self.reading.mode == USER_STOP
                return USER_STOP if stopped else REFLEX
            case _:
                return MOVE

    # from any thread

    @property
    def hangs(self) -> bool:
        """The client library has not come back for long: it may wait for a dead robot for ever."""
        return self._arm is not None and self._clock() - self._stepped_s > _HANG_S

    def refuse_far(self, target: Pose) -> None:
        """Raises:
        ValueError: the target, in the base frame, is far from where the arm is.
        """
        if self.reading is None:
            return
        here = self.reading.state.tcp_pose
        off_m, off_rad = float(np.linalg.norm(target.position - here.position)), rotation_angle(here, target)
        if off_m > FAR_M or off_rad > FAR_RAD:
            raise ValueError(
                f"target {off_m:.3f} m and {off_rad:.2f} rad from the measured pose, at most {FAR_M} m and {FAR_RAD} "
                "rad are followed; send targets that start where the arm is"
            )

    def set_target(self, target: Pose) -> None:
        """Where the arm is to go, base frame; without effect unless it is tracking."""
        with self._lock:
            self._wish.target, self._wish.hold = target, False

    def hold(self) -> None:
        """Make the measured pose the set-point."""
        with self._lock:
            self._wish.target, self._wish.hold = None, True

    def set_gains(self, gains: Gains) -> None:
        """Gains, in force from the next step."""
        self._gains = gains

    def recover(self) -> Future[str]:
        """Clear a fault; the result is "" or why it stays."""
        return self._ask(self._wish.recover)

    def reset_joints(self) -> Future[str]:
        """Move slowly to the home posture and track on from there; the result is "" or what went wrong."""
        return self._ask(self._wish.home)

    def _ask(self, wishes: list[Future[str]]) -> Future[str]:
        answer: Future[str] = Future()
        with self._lock:
            wishes.append(answer)
        return answer

    # from the thread that owns the arm

    def run(self, stop: threading.Event) -> None:
        """Step until told to stop, then leave the arm at rest."""
        due_s = self._clock()
        while not stop.is_set():
            try:
                self.step()
            except Exception as error:  # what is wrong with this program must stop the arm too
                self._fail(f"the driver failed: {type(error).__name__}: {error}")
            due_s = max(due_s + PERIOD_S, self._clock())
            stop.wait(due_s - self._clock())
        self.close()

    def close(self) -> None:
        """Stop the arm and disconnect; a next step begins anew."""
        if self._arm is not None:
            with contextlib.suppress(LinkLost, ArmFault):  # it does not move then
                self._arm.stop()
            self._arm.close()
            self._arm = None
        self.stage, self.trouble, self._next_connect_s = Stage.CONNECTING, "connecting", -math.inf
        self.reading = None

    def step(self) -> None:
        """Read the arm, notice faults, command what is due."""
        now_s = self._stepped_s = self._clock()
        if self._arm is None and now_s >= self._next_connect_s:
            self._open(now_s)
        try:
            if self._arm is not None:
                self._attend(self._arm, now_s)
        except LinkLost as error:
            self._lose(str(error), now_s)
        except ArmFault as error:
            self._fail(self._explain(str(error)))
        self._answer_wishes(now_s)

    def _open(self, now_s: float) -> None:
        self._next_connect_s = now_s + _CONNECT_AGAIN_S
        try:
            self._arm = self._connect()
            self._advanced_s = self._clock()
        except (LinkLost, ArmFault) as error:
            if self.stage is Stage.CONNECTING:
                self.trouble = str(error)

    def _attend(self, arm: Arm, now_s: float) -> None:
        """One step of a connected arm."""
        reading, before = arm.read(), self.reading
        elapsed_s = 0.0
        if before is None or reading.robot_time_s != before.robot_time_s:
            elapsed_s = reading.robot_time_s - before.robot_time_s if before is not None else 0.0
            self.reading, self._advanced_s = reading, max(self._advanced_s, self._clock())
        moves = arm.moves()
        silent_s = self._clock() - self._advanced_s
        if self.stage is Stage.FAULT:
            return
        if silent_s > self._stale_s:
            raise ArmFault(
                f"no new state from the robot for {silent_s * 1000:.0f} ms, at most {self._stale_s * 1000:.0f} ms; "
                "look at network, real-time kernel and load"
            )
        if reading.mode == USER_STOP:
            raise ArmFault("user stop: release the button at the robot, then recover")
        if self.stage is Stage.CONNECTING:
            if reading.mode != IDLE or reading.errors:
                raise ArmFault(f"robot mode {reading.mode} on connection, must be {IDLE} (idle)")
            self._track(arm, reading)
        elif not moves and self.stage is Stage.TRACKING:
            raise ArmFault("the motion ended by itself")
        elif self.stage is Stage.TRACKING:
            self._aim(arm, reading, now_s, elapsed_s)
        elif not moves:
            self._track(arm, reading)
        elif now_s - self._homing_since_s > _HOMING_TIMEOUT_S:
            raise ArmFault(f"the home posture was not reached within {_HOMING_TIMEOUT_S:.0f} s")

    def _track(self, arm: Arm, reading: Reading) -> None:
        """Run the law from where the arm stands; what was wanted before does not count."""
        self._target = self._filtered = reading.state.tcp_pose
        with self._lock:
            self._wish.target, self._wish.hold = None, False
        self._applied = self._gains
        arm.track(self._target, self._applied, reading.state.joint_position_rad)
        self._advanced_s = self._clock() + _BEGIN_S
        self.stage, self.trouble = Stage.TRACKING, ""
        if self._homing is not None:
            self._homing.set_result("")
            self._homing = None

    def _aim(self, arm: Arm, reading: Reading, now_s: float, elapsed_s: float) -> None:
        """Watchdog, then the set-point filter for the time that has passed at the robot."""
        with self._lock:
            target, hold = self._wish.target, self._wish.hold
            self._wish.target, self._wish.hold = None, False
        if self._gate.watch(now_s) or hold:
            self._target = reading.state.tcp_pose
        elif target is not None:
            self._target = target
        if self._gains != self._applied:
            self._applied = self._gains
            arm.set_gains(self._applied)
        if elapsed_s > 0.0:
            self._filtered = filter_target(
                self._filtered, self._target, self._impedance.target_filter ** (1000.0 * elapsed_s)
            )
            arm.aim(self._filtered)

    def _explain(self, cause: str) -> str:
        errors = self.reading.errors if self.reading is not None else ()
        missing = [name for name in errors if name not in cause]
        return f"{cause} ({', '.join(missing)})" if missing else cause

    def _fail(self, cause: str) -> None:
        if self.stage is not Stage.FAULT:
            self.stage, self.trouble = Stage.FAULT, cause
        if self._homing is not None:
            self._homing.set_result(cause)
            self._homing = None
        if self._arm is not None:
            with contextlib.suppress(LinkLost, ArmFault):  # it has stopped already then
                self._arm.stop()

    def _lose(self, cause: str, now_s: float) -> None:
        arm, self._arm = self._arm, None
        if arm is not None:
            arm.close()
        self._next_connect_s = now_s + _CONNECT_AGAIN_S
        if self.stage is Stage.CONNECTING:
            self.trouble = cause
        else:
            self._fail(f"connection lost: {cause}")

    # requests

    def _answer_wishes(self, now_s: float) -> None:
        with self._lock:
            recover, self._wish.recover[:] = list(self._wish.recover), []
            home, self._wish.home[:] = list(self._wish.home), []
        for answer in recover:
            answer.set_result(self._recover(now_s))
        for answer in home:
            refusal = self._go_home(now_s)
            if refusal:
                answer.set_result(refusal)
            else:
                self._homing = answer

    def _recover(self, now_s: float) -> str:
        if self.stage is not Stage.FAULT:
            return "" if self.stage is not Stage.CONNECTING else self.trouble
        arm, reading = self._arm, self.reading
        if arm is None or reading is None:
            return f"no connection to the robot, which is tried every {_CONNECT_AGAIN_S:g} s ({self.trouble})"
        if reading.mode == USER_STOP:
            return "user stop: release the button at the robot"
        if len(self._recovered_s) == _RECOVERIES and now_s - self._recovered_s[0] < _RECOVERY_SPAN_S:
            return f"recovered {_RECOVERIES} times within {_RECOVERY_SPAN_S:g} s; find the cause, or restart the driver"
        self._recovered_s.append(now_s)
        try:
            arm.recover()
            reading = arm.read()
            if reading.mode != IDLE or reading.errors:
                raise ArmFault(f"robot mode {reading.mode} after recovery, must be {IDLE} (idle)")
            self.reading = reading
            self._track(arm, reading)
        except LinkLost as error:
            self._lose(str(error), now_s)
            return str(error)
        except ArmFault as error:
            self.trouble = self._explain(str(error))
            return self.trouble
        return ""

    def _go_home(self, now_s: float) -> str:
        if self.stage is not Stage.TRACKING or self._arm is None:
            return f"the arm must be tracking, is {self.stage}"
        try:
            self._arm.move_joints(self._home_rad)
        except LinkLost as error:
            self._lose(str(error), now_s)
            return str(error)
        except ArmFault as error:
            self._fail(self._explain(str(error)))
            return self.trouble
        self.stage, self._homing_since_s, self._advanced_s = Stage.HOMING, now_s, self._clock() + _BEGIN_S
        return ""
