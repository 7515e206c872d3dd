"""Frame algebra on SE(3): the one implementation that every package uses.

Conventions (REP 103): SI units, right-handed frames, quaternions ordered x, y, z, w. A :class:`Pose` named ``a_b``
maps coordinates in frame ``b`` to frame ``a``, so ``a_b @ b_c`` is ``a_c``. Quaternions are returned on the
hemisphere ``w >= 0``. Twists, wrenches and action deltas are *free vectors about the TCP*: changing their frame
rotates both halves and nothing else, so a pure translation never becomes a rotation (the 6x6 adjoint would couple
them through the lever arm, which is the action-frame fault of the original HIL-SERL release).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_TINY_RAD = 1e-8


@dataclass(frozen=True, eq=False)
class Pose:
    """A rigid transform.

    Args:
        position: shape (3,), m.
        quaternion: shape (4,), x y z w; normalised on construction.

    Raises:
        ValueError: an element is not finite, a shape is wrong, or the quaternion has no length.
    """

    position: Array
    quaternion: Array

    def __post_init__(self) -> None:
        position = np.array(self.position, dtype=np.float64)
        given = np.asarray(self.quaternion, dtype=np.float64)
        if position.shape != (3,) or given.shape != (4,):
            raise ValueError(f"pose: shapes {position.shape} and {given.shape}, expected (3,) and (4,)")
        px, py, pz = position.tolist()
        x, y, z, w = given.tolist()
        norm = math.sqrt(x * x + y * y + z * z + w * w)
        if not (math.isfinite(px + py + pz) and math.isfinite(norm) and norm > 1e-6):
            raise ValueError(f"pose: {position} {given} must be finite with a quaternion that is not 0")
        if w < 0.0:
            norm = -norm
        quaternion = np.array([x / norm, y / norm, z / norm, w / norm])
        position.setflags(write=False)
        quaternion.setflags(write=False)
        object.__setattr__(self, "position", position)
        object.__setattr__(self, "quaternion", quaternion)

    def __matmul__(self, other: Pose) -> Pose:
        """Compose: ``a_b @ b_c`` is ``a_c``."""
        return Pose(
            self.position + rotate(self.quaternion, other.position),
            quaternion_multiply(self.quaternion, other.quaternion),
        )

    def inverse(self) -> Pose:
        """``a_b.inverse()`` is ``b_a``."""
        conjugate = quaternion_conjugate(self.quaternion)
        return Pose(-rotate(conjugate, self.position), conjugate)

    def matrix(self) -> Array:
        """Rotation part as a matrix, shape (3, 3)."""
        return quaternion_to_matrix(self.quaternion)

    def transform(self, point: npt.ArrayLike) -> Array:
        """Map a point of shape (3,), m, from the inner to the outer frame."""
        return self.position + rotate(self.quaternion, np.asarray(point, dtype=np.float64))

    @staticmethod
    def identity() -> Pose:
        return Pose(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))

    @staticmethod
    def from_rpy(position: npt.ArrayLike, rpy_rad: npt.ArrayLike) -> Pose:
        """From a position (m) and fixed-axis roll, pitch, yaw (rad), the URDF convention."""
        return Pose(np.asarray(position, dtype=np.float64), quaternion_from_rpy(rpy_rad))


def quaternion_multiply(a: Array, b: Array) -> Array:
    """Hamilton product of two x y z w quaternions, shape (4,)."""
    ax, ay, az, aw = a.tolist()
    bx, by, bz, bw = b.tolist()
    return np.array(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ]
    )


def quaternion_conjugate(q: Array) -> Array:
    return np.array([-q[0], -q[1], -q[2], q[3]])


def rotate(q: Array, v: Array) -> Array:
    """Rotate a vector of shape (3,) by a unit quaternion."""
    x, y, z, w = q.tolist()
    vx, vy, vz = v.tolist()
    tx, ty, tz = 2.0 * (y * vz - z * vy), 2.0 * (z * vx - x * vz), 2.0 * (x * vy - y * vx)
    return np.array([vx + w * tx + y * tz - z * ty, vy + w * ty + z * tx - x * tz, vz + w * tz + x * ty - y * tx])


def cross(a: Array, b: Array) -> Array:
    """Vector product of two vectors of shape (3,); a tenth of the time that numpy's general one takes."""
    ax, ay, az = a.tolist()
    bx, by, bz = b.tolist()
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


