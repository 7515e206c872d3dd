"""Messages to and from the records of :mod:`rldg_core.types`.

Each type that travels at the control rate has a :class:`~rldg_ros.wire.Codec`: ``pack`` gives what a publisher sends,
``unpack`` reads what a raw subscription receives; ``..._to_msg``, ``..._from_msg`` do the same with message objects.
Reading validates: a wrong size, a value that is not finite or an unknown enumeration value raises ``ValueError`` with
one line that names the field. Images are never walked element by element: written as ``bytes``, read as a view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time as TimeMsg
from geometry_msgs.msg import Point, Quaternion, Vector3
from geometry_msgs.msg import Pose as PoseMsg
from geometry_msgs.msg import PoseStamped as PoseStampedMsg
from geometry_msgs.msg import Twist as TwistMsg
from geometry_msgs.msg import TwistStamped as TwistStampedMsg
from geometry_msgs.msg import WrenchStamped as WrenchStampedMsg
from rldg_interfaces.msg import Action as ActionMsg
from rldg_interfaces.msg import Episode as EpisodeMsg
from rldg_interfaces.msg import Observation as ObservationMsg
from rldg_interfaces.msg import Step as StepMsg
from sensor_msgs.msg import Image as ImageMsg
from sensor_msgs.msg import JointState as JointStateMsg
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
from rldg_ros.wire import Codec, Values

_T = TypeVar("_T")


class Stamped(NamedTuple, Generic[_T]):
    """What a measured stream says."""

    stamp_ns: int
    frame_id: str
    value: _T


class Joints(NamedTuple):
    """Joints by name: positions (rad) and velocities (rad/s)."""

    names: Sequence[str]
    position: Array
    velocity: Array

    def in_order(self, names: Sequence[str]) -> Joints:
        """The joints called ``names``, in that order. Raises ValueError where one is missing."""
        if list(names) == list(self.names):
            return self
        missing = [name for name in names if name not in self.names]
        if missing:
            raise ValueError(f"joints: {', '.join(missing)} missing; there are {', '.join(self.names) or 'none'}")
        places = [self.names.index(name) for name in names]
        return Joints(names, self.position[places], self.velocity[places])


_NS = 1_000_000_000
_UNIT_TOLERANCE = 0.01  # a quaternion further from unit length is a fault of the sender, not rounding
_NO_ACTION = (math.nan,) * ACTION_SIZE


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
    return _pose((p.x, p.y, p.z, q.x, q.y, q.z, q.w), name)


def twist_to_msg(twist: Array) -> TwistMsg:
    """From shape (6,): linear (m/s), angular (rad/s)."""
    vx, vy, vz, wx, wy, wz = twist.tolist()
    return TwistMsg(linear=Vector3(x=vx, y=vy, z=vz), angular=Vector3(x=wx, y=wy, z=wz))


# numbers in the order of the definitions


def _pose(values: Values, name: str) -> Pose:
    x, y, z, qx, qy, qz, qw = values
    norm = math.sqrt(qx * qx + qy * qy + qz * qz + qw * qw)
    if not abs(norm - 1.0) <= _UNIT_TOLERANCE:
        raise ValueError(f"{name}.orientation: length {norm:.4g}, must be 1; send a unit quaternion x y z w")
    if not math.isfinite(x + y + z):
        raise ValueError(f"{name}.position: ({x}, {y}, {z}) must be finite (m)")
    return Pose(np.array(values[:3]), np.array(values[3:]))


def _six(values: Values, name: str) -> Array:
    """Twist or wrench: linear (m/s) or force (N), then angular (rad/s) or torque (N m)."""
    if not math.isfinite(sum(values)):
        raise ValueError(f"{name}: {values[:3]}, {values[3:]} must be finite")
    return np.array(values)


def _image(values: Values, name: str) -> npt.NDArray[np.uint8]:
    height, width, encoding, _, step, data = values
    if encoding not in ("rgb8", "bgr8"):
        raise ValueError(f"{name}.encoding: {encoding!r}, must be rgb8 or bgr8; set the camera's colour format")
    if height == 0 or width == 0 or step < 3 * width or len(data) != height * step:
        raise ValueError(
            f"{name}: {len(data)} bytes for height {height}, width {width}, step {step}; "
            "must be height x step, step >= 3 x width"
        )
    view = np.frombuffer(data, np.uint8).reshape(height, step)[:, : 3 * width].reshape(height, width, 3)
    if encoding == "bgr8":
        view = view[:, :, ::-1]
    view.setflags(write=False)
    return view


def _image_values(image: npt.NDArray[np.uint8], stamp_ns: int, frame_id: str) -> Values:
    height, width, _ = image.shape
    return (*divmod(stamp_ns, _NS), frame_id, height, width, "rgb8", 0, 3 * width, image.tobytes())


def _pose_values(pose: Pose) -> Values:
    return (*pose.position.tolist(), *pose.quaternion.tolist())


# streams


def _joints(values: Values) -> Joints:
    names, position, velocity = values
    if not len(names) == len(position) == len(velocity):
        raise ValueError(
            f"joints: {len(names)} names, {len(position)} positions, {len(velocity)} velocities: not alike"
        )
    return Joints(names, position, velocity)


def _stamped_six(values: Values) -> Stamped[Array]:
    sec, nanosec, frame_id, *rest = values
    return Stamped(sec * _NS + nanosec, frame_id, _six(tuple(rest), "value"))


def _stamped_six_values(value: Array, stamp_ns: int, frame_id: str) -> Values:
    return (*divmod(stamp_ns, _NS), frame_id, *value.tolist())


POSE = Codec(
    PoseStampedMsg,
    lambda pose, stamp_ns, frame_id: (*divmod(stamp_ns, _NS), frame_id, *_pose_values(pose)),
    lambda values: Stamped(values[0] * _NS + values[1], values[2], _pose(values[3:], "pose")),
)
TWIST = Codec(TwistStampedMsg, _stamped_six_values, _stamped_six)
WRENCH = Codec(WrenchStampedMsg, _stamped_six_values, _stamped_six)
# positions only: opening of a gripper, one entry or one for each finger (m)
GRIPPER = Codec(
    JointStateMsg,
    lambda name, width_m, stamp_ns, frame_id: (*divmod(stamp_ns, _NS), frame_id, [name], [width_m], (), ()),
    lambda values: Stamped(values[0] * _NS + values[1], values[2], values[4].tolist()),
)
JOINTS = Codec(
    JointStateMsg,
    lambda joints, effort_nm, stamp_ns, frame_id: (*divmod(stamp_ns, _NS), frame_id, *joints, effort_nm),
    lambda values: Stamped(values[0] * _NS + values[1], values[2], _joints(values[3:6])),
)
IMAGE = Codec(
    ImageMsg,
    _image_values,
    lambda values: Stamped(values[0] * _NS + values[1], values[2], _image(values[3:], "image")),
)


# the one stream


def _observation_values(observation: Observation, base_frame: str, camera_frame: str) -> Values:
    return (
        *divmod(observation.stamp_ns, _NS),
        base_frame,
        observation.episode_id,
        observation.index,
        observation.instruction,
        *_image_values(observation.image, observation.stamp_ns, camera_frame),
        *_pose_values(observation.tcp_pose),
        *_pose_values(observation.reset_pose),
        *observation.tcp_twist.tolist(),
        *observation.wrench.tolist(),
        observation.gripper_width_m,
        observation.gripper_closed,
        observation.image_age_s,
        observation.state_age_s,
        observation.skew_s,
    )


def _observation(values: Values) -> Observation:
    image = _image(values[9:15], "observation.image")
    if image.shape[0] != image.shape[1]:
        raise ValueError(f"observation.image: {image.shape[1]} x {image.shape[0]}, must be square")
    gripper_width_m, gripper_closed, image_age_s, state_age_s, skew_s = values[41:]
    if not math.isfinite(gripper_width_m + image_age_s + state_age_s + skew_s):
        raise ValueError(
            f"observation: gripper_width_m {gripper_width_m}, image_age_s {image_age_s}, "
            f"state_age_s {state_age_s}, skew_s {skew_s} must be finite"
        )
    return Observation(
        stamp_ns=values[0] * _NS + values[1],
        image=image,
        tcp_pose=_pose(values[15:22], "observation.tcp_pose"),
        tcp_twist=_six(values[29:35], "observation.tcp_twist"),
        wrench=_six(values[35:41], "observation.wrench"),
        gripper_width_m=gripper_width_m,
        gripper_closed=gripper_closed,
        instruction=values[5],
        episode_id=values[3],
        index=values[4],
        reset_pose=_pose(values[22:29], "observation.reset_pose"),
        image_age_s=image_age_s,
        state_age_s=state_age_s,
        skew_s=skew_s,
    )


def _chunk_values(chunk: ActionChunk, stamp_ns: int) -> Values:
    """``stamp_ns``: when inference finished."""
    return (
        *divmod(stamp_ns, _NS),
        chunk.frame_id,
        *divmod(chunk.observation_stamp_ns, _NS),
        chunk.policy_id,
        chunk.period_s,
        chunk.deltas,
        chunk.gripper_closed,
    )


def _chunk(values: Values) -> ActionChunk:
    """As it came: whether sizes fit, values are finite, fresh and in the right frame is for the door to say, which
    records what it refuses. Deltas that are no whole number of actions stay a single row.
    """
    _, _, frame_id, sec, nanosec, policy_id, period_s, deltas, gripper_closed = values
    rows = np.array(deltas, dtype=np.float64)
    return ActionChunk(
        observation_stamp_ns=sec * _NS + nanosec,
        policy_id=policy_id,
        deltas=rows.reshape(-1, ACTION_SIZE) if len(rows) % ACTION_SIZE == 0 else rows[None],
        gripper_closed=np.array(gripper_closed, dtype=np.bool_),
        period_s=period_s,
        frame_id=frame_id,
    )


def _step_values(step: Step, base_frame: str) -> Values:
    policy, human = step.policy_action, step.human_action
    return (
        *divmod(step.stamp_ns, _NS),
        base_frame,
        *divmod(step.observation_stamp_ns, _NS),
        step.episode_id,
        step.index,
        step.is_first,
        step.is_last,
        step.reward,
        step.terminated,
        step.truncated,
        int(step.source),
        step.policy_id,
        *step.executed.delta.tolist(),
        step.executed.gripper_closed,
        *(_NO_ACTION if policy is None else policy.delta.tolist()),
        policy is not None and policy.gripper_closed,
        *(_NO_ACTION if human is None else human.delta.tolist()),
        human is not None and human.gripper_closed,
        *_pose_values(step.target),
        int(step.changed),
        step.reason,
        step.command_age_s,
    )


def _step(values: Values) -> Step:
    executed = _action(values[14:21])
    if executed is None:
        raise ValueError("step.executed: must be finite")
    return Step(
        stamp_ns=values[0] * _NS + values[1],
        observation_stamp_ns=values[3] * _NS + values[4],
        source=Source(values[12]),
        executed=executed,
        target=_pose(values[35:42], "step.target"),
        episode_id=values[5],
        index=values[6],
        is_first=values[7],
        is_last=values[8],
        reward=values[9],
        terminated=values[10],
        truncated=values[11],
        policy_id=values[13],
        policy_action=_action(values[21:28]),
        human_action=_action(values[28:35]),
        changed=Change(values[42]),
        reason=values[43],
        command_age_s=values[44],
    )


def _action(values: Values) -> Action | None:
    delta = np.array(values[:ACTION_SIZE])
    return Action(delta, values[ACTION_SIZE]) if np.isfinite(delta).all() else None


def _episode_values(episode: EpisodeStatus) -> Values:
    return (
        *divmod(episode.stamp_ns, _NS),
        "",
        episode.session_id,
        episode.episode_id,
        episode.task,
        episode.scene,
        episode.seed,
        episode.instruction,
        int(episode.phase),
        str(episode.outcome),
        episode.reason,
        episode.reward,
        episode.index,
        *_pose_values(episode.reset_pose),
        *episode.tare.tolist(),
    )


def _episode(values: Values) -> EpisodeStatus:
    sec, nanosec, _, session_id, episode_id, task, scene, seed, instruction, phase, outcome, reason = values[:12]
    reward = values[12]
    if not math.isfinite(reward):
        raise ValueError(f"episode.reward: {reward} must be finite")
    return EpisodeStatus(
        stamp_ns=sec * _NS + nanosec,
        session_id=session_id,
        episode_id=episode_id,
        task=task,
        scene=scene,
        seed=seed,
        instruction=instruction,
        phase=Phase(phase),
        outcome=Outcome(outcome),
        reason=reason,
        reward=reward,
        index=values[13],
        reset_pose=_pose(values[14:21], "episode.reset_pose"),
        tare=_six(values[21:], "episode.tare"),
    )


OBSERVATION = Codec(ObservationMsg, _observation_values, _observation)
ACTION = Codec(ActionMsg, _chunk_values, _chunk)
STEP = Codec(StepMsg, _step_values, _step)
# stamp and the gripper state that was executed, for those who need no more
STEP_GRIPPER = Codec(StepMsg, _step_values, lambda values: (values[0] * _NS + values[1], bool(values[20])))
EPISODE = Codec(EpisodeMsg, _episode_values, _episode)

stamped_pose_to_msg = POSE.to_msg
image_to_msg = IMAGE.to_msg
observation_to_msg, observation_from_msg = OBSERVATION.to_msg, OBSERVATION.from_msg
chunk_to_msg, chunk_from_msg = ACTION.to_msg, ACTION.from_msg
step_to_msg, step_from_msg = STEP.to_msg, STEP.from_msg
episode_to_msg, episode_from_msg = EPISODE.to_msg, EPISODE.from_msg


def image_from_msg(msg: ImageMsg) -> npt.NDArray[np.uint8]:
    """To RGB of shape (height, width, 3), read-only.

    Raises:
        ValueError: the encoding is neither rgb8 nor bgr8, or the data does not have the size the message claims.
    """
    return IMAGE.from_msg(msg).value
