"""The stock ``spacenav`` driver in place of this project's SpaceMouse node, on the same topics."""

from __future__ import annotations

import sys

from geometry_msgs.msg import Twist
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Joy

from rldg_control.spacenav import SILENT_S, deflection, pressed
from rldg_core.frames import Array
from rldg_ros import qos
from rldg_ros.base import ERROR, OK, BaseNode
from rldg_ros.device import DeviceTopics
from rldg_ros.main import run


class SpacenavNode(BaseNode):
    """Publishes the driver's newest state at a fixed rate while the driver speaks, else nothing."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__("spacenav", **kwargs)
        self._rate_hz = self.declare("rate_hz", 100.0, "Publishing rate (Hz).", low=10.0, high=250.0)
        self._buttons = (
            self.declare("close_button", 0, "Number of the button that closes the gripper.", low=0, high=63),
            self.declare("open_button", 1, "Number of the button that opens the gripper.", low=0, high=63),
        )

    def on_setup(self) -> None:
        self._topics = DeviceTopics(self)
        self._deflection: Array | None = None
        self._heard_ns = -1
        self._joy = b""
        self.listen(Twist, "spacenav_driver/twist", self._on_twist, qos.sensor())
        # a thousand a second, of which a hundred are read
        self.create_subscription(Joy, "spacenav_driver/joy", self._on_joy, qos.sensor(), raw=True)
        self.create_timer(1.0 / self._rate_hz, self._publish, clock=self.steady_clock)

    def _on_twist(self, msg: Twist) -> None:
        v, w = msg.linear, msg.angular
        self._deflection = deflection((v.x, v.y, v.z, w.x, w.y, w.z))
        self._heard_ns = self.steady_clock.now().nanoseconds

    def _on_joy(self, message: bytes) -> None:
        self._joy = message

    def _publish(self) -> None:
        if not self.active:
            return
        silent_s = (self.steady_clock.now().nanoseconds - self._heard_ns) * 1e-9
        if self._deflection is None or silent_s > SILENT_S:
            remedy = "are spacenavd and spacenav_node up, and is the device plugged in?"
            self.report("driver", ERROR, f"no twist from the spacenav driver for {SILENT_S} s; {remedy}")
            return
        self.report("driver", OK)
        buttons = deserialize_message(self._joy, Joy).buttons if self._joy else ()
        self._topics.publish(self._deflection, [pressed(buttons, index) for index in self._buttons])


def main(args: list[str] | None = None) -> int:
    return run(SpacenavNode, args)


if __name__ == "__main__":
    sys.exit(main())
