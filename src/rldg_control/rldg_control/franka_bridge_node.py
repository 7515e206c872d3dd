"""A Franka behind franka_ros2 and crisp_controllers as an arm of the graph: what these two do not say or do themselves.

Who publishes what on that rig, and why this node stands between arbiter and controller: docs/architecture.md. Messages
of franka_ros2 and ros2_control are imported while it is configured, so that everything else runs without them.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from action_msgs.msg import GoalStatus
from geometry_msgs.msg import PoseStamped, TwistStamped, WrenchStamped
from lifecycle_msgs.msg import State
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.action import ActionClient
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.client import Client
from rclpy.serialization import deserialize_message
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, UInt8
from std_srvs.srv import SetBool, Trigger

from rldg_control.franka_rig import IDLE, MOVE, USER_STOP, BinaryGripper, Decimator, Order, RigHealth
from rldg_core.frames import Array, Pose, rotation_angle
from rldg_core.impedance_parameters import impedance_parameters
from rldg_core.kinematics import JOINTS, tcp_state
from rldg_core.target_gate import TargetGate
from rldg_core.task import FRANKA_HAND, GripperUse
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.base import ERROR, OK, WARN, BaseNode
from rldg_ros.conversions import Joints, Stamped
from rldg_ros.main import run

_CONTROLLER = "cartesian_impedance_controller"
_STATE = "franka_robot_state_broadcaster"
_BROADCASTERS = [_STATE, "joint_state_broadcaster"]
_TARGET = f"{_CONTROLLER}/target_pose"
_BEST_EFFORT, _STRICT = 1, 2  # of SwitchController
_SAMPLE_S = 0.0075  # lets 100 Hz pass whole and makes 125 Hz of 1 kHz
_LOOK_S = 0.02  # between two looks at the robot's state, which comes at 1 kHz
_ANSWER_S, _ACTION_S, _RESET_S, _AGAIN_S = 5.0, 10.0, 60.0, 1.0
_TOOL_M, _TOOL_RAD = 0.005, 0.03  # the arm may move by so much between the two samples that are compared
_NO_MESSAGES = "source a workspace with franka_ros2 and ros2_control (docs/reference/rig-ros2-control.md)"


class _RigError(RuntimeError):
    """The rig did not do what it was asked to; one line."""


class FrankaBridgeNode(BaseNode):
    """Measured state, watchdog of the target, robot mode, recovery, gripper. Real time only.

    While it is active the impedance controller is; deactivated, it lets the robot stand still by itself.
    """

    def __init__(self, **kwargs: object) -> None:
        super().__init__("franka_bridge", **kwargs)
        self._reset_speed_rad_s = self.declare(
            "reset_speed_rad_s", 0.4, "Greatest joint speed of reset_joints (rad/s).", low=0.05, high=1.0
        )
        self._clients_of_actions: dict[str, tuple[ActionClient, Any]] = {}

    # --- set-up ----------------------------------------------------------------------------------------------------

    def on_setup(self) -> None:
        try:
            from controller_manager_msgs import srv as manager
            from franka_msgs.action import ErrorRecovery, Grasp, Move, PTPMotion
            from franka_msgs.msg import FrankaRobotState
            from franka_msgs.srv import SetFullCollisionBehavior
        except ImportError as error:
            raise RuntimeError(f"{error.name} is not installed: {_NO_MESSAGES}") from None
        if self.lockstep:
            raise ValueError("parameter lockstep: is true, must be false: a robot does not wait")
        self._check_robot_file()
        self._health, self._gate = RigHealth(), TargetGate(self.robot.base_frame)
        self._gripper = BinaryGripper()
        self._joints_due, self._wrench_due = Decimator(_SAMPLE_S), Decimator(_SAMPLE_S)
        self._pose: Pose | None = None
        self._said_mode: int | None = None
        self._looked_s = 0.0
        self._not_before_ns = 0
        self._busy = ""  # the sequence that is under way
        self._running = False
        self._saved: list[Parameter] | None = None  # gains to go on with after a recovery

        self._pose_out = self.create_publisher(PoseStamped, "current_pose", qos.reliable(10))
        self._twist_out = self.create_publisher(TwistStamped, "current_twist", qos.reliable(10))
        self._wrench_out = self.create_publisher(WrenchStamped, "external_wrench", qos.reliable(10))
        self._fingers_out = self.create_publisher(JointState, "gripper/joint_states", qos.reliable(10))
        self._mode_out = self.create_publisher(UInt8, "robot_mode", qos.latched())
        self._target_out = self.create_publisher(PoseStamped, _TARGET, qos.reliable())

        self._switch = self.create_client(manager.SwitchController, "controller_manager/switch_controller")
        self._unload = self.create_client(manager.UnloadController, "controller_manager/unload_controller")
        self._load = self.create_client(manager.LoadController, "controller_manager/load_controller")
        self._configure = self.create_client(manager.ConfigureController, "controller_manager/configure_controller")
        self._components = self.create_client(
            manager.ListHardwareComponents, "controller_manager/list_hardware_components"
        )
        self._set_component = self.create_client(
            manager.SetHardwareComponentState, "controller_manager/set_hardware_component_state"
        )
        self._collision = self.create_client(SetFullCollisionBehavior, "service_server/set_full_collision_behavior")
        self._get_parameters = self.create_client(GetParameters, f"{_CONTROLLER}/get_parameters")
        self._set_parameters = self.create_client(SetParameters, f"{_CONTROLLER}/set_parameters")
        self._stop_fingers = self.create_client(Trigger, "franka_gripper/stop")
        actions = {"action_server/error_recovery": ErrorRecovery, "action_server/ptp_motion": PTPMotion}
        actions |= {"franka_gripper/move": Move, "franka_gripper/grasp": Grasp}
        for name, kind in actions.items():
            self._clients_of_actions[name] = ActionClient(self, kind, name), kind

        # a service that waits for others would keep its group, and with it their answers, waiting
        for service, name, handler in (
            (Trigger, "recover", self._on_recover),
            (SetBool, "set_impedance_active", self._on_set_active),
            (Trigger, "reset_joints", self._on_reset_joints),
        ):
            self.create_service(service, f"{_CONTROLLER}/{name}", handler, callback_group=ReentrantCallbackGroup())

        # franka_ros2 publishes its state best effort: a reliable subscription would hear nothing
        self.listen(convert.JOINTS, f"{_STATE}/measured_joint_states", self._on_joints, qos.sensor())
        self.listen(convert.WRENCH, f"{_STATE}/external_wrench_in_stiffness_frame", self._on_wrench, qos.sensor())
        self._state_kind = FrankaRobotState
        self.create_subscription(FrankaRobotState, f"{_STATE}/robot_state", self._on_state, qos.sensor(), raw=True)
        self.listen(convert.GRIPPER, "franka_gripper/joint_states", self._on_fingers, qos.sensor())
        self.listen(convert.POSE, "target_pose", self._on_target, qos.reliable(2))
        if self.task.control.gripper is GripperUse.BINARY:  # else the hand keeps what it holds, whatever happens
            self.listen(Float64, "gripper/command", self._on_gripper, qos.latched())

    def _check_robot_file(self) -> None:
        robot, most_n = self.robot, self.task.safety.max_force_n
        if robot.collision.force_n <= most_n:
            raise ValueError(
                f"robot {robot.name}: collision.force_n is {robot.collision.force_n:g} N, must be above "
                f"safety.max_force_n of the task ({most_n:g} N), or the robot stops before the force guard holds"
            )
        if len(robot.joint_names) != JOINTS:
            raise ValueError(f"robot {robot.name}: {len(robot.joint_names)} joint_names, must be {JOINTS}")
        if robot.flange_to_tcp != FRANKA_HAND:
            raise ValueError(
                f"robot {robot.name}: flange_to_tcp is not that of a Franka hand, which franka_ros2 describes and "
                "crisp_controllers moves; use robot:=fr3_direct for another tool"
            )

    def on_start(self) -> None:
        self._running = True
        self._gate.open(time.monotonic())
        self._spawn(self._bring_up)

    def on_stop(self) -> None:
        self._hold()
        self._running = self._health.commanding = False
        if self._switch.service_is_ready():  # nobody is left to wait for the answer
            self._switch.call_async(self._switch_request([], [_CONTROLLER], _BEST_EFFORT))

    def on_teardown(self) -> None:
        for client, _ in self._clients_of_actions.values():
            client.destroy()
        self._clients_of_actions.clear()

    # --- what the rig says -----------------------------------------------------------------------------------------

    def _on_joints(self, sample: Stamped[Joints]) -> None:
        if not self._joints_due.due(sample.stamp_ns):
            return
        joints = sample.value.in_order(self.robot.joint_names)
        self._pose, twist = tcp_state(joints.position, joints.velocity)
        self._pose_out.publish(convert.POSE.pack(self._pose, sample.stamp_ns, self.robot.base_frame))
        self._twist_out.publish(convert.TWIST.pack(twist, sample.stamp_ns, self.robot.tcp_frame))
        if self._gate.watch(time.monotonic()):
            self._hold()

    def _on_wrench(self, wrench: Stamped[Array]) -> None:
        """libfranka counts what the robot exerts as positive; the graph, what is exerted on the tool."""
        if self._wrench_due.due(wrench.stamp_ns):
            self._wrench_out.publish(convert.WRENCH.pack(-wrench.value, wrench.stamp_ns, self.robot.tcp_frame))

    def _on_fingers(self, fingers: Stamped[list[float]]) -> None:
        width_m = sum(fingers.value)  # each finger tells its own half
        self._fingers_out.publish(
            convert.GRIPPER.pack("fr3_gripper_width", width_m, fingers.stamp_ns, self.robot.tcp_frame)
        )

    def _on_state(self, raw: bytes) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        state = deserialize_message(raw, self._state_kind)
        errors = state.current_errors
        names = [name for name in errors.get_fields_and_field_types() if getattr(errors, name)]
        self._health.on_state(state.robot_mode, names, now_s)
        self._tell_mode()
        try:
            self._compare_tool(state.o_t_ee)
        except ValueError as error:
            self.report("tool", ERROR, str(error))

    def _tell_mode(self) -> None:
        mode, fault = self._health.mode, self._health.fault
        if mode is not None and mode != self._said_mode:
            self._said_mode = mode
            self._mode_out.publish(UInt8(data=mode))
        self.report("robot", ERROR if fault else OK, f"{fault}; {_CONTROLLER}/recover" if fault else "")

    def _compare_tool(self, reported: PoseStamped) -> None:
        """The robot reports pose and wrench of the end effector that it is told of in Desk."""
        if self._pose is None:
            return
        pose = convert.pose_from_msg(reported.pose, "o_t_ee")
        off_m = float(((pose.position - self._pose.position) ** 2).sum() ** 0.5)
        off_rad = rotation_angle(pose, self._pose)
        if off_m > _TOOL_M or off_rad > _TOOL_RAD:
            self.report(
                "tool",
                ERROR,
                f"the robot's end effector is {off_m * 1e3:.0f} mm and {off_rad:.2f} rad from {self.robot.tcp_frame}, "
                "so the wrench is about another point; choose the Franka Hand as end effector in Desk",
            )
        else:
            self.report("tool", OK)

    # --- what the graph asks ---------------------------------------------------------------------------------------

    def _on_target(self, target: Stamped[Pose]) -> None:
        age_s = (self.now_ns() - target.stamp_ns) * 1e-9
        admitted = self._gate.admit(target.frame_id, time.monotonic(), age_s)
        # the controller keeps what it hears while it is inactive, and would jump to it when it is activated
        if admitted and self._health.commanding and target.stamp_ns >= self._not_before_ns:
            self._send(target.value)

    def _send(self, pose: Pose) -> None:
        self._target_out.publish(convert.POSE.pack(pose, self.now_ns(), self.robot.base_frame))

    def _hold(self) -> None:
        if self._pose is not None and self._health.commanding:
            self._send(self._pose)

    def on_pulse(self) -> None:
        if self._gate.count(self.count_publishers("target_pose")):
            self._hold()
        self._health.tick(time.monotonic())
        self._tell_mode()

    def on_diagnose(self) -> None:
        level = ERROR if self._gate.rivals else WARN if self._gate.trouble else OK
        self.report("target_pose", level, self._gate.trouble)
        foreign = self.count_publishers(_TARGET) > 1  # than this node
        self.report(
            "commands", ERROR if foreign else OK, f"{_TARGET} has a second publisher: both are ignored" * foreign
        )

    def _on_gripper(self, msg: Float64) -> None:
        if not 0.0 <= msg.data <= 1.0:
            raise ValueError(f"gripper command {msg.data}, must be within 0 (closed) and 1 (open)")
        self._carry_out(self._gripper.ask(closed=msg.data < 0.5))

    def _carry_out(self, order: Order | None) -> None:
        if order is not None:
            self._spawn(self._stop_hand if order is Order.STOP else self._open if order is Order.OPEN else self._close)

    async def _stop_hand(self) -> None:
        try:
            await self._call(self._stop_fingers)
        except _RigError as error:
            self.report("gripper", WARN, str(error))

    async def _open(self) -> None:
        width_m = self.robot.gripper_max_width_m
        await self._finger_goal("franka_gripper/move", width=width_m, speed=self.robot.grip.speed_m_s)

    async def _close(self) -> None:
        kind = self._clients_of_actions["franka_gripper/grasp"][1]
        goal = kind.Goal(width=0.0, speed=self.robot.grip.speed_m_s, force=self.robot.grip.force_n)
        goal.epsilon.outer = self.robot.gripper_max_width_m  # whatever is between the fingers was to be grasped
        fields = {name: getattr(goal, name) for name in goal.get_fields_and_field_types()}
        await self._finger_goal("franka_gripper/grasp", **fields)

    async def _finger_goal(self, name: str, **goal: Any) -> None:
        try:
            await self._until(self._clients_of_actions[name][0].server_is_ready, _ACTION_S, f"{name} appears")
            await self._act(name, _ACTION_S, **goal)
            self.report("gripper", OK)
        except _RigError as error:
            if not self._gripper.stopping:
                self.report("gripper", WARN, str(error))
        finally:
            self._carry_out(self._gripper.ended())

    # --- sequences -------------------------------------------------------------------------------------------------

    async def _on_recover(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return await self._answer(response, "recover", self._recover)

    async def _on_set_active(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        steps = self._activate_healthy if request.data else self._deactivate
        return await self._answer(response, "set_impedance_active", steps)

    async def _on_reset_joints(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return await self._answer(response, "reset_joints", self._reset_joints)

    async def _answer(self, response: Any, what: str, steps: Callable[[], Awaitable[None]]) -> Any:
        response.message = await self._alone(what, steps)
        response.success = not response.message
        if response.success:
            self.get_logger().info(f"{what}: done")
        else:
            self.get_logger().error(f"{what}: {response.message}")
        return response

    async def _alone(self, what: str, steps: Callable[[], Awaitable[None]]) -> str:
        """Carry out a sequence unless one is under way; returns why it failed, "" if it did not."""
        if not self._running:
            return "the bridge is not active"
        if self._busy:
            return f"{self._busy} is under way"
        self._busy = what
        try:
            await steps()
        except _RigError as error:
            return str(error)
        finally:
            self._busy = ""
        return ""

    async def _bring_up(self) -> None:
        """Start the controller once everything is there; a robot with a fault waits for ``recover``."""
        while self._running and not self._health.commanding and not self._health.fault:
            trouble = await self._alone("start", self._start)
            self.report("start", WARN if trouble else OK, trouble)
            if trouble:
                await self._sleep(_AGAIN_S)

    async def _start(self) -> None:
        if self._health.live is None:
            raise _RigError(f"waiting for {_STATE}/robot_state")
        await self._deactivate()  # it may run since before a restart of this node; thresholds are set while it does not
        loads = self.robot.collision
        torques, forces = list(loads.torque_nm), [loads.force_n] * 3 + [loads.moment_nm] * 3
        thresholds: dict[str, Any] = {}
        for kind, values in (("torque", torques), ("force", forces)):
            for bound in ("lower", "upper"):
                for phase in ("acceleration", "nominal"):
                    thresholds[f"{bound}_{kind}_thresholds_{phase}"] = values
        await self._call(self._collision, **thresholds)
        await self._set_gains(self._gains_of_task())
        await self._activate_healthy()

    def _gains_of_task(self) -> list[Parameter]:
        impedance = self.task.impedance
        gains = impedance_parameters(impedance.compliance, impedance)
        # said here because the controller's own default is a damping of -1 (crisp_controllers 8093548)
        gains["nullspace.damping"] = 2.0 * impedance.nullspace_stiffness_nm_rad**0.5
        return [
            Parameter(name=name, value=ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value))
            for name, value in gains.items()
        ]

    async def _gains_in_force(self) -> list[Parameter]:
        """Those of the controller; of the task, where it is not loaded."""
        if not self._get_parameters.service_is_ready():
            return self._gains_of_task()
        names = [parameter.name for parameter in self._gains_of_task()]
        values = (await self._call(self._get_parameters, names=names)).values
        return [Parameter(name=name, value=value) for name, value in zip(names, values, strict=True)]

    async def _activate_healthy(self) -> None:
        if self._health.fault:
            raise _RigError(f"{self._health.fault}; call {_CONTROLLER}/recover")
        if not self._health.commanding:
            await self._activate()

    async def _activate(self) -> None:
        """The controller holds the pose that it finds; only targets that are made later move it."""
        # were its target_pose not remapped, it would hear the arbiter, whom nothing watches then
        listens = f"{_CONTROLLER} listens to {_TARGET}: config/ros2_control/fr3.yaml remaps it"
        await self._until(lambda: self.count_subscribers(_TARGET) > 0, _ANSWER_S, listens)
        await self._switch_controllers([_CONTROLLER], [], _STRICT)
        self._not_before_ns = self.now_ns()
        self._gate.open(time.monotonic())
        self._health.started(time.monotonic())

    async def _deactivate(self) -> None:
        self._health.commanding = False
        await self._switch_controllers([], [_CONTROLLER], _BEST_EFFORT)

    async def _recover(self) -> None:
        """In the order that franka_ros2 asks for: clear the error, activate the hardware, then the controllers.

        The controller is loaded anew, because it limits the change of its torques from the last ones before the fault.
        """
        if self._health.live == USER_STOP:
            raise _RigError("the user stop is pressed: release it at the robot first")
        await self._deactivate()
        if self._saved is None:  # else a recovery failed half-way, and what the controller has now is nobody's choice
            self._saved = await self._gains_in_force()
        await self._call(self._unload, tolerant=True, name=_CONTROLLER)  # a recovery that failed may have left it so
        await self._call(self._load, name=_CONTROLLER)
        await self._call(self._configure, name=_CONTROLLER)
        await self._act("action_server/error_recovery", _ACTION_S)
        for component in (await self._call(self._components)).component:
            if component.state.label != "active":
                active = State(id=State.PRIMARY_STATE_ACTIVE, label="active")
                await self._call(self._set_component, name=component.name, target_state=active)
        await self._switch_controllers(_BROADCASTERS, [], _BEST_EFFORT)
        await self._until(lambda: self._health.live in (IDLE, MOVE), _ANSWER_S, "the robot says that it is well")
        await self._set_gains(self._saved)
        await self._activate()
        self._saved = None
        self._health.recovered()

    async def _reset_joints(self) -> None:
        if self._health.fault:
            raise _RigError(f"{self._health.fault}; call {_CONTROLLER}/recover")
        await self._deactivate()
        try:
            await self._act(
                "action_server/ptp_motion",
                _RESET_S,
                goal_joint_configuration=list(self.robot.home_rad),
                maximum_joint_velocities=[self._reset_speed_rad_s] * JOINTS,
                goal_tolerance=0.01,
            )
        finally:
            await self._activate_healthy()

    async def _set_gains(self, parameters: list[Parameter]) -> None:
        answer = await self._call(self._set_parameters, parameters=parameters)
        refused = [result.reason for result in answer.results if not result.successful]
        if refused:
            raise _RigError(f"{_CONTROLLER} refused parameters: {'; '.join(refused)}")

    async def _switch_controllers(self, activate: list[str], deactivate: list[str], strictness: int) -> None:
        request = self._switch_request(activate, deactivate, strictness)
        fields = {name: getattr(request, name) for name in request.get_fields_and_field_types()}
        await self._call(self._switch, tolerant=strictness == _BEST_EFFORT, **fields)

    def _switch_request(self, activate: list[str], deactivate: list[str], strictness: int) -> Any:
        request = self._switch.srv_type.Request(activate_controllers=activate, deactivate_controllers=deactivate)
        request.strictness, request.timeout.sec = strictness, round(_ANSWER_S)
        return request

    # --- asking the rig --------------------------------------------------------------------------------------------

    def _spawn(self, coroutine: Callable[[], Awaitable[None]]) -> None:
        assert self.executor is not None
        self.executor.create_task(coroutine)

    async def _call(self, client: Client, tolerant: bool = False, **request: Any) -> Any:
        """A service's answer, which must say ok or success, unless ``tolerant``; raises _RigError."""
        name = client.srv_name
        if not client.service_is_ready():
            raise _RigError(f"no service {name}: is franka_ros2 launched, and {_CONTROLLER} loaded?")
        answer = await self._within(client.call_async(client.srv_type.Request(**request)), _ANSWER_S, name)
        if not tolerant and not getattr(answer, "ok", getattr(answer, "success", True)):
            reason = (
                getattr(answer, "error", "") or getattr(answer, "message", "") or "the log of ros2_control says why"
            )
            raise _RigError(f"{name} was refused: {reason}")
        return answer

    async def _act(self, name: str, timeout_s: float, **goal: Any) -> None:
        """Carry out a goal to its end; raises _RigError where it is refused, fails, or takes too long."""
        client, kind = self._clients_of_actions[name]
        if not client.server_is_ready():
            raise _RigError(f"no action {name}: is franka_ros2 launched?")
        handle = await self._within(client.send_goal_async(kind.Goal(**goal)), _ANSWER_S, name)
        if not handle.accepted:
            raise _RigError(f"{name} was refused")
        answer = await self._within(handle.get_result_async(), timeout_s, name)
        result = answer.result
        if answer.status != GoalStatus.STATUS_SUCCEEDED or not getattr(result, "success", True):
            reason = getattr(result, "error", "") or getattr(result, "error_message", "") or "look at the robot"
            raise _RigError(f"{name} failed: {reason}")

    async def _until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end_s:
                raise _RigError(f"waited {timeout_s:g} s until {what}")
            await self._sleep(0.05)

    async def _sleep(self, duration_s: float) -> None:
        with contextlib.suppress(_RigError):
            await self._within(Future(executor=self.executor), duration_s, "")

    async def _within(self, future: Future, timeout_s: float, what: str) -> Any:
        """What a future gives; raises _RigError after ``timeout_s``."""
        ended: Future = Future(executor=self.executor)

        def end(_done: Future | None = None) -> None:
            if not ended.done():
                ended.set_result(None)

        timer = self.create_timer(timeout_s, end, clock=self.steady_clock)
        future.add_done_callback(end)
        await ended
        self.destroy_timer(timer)
        if not future.done():
            raise _RigError(f"{what}: no answer within {timeout_s:g} s")
        return future.result()


def main(args: list[str] | None = None) -> int:
    return run(FrankaBridgeNode, args)


if __name__ == "__main__":
    sys.exit(main())
