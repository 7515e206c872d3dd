"""The real client library drives the simulated cell through the robot's own protocol."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from rldg_core.frames import Array, Pose, quaternion_from_matrix, rotate, rotation_angle
from rldg_core.task import load_task
from rldg_sim.cell import Cell

franky = pytest.importorskip("franky", reason="no franky: ./rldg test installs it (setup/rig.lock)")
pytest.importorskip("franka_sim", reason="no franka_sim: ./rldg test installs it (setup/rig.lock)")

from rldg_sim.protocol_server import FLANGE_TO_TCP, ProtocolServer  # noqa: E402

CLIP_M, STIFFNESS_N_M = 0.01, 2000.0
GENTLE = np.full(3, CLIP_M)


class Rehearsal:
    """A served cell and what the tests do to it."""

    def __init__(self, task: str, address: str) -> None:
        self.cell = Cell(load_task(task))
        self.address = address
        self.server = ProtocolServer(self.cell, address, patience_s=0.05)  # the machine may be busy
        self.server.open()

    def connect(self) -> Any:
        robot = franky.Robot(self.address, realtime_config=franky.RealtimeConfig.Ignore)
        robot.set_collision_behavior(100.0, 100.0)
        return robot

    def state(self) -> Any:
        with self.server.arm.lock:
            return self.cell.state()

    def pose(self) -> Pose:
        return self.state().tcp_pose

    def put_arm(self, pose: Pose) -> None:
        """Have the robot stand and hold itself somewhere else."""
        arm = self.server.arm
        with arm.lock:
            self.cell._put_arm(pose)
            arm.update_joint_positions(self.cell.engine[1].qpos[:7].copy())
            arm.set_control_mode(arm.control_mode)

    def pass_time(self, robot_s: float) -> None:
        until_s = self.cell.time_s + robot_s
        self.wait(lambda: self.cell.time_s > until_s, "time to pass", 2.0 * robot_s)

    def wait(self, condition: Callable[[], bool], what: str, robot_s: float = 5.0) -> None:
        """Until a condition holds, at most so long by the robot's clock."""
        end_s, end = self.cell.time_s + robot_s, time.monotonic() + 60.0
        while not condition():
            assert self.server.failure == ""
            assert self.cell.time_s < end_s, f"{what}: not within {robot_s} s of the robot's time"
            assert time.monotonic() < end, "the robot's clock stands still"
            time.sleep(0.005)

    def close(self) -> None:
        self.server.close()
        self.cell.close()


@pytest.fixture
def rehearse(request: pytest.FixtureRequest) -> Iterator[Callable[..., Rehearsal]]:
    made: list[Rehearsal] = []

    def make(task: str = "usb_insertion", address: str = "127.0.0.2") -> Rehearsal:
        made.append(Rehearsal(task, address))
        return made[-1]

    yield make
    for rehearsal in made:
        rehearsal.close()


@pytest.fixture
def rehearsal(rehearse: Callable[..., Rehearsal]) -> Rehearsal:
    return rehearse()


def impedance(robot: Any) -> Any:
    return franky.CartesianImpedanceTracker(
        robot,
        translational_stiffness=STIFFNESS_N_M,
        rotational_stiffness=150.0,
        damping=np.array([89.0] * 3 + [7.0] * 3),
        translational_error_clip=GENTLE,
        rotational_error_clip=np.full(3, 0.05),
        max_delta_tau=0.95,
    )


def beside(pose: Pose, offset: tuple[float, float, float]) -> Any:
    return franky.Affine(pose.position + np.array(offset), pose.quaternion)


def wire_pose(state: Any) -> Pose:
    matrix = state.O_T_EE.matrix
    return Pose(matrix[:3, 3], quaternion_from_matrix(matrix[:3, :3]))


def difference(one: Pose, other: Pose) -> tuple[float, float]:
    """Metres and radians."""
    apart_m = float(np.linalg.norm(one.position - other.position))
    return apart_m, rotation_angle(one, other)


def test_the_client_reads_the_pose_of_the_cells_tcp_without_setting_an_end_effector(rehearsal: Rehearsal) -> None:
    state = rehearsal.connect().state
    apart_m, turned_rad = difference(wire_pose(state), rehearsal.pose())
    assert apart_m < 1e-4
    assert turned_rad < 1e-4
    assert np.allclose(state.F_T_EE.matrix, FLANGE_TO_TCP, atol=1e-6)


def test_the_clients_own_kinematics_agree_with_the_cells(rehearsal: Rehearsal) -> None:
    robot = rehearsal.connect()
    computed = robot.model.pose(franky.Frame.EndEffector, robot.state).matrix
    assert np.linalg.norm(computed[:3, 3] - rehearsal.pose().position) < 1e-4


