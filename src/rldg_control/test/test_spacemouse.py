"""The SpaceMouse node, fed with raw HID reports through pyspacemouse's own parser."""

from __future__ import annotations

import struct
import threading
from collections import deque

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import Joy

from rldg_control.spacemouse_node import SpaceMouseNode
from rldg_control.spacemouse_reader import SpaceMouseReader
from rldg_ros import qos
from rldg_ros.testing import Bench, overrides

pyspacemouse_api = pytest.importorskip("pyspacemouse.api")

COMPACT = (0x256F, 0xC635)
FULL_SCALE = 350


class FakeHid:
    """A HID device: hands out queued reports, fails once unplugged."""

    vendor_id, product_id = COMPACT
    product_string, manufacturer_string = "SpaceMouse Compact", "3Dconnexion"
    release_number, serial_number = 1, ""

    def __init__(self) -> None:
        self.reports: deque[bytes] = deque()
        self.repeat: bytes | None = None
        self.plugged = True
        self.nonblocking = False
        self.lock = threading.Lock()

    def open(self) -> None:
        if not self.plugged:
            raise OSError("gone")

    def close(self) -> None:
        pass

    def set_nonblocking(self, enable: bool) -> None:
        self.nonblocking = enable

    def read(self, size: int) -> bytes:
        if not self.plugged:
            raise OSError("read failed")
        with self.lock:
            if self.reports:
                return self.reports.popleft()
        return self.repeat or b""

    def send(self, *reports: bytes) -> None:
        with self.lock:
            self.reports.extend(reports)


def translation(x: int, y: int, z: int) -> bytes:
    return bytes([1]) + struct.pack("<hhh", x, y, z)


def rotation(x: int, y: int, z: int) -> bytes:
    return bytes([2]) + struct.pack("<hhh", x, y, z)


def buttons(mask: int) -> bytes:
    return bytes([3, mask, 0, 0])


@pytest.fixture
def hid(monkeypatch: pytest.MonkeyPatch) -> FakeHid:
    device = FakeHid()

    class Enumeration:
        def find(self) -> list[FakeHid]:
            return [device] if device.plugged else []

    monkeypatch.setattr(pyspacemouse_api, "Enumeration", Enumeration)
    return device


class Listener(Node):
    def __init__(self, bench: Bench) -> None:
        super().__init__("listener", context=bench.context)
        self.twists: list[TwistStamped] = []
        self.joys: list[Joy] = []
        self.device: DiagnosticStatus | None = None
        self.create_subscription(TwistStamped, "spacenav/twist_stamped", self.twists.append, qos.reliable(10))
        self.create_subscription(Joy, "spacenav/joy", self.joys.append, qos.reliable(10))
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.reliable(10))

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            if status.name == "spacemouse: device":
                self.device = status

    def axes(self) -> list[float]:
        v, w = self.twists[-1].twist.linear, self.twists[-1].twist.angular
        return [round(value, 6) for value in (v.x, v.y, v.z, w.x, w.y, w.z)]


def _start(bench: Bench, **parameters: object) -> tuple[Listener, SpaceMouseNode]:
    listener = Listener(bench)
    node = SpaceMouseNode(context=bench.context, parameter_overrides=overrides(task="usb_insertion", **parameters))
    bench.add(listener)
    bench.add(node)
    return listener, node


def test_deflections_come_out_in_base_axes_and_buttons_as_close_and_open(hid: FakeHid) -> None:
    with Bench("axes") as bench:
        listener, _ = _start(bench)
        assert bench.spin(lambda: listener.twists and listener.joys)
        assert listener.axes() == [0.0] * 6 and not any(listener.joys[-1].buttons)
        # the device's own axes: x right, y towards the user, z down
        hid.send(translation(0, -FULL_SCALE, 0), rotation(0, 0, -175), buttons(0b10))
        hid.repeat = translation(0, -FULL_SCALE, 0)
        assert bench.spin(lambda: listener.axes()[5] != 0.0 and any(listener.joys[-1].buttons))
        assert listener.axes() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.5]  # pushed away = forward, turned left = about z up
        assert list(listener.joys[-1].buttons) == [0, 1]
        hid.repeat = translation(FULL_SCALE, 0, 0)
        assert bench.spin(lambda: listener.axes()[1] == -1.0)  # pushed right = y left negative
        hid.repeat = translation(0, 0, FULL_SCALE)
        assert bench.spin(lambda: listener.axes()[2] == -1.0)  # pushed down


def test_it_beats_while_nobody_touches_the_device(hid: FakeHid) -> None:
    with Bench("beat") as bench:
        listener, _ = _start(bench)
        assert bench.spin(lambda: len(listener.twists) > 20 and len(listener.joys) > 20)
        assert hid.nonblocking


def test_a_lost_device_silences_it_and_coming_back_revives_it(hid: FakeHid) -> None:
    with Bench("lost") as bench:
        listener, _ = _start(bench)
        hid.repeat = translation(0, -FULL_SCALE, 0)
        assert bench.spin(lambda: listener.twists and listener.axes()[0] == 1.0)
        hid.plugged = False
        assert bench.spin(lambda: listener.device is not None and listener.device.level == DiagnosticStatus.ERROR)
        assert "SpaceMouse" in listener.device.message
        bench.spin_for(0.1)
        count = len(listener.twists)
        bench.spin_for(0.4)
        assert len(listener.twists) == count
        hid.plugged, hid.repeat = True, None
        assert bench.spin(lambda: len(listener.twists) > count)
        assert listener.axes() == [0.0] * 6  # no deflection survives the loss


def test_a_deflection_that_stops_being_reported_is_a_lost_device(hid: FakeHid) -> None:
    with Bench("stuck") as bench:
        listener, _ = _start(bench)
        hid.send(translation(0, -FULL_SCALE, 0))
        assert bench.spin(lambda: listener.device is not None and "no report" in listener.device.message)


def test_a_stream_of_zeros_is_a_warning_with_a_remedy(hid: FakeHid) -> None:
    hid.repeat = translation(0, 0, 0)
    with Bench("zeros") as bench:
        listener, _ = _start(bench, self_test_s=1.0)
        assert bench.spin(lambda: listener.device is not None and listener.device.level == DiagnosticStatus.WARN)
        assert "wireless receiver" in listener.device.message
        hid.repeat = translation(0, 20, 0)
        assert bench.spin(lambda: listener.device.level == DiagnosticStatus.OK)


def test_without_a_device_it_says_what_to_do_and_keeps_trying(hid: FakeHid) -> None:
    hid.plugged = False
    with Bench("none") as bench:
        listener, _ = _start(bench)
        assert bench.spin(lambda: listener.device is not None and "plug it in" in listener.device.message)
        assert not listener.twists
        hid.plugged = True
        assert bench.spin(lambda: listener.twists)


def test_the_reader_drains_a_backlog_instead_of_lagging_behind_it(hid: FakeHid) -> None:
    hid.send(*[translation(0, -i, 0) for i in range(1, 301)])
    reader = SpaceMouseReader()
    reader.start()
    done = threading.Event()
    for _ in range(100):
        if reader.state.reports >= 298:
            break
        done.wait(0.02)
    reader.stop()
    assert reader.state.axes[0] == pytest.approx(300 / FULL_SCALE)
