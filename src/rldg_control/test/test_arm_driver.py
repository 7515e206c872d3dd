"""The driver of a real arm follows targets as the task says; after a fault it commands nothing until told to."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from rldg_control.arm_driver import FAR_M, ArmDriver, ArmFault, LinkLost, Reading, Stage
from rldg_control.hand_driver import HandDriver
from rldg_core.frames import Pose
from rldg_core.impedance import filter_target
from rldg_core.recovery import IDLE, MOVE, REFLEX, USER_STOP
from rldg_core.target_gate import TARGET_TIMEOUT_S, TargetGate
from rldg_core.task import Gains, load_robot, load_task
from rldg_core.types import ArmState

TASK, ROBOT = load_task("usb_insertion"), load_robot("fr3")
HERE = Pose.from_rpy((0.5, 0.0, 0.1), (np.pi, 0.0, 0.0))
STATE = ArmState(HERE, np.zeros(6), np.zeros(6), np.array(ROBOT.home_rad), np.zeros(7), np.zeros(7), 0.0)
STEP_S = 0.005


class FakeArm:
    """Stands where it is put, records what it is told, and fails as it is told to."""

    def __init__(self) -> None:
        self.time_s, self.pose, self.mode, self.errors = 1.0, HERE, IDLE, ()
        self.stands_still = False  # its clock
        self.unreachable = False
        self.ends_with: Exception | None = None
        self.refuses: dict[str, Exception] = {}
        self.motion = ""
        self.aimed: list[Pose] = []
        self.calls: list[str] = []

    def connect(self) -> FakeArm:
        if self.unreachable:
            raise LinkLost("no route to the robot")
        return self

    def read(self) -> Reading:
        if self.unreachable:
            raise LinkLost("no route to the robot")
        if not self.stands_still:
            self.time_s += STEP_S
        return Reading(replace(STATE, tcp_pose=self.pose), self.mode, self.errors, self.time_s)

    def moves(self) -> bool:
        if self.ends_with is not None:
            error, self.ends_with, self.motion = self.ends_with, None, ""
            raise error
        return bool(self.motion)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.refuses:
            raise self.refuses[name]

    def track(self, target: Pose, gains: Gains, posture_rad: np.ndarray) -> None:
        self._call("track")
        self.motion, self.mode = "law", MOVE
        self.aimed = [target]

    def aim(self, target: Pose) -> None:
        assert self.motion == "law"
        self.aimed.append(target)

    def set_gains(self, gains: Gains) -> None:
        self._call("set_gains")
        self.gains = gains

    def move_joints(self, goal_rad: Sequence[float]) -> None:
        self._call("move_joints")
        self.motion = "joints"

    def stop(self) -> None:
        self._call("stop")
        self.motion = ""

    def recover(self) -> None:
        self._call("recover")
        self.mode, self.errors, self.motion = IDLE, (), ""

    def close(self) -> None:
        self.motion = ""
        self.calls.append("close")

    def reflex(self) -> None:
        self.mode, self.errors, self.ends_with = REFLEX, ("cartesian_reflex",), ArmFault("motion aborted by reflex")


class Rig:
    """An arm, its driver and a clock that goes by steps."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.arm = FakeArm()
        self.gate = TargetGate("base")
        self.driver = ArmDriver(self.arm.connect, self.gate, TASK.impedance, ROBOT.home_rad, clock=lambda: self.now_s)

    def run(self, duration_s: float = STEP_S, target: Pose | None = None) -> None:
        for _ in range(round(duration_s / STEP_S)):
            if target is not None and self.gate.admit("base", self.now_s):
                self.driver.set_target(target)
            self.now_s += STEP_S
            self.driver.step()

    def ask(self, request: Callable[[], object]) -> str:
        answer = request()
        self.run()
        return str(answer.result(0))  # type: ignore[attr-defined]


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.run(2 * STEP_S)
    assert rig.driver.stage is Stage.TRACKING
    return rig


def shifted(x_m: float) -> Pose:
    return Pose(HERE.position + np.array([x_m, 0.0, 0.0]), HERE.quaternion)


def test_the_law_begins_where_the_arm_stands(rig: Rig) -> None:
    assert rig.driver.mode == MOVE and rig.driver.trouble == ""
    np.testing.assert_allclose(rig.arm.aimed[0].position, HERE.position)


