"""Support for tests and benchmarks: a D405 in software, and recordings of it, made by librealsense itself.

A process that uses ROS as well must import rclpy before pyrealsense2, or it ends with a fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT, RATE_HZ = 640, 480, 30
FOCAL_PX = 433.0
SERIAL = "000000000405"
REMEDY = "pyrealsense2 cannot be imported; ./rldg test installs it, and it needs apt-get install libusb-1.0-0"

Draw = Callable[[int], npt.NDArray[np.uint8]]


def numbered(index: int) -> npt.NDArray[np.uint8]:
    """A picture that names its frame: the centre of the square crop has the colour (index, 255 - index, 128)."""
    image = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[:, 80:560] = index % 256, 255 - index % 256, 128
    return image


class SoftwareD405:
    """librealsense's software device with the colour stream of a D405 on its Stereo Module."""

    def __init__(self) -> None:
        import pyrealsense2 as rs

        self.device = rs.software_device()
        for key, value in (
            (rs.camera_info.name, "Intel RealSense D405"),
            (rs.camera_info.serial_number, SERIAL),
            (rs.camera_info.product_line, "D400"),
            (rs.camera_info.firmware_version, "5.16.0.1"),
            (rs.camera_info.product_id, "0B5B"),
            (rs.camera_info.physical_port, "software"),
            (rs.camera_info.usb_type_descriptor, "3.2"),
        ):
            self.device.register_info(key, value)
        self.sensor = self.device.add_sensor("Stereo Module")
        intrinsics = rs.intrinsics()
        intrinsics.width, intrinsics.height = WIDTH, HEIGHT
        intrinsics.ppx, intrinsics.ppy = WIDTH / 2, HEIGHT / 2
        intrinsics.fx = intrinsics.fy = FOCAL_PX
        intrinsics.model, intrinsics.coeffs = rs.distortion.brown_conrady, [0.01, 0.0, 0.0, 0.0, 0.0]
        stream = rs.video_stream()
        stream.type, stream.index, stream.uid = rs.stream.color, 0, 0
        stream.width, stream.height, stream.fps, stream.bpp = WIDTH, HEIGHT, RATE_HZ, 3
        stream.fmt, stream.intrinsics = rs.format.rgb8, intrinsics
        self._profile = self.sensor.add_video_stream(stream, True).as_video_stream_profile()
        self._alive: list[Any] = []  # the library does not copy pixels
        self.domain = rs.timestamp_domain.hardware_clock

    def offer(self, option: str, low: float, high: float, value: float) -> None:
        """Give the sensor an option that can be set."""
        import pyrealsense2 as rs

        limits = rs.option_range()
        limits.min, limits.max, limits.step, limits.default = low, high, 1.0, value
        self.sensor.add_option(getattr(rs.option, option), limits, True)

    def push(self, index: int, image: npt.NDArray[np.uint8], stamp_ms: float) -> None:
        """One frame of the sensor."""
        import pyrealsense2 as rs

        self._alive = [*self._alive[-15:], image]
        frame = rs.software_video_frame()
        frame.pixels, frame.bpp, frame.stride = image, 3, image.strides[0]
        frame.timestamp, frame.domain, frame.frame_number = stamp_ms, self.domain, index
        frame.profile = self._profile
        self.sensor.on_video_frame(frame)


def record(path: Path, frames: int, draw: Draw = numbered, skip: tuple[int, ...] = ()) -> Path:
    """Record so many frames, at the pace of the camera; those of ``skip`` are lost. Returns the path."""
    import pyrealsense2 as rs

    camera = SoftwareD405()
    recorder = rs.recorder(str(path), camera.device)
    sensor, queue = recorder.query_sensors()[0], rs.frame_queue(16)
    sensor.open(sensor.get_stream_profiles()[0])
    sensor.start(queue)
    begun_s = time.monotonic()
    for index in range(frames):
        time.sleep(max(0.0, begun_s + index / RATE_HZ - time.monotonic()))
        if index not in skip:
            camera.push(index, draw(index), 1000.0 + index * 1000.0 / RATE_HZ)
            queue.wait_for_frame(2000)
    sensor.stop()
    sensor.close()
    return path
