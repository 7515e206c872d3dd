"""The camera node on a recording, 640 x 480 to 128 x 128 at 30 Hz: the age it adds to a frame, its share of a core."""

from __future__ import annotations

import argparse
import os
import struct
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import rclpy  # before librealsense: with the two the other way round, the process ends with a fault
from rclpy.node import Node
from sensor_msgs.msg import Image

from rldg_bringup.domain import lease_domain
from rldg_bringup.launch_runner import Launch
from rldg_control.realsense_camera import CameraSettings, PlaybackEnded, RealSenseSource
from rldg_control.testing import RATE_HZ, record
from rldg_core.task import config_directory
from rldg_ros import qos
from rldg_ros.main import make_executor

IMAGE_SIZE_PX = 128
WARM_UP_S = 3.0
LAUNCH = """<launch>
  <include file="$(find-pkg-share rldg_bringup)/launch/camera_realsense_direct.launch.xml"/>
  <node pkg="rldg_bringup" exec="lifecycle_manager_node" name="lifecycle_manager">
    <param name="node_names" value="[wrist_camera]"/>
  </node>
</launch>
"""


def main(argv: list[str]) -> dict[str, float]:
    """Measure; the figures are those of docs/reference/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="rldg bench camera", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to measure (default: %(default)s)")
    options = parser.parse_args(argv)
    os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(config_directory() / "fastdds.xml"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames = round((options.seconds + WARM_UP_S) * RATE_HZ)
        print(f"recording {frames} frames", file=sys.stderr)
        file = folder / "wrist.db3"
        record(file, frames)
        lease = lease_domain("bench camera")
        if lease is not None:
            os.environ["ROS_DOMAIN_ID"] = str(lease.domain)
        try:
            figures = through_the_node(folder, file, frames)
        finally:
            if lease is not None:
                lease.close()
        return figures | {"playback_core_share": playback_alone(file)}


def through_the_node(folder: Path, file: Path, frames: int) -> dict[str, float]:
    """Age of each image when this process has it, and what the node's process computes meanwhile.

    The stamp of a recorded frame is its arrival in the node, as the fastest frames arrive (``CaptureClock``): the
    age holds all that comes after it: jitter of the playback, processing, publishing, transport.
    """
    task = folder / "usb_insertion.yaml"
    parent = config_directory() / "tasks" / "usb_insertion.yaml"
    task.write_text(f"extends: {parent}\ncamera: {{image_size_px: {IMAGE_SIZE_PX}}}\n")
    (folder / "camera.launch.xml").write_text(LAUNCH)
    ages_ms: list[float] = []
    heard_s: list[float] = []

    def on_image(message: bytes) -> None:
        now_ns = time.time_ns()
        seconds, nanoseconds = struct.unpack_from("<iI", message, 4)  # after the header of the encoding
        ages_ms.append((now_ns - seconds * 1_000_000_000 - nanoseconds) * 1e-6)
        heard_s.append(time.monotonic())

    rclpy.init()
    node, executor = Node("listener"), make_executor()
    node.create_subscription(Image, "wrist/color/image_raw", on_image, qos.sensor(10), raw=True)
    executor.add_node(node)
    arguments = {"task": str(task), "camera_file": str(file)}
    try:
        with Launch(folder / "camera.launch.xml", arguments, log_dir=folder / "log") as launch:
            while not heard_s or heard_s[-1] - heard_s[0] < WARM_UP_S:
                executor.spin_once(0.1)
            process = psutil.Process(launch.pid("wrist_camera"))
            first, used_s, begun_s = len(ages_ms), sum(process.cpu_times()[:2]), time.monotonic()
            while time.monotonic() - heard_s[-1] < 0.5:
                executor.spin_once(0.1)
                if time.monotonic() - heard_s[-1] < 0.1:
                    share = (sum(process.cpu_times()[:2]) - used_s) / (time.monotonic() - begun_s)
    finally:
        node.destroy_node()
        rclpy.shutdown()
    counted = ages_ms[first:]
    print(f"{len(ages_ms)} of {frames} frames heard, {len(counted)} counted", file=sys.stderr)
    return {
        "added_age_p50_ms": float(np.percentile(counted, 50)),
        "added_age_p99_ms": float(np.percentile(counted, 99)),
        "core_share": share,
        "frames": float(len(counted)),
        "frames_lost": float(frames - len(ages_ms)),
    }


def playback_alone(file: Path) -> float:
    """The share of a core that it takes to read a recording to its end, which a camera does not need."""
    source = RealSenseSource(CameraSettings(file=str(file)))
    source.open()
    used_s, begun_s = time.process_time(), time.monotonic()
    ended_s = begun_s
    try:
        while True:
            if source.read() is not None:
                ended_s = time.monotonic()
    except PlaybackEnded:
        return (time.process_time() - used_s) / (ended_s - begun_s)
    finally:
        source.close()


if __name__ == "__main__":
    print(main(sys.argv[1:]))