def test_the_set_point_takes_the_time_constant_of_the_task_in_the_robot_s_time(rig: Rig) -> None:
    rig.run(0.1, shifted(0.01))
    expected = HERE
    for _ in range(100):  # each millisecond, as the simulation does
        expected = filter_target(expected, shifted(0.01), TASK.impedance.target_filter)
    np.testing.assert_allclose(rig.arm.aimed[-1].position, expected.position, atol=1e-9)


def test_no_time_at_the_robot_moves_no_set_point(rig: Rig) -> None:
    rig.arm.stands_still = True
    before = rig.arm.aimed[-1]
    rig.run(0.05, shifted(0.01))
    assert rig.arm.aimed[-1] is before


def test_silence_makes_the_measured_pose_the_set_point(rig: Rig) -> None:
    rig.run(0.1, shifted(0.05))
    rig.arm.pose = shifted(0.01)
    rig.run(TARGET_TIMEOUT_S + 3.0)
    np.testing.assert_allclose(rig.arm.aimed[-1].position, shifted(0.01).position, atol=1e-6)


def test_a_hold_lasts_until_the_next_target(rig: Rig) -> None:
    rig.run(0.1, shifted(0.05))
    rig.driver.hold()
    rig.run(2.0)
    np.testing.assert_allclose(rig.arm.aimed[-1].position, HERE.position, atol=1e-5)
    rig.run(2.0, shifted(0.05))
    np.testing.assert_allclose(rig.arm.aimed[-1].position, shifted(0.05).position, atol=1e-5)


@pytest.mark.parametrize("target", [shifted(2 * FAR_M), HERE @ Pose.from_rpy((0.0, 0.0, 0.0), (1.5, 0.0, 0.0))])
def test_a_target_far_from_the_arm_is_refused(rig: Rig, target: Pose) -> None:
    with pytest.raises(ValueError, match=r"from the measured pose, at most 0.3 m and 0.8 rad are followed"):
        rig.driver.refuse_far(target)
    rig.driver.refuse_far(shifted(0.5 * FAR_M))


def test_gains_reach_the_law_with_the_next_step(rig: Rig) -> None:
    rig.driver.set_gains(TASK.impedance.precision)
    rig.run()
    assert rig.arm.gains == TASK.impedance.precision


def make_stale(rig: Rig) -> None:
    rig.arm.stands_still = True
    rig.run(1.2)


def make_user_stop(rig: Rig) -> None:
    rig.arm.mode = USER_STOP
    rig.run()


def make(error: Exception) -> Callable[[Rig], None]:
    def end(rig: Rig) -> None:
        rig.arm.ends_with = error
        rig.run()

    return end


def make_reflex(rig: Rig) -> None:
    rig.arm.reflex()
    rig.run()


def make_rejection(rig: Rig) -> None:
    rig.arm.refuses["set_gains"] = ArmFault("command rejected in the current mode")
    rig.driver.set_gains(TASK.impedance.precision)
    rig.run()
    rig.arm.refuses.clear()


def make_lost(rig: Rig) -> None:
    rig.arm.unreachable = True
    rig.run()


def make_end(rig: Rig) -> None:
    rig.arm.motion = ""
    rig.run()


