"""Messages to and from the records of :mod:`rldg_core.types`.

Reading validates: a wrong size, a value that is not finite or an unknown enumeration value raises ``ValueError`` with
one line that names the field. Images are never walked element by element: written as ``bytes``, read as a view.
"""

from __future__ import annotations

import math
from array import array

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time as TimeMsg
from geometry_msgs.msg import Point, Quaternion, Vector3
from geometry_msgs.msg import Pose as PoseMsg
from geometry_msgs.msg import PoseStamped as PoseStampedMsg
from geometry_msgs.msg import Twist as TwistMsg
from geometry_msgs.msg import Wrench as WrenchMsg
from rldg_interfaces.msg import Action as ActionMsg
from rldg_interfaces.msg import Episode as EpisodeMsg
from rldg_interfaces.msg import Observation as ObservationMsg
from rldg_interfaces.msg import Step as StepMsg
from sensor_msgs.msg import Image as ImageMsg
from std_msgs.msg import Header

from rldg_core.frames import Array, Pose
from rldg_core.types import (
    ACTION_SIZE,
    Action,
    ActionChunk,
    Change,
    EpisodeStatus,
    Observation,
    Outcome,
    Phase,
    Source,
    Step,
)

_NS = 1_000_000_000
_UNIT_TOLERANCE = 0.01  # a quaternion further from unit length is a fault of the sender, not rounding
_NO_ACTION = np.full(ACTION_SIZE, np.nan, dtype=np.float32)


