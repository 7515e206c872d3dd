"""The stock spacenav driver, with its quirks, comes out as the operator's device of the contract."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist, TwistStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Joy

from rldg_control.spacenav import deflection, pressed
from rldg_control.spacenav_node import SpacenavNode
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.testing import Bench, overrides

FULL = 350 / 512  # what a device reaches of the driver's full scale


class Driver(Node):
    """Says twist every 31 ms and joy every millisecond, its buttons as many as the highest that was pressed."""

    def __init__(self, bench: Bench) -> None:
        super().__init__("spacenav_driver", context=bench.context)
        self.twist = np.zeros(6)
        self.buttons: list[int] = []
        self.talks = True
        self._twist = self.create_publisher(Twist, "spacenav_driver/twist", QoSProfile(depth=10))
        self._joy = self.create_publisher(Joy, "spacenav_driver/joy", QoSProfile(depth=10))
        self.create_timer(0.031, self._say_twist)
        self.create_timer(0.001, self._say_joy)

    def _say_twist(self) -> None:
        if self.talks:
            self._twist.publish(convert.twist_to_msg(self.twist))

    def _say_joy(self) -> None:
        if self.talks:
            self._joy.publish(Joy(axes=self.twist.tolist(), buttons=self.buttons))  # without a frame


class Rig:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.driver = Driver(bench)
        self.twists: list[TwistStamped] = []
        self.joys: list[Joy] = []
        self.status: DiagnosticStatus | None = None
        listener = Node("listener", context=bench.context)
        listener.create_subscription(TwistStamped, "spacenav/twist_stamped", self.twists.append, qos.reliable(10))
        listener.create_subscription(Joy, "spacenav/joy", self.joys.append, qos.reliable(10))
        listener.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.reliable(10))
        self.node = SpacenavNode(context=bench.context, parameter_overrides=overrides(task="usb_insertion"))
        for node in (listener, self.driver, self.node):
            bench.add(node)
        assert bench.spin(lambda: self.twists and self.joys)

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            if status.name == "spacenav: driver":
                self.status = status

    def axes(self) -> list[float]:
        v, w = self.twists[-1].twist.linear, self.twists[-1].twist.angular
        return [round(value, 6) for value in (v.x, v.y, v.z, w.x, w.y, w.z)]


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with Bench(request.node.name) as bench:
        yield Rig(bench)


def test_a_full_deflection_is_one_and_what_is_beyond_is_clipped() -> None:
    assert deflection([FULL, -FULL / 2, 0.0, 2.0, -9.0, 0.0]).tolist() == [1.0, -0.5, 0.0, 1.0, -1.0, 0.0]


@pytest.mark.parametrize("twist", [[0.0] * 5, [np.nan] * 6, [np.inf, 0.0, 0.0, 0.0, 0.0, 0.0]])
def test_a_twist_that_is_none_is_refused(twist: list[float]) -> None:
    with pytest.raises(ValueError, match="must be 6 finite numbers"):
        deflection(twist)


def test_a_button_that_the_driver_has_not_seen_yet_is_not_pressed() -> None:
    assert not pressed([], 1) and not pressed([1], 1)
    assert pressed([0, 1], 1)


def test_deflections_reach_the_contract_scaled_stamped_and_in_the_frame_of_the_base(rig: Rig) -> None:
    assert rig.axes() == [0.0] * 6
    rig.driver.twist = np.array([FULL, 0.0, -FULL / 2, 0.0, 0.0, 1.5])
    assert rig.bench.spin(lambda: rig.axes() == [1.0, 0.0, -0.5, 0.0, 0.0, 1.0])
    header = rig.twists[-1].header
    assert header.frame_id == rig.node.robot.base_frame and header.stamp.sec > 0


def test_buttons_are_two_from_the_start_and_follow_the_drivers_growing_list(rig: Rig) -> None:
    assert list(rig.joys[-1].buttons) == [0, 0]
    for buttons, expected in (([1], [1, 0]), ([0, 1], [0, 1]), ([0, 0, 0, 1], [0, 0])):
        rig.driver.buttons = buttons
        assert rig.bench.spin(lambda expected=expected: list(rig.joys[-1].buttons) == expected)


def test_a_thousand_joys_a_second_come_out_no_faster_than_the_rate_of_the_node(rig: Rig) -> None:
    first = len(rig.joys)
    assert rig.bench.spin(lambda: len(rig.joys) >= first + 30)
    stamps = [convert.stamp_from_msg(joy.header.stamp) for joy in rig.joys[first:]]
    assert (stamps[-1] - stamps[0]) / (len(stamps) - 1) > 0.009e9


def test_a_silent_driver_silences_it_and_says_what_to_look_at(rig: Rig) -> None:
    rig.driver.twist = np.array([FULL, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert rig.bench.spin(lambda: rig.axes()[0] == 1.0)
    rig.driver.talks = False
    assert rig.bench.spin(lambda: rig.status is not None and rig.status.level == DiagnosticStatus.ERROR)
    assert rig.status is not None and "spacenavd" in rig.status.message
    rig.bench.spin_for(0.1)
    count = len(rig.twists)
    rig.bench.spin_for(0.4)
    assert len(rig.twists) == count
    rig.driver.talks = True
    assert rig.bench.spin(lambda: len(rig.twists) > count)


def test_a_twist_that_is_not_finite_is_dropped_and_reported(rig: Rig) -> None:
    rig.driver.twist = np.full(6, np.nan)
    assert rig.bench.spin(lambda: rig.status is not None and rig.status.level == DiagnosticStatus.ERROR)
    assert all(np.isfinite(rig.axes()))
