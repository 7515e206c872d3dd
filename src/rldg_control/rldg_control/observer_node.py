"""The observer: the only place where camera, arm, gripper and episode become one observation."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
from rldg_interfaces.msg import Observation

from rldg_control.rendezvous import Rendezvous
from rldg_core.frames import Array, Pose
from rldg_core.images import square
from rldg_core.observation import ObservationAssembler
from rldg_core.task import GripperUse
from rldg_core.types import EpisodeStatus
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.base import ERROR, OK, WARN, BaseNode
from rldg_ros.conversions import Stamped
from rldg_ros.grid import GridTimer
from rldg_ros.main import run

_STREAMS = ("current_pose", "current_twist", "external_wrench", "gripper/joint_states", "wrist/color/image_raw")
_CLOCK_RESET_NS = 1_000_000_000  # stamps that jump back further mean that the simulation started again


class ObserverNode(BaseNode):
    """Publishes ``observation``: in real time ``control.observation_lead_s`` before each tick, in lockstep per stamp.

    While an input is missing or the camera is frozen nothing is published, so nobody can act on it.
    """

    def __init__(self, **kwargs: object) -> None:
        super().__init__("observer", **kwargs)
        self._timeout_s = self.declare(
            "lockstep_timeout_s", 2.0, "Longest wait for a stream in lockstep (s of wall time).", low=0.1, high=60.0
        )

    def on_setup(self) -> None:
        self._assembler = ObservationAssembler()
        self._image_ns = self._published_ns = -1
        self._said: bytes | None = None  # the last observation that was published
        self._grid: GridTimer | None = None
        # who answers an observation with something that the next one carries
        fixed = self.task.control.gripper is GripperUse.FIXED
        self._answers = ("episode",) if fixed else ("episode", "step")
        self._assembler.set_gripper_command(fixed)
        self._rendezvous = self._new_rendezvous()
        self._publisher = self.create_publisher(Observation, "observation", qos.reliable())
        stream = qos.stream(self.lockstep)
        self.listen(convert.POSE, "current_pose", self._on_pose, stream)
        self.listen(convert.TWIST, "current_twist", self._on_twist, stream)
        self.listen(convert.WRENCH, "external_wrench", self._on_wrench, stream)
        self.listen(convert.GRIPPER, "gripper/joint_states", self._on_gripper, stream)
        self.listen(convert.IMAGE, "wrist/color/image_raw", self._on_image, stream)
        self.listen(convert.EPISODE, "episode", self._on_episode, qos.latched())
        if not fixed:
            self.listen(convert.STEP_GRIPPER, "step", self._on_step, qos.reliable(10))

    def on_start(self) -> None:
        if not self.lockstep:
            control = self.task.control
            self._grid = GridTimer(self, control.period_s, self._assemble, control.observation_lead_s)

    def on_stop(self) -> None:
        if self._grid is not None:
            self._grid.stop()

    def on_pulse(self) -> None:
        late = self._rendezvous.expire() if self.lockstep else []
        if late:
            self.report("lockstep", WARN, f"went on without {', '.join(late)} after {self._timeout_s} s")
            self._advance()

    def on_diagnose(self) -> None:
        if self._grid is not None:
            self._grid.report()
        elif not self._rendezvous.absent:
            self.report("lockstep", OK)

    # streams

    def _on_pose(self, pose: Stamped[Pose]) -> None:
        _require_frame("current_pose", pose.frame_id, self.robot.base_frame)
        self._assembler.add_pose(pose.stamp_ns, pose.value)
        self._arrived("current_pose", pose.stamp_ns)

    def _on_twist(self, twist: Stamped[Array]) -> None:
        _require_frame("current_twist", twist.frame_id, self.robot.tcp_frame)
        self._assembler.add_twist(twist.stamp_ns, twist.value)
        self._arrived("current_twist", twist.stamp_ns)

    def _on_wrench(self, wrench: Stamped[Array]) -> None:
        _require_frame("external_wrench", wrench.frame_id, self.robot.tcp_frame)
        self._assembler.add_wrench(wrench.stamp_ns, wrench.value)
        self._arrived("external_wrench", wrench.stamp_ns)

    def _on_gripper(self, fingers: Stamped[list[float]]) -> None:
        # one entry is the opening itself; two are the fingers of franka_gripper, each half of it
        width_m = sum(fingers.value) if len(fingers.value) in (1, 2) else float("nan")
        if not 0.0 <= width_m + 0.01 <= self.robot.gripper_max_width_m + 0.02:
            raise ValueError(
                f"gripper/joint_states: position gives {width_m}, must be the opening in m or that of two fingers, "
                f"0 to {self.robot.gripper_max_width_m}"
            )
        self._assembler.add_gripper(fingers.stamp_ns, width_m)
        self._arrived("gripper/joint_states", fingers.stamp_ns)

    def _on_image(self, picture: Stamped[npt.NDArray[np.uint8]]) -> None:
        stamp_ns = picture.stamp_ns
        self._assembler.add_image(stamp_ns, square(picture.value, self.task.camera.image_size_px))
        if stamp_ns < self._published_ns - _CLOCK_RESET_NS:
            self._published_ns, self._rendezvous = -1, self._new_rendezvous()
        self._image_ns = stamp_ns
        if self.lockstep and stamp_ns == self._published_ns and self._said is not None:
            self._publisher.publish(self._said)  # asked again: it was lost
        self._arrived("wrist/color/image_raw", stamp_ns)

    def _on_episode(self, episode: EpisodeStatus) -> None:
        self._assembler.set_episode(episode)
        self._arrived("episode", episode.stamp_ns)

    def _on_step(self, step: tuple[int, bool]) -> None:
        stamp_ns, gripper_closed = step
        self._assembler.set_gripper_command(gripper_closed)
        self._arrived("step", stamp_ns)

    # assembly

    def _new_rendezvous(self) -> Rendezvous:
        return Rendezvous((*_STREAMS, *self._answers), self._timeout_s)

    def _arrived(self, name: str, stamp_ns: int) -> None:
        if self.lockstep:
            self._rendezvous.arrive(name, stamp_ns)
            self._advance()

    def _advance(self) -> None:
        """In lockstep: publish once all streams have the camera's stamp and the last observation was acted on."""
        if self._image_ns > self._published_ns and self._ready():
            self._assemble(self._image_ns)

    def _ready(self) -> bool:
        for name in self._answers:  # awaited at the stamp of the previous observation
            self._rendezvous.require(name, self._published_ns)
        return self._rendezvous.complete(self._image_ns)

    def _assemble(self, now_ns: int) -> None:
        if 0 <= self._image_ns <= self._published_ns:
            age_s = (now_ns - self._image_ns) * 1e-9
            lost = age_s > self.task.safety.max_observation_age_s
            self.report("inputs", ERROR if lost else WARN, f"camera: no new image, the newest is {age_s:.2f} s old")
            return
        observation = self._assembler.assemble(now_ns)
        if observation is None:
            self.report("inputs", WARN, f"waiting for {', '.join(self._assembler.missing())}")
            return
        self._published_ns, self._said = observation.stamp_ns, None
        faults = self._assembler.faults()
        if faults:
            self.report("inputs", ERROR, "; ".join(faults))
            return
        self._said = convert.OBSERVATION.pack(observation, self.robot.base_frame, self.robot.camera_frame)
        self._publisher.publish(self._said)
        self.report(
            "inputs",
            OK,
            image_age_s=round(observation.image_age_s, 4),
            state_age_s=round(observation.state_age_s, 4),
            skew_s=round(observation.skew_s, 4),
        )


def _require_frame(topic: str, frame_id: str, required: str) -> None:
    if frame_id != required:
        raise ValueError(f"{topic}: frame_id is {frame_id!r}, must be {required!r} (robot file)")


def main(args: list[str] | None = None) -> int:
    return run(ObserverNode, args)


if __name__ == "__main__":
    sys.exit(main())
