"""Test support: a cell without physics, whose arm is at once wherever it is told to be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import PoseStamped, TwistStamped, WrenchStamped
from rclpy.node import Node
from rldg_interfaces.msg import Step
from rldg_interfaces.srv import ResetScene
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64

from rldg_core.frames import Pose
from rldg_core.impedance_parameters import impedance_parameters
from rldg_core.task import Robot, Task
from rldg_ros import conversions as convert
from rldg_ros import qos

START = Pose.from_rpy((0.5, 0.0, 0.1), (np.pi, 0.0, 0.0))


class FakeCell(Node):
    """Publishes state, image and truth; in lockstep whenever the last stamp was answered, else when told to.

    ``live`` false freezes the camera: stamps go on, the picture stays.
    """

    def __init__(self, task: Task, robot: Robot, lockstep: bool = False, **kwargs: object) -> None:
        super().__init__("cartesian_impedance_controller", **kwargs)
        self._robot = robot
        self._period_ns = round(task.control.period_s * 1e9)
        side = task.camera.image_size_px
        self._noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
        self.lockstep = lockstep
        self.live = True
        self.pose = START
        self.fixture = Pose.from_rpy((0.5, 0.0, 0.0), (0.0, 0.0, 0.0))
        self.steps: list[Step] = []
        self.targets: list[PoseStamped] = []
        self.resets: list[ResetScene.Request] = []
        self.refuse_reset = ""
        self.stamp_ns = 0
        self.limit = 0  # lockstep: number of steps after which it stops
        self._count = 0
        names = {"current_pose": PoseStamped, "current_twist": TwistStamped, "external_wrench": WrenchStamped}
        names |= {"gripper/joint_states": JointState, "fixture_pose": PoseStamped}
        self._pub = {topic: self.create_publisher(kind, topic, qos.reliable(10)) for topic, kind in names.items()}
        self._pub["image"] = self.create_publisher(Image, "wrist/color/image_raw", qos.reliable())
        self.create_subscription(PoseStamped, "target_pose", self._on_target, qos.reliable())
        self.create_subscription(Float64, "gripper/command", lambda _: None, qos.reliable())
        self.create_subscription(Step, "step", self._on_step, qos.reliable(10))
        self.create_service(ResetScene, "reset_scene", self._on_reset)
        impedance = task.impedance
        for name, value in impedance_parameters(impedance.compliance, impedance).items():
            self.declare_parameter(name, value)

    def show(self, image: npt.NDArray[np.uint8]) -> None:
        """Let the camera see this, but for one pixel in its corner that is never the same."""
        self._noise = image.copy()

    def publish(self, stamp_ns: int) -> None:
        """Everything the cell measures, with one stamp."""
        self.stamp_ns = stamp_ns
        base, tcp = self._robot.base_frame, self._robot.tcp_frame
        self._pub["current_pose"].publish(convert.stamped_pose_to_msg(self.pose, stamp_ns, base))
        self._pub["fixture_pose"].publish(convert.stamped_pose_to_msg(self.fixture, stamp_ns, base))
        self._pub["current_twist"].publish(TwistStamped(header=convert.header(stamp_ns, tcp)))
        self._pub["external_wrench"].publish(WrenchStamped(header=convert.header(stamp_ns, tcp)))
        self._pub["gripper/joint_states"].publish(
            JointState(header=convert.header(stamp_ns), name=["width"], position=[0.02])
        )
        self._count += self.live
        self._noise[0, 0] = self._count % 251, self._count // 251 % 251, self._count // 251**2 % 251  # never the same
        self._pub["image"].publish(convert.image_to_msg(self._noise, stamp_ns, "camera"))

    def run_clock(self) -> None:
        """Real time: publish at 50 Hz."""
        self.create_timer(0.02, lambda: self.publish(self.get_clock().now().nanoseconds))

    def _on_target(self, msg: PoseStamped) -> None:
        self.targets.append(msg)
        self.pose = convert.pose_from_msg(msg.pose)
        self._advance()

    def _on_step(self, msg: Step) -> None:
        self.steps.append(msg)
        self._advance()

    def _advance(self) -> None:
        if not self.lockstep or not self.steps or not self.targets or len(self.steps) >= self.limit:
            return
        stamps = {convert.stamp_from_msg(m.header.stamp) for m in (self.steps[-1], self.targets[-1])}
        if stamps == {self.stamp_ns}:
            self.publish(self.stamp_ns + self._period_ns)

    def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        self.resets.append(request)
        response.success, response.message = not self.refuse_reset, self.refuse_reset
        if response.success and request.move_arm:
            self.pose = START
        response.start_pose = convert.pose_to_msg(START)
        return response
