"""The base of every RLDG node: task and robot files, heartbeat, diagnostics, lifecycle hooks."""

from __future__ import annotations

import gc
import re
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Header

from rldg_core.task import Robot, Task, load_robot, load_task
from rldg_ros import qos
from rldg_ros.conversions import header
from rldg_ros.wire import Codec

_HEARTBEAT_S = 0.1
_BEATS_PER_REPORT = 10
_LOG_AGAIN_S = 5.0

OK = DiagnosticStatus.OK
WARN = DiagnosticStatus.WARN
ERROR = DiagnosticStatus.ERROR

_NUMBER = re.compile(r"\d+(\.\d+)?")

_M = TypeVar("_M")
_Values = dict[str, object]


class BaseNode(LifecycleNode):
    """A managed node that beats, reports its health and reads the task and robot files.

    Subclasses fill four hooks and never override transitions:

    * :meth:`on_setup` (configure): create publishers, subscriptions, services; ``self.task`` and ``self.robot`` are
      set. Any exception fails the transition with its message as one log line.
    * :meth:`on_start` (activate), :meth:`on_stop` (deactivate): begin and end acting.
    * :meth:`on_teardown` (clean up, also after a failed set-up): join threads, close devices. Publishers,
      subscriptions, services, clients and timers made since configure are destroyed by this class.

    Heartbeats are published in every state, from the executor's thread: a node whose callback hangs falls silent.
    """

    task: Task
    robot: Robot

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.active = self._closed = False
        self._checks: dict[str, tuple[bytes, str, _Values]] = {}
        self._logged: dict[str, tuple[str, float]] = {}
        self._bad_topics: set[str] = set()
        self._beats = 0
        self.declare("task", "", "Task file: a name of config/tasks or the path of a YAML file.")
        self.declare("robot", "fr3", "Robot file: a name of config/robots or the path of a YAML file.")
        self.lockstep = bool(
            self.declare("lockstep", False, "Advance with the simulation, message by message, instead of by the clock.")
        )
        self._heartbeat = self.create_publisher(Header, "heartbeat", qos.reliable(50))
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.reliable(10))
        self.steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_HEARTBEAT_S, self._beat, clock=self.steady_clock)
        self._permanent: set[int] = set()

    # Without the handlers of QoS events that rclpy adds to everything: the events executor crashes where one is
    # destroyed while its event is queued (ros2/rclpy issue 1644), as at every clean-up.

    def create_publisher(self, *args: Any, **kwargs: Any) -> Any:
        """As of any node, but silent about subscribers with incompatible QoS."""
        kwargs.setdefault("event_callbacks", PublisherEventCallbacks(use_default_callbacks=False))
        return super().create_publisher(*args, **kwargs)

    def create_subscription(self, *args: Any, **kwargs: Any) -> Any:
        """As of any node, but silent about publishers with incompatible QoS."""
        kwargs.setdefault("event_callbacks", SubscriptionEventCallbacks(use_default_callbacks=False))
        return super().create_subscription(*args, **kwargs)

    def destroy_node(self) -> None:
        """The state machine too, which rclpy leaves: it would keep the node's shared memory and its place in DDS."""
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    # hooks

    def on_setup(self) -> None:
        """Configure. Raise ``ValueError`` or ``RuntimeError`` with one line to refuse."""

    def on_start(self) -> None:
        """Activate."""

    def on_stop(self) -> None:
        """Deactivate."""

    def on_teardown(self) -> None:
        """Clean up; must cope with a set-up that ended half-way."""

    def on_pulse(self) -> None:
        """Every 0.1 s of wall time while active: time-outs that must work when the stream is silent."""

    def on_diagnose(self) -> None:
        """Once a second, just before diagnostics are published: :meth:`report` what is measured, not triggered."""

    # for subclasses

    def declare(
        self,
        name: str,
        default: Any,
        description: str,
        *,
        low: float | None = None,
        high: float | None = None,
        read_only: bool = True,
    ) -> Any:
        """Declare a parameter with its documentation and range, and return its value."""
        descriptor = ParameterDescriptor(description=description, read_only=read_only)
        if low is not None and high is not None:
            if isinstance(default, int):
                descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
            else:
                descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
        return self.declare_parameter(name, default, descriptor).value

    def listen(
        self, kind: type[_M] | Codec[Any, _M], topic: str, handler: Callable[[_M], None], profile: QoSProfile
    ) -> Any:
        """Subscribe while active. A ``ValueError`` of the handler drops the message and is reported once, by topic.

        Given a codec, the handler gets what the codec unpacks.

        In lockstep nothing is acknowledged, latched topics excepted: each acknowledgement wakes both sides once more,
        and a cycle that stands still is said again anyway.

        Returns:
            The subscription, for those who end it before the node does.
        """

        codec = kind if isinstance(kind, Codec) else None
        message_class: type[Any] = kind.kind if isinstance(kind, Codec) else kind

        def on_message(message: Any) -> None:
            if not self.active:
                return
            try:
                handler(message if codec is None else codec.unpack(message))
            except ValueError as error:
                self._bad_topics.add(topic)
                self.report(f"topic {topic}", ERROR, str(error))
            else:
                if topic in self._bad_topics:
                    self._bad_topics.discard(topic)
                    self.report(f"topic {topic}", OK)

        if self.lockstep and profile.durability is DurabilityPolicy.VOLATILE:
            profile = qos.sensor(profile.depth)
        return self.create_subscription(message_class, topic, on_message, profile, raw=codec is not None)

    def report(self, check: str, level: bytes, message: str = "", **values: object) -> None:
        """Set the state of a named check; a change of level is logged and published at once."""
        before = self._checks.get(check, (OK, "", {}))
        self._checks[check] = (level, message, values)
        if level != before[0]:
            self._publish_diagnostics()
        if level != before[0] or (level != OK and message != before[1]):
            self._log(check, level, message, changed=level != before[0])

    def now_ns(self) -> int:
        """The node clock (simulated where ``use_sim_time`` is set)."""
        return int(self.get_clock().now().nanoseconds)

    def close(self) -> None:
        """Stop and tear down, whatever the state; for the end of the process."""
        self._closed = True
        for hook in (self._stop, self._release):
            try:
                hook()
            except Exception:
                self.get_logger().error(f"while closing: {traceback.format_exc()}")

    # lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._permanent = {id(entity) for entity in self._entities()}
        try:
            task = str(self.get_parameter("task").value)
            if not task:
                raise ValueError("parameter task: is empty, must be a name of config/tasks or the path of a task file")
            self.task = load_task(task)
            self.robot = load_robot(str(self.get_parameter("robot").value))
            self.on_setup()
        except Exception as error:
            expected = isinstance(error, ValueError | RuntimeError | OSError | ImportError)
            self.get_logger().error(str(error) if expected else traceback.format_exc())
            self._release()
            self.report("lifecycle", ERROR, f"configure failed: {error}")
            return TransitionCallbackReturn.FAILURE
        self.report("lifecycle", OK, "inactive")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self.on_start()
        except Exception as error:
            expected = isinstance(error, ValueError | RuntimeError | OSError)
            self.get_logger().error(str(error) if expected else traceback.format_exc())
            self.report("lifecycle", ERROR, f"activate failed: {error}")
            return TransitionCallbackReturn.FAILURE
        self.active = True
        gc.collect()
        gc.freeze()  # modules and files that were read never become garbage: no collection need walk them again
        self.report("lifecycle", OK, "active")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        self.report("lifecycle", OK, "inactive")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        self.report("lifecycle", OK, "unconfigured")
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        self._release()
        self.report("lifecycle", OK, "finalized")
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        self._release()
        self.report("lifecycle", ERROR, "a transition raised; unconfigured")
        return TransitionCallbackReturn.SUCCESS

    def _stop(self) -> None:
        if self.active:
            self.active = False
            self.on_stop()

    def _release(self) -> None:
        self.on_teardown()
        if not self._permanent:
            return
        made = [entity for entity in self._entities() if id(entity) not in self._permanent]
        for entity in made:
            for kind in ("timer", "subscription", "client", "service", "publisher"):
                if entity in list(getattr(self, f"{kind}s")):
                    getattr(self, f"destroy_{kind}")(entity)
        self._checks = {name: check for name, check in self._checks.items() if name == "lifecycle"}

    def _entities(self) -> Iterator[object]:
        for kind in ("publishers", "subscriptions", "services", "clients", "timers"):
            yield from list(getattr(self, kind))

    # heartbeat and diagnostics

    def _beat(self) -> None:
        if self._closed:
            return  # a beat that was already queued
        self._heartbeat.publish(header(time.time_ns(), self.get_name()))
        if self.active:
            self.on_pulse()
        self._beats += 1
        if self._beats % _BEATS_PER_REPORT == 0:
            if self.active:
                self.on_diagnose()
            self._publish_diagnostics()

    def _publish_diagnostics(self) -> None:
        array = DiagnosticArray(header=header(time.time_ns()))
        for check, (level, message, values) in self._checks.items():
            array.status.append(
                DiagnosticStatus(
                    level=level,
                    name=f"{self.get_fully_qualified_name().lstrip('/')}: {check}",
                    message=message,
                    hardware_id=self.robot.name if hasattr(self, "robot") else "",
                    values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
                )
            )
        self._diagnostics.publish(array)

    def _log(self, check: str, level: bytes, message: str, changed: bool) -> None:
        """Log a change of level or cause; a text that differs in its numbers only is logged again after 5 s."""
        now, cause = time.monotonic(), _NUMBER.sub("#", message)
        text, when = self._logged.get(check, ("", 0.0))
        if not changed and cause == text and now - when < _LOG_AGAIN_S:
            return
        self._logged[check] = (cause, now)
        line = f"{check}: {message}" if message else f"{check}: recovered"
        logger = self.get_logger()
        if level == OK:
            logger.info(line)
        elif level == WARN:
            logger.warning(line)
        else:
            logger.error(line)
