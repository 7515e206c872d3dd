"""A robot to rehearse with: the simulated cell behind the robot's own wire protocol, its cameras and scene as topics.

The arm moves as a client of libfranka commands it (the driver of the rig), and that client alone publishes its state.
This node publishes what stands around it: images, and where fixture and object are; it serves ``reset_scene``.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rldg_interfaces.srv import ResetScene

from rldg_ros import conversions as convert
from rldg_ros.base import OK, WARN
from rldg_ros.main import run
from rldg_sim.sim_node import SceneNode

if TYPE_CHECKING:
    from rldg_sim.protocol_server import ProtocolServer

# Threads that serve the protocol each millisecond share the interpreter with this node's.
_SWITCH_INTERVAL_S = 0.0005
_TOLERATED_LAG_S = 0.05  # in a second


class RehearsalNode(SceneNode):
    """Serves one task's cell as a robot, from configuring to cleaning up."""

    _server: ProtocolServer

    def __init__(self, **kwargs: object) -> None:
        super().__init__("rehearsal", **kwargs)
        self.declare(
            "patience_s",
            0.05,
            "How long (s) the robot's clock waits for a command that is due; 0, as a robot, which stops after 20 ms.",
            low=0.0,
            high=1.0,
        )
        self.declare("address", "127.0.0.1", "Where the robot listens: one of 127.0.0.0/8, its ports are fixed.")

    def on_setup(self) -> None:
        try:
            from rldg_sim.protocol_server import ProtocolServer
        except ImportError as error:
            raise RuntimeError(
                f"no franka_sim ({error}); ./rldg up rehearsal and ./rldg test install it (setup/rig.lock)"
            ) from error
        if self.lockstep:
            raise ValueError("lockstep: is true, but a robot goes by the clock; must be false")
        address = str(self.get_parameter("address").value)
        if not address.startswith("127."):
            raise ValueError(f"address: is {address!r}, must be one of 127.0.0.0/8: the protocol protects nothing")
        self._cell = self._make_cell()
        for scene in self.task.scenes:
            self._cell.reset(scene.name, 0)  # built now, since the robot's clock stands still meanwhile
        self._cell.reset(str(self.get_parameter("scene").value), int(self.get_parameter("seed").value))
        self._cell.image("wrist")  # fails here, with its remedy, where nothing can be rendered
        self._create_scene_publishers()
        self._server = ProtocolServer(self._cell, address, float(self.get_parameter("patience_s").value))
        self._server.open()
        self._looked_s = time.monotonic(), self._cell.time_s
        self.get_logger().info(f"a robot listens on {address}")
        self.create_service(ResetScene, "reset_scene", self._on_reset)

    def on_start(self) -> None:
        hz = float(self.get_parameter("camera_rate_hz").value)
        scene_hz = float(self.get_parameter("scene_camera_rate_hz").value)
        self._cameras = [self.create_timer(1.0 / hz, self._show_wrist, clock=self.steady_clock)]
        if scene_hz > 0.0:
            self._cameras.append(self.create_timer(1.0 / scene_hz, self._show_scene, clock=self.steady_clock))

    def on_stop(self) -> None:
        for timer in self._cameras:
            self.destroy_timer(timer)

    def on_teardown(self) -> None:
        if hasattr(self, "_server"):
            self._server.close()
            del self._server
        if hasattr(self, "_cell"):
            self._cell.close()
            del self._cell

    def on_pulse(self) -> None:
        if self._server.failure:
            raise RuntimeError(f"the robot's physics has stopped: {self._server.failure}")

    def on_diagnose(self) -> None:
        now_s, robot_s = time.monotonic(), self._cell.time_s
        lag_s = (now_s - self._looked_s[0]) - (robot_s - self._looked_s[1])
        self._looked_s = now_s, robot_s
        if lag_s > _TOLERATED_LAG_S:
            self.report("pace", WARN, f"the robot's clock fell {lag_s:.2f} s behind the wall clock in a second")
        else:
            self.report("pace", OK)
        self.report("client", OK, "connected" if self._server.has_client else "none")

    def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        try:
            if request.move_arm:
                raise ValueError("move_arm: is true, but only the driver moves this arm; must be false")
            start = self._server.arm.reset(request.scene, int(request.seed))
        except ValueError as error:
            response.message = str(error)
            self.get_logger().error(f"reset_scene: {error}")
            return response
        response.success = True
        response.start_pose = convert.pose_to_msg(start)
        return response

    def _picture(self, camera: str) -> npt.NDArray[np.uint8]:
        with self._server.arm.lock:
            self._cell.keep_still()
        return self._cell.image(camera, still=True)

    def _show_wrist(self) -> None:
        self._stamp_ns = self.now_ns()
        with self._server.arm.lock:
            self._publish_truth()
        self._publish_image(self._picture("wrist"))

    def _show_scene(self) -> None:
        self._stamp_ns = self.now_ns()
        self._publish_scene_if_watched()


def main(args: list[str] | None = None) -> int:
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    return run(RehearsalNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
