"""The SpaceMouse node, fed with raw HID reports through pyspacemouse's own parser."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fake_hid import FULL_SCALE, FakeHid, buttons, link, motion, plug_in, rotation, translation
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import Joy

from rldg_control.spacemouse_node import SpaceMouseNode
from rldg_control.spacemouse_reader import DeviceState, SpaceMouseReader, gripper_buttons
from rldg_core.task import config_directory
from rldg_ros import qos
from rldg_ros.testing import Bench, overrides

pytest.importorskip("pyspacemouse.api")

FORWARD = translation(0, -FULL_SCALE, 0)


@pytest.fixture
def hid(monkeypatch: pytest.MonkeyPatch) -> FakeHid:
    device = FakeHid()
    plug_in(monkeypatch, device)
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
        hid.send(FORWARD, rotation(0, 0, -175), buttons(0b10))
        hid.repeat = (FORWARD,)
        assert bench.spin(lambda: listener.axes()[5] != 0.0 and any(listener.joys[-1].buttons))
        assert listener.axes() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.5]  # pushed away = forward, turned left = about z up
        assert list(listener.joys[-1].buttons) == [0, 1]
        hid.repeat = (translation(FULL_SCALE, 0, 0),)
        assert bench.spin(lambda: listener.axes()[1] == -1.0)  # pushed right = y left negative
        hid.repeat = (translation(0, 0, FULL_SCALE),)
        assert bench.spin(lambda: listener.axes()[2] == -1.0)  # pushed down


def test_it_beats_while_nobody_touches_the_device(hid: FakeHid) -> None:
    with Bench("beat") as bench:
        listener, _ = _start(bench)
        assert bench.spin(lambda: len(listener.twists) > 20 and len(listener.joys) > 20)
        assert hid.nonblocking


def test_a_lost_device_silences_it_and_coming_back_revives_it(hid: FakeHid) -> None:
    with Bench("lost") as bench:
        listener, _ = _start(bench)
        hid.repeat = (FORWARD,)
        assert bench.spin(lambda: listener.twists and listener.axes()[0] == 1.0)
        hid.plugged = False
        assert bench.spin(lambda: listener.device is not None and listener.device.level == DiagnosticStatus.ERROR)
        assert "SpaceMouse" in listener.device.message
        bench.spin_for(0.1)
        count = len(listener.twists)
        bench.spin_for(0.4)
        assert len(listener.twists) == count
        hid.plugged, hid.repeat = True, ()
        assert bench.spin(lambda: len(listener.twists) > count)
        assert listener.axes() == [0.0] * 6  # no deflection survives the loss


def test_a_deflection_that_stops_being_reported_is_a_lost_device(hid: FakeHid) -> None:
    with Bench("stuck") as bench:
        listener, _ = _start(bench)
        hid.send(FORWARD)
        assert bench.spin(lambda: listener.device is not None and "no report" in listener.device.message)


def test_a_stream_of_zeros_is_a_warning_with_a_remedy(hid: FakeHid) -> None:
    hid.repeat = (translation(0, 0, 0),)
    with Bench("zeros") as bench:
        listener, _ = _start(bench, self_test_s=1.0)
        assert bench.spin(lambda: listener.device is not None and listener.device.level == DiagnosticStatus.WARN)
        assert "wireless receiver" in listener.device.message
        hid.repeat = (translation(0, 20, 0),)
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


def read(device: FakeHid, monkeypatch: pytest.MonkeyPatch, *reports: bytes, **options: object) -> DeviceState:
    """What the reader makes of a few reports."""
    plug_in(monkeypatch, device)
    device.send(*reports)
    reader = SpaceMouseReader(**options)  # type: ignore[arg-type]
    reader.start()
    for _ in range(250):
        if reader.state.reports >= len(reports) - 1 or reader.state.trouble:  # the first is read before counting begins
            break
        threading.Event().wait(0.02)
    threading.Event().wait(0.02)
    state = reader.state
    reader.stop()
    return state


# vendor, product; whether it reports all axes at once; masks of the buttons that close and open the gripper
MODELS = {
    "SpaceNavigator": (0x046D, 0xC626, False, 0b01, 0b10),
    "SpaceMouse Compact": (0x256F, 0xC635, False, 0b01, 0b10),
    "SpaceMouse Wireless": (0x256F, 0xC62E, True, 0b01, 0b10),
    "SpaceMouse Wireless (new)": (0x256F, 0xC63A, True, 0b01, 0b10),
    "SpaceMouse Pro": (0x046D, 0xC62B, False, 1 << 12, 1 << 13),
    "SpaceMouse Pro Wireless": (0x256F, 0xC632, True, 1 << 12, 1 << 13),
    "Universal Receiver": (0x256F, 0xC652, True, 1 << 12, 1 << 13),
    "SpaceMouse Enterprise": (0x256F, 0xC633, True, 1 << 12, 1 << 13),
    "SpaceExplorer": (0x046D, 0xC627, False, 0b01, 0b10),
}


@pytest.mark.parametrize("model", MODELS)
def test_every_model_moves_along_the_axes_of_ros_and_has_its_two_buttons(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor, product, at_once, close, open_ = MODELS[model]
    # right, towards the user, down: three deflections that differ, and three turns about these
    axes = (35, -70, 105, 140, -175, 210)
    pose = (motion(*axes),) if at_once else (translation(*axes[:3]), rotation(*axes[3:]))
    state = read(FakeHid((vendor, product), product=model), monkeypatch, *pose, *pose, buttons(close))
    assert state.name == model
    # forward, left, up = away from the user, not right, not down; turns likewise
    assert state.axes == pytest.approx((0.2, -0.1, -0.3, 0.5, -0.4, -0.6))
    assert state.pressed == (True, False)
    both = read(FakeHid((vendor, product)), monkeypatch, buttons(close), buttons(open_), buttons(close | open_))
    assert both.pressed == (True, True)


def test_translation_does_not_wait_for_rotation_where_they_come_in_turns(
    hid: FakeHid, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = [report for i in range(1, 151) for report in (translation(0, -i, 0), rotation(0, 0, -i))]
    state = read(hid, monkeypatch, *reports)
    assert (state.axes[0], state.axes[5]) == pytest.approx((150 / FULL_SCALE, 150 / FULL_SCALE))


def test_reports_of_an_unknown_kind_and_torn_ones_do_no_harm(hid: FakeHid, monkeypatch: pytest.MonkeyPatch) -> None:
    torn = (bytes([23]) * 7, b"\xff" * 64, bytes([3]), FORWARD[:3], FORWARD, FORWARD)
    state = read(hid, monkeypatch, *torn)
    assert state.connected and state.axes == (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_the_buttons_of_the_gripper_may_be_named() -> None:
    names = ("MENU", "BTN_1", "BTN_2", "FIT")
    assert gripper_buttons(names) == (1, 2)
    assert gripper_buttons(names, "MENU", "FIT") == (0, 3)
    assert gripper_buttons(()) == (None, None)  # the SpaceMouse Module has none
    with pytest.raises(ValueError, match="button 'LEFT': this SpaceMouse has MENU, BTN_1, BTN_2, FIT"):
        gripper_buttons(names, "LEFT")


def test_a_button_that_the_device_does_not_have_is_an_error_that_lists_those_it_has(
    hid: FakeHid, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = read(hid, monkeypatch, buttons(0), buttons=("MENU", ""))
    assert state.trouble == "button 'MENU': this SpaceMouse has LEFT, RIGHT"


def test_of_two_devices_the_one_at_the_path_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = (FakeHid(path=link(tmp_path / name), product=name) for name in ("left", "right"))
    plug_in(monkeypatch, left, right)
    right.repeat = (FORWARD,)
    reader = SpaceMouseReader(right.path)
    reader.start()
    for _ in range(250):
        if any(reader.state.axes):
            break
        threading.Event().wait(0.02)
    reader.stop()
    assert (reader.state.name, reader.state.axes[0], reader.state.warning) == ("right", 1.0, "")


def test_of_two_devices_without_a_path_the_first_is_read_with_a_warning_that_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = (FakeHid(path=link(tmp_path / name), product=name) for name in ("left", "right"))
    plug_in(monkeypatch, left, right)
    reader = SpaceMouseReader()
    reader.start()
    for _ in range(250):
        if reader.state.connected:
            break
        threading.Event().wait(0.02)
    reader.stop()
    assert reader.state.name == "left"
    assert left.path in reader.state.warning and right.path in reader.state.warning


def test_a_path_where_nothing_is_says_so(tmp_path: Path, hid: FakeHid, monkeypatch: pytest.MonkeyPatch) -> None:
    state = read(hid, monkeypatch, path=str(tmp_path / "nowhere"))
    assert "nowhere' does not exist" in state.trouble and "udev rule" in state.trouble


def test_the_robot_file_says_how_the_operator_stands(hid: FakeHid, tmp_path: Path) -> None:
    robot = tmp_path / "turned.yaml"
    parent = config_directory() / "robots" / "fr3.yaml"
    scale = "[0.5, 1.0, 1.0, 1.0, 1.0, 1.0]"
    robot.write_text(
        f"extends: {parent}\nname: turned\noperator: {{yaw_rad: 3.141592653589793, scale: {scale}, dead_zone: 0.1}}\n"
    )
    with Bench("turned") as bench:
        listener, _ = _start(bench, robot=str(robot))
        hid.repeat = (translation(34, -FULL_SCALE, 0), rotation(0, 0, -FULL_SCALE))  # a little to the right, too
        assert bench.spin(lambda: listener.twists and listener.axes()[5] != 0.0 and listener.axes()[0] != 0.0)
        # facing the arm, away from the person is towards its base; what is left of the other axes is zero
        assert listener.axes() == [-0.5, 0.0, 0.0, 0.0, 0.0, 1.0]
