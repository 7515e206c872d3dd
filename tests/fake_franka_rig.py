"""A stand-in for franka_ros2 (jazzy 3.4), ros2_control and crisp_controllers on the simulated arm, for tests.

It has their names, types, quality of service and manners, the bad ones too: the state is best effort and falls silent
with a fault; the controller obeys whatever it hears, for ever, also what it heard while it was inactive, and nobody
where two speak; hardware is activated only after the error was cleared. The arm, its law and the contacts are those of
``rldg_sim``. Not emulated: delays of the real controllers, their real-time thread, 1 kHz (the state comes at 250 Hz).
"""

from __future__ import annotations

import sys
import time
from typing import Any

import msgspec
import rclpy
from controller_manager_msgs.msg import HardwareComponentState
from controller_manager_msgs.srv import (
    ConfigureController,
    ListHardwareComponents,
    LoadController,
    SetHardwareComponentState,
    SwitchController,
    UnloadController,
)
from franka_msgs.action import ErrorRecovery, Grasp, Move, PTPMotion
from franka_msgs.msg import FrankaRobotState
from franka_msgs.srv import SetFullCollisionBehavior
from geometry_msgs.msg import PoseStamped, WrenchStamped
from lifecycle_msgs.msg import State
from rcl_interfaces.msg import SetParametersResult
from rclpy.action import ActionServer
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from rldg_core.frames import Pose
from rldg_core.impedance_parameters import GAIN_PARAMETERS, impedance_parameters
from rldg_core.task import Gains, Robot, Task, load_robot, load_task
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.conversions import Joints
from rldg_ros.main import make_executor
from rldg_sim.cell import Cell

CONTROLLER, STATE = "cartesian_impedance_controller", "franka_robot_state_broadcaster"
BROADCASTERS = (STATE, "joint_state_broadcaster")
PERIOD_S = 0.01
LOOKS = 0.004  # between two messages of the whole state
GRIPPER_S = 1.0 / 15.0
SETTLED_M_S = 0.002  # fingers slower than this have arrived


class FakeController(Node):
    """crisp's CartesianController as far as it is seen: parameters, and a target that is obeyed without question."""

    def __init__(self, rig: FakeFrankaRig, **kwargs: object) -> None:
        super().__init__(CONTROLLER, **kwargs)
        self._rig = rig
        self.state = "inactive"
        self.waiting: Pose | None = None  # heard and not yet obeyed, also while inactive
        self.poisoned = ""  # what would have made torques of nonsense
        impedance = rig.task.impedance
        defaults = dict.fromkeys(
            impedance_parameters(impedance.compliance, impedance), 0.1
        )  # crisp's are others than ours
        for name, value in {**defaults, "nullspace.damping": -1.0}.items():
            self.declare_parameter(name, value)
        self.add_on_set_parameters_callback(self._on_parameters)
        self.create_subscription(PoseStamped, f"{CONTROLLER}/target_pose", self._on_target, qos.reliable())

    def _on_target(self, msg: PoseStamped) -> None:
        if self.count_publishers(f"{CONTROLLER}/target_pose") > 1 or self.state == "unconfigured":
            return
        try:
            self.waiting = convert.pose_from_msg(msg.pose)  # the header is not looked at
        except ValueError as error:
            self.poisoned = str(error)

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name.startswith("task.k_") and not 0.0 <= parameter.value <= 5000.0:
                reason = f"Parameter '{parameter.name}' with the value {parameter.value} must be within bounds"
                return SetParametersResult(successful=False, reason=reason)
        values = {p.name: p.value for p in parameters}
        self._rig.apply(lambda name: values.get(name, self.get_parameter(name).value))
        return SetParametersResult(successful=True)

    def forget(self) -> None:
        """Loaded anew: parameters of the file, and nothing heard."""
        self.state, self.waiting = "unconfigured", None
        self.set_parameters([Parameter(name, value=0.1) for name in GAIN_PARAMETERS])