def stamp_to_msg(stamp_ns: int) -> TimeMsg:
    """Nanoseconds since the clock's zero to a message."""
    return TimeMsg(sec=stamp_ns // _NS, nanosec=stamp_ns % _NS)


def stamp_from_msg(msg: TimeMsg) -> int:
    """A message to nanoseconds."""
    return int(msg.sec) * _NS + int(msg.nanosec)


def header(stamp_ns: int, frame_id: str = "") -> Header:
    return Header(stamp=stamp_to_msg(stamp_ns), frame_id=frame_id)


def pose_to_msg(pose: Pose) -> PoseMsg:
    x, y, z = pose.position.tolist()
    qx, qy, qz, qw = pose.quaternion.tolist()
    return PoseMsg(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def pose_from_msg(msg: PoseMsg, name: str = "pose") -> Pose:
    """Raises:
    ValueError: a value is not finite or the quaternion is not of unit length.
    """
    p, q = msg.position, msg.orientation
    norm = math.sqrt(q.x * q.x + q.y * q.y + q.z * q.z + q.w * q.w)
    if not abs(norm - 1.0) <= _UNIT_TOLERANCE:
        raise ValueError(f"{name}.orientation: length {norm:.4g}, must be 1; send a unit quaternion x y z w")
    if not math.isfinite(p.x + p.y + p.z):
        raise ValueError(f"{name}.position: ({p.x}, {p.y}, {p.z}) must be finite (m)")
    return Pose(np.array((p.x, p.y, p.z)), np.array((q.x, q.y, q.z, q.w)))


def stamped_pose_to_msg(pose: Pose, stamp_ns: int, frame_id: str) -> PoseStampedMsg:
    return PoseStampedMsg(header=header(stamp_ns, frame_id), pose=pose_to_msg(pose))


def twist_to_msg(twist: Array) -> TwistMsg:
    """From shape (6,): linear (m/s), angular (rad/s)."""
    vx, vy, vz, wx, wy, wz = twist.tolist()
    return TwistMsg(linear=Vector3(x=vx, y=vy, z=vz), angular=Vector3(x=wx, y=wy, z=wz))


def twist_from_msg(msg: TwistMsg, name: str = "twist") -> Array:
    """To shape (6,): linear (m/s), angular (rad/s).

    Raises:
        ValueError: a value is not finite.
    """
    return _vector6(msg.linear, msg.angular, name)


def wrench_to_msg(wrench: Array) -> WrenchMsg:
    """From shape (6,): force (N), torque (N m)."""
    fx, fy, fz, tx, ty, tz = wrench.tolist()
    return WrenchMsg(force=Vector3(x=fx, y=fy, z=fz), torque=Vector3(x=tx, y=ty, z=tz))


def wrench_from_msg(msg: WrenchMsg, name: str = "wrench") -> Array:
    """To shape (6,): force (N), torque (N m).

    Raises:
        ValueError: a value is not finite.
    """
    return _vector6(msg.force, msg.torque, name)


def _vector6(a: Vector3, b: Vector3, name: str) -> Array:
    if not math.isfinite(a.x + a.y + a.z + b.x + b.y + b.z):
        raise ValueError(f"{name}: ({a.x}, {a.y}, {a.z}), ({b.x}, {b.y}, {b.z}) must be finite")
    return np.array((a.x, a.y, a.z, b.x, b.y, b.z))


def image_to_msg(image: npt.NDArray[np.uint8], stamp_ns: int, frame_id: str) -> ImageMsg:
    """From RGB of shape (height, width, 3)."""
    height, width, _ = image.shape
    return ImageMsg(
        header=header(stamp_ns, frame_id),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=3 * width,
        data=image.tobytes(),
    )


def image_from_msg(msg: ImageMsg, name: str = "image") -> npt.NDArray[np.uint8]:
    """To RGB of shape (height, width, 3): a read-only view of the message where its layout allows.

    Raises:
        ValueError: the encoding is neither rgb8 nor bgr8, or the data does not have the size the message claims.
    """
    if msg.encoding not in ("rgb8", "bgr8"):
        raise ValueError(f"{name}.encoding: {msg.encoding!r}, must be rgb8 or bgr8; set the camera's colour format")
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    if height == 0 or width == 0 or step < 3 * width or len(msg.data) != height * step:
        raise ValueError(
            f"{name}: {len(msg.data)} bytes for height {height}, width {width}, step {step}; "
            "must be height x step, step >= 3 x width"
        )
    view = np.frombuffer(msg.data, dtype=np.uint8).reshape(height, step)[:, : 3 * width].reshape(height, width, 3)
    if msg.encoding == "bgr8":
        view = view[:, :, ::-1]
    view.setflags(write=False)
    return view


def observation_to_msg(observation: Observation, base_frame: str, camera_frame: str) -> ObservationMsg:
    return ObservationMsg(
        header=header(observation.stamp_ns, base_frame),
        episode_id=observation.episode_id,
        index=observation.index,
        instruction=observation.instruction,
        image=image_to_msg(observation.image, observation.stamp_ns, camera_frame),
        tcp_pose=pose_to_msg(observation.tcp_pose),
        reset_pose=pose_to_msg(observation.reset_pose),
        tcp_twist=twist_to_msg(observation.tcp_twist),
        wrench=wrench_to_msg(observation.wrench),
        gripper_width_m=float(observation.gripper_width_m),
        gripper_closed=bool(observation.gripper_closed),
        image_age_s=float(observation.image_age_s),
        state_age_s=float(observation.state_age_s),
        skew_s=float(observation.skew_s),
    )


def observation_from_msg(msg: ObservationMsg) -> Observation:
    """Raises:
    ValueError: a field is not finite, or the image is not square RGB of the size it claims.
    """
    image = image_from_msg(msg.image, "observation.image")
    if image.shape[0] != image.shape[1]:
        raise ValueError(f"observation.image: {image.shape[1]} x {image.shape[0]}, must be square")
    if not math.isfinite(msg.gripper_width_m + msg.image_age_s + msg.state_age_s + msg.skew_s):
        raise ValueError(
            f"observation: gripper_width_m {msg.gripper_width_m}, image_age_s {msg.image_age_s}, "
            f"state_age_s {msg.state_age_s}, skew_s {msg.skew_s} must be finite"
        )
    return Observation(
        stamp_ns=stamp_from_msg(msg.header.stamp),
        image=image,
        tcp_pose=pose_from_msg(msg.tcp_pose, "observation.tcp_pose"),
        tcp_twist=twist_from_msg(msg.tcp_twist, "observation.tcp_twist"),
        wrench=wrench_from_msg(msg.wrench, "observation.wrench"),
        gripper_width_m=msg.gripper_width_m,
        gripper_closed=msg.gripper_closed,
        instruction=msg.instruction,
        episode_id=msg.episode_id,
        index=msg.index,
        reset_pose=pose_from_msg(msg.reset_pose, "observation.reset_pose"),
        image_age_s=msg.image_age_s,
        state_age_s=msg.state_age_s,
        skew_s=msg.skew_s,
    )


def chunk_to_msg(chunk: ActionChunk, stamp_ns: int) -> ActionMsg:
    """``stamp_ns``: when inference finished."""
    return ActionMsg(
        header=header(stamp_ns, chunk.frame_id),
        observation_stamp=stamp_to_msg(chunk.observation_stamp_ns),
        policy_id=chunk.policy_id,
        period_s=float(chunk.period_s),
        deltas=array("f", np.asarray(chunk.deltas, dtype=np.float32).tobytes()),
        gripper_closed=np.asarray(chunk.gripper_closed, dtype=np.bool_).tolist(),
    )


def chunk_from_msg(msg: ActionMsg) -> ActionChunk:
    """Sizes are checked here; whether values are finite, fresh and in the right frame is for the door to say, which
    records what it refuses.

    Raises:
        ValueError: the sizes of ``deltas`` and ``gripper_closed`` do not agree or are 0.
    """
    length = len(msg.gripper_closed)
    if length == 0 or len(msg.deltas) != ACTION_SIZE * length:
        raise ValueError(
            f"action of policy {msg.policy_id!r}: {len(msg.deltas)} deltas for {length} gripper states; "
            f"must be {ACTION_SIZE} for each, at least one of each"
        )
    return ActionChunk(
        observation_stamp_ns=stamp_from_msg(msg.observation_stamp),
        policy_id=msg.policy_id,
        deltas=np.array(msg.deltas, dtype=np.float64).reshape(length, ACTION_SIZE),
        gripper_closed=np.array(msg.gripper_closed, dtype=np.bool_),
        period_s=msg.period_s,
        frame_id=msg.header.frame_id,
    )


def step_to_msg(step: Step, base_frame: str) -> StepMsg:
    return StepMsg(
        header=header(step.stamp_ns, base_frame),
        observation_stamp=stamp_to_msg(step.observation_stamp_ns),
        episode_id=step.episode_id,
        index=step.index,
        is_first=step.is_first,
        is_last=step.is_last,
        reward=float(step.reward),
        terminated=step.terminated,
        truncated=step.truncated,
        source=int(step.source),
        policy_id=step.policy_id,
        executed=np.asarray(step.executed.delta, dtype=np.float32),
        executed_gripper_closed=bool(step.executed.gripper_closed),
        policy_action=_asked(step.policy_action),
        policy_gripper_closed=step.policy_action is not None and bool(step.policy_action.gripper_closed),
        human_action=_asked(step.human_action),
        human_gripper_closed=step.human_action is not None and bool(step.human_action.gripper_closed),
        target=pose_to_msg(step.target),
        changed=int(step.changed),
        reason=step.reason,
        command_age_s=float(step.command_age_s),
    )


def _asked(action: Action | None) -> npt.NDArray[np.float32]:
    return _NO_ACTION if action is None else np.asarray(action.delta, dtype=np.float32)


def step_from_msg(msg: StepMsg) -> Step:
    """Raises:
    ValueError: a field is not finite (``policy_action`` and ``human_action`` may be all NaN) or the source is unknown.
    """
    executed = _action(msg.executed, msg.executed_gripper_closed)
    if executed is None:
        raise ValueError("step.executed: must be finite")
    return Step(
        stamp_ns=stamp_from_msg(msg.header.stamp),
        observation_stamp_ns=stamp_from_msg(msg.observation_stamp),
        source=Source(msg.source),
        executed=executed,
        target=pose_from_msg(msg.target, "step.target"),
        episode_id=msg.episode_id,
        index=msg.index,
        is_first=msg.is_first,
        is_last=msg.is_last,
        reward=msg.reward,
        terminated=msg.terminated,
        truncated=msg.truncated,
        policy_id=msg.policy_id,
        policy_action=_action(msg.policy_action, msg.policy_gripper_closed),
        human_action=_action(msg.human_action, msg.human_gripper_closed),
        changed=Change(msg.changed),
        reason=msg.reason,
        command_age_s=msg.command_age_s,
    )


def _action(delta: npt.NDArray[np.float32], gripper_closed: bool) -> Action | None:
    values = np.array(delta, dtype=np.float64)
    return Action(values, gripper_closed) if np.isfinite(values).all() else None


def episode_to_msg(episode: EpisodeStatus) -> EpisodeMsg:
    return EpisodeMsg(
        header=header(episode.stamp_ns),
        session_id=episode.session_id,
        episode_id=episode.episode_id,
        task=episode.task,
        scene=episode.scene,
        seed=episode.seed,
        instruction=episode.instruction,
        phase=int(episode.phase),
        outcome=str(episode.outcome),
        reason=episode.reason,
        reward=float(episode.reward),
        index=episode.index,
        reset_pose=pose_to_msg(episode.reset_pose),
        tare=wrench_to_msg(episode.tare),
    )


def episode_from_msg(msg: EpisodeMsg) -> EpisodeStatus:
    """Raises:
    ValueError: a field is not finite, or phase or outcome is unknown.
    """
    if not math.isfinite(msg.reward):
        raise ValueError(f"episode.reward: {msg.reward} must be finite")
    return EpisodeStatus(
        stamp_ns=stamp_from_msg(msg.header.stamp),
        session_id=msg.session_id,
        episode_id=msg.episode_id,
        task=msg.task,
        scene=msg.scene,
        seed=msg.seed,
        instruction=msg.instruction,
        phase=Phase(msg.phase),
        outcome=Outcome(msg.outcome),
        reason=msg.reason,
        reward=msg.reward,
        index=msg.index,
        reset_pose=pose_from_msg(msg.reset_pose, "episode.reset_pose"),
        tare=wrench_from_msg(msg.tare, "episode.tare"),
    )
