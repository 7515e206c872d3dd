"""The simulated cell behind the robot's own wire protocol: what a client of libfranka meets instead of a robot.

franka-sim serves the protocol (arm: TCP 1337 and UDP, hand: TCP 1338 and UDP) with its communication and motion limits;
the physics behind it is a :class:`Cell`, so that the arm touches the scene of a task and feels it. Added to what
franka-sim does: the nominal end effector of a robot with a Franka hand, the external wrench, and the reflexes that
collision thresholds ask for.

Transforms on the wire are 4x4 matrices in column-major order.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

import numpy as np
from franka_sim.control_modes import ControlMode
from franka_sim.franka_protocol import SetCollisionBehaviorCommand
from franka_sim.franka_sim_server import FrankaSimServer
from franka_sim.gripper.backend import GripperBackend, GripperStateData, validate_width
from franka_sim.mujoco_franka_sim import MujocoFrankaSim

from rldg_core.frames import Array, Pose, cross, rotate
from rldg_sim.arm import FINGER_TRAVEL_M, TCP_OFFSET_M
from rldg_sim.cell import WRENCH_STEPS, Cell

ARM_PORT, HAND_PORT = 1337, 1338  # clients know no others
# A robot estimates loads from its joint torques: a peak of a millisecond is none to it. Cut off at 20 Hz (our choice).
_LOADS_SHARE = 1.0 - np.exp(-2.0 * np.pi * 20.0 * 1e-3)
_ERRORS = {"joint_reflex": 6, "cartesian_reflex": 7}  # places in libfranka's list of errors
# The base class's own servos, for what is not commanded as torque, are damped too stiffly for this arm's small wrist
# (armature 0.074 kg m2): damping times step over inertia must stay well below 2.
_SERVO_SCALE = 0.2
_MAX_LAG_S = 0.02  # further behind the wall clock than this, time is let go
_HAND_MAX_WIDTH_M = 2.0 * FINGER_TRAVEL_M
_FINGERS_REST_S, _FINGERS_REST_M, _FINGERS_TIMEOUT_S = 0.1, 1e-5, 3.0
_HAND_TEMPERATURE_C = 30


def _transform(turn_about_z_rad: float, z_m: float) -> Array:
    cosine, sine = np.cos(turn_about_z_rad), np.sin(turn_about_z_rad)
    return np.array([[cosine, -sine, 0.0, 0.0], [sine, cosine, 0.0, 0.0], [0.0, 0.0, 1.0, z_m], [0.0, 0.0, 0.0, 1.0]])


# What a robot reports as F_T_NE where its settings say that a Franka hand is mounted; its tip is the TCP of the cell.
FLANGE_TO_TCP = _transform(-np.pi / 4.0, TCP_OFFSET_M)
_LINK7_TO_FLANGE = _transform(0.0, 0.107)


class ProtocolArm(MujocoFrankaSim):
    """What the server takes for its physics: the cell, stepped once a millisecond by what the client commands.

    The base class turns commands of all kinds into joint torques and reads the state; this class has the cell's model,
    steps the cell, and adds the forces. Whoever else touches the cell holds :attr:`lock`.
    """

    running: bool

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell
        self.lock = threading.Lock()
        # The thread that sends the states to a client. It steps the cell once before each, so that the robot's clock,
        # which counts states, and the physics are one, however busy the machine is.
        self.streaming: threading.Thread | None = None
        self.failure = ""
        # what the environment exerts on the tool: force, torque about the TCP, and where that is; base frame
        self._felt = np.zeros(3), np.zeros(3), np.zeros(3)

    def initialize_simulation(self) -> None:
        self.prefix = "fr3_"
        self.model, self.data = self.cell.engine
        self._bind_model()
        self.update_ee_transform(np.eye(4).T.flatten())
        # the robot's own controller holds it where it is
        self.update_joint_positions(self.cell.state().joint_position_rad)
        self.set_control_mode(ControlMode.POSITION)
        self._read_and_publish_state()

    def _bind_self_collision(self) -> None:
        """The arm's links have no shapes that could meet."""

    def update_ee_transform(self, f_t_ee: Any) -> None:
        # the base class counts from the body of link 7, libfranka from the flange
        from_flange = np.reshape(f_t_ee, (4, 4)).T
        super().update_ee_transform((_LINK7_TO_FLANGE @ from_flange).T.flatten())

    def arm_control_torque(self) -> Array:
        torque: Array = super().arm_control_torque()
        return torque if self.control_mode is ControlMode.TORQUE else _SERVO_SCALE * torque

    def run_simulation(self) -> None:
        """Step by the wall clock while no client takes states."""
        due_s = time.perf_counter()
        try:
            while self.running:
                if self.streaming is None:
                    self._step()
                due_s = max(due_s + self.dt, time.perf_counter() - _MAX_LAG_S)
                time.sleep(max(due_s - time.perf_counter(), 0.0))
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"

    def _step(self) -> None:
        with self.lock:
            self.model, self.data = self.cell.engine
            self.cell.step_under(self.arm_control_torque())
            self._read_and_publish_state()
            if self.cell.steps % WRENCH_STEPS == 0:
                state = self.cell.state()
                turn = state.tcp_pose.quaternion
                force, torque = rotate(turn, state.wrench[:3]), rotate(turn, state.wrench[3:])
                self._felt = force, torque, state.tcp_pose.position

    def reset(self, scene: str, seed: int) -> Pose:
        """As :meth:`Cell.reset`, everything but the arm.

        A tool in a fixture that moves is pulled out in no time of the robot's clock, as by somebody's hand. A robot
        that is idle then holds itself where it is.
        """
        with self.lock:
            start = self.cell.reset(scene, seed, move_arm=False)
            if self.control_mode is ControlMode.POSITION:
                self.update_joint_positions(self.cell.state().joint_position_rad)
                self.set_control_mode(ControlMode.POSITION)
        return start

    def get_robot_state(self) -> dict[str, Any]:
        """The latest state with the external wrench, as libfranka has it: what the robot exerts is positive."""
        if threading.current_thread() is self.streaming and self.running and not self.failure:
            try:
                self._step()
            except Exception as error:
                self.failure, self.running = f"{type(error).__name__}: {error}", False
        state = dict(super().get_robot_state())
        pose = np.reshape(state["O_T_EE"], (4, 4)).T
        force, torque, point = self._felt
        torque = torque + cross(point - pose[:3, 3], force)
        state["O_F_ext_hat_K"] = -np.concatenate([force, torque])
        state["K_F_ext_hat_K"] = -np.concatenate([force @ pose[:3, :3], torque @ pose[:3, :3]])
        state["tau_ext_hat_filtered"] = state["O_J_EE"].T @ state["O_F_ext_hat_K"]
        return state


