"""Dead zone, dead-man rule, gripper buttons and loss of the operator device."""

import math

import numpy as np
import pytest

from rldg_core.frames import quaternion_from_rpy, rotate
from rldg_core.task import OperatorDevice
from rldg_core.teleop import HumanCommand, Teleop, base_axes, foremost
from rldg_core.testing import TICK_NS, tool_down
from rldg_core.types import Action

REST = np.zeros(6)
FORWARD = np.array([0.8, 0.0, 0.0, 0.0, 0.0, 0.0])


def drive(teleop, now_ns, twist, buttons=()):
    teleop.update(now_ns, twist, buttons)
    return teleop.command(now_ns, tool_down(), gripper_closed=False)


def test_inside_the_dead_zone_nobody_drives():
    assert not drive(Teleop(), TICK_NS, np.full(6, 0.04)).active


def test_a_deflection_is_turned_into_the_tcp_frame():
    """Tool down: base x is TCP x, base z is minus TCP z."""
    command = drive(Teleop(), TICK_NS, np.array([0.8, 0, 0.8, 0, 0, 0]))
    assert command.active
    delta = command.action.delta
    assert delta[0] > 0 and delta[2] == pytest.approx(-delta[0]) and np.abs(delta[3:]).max() < 1e-12


def test_motion_starts_from_zero_at_the_edge_of_the_dead_zone():
    command = drive(Teleop(dead_zone=0.05), TICK_NS, np.array([0.06, 0, 0, 0, 0, 0]))
    assert 0.0 < command.action.delta[0] < 0.02


def test_full_deflection_is_one_and_more_is_clipped():
    assert drive(Teleop(), TICK_NS, np.array([3.0, 0, 0, 0, 0, 0])).action.delta[0] == pytest.approx(1.0)


def test_a_full_deflection_keeps_its_direction_when_it_is_turned():
    teleop = Teleop()
    teleop.update(TICK_NS, [1.0, 1.0, 0, 0, 0, 0])
    delta = teleop.command(TICK_NS, tool_down(yaw=0.3), False).action.delta
    turned = rotate(quaternion_from_rpy((np.pi, 0, 0.3)), delta[:3])
    assert turned[0] == pytest.approx(turned[1]) and np.abs(delta).max() == pytest.approx(1.0)


def test_control_goes_back_only_after_the_hold_time():
    teleop = Teleop(hold_s=0.4)
    drive(teleop, TICK_NS, FORWARD)
    active = [drive(teleop, (1 + n) * TICK_NS, REST).active for n in range(1, 7)]
    assert active == [True, True, True, True, False, False]


def test_a_deflection_between_the_zones_keeps_but_does_not_take_control():
    between = np.array([0.04, 0, 0, 0, 0, 0])
    assert not drive(Teleop(), TICK_NS, between).active
    teleop = Teleop()
    drive(teleop, TICK_NS, FORWARD)
    assert all(drive(teleop, n * TICK_NS, between).active for n in range(2, 12))


def test_buttons_close_and_open_and_an_empty_list_is_no_press():
    teleop = Teleop()
    assert drive(teleop, TICK_NS, REST, [1]).action.gripper_closed is True
    assert drive(teleop, 2 * TICK_NS, REST, [0, 1]).action.gripper_closed is False
    teleop.update(3 * TICK_NS, REST, [])
    assert teleop.command(3 * TICK_NS, tool_down(), gripper_closed=True).action.gripper_closed is True


def test_a_device_that_falls_silent_while_held_is_a_fault_until_it_is_back_at_rest():
    teleop = Teleop(timeout_s=0.3)
    drive(teleop, TICK_NS, FORWARD)
    command = teleop.command(10 * TICK_NS, tool_down(), False)
    assert not command.active and "silent" in command.fault
    assert drive(teleop, 11 * TICK_NS, FORWARD).fault
    assert drive(teleop, 12 * TICK_NS, REST).fault == ""
    assert drive(teleop, 13 * TICK_NS, FORWARD).active


def test_a_device_that_falls_silent_at_rest_is_no_fault():
    teleop = Teleop()
    drive(teleop, TICK_NS, REST)
    assert teleop.command(100 * TICK_NS, tool_down(), False).fault == ""


@pytest.mark.parametrize("twist", [np.full(6, np.nan), np.array([np.inf, 0, 0, 0, 0, 0]), np.zeros(5)])
def test_a_device_that_sends_nonsense_is_a_fault(twist):
    command = drive(Teleop(), TICK_NS, twist)
    assert not command.active and "expected 6 finite numbers" in command.fault


def test_of_two_devices_the_first_that_is_held_counts_and_a_fault_of_either_before_both():
    off, lost = HumanCommand(), HumanCommand(fault="lost")
    first, second = (HumanCommand(active=True, action=Action(np.full(6, x))) for x in (0.1, 0.2))
    assert foremost([off, off]) == off
    assert foremost([first, second]) is first and foremost([off, second]) is second
    assert foremost([first, lost]) is lost


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (OperatorDevice(), [0.5, 0.2, -1.0, 0.0, 0.05, 0.3]),
        (OperatorDevice(yaw_rad=math.pi), [-0.5, -0.2, -1.0, 0.0, -0.05, 0.3]),
        (OperatorDevice(yaw_rad=math.pi / 2), [-0.2, 0.5, -1.0, -0.05, 0.0, 0.3]),
        (OperatorDevice(scale=(2.0, 1.0, 1.0, 1.0, 1.0, -1.0), dead_zone=0.1), [1.0, 0.2, -1.0, 0.0, 0.0, -0.3]),
    ],
    ids=["as it is", "facing the arm", "beside the arm", "scaled, worn"],
)
def test_a_device_stands_to_the_arm_as_the_robot_file_says(device: OperatorDevice, expected: list[float]) -> None:
    assert base_axes([0.5, 0.2, -1.4, 0.0, 0.05, 0.3], device) == pytest.approx(expected)


def test_a_deflection_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        base_axes([math.nan, 0.0, 0.0, 0.0, 0.0, 0.0], OperatorDevice())
