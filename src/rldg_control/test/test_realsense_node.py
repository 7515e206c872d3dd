"""The camera node keeps the contract of the wrist camera: what, when, and nothing where there is nothing new."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from control_graph import TASK, Graph
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from rldg_control.realsense_node import RealSenseNode
from rldg_control.testing import FOCAL_PX, REMEDY, numbered, record
from rldg_core.images import square
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.testing import Bench, overrides

SIDE = TASK.camera.image_size_px


class Listener(Node):
    def __init__(self, bench: Bench) -> None:
        super().__init__("listener", context=bench.context)
        self.images: list[Image] = []
        self.infos: list[CameraInfo] = []
        self.camera: DiagnosticStatus | None = None
        self.create_subscription(Image, "wrist/color/image_raw", self.images.append, qos.reliable(50))
        self.create_subscription(CameraInfo, "wrist/color/camera_info", self.infos.append, qos.reliable(50))
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.reliable(10))

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            if status.name == "wrist_camera: camera":
                self.camera = status


def camera(bench: Bench, **parameters: object) -> RealSenseNode:
    return RealSenseNode(context=bench.context, parameter_overrides=overrides(task="usb_insertion", **parameters))


def test_a_recording_is_published_once_square_stamped_and_then_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pyrealsense2", reason=REMEDY, exc_type=ImportError)
    path = record(tmp_path / "wrist.db3", 45)
    with Bench("camera") as bench:
        listener, node = Listener(bench), camera(bench, file=str(path))
        bench.add(listener)
        bench.add(node, activate=False)
        node.trigger_configure()
        image_out = f"{node.get_namespace().rstrip('/')}/wrist/color/image_raw"
        assert bench.spin(lambda: node.count_subscribers(image_out) > 0)
        node.trigger_activate()
        assert bench.spin(lambda: listener.camera is not None and "has ended after" in listener.camera.message)
        assert listener.camera is not None and listener.camera.level == DiagnosticStatus.ERROR
        assert len(listener.images) > 1
        count, now_ns = len(listener.images), node.now_ns()
        bench.spin_for(0.3)
        assert len(listener.images) == count
    stamps = [convert.stamp_from_msg(image.header.stamp) for image in listener.images]
    assert stamps == sorted(set(stamps)) and stamps[-1] <= now_ns
    for image in listener.images:
        pixels = convert.image_from_msg(image)
        # the observer makes the same of the stock driver's 640 x 480
        assert np.array_equal(pixels, square(numbered(int(pixels[SIDE // 2, SIDE // 2, 0])), SIDE))
        assert image.header.frame_id == node.robot.camera_frame
    info = listener.infos[-1]
    assert convert.stamp_from_msg(info.header.stamp) in stamps
    assert (info.width, info.height, info.k[2], info.k[5]) == (SIDE, SIDE, SIDE / 2, SIDE / 2)
    assert info.k[0] == info.k[4] == pytest.approx(FOCAL_PX * SIDE / 480)


def test_a_camera_that_is_not_there_is_an_error_that_says_so_and_nothing_is_published() -> None:
    pytest.importorskip("pyrealsense2", reason=REMEDY, exc_type=ImportError)
    with Bench("absent") as bench:
        listener = Listener(bench)
        bench.add(listener)
        bench.add(camera(bench, serial="000000000000"))
        assert bench.spin(lambda: listener.camera is not None and "is not connected" in listener.camera.message)
        assert not listener.images


def test_without_the_library_it_refuses_to_configure_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with Bench("library") as bench:
        node = camera(bench)
        bench.add(node)
        assert not node.active
    assert "apt-get install libusb-1.0-0" in capfd.readouterr().err


def test_it_refuses_lockstep(capfd: pytest.CaptureFixture[str]) -> None:
    with Bench("lockstep") as bench:
        node = camera(bench, lockstep=True)
        bench.add(node)
        assert not node.active
    assert "only run in real time" in capfd.readouterr().err


def test_the_observer_takes_a_whole_image_of_the_stock_driver_and_makes_the_same_square_of_it() -> None:
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    with Graph("whole image") as graph:
        graph.cell.show(image)
        expected = square(image, SIDE)
        observations = graph.probe.observations
        assert graph.bench.spin(lambda: np.array_equal(observations[-1].image, expected))