class ProtocolHand(GripperBackend):
    """The cell's fingers as the server's hand. A plug that the cell holds from the start stays held."""

    def __init__(self, arm: ProtocolArm) -> None:
        self._arm = arm
        self._grasped_m: tuple[float, float] | None = None  # between which widths something is held
        self._stopped = threading.Event()

    def _width_m(self) -> float:
        with self._arm.lock:
            return self._arm.cell.state().gripper_width_m

    def _drive(self, width_m: float) -> float:
        """Move the fingers until they rest, and return where."""
        self._stopped.clear()
        with self._arm.lock:
            self._arm.cell.set_gripper_width(width_m)
            began_s = rested_s = self._arm.cell.time_s
        last_m, now_s = self._width_m(), began_s
        while now_s - began_s < _FINGERS_TIMEOUT_S and now_s - rested_s < _FINGERS_REST_S and self._arm.running:
            if self._stopped.wait(0.01):
                break
            width, now_s = self._width_m(), self._arm.cell.time_s
            if abs(width - last_m) > _FINGERS_REST_M:
                last_m, rested_s = width, now_s
        return last_m

    def homing(self) -> bool:
        self._grasped_m = None
        self._drive(0.0)
        self._drive(_HAND_MAX_WIDTH_M)
        return True

    def move(self, width: float, speed: float) -> bool:
        validate_width(width, _HAND_MAX_WIDTH_M, "move")
        self._grasped_m = None
        self._drive(width)
        return True

    def grasp(self, width: float, epsilon_inner: float, epsilon_outer: float, speed: float, force: float) -> bool:
        validate_width(width, _HAND_MAX_WIDTH_M)
        rest_m = self._drive(0.0)
        held = width - epsilon_inner < rest_m < width + epsilon_outer
        self._grasped_m = (width - epsilon_inner, width + epsilon_outer) if held else None
        return held

    def stop(self) -> bool:
        self._stopped.set()
        with self._arm.lock:
            self._arm.cell.set_gripper_width(self._arm.cell.state().gripper_width_m)
        return True

    def get_state(self) -> GripperStateData:
        width, grasped = self._width_m(), self._grasped_m
        return GripperStateData(
            width, _HAND_MAX_WIDTH_M, grasped is not None and grasped[0] < width < grasped[1], _HAND_TEMPERATURE_C
        )


