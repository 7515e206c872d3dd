"""A gamepad (``sensor_msgs/Joy`` of any joy driver) in place of a SpaceMouse, on the same topics."""

from __future__ import annotations

import sys

from sensor_msgs.msg import Joy

from rldg_control.gamepad import gamepad_twist, load_mapping
from rldg_ros import qos
from rldg_ros.base import OK, WARN, BaseNode
from rldg_ros.device import DeviceTopics
from rldg_ros.main import run

_SILENT_S = 1.0


class GamepadNode(BaseNode):
    """Answers every ``joy`` with a twist and two buttons; joy_node's ``autorepeat_rate`` must be 30 Hz or more."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__("gamepad", **kwargs)
        self._mapping_file = self.declare(
            "mapping", "", "YAML file that maps axes and buttons; empty for an Xbox controller as joy_node reports it."
        )

    def on_setup(self) -> None:
        self._mapping = load_mapping(self._mapping_file)
        self._heard_ns = -1
        self._topics = DeviceTopics(self)
        self.listen(Joy, "joy", self._on_joy, qos.reliable(10))

    def on_diagnose(self) -> None:
        silent = self._heard_ns < 0 or (self.now_ns() - self._heard_ns) * 1e-9 > _SILENT_S
        self.report("joy", WARN if silent else OK, "no joy message for 1 s; is joy_node up?" if silent else "")

    def _on_joy(self, msg: Joy) -> None:
        deflection, pressed = gamepad_twist(self._mapping, msg.axes, msg.buttons)
        self._heard_ns = self.now_ns()
        self._topics.publish(deflection, pressed)


def main(args: list[str] | None = None) -> int:
    return run(GamepadNode, args)


if __name__ == "__main__":
    sys.exit(main())
