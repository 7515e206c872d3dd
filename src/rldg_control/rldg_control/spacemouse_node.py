"""The SpaceMouse as the topics of the ``spacenav`` driver, with a heartbeat: silence means that the device is lost."""

from __future__ import annotations

import sys

from rldg_control.spacemouse_reader import SpaceMouseReader
from rldg_ros.base import ERROR, OK, WARN, BaseNode
from rldg_ros.device import DeviceTopics
from rldg_ros.main import run


class SpaceMouseNode(BaseNode):
    """Publishes the device's state at a fixed rate while it is healthy, deflected or not, else nothing."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__("spacemouse", **kwargs)
        self._device = str(
            self.declare(
                "device",
                "",
                "Path of the device (/dev/hidraw3, or a link to it by a udev rule); empty for the first.",
            )
        )
        self._rate_hz = self.declare("rate_hz", 100.0, "Publishing rate (Hz).", low=10.0, high=250.0)
        self._self_test_s = self.declare(
            "self_test_s", 20.0, "Warn if no axis ever moved this long after opening (s).", low=1.0, high=3600.0
        )
        self._buttons = (
            self.declare(
                "close_button", "", "Name of the button that closes the gripper; empty for the left or the first one."
            ),
            self.declare(
                "open_button", "", "Name of the button that opens the gripper; empty for the right or the second one."
            ),
        )
        self._reader: SpaceMouseReader | None = None

    def on_setup(self) -> None:
        self._topics = DeviceTopics(self)
        self._reader = SpaceMouseReader(self._device, self._buttons, self._self_test_s)
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
        self._topics.publish(state.axes, state.pressed)


def main(args: list[str] | None = None) -> int:
    return run(SpaceMouseNode, args)


if __name__ == "__main__":
    sys.exit(main())