def test_an_end_effector_that_is_set_counts_from_the_tcp(rehearsal: Rehearsal) -> None:
    robot = rehearsal.connect()
    longer = np.eye(4)
    longer[2, 3] = 0.05
    robot.set_ee(longer.T.flatten().tolist())
    tip = rehearsal.pose() @ Pose(np.array([0.0, 0.0, 0.05]), np.array([0.0, 0.0, 0.0, 1.0]))
    rehearsal.wait(lambda: difference(wire_pose(robot.state), tip)[0] < 1e-4, "the new end effector")


def test_joints_and_their_velocities_are_the_cells(rehearsal: Rehearsal) -> None:
    state, robot = rehearsal.state(), rehearsal.connect()
    assert np.allclose(robot.state.q, state.joint_position_rad, atol=1e-6)
    assert np.allclose(robot.state.dq, 0.0, atol=1e-6)


def test_an_idle_robot_stands_and_feels_nothing(rehearsal: Rehearsal) -> None:
    robot, before = rehearsal.connect(), rehearsal.pose()
    rehearsal.pass_time(1.0)
    assert difference(rehearsal.pose(), before)[0] < 1e-6
    assert np.abs(robot.state.O_F_ext_hat_K).max() < 0.01


def test_torque_control_without_torque_lets_the_weightless_arm_rest(rehearsal: Rehearsal) -> None:
    robot, before = rehearsal.connect(), rehearsal.pose()
    with franky.CartesianImpedanceTracker(robot, translational_stiffness=0.0, rotational_stiffness=0.0):
        rehearsal.pass_time(0.5)
        assert difference(rehearsal.pose(), before)[0] < 1e-3
    assert not robot.has_errors


def test_an_impedance_step_arrives_and_the_wire_tells_the_cells_pose_all_along(rehearsal: Rehearsal) -> None:
    robot, start = rehearsal.connect(), rehearsal.pose()
    goal = start.position + np.array([0.0, 0.03, 0.02])
    with impedance(robot) as tracker:
        tracker.set_target(beside(start, (0.0, 0.03, 0.02)))
        rehearsal.wait(lambda: bool(np.linalg.norm(rehearsal.pose().position - goal) < 1e-3), "the step")
        rehearsal.wait(lambda: bool(np.linalg.norm(robot.state.dq) < 1e-3), "rest")
        assert difference(wire_pose(robot.state), rehearsal.pose())[0] < 1e-3
    assert not robot.has_errors


def press(rehearsal: Rehearsal, robot: Any) -> Any:
    """A tracker that presses the plug onto the table beside the port."""
    start = rehearsal.pose()
    tracker = impedance(robot).__enter__()
    tracker.set_target(beside(start, (0.06, 0.0, 0.0)))
    goal = start.position + np.array([0.06, 0.0, 0.0])
    rehearsal.wait(lambda: bool(np.linalg.norm(rehearsal.pose().position - goal) < 2e-3), "the free place")
    for depth_m in np.arange(0.0, start.position[2] + 0.05, 0.005):
        tracker.set_target(beside(start, (0.06, 0.0, -float(depth_m))))
        rehearsal.pass_time(0.05)
    rehearsal.pass_time(1.0)
    return tracker


def felt_in_base(rehearsal: Rehearsal) -> Array:
    state = rehearsal.state()
    return rotate(state.tcp_pose.quaternion, state.wrench[:3])


def test_pressing_on_the_table_reads_as_the_force_of_the_contact(rehearsal: Rehearsal) -> None:
    robot = rehearsal.connect()
    tracker = press(rehearsal, robot)
    state, felt, felt_by_tool = robot.state, felt_in_base(rehearsal), rehearsal.state().wrench[:3]
    tracker.stop()
    # what the robot exerts is positive on the wire, what it feels is in the cell
    assert np.allclose(state.O_F_ext_hat_K[:3], -felt, atol=0.2)
    assert felt[2] == pytest.approx(STIFFNESS_N_M * CLIP_M, rel=0.1)
    assert np.allclose(state.K_F_ext_hat_K[:3], -felt_by_tool, atol=0.2)
    jacobian = np.reshape(robot.model.zero_jacobian(franky.Frame.EndEffector, state), (6, 7))
    assert np.allclose(state.tau_ext_hat_filtered, jacobian.T @ state.O_F_ext_hat_K, atol=0.2)


