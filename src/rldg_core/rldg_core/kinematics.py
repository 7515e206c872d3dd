"""Where the TCP of a Franka Research 3 is and how it moves, from the joints: for drivers that are told the joints only.

The numbers are Franka's Denavit-Hartenberg parameters in Craig's convention (frankarobotics.github.io/docs, "Control
parameters specifications"), the mount of its hand and that hand's TCP.
"""

from __future__ import annotations

import math

import numpy as np

from rldg_core.frames import Array, Pose, cross, quaternion_from_matrix, rotate_free

_DH = (  # a (m), d (m), alpha (rad) of each joint
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -math.pi / 2.0),
    (0.0, 0.316, math.pi / 2.0),
    (0.0825, 0.0, math.pi / 2.0),
    (-0.0825, 0.384, -math.pi / 2.0),
    (0.0, 0.0, math.pi / 2.0),
    (0.088, 0.0, math.pi / 2.0),
)
_TCP_M = 0.107 + 0.1034  # joint 7 to flange, flange to the TCP between the fingertips
_HAND_TURN_RAD = -math.pi / 4.0  # of the hand on the flange
JOINTS = len(_DH)


def tcp_state(q_rad: Array, dq_rad_s: Array) -> tuple[Pose, Array]:
    """Pose of the TCP in the base frame, and its twist, shape (6,), m/s and rad/s, in the TCP frame.

    Args:
        q_rad: joint positions, shape (7,).
        dq_rad_s: joint velocities, shape (7,).

    Raises:
        ValueError: a shape is wrong or a number is not finite.
    """
    if np.shape(q_rad) != (JOINTS,) or np.shape(dq_rad_s) != (JOINTS,):
        raise ValueError(f"joints: shapes {np.shape(q_rad)} and {np.shape(dq_rad_s)}, must be ({JOINTS},)")
    if not (np.isfinite(q_rad).all() and np.isfinite(dq_rad_s).all()):
        raise ValueError(f"joints: positions {q_rad} and velocities {dq_rad_s} must be finite")
    frame = np.eye(4)
    axes, origins = [], []
    for (a, d, alpha), q in zip(_DH, np.asarray(q_rad).tolist(), strict=True):
        frame = frame @ _link(a, d, alpha, q)
        axes.append(frame[:3, 2])
        origins.append(frame[:3, 3])
    frame = frame @ _link(0.0, _TCP_M, 0.0, _HAND_TURN_RAD)
    tcp = frame[:3, 3]
    jacobian = np.array([[*cross(axis, tcp - origin), *axis] for axis, origin in zip(axes, origins, strict=True)]).T
    pose = Pose(tcp, quaternion_from_matrix(frame[:3, :3]))
    return pose, rotate_free(pose.inverse().quaternion, jacobian @ dq_rad_s)


def _link(a: float, d: float, alpha: float, theta: float) -> Array:
    """Frame of one joint in that of the one before, shape (4, 4)."""
    ca, sa, ct, st = math.cos(alpha), math.sin(alpha), math.cos(theta), math.sin(theta)
    return np.array(
        [[ct, -st, 0.0, a], [st * ca, ct * ca, -sa, -d * sa], [st * sa, ct * sa, ca, d * ca], [0.0, 0.0, 0.0, 1.0]]
    )
