"""What every node in place of the rig's controller shares, whatever arm is behind it: the contract of the arm."""

from __future__ import annotations

import math
import time

from geometry_msgs.msg import PoseStamped, TwistStamped, WrenchStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import UInt8

from rldg_core.frames import Pose
from rldg_core.impedance_parameters import CONTROLLER, GAIN_PARAMETERS, changed_gains, fixed_parameters
from rldg_core.target_gate import TargetGate
from rldg_core.task import Gains
from rldg_core.types import ArmState
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.base import ERROR, OK, WARN, BaseNode
from rldg_ros.conversions import Joints, Stamped

STATE_PERIOD_S = 0.01  # 100 Hz
GAIN_LIMITS = {"k_pos_n_m": 6000.0, "k_rot_nm_rad": 300.0, "d_pos_ns_m": 400.0, "d_rot_nms_rad": 30.0}


class ArmNode(BaseNode):
    """Named like the ros2_control controller and with its parameters, so that whoever sets gains there sets them here.

    Subclasses call :meth:`set_up_arm` when they are configured and fill :meth:`hold` and :meth:`apply_gains`.
    """

    gains: Gains

    gate: TargetGate

    def __init__(self, name: str = CONTROLLER, **kwargs: object) -> None:
        super().__init__(name, **kwargs)
        self._gains_callback = False

    def hold(self) -> None:
        """Make the measured pose the set-point."""
        raise NotImplementedError

    def apply_gains(self, gains: Gains) -> None:
        """Stiffness, damping and clips, in force from now on."""
        raise NotImplementedError

    def set_up_arm(self) -> None:
        """Declare the gains, those of the task while an episode runs, and create the publishers.

        Raises:
            ValueError: another arm is there already.
        """
        self._refuse_beside_another_arm()
        self.gains = self.task.impedance.compliance
        self._declare_gains()
        self.gate = TargetGate(self.robot.base_frame)
        self.gate.open(time.monotonic())
        self._pose_out = self.create_publisher(PoseStamped, "current_pose", qos.reliable(10))
        self._twist_out = self.create_publisher(TwistStamped, "current_twist", qos.reliable(10))
        self._wrench_out = self.create_publisher(WrenchStamped, "external_wrench", qos.reliable(10))
        self._joints_out = self.create_publisher(JointState, "joint_states", qos.reliable(10))
        self._fingers_out = self.create_publisher(JointState, "gripper/joint_states", qos.reliable(10))
        self._mode_out = self.create_publisher(UInt8, "robot_mode", qos.latched())
        self.mode = -1

    def _refuse_beside_another_arm(self) -> None:
        """An arm that is started beside another one would share its topics, and both would obey its targets.

        A killed predecessor stays in the graph for some seconds, so another arm is only believed if it stays.
        """
        for _ in range(80):  # the lease of a killed one (config/fastdds.xml) and some more
            if self.count_publishers("current_pose") == 0:
                return
            time.sleep(0.1)
        raise ValueError(
            "another arm publishes current_pose in this ROS domain; use another ROS_DOMAIN_ID or namespace"
        )

    # targets

    def admit(self, target: Stamped[Pose]) -> bool:
        """Whether a target is to be obeyed; see :meth:`TargetGate.admit`."""
        age_s = 0.0 if self.lockstep else (self.now_ns() - target.stamp_ns) * 1e-9
        return self.gate.admit(target.frame_id, time.monotonic(), age_s)

    def closes(self, command: float) -> bool:
        """What a gripper command says.

        Raises:
            ValueError: it is out of range.
        """
        if not 0.0 <= command <= 1.0:
            raise ValueError(f"gripper command {command}, must be within 0 (closed) and 1 (open)")
        return command < 0.5

    def on_pulse(self) -> None:
        if self.gate.count(self.count_publishers("target_pose")):
            self.hold()

    def on_diagnose(self) -> None:
        level = ERROR if self.gate.rivals else WARN if self.gate.trouble else OK
        self.report("target_pose", level, self.gate.trouble)

    # gains

    def _declare_gains(self) -> None:
        for name, (field, axis) in GAIN_PARAMETERS.items():
            if not self.has_parameter(name):
                value = float(getattr(self.gains, field)[axis])
                high = GAIN_LIMITS.get(field, 1.0)
                self.declare(
                    name, value, f"{field} of axis {'xyz'[axis]}, base frame.", low=0.0, high=high, read_only=False
                )
        for name, value in fixed_parameters(self.task.impedance).items():
            if not self.has_parameter(name):
                self.declare(name, value, "As in the task file; it does not change here.", read_only=False)
        if not self._gains_callback:
            self._gains_callback = True
            self.add_on_set_parameters_callback(self._on_gains)

    def _on_gains(self, parameters: list[Parameter]) -> SetParametersResult:
        fixed, values = fixed_parameters(self.task.impedance), {p.name: p.value for p in parameters}
        for name, value in values.items():
            if name in fixed and value != fixed[name]:
                reason = f"{name}: is {fixed[name]} by the task file and cannot be {value} here"
                return SetParametersResult(successful=False, reason=reason)
        try:
            self.gains = changed_gains(self.gains, values)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.apply_gains(self.gains)
        return SetParametersResult(successful=True)

    # what goes out

    def publish_mode(self, mode: int) -> None:
        """In libfranka's numbers; said when it changes."""
        if mode != self.mode:
            self.mode = mode
            self._mode_out.publish(UInt8(data=mode))

    def publish_state(self, state: ArmState, stamp_ns: int) -> None:
        """Pose, twist, wrench, gripper, and the joints where somebody listens."""
        base, tcp = self.robot.base_frame, self.robot.tcp_frame
        self._pose_out.publish(convert.POSE.pack(state.tcp_pose, stamp_ns, base))
        self._twist_out.publish(convert.TWIST.pack(state.tcp_twist, stamp_ns, tcp))
        self._wrench_out.publish(convert.WRENCH.pack(state.wrench, stamp_ns, tcp))
        if math.isfinite(state.gripper_width_m):
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