def test_a_force_above_the_collision_threshold_is_a_reflex_that_can_be_recovered_from(rehearsal: Rehearsal) -> None:
    robot = rehearsal.connect()
    robot.set_collision_behavior(100.0, 10.0)
    with pytest.raises(franky.ControlException, match="cartesian_reflex"):
        press(rehearsal, robot)
        robot.join_motion()
    assert robot.state.robot_mode == franky.RobotMode.Reflex
    assert robot.state.current_errors.cartesian_reflex
    assert robot.recover_from_errors()
    assert robot.state.robot_mode == franky.RobotMode.Idle


def test_a_torque_that_jumps_is_refused(rehearsal: Rehearsal) -> None:
    robot = rehearsal.connect()
    with pytest.raises(franky.ControlException, match="controller_torque_discontinuity"):
        robot.move(franky.SimpleTorqueMotion(initial_torque=np.full(7, 9.0), max_delta_tau=50.0))


def test_joint_motions_work_too(rehearsal: Rehearsal) -> None:
    robot = rehearsal.connect()
    robot.relative_dynamics_factor = 0.1
    goal = rehearsal.state().joint_position_rad + np.array([0.05, 0.0, 0.0, 0.05, 0.0, 0.0, 0.1])
    robot.move(franky.JointMotion(goal))
    assert np.allclose(rehearsal.state().joint_position_rad, goal, atol=2e-3)


def test_the_fingers_close_on_an_object_and_say_so(rehearse: Callable[..., Rehearsal]) -> None:
    rehearsal = rehearse("pick_and_place")
    hand = franky.Gripper(rehearsal.address)
    assert hand.state.width == pytest.approx(0.08, abs=1e-3)
    thing = rehearsal.cell.truth().object_pose
    assert thing is not None
    rehearsal.put_arm(thing @ Pose.from_rpy((0.0, 0.0, 0.0), (np.pi, 0.0, 0.0)))
    assert hand.grasp(0.05, 0.1, 60.0, 0.02, 0.02)
    assert hand.is_grasped
    width_m = hand.state.width
    assert width_m > 0.03
    assert width_m == pytest.approx(rehearsal.state().gripper_width_m, abs=1e-4)
    assert hand.move(0.08, 0.1)
    assert not hand.is_grasped
    assert hand.state.width == pytest.approx(0.08, abs=1e-3)


def test_a_grasp_of_nothing_fails(rehearse: Callable[..., Rehearsal]) -> None:
    hand = franky.Gripper(rehearse("pick_and_place").address)
    assert not hand.grasp(0.03, 0.1, 60.0, 0.005, 0.005)
    assert not hand.is_grasped
    assert hand.state.width < 1e-3


def test_a_plug_that_is_held_from_the_start_stays_held(rehearsal: Rehearsal) -> None:
    hand = franky.Gripper(rehearsal.address)
    assert hand.move(0.08, 0.1)
    assert hand.grasp(0.008, 0.1, 60.0)
    assert hand.state.width == pytest.approx(0.008, abs=1e-6)


def test_a_scene_is_reset_under_a_connected_client_and_the_arm_stays(rehearse: Callable[..., Rehearsal]) -> None:
    rehearsal = rehearse("pick_and_place")
    robot, before = rehearsal.connect(), rehearsal.pose()
    with impedance(robot) as tracker:
        tracker.set_target(beside(before, (0.0, 0.0, 0.0)))
        thing = rehearsal.cell.truth().object_pose
        start = rehearsal.server.arm.reset("", 7)
        moved = rehearsal.cell.truth().object_pose
        assert thing is not None
        assert moved is not None
        assert difference(moved, thing)[0] > 1e-3
        rehearsal.pass_time(0.5)
        assert difference(rehearsal.pose(), before)[0] < 1e-3
    assert not robot.has_errors
    assert difference(start, before)[0] > 1e-3


def test_a_plug_is_pulled_out_of_a_port_that_is_exchanged_and_the_idle_robot_stays_there(rehearsal: Rehearsal) -> None:
    pressed = Pose.from_rpy((0.0, 0.0, -0.0005), (0.0, 0.0, 0.0)) @ rehearsal.cell.task.success.goal.pose()
    rehearsal.put_arm(rehearsal.cell.truth().fixture_pose @ pressed)
    rehearsal.pass_time(0.3)
    inside = rehearsal.pose()
    rehearsal.server.arm.reset("", 7)
    assert difference(rehearsal.pose(), inside)[0] < 1e-4  # the same port at the same place
    rehearsal.server.arm.reset(rehearsal.cell.task.scenes[1].name, 7)
    rehearsal.wait(lambda: rehearsal.pose().position[2] > inside.position[2] + 0.012, "the way out")
    out = rehearsal.pose()
    rehearsal.pass_time(0.3)
    assert difference(rehearsal.pose(), out)[0] < 2e-3


