"""The simulated robot as a node: arm, gripper, cameras and scene behind the topics of the rig.

It is named ``cartesian_impedance_controller`` and takes the parameters of the ros2_control controller of that name, so
that whoever sets gains there sets them here. In real time it keeps pace with the wall clock; with ``lockstep`` it
advances one control period whenever the arbiter's step for the current stamp has arrived.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import PoseStamped
from rldg_interfaces.srv import ResetScene
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Float64

from rldg_core.frames import Pose
from rldg_core.impedance_parameters import CONTROLLER
from rldg_core.recovery import MOVE
from rldg_core.task import Gains
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.arm import STATE_PERIOD_S, ArmNode
from rldg_ros.base import WARN, BaseNode
from rldg_ros.conversions import Stamped
from rldg_ros.main import run

if TYPE_CHECKING:
    from rldg_sim.cell import Cell

MAX_LAG_S = 0.1  # further behind the wall clock than this, the simulation lets the time go
REPEAT_S = 0.5  # in lockstep, wall time after which the state is said again: whoever came late or lost it answers then
FIRST_STAMP_NS = 1_000_000_000  # simulated time must not start at zero: that means "no clock yet"


class SceneNode(BaseNode):
    """Cameras and scene of one task, for the nodes that own a cell: what they publish of it beside the arm."""

    _cell: Cell
    _stamp_ns: int

    def __init__(self, name: str, **kwargs: object) -> None:
        super().__init__(name, **kwargs)
        self.declare("scene", "", "Scene of the task to start with; empty for its first.")
        self.declare("seed", 0, "Seed of the start state.", low=0, high=2**31 - 1)
        self.declare("image_size_px", 0, "Side of the wrist image; 0 takes camera.image_size_px.", low=0, high=512)
        self.declare("camera_rate_hz", 30.0, "Wrist camera frames per second, real time only.", low=1.0, high=100.0)
        self.declare("scene_camera_rate_hz", 10.0, "Scene camera frames per second; 0 for none.", low=0.0, high=60.0)

    # --- set-up ----------------------------------------------------------------------------------------------------

    def _make_cell(self) -> Cell:
        from rldg_sim.cell import Cell

        self._size_px = int(self.get_parameter("image_size_px").value) or self.task.camera.image_size_px
        return Cell(self.task, image_size_px=self._size_px, robot=self.robot)

    def _create_scene_publishers(self) -> None:
        self._fixture_out = self.create_publisher(PoseStamped, "fixture_pose", qos.reliable(10))
        self._object_out = self.create_publisher(PoseStamped, "object_pose", qos.reliable(10))
        self._image_out = self.create_publisher(Image, "wrist/color/image_raw", qos.reliable())
        self._info_out = self.create_publisher(CameraInfo, "wrist/color/camera_info", qos.reliable())
        self._scene_out = self.create_publisher(Image, "scene/color/image_raw", qos.reliable())

    def _picture(self, camera: str) -> npt.NDArray[np.uint8]:
        return self._cell.image(camera)

    # --- what goes out ---------------------------------------------------------------------------------------------

    def _publish_truth(self) -> None:
        truth = self._cell.truth()
        frame = self.robot.base_frame
        self._fixture_out.publish(convert.POSE.pack(truth.fixture_pose, self._stamp_ns, frame))
        if truth.object_pose is not None:
            self._object_out.publish(convert.POSE.pack(truth.object_pose, self._stamp_ns, frame))

    def _publish_image(self, image: npt.NDArray[np.uint8]) -> None:
        self._image_out.publish(convert.IMAGE.pack(image, self._stamp_ns, self.robot.camera_frame))
        if self._info_out.get_subscription_count() > 0:
            lens = self._cell.lens("wrist", self._size_px)
            self._info_out.publish(convert.camera_info_to_msg(lens, self._stamp_ns, self.robot.camera_frame))

    def _publish_scene_if_watched(self) -> None:
        if self._scene_out.get_subscription_count() > 0:
            image = self._picture("scene")
            self._scene_out.publish(convert.IMAGE.pack(image, self._stamp_ns, self.robot.base_frame))


class SimNode(SceneNode, ArmNode):
    """Arm, gripper, cameras and scene of one task."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(CONTROLLER, **kwargs)
        self._has_camera = self.declare("wrist_camera", True, "Publish the wrist image; false where a camera does.")

    # --- set-up ----------------------------------------------------------------------------------------------------

    def on_setup(self) -> None:
        if self.lockstep and not self._has_camera:
            raise ValueError("wrist_camera: is false, in lockstep only the simulation's own camera can be waited for")
        self.set_up_arm()
        self._cell = self._make_cell()
        self._cell.reset(str(self.get_parameter("scene").value), int(self.get_parameter("seed").value))
        if self._has_camera:
            self._cell.image("wrist")  # fails here, with its remedy, where nothing can be rendered

        self._stamp_ns = FIRST_STAMP_NS
        self._target: Stamped[Pose] | None = None
        self._step: tuple[int, bool] | None = None  # stamp (ns), executed gripper state
        self._gripper_closed: bool | None = None
        self._ignore_until_ns = 0
        self._stepped = 0.0

        self._create_scene_publishers()
        self._clock_out = self.create_publisher(Clock, "/clock", qos.reliable(10)) if self.lockstep else None

        self.listen(convert.POSE, "target_pose", self._on_target, qos.reliable(2))
        self.listen(Float64, "gripper/command", self._on_gripper, qos.latched())
        if self.lockstep:
            self.listen(convert.STEP_GRIPPER, "step", self._on_step, qos.reliable(10))
        self.create_service(ResetScene, "reset_scene", self._on_reset)

    def on_start(self) -> None:
        self.publish_mode(MOVE)
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
        if not self.admit(target):
            return
        if self.lockstep:
            self._target = target
            self._advance_if_told()
        elif target.stamp_ns >= self._ignore_until_ns:
            self._cell.set_target(target.value)

    def _on_gripper(self, msg: Float64) -> None:
        self._gripper_closed = self.closes(msg.data)
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

    def hold(self) -> None:
        self._cell.hold()

    def apply_gains(self, gains: Gains) -> None:
        self._cell.set_gains(gains)

    # --- real time -------------------------------------------------------------------------------------------------

    def _keep_pace(self) -> None:
        """Advance to the wall clock in state periods and publish what is due."""
        elapsed_s = time.monotonic() - self._started_s
        behind_s = elapsed_s - self._simulated_s
        if behind_s > MAX_LAG_S:
            self.report("pace", WARN, f"simulation fell {behind_s:.2f} s behind the wall clock; time was let go")
            self._started_s += behind_s - STATE_PERIOD_S
            behind_s = STATE_PERIOD_S
        if self.gate.watch(time.monotonic()):
            self._cell.hold()
        periods = int(behind_s / STATE_PERIOD_S + 0.5)
        for _ in range(periods):
            self._cell.advance(STATE_PERIOD_S)
            self._simulated_s += STATE_PERIOD_S
        if periods == 0:
            return
        self._stamp_ns = self.now_ns()
        self.publish_state(self._cell.state(), self._stamp_ns)
        if self._simulated_s >= self._camera_due_s:
            self._camera_due_s = max(self._camera_due_s + self._camera_period_s, self._simulated_s)
            self._publish_truth()
            if self._has_camera:
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
        self.publish_state(self._cell.state(), self._stamp_ns)
        self._publish_image(image)
        self._publish_truth()
        if self._clock_out.get_subscription_count() > 0:
            self._clock_out.publish(Clock(clock=convert.stamp_to_msg(self._stamp_ns)))
        self._publish_scene_if_watched()
        self._stepped = time.monotonic()

    def on_pulse(self) -> None:
        super().on_pulse()
        if self.lockstep and time.monotonic() - self._stepped > REPEAT_S:
            self._publish_everything()


def main(args: list[str] | None = None) -> int:
    return run(SimNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
