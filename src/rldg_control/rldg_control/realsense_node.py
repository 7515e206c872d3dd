"""The wrist camera, read directly with pyrealsense2: a device or a recording, already square and of the task's size."""

from __future__ import annotations

import math
import sys

from sensor_msgs.msg import CameraInfo, Image

from rldg_control.realsense_camera import CameraReader, CameraSettings, Frame, RealSenseSource
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.base import ERROR, OK, WARN, BaseNode
from rldg_ros.main import run


class RealSenseNode(BaseNode):
    """Publishes each new frame with its capture stamp; where there is none, nothing, and ``/diagnostics`` says why."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__("wrist_camera", **kwargs)
        default = CameraSettings()
        self._settings = CameraSettings(
            serial=self.declare("serial", default.serial, "Serial number of the camera; empty for the only one."),
            file=self.declare("file", default.file, "Recording (.db3) to play once instead; empty for none."),
            exposure_us=self.declare(
                "exposure_us",
                default.exposure_us,
                "Fixed exposure (us); 0 for automatic. Longer than a frame would halve the rate.",
                low=0.0,
                high=32000.0,
            ),
            gain=self.declare("gain", default.gain, "Fixed gain of the sensor.", low=0, high=1000),
            white_balance_k=self.declare(
                "white_balance_k",
                default.white_balance_k,
                "Colour temperature (K); 0 keeps the camera's own, fixed.",
                low=0,
                high=10000,
            ),
        )
        self._reader: CameraReader | None = None

    def on_setup(self) -> None:
        if self.lockstep:
            raise ValueError("lockstep: is true, a camera can only run in real time; launch with lockstep:=false")
        source = RealSenseSource(self._settings)
        self._image = self.create_publisher(Image, "wrist/color/image_raw", qos.reliable())
        self._info = self.create_publisher(CameraInfo, "wrist/color/camera_info", qos.reliable())
        self._reader = CameraReader(source, self.task.camera.image_size_px, self._publish, self.now_ns)

    def on_start(self) -> None:
        if self._reader is not None:
            self._reader.start()  # not before: a recording would play to nobody

    def on_teardown(self) -> None:
        if self._reader is not None:
            self._reader.stop()
            self._reader = None

    def on_pulse(self) -> None:
        if self._reader is None:
            return
        state = self._reader.state
        level = ERROR if state.trouble else WARN if state.warning else OK
        fov_deg = round(math.degrees(state.field_of_view_rad), 1)
        self.report(
            "camera",
            level,
            state.trouble or state.warning,
            frames=state.frames,
            lost=state.lost,
            refused=state.refused,
            field_of_view_deg=fov_deg,
        )

    def _publish(self, frame: Frame) -> None:
        """In the reader's thread: the fewer stops, the younger the image."""
        if not self.active:
            return
        self._image.publish(convert.IMAGE.pack(frame.image, frame.stamp_ns, self.robot.camera_frame))
        if self._info.get_subscription_count() > 0:
            self._info.publish(convert.camera_info_to_msg(frame.lens, frame.stamp_ns, self.robot.camera_frame))


def main(args: list[str] | None = None) -> int:
    return run(RealSenseNode, args)


if __name__ == "__main__":
    sys.exit(main())
