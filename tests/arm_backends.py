"""The backends of the arm for the conformance suite, and the probe that speaks to any of them.

A new backend is a class with what :class:`Backend` says, in ``BACKENDS``. It may run in the processes of its choice:
the probe knows it by topics and services alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest
from geometry_msgs.msg import PoseStamped, TwistStamped, WrenchStamped
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, String, UInt8
from std_srvs.srv import Trigger

from rldg_bringup.packages import find_executable
from rldg_core.frames import Pose
from rldg_core.task import load_robot, load_task
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.conversions import Stamped
from rldg_ros.testing import Bench, overrides
from tests.rig_messages import ROOT, provide_rig_messages

TASK, ROBOT = load_task("pick_and_place"), load_robot("fr3")  # it has a gripper, and a table to touch
CONTROLLER = "cartesian_impedance_controller"
DIRECT_ADDRESS = "127.0.0.41"


class Backend(Protocol):
    """One way to an arm."""

    name: str
    node: str  # the managed node that a launch would bring up
    cannot: Mapping[str, str]  # what it has not, of "reflex" and "user stop", and why

    def start(self, bench: Bench) -> None:
        """Start everything on the bench's domain; the managed node is left unconfigured."""

    def stop(self) -> None:
        """End what does not run on the bench."""

    def reflex(self) -> None:
        """Make the robot stop as after a collision."""

    def press_user_stop(self, pressed: bool) -> None:
        """Press or release the robot's stop."""


class Processes:
    """Starts processes on a bench's domain and ends them."""

    def __init__(self, bench: Bench) -> None:
        self._environment = {**os.environ, "ROS_DOMAIN_ID": str(bench.context.get_domain_id())}
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, **parameters: object) -> subprocess.Popen[bytes]:
        words = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
        run = [*command, "--ros-args", *words]
        self._processes.append(subprocess.Popen(run, env=self._environment, cwd=ROOT))
        return self._processes[-1]

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(20.0)


class Simulation:
    """The simulation node in real time."""

    name, node = "sim", CONTROLLER
    cannot = dict.fromkeys(("reflex", "user stop"), "the simulated arm has no faults: it always says mode 2")

    def start(self, bench: Bench) -> None:
        self._processes = Processes(bench)
        cameras = {"camera_rate_hz": 1.0, "scene_camera_rate_hz": 0.0, "image_size_px": 32}
        self._processes.start(*find_executable("rldg_sim", "sim_node"), task=TASK.name, **cameras)

    def stop(self) -> None:
        self._processes.stop()

    def reflex(self) -> None:
        raise NotImplementedError

    def press_user_stop(self, pressed: bool) -> None:
        raise NotImplementedError


class Ros2Control:
    """The bridge, before a stand-in for franka_ros2 and crisp_controllers."""

    name, node = "ros2_control", "franka_bridge"
    cannot: Mapping[str, str] = {}

    def start(self, bench: Bench) -> None:
        provide_rig_messages()
        self._processes, self._bench = Processes(bench), bench
        self._processes.start(sys.executable, "-m", "tests.fake_franka_rig", TASK.name)
        self._processes.start(*find_executable("rldg_control", "franka_bridge_node"), task=TASK.name)
        self._node = Node("faults", context=bench.context)
        self._faults = self._node.create_publisher(String, "fake_franka_rig/fault", qos.reliable(10))
        bench.add(self._node)

    def stop(self) -> None:
        self._processes.stop()

    def reflex(self) -> None:
        self._tell("reflex")

    def press_user_stop(self, pressed: bool) -> None:
        self._tell("press" if pressed else "release")

    def _tell(self, fault: str) -> None:
        assert self._bench.spin(lambda: self._faults.get_subscription_count() == 1)
        self._faults.publish(String(data=fault))