class FakeFrankaRig(Node):
    """Everything else. ``calls`` tells in which order it was asked for what."""

    def __init__(self, task: Task, robot: Robot, **kwargs: Any) -> None:
        super().__init__("fake_franka_rig", **kwargs)
        self.task, self.robot = task, robot
        self.cell = Cell(task, robot=robot)
        self.mode, self.errors = 1, [""]
        self.user_stop = False
        self.hardware = "active"
        self.active = set(BROADCASTERS)
        self.calls: list[str] = []
        self.thresholds: SetFullCollisionBehavior.Request | None = None
        self.finger_goals = self.most_finger_goals = 0
        self.refuse: set[str] = set()  # actions and controllers that fail
        self._fingers: Future | None = None
        self._width_m = 0.0
        self.controller = FakeController(self, **kwargs)
        best_effort = qos.sensor()
        self._state = self.create_publisher(FrankaRobotState, f"{STATE}/robot_state", qos.reliable())
        self._joints = self.create_publisher(JointState, f"{STATE}/measured_joint_states", best_effort)
        self._wrench = self.create_publisher(WrenchStamped, f"{STATE}/external_wrench_in_stiffness_frame", best_effort)
        self._merged = self.create_publisher(JointState, "joint_states", qos.reliable(10))
        self._hand = self.create_publisher(JointState, "franka_gripper/joint_states", qos.reliable())
        for kind, name, handler in (
            (SwitchController, "controller_manager/switch_controller", self._on_switch),
            (UnloadController, "controller_manager/unload_controller", self._on_unload),
            (LoadController, "controller_manager/load_controller", self._on_load),
            (ConfigureController, "controller_manager/configure_controller", self._on_configure),
            (ListHardwareComponents, "controller_manager/list_hardware_components", self._on_list),
            (SetHardwareComponentState, "controller_manager/set_hardware_component_state", self._on_hardware),
            (SetFullCollisionBehavior, "service_server/set_full_collision_behavior", self._on_thresholds),
            (Trigger, "franka_gripper/stop", self._on_stop_fingers),
        ):
            self.create_service(kind, name, handler)
        group = ReentrantCallbackGroup()
        self._servers = [
            ActionServer(self, kind, name, handler, callback_group=group)
            for kind, name, handler in (
                (ErrorRecovery, "action_server/error_recovery", self._on_error_recovery),
                (PTPMotion, "action_server/ptp_motion", self._on_ptp),
                (Move, "franka_gripper/move", self._on_move),
                (Grasp, "franka_gripper/grasp", self._on_grasp),
            )
        ]
        faults = {"reflex": self.reflex, "press": lambda: self.press_user_stop(True)}
        faults["release"] = lambda: self.press_user_stop(False)
        self.create_subscription(String, "fake_franka_rig/fault", lambda m: faults[m.data](), qos.reliable(10))
        self._due = {"hand": 0.0, "fingers": 0.0}
        self._simulated_s, self._started_s = 0.0, time.monotonic()
        self.create_timer(LOOKS, self._keep_pace)

    def destroy_node(self) -> None:
        for server in self._servers:
            server.destroy()
        self.cell.close()
        super().destroy_node()

    # faults

    def reflex(self) -> None:
        """As a collision: the robot stops, and franka_ros2 deactivates the hardware and all of its controllers."""
        self.mode, self.errors = 4, ["cartesian_reflex"]
        self._stop()

    def press_user_stop(self, pressed: bool) -> None:
        self.user_stop = pressed
        if pressed:
            self.mode = 5
            if self.controller.state == "active":
                self._stop()
        elif self.mode == 5:
            self.mode = 1

    def _stop(self) -> None:
        self.hardware = "unconfigured"
        self.active.clear()
        if self.controller.state == "active":
            self.controller.state = "inactive"
        self.cell.hold()

    # physics

    def apply(self, value: Any) -> None:
        """Gains of the controller, from a function that gives each parameter."""
        fields = {name: list(getattr(self.task.impedance.compliance, name)) for name in Gains.__struct_fields__}
        for name, (field, axis) in GAIN_PARAMETERS.items():
            fields[field][axis] = float(value(name))
        self.cell.set_gains(msgspec.convert(fields, Gains))

    def _keep_pace(self) -> None:
        now_s = time.monotonic() - self._started_s
        if now_s - self._simulated_s > 0.1:  # as the simulation: time that cannot be made up for is let go
            self._started_s += now_s - self._simulated_s - PERIOD_S
            now_s = self._simulated_s + PERIOD_S
        if self.controller.state == "active" and self.controller.waiting is not None:
            self.cell.set_target(self.controller.waiting)
            self.controller.waiting = None
        moved = False
        while self._simulated_s + PERIOD_S <= now_s:
            self.cell.advance(PERIOD_S)
            self._simulated_s += PERIOD_S
            moved = True
        state, stamp_ns = self.cell.state(), self.get_clock().now().nanoseconds
        if moved:
            joints = Joints(self.robot.joint_names, state.joint_position_rad, state.joint_velocity_rad_s)
            packed = convert.JOINTS.pack(joints, state.joint_effort_nm, stamp_ns, self.robot.base_frame)
            if STATE in self.active:
                self._joints.publish(packed)
                # libfranka's sign
                self._wrench.publish(convert.WRENCH.pack(-state.wrench, stamp_ns, self.robot.tcp_frame))
            if "joint_state_broadcaster" in self.active:
                self._merged.publish(packed)
        if STATE in self.active:
            self._publish_state(state.tcp_pose, stamp_ns)
        if now_s >= self._due["hand"]:
            self._due["hand"] = now_s + GRIPPER_S
            half = state.gripper_width_m / 2.0
            speed_m_s = abs(state.gripper_width_m - self._width_m) / GRIPPER_S
            self._width_m = state.gripper_width_m
            names = ["fr3_finger_joint1", "fr3_finger_joint2"]
            header = convert.header(stamp_ns)
            self._hand.publish(JointState(header=header, name=names, position=[half, half]))
            self._end_fingers(speed_m_s)

    def _publish_state(self, pose: Pose, stamp_ns: int) -> None:
        msg = FrankaRobotState(header=convert.header(stamp_ns), robot_mode=self.mode)
        msg.o_t_ee = convert.stamped_pose_to_msg(pose, stamp_ns, self.robot.base_frame)
        for name in self.errors:
            if name:
                setattr(msg.current_errors, name, True)
        self._state.publish(msg)

    # controller_manager

    def _on_switch(self, request: SwitchController.Request, response: Any) -> Any:
        for name in request.deactivate_controllers:
            self.calls.append(f"deactivate {name}")
            if name == CONTROLLER and self.controller.state == "active":
                self.controller.state = "inactive"
                self.cell.hold()
                self.mode = 1 if self.mode == 2 else self.mode
        response.ok = True
        for name in request.activate_controllers:
            self.calls.append(f"activate {name}")
            if name in BROADCASTERS:
                if self.hardware == "active":
                    self.active.add(name)
            elif (self.controller.state, self.hardware, self.mode) == (
                "inactive",
                "active",
                1,
            ) and name not in self.refuse:
                self.controller.state, self.mode = "active", 2
                self.cell.hold()
            else:
                response.ok = False
        response.ok = response.ok or request.strictness == SwitchController.Request.BEST_EFFORT
        return response

    def _on_unload(self, _request: Any, response: Any) -> Any:
        self.calls.append("unload")
        response.ok = self.controller.state in ("inactive", "unconfigured")
        if response.ok:
            self.controller.state = "unloaded"
        return response

    def _on_load(self, _request: Any, response: Any) -> Any:
        self.calls.append("load")
        response.ok = self.controller.state == "unloaded"
        if response.ok:
            self.controller.forget()
        return response

    def _on_configure(self, _request: Any, response: Any) -> Any:
        self.calls.append("configure")
        response.ok = self.controller.state == "unconfigured"
        if response.ok:
            self.controller.state = "inactive"
        return response

    def _on_list(self, _request: Any, response: Any) -> Any:
        component = HardwareComponentState(name="FrankaHardwareInterface", state=State(label=self.hardware))
        response.component = [component]
        return response

    def _on_hardware(self, request: Any, response: Any) -> Any:
        self.calls.append(f"hardware {request.target_state.label}")
        response.ok = self.mode == 1 and request.name == "FrankaHardwareInterface"
        if response.ok:
            self.hardware = request.target_state.label
        return response

    # franka_hardware

    def _on_thresholds(self, request: Any, response: Any) -> Any:
        self.calls.append("thresholds")
        self.thresholds = request
        response.success = self.controller.state != "active"
        response.error = "" if response.success else "command not possible in the current mode"
        return response

    def _on_error_recovery(self, goal: Any) -> Any:
        self.calls.append("error_recovery")
        if self.user_stop or "error_recovery" in self.refuse:
            goal.abort()
        else:
            self.mode, self.errors = 1, []
            goal.succeed()
        return ErrorRecovery.Result()

    def _on_ptp(self, goal: Any) -> Any:
        self.calls.append("ptp_motion")
        result = PTPMotion.Result()
        if self.controller.state == "active" or self.mode != 1:
            result.error_message = "the robot is controlled by somebody else"
            goal.abort()
        else:
            goal.succeed()
        return result

    # franka_gripper

    def _on_stop_fingers(self, _request: Any, response: Any) -> Any:
        self.calls.append("stop")
        if self._fingers is not None and not self._fingers.done():
            self._fingers.set_result(False)
        response.success = True
        return response

    def _end_fingers(self, speed_m_s: float) -> None:
        goal = self._fingers
        if goal is not None and not goal.done() and speed_m_s < SETTLED_M_S and time.monotonic() > self._due["fingers"]:
            goal.set_result(True)

    async def _on_move(self, goal: Any) -> Any:
        return await self._move_fingers(goal, closed=goal.request.width < 0.04, result=Move.Result())

    async def _on_grasp(self, goal: Any) -> Any:
        return await self._move_fingers(goal, closed=True, result=Grasp.Result())

    async def _move_fingers(self, goal: Any, closed: bool, result: Any) -> Any:
        self.calls.append("grasp" if closed else "move")
        self.finger_goals += 1
        self.most_finger_goals = max(self.most_finger_goals, self.finger_goals)
        self.cell.set_gripper(closed)
        self._due["fingers"] = time.monotonic() + 0.2
        self._fingers = Future(executor=self.executor)
        result.success = bool(await self._fingers)
        self.finger_goals -= 1
        (goal.succeed if result.success else goal.abort)()
        return result


def main() -> None:
    """A process of its own, for the task that is the first argument, until SIGTERM."""
    rclpy.init()
    rig = FakeFrankaRig(load_task(sys.argv[1]), load_robot("fr3"))
    executor = make_executor()
    for node in (rig, rig.controller):
        executor.add_node(node)
    while rclpy.ok() and not rig.controller.poisoned:
        executor.spin_until_future_complete(Future(executor=executor), 0.1)
    assert not rig.controller.poisoned, rig.controller.poisoned


if __name__ == "__main__":
    main()
