"""Keys become the report of a device, and one browser at a time has them."""

import numpy as np
import pytest

from rldg_console.keyboard import SILENT_S, Hands, Motion, report
from rldg_core.teleop import Teleop
from rldg_core.testing import TICK_NS, tool_down


@pytest.mark.parametrize(
    ("motion", "axis", "sign"),
    [
        (Motion.FORWARD, 0, 1), (Motion.BACK, 0, -1), (Motion.LEFT, 1, 1), (Motion.RIGHT, 1, -1),
        (Motion.UP, 2, 1), (Motion.DOWN, 2, -1), (Motion.YAW_LEFT, 5, 1), (Motion.YAW_RIGHT, 5, -1),
    ],
)  # fmt: skip
def test_a_key_moves_one_axis_of_the_base_in_its_direction(motion: Motion, axis: int, sign: int) -> None:
    twist = np.zeros(6)
    twist[axis] = 0.5 * sign
    assert report([motion], 0.5).twist == pytest.approx(twist)


def test_every_motion_does_something_of_its_own() -> None:
    assert len({report([motion], 1.0) for motion in Motion}) == len(Motion)


def test_opposite_keys_cancel_and_no_key_is_rest() -> None:
    assert report([Motion.UP, Motion.DOWN], 1.0) == report([], 1.0)
    assert report([], 1.0).twist == (0.0,) * 6 and report([], 1.0).buttons == (0, 0)


def test_the_device_that_the_keys_are_obeys_the_dead_man_rule() -> None:
    teleop, forward = Teleop(), report([Motion.FORWARD], 0.5)
    teleop.update(TICK_NS, *forward)
    assert teleop.command(TICK_NS, tool_down(), gripper_closed=False).active
    silent = teleop.command(6 * TICK_NS, tool_down(), gripper_closed=False)
    assert not silent.active and "fell silent" in silent.fault


def test_whoever_presses_first_has_the_arm_until_letting_go() -> None:
    hands = Hands()
    assert hands.take(1, True, 0.0) and not hands.take(2, True, 0.1) and hands.held(0.1) == 1
    assert hands.take(1, False, 0.2) and hands.held(0.2) is None
    assert hands.take(2, True, 0.3) and hands.held(0.3) == 2


def test_hands_off_of_somebody_else_does_not_count() -> None:
    hands = Hands()
    hands.take(1, True, 0.0)
    assert not hands.take(2, False, 0.1) and hands.held(0.1) == 1


def test_somebody_else_may_relieve_whoever_fell_silent() -> None:
    hands = Hands()
    hands.take(1, True, 0.0)
    assert not hands.take(2, True, SILENT_S)
    assert hands.take(2, True, SILENT_S + 0.1) and hands.held(SILENT_S + 0.1) == 2
    assert not hands.take(1, True, SILENT_S + 0.2)
