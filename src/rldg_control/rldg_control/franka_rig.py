"""What the bridge to franka_ros2 decides, without ROS: the arm's health, and the order of gripper goals."""

from __future__ import annotations

import enum

IDLE, MOVE, REFLEX, USER_STOP = 1, 2, 4, 5  # robot_mode, as libfranka numbers them
SILENCE_S = 0.3  # of the robot's state, after which it has stopped: franka_ros2 falls silent with a fault
PAUSE_S = 0.25  # longer than this between two ticks, and this process stood still itself
STARTED_S = 0.5  # the time that the robot may take to say that it moves, once the controller was started


class RigHealth:
    """The robot's mode as the graph is told it.

    franka_ros2 (3.3 and later) answers a fault by deactivating the hardware and every controller, that of the state
    included: the mode that caused it is never published. So silence while the controller runs is a fault as well, and
    so is a robot that says it is idle although the controller was started. A fault stays until :meth:`recovered`,
    whatever the robot says meanwhile: a user stop that was released does not let the arm move again.
    """

    def __init__(self) -> None:
        self.commanding = False  # the impedance controller was started and should be running
        self.fault = ""  # "" for none
        self.live: int | None = None  # what the robot says; None while it says nothing
        self._heard_s = self._idle_s = 0.0
        self._ticked_s = float("inf")

    @property
    def mode(self) -> int | None:
        """What to tell the graph; None while the robot says nothing and was not told to do anything."""
        if self.fault:
            return USER_STOP if self.live == USER_STOP else REFLEX
        return self.live

    def on_state(self, mode: int, errors: list[str], now_s: float) -> None:
        """What the robot says: its mode and the names of its errors."""
        if mode != IDLE or self.live != IDLE:
            self._idle_s = now_s
        self.live, self._heard_s = mode, now_s
        if mode == USER_STOP:
            self._fail("user stop")
        elif mode == REFLEX:
            self._fail(f"reflex: {', '.join(errors) or 'no error named'}")
        elif self.commanding and now_s - self._idle_s > STARTED_S:
            self._fail("the robot is idle although the impedance controller was started: it was stopped from outside")

    def tick(self, now_s: float) -> None:
        """The time goes on, without a word of the robot perhaps. To be called every 0.1 s.

        Silence counts while the controller runs, and from the end of a pause of this process: what the robot said in
        it is still to be read.
        """
        paused, self._ticked_s = now_s - self._ticked_s > PAUSE_S, now_s
        if paused:
            self._heard_s = now_s
        if self.live is not None and now_s - self._heard_s > SILENCE_S:
            self.live = None
            if self.commanding:
                self._fail("the robot's state fell silent: franka_ros2 has stopped the hardware, or is gone")

    def started(self, now_s: float) -> None:
        """The impedance controller runs now."""
        self.commanding, self._idle_s = True, now_s

    def recovered(self) -> None:
        self.fault = ""

    def _fail(self, cause: str) -> None:
        self.fault = self.fault or cause
        self.commanding = False


class Order(enum.Enum):
    OPEN = "move"
    CLOSE = "grasp"
    STOP = "stop"


class BinaryGripper:
    """One goal of the hand at a time.

    A repeated wish does nothing; the opposite one stops the goal that runs, and is carried out once that has ended.
    """

    def __init__(self) -> None:
        self._wanted: Order | None = None
        self._doing: Order | None = None
        self._done: Order | None = None
        self.stopping = False  # the goal that runs was told to stop

    def ask(self, closed: bool) -> Order | None:
        """What to tell the hand now, if anything."""
        self._wanted = Order.CLOSE if closed else Order.OPEN
        if self._doing is None:
            return self._next()
        if self._doing is self._wanted or self.stopping:
            return None
        self.stopping = True
        return Order.STOP

    def ended(self) -> Order | None:
        """The goal has ended, one way or the other; what to tell the hand next, if anything."""
        self._done = None if self.stopping else self._doing
        self._doing, self.stopping = None, False
        return self._next()

    def _next(self) -> Order | None:
        if self._wanted is self._done:
            return None
        self._doing = self._wanted
        return self._doing


class Decimator:
    """Lets samples of a fast stream pass that lie at least ``period_s`` apart, by their stamps."""

    def __init__(self, period_s: float) -> None:
        self._period_ns = round(period_s * 1e9)
        self._last_ns = -self._period_ns

    def due(self, stamp_ns: int) -> bool:
        if 0 <= stamp_ns - self._last_ns < self._period_ns:  # a clock that was set back starts anew
            return False
        self._last_ns = stamp_ns
        return True
