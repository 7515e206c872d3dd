"""The SpaceMouse as the topics of the ``spacenav`` driver, with a heartbeat: silence means that the device is lost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import TwistStamped
from sensor_msgs.msg import Joy

from rldg_control.spacemouse_reader import SpaceMouseReader, open_spacemouse
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.base import ERROR, OK, WARN, BaseNode
from rldg_ros.main import run


class SpaceMouseNode(BaseNode):
    """Publishes the device's state at a fixed rate while it is healthy, deflected or not, else nothing."""

    def __init__(self, open_device: Callable[[], Any] = open_spacemouse, **kwargs: object) -> None:
        super().__init__("spacemouse", **kwargs)
        self._open_device = open_device
        self._rate_hz = self.declare("rate_hz", 100.0, "Publishing rate (Hz).", low=10.0, high=250.0)
        self._self_test_s = self.declare(
            "self_test_s", 20.0, "Warn if no axis ever moved this long after opening (s).", low=1.0, high=3600.0
        )
        self._buttons = (
            self.declare("close_button", 0, "Index of the device's button that closes the gripper.", low=0, high=31),
            self.declare("open_button", 1, "Index of the device's button that opens the gripper.", low=0, high=31),
        )
        self._reader: SpaceMouseReader | None = None

    def on_setup(self) -> None:
        self._twist = self.create_publisher(TwistStamped, "spacenav/twist_stamped", qos.reliable(10))
        self._joy = self.create_publisher(Joy, "spacenav/joy", qos.reliable(10))
        self._reader = SpaceMouseReader(self._self_test_s, self._open_device)
        self._reader.start()
        self.create_timer(1.0 / self._rate_hz, self._publish, clock=self.steady_clock)

    def on_teardown(self) -> None:
        if self._reader is not None:
            self._reader.stop()
            self._reader = None

    def _publish(self) -> None:
        if not self.active or self._reader is None:
            return
        state = self._reader.state
        if not state.connected:
            self.report("device", ERROR if state.trouble else OK, state.trouble)
            return
        self.report("device", WARN if state.warning else OK, state.warning, name=state.name, reports=state.reports)
        header = convert.header(self.now_ns(), self.robot.base_frame)
        twist = TwistStamped(header=header)
        linear, angular = twist.twist.linear, twist.twist.angular
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = state.axes
        pressed = [int(i < len(state.buttons) and state.buttons[i] != 0) for i in self._buttons]
        self._twist.publish(twist)
        self._joy.publish(Joy(header=header, axes=list(state.axes), buttons=pressed))


def main(args: list[str] | None = None) -> int:
    return run(SpaceMouseNode, args)


if __name__ == "__main__":
    sys.exit(main())