def quaternion_to_matrix(q: Array) -> Array:
    """Unit quaternion to rotation matrix, shape (3, 3)."""
    x, y, z, w = q.tolist()
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_from_matrix(m: npt.ArrayLike) -> Array:
    """Rotation matrix, shape (3, 3), to a unit quaternion (Shepperd's method: divide by the largest component)."""
    r = np.asarray(m, dtype=np.float64)
    squares = np.array(
        [
            1.0 + r[0, 0] - r[1, 1] - r[2, 2],
            1.0 - r[0, 0] + r[1, 1] - r[2, 2],
            1.0 - r[0, 0] - r[1, 1] + r[2, 2],
            1.0 + r[0, 0] + r[1, 1] + r[2, 2],
        ]
    )
    i = int(np.argmax(squares))
    q = np.empty(4)
    if i == 3:
        q[:] = [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], squares[3]]
    else:
        j, k = (i + 1) % 3, (i + 2) % 3
        q[i] = squares[i]
        q[j] = r[i, j] + r[j, i]
        q[k] = r[i, k] + r[k, i]
        q[3] = r[k, j] - r[j, k]
    q /= np.linalg.norm(q)
    return q if q[3] >= 0.0 else -q


def quaternion_from_rpy(rpy_rad: npt.ArrayLike) -> Array:
    """Fixed-axis roll, pitch, yaw (rad) to a quaternion: Rz(yaw) Ry(pitch) Rx(roll)."""
    roll, pitch, yaw = np.asarray(rpy_rad, dtype=np.float64)
    qx = np.array([np.sin(roll / 2), 0.0, 0.0, np.cos(roll / 2)])
    qy = np.array([0.0, np.sin(pitch / 2), 0.0, np.cos(pitch / 2)])
    qz = np.array([0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2)])
    return quaternion_multiply(qz, quaternion_multiply(qy, qx))


def exp_rotation(rotation_vector_rad: npt.ArrayLike) -> Array:
    """Rotation vector (axis times angle, rad), shape (3,), to a unit quaternion."""
    x, y, z = np.asarray(rotation_vector_rad, dtype=np.float64).tolist()
    angle = math.sqrt(x * x + y * y + z * z)
    scale = 0.5 if angle < _TINY_RAD else math.sin(angle / 2.0) / angle
    return np.array([x * scale, y * scale, z * scale, math.cos(angle / 2.0)])


def log_rotation(q: Array) -> Array:
    """Unit quaternion to the shortest rotation vector (rad), shape (3,), angle in [0, pi]."""
    x, y, z, w = q.tolist()
    sine = math.sqrt(x * x + y * y + z * z)
    scale = 2.0 if sine < _TINY_RAD else 2.0 * math.atan2(sine, abs(w)) / sine
    scale = -scale if w < 0.0 else scale
    return np.array([x * scale, y * scale, z * scale])


def apply_body_delta(pose: Pose, delta: npt.ArrayLike) -> Pose:
    """Move ``pose`` by (translation m, rotation vector rad), shape (6,), both in its own body frame."""
    d = np.asarray(delta, dtype=np.float64)
    return Pose(
        pose.position + rotate(pose.quaternion, d[:3]), quaternion_multiply(pose.quaternion, exp_rotation(d[3:]))
    )


def body_delta(start: Pose, end: Pose) -> Array:
    """The delta, shape (6,), with ``apply_body_delta(start, delta) == end``."""
    conjugate = quaternion_conjugate(start.quaternion)
    return np.concatenate(
        [
            rotate(conjugate, end.position - start.position),
            log_rotation(quaternion_multiply(conjugate, end.quaternion)),
        ]
    )


def rotate_free(q: Array, vector6: npt.ArrayLike) -> Array:
    """Re-express a twist, wrench or action delta, shape (6,), by rotating both of its halves by ``q``."""
    v = np.asarray(vector6, dtype=np.float64)
    return np.concatenate([rotate(q, v[:3]), rotate(q, v[3:])])


def interpolate(start: Pose, end: Pose, fraction: float) -> Pose:
    """Straight line in position, shortest arc in rotation; ``fraction`` 0 gives ``start``, 1 gives ``end``."""
    arc = log_rotation(quaternion_multiply(quaternion_conjugate(start.quaternion), end.quaternion))
    return Pose(
        start.position + fraction * (end.position - start.position),
        quaternion_multiply(start.quaternion, exp_rotation(fraction * arc)),
    )


def rotation_angle(a: Pose, b: Pose) -> float:
    """Angle between the orientations of two poses, rad, in [0, pi]."""
    return float(np.linalg.norm(log_rotation(quaternion_multiply(quaternion_conjugate(a.quaternion), b.quaternion))))
