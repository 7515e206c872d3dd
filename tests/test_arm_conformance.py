"""Every backend of the arm keeps the contract of docs/architecture.md: the same tests for all of them.

Times are those of the arm's stamps, so a slow machine makes the tests longer and not wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from rclpy.node import Node

from rldg_core.frames import Array, Pose, rotate
from rldg_ros import conversions as convert
from rldg_ros.testing import Bench
from tests.arm_backends import BACKENDS, ROBOT, Arm, Backend

IDLE, MOVE, REFLEX, USER_STOP = 1, 2, 4, 5
# Share of a step of 1 cm after a time, s. The law alone, in simulated time, gives 0.41, 0.82 and 0.97; what a backend
# adds is delay.
STEP = {0.2: (0.25, 0.5), 0.4: (0.65, 0.9), 0.8: (0.93, 1.02)}
AGREEMENT = 0.15  # largest difference of that share between two backends: 50 ms of delay where the arm is fastest
responses: dict[str, Callable[[float], float]] = {}


@pytest.fixture(scope="module", params=BACKENDS, ids=lambda kind: kind.name)
def running(request: pytest.FixtureRequest) -> Iterator[Arm]:
    backend: Backend = request.param()
    with Bench(f"conformance {backend.name}") as bench:
        backend.start(bench)
        arm = Arm(bench, backend)
        arm.bring_up()
        yield arm
        backend.stop()


@pytest.fixture
def arm(running: Arm) -> Arm:
    """At home, at rest, told to stay there."""
    running.go(running.home)
    return running


def needs(arm: Arm, capability: str) -> None:
    if capability in arm.cannot:
        pytest.skip(f"{arm.backend.name}: {arm.cannot[capability]}")


def test_deactivated_it_obeys_nobody_and_activated_again_it_does(arm: Arm) -> None:
    assert arm.transition(Transition.TRANSITION_DEACTIVATE)
    arm.target = arm.away(y=0.03)
    arm.bench.spin_for(0.5)
    assert arm.transition(Transition.TRANSITION_ACTIVATE)
    arm.go(arm.away(y=0.03))


def test_its_streams_come_at_100_hz_with_stamps_that_grow(arm: Arm) -> None:
    start_ns = arm.wait(1.0)
    for stream in (arm.poses, arm.twists, arm.wrenches, arm.joints):
        stamps_ns = np.array([sample.stamp_ns for sample in stream if sample.stamp_ns >= start_ns])
        gaps_s = np.diff(stamps_ns) * 1e-9
        assert gaps_s.min() > 0.0
        assert 0.007 < np.median(gaps_s) < 0.02


def test_stamps_are_of_the_measurement_and_not_of_the_message(arm: Arm) -> None:
    start_ns = arm.wait(0.5)
    poses = {pose.stamp_ns for pose in arm.poses if pose.stamp_ns >= start_ns}
    twists = {twist.stamp_ns for twist in arm.twists if twist.stamp_ns >= start_ns}
    assert len(poses & twists) > 0.8 * len(poses)  # pose and twist of one measurement have one stamp
    assert 0.0 <= min(arm.ages_s[-len(poses) :]) < 0.05


def test_frames_are_those_of_the_robot_file(arm: Arm) -> None:
    assert arm.poses[-1].frame_id == arm.joints[-1].frame_id == ROBOT.base_frame
    assert arm.twists[-1].frame_id == arm.wrenches[-1].frame_id == ROBOT.tcp_frame


def test_the_twist_is_the_derivative_of_the_pose(arm: Arm) -> None:
    start_ns = arm.poses[-1].stamp_ns
    arm.go(arm.away(x=0.03, y=-0.02))
    poses = {pose.stamp_ns: pose.value for pose in arm.poses if pose.stamp_ns >= start_ns}
    stamps_ns = sorted(set(poses) & {twist.stamp_ns for twist in arm.twists})
    twists = {twist.stamp_ns: twist.value for twist in arm.twists}
    speeds = np.array([rotate(poses[ns].quaternion, twists[ns][:3]) for ns in stamps_ns])
    went = np.trapezoid(speeds, np.array(stamps_ns) * 1e-9, axis=0)
    moved = poses[stamps_ns[-1]].position - poses[stamps_ns[0]].position
    # wide, because a simulated arm that cannot keep pace lets time go; a wrong sign, axis or unit is far outside
    assert went == pytest.approx(moved, abs=0.3 * float(np.abs(moved).max()))


def test_a_step_of_a_centimetre_is_followed_as_the_law_says(arm: Arm) -> None:
    share = responses[arm.backend.name] = arm.step_response()
    assert {time_s: low < share(time_s) < high for time_s, (low, high) in STEP.items()} == dict.fromkeys(STEP, True), {
        time_s: round(share(time_s), 2) for time_s in STEP
    }


def test_without_targets_it_holds_where_it_is(arm: Arm) -> None:
    arm.target = arm.away(y=0.3)  # more than a second away
    arm.wait(0.2)
    arm.target = None
    arm.wait(1.0)
    assert arm.bench.spin(lambda: arm.stays(0.3))
    assert np.linalg.norm(arm.position - arm.away(y=0.3).position) > 0.05


def test_with_two_publishers_it_obeys_neither(arm: Arm) -> None:
    rival = Node("rival", context=arm.bench.context)
    arm.bench.add(rival)
    arm.publisher(rival)
    try:
        arm.wait(0.5)
        arm.target = arm.away(y=0.03)
        assert arm.stays(0.7)
    finally:
        arm.bench.remove(rival)
    arm.go(arm.away(y=0.03))


def of_another_frame(pose: Pose, now_ns: int) -> PoseStamped:
    return convert.stamped_pose_to_msg(pose, now_ns, "world")


def not_a_number(pose: Pose, now_ns: int) -> PoseStamped:
    msg = convert.stamped_pose_to_msg(pose, now_ns, ROBOT.base_frame)
    msg.pose.position.x = float("nan")
    return msg


def not_a_rotation(pose: Pose, now_ns: int) -> PoseStamped:
    msg = convert.stamped_pose_to_msg(pose, now_ns, ROBOT.base_frame)
    msg.pose.orientation.w += 0.5
    return msg


def late(pose: Pose, now_ns: int) -> PoseStamped:
    return convert.stamped_pose_to_msg(pose, now_ns - 1_000_000_000, ROBOT.base_frame)


def of_the_future(pose: Pose, now_ns: int) -> PoseStamped:
    return convert.stamped_pose_to_msg(pose, now_ns + 1_000_000_000, ROBOT.base_frame)


@pytest.mark.parametrize("bad", [of_another_frame, not_a_number, not_a_rotation, late, of_the_future])
def test_targets_that_cannot_be_meant_are_refused(arm: Arm, bad: Callable[[Pose, int], PoseStamped]) -> None:
    arm.bad, arm.target = bad, arm.away(y=-0.03)
    assert arm.stays(0.5)
    arm.go(arm.away(y=-0.005))


def test_after_a_reflex_it_obeys_nobody_until_it_is_recovered(arm: Arm) -> None:
    needs(arm, "reflex")
    arm.backend.reflex()
    assert arm.bench.spin(lambda: arm.modes[-1] == REFLEX)
    arm.target = arm.away(y=0.03)
    arm.bench.spin_for(0.5)
    arm.target = None
    answer = arm.recover()
    assert answer.success, answer.message
    assert arm.bench.spin(lambda: arm.modes[-1] in (IDLE, MOVE))
    assert np.linalg.norm(arm.position - arm.home.position) < 0.002  # what was said meanwhile is forgotten
    assert arm.stays(0.3)
    arm.go(arm.away(y=0.03))


def test_a_user_stop_is_not_recovered_from_before_somebody_asks(arm: Arm) -> None:
    needs(arm, "user stop")
    arm.backend.press_user_stop(True)
    assert arm.bench.spin(lambda: arm.modes[-1] in (REFLEX, USER_STOP))
    assert not arm.recover().success
    arm.backend.press_user_stop(False)
    arm.target = arm.away(y=0.03)
    arm.bench.spin_for(0.7)
    assert arm.modes[-1] in (REFLEX, USER_STOP)
    arm.target = None
    answer = arm.recover()
    assert answer.success, answer.message
    assert np.linalg.norm(arm.position - arm.home.position) < 0.002
    arm.go(arm.away(y=0.03))


def test_softer_gains_make_a_softer_arm(arm: Arm) -> None:
    stiff = arm.step_response()
    arm.set_gains(x=600.0, y=600.0, z=600.0)
    try:
        soft = arm.step_response()
    finally:
        arm.set_gains(x=2000.0, y=2000.0, z=2000.0)
    assert soft(0.4) < stiff(0.4) - 0.15


def test_the_gripper_closes_and_opens_and_says_how_far(arm: Arm) -> None:
    arm.grip(0.0)
    assert arm.bench.spin(lambda: arm.width_m < 0.005), arm.width_m
    arm.grip(1.0)
    assert arm.bench.spin(lambda: arm.width_m > ROBOT.gripper_max_width_m - 0.005), arm.width_m


def test_touching_the_table_is_felt_as_a_force_on_the_tool_out_of_the_table(arm: Arm) -> None:
    arm.wait(0.3)
    free = np.mean([wrench.value for wrench in arm.wrenches[-20:]], axis=0)
    height = arm.home.position[2]
    arm.go(arm.away(z=0.015 - height))  # gently: a real arm stops by itself when it is hit hard
    arm.target = arm.away(z=-0.004 - height)  # a little under where it touches, for 15 to 30 N

    def felt() -> Array:
        load = np.mean([wrench.value for wrench in arm.wrenches[-20:]], axis=0) - free
        return rotate(arm.poses[-1].value.quaternion, load[:3])  # base axes

    assert arm.bench.spin(lambda: felt()[2] > 10.0 and arm.stays(0.3)), (felt(), arm.modes[-1], arm.position[2])
    assert felt()[2] < 45.0
    assert np.abs(felt()[:2]).max() < 8.0


def test_the_backends_answer_a_step_alike() -> None:
    if len(responses) < 2:
        pytest.skip("fewer than two backends were measured")
    for time_s in STEP:
        shares = {name: share(time_s) for name, share in responses.items()}
        assert max(shares.values()) - min(shares.values()) < AGREEMENT, (time_s, shares)
