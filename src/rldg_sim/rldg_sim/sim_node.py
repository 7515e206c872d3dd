"""The simulated robot as a node: arm, gripper, cameras and scene behind the topics of the rig.

It is named ``cartesian_impedance_controller`` and takes the parameters of the ros2_control controller of that name, so
that whoever sets gains there sets them here. In real time it keeps pace with the wall clock; with ``lockstep`` it
advances one control period whenever the arbiter's step for the current stamp has arrived.
"""

from __future__ import annotations

import time

import msgspec
import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import PoseStamped, TwistStamped, WrenchStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter
from rldg_interfaces.srv import ResetScene
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64, UInt8

from rldg_core.frames import Pose
from rldg_core.target_gate import TargetGate
from rldg_core.task import Gains
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.base import ERROR, OK, WARN, BaseNode
from rldg_ros.conversions import Joints, Stamped
from rldg_ros.main import run

STATE_PERIOD_S = 0.01  # 100 Hz
MAX_LAG_S = 0.1  # further behind the wall clock than this, the simulation lets the time go
REPEAT_S = 0.5  # in lockstep, wall time after which the state is said again: whoever came late or lost it answers then
FIRST_STAMP_NS = 1_000_000_000  # simulated time must not start at zero: that means "no clock yet"
MODE_MOVE = 2  # libfranka's number

# crisp_controllers' parameter names, field of Gains, axis
GAIN_PARAMETERS = {
    f"task.{prefix}{axis}": (field, i)
    for field, prefix, axes in (
        ("k_pos_n_m", "k_pos_", "xyz"),
        ("k_rot_nm_rad", "k_rot_", "xyz"),
        ("d_pos_ns_m", "d_pos_", "xyz"),
        ("d_rot_nms_rad", "d_rot_", "xyz"),
        ("clip_pos_m", "error_clip.", "xyz"),
        ("clip_rot_rad", "error_clip.r", "xyz"),
    )
    for i, axis in enumerate(axes)
}
GAIN_LIMITS = {"k_pos_n_m": 6000.0, "k_rot_nm_rad": 300.0, "d_pos_ns_m": 400.0, "d_rot_nms_rad": 30.0}


