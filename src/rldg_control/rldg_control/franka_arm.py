"""A Franka arm and its hand through franky-control 2: the 1 kHz impedance law runs in its C++ thread, not here.

The law of that thread is the one of :mod:`rldg_core.impedance` with its units and signs: element-wise clips of position
and rotation vector in the base frame, a null space by ``I - J^T (J^T)^+``, critically damped, and a limit of the torque
rate. It lacks the set-point filter, which :mod:`rldg_control.arm_driver` runs, and adds what compensates the Coriolis
forces and libfranka's low-pass of 100 Hz on the torques.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rldg_control.arm_driver import ArmFault, LinkLost, Reading
from rldg_core.frames import Array, Pose
from rldg_core.task import Gains, Impedance, Robot
from rldg_core.types import ArmState

# How fast changed gains are taken on. A motion begins with equal stiffness in all axes and critical damping.
_GAINS_TIME_S = 0.02
_HOMING_DYNAMICS = 0.1  # of the limits of speed, acceleration and jerk
_STOP_TIMEOUT_S = 1.0
_TCP_TOLERANCE = 1e-3  # m and entries of a rotation matrix


def has_realtime_kernel() -> bool:
    """Whether the kernel is a PREEMPT_RT one, as libfranka asks."""
    return Path("/sys/kernel/realtime").exists()


def _franky() -> Any:
    try:
        import franky
    except ImportError as error:
        raise LinkLost(f"cannot import franky ({error}); pip install 'franky-control>=2.0,<2.1'") from None
    return franky


@contextlib.contextmanager
def _calling(address: str) -> Iterator[None]:
    """franky's exceptions as those of the driver, each on one line."""
    franky = _franky()
    try:
        yield
    except franky.IncompatibleVersionException as error:
        raise LinkLost(
            f"{address}: {_line(error)}; franky 2.0 talks to an FR3 of system 5.9 or newer, not to a Panda"
        ) from None
    except (franky.NetworkException, franky.ProtocolException) as error:
        raise LinkLost(f"{address}: {_line(error)}") from None
    except (
        franky.ControlException,
        franky.CommandException,
        franky.InvalidOperationException,
        franky.RealtimeException,
    ) as error:
        raise ArmFault(_line(error)) from None
    except (LinkLost, ArmFault):
        raise
    except RuntimeError as error:  # of the network library below libfranka, where the other end vanishes
        raise LinkLost(f"{address}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _pose(transform: Any) -> Pose:
    return Pose(transform.translation, transform.quaternion)


def _column_major(matrix: npt.NDArray[np.float64]) -> list[float]:
    return [float(value) for value in matrix.T.ravel()]


class FrankaArm:
    """An :class:`~rldg_control.arm_driver.Arm`: connects, and makes TCP, stiffness frame and collision limits ours.

    Args:
        address: IP address or name of the robot.
        robot: where the TCP is, and at which loads the robot stops by itself.
        impedance: torque rate and null space.
        clock: nanoseconds, for the stamps.

    Raises:
        LinkLost: there is no robot, or it speaks another protocol.
        ArmFault: it refuses the settings.
    """

    def __init__(self, address: str, robot: Robot, impedance: Impedance, clock: Callable[[], int]) -> None:
        self._franky = _franky()
        self._address, self._impedance, self._clock = address, impedance, clock
        self._error_names = [name for name in dir(self._franky.Errors) if not name.startswith("_")]
        config = self._franky.RealtimeConfig
        with _calling(address):
            self._robot = self._franky.Robot(
                address,
                relative_dynamics_factor=_HOMING_DYNAMICS,
                realtime_config=config.Enforce if has_realtime_kernel() else config.Ignore,
            )
            self._settle_frames(robot.flange_to_tcp.pose())
            torque, force = list(robot.collision.torque_nm), [robot.collision.force_n] * 3
            force += [robot.collision.moment_nm] * 3
            self._robot.set_collision_behavior(torque, force)
        self._motion: Any = None
        self._posture_rad: Array = np.zeros(7)
        self._gains: Gains | None = None
        self._target: Any = None

    def _settle_frames(self, flange_to_tcp: Pose) -> None:
        """The pose and the wrench that the robot reports are those of our TCP, whatever is set in Desk."""
        wanted = self._affine(flange_to_tcp)
        if not self._has_tcp(wanted):
            self._robot.set_ee(_column_major((self._robot.state.F_T_NE.inverse * wanted).matrix))
        self._robot.set_k(_column_major(np.eye(4)))
        for _ in range(100):  # it takes some cycles to be true
            if self._has_tcp(wanted):
                return
        raise ArmFault("the robot does not take on the TCP of the robot file (flange_to_tcp); set the hand in Desk")

    def _has_tcp(self, flange_to_tcp: Any) -> bool:
        return np.allclose(self._robot.state.F_T_EE.matrix, flange_to_tcp.matrix, atol=_TCP_TOLERANCE)

    def _affine(self, pose: Pose) -> Any:
        return self._franky.Affine(pose.position, pose.quaternion)

    def read(self) -> Reading:
        with _calling(self._address):
            state = self._robot.state
            stamp_ns = self._clock()
            jacobian = self._robot.model.body_jacobian(self._franky.Frame.EndEffector, state)
        return Reading(
            state=ArmState(
                tcp_pose=_pose(state.O_T_EE),
                tcp_twist=jacobian @ state.dq,
                # libfranka's is what the robot exerts (its examples compare it with the wrench that they command)
                wrench=-state.K_F_ext_hat_K,
                joint_position_rad=state.q,
                joint_velocity_rad_s=state.dq,
                joint_effort_nm=state.tau_J_d,
                gripper_width_m=np.nan,
            ),
            mode=int(state.robot_mode),
            errors=tuple(name for name in self._error_names if getattr(state.current_errors, name)),
            robot_time_s=state.time.to_sec(),
            stamp_ns=stamp_ns,
            success_rate=state.control_command_success_rate,
        )

    def moves(self) -> bool:
        if self._robot.is_in_control:
            return True
        with _calling(self._address):
            self._robot.poll_motion()
        return False

    def track(self, target: Pose, gains: Gains, posture_rad: Array) -> None:
        self._posture_rad = posture_rad
        self._target = self._reference(target)
        self._begin(gains)

    def _reference(self, target: Pose) -> Any:
        return self._franky.CartesianReference(target=self._affine(target))

    def _begin(self, gains: Gains) -> None:
        """A motion with these clips, which takes over from the one that runs: clips belong to a motion."""
        franky, impedance = self._franky, self._impedance
        posture = franky.PostureTask(self._posture_rad, impedance.nullspace_stiffness_nm_rad)
        motion = franky.CartesianImpedanceTrackingMotion(
            translational_stiffness=gains.k_pos_n_m[0],
            rotational_stiffness=gains.k_rot_nm_rad[0],
            translational_error_clip=np.array(gains.clip_pos_m),
            rotational_error_clip=np.array(gains.clip_rot_rad),
            posture_task=posture,
            max_delta_tau=impedance.max_torque_rate_nm_ms,
            gains_time_constant=_GAINS_TIME_S,
        )
        motion.set_gains(self._matrices(gains))
        motion.set_reference(self._target)
        with _calling(self._address):
            self._robot.move(motion, asynchronous=True)
        self._motion, self._gains = motion, gains

    def _matrices(self, gains: Gains) -> Any:
        return self._franky.CartesianImpedanceGains.diagonal(
            np.array([*gains.k_pos_n_m, *gains.k_rot_nm_rad]), np.array([*gains.d_pos_ns_m, *gains.d_rot_nms_rad])
        )

    def aim(self, target: Pose) -> None:
        self._target = self._reference(target)
        self._motion.set_reference(self._target)

    def set_gains(self, gains: Gains) -> None:
        now = self._gains
        if now is None or (now.clip_pos_m, now.clip_rot_rad) != (gains.clip_pos_m, gains.clip_rot_rad):
            self._begin(gains)
        else:
            self._motion.set_gains(self._matrices(gains))
            self._gains = gains

    def move_joints(self, goal_rad: Sequence[float]) -> None:
        franky = self._franky
        with _calling(self._address):
            self._robot.move(franky.TorqueStopMotion(), asynchronous=True)
            if not self._robot.join_motion(timeout=_STOP_TIMEOUT_S):
                raise ArmFault(f"the arm did not come to rest within {_STOP_TIMEOUT_S} s")
            self._robot.move(franky.JointMotion(franky.JointState(np.array(goal_rad))), asynchronous=True)

    def stop(self) -> None:
        franky, robot = self._franky, self._robot
        if not robot.is_in_control:
            return
        with _calling(self._address):
            if robot.current_control_signal_type == franky.ControlSignalType.Torques:
                robot.move(franky.TorqueStopMotion(), asynchronous=True)
            else:
                robot.move(franky.JointStopMotion(), asynchronous=True)

    def recover(self) -> None:
        with _calling(self._address):
            with contextlib.suppress(self._franky.ControlException, self._franky.CommandException):
                self._robot.join_motion(timeout=_STOP_TIMEOUT_S)  # raises what is known already
            if not self._robot.recover_from_errors():
                raise ArmFault("the robot did not recover from its errors")

    def close(self) -> None:
        with contextlib.suppress(Exception):  # what it ended with is of no interest any more
            self._robot.join_motion(timeout=_STOP_TIMEOUT_S)
        self._motion = self._robot = None


class FrankaHand:
    """A :class:`~rldg_control.hand_driver.Hand`: the Franka hand. It must have been homed once since power-up (Desk).

    Raises:
        LinkLost: there is no hand at this address.
    """

    def __init__(self, address: str, robot: Robot) -> None:
        self._address, self._grip, self._open_m = address, robot.grip, robot.gripper_max_width_m
        with _calling(address):
            self._hand = _franky().Gripper(address)

    def width_m(self) -> float:
        with _calling(self._address):
            return float(self._hand.width)

    def drive(self, closed: bool) -> None:
        grip = self._grip
        with _calling(self._address):
            if closed:  # on whatever is between the fingers, also nothing
                done = self._hand.grasp(0.0, grip.speed_m_s, grip.force_n, 0.0, self._open_m)
            else:
                done = self._hand.move(self._open_m, grip.speed_m_s)
        if not done:
            raise ArmFault(f"the hand did not {'close' if closed else 'open'}; home it in Desk if it was not")