class Direct:
    """The driver on franky, before a server that speaks the robot's protocol with the simulated cell behind it.

    Stamps are of the robot's clock, which goes slower on a slow machine.
    """

    name, node = "fr3_direct", CONTROLLER
    cannot: Mapping[str, str] = {"user stop": "the protocol server has none"}

    def start(self, bench: Bench) -> None:
        for package in ("franky", "franka_sim"):
            pytest.importorskip(package, reason=f"no {package}: ./rldg test installs it (setup/rig.lock)")
        self._processes = Processes(bench)
        self._robot = self._processes.start(sys.executable, "-m", "tests.protocol_robot", TASK.name, DIRECT_ADDRESS)
        node = find_executable("rldg_control", "franka_node")
        slow = {"state_timeout_s": 5.0, "use_sim_time": True}  # a machine that tests is no rig
        self._processes.start(*node, task=TASK.name, robot_ip=DIRECT_ADDRESS, **slow)

    def stop(self) -> None:
        self._processes.stop()

    def reflex(self) -> None:
        self._robot.send_signal(signal.SIGUSR1)

    def press_user_stop(self, pressed: bool) -> None:
        raise NotImplementedError


BACKENDS: tuple[type[Backend], ...] = (Simulation, Ros2Control, Direct)


class Arm:
    """The graph's side of the contract. Positions in metres, times in nanoseconds by the arm's own stamps."""

    def __init__(self, bench: Bench, backend: Backend) -> None:
        self.bench, self.backend = bench, backend
        self.cannot = backend.cannot
        self.poses: list[Stamped[Pose]] = []
        self.twists: list[Stamped[npt.NDArray[np.float64]]] = []
        self.wrenches: list[Stamped[npt.NDArray[np.float64]]] = []
        self.joints: list[Stamped[Any]] = []
        self.ages_s: list[float] = []  # of poses when they arrived
        self.modes: list[int] = []
        self.width_m = float("nan")
        self.target: Pose | None = None  # said again and again; None for silence
        self.bad: Callable[[Pose, int], PoseStamped] | None = None  # what is said instead
        simulated = overrides(use_sim_time=backend.name == "fr3_direct")
        self.node = node = Node("conformance_probe", context=bench.context, parameter_overrides=simulated)
        bench.add(node)
        every = qos.reliable(50)
        node.create_subscription(PoseStamped, "current_pose", self._on_pose, every)
        for kind, topic, codec, kept in (
            (TwistStamped, "current_twist", convert.TWIST, self.twists),
            (WrenchStamped, "external_wrench", convert.WRENCH, self.wrenches),
            (JointState, "joint_states", convert.JOINTS, self.joints),
        ):
            node.create_subscription(kind, topic, lambda m, c=codec, k=kept: k.append(c.unpack(m)), every, raw=True)
        node.create_subscription(UInt8, "robot_mode", lambda m: self.modes.append(m.data), qos.latched())
        node.create_subscription(JointState, "gripper/joint_states", self._on_fingers, every)
        self._target_out = self.publisher(node)
        self._gripper_out = node.create_publisher(Float64, "gripper/command", qos.latched())
        self.change = node.create_client(ChangeState, f"{backend.node}/change_state")
        self.state = node.create_client(GetState, f"{backend.node}/get_state")
        self.parameters = node.create_client(SetParameters, f"{CONTROLLER}/set_parameters")
        self.recovery = node.create_client(Trigger, f"{CONTROLLER}/recover")
        node.create_timer(0.05, self._say)

    @staticmethod
    def publisher(node: Node) -> Publisher:
        return node.create_publisher(PoseStamped, "target_pose", qos.reliable())

    # what it says

    def _on_pose(self, msg: PoseStamped) -> None:
        pose = convert.POSE.from_msg(msg)
        assert pose.frame_id == ROBOT.base_frame
        self.ages_s.append((self.now_ns() - pose.stamp_ns) * 1e-9)
        self.poses.append(pose)

    def _on_fingers(self, msg: JointState) -> None:
        (self.width_m,) = msg.position

    @property
    def position(self) -> npt.NDArray[np.float64]:
        return self.poses[-1].value.position

    def positions(self, since_ns: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Times since ``since_ns``, s, shape (n,), and positions, m, shape (n, 3)."""
        kept = [pose for pose in self.poses if pose.stamp_ns >= since_ns]
        return (
            np.array([(pose.stamp_ns - since_ns) * 1e-9 for pose in kept]),
            np.array([pose.value.position for pose in kept]),
        )

    def now_ns(self) -> int:
        return int(self.node.get_clock().now().nanoseconds)

    # what it is told

    def _say(self) -> None:
        if self.target is None:
            return
        if self.bad is not None:
            self._target_out.publish(self.bad(self.target, self.now_ns()))
        else:
            self._target_out.publish(convert.POSE.pack(self.target, self.now_ns(), ROBOT.base_frame))

    def grip(self, opening: float) -> None:
        self._gripper_out.publish(Float64(data=opening))

    def call(self, client: Client, request: Any) -> Any:
        assert self.bench.spin(client.service_is_ready), client.srv_name
        future = client.call_async(request)
        assert self.bench.spin(future.done), client.srv_name
        return future.result()

    def transition(self, number: int) -> bool:
        return bool(self.call(self.change, ChangeState.Request(transition=Transition(id=number))).success)

    def bring_up(self) -> None:
        """Configure and activate; then the arm says that it is well and obeys."""
        assert self.transition(Transition.TRANSITION_CONFIGURE)
        assert self.transition(Transition.TRANSITION_ACTIVATE)
        assert self.call(self.state, GetState.Request()).current_state.id == State.PRIMARY_STATE_ACTIVE
        assert self.bench.spin(lambda: self.poses and self.modes and self.modes[-1] == 2)
        self.home = self.poses[-1].value

    def recover(self) -> Trigger.Response:
        return self.call(self.recovery, Trigger.Request())

    def set_gains(self, **stiffness_n_m: float) -> None:
        """``x=500.0`` and so on."""
        values = [
            Parameter(
                name=f"task.k_pos_{axis}",
                value=ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value),
            )
            for axis, value in stiffness_n_m.items()
        ]
        answer = self.call(self.parameters, SetParameters.Request(parameters=values))
        assert all(result.successful for result in answer.results), answer

    # motions

    def away(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Pose:
        """Home, shifted in the base frame."""
        return Pose(self.home.position + np.array([x, y, z]), self.home.quaternion)

    def wait(self, duration_s: float) -> int:
        """Until the arm's clock has gone on so far; returns the stamp at which that began."""
        start_ns = self.poses[-1].stamp_ns
        assert self.bench.spin(lambda: self.poses[-1].stamp_ns >= start_ns + duration_s * 1e9), "the arm fell silent"
        return start_ns

    def go(self, target: Pose, within_m: float = 0.0015) -> None:
        """Tell the arm to go there, until it has been there for 0.1 s."""
        self.bad, self.target = None, target

        def there() -> bool:
            return all(np.linalg.norm(p.value.position - target.position) < within_m for p in self.poses[-10:])

        assert self.bench.spin(there), f"{self.position} instead of {target.position}"

    def stays(self, duration_s: float) -> bool:
        """Whether the arm stands still, within a millimetre, for so long."""
        start_ns = self.wait(duration_s)
        return bool(np.ptp(self.positions(start_ns)[1], axis=0).max() < 0.001)

    def step_response(self, duration_s: float = 0.8) -> Callable[[float], float]:
        """Go home, then a centimetre up; the share of that after a time, s, by the arm's stamps.

        A machine that could not keep pace has measured itself: then again. One that never can skips the test; streams
        that are always late fail others.
        """
        for _ in range(6):
            self.go(self.home)
            start_ns, first = self.now_ns(), len(self.ages_s)
            self.target = self.away(z=0.01)
            self._say()
            self.wait(duration_s)
            times_s, positions = self.positions(start_ns)
            if np.diff(times_s).max() < 0.04 and max(self.ages_s[first:]) < 0.06:
                break
        else:
            pytest.skip(f"{self.backend.name}: this machine is too busy: it never kept pace for {duration_s} s")
        share = (positions[:, 2] - self.home.position[2]) / 0.01
        return lambda time_s: float(np.interp(time_s, times_s, share))
