"""The Cartesian impedance law, as the robot runs it at 1 kHz: the numpy reference of every backend.

A filtered set-point pulls the TCP like a spring with clipped extension, a damper resists its motion::

    target_f <- filter(target_f, target)             low-pass, once per millisecond
    F = K clip(e) - D v                              e = (p_f - p, log(R_f R^T)), v = TCP twist, both in the base frame
    tau = J^T F + (I - J^T J^+T) (k (q0 - q) - 2 sqrt(k) dq)     then at most so many N m per ms away from the last tau

Sources: the law of serl_franka_controllers (position clip, set-point filter, torque-rate limit) with the rotation
error of crisp_controllers (rotation vector, where SERL uses half of it), so that parameters carry over to the rig
by name. The contact force cannot exceed K times clip, the free-space speed settles at K clip / D.
"""

from __future__ import annotations

import numpy as np

from rldg_core.frames import Array, Pose, interpolate, log_rotation, quaternion_conjugate, quaternion_multiply
from rldg_core.task import Gains

CONTROL_PERIOD_S = 0.001


def filter_target(current: Pose, target: Pose, factor: float) -> Pose:
    """One low-pass step of the set-point, which keeps ``factor`` of the current one."""
    return interpolate(current, target, 1.0 - factor)


def pose_error(pose: Pose, target: Pose) -> Array:
    """Translation (m) and rotation vector (rad) from ``pose`` to ``target`` in the base frame, shape (6,)."""
    turn = quaternion_multiply(target.quaternion, quaternion_conjugate(pose.quaternion))
    return np.concatenate([target.position - pose.position, log_rotation(turn)])


def spring_damper_wrench(pose: Pose, twist_base: Array, target: Pose, gains: Gains) -> Array:
    """Force (N) and torque (N m) on the TCP in the base frame, shape (6,).

    Args:
        pose: measured TCP pose, base frame.
        twist_base: measured TCP twist in the base frame, shape (6,), m/s and rad/s.
        target: filtered set-point, base frame.
        gains: stiffness, damping and clips, per base axis.
    """
    stiffness = np.array([*gains.k_pos_n_m, *gains.k_rot_nm_rad])
    damping = np.array([*gains.d_pos_ns_m, *gains.d_rot_nms_rad])
    clip = np.array([*gains.clip_pos_m, *gains.clip_rot_rad])
    error = np.clip(pose_error(pose, target), -clip, clip)
    return stiffness * error - damping * twist_base


def joint_torques(
    jacobian: Array, wrench: Array, q_rad: Array, dq_rad_s: Array, posture_rad: Array, nullspace_nm_rad: float
) -> Array:
    """Torques (N m), shape (n,), that exert ``wrench`` and pull towards ``posture_rad`` where the task leaves freedom.

    Args:
        jacobian: shape (6, n), TCP twist in the base frame per joint velocity.
        wrench: shape (6,), from :func:`spring_damper_wrench`.
    """
    posture = nullspace_nm_rad * (posture_rad - q_rad) - 2.0 * np.sqrt(nullspace_nm_rad) * dq_rad_s
    projector = np.eye(len(q_rad)) - jacobian.T @ np.linalg.pinv(jacobian.T)
    return np.asarray(jacobian.T @ wrench + projector @ posture)


def limit_torque_rate(previous_nm: Array, wanted_nm: Array, max_change_nm: float) -> Array:
    """``wanted_nm``, but no further than ``max_change_nm`` from ``previous_nm`` in any joint, shape (n,)."""
    return previous_nm + np.clip(wanted_nm - previous_nm, -max_change_nm, max_change_nm)
