"""The bridge before a stand-in for franka_ros2 and crisp_controllers: what only that rig has."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from rldg_core.impedance_parameters import impedance_parameters
from rldg_core.task import config_directory
from rldg_ros import qos
from rldg_ros.main import make_executor
from rldg_ros.testing import Bench, overrides
from tests.arm_backends import CONTROLLER, ROBOT, TASK, Arm
from tests.rig_messages import provide_rig_messages

ROOT = Path(__file__).parents[1]
GAINS = impedance_parameters(TASK.impedance.compliance, TASK.impedance)


provide_rig_messages()
from rldg_control.franka_bridge_node import FrankaBridgeNode  # noqa: E402
from tests.fake_franka_rig import FakeFrankaRig  # noqa: E402


class InOneProcess:
    """The bridge and the stand-in of the rig, which the tests look into."""

    name, node, cannot = "ros2_control", "franka_bridge", {}

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.rig = FakeFrankaRig(TASK, ROBOT, context=bench.context)
        self.bridge = FrankaBridgeNode(context=bench.context, parameter_overrides=overrides(task=TASK.name))
        for node in (self.rig, self.rig.controller, self.bridge):
            bench.add(node, activate=False)


@pytest.fixture
def backend() -> Iterator[InOneProcess]:
    with Bench("rig", executor=make_executor) as bench:
        yield InOneProcess(bench)


@pytest.fixture
def arm(backend: InOneProcess) -> Arm:
    arm = Arm(backend.bench, backend)
    arm.bring_up()
    return arm


def held(backend: InOneProcess) -> dict[str, float]:
    """The gains that the controller has."""
    return {name: backend.rig.controller.get_parameter(name).value for name in GAINS}


def test_it_sets_thresholds_and_the_gains_of_the_task_before_it_starts_the_controller(
    arm: Arm, backend: InOneProcess
) -> None:
    rig = backend.rig
    assert rig.calls == [f"deactivate {CONTROLLER}", "thresholds", f"activate {CONTROLLER}"]
    assert list(rig.thresholds.upper_force_thresholds_nominal) == [60.0] * 3 + [30.0] * 3
    assert held(backend) == GAINS
    assert rig.controller.get_parameter("nullspace.damping").value > 0.0  # crisp's default is -1


def test_recovery_keeps_the_order_of_franka_ros2_and_the_gains(arm: Arm, backend: InOneProcess) -> None:
    arm.set_gains(z=900.0)
    backend.rig.reflex()
    assert arm.bench.spin(lambda: arm.modes[-1] == 4)
    backend.rig.calls.clear()
    assert arm.recover().success
    assert backend.rig.calls == [
        f"deactivate {CONTROLLER}",
        "unload",
        "load",
        "configure",
        "error_recovery",
        "hardware active",
        "activate franka_robot_state_broadcaster",
        "activate joint_state_broadcaster",
        f"activate {CONTROLLER}",
    ]
    assert held(backend) == {**GAINS, "task.k_pos_z": 900.0}


def test_a_recovery_that_failed_half_way_can_be_asked_for_again(arm: Arm, backend: InOneProcess) -> None:
    backend.rig.reflex()
    assert arm.bench.spin(lambda: arm.modes[-1] == 4)
    backend.rig.refuse = {"error_recovery"}
    answer = arm.recover()
    assert not answer.success
    assert "error_recovery failed" in answer.message
    backend.rig.refuse = {CONTROLLER}
    assert "switch_controller was refused" in arm.recover().message
    assert arm.modes[-1] == 4
    backend.rig.refuse = set()
    assert arm.recover().success
    assert held(backend) == GAINS  # and not what it has when it is loaded
    assert arm.bench.spin(lambda: arm.modes[-1] in (1, 2))


def test_one_sequence_at_a_time(arm: Arm, backend: InOneProcess) -> None:
    backend.rig.reflex()
    assert arm.bench.spin(lambda: arm.modes[-1] == 4)
    both = [arm.recovery.call_async(Trigger.Request()) for _ in range(2)]
    assert arm.bench.spin(lambda: all(future.done() for future in both))
    assert sorted(future.result().success for future in both) == [False, True]
    assert "is under way" in next(future.result().message for future in both if not future.result().success)


def test_a_controller_that_somebody_stopped_is_a_fault(arm: Arm, backend: InOneProcess) -> None:
    backend.rig.controller.state, backend.rig.mode = "inactive", 1
    assert arm.bench.spin(lambda: arm.modes[-1] == 4)


def test_it_waits_for_the_rig_and_starts_when_it_is_there(backend: InOneProcess) -> None:
    backend.rig.active.clear()  # no state yet
    arm = Arm(backend.bench, backend)
    backend.bridge.trigger_configure()
    backend.bridge.trigger_activate()
    arm.bench.spin_for(0.5)
    assert not arm.modes
    assert backend.rig.calls == []
    backend.rig.active.add("franka_robot_state_broadcaster")
    assert arm.bench.spin(lambda: arm.modes and arm.modes[-1] == 2)


def test_it_does_not_start_a_controller_that_hears_the_arbiter_itself(backend: InOneProcess) -> None:
    controller = backend.rig.controller
    controller.destroy_subscription(next(s for s in controller.subscriptions if s.topic.endswith("target_pose")))
    controller.create_subscription(PoseStamped, "target_pose", lambda _: None, qos.reliable())  # not remapped
    Arm(backend.bench, backend)
    backend.bridge.trigger_configure()
    backend.bridge.trigger_activate()
    assert backend.bench.spin(lambda: "thresholds" in backend.rig.calls)
    backend.bench.spin_for(1.0)
    assert f"activate {CONTROLLER}" not in backend.rig.calls


def test_impedance_can_be_switched_off_and_on(arm: Arm, backend: InOneProcess) -> None:
    switch = arm.node.create_client(SetBool, f"{CONTROLLER}/set_impedance_active")
    assert arm.call(switch, SetBool.Request(data=False)).success
    assert backend.rig.controller.state == "inactive"
    arm.target = arm.away(y=0.03)
    assert arm.stays(0.4)
    arm.bench.spin(lambda: arm.modes[-1] == 1)
    assert arm.call(switch, SetBool.Request(data=True)).success
    arm.go(arm.away(y=0.03))


def test_the_joints_are_reset_without_the_controller(arm: Arm, backend: InOneProcess) -> None:
    reset = arm.node.create_client(Trigger, f"{CONTROLLER}/reset_joints")
    backend.rig.calls.clear()
    assert arm.call(reset, Trigger.Request()).success
    assert backend.rig.calls == [f"deactivate {CONTROLLER}", "ptp_motion", f"activate {CONTROLLER}"]


def test_a_hand_that_is_told_otherwise_half_way_is_stopped_first(arm: Arm, backend: InOneProcess) -> None:
    arm.grip(1.0)
    assert arm.bench.spin(lambda: "move" in backend.rig.calls and backend.rig.finger_goals == 0)
    arm.bench.spin_for(0.5)  # the result is on its way
    arm.grip(0.0)
    assert arm.bench.spin(lambda: backend.rig.finger_goals == 1)
    arm.grip(1.0)
    assert arm.bench.spin(
        lambda: arm.width_m > 0.07 and backend.rig.calls[-1] == "move" and not backend.rig.finger_goals
    )
    hand = [call for call in backend.rig.calls if call in ("grasp", "move", "stop")]
    assert hand == ["move", "grasp", "stop", "move"]
    assert backend.rig.most_finger_goals == 1


def test_a_second_publisher_of_the_controllers_target_is_reported(arm: Arm, backend: InOneProcess) -> None:
    rival = Node("rival", context=arm.bench.context)
    arm.bench.add(rival)
    rival.create_publisher(PoseStamped, f"{CONTROLLER}/target_pose", qos.reliable())
    assert arm.bench.spin(lambda: "second publisher" in backend.bridge._checks.get("commands", ("", "", {}))[1])


def test_deactivated_it_leaves_the_controller_inactive(arm: Arm, backend: InOneProcess) -> None:
    backend.bridge.trigger_deactivate()
    assert arm.bench.spin(lambda: backend.rig.controller.state == "inactive")


def configure(bench: Bench, **values: object) -> str:
    """Why the bridge cannot be configured."""
    bridge = FrankaBridgeNode(context=bench.context, parameter_overrides=overrides(task=TASK.name, **values))
    bench.add(bridge, activate=False)
    bridge.trigger_configure()
    return str(bridge._checks["lifecycle"][1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("collision: {force_n: 50.0}", "must be above safety.max_force_n of the task (50 N)"),
        ("flange_to_tcp: {xyz_m: [0.0, 0.0, 0.2], rpy_rad: [0.0, 0.0, 0.0]}", "not that of a Franka hand"),
    ],
)
def test_a_robot_file_that_this_rig_cannot_follow_is_refused(
    backend: InOneProcess, tmp_path: Path, changes: str, said: str
) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(f"extends: {config_directory()}/robots/fr3.yaml\n{changes}\n")
    assert said in configure(backend.bench, robot=str(file))


def test_lockstep_is_refused(backend: InOneProcess) -> None:
    assert "a robot does not wait" in configure(backend.bench, lockstep=True)


def test_without_franka_ros2_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "franka_msgs", None)
    monkeypatch.setitem(sys.modules, "franka_msgs.action", None)
    with Bench("no franka_ros2") as bench:
        message = configure(bench)
    assert "is not installed: source a workspace with franka_ros2" in message
    assert "\n" not in message


def test_the_controllers_file_names_the_joints_and_frames_of_the_robot_file() -> None:
    file = yaml.safe_load((ROOT / "config/ros2_control/fr3.yaml").read_text())["/**"]
    given = file[CONTROLLER]["ros__parameters"]
    assert given["joints"] == list(ROBOT.joint_names)
    assert (given["base_frame"], given["end_effector_frame"]) == (ROBOT.base_frame, ROBOT.tcp_frame)
    assert not any(name.partition(".")[0] in ("task", "filter") for name in given)  # those are the task's
    manager = file["controller_manager"]["ros__parameters"]
    assert manager[CONTROLLER]["node_options_args"][-1] == f"target_pose:={CONTROLLER}/target_pose"
