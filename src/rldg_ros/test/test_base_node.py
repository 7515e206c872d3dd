"""The base node: transitions, heartbeat, diagnostics, bad messages."""

from __future__ import annotations

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from std_msgs.msg import Float64, Header

from rldg_ros import qos
from rldg_ros.base import ERROR, BaseNode
from rldg_ros.testing import Bench, overrides

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class Picky(BaseNode):
    """Refuses negative numbers; records which hooks were called."""

    def __init__(self, bench: Bench, task: str = "usb_insertion") -> None:
        super().__init__("picky", context=bench.context, parameter_overrides=overrides(task=task))
        self.calls: list[str] = []
        self.numbers: list[float] = []
        self.fail = False

    def on_setup(self) -> None:
        self.calls.append("setup")
        self.listen(Float64, "number", self._on_number, qos.reliable(10))
        if self.fail:
            raise ValueError("parameter x: is 1, must be 2")

    def on_start(self) -> None:
        self.calls.append("start")

    def on_stop(self) -> None:
        self.calls.append("stop")

    def on_teardown(self) -> None:
        self.calls.append("teardown")

    def _on_number(self, msg: Float64) -> None:
        if msg.data < 0.0:
            raise ValueError(f"number: {msg.data}, must not be negative")
        self.numbers.append(msg.data)


class Listener(Node):
    def __init__(self, bench: Bench) -> None:
        super().__init__("listener", context=bench.context)
        self.beats: list[Header] = []
        self.statuses: dict[str, DiagnosticStatus] = {}
        self.create_subscription(Header, "heartbeat", self.beats.append, qos.reliable(50))
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.reliable(10))
        self.numbers = self.create_publisher(Float64, "number", qos.reliable(10))

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        self.statuses.update({status.name: status for status in msg.status})

    def level(self, name: str) -> bytes | None:
        return self.statuses[name].level if name in self.statuses else None


@pytest.mark.parametrize(
    ("task", "says"),
    [("", "parameter task: is empty"), ("no_such_task", "no such file"), ("/nowhere.yaml", "no such file")],
)
def test_a_wrong_task_fails_configure_and_says_why(task: str, says: str) -> None:
    with Bench("wrong task") as bench:
        listener, node = Listener(bench), Picky(bench, task)
        bench.add(listener)
        bench.add(node, activate=False)
        assert node.trigger_configure() is FAILURE
        assert "start" not in node.calls
        assert bench.spin(lambda: listener.level("picky: lifecycle") == ERROR)
        assert says in listener.statuses["picky: lifecycle"].message


def test_a_failed_setup_is_torn_down_and_can_be_repeated() -> None:
    with Bench("failed setup") as bench:
        node = Picky(bench)
        bench.add(node, activate=False)
        node.fail = True
        before = len(list(node.subscriptions))
        assert node.trigger_configure() is FAILURE
        assert node.calls == ["setup", "teardown"]
        assert len(list(node.subscriptions)) == before
        node.fail = False
        assert node.trigger_configure() is SUCCESS and node.trigger_activate() is SUCCESS


def test_hooks_follow_the_transitions_and_cleanup_leaves_nothing_behind() -> None:
    with Bench("transitions") as bench:
        node = Picky(bench)
        bench.add(node, activate=False)
        before = len(list(node.subscriptions))
        for trigger in ("configure", "activate", "deactivate", "activate", "deactivate", "cleanup", "configure"):
            assert getattr(node, f"trigger_{trigger}")() is SUCCESS
        node.trigger_shutdown()
        assert node.calls == ["setup", "start", "stop", "start", "stop", "teardown", "setup", "teardown"]
        assert len(list(node.subscriptions)) == before


def test_messages_count_only_while_active() -> None:
    with Bench("active") as bench:
        listener, node = Listener(bench), Picky(bench)
        bench.add(listener)
        bench.add(node, activate=False)
        node.trigger_configure()
        assert bench.spin(lambda: listener.numbers.get_subscription_count() == 1)
        listener.numbers.publish(Float64(data=1.0))
        bench.spin_for(0.3)
        node.trigger_activate()
        listener.numbers.publish(Float64(data=2.0))
        assert bench.spin(lambda: node.numbers)
        assert node.numbers == [2.0]


def test_a_bad_message_is_reported_dropped_and_forgiven() -> None:
    with Bench("bad message") as bench:
        listener, node = Listener(bench), Picky(bench)
        bench.add(listener)
        bench.add(node)
        assert bench.spin(lambda: listener.numbers.get_subscription_count() == 1)
        bench.spin_for(0.3)
        listener.numbers.publish(Float64(data=-1.0))
        assert bench.spin(lambda: listener.level("picky: topic number") == ERROR)
        assert "must not be negative" in listener.statuses["picky: topic number"].message
        listener.numbers.publish(Float64(data=3.0))
        assert bench.spin(lambda: listener.level("picky: topic number") == DiagnosticStatus.OK)
        assert node.numbers == [3.0]


def test_it_beats_in_every_state_under_its_name() -> None:
    with Bench("heartbeat") as bench:
        listener, node = Listener(bench), Picky(bench)
        bench.add(listener)
        bench.add(node, activate=False)
        assert bench.spin(lambda: len(listener.beats) >= 3)
        node.trigger_configure()
        count = len(listener.beats)
        assert bench.spin(lambda: len(listener.beats) >= count + 3)
        assert {beat.frame_id for beat in listener.beats} == {"picky"}