FAULTS = {
    "reflex": (make_reflex, REFLEX, r"motion aborted by reflex \(cartesian_reflex\)"),
    "rejected": (make_rejection, REFLEX, "command rejected"),
    "stale": (make_stale, REFLEX, r"no new state from the robot for 1\d\d ms, at most 100 ms"),
    "lost": (make_lost, REFLEX, "connection lost: no route to the robot"),
    "user stop": (make_user_stop, USER_STOP, "user stop: release the button"),
    "ended": (make_end, REFLEX, "the motion ended by itself"),
    "link ended it": (make(LinkLost("UDP receive: timeout")), REFLEX, "connection lost: UDP receive"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_after_a_fault_nothing_is_commanded_whatever_comes(rig: Rig, kind: str) -> None:
    cause, mode, text = FAULTS[kind]
    rig.run(0.1, shifted(0.01))
    cause(rig)
    assert rig.driver.stage is Stage.FAULT and rig.driver.mode == mode
    assert re.search(text, rig.driver.trouble), rig.driver.trouble
    aimed = list(rig.arm.aimed)
    rig.arm.stands_still = rig.arm.unreachable = False
    rig.run(3.0, shifted(0.01))
    assert rig.arm.aimed == aimed and rig.arm.motion == "" and rig.driver.stage is Stage.FAULT


@pytest.mark.parametrize("kind", FAULTS)
def test_recovery_tracks_on_from_where_the_arm_stands_then(rig: Rig, kind: str) -> None:
    rig.run(0.1, shifted(0.05))
    FAULTS[kind][0](rig)
    rig.arm.stands_still = rig.arm.unreachable = False
    rig.arm.mode, rig.arm.pose = IDLE, shifted(-0.02)
    rig.run(2.0, shifted(0.05))
    assert rig.ask(rig.driver.recover) == ""
    assert rig.driver.stage is Stage.TRACKING and rig.driver.mode == MOVE and rig.driver.trouble == ""
    np.testing.assert_allclose(rig.arm.aimed[0].position, shifted(-0.02).position)
    rig.run(3.0, shifted(0.0))
    np.testing.assert_allclose(rig.arm.aimed[-1].position, HERE.position, atol=1e-5)


def test_a_user_stop_is_not_recovered_from_and_its_release_alone_moves_nothing(rig: Rig) -> None:
    make_user_stop(rig)
    assert "release the button" in rig.ask(rig.driver.recover) and "recover" not in rig.arm.calls
    rig.arm.mode = IDLE
    rig.run(1.0, shifted(0.01))
    assert rig.driver.mode == REFLEX and rig.arm.motion == ""
    assert rig.ask(rig.driver.recover) == ""


def test_a_recovery_that_the_robot_refuses_says_why_and_may_be_tried_again(rig: Rig) -> None:
    make_reflex(rig)
    rig.arm.refuses["recover"] = ArmFault("joint limit")
    assert rig.ask(rig.driver.recover) == "joint limit (cartesian_reflex)"
    assert rig.driver.stage is Stage.FAULT
    rig.arm.refuses.clear()
    assert rig.ask(rig.driver.recover) == ""


def test_recoveries_are_bounded(rig: Rig) -> None:
    answers = []
    for _ in range(6):
        make_reflex(rig)
        answers.append(rig.ask(rig.driver.recover))
    assert answers[:5] == [""] * 5 and answers[5].startswith("recovered 5 times within 60 s; find the cause")
    rig.run(60.0)
    assert rig.ask(rig.driver.recover) == ""


def test_without_a_link_recovery_says_so_until_it_is_back(rig: Rig) -> None:
    make_lost(rig)
    assert rig.ask(rig.driver.recover).startswith("no connection to the robot, which is tried every 1 s")
    rig.arm.unreachable, rig.arm.mode = False, IDLE
    rig.run(1.5)
    assert rig.driver.stage is Stage.FAULT
    assert rig.ask(rig.driver.recover) == ""


def test_a_healthy_arm_needs_no_recovery(rig: Rig) -> None:
    assert rig.ask(rig.driver.recover) == "" and "recover" not in rig.arm.calls


def test_a_robot_that_is_not_there_at_first_is_waited_for() -> None:
    rig = Rig()
    rig.arm.unreachable = True
    rig.run(3.0)
    assert rig.driver.stage is Stage.CONNECTING and rig.driver.trouble == "no route to the robot"
    rig.arm.unreachable = False
    rig.run(1.5)
    assert rig.driver.stage is Stage.TRACKING


def test_a_robot_in_error_at_first_is_a_fault() -> None:
    rig = Rig()
    rig.arm.mode, rig.arm.errors = REFLEX, ("joint_reflex",)
    rig.run(0.1)
    assert rig.driver.stage is Stage.FAULT and "joint_reflex" in rig.driver.trouble and "track" not in rig.arm.calls


def test_a_joint_reset_ignores_targets_and_tracks_on_where_it_ends(rig: Rig) -> None:
    answer = rig.driver.reset_joints()
    rig.run(1.0, shifted(0.05))
    assert rig.driver.stage is Stage.HOMING and rig.driver.mode == MOVE and not answer.done()
    rig.arm.pose, rig.arm.motion = shifted(0.1), ""
    rig.run()
    assert answer.result(0) == "" and rig.driver.stage is Stage.TRACKING
    np.testing.assert_allclose(rig.arm.aimed[0].position, shifted(0.1).position)


def test_a_joint_reset_that_fails_is_a_fault_and_its_answer(rig: Rig) -> None:
    answer = rig.driver.reset_joints()
    rig.run(0.5)
    make_reflex(rig)
    assert "reflex" in answer.result(0) and rig.driver.stage is Stage.FAULT
    assert rig.ask(rig.driver.reset_joints) == "the arm must be tracking, is fault"


def test_a_joint_reset_does_not_last_for_ever(rig: Rig) -> None:
    answer = rig.driver.reset_joints()
    rig.run(61.0)
    assert "not reached within 60 s" in answer.result(0) and rig.arm.motion == ""


def test_a_fault_of_the_program_itself_stops_the_arm_too() -> None:
    rig, ended = Rig(), threading.Event()
    rig.driver.step()
    rig.arm.refuses["set_gains"] = ZeroDivisionError("oops")
    rig.driver.set_gains(TASK.impedance.precision)
    thread = threading.Thread(target=rig.driver.run, args=(ended,))
    thread.start()
    end_s = time.monotonic() + 10.0
    while rig.driver.stage is not Stage.FAULT and time.monotonic() < end_s:
        time.sleep(0.01)
    assert rig.driver.trouble == "the driver failed: ZeroDivisionError: oops" and rig.arm.motion == ""
    ended.set()
    thread.join()
    assert rig.arm.calls[-1] == "close"


def test_a_driver_that_was_closed_begins_anew_where_the_arm_stands(rig: Rig) -> None:
    rig.run(0.1, shifted(0.05))
    rig.driver.close()
    assert rig.arm.motion == "" and rig.driver.stage is Stage.CONNECTING
    rig.arm.mode, rig.arm.pose = IDLE, shifted(-0.02)
    rig.run(0.1)
    assert rig.driver.stage is Stage.TRACKING
    np.testing.assert_allclose(rig.arm.aimed[0].position, shifted(-0.02).position)


def test_a_client_library_that_does_not_come_back_is_noticed(rig: Rig) -> None:
    rig.now_s += 9.0
    assert not rig.driver.hangs
    rig.now_s += 2.0
    assert rig.driver.hangs


class FakeHand:
    """A gripper whose commands last until they are let go on."""

    def __init__(self) -> None:
        self.done: list[bool] = []
        self.begun: list[bool] = []
        self.go_on = threading.Event()
        self.fails: Exception | None = None
        self.lost = False

    def connect(self) -> FakeHand:
        if self.lost:
            raise LinkLost("no hand")
        return self

    def width_m(self) -> float:
        if self.lost:
            raise LinkLost("no hand")
        return 0.02

    def drive(self, closed: bool) -> None:
        self.begun.append(closed)
        self.go_on.wait(10.0)
        if self.fails is not None:
            raise self.fails
        self.done.append(closed)


def until(condition: Callable[[], object]) -> bool:
    end_s = time.monotonic() + 10.0
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.01)
    return bool(condition())


@pytest.fixture
def hand() -> object:
    fake, ended = FakeHand(), threading.Event()
    driver = HandDriver(fake.connect)
    thread = threading.Thread(target=driver.run, args=(ended,))
    thread.start()
    yield fake, driver
    ended.set()
    fake.go_on.set()
    thread.join(10.0)
    assert not thread.is_alive()


def test_the_width_is_read_while_a_command_is_under_way_and_the_newest_wish_follows(hand: object) -> None:
    fake, driver = hand  # type: ignore[misc]
    driver.set_closed(True)
    assert until(lambda: fake.begun == [True] and driver.width_m == 0.02)
    for closed in (False, True, False):
        driver.set_closed(closed)
    fake.go_on.set()
    assert until(lambda: fake.done == [True, False])


def test_a_repeated_command_does_nothing(hand: object) -> None:
    fake, driver = hand  # type: ignore[misc]
    fake.go_on.set()
    for _ in range(3):
        driver.set_closed(True)
        assert until(lambda: fake.done == [True])
        time.sleep(0.1)
    assert fake.begun == [True]


def test_a_failed_command_is_reported_and_not_repeated_for_ever(hand: object) -> None:
    fake, driver = hand  # type: ignore[misc]
    fake.fails = ArmFault("the hand did not close")
    fake.go_on.set()
    driver.set_closed(True)
    assert until(lambda: driver.trouble == "the hand did not close")
    time.sleep(0.2)
    assert fake.begun == [True]


def test_a_lost_hand_has_no_width_and_is_found_again(hand: object) -> None:
    fake, driver = hand  # type: ignore[misc]
    assert until(lambda: driver.width_m == 0.02)
    fake.lost = True
    assert until(lambda: np.isnan(driver.width_m)) and driver.trouble == "no hand"
    fake.lost = False
    assert until(lambda: driver.width_m == 0.02) and driver.trouble == ""
