"""The node ``lifecycle_manager``: brings managed nodes up in order and down in reverse, and notices when one is lost.

Services: ``~/startup``, ``~/shutdown`` (std_srvs/Trigger; accepted at once, progress is in the log and in
``/diagnostics``) and ``~/is_active`` (std_srvs/Trigger; success where every node is active, else the message tells
which is not). The decisions are those of :class:`rldg_bringup.lifecycle_plan.LifecyclePlan`. SIGINT and SIGTERM bring
the nodes down before the manager ends.
"""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.client import Client
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from rldg_bringup.lifecycle_plan import Event, Level, LifecyclePlan, Request, State
from rldg_ros.main import make_executor

_TICK_S = 0.05
_REPORT_S = 1.0
_QUESTION_TIMEOUT_S = 5.0
# Between questions to a node of unknown state. Short, because questions get lost: the services of a killed process
# stay in the graph for seconds, and those of a new one are seen before the way back is known to it.
_RETRY_S = 0.3
_CHECK_S = 1.0  # between questions to the others, one node at a time
_DOWN_S = 4.0  # for bringing down on a signal; a launch sends SIGTERM after five


class LifecycleManagerNode(Node):
    def __init__(self) -> None:
        super().__init__("lifecycle_manager")
        names = self._declare(
            "node_names",
            Parameter.Type.STRING_ARRAY,
            "Managed nodes in the order of bring-up; empty names are left out.",
        )
        autostart = self._declare("autostart", True, "Bring the nodes up without being asked.")
        heartbeat_timeout_s = self._declare(
            "heartbeat_timeout_s", 0.5, "A node whose heartbeat is silent for longer is lost; 0: never.", 0.0, 60.0
        )
        transition_timeout_s = self._declare(
            "transition_timeout_s", 60.0, "Longest time for one transition.", 1.0, 3600.0
        )
        reconnect = self._declare("attempt_respawn_reconnection", True, "Bring a lost node up again when it is back.")
        self.plan = LifecyclePlan(
            [self._absolute(name) for name in names or [] if name],
            heartbeat_timeout_s=heartbeat_timeout_s,
            transition_timeout_s=transition_timeout_s,
            reconnect=reconnect,
        )
        self._names = [event.node for event in self.plan.status()]
        self._questions: list[tuple[Client, Future, float]] = []
        self._asked_at = dict.fromkeys(self._names, 0.0)
        self._turn = 0
        self._next_check = 0.0
        self._next_report = 0.0
        self._get_state: dict[str, Client] = {
            name: self.create_client(GetState, f"{name}/get_state") for name in self._names
        }
        self._change_state: dict[str, Client] = {
            name: self.create_client(ChangeState, f"{name}/change_state") for name in self._names
        }
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._own_heartbeat = self.create_publisher(Header, "heartbeat", 50)
        self._by_sender = {name: name for name in self._names} | {name.rpartition("/")[2]: name for name in self._names}
        self.create_subscription(Header, "heartbeat", self._on_heartbeat, 50)
        self.create_service(Trigger, "~/startup", self._on_startup)
        self.create_service(Trigger, "~/shutdown", self._on_shutdown)
        self.create_service(Trigger, "~/is_active", self._on_is_active)
        # wall time: with simulated time stopped, a death must still be noticed
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_TICK_S, self.tick, clock=steady)
        self.create_timer(0.1, self._beat, clock=steady)
        if autostart:
            self.plan.startup()

    def _declare(self, name: str, default: object, description: str, low: float = 0.0, high: float = 0.0) -> Any:
        descriptor = ParameterDescriptor(description=description, read_only=True)
        if high > low:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
        return self.declare_parameter(name, default, descriptor).value

    def _absolute(self, name: str) -> str:
        return name if name.startswith("/") else f"{self.get_namespace().rstrip('/')}/{name}"

    def _on_heartbeat(self, beat: Header) -> None:
        name = self._by_sender.get(beat.frame_id)
        if name is not None:
            self.plan.on_heartbeat(name, time.monotonic())

    def _beat(self) -> None:
        self._own_heartbeat.publish(Header(stamp=Clock().now().to_msg(), frame_id=self.get_name()))

    def _on_startup(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.plan.startup()
        response.success, response.message = True, "bringing the nodes up"
        return response

    def _on_shutdown(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.plan.shutdown()
        response.success, response.message = True, "bringing the nodes down"
        return response

    def _on_is_active(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self.plan.all_active
        waiting = (
            f"{event.node}: {event.text}" for event in self.plan.status() if self.plan.state(event.node) != State.ACTIVE
        )
        response.message = "; ".join(waiting) or "all nodes are active"
        return response

    def tick(self) -> None:
        """One round: look at answers, ask, take the next step, tell."""
        now = time.monotonic()
        while self._questions and now - self._questions[0][2] > _QUESTION_TIMEOUT_S:
            client, future, _ = self._questions.pop(0)
            client.remove_pending_request(future)
        for name in self.plan.unclear():
            if now - self._asked_at[name] >= _RETRY_S:
                self._ask(name, now)
        if self._names and now >= self._next_check:
            self._next_check = now + _CHECK_S
            self._turn += 1
            # the node that is in a transition first: the answer to a request can get lost as well
            self._ask(self.plan.busy or self._names[self._turn % len(self._names)], now)
        for name in self._names:
            if self.plan.state(name) != State.UNKNOWN and not self._get_state[name].service_is_ready():
                self.plan.on_left(name)
        request = self.plan.next(now)
        if request is not None:
            self._send(request)
        events = self.plan.take_events()
        for event in events:
            self._log(event)
        if events or now >= self._next_report:
            self._next_report = now + _REPORT_S
            self._report()

    def _ask(self, name: str, now: float) -> None:
        client = self._get_state[name]
        if not client.service_is_ready():
            return
        self._asked_at[name] = now
        future = client.call_async(GetState.Request())
        self._questions.append((client, future, now))

        def on_answer(future: Future) -> None:
            answer = future.result()
            # 10 and above are states within a transition, whose end will be told
            if answer is not None and answer.current_state.id <= State.FINALIZED:
                self.plan.on_state(name, State(answer.current_state.id), now, time.monotonic())

        future.add_done_callback(on_answer)

    def _send(self, request: Request) -> None:
        client = self._change_state[request.node]
        question = ChangeState.Request()
        question.transition.id = int(request.transition)

        def on_answer(future: Future) -> None:
            answer = future.result()
            self.plan.on_answer(request, answer is not None and answer.success, time.monotonic())
            self.tick()  # the next step need not wait

        client.call_async(question).add_done_callback(on_answer)

    def _log(self, event: Event) -> None:
        line = f"{event.node.rpartition('/')[2]}: {event.text}" if event.node else event.text
        logger = self.get_logger()
        if event.level == Level.ERROR:
            logger.error(line)
        elif event.level == Level.WARN:
            logger.warning(line)
        else:
            logger.info(line)

    def _report(self) -> None:
        array = DiagnosticArray()
        array.header.stamp = Clock().now().to_msg()
        for event in self.plan.status():
            name = event.node.rpartition("/")[2]
            array.status.append(
                DiagnosticStatus(
                    level=bytes([event.level]), name=f"{name}: liveness", message=event.text, hardware_id=event.node
                )
            )
        self._diagnostics.publish(array)


def main(args: list[str] | None = None) -> int:
    """Spin until SIGINT or SIGTERM, then bring the nodes down."""
    stop = False

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal stop
        stop = True

    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    node = LifecycleManagerNode()
    executor = make_executor()
    executor.add_node(node)
    while not stop:
        executor.spin_once(0.1)
    node.plan.shutdown(_DOWN_S / 4.0)  # others may have got the same signal and be gone already
    deadline = time.monotonic() + _DOWN_S
    while time.monotonic() < deadline and not node.plan.all_down:
        executor.spin_once(0.1)
    node.tick()  # tells the last events
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
