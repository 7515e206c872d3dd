"""What is recorded of a cell: names, types, rates, and which of them an episode cannot do without."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rldg_core.task import Task

OBSERVATION_TYPE = "rldg_interfaces/msg/Observation"
STEP_TYPE = "rldg_interfaces/msg/Step"
EPISODE_TYPE = "rldg_interfaces/msg/Episode"

_STATE_HZ = 100.0
_CAMERA_HZ = 30.0
_SCENE_HZ = 10.0


@dataclass(frozen=True)
class TopicSpec:
    """One topic, as docs/architecture.md has it."""

    name: str  # relative to the cell's namespace
    type: str
    rate_hz: float | None = None  # at least; None: an event, or whatever its source likes
    critical: bool = False  # an episode that lost some of it cannot be trained on
    latched: bool = False  # the last message before the episode goes into its bag
    shared: bool = False  # several publishers are welcome
    large: bool = False  # carries an image


def catalogue(task: Task, lockstep: bool, cameras: bool = False) -> tuple[TopicSpec, ...]:
    """What is recorded unless other topics are named.

    Args:
        task: gives the control rate.
        lockstep: everything that has a rate then has the control rate, counted in simulated time.
        cameras: the cameras' own streams too; the images that a policy saw are in the observations anyway.
    """
    control_hz = task.control.rate_hz
    pose = "geometry_msgs/msg/PoseStamped"
    topics = [
        TopicSpec("observation", OBSERVATION_TYPE, control_hz, critical=True, large=True),
        TopicSpec("step", STEP_TYPE, control_hz, critical=True),
        TopicSpec("episode", EPISODE_TYPE, control_hz, critical=True, latched=True),
        TopicSpec("action", "rldg_interfaces/msg/Action", shared=True),
        TopicSpec("target_pose", pose, control_hz),
        TopicSpec("current_pose", pose, _STATE_HZ),
        TopicSpec("current_twist", "geometry_msgs/msg/TwistStamped", _STATE_HZ),
        TopicSpec("external_wrench", "geometry_msgs/msg/WrenchStamped", _STATE_HZ),
        TopicSpec("joint_states", "sensor_msgs/msg/JointState", _STATE_HZ),
        TopicSpec("gripper/joint_states", "sensor_msgs/msg/JointState", _STATE_HZ),
        TopicSpec("gripper/command", "std_msgs/msg/Float64", latched=True),
        TopicSpec("robot_mode", "std_msgs/msg/UInt8", latched=True),
        TopicSpec("policy_card", "std_msgs/msg/String", latched=True, shared=True),
        TopicSpec("event", "std_msgs/msg/String", latched=True, shared=True),
        # a device has its own rate, and the scripted operator that of the observations
        TopicSpec("spacenav/twist_stamped", "geometry_msgs/msg/TwistStamped", control_hz),
        TopicSpec("spacenav/joy", "sensor_msgs/msg/Joy", control_hz),
        TopicSpec("console/twist_stamped", "geometry_msgs/msg/TwistStamped"),  # while somebody holds a key
        TopicSpec("console/joy", "sensor_msgs/msg/Joy"),
        TopicSpec("fixture_pose", pose),
        TopicSpec("object_pose", pose),
    ]
    if cameras:
        image = "sensor_msgs/msg/Image"
        topics.append(TopicSpec("wrist/color/image_raw", image, _CAMERA_HZ, large=True))
        topics.append(TopicSpec("wrist/color/camera_info", "sensor_msgs/msg/CameraInfo", _CAMERA_HZ))
        topics.append(TopicSpec("scene/color/image_raw", image, None if lockstep else _SCENE_HZ, large=True))
    if lockstep:
        topics = [replace(topic, rate_hz=control_hz if topic.rate_hz else None) for topic in topics]
    return tuple(topics)


def find_spec(specs: Iterable[TopicSpec], name: str) -> TopicSpec | None:
    """The entry for an absolute topic name, whatever the cell's namespace; the longest match counts."""
    matches = [spec for spec in specs if f"/{name}".endswith(f"/{spec.name}")]
    return max(matches, key=lambda spec: len(spec.name), default=None)
