"""What the bridge decides: the arm's health as the graph is told it, and one goal of the hand at a time."""

import numpy as np
import pytest

from rldg_control.franka_rig import IDLE, MOVE, REFLEX, USER_STOP, BinaryGripper, Decimator, Order, RigHealth


@pytest.fixture
def health() -> RigHealth:
    """Of a robot that moves under the impedance controller, at 10 s."""
    health = RigHealth()
    health.on_state(IDLE, [], 9.9)
    health.started(9.9)
    health.on_state(MOVE, [], 10.0)
    assert health.mode == MOVE
    return health


def test_before_the_robot_spoke_nothing_is_said_of_it() -> None:
    health = RigHealth()
    health.tick(100.0)
    assert health.mode is None
    assert health.fault == ""


def test_a_reflex_is_told_with_its_errors_and_ends_commands(health: RigHealth) -> None:
    health.on_state(REFLEX, ["cartesian_reflex"], 10.1)
    assert health.mode == REFLEX
    assert "cartesian_reflex" in health.fault
    assert not health.commanding


def fall_silent(health: RigHealth, until_s: float = 10.5) -> None:
    for now_s in np.arange(10.0, until_s, 0.1).tolist():
        health.tick(now_s)


def test_a_robot_that_falls_silent_has_a_fault(health: RigHealth) -> None:
    fall_silent(health, until_s=10.29)
    assert health.mode == MOVE
    fall_silent(health)
    assert health.mode == REFLEX
    assert "silent" in health.fault


def test_a_pause_of_the_bridge_itself_is_no_silence_of_the_robot(health: RigHealth) -> None:
    fall_silent(health, until_s=10.29)
    health.tick(11.0)
    assert health.mode == MOVE


def test_silence_before_anything_was_started_is_only_waited_for() -> None:
    health = RigHealth()
    health.on_state(IDLE, [], 10.0)
    fall_silent(health)
    assert (health.mode, health.fault) == (None, "")
    health.on_state(IDLE, [], 10.6)
    assert health.mode == IDLE


def test_a_fault_stays_until_somebody_recovered_whatever_the_robot_says(health: RigHealth) -> None:
    fall_silent(health)
    health.on_state(MOVE, [], 11.1)
    assert health.mode == REFLEX
    health.recovered()
    assert health.mode == MOVE


def test_a_user_stop_that_was_released_still_needs_a_recovery(health: RigHealth) -> None:
    health.on_state(USER_STOP, [], 10.1)
    assert health.mode == USER_STOP
    health.on_state(IDLE, [], 10.2)
    assert health.mode == REFLEX
    assert health.fault == "user stop"


def test_a_robot_that_goes_idle_under_the_controller_has_a_fault(health: RigHealth) -> None:
    health.on_state(IDLE, [], 10.1)
    health.on_state(IDLE, [], 10.3)
    assert health.mode == IDLE
    health.on_state(IDLE, [], 10.7)
    assert health.mode == REFLEX
    assert "stopped from outside" in health.fault


def test_an_idle_robot_is_well_while_nothing_was_started() -> None:
    health = RigHealth()
    for now_s in (1.0, 1.2, 1.4, 1.6, 1.8):
        health.on_state(IDLE, [], now_s)
    assert (health.mode, health.fault) == (IDLE, "")


def test_a_hand_is_told_once() -> None:
    hand = BinaryGripper()
    assert hand.ask(closed=True) is Order.CLOSE
    assert hand.ask(closed=True) is None
    assert hand.ended() is None
    assert hand.ask(closed=True) is None


def test_the_opposite_wish_stops_the_goal_first_and_follows_when_that_has_ended() -> None:
    hand = BinaryGripper()
    hand.ask(closed=True)
    assert hand.ask(closed=False) is Order.STOP
    assert hand.ask(closed=False) is None
    assert hand.ended() is Order.OPEN
    assert hand.ended() is None


def test_a_wish_taken_back_while_the_hand_stops_is_carried_out_all_the_same() -> None:
    hand = BinaryGripper()
    hand.ask(closed=True)
    hand.ask(closed=False)
    assert hand.ask(closed=True) is None
    assert hand.ended() is Order.CLOSE  # it was stopped half-way


def test_a_fast_stream_is_thinned_by_its_stamps_and_survives_a_clock_set_back() -> None:
    thin = Decimator(0.0075)
    assert sum(thin.due(ms * 1_000_000) for ms in range(1000)) == 125
    assert thin.due(0)