class ProtocolServer(FrankaSimServer):
    """Serves one cell to one client at a time, in threads of its own from :meth:`open` to :meth:`close`.

    Args:
        cell: with its arm where the robot is to stand.
        address: where to listen, one of 127.0.0.0/8. Several servers take several of these, since the ports are fixed.
        patience_s: how long the robot's clock waits for a command that is due. A robot does not wait at all: it stops
            after 20 cycles without one, which a busy machine without real-time scheduling cannot avoid.

    Raises:
        OSError: a port is taken.
    """

    _DRAIN_GATE_TIMEOUT: float

    def __init__(self, cell: Cell, address: str = "127.0.0.1", patience_s: float = 0.0) -> None:
        self._patience_s = patience_s
        self._thresholds: tuple[Array, Array] | None = None
        self._loads = (np.zeros(7), np.zeros(6))
        arm = ProtocolArm(cell)
        super().__init__(
            host=address,
            port=ARM_PORT,
            physics_sim=arm,
            gripper_backend=ProtocolHand(arm),
            enforce_comm_constraints=True,
            enforce_motion_limits=True,
        )
        self.arm = arm
        self._DRAIN_GATE_TIMEOUT = max(self._DRAIN_GATE_TIMEOUT, patience_s)
        self._thread = threading.Thread(target=self._serve, name="protocol server", daemon=True)

    def open(self) -> None:
        """Begin to serve; both ports listen when this returns."""
        for port in (ARM_PORT, HAND_PORT):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.host, port))
                except OSError as error:
                    raise OSError(
                        f"{self.host}:{port} cannot be served ({error.strerror}); another rehearsal may be running "
                        "there: give this one another address of 127.0.0.0/8"
                    ) from error
        self._thread.start()
        while not (self.server_socket and self.gripper_server.running and self.arm.running):
            if self.failure:
                raise OSError(f"{self.host} cannot be served: {self.failure}")
            time.sleep(0.005)

    def _serve(self) -> None:
        try:
            self.start()
        finally:
            self.stop()  # a client is not left with a state that stands still

    @property
    def failure(self) -> str:
        """Why nothing is served any more; empty while it is."""
        if self.arm.failure or self._thread.is_alive():
            return self.arm.failure
        return "the protocol server has ended"

    @property
    def has_client(self) -> bool:
        return self.client_socket is not None

    def close(self) -> None:
        """Stop serving and end the threads."""
        with contextlib.suppress(OSError, AttributeError):
            self.gripper_server.server_socket.shutdown(socket.SHUT_RDWR)  # wakes its thread, for which stop() waits
        self.stop()
        if self._thread.ident is not None:
            self._thread.join(timeout=5.0)

    def start_robot_state_transmission(self, client_address: str, client_udp_port: int) -> None:
        self.arm.streaming = threading.current_thread()
        try:
            super().start_robot_state_transmission(client_address, client_udp_port)
        finally:
            self.arm.streaming = None

    def _drain_gate(self, answer_deadline: float = 0.0) -> float:
        if self._patience_s > 0.0:  # from now on, since this thread may have been kept waiting too
            answer_deadline = max(answer_deadline, time.perf_counter() + self._patience_s)
        waited_s: float = super()._drain_gate(answer_deadline)
        return waited_s

    def reset_state(self) -> None:
        # for each client anew: as the settings of a robot with a Franka hand
        super().reset_state()
        self.robot_state.state["F_T_NE"] = FLANGE_TO_TCP.T.flatten().tolist()
        self._refresh_ee_transform()
        self._thresholds = None

    def handle_set_collision_behavior_command(self, client_socket: Any, header: Any, payload: bytes) -> None:
        try:
            command = SetCollisionBehaviorCommand.from_bytes(payload)
            self._thresholds = (
                np.array(command.upper_torque_thresholds_nominal),
                np.array(command.upper_force_thresholds_nominal),
            )
        except Exception:
            self._thresholds = None  # the base class answers that it is malformed
        super().handle_set_collision_behavior_command(client_socket, header, payload)

    def _run_self_collision_check(self, sim_state: dict[str, Any]) -> None:
        super()._run_self_collision_check(sim_state)
        for load, name in zip(self._loads, ("tau_ext_hat_filtered", "O_F_ext_hat_K"), strict=True):
            load += _LOADS_SHARE * (np.asarray(sim_state[name]) - load)
        if self._thresholds is None or not self.current_motion_id:
            return
        for error, felt, threshold in zip(_ERRORS, self._loads, self._thresholds, strict=True):
            over = np.abs(felt) > threshold
            if over.any():
                axis = int(np.argmax(over))
                reason = f"{error}: {felt[axis]:.1f} in axis {axis + 1}, upper threshold {threshold[axis]:.1f}"
                self._abort_with_error(_ERRORS[error], reason, self.motion_limits.motion_id)
                return