class SimNode(BaseNode):
    """Arm, gripper, cameras and scene of one task."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__("cartesian_impedance_controller", **kwargs)
        self._gains_callback = False
        self.declare("scene", "", "Scene of the task to start with; empty for its first.")
        self.declare("seed", 0, "Seed of the start state.", low=0, high=2**31 - 1)
        self.declare("image_size_px", 0, "Side of the wrist image; 0 takes camera.image_size_px.", low=0, high=512)
        self.declare("camera_rate_hz", 30.0, "Wrist camera frames per second, real time only.", low=1.0, high=100.0)
        self.declare("scene_camera_rate_hz", 10.0, "Scene camera frames per second; 0 for none.", low=0.0, high=60.0)

    # --- set-up ----------------------------------------------------------------------------------------------------

    def on_setup(self) -> None:
        from rldg_sim.cell import Cell

        self._refuse_beside_another_arm()
        size_px = int(self.get_parameter("image_size_px").value) or self.task.camera.image_size_px
        self._size_px = size_px
        self._cell = Cell(self.task, image_size_px=size_px, robot=self.robot)
        self._gains = self.task.impedance.compliance
        self._declare_gains()
        self._cell.reset(str(self.get_parameter("scene").value), int(self.get_parameter("seed").value))
        self._cell.image("wrist")  # fails here, with its remedy, where nothing can be rendered

        self._stamp_ns = FIRST_STAMP_NS
        self._target: Stamped[Pose] | None = None
        self._step: tuple[int, bool] | None = None  # stamp (ns), executed gripper state
        self._gripper_closed: bool | None = None
        self._gate = TargetGate(self.robot.base_frame)
        self._gate.open(time.monotonic())
        self._ignore_until_ns = 0
        self._stepped = 0.0

        self._pose_out = self.create_publisher(PoseStamped, "current_pose", qos.reliable(10))
        self._twist_out = self.create_publisher(TwistStamped, "current_twist", qos.reliable(10))
        self._wrench_out = self.create_publisher(WrenchStamped, "external_wrench", qos.reliable(10))
        self._joints_out = self.create_publisher(JointState, "joint_states", qos.reliable(10))
        self._fingers_out = self.create_publisher(JointState, "gripper/joint_states", qos.reliable(10))
        self._mode_out = self.create_publisher(UInt8, "robot_mode", qos.latched())
        self._fixture_out = self.create_publisher(PoseStamped, "fixture_pose", qos.reliable(10))
        self._object_out = self.create_publisher(PoseStamped, "object_pose", qos.reliable(10))
        self._image_out = self.create_publisher(Image, "wrist/color/image_raw", qos.reliable())
        self._info_out = self.create_publisher(CameraInfo, "wrist/color/camera_info", qos.reliable())
        self._scene_out = self.create_publisher(Image, "scene/color/image_raw", qos.reliable())
        self._clock_out = self.create_publisher(Clock, "/clock", qos.reliable(10)) if self.lockstep else None

        self.listen(convert.POSE, "target_pose", self._on_target, qos.reliable(2))
        self.listen(Float64, "gripper/command", self._on_gripper, qos.latched())
        if self.lockstep:
            self.listen(convert.STEP_GRIPPER, "step", self._on_step, qos.reliable(10))
        self.create_service(ResetScene, "reset_scene", self._on_reset)

    def _refuse_beside_another_arm(self) -> None:
        """A simulation that is started beside a robot would share its topics, and the robot would obey its targets.

        A killed predecessor stays in the graph for some seconds, so another arm is only believed if it stays.
        """
        for _ in range(80):  # the lease of a killed one (config/fastdds.xml) and some more
            if self.count_publishers("current_pose") == 0:
                return
            time.sleep(0.1)
        raise ValueError(
            "another arm publishes current_pose in this ROS domain; use another ROS_DOMAIN_ID or namespace"
        )

    def on_start(self) -> None:
        self._mode_out.publish(UInt8(data=MODE_MOVE))
        if self.lockstep:
            self._publish_everything()
            return
        camera_hz = float(self.get_parameter("camera_rate_hz").value)
        scene_hz = float(self.get_parameter("scene_camera_rate_hz").value)
        self._camera_period_s = 1.0 / camera_hz
        self._scene_period_s = 1.0 / scene_hz if scene_hz > 0.0 else float("inf")
        self._camera_due_s = self._scene_due_s = 0.0
        self._simulated_s = 0.0
        self._started_s = time.monotonic()
        self._timer = self.create_timer(STATE_PERIOD_S, self._keep_pace, clock=self.steady_clock)

    def on_stop(self) -> None:
        self._cell.hold()
        if not self.lockstep:
            self.destroy_timer(self._timer)

    def on_teardown(self) -> None:
        if hasattr(self, "_cell"):
            self._cell.close()
            del self._cell

    # --- what comes in ---------------------------------------------------------------------------------------------

    def _on_target(self, target: Stamped[Pose]) -> None:
        age_s = 0.0 if self.lockstep else (self.now_ns() - target.stamp_ns) * 1e-9
        if not self._gate.admit(target.frame_id, time.monotonic(), age_s):
            return
        if self.lockstep:
            self._target = target
            self._advance_if_told()
        elif target.stamp_ns >= self._ignore_until_ns:
            self._cell.set_target(target.value)

    def _on_gripper(self, msg: Float64) -> None:
        if not 0.0 <= msg.data <= 1.0:
            raise ValueError(f"gripper command {msg.data}, must be within 0 (closed) and 1 (open)")
        self._gripper_closed = msg.data < 0.5
        if self.lockstep:
            self._advance_if_told()
        else:
            self._cell.set_gripper(self._gripper_closed)

    def _on_step(self, step: tuple[int, bool]) -> None:
        self._step = step
        self._advance_if_told()

    def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        try:
            if not self.active:
                raise ValueError("the simulation is not active")
            start = self._cell.reset(request.scene, int(request.seed), move_arm=request.move_arm)
        except ValueError as error:
            response.message = str(error)
            self.get_logger().error(f"reset_scene: {error}")
            return response
        # targets on their way were meant for the arm where it was
        self._ignore_until_ns = (self._stamp_ns if self.lockstep else self.now_ns()) + round(
            self.task.control.period_s * 1e9
        )
        response.success = True
        response.start_pose = convert.pose_to_msg(start)
        return response

    # --- gains -----------------------------------------------------------------------------------------------------

    def _declare_gains(self) -> None:
        for name, (field, axis) in GAIN_PARAMETERS.items():
            if not self.has_parameter(name):
                value = float(getattr(self._gains, field)[axis])
                high = GAIN_LIMITS.get(field, 1.0)
                self.declare(
                    name, value, f"{field} of axis {'xyz'[axis]}, base frame.", low=0.0, high=high, read_only=False
                )
        impedance = self.task.impedance
        self._fixed = {
            "filter.target_pose": impedance.target_filter,
            "max_delta_tau": impedance.max_torque_rate_nm_ms,
            "nullspace.stiffness": impedance.nullspace_stiffness_nm_rad,
        }
        for name, value in self._fixed.items():
            if not self.has_parameter(name):
                self.declare(name, value, "As in the task file; the simulation does not change it.", read_only=False)
        if not self._gains_callback:
            self._gains_callback = True
            self.add_on_set_parameters_callback(self._on_gains)

    def _on_gains(self, parameters: list[Parameter]) -> SetParametersResult:
        fields = {name: list(getattr(self._gains, name)) for name in self._gains.__struct_fields__}
        for parameter in parameters:
            fixed = self._fixed.get(parameter.name)
            if fixed is not None and parameter.value != fixed:
                reason = f"{parameter.name}: is {fixed} by the task file and cannot be {parameter.value} here"
                return SetParametersResult(successful=False, reason=reason)
            if parameter.name in GAIN_PARAMETERS:
                field, axis = GAIN_PARAMETERS[parameter.name]
                fields[field][axis] = float(parameter.value)
        try:
            self._gains = msgspec.convert(fields, Gains)
        except msgspec.ValidationError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._cell.set_gains(self._gains)
        return SetParametersResult(successful=True)

    # --- real time -------------------------------------------------------------------------------------------------

    def _keep_pace(self) -> None:
        """Advance to the wall clock in state periods and publish what is due."""
        elapsed_s = time.monotonic() - self._started_s
        behind_s = elapsed_s - self._simulated_s
        if behind_s > MAX_LAG_S:
            self.report("pace", WARN, f"simulation fell {behind_s:.2f} s behind the wall clock; time was let go")
            self._started_s += behind_s - STATE_PERIOD_S
            behind_s = STATE_PERIOD_S
        if self._gate.watch(time.monotonic()):
            self._cell.hold()
        periods = int(behind_s / STATE_PERIOD_S + 0.5)
        for _ in range(periods):
            self._cell.advance(STATE_PERIOD_S)
            self._simulated_s += STATE_PERIOD_S
        if periods == 0:
            return
        self._stamp_ns = self.now_ns()
        self._publish_state()
        if self._simulated_s >= self._camera_due_s:
            self._camera_due_s = max(self._camera_due_s + self._camera_period_s, self._simulated_s)
            self._publish_truth()
            self._publish_image(self._cell.image("wrist"))
        if self._simulated_s >= self._scene_due_s:
            self._scene_due_s = max(self._scene_due_s + self._scene_period_s, self._simulated_s)
            self._publish_scene_if_watched()

    # --- lockstep --------------------------------------------------------------------------------------------------

    def _advance_if_told(self) -> None:
        """One control period, once target, gripper and step of the current stamp are all there."""
        target, closed = self._target, self._gripper_closed
        if target is None or target.stamp_ns != self._stamp_ns or self._step != (self._stamp_ns, closed):
            return
        if self._stamp_ns >= self._ignore_until_ns:
            self._cell.set_target(target.value)
            self._cell.set_gripper(bool(closed))
        self._cell.advance(self.task.control.period_s)
        self._stamp_ns += round(self.task.control.period_s * 1e9)
        self._publish_everything()

    def _publish_everything(self) -> None:
        """All of one stamp in one burst, so that each receiver is woken once; what nobody waits for comes last."""
        assert self._clock_out is not None
        image = self._cell.image("wrist")
        self._publish_state()
        self._publish_image(image)
        self._publish_truth()
        if self._clock_out.get_subscription_count() > 0:
            self._clock_out.publish(Clock(clock=convert.stamp_to_msg(self._stamp_ns)))
        self._publish_scene_if_watched()
        self._stepped = time.monotonic()

    def on_pulse(self) -> None:
        if self._gate.count(self.count_publishers("target_pose")):
            self._cell.hold()
        if self.lockstep and time.monotonic() - self._stepped > REPEAT_S:
            self._publish_everything()

    def on_diagnose(self) -> None:
        level = ERROR if self._gate.rivals else WARN if self._gate.trouble else OK
        self.report("target_pose", level, self._gate.trouble)

    # --- what goes out ---------------------------------------------------------------------------------------------

    def _publish_state(self) -> None:
        state, stamp_ns = self._cell.state(), self._stamp_ns
        base, tcp = self.robot.base_frame, self.robot.tcp_frame
        self._pose_out.publish(convert.POSE.pack(state.tcp_pose, stamp_ns, base))
        self._twist_out.publish(convert.TWIST.pack(state.tcp_twist, stamp_ns, tcp))
        self._wrench_out.publish(convert.WRENCH.pack(state.wrench, stamp_ns, tcp))
        self._fingers_out.publish(convert.GRIPPER.pack("fr3_gripper_width", state.gripper_width_m, stamp_ns, tcp))
        if self._joints_out.get_subscription_count() > 0:
            self._joints_out.publish(
                convert.JOINTS.pack(
                    Joints(self.robot.joint_names, state.joint_position_rad, state.joint_velocity_rad_s),
                    state.joint_effort_nm,
                    stamp_ns,
                    base,
                )
            )

    def _publish_truth(self) -> None:
        truth = self._cell.truth()
        frame = self.robot.base_frame
        self._fixture_out.publish(convert.POSE.pack(truth.fixture_pose, self._stamp_ns, frame))
        if truth.object_pose is not None:
            self._object_out.publish(convert.POSE.pack(truth.object_pose, self._stamp_ns, frame))

    def _publish_image(self, image: npt.NDArray[np.uint8]) -> None:
        self._image_out.publish(convert.IMAGE.pack(image, self._stamp_ns, self.robot.camera_frame))
        if self._info_out.get_subscription_count() > 0:
            self._info_out.publish(self._camera_info())

    def _publish_scene_if_watched(self) -> None:
        if self._scene_out.get_subscription_count() > 0:
            image = self._cell.image("scene")
            self._scene_out.publish(convert.IMAGE.pack(image, self._stamp_ns, self.robot.base_frame))

    def _camera_info(self) -> CameraInfo:
        """Ideal pinhole of the simulated camera; a square image, so fx = fy."""
        focal_px = self._cell.focal_length_px("wrist", self._size_px)
        centre = self._size_px / 2.0
        return CameraInfo(
            header=convert.header(self._stamp_ns, self.robot.camera_frame),
            height=self._size_px,
            width=self._size_px,
            distortion_model="plumb_bob",
            d=[0.0] * 5,
            k=[focal_px, 0.0, centre, 0.0, focal_px, centre, 0.0, 0.0, 1.0],
            r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
            p=[focal_px, 0.0, centre, 0.0, 0.0, focal_px, centre, 0.0, 0.0, 0.0, 1.0, 0.0],
        )


def main(args: list[str] | None = None) -> int:
    return run(SimNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