def test_pictures_are_taken_of_one_moment_while_the_arm_goes_on(rehearsal: Rehearsal) -> None:
    with rehearsal.server.arm.lock:
        rehearsal.cell.keep_still()
    first = rehearsal.cell.image("wrist", still=True)
    rehearsal.pass_time(0.01)
    assert np.array_equal(rehearsal.cell.image("wrist", still=True), first)
    assert first.std() > 5.0


def test_two_robots_serve_two_clients_at_two_addresses(rehearse: Callable[..., Rehearsal]) -> None:
    one, two = rehearse(address="127.0.0.2"), rehearse(address="127.0.0.3")
    first, second = one.connect(), two.connect()
    start = one.pose()
    with impedance(first) as tracker:
        tracker.set_target(beside(start, (0.0, 0.0, 0.02)))
        one.wait(lambda: one.pose().position[2] > start.position[2] + 0.018, "the step")
    assert difference(wire_pose(second.state), two.pose())[0] < 1e-4
    assert difference(two.pose(), start)[0] < 1e-4


def test_a_second_robot_at_the_same_address_is_refused(rehearsal: Rehearsal) -> None:
    with pytest.raises(OSError, match=r"127\.0\.0\.2:1337 .*another address"):
        Rehearsal("usb_insertion", "127.0.0.2")


def test_a_client_that_vanishes_in_motion_leaves_the_robot_at_rest_for_the_next(rehearsal: Rehearsal) -> None:
    child = multiprocessing.get_context("spawn").Process(target=move_away, args=(rehearsal.address,))
    child.start()
    start = rehearsal.pose()
    rehearsal.wait(lambda: difference(rehearsal.pose(), start)[0] > 0.01, "motion", robot_s=60.0)
    child.kill()
    child.join()
    rehearsal.wait(lambda: not rehearsal.server.has_client, "the end of the session")
    rehearsal.wait(lambda: bool(np.abs(rehearsal.state().joint_velocity_rad_s).max() < 1e-3), "rest")
    robot, here = rehearsal.connect(), rehearsal.pose()
    with impedance(robot) as tracker:
        tracker.set_target(beside(here, (0.0, 0.0, 0.01)))
        rehearsal.wait(lambda: rehearsal.pose().position[2] > here.position[2] + 0.008, "the next client's motion")


def move_away(address: str) -> None:
    robot = franky.Robot(address, realtime_config=franky.RealtimeConfig.Ignore)
    with impedance(robot) as tracker:
        while True:
            tracker.set_target(beside(wire_pose(robot.state), (0.0, 0.0, 0.05)))
            time.sleep(0.01)


def test_a_server_that_is_stopped_is_an_error_to_its_client(rehearsal: Rehearsal) -> None:
    robot = rehearsal.connect()
    stopped = threading.Timer(0.5, rehearsal.server.close)
    stopped.start()
    with pytest.raises(franky.Exception), impedance(robot):
        robot.join_motion()
    stopped.join()
    assert rehearsal.server.failure == "the protocol server has ended"


def test_physics_that_diverges_is_told(rehearsal: Rehearsal) -> None:
    with rehearsal.server.arm.lock:
        rehearsal.cell.step_under = lambda torque: 1 / 0  # type: ignore[assignment]
    deadline = time.monotonic() + 10.0
    while not rehearsal.server.failure and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "ZeroDivisionError" in rehearsal.server.failure


HOSTILE = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"\x00", id="one byte"),
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
    pytest.param(b"\xff" * 4096, id="ones"),
    pytest.param(b"\x00\x00\x00\x00\x01\x00\x00\x00\xff\xff\xff\x7f", id="a length of 2 GiB"),
    pytest.param(b"\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00", id="a length of nothing"),
]


@pytest.mark.parametrize("port", [1337, 1338])
def test_bytes_that_are_no_protocol_do_not_disturb_the_robot(rehearsal: Rehearsal, port: int) -> None:
    for parameters in HOSTILE:
        with socket.create_connection((rehearsal.address, port), timeout=10.0) as hostile:
            hostile.sendall(parameters.values[0])
            time.sleep(0.02)
    rehearsal.pass_time(0.1)
    if port == 1337:
        assert difference(wire_pose(rehearsal.connect().state), rehearsal.pose())[0] < 1e-4
    else:
        assert franky.Gripper(rehearsal.address).state.width == pytest.approx(0.008, abs=1e-6)
