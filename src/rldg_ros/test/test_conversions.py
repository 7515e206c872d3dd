"""Messages carry every field of the records, and bad messages are refused with one line."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message

from rldg_core.door import Door
from rldg_core.frames import Pose
from rldg_core.task import load_task
from rldg_core.types import Action, ActionChunk, Change, EpisodeStatus, Observation, Outcome, Phase, Source, Step
from rldg_ros import conversions as convert

POSE = Pose.from_rpy((0.5, -0.25, 0.125), (3.0, 0.1, -0.4))
SIX = np.array([0.5, -0.25, 0.125, 1.0, -1.0, 0.75])
OBSERVATION = Observation(
    stamp_ns=12_345_678_901,
    image=np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8),
    tcp_pose=POSE,
    tcp_twist=SIX,
    wrench=SIX * 3,
    gripper_width_m=0.0625,
    gripper_closed=True,
    instruction="insert",
    episode_id="s/0001",
    index=7,
    reset_pose=POSE.inverse(),
    image_age_s=0.03125,
    state_age_s=0.0078125,
    skew_s=0.25,
)
CHUNK = ActionChunk(5, "p", np.stack([SIX, -SIX]), np.array([True, False]), 0.125, "tcp")
STEP = Step(
    stamp_ns=3,
    observation_stamp_ns=2,
    source=Source.HUMAN,
    executed=Action(SIX, True),
    target=POSE,
    episode_id="s/0001",
    index=4,
    is_first=True,
    is_last=True,
    reward=1.0,
    terminated=True,
    truncated=True,
    policy_id="p",
    policy_action=None,
    human_action=Action(-SIX, False),
    changed=Change.SPEED | Change.CLIPPED,
    reason="why",
    command_age_s=0.5,
)
EPISODE = EpisodeStatus(9, "s", "s/0001", "t", "seen", 3, "do", Phase.ENDED, Outcome.TIMEOUT, "late", 1.0, 8, POSE, SIX)


def _same(a: object, b: object) -> bool:
    if isinstance(a, Pose):
        return np.allclose(a.position, b.position, atol=1e-15) and np.allclose(a.quaternion, b.quaternion, atol=1e-15)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if is_dataclass(a):
        return all(_same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return a == b


def _wire(message: object) -> object:
    return deserialize_message(serialize_message(message), type(message))


def test_an_observation_survives_the_wire() -> None:
    message = _wire(convert.observation_to_msg(OBSERVATION, "base", "camera"))
    assert message.header.frame_id == "base" and message.image.header.frame_id == "camera"
    assert _same(convert.observation_from_msg(message), OBSERVATION)


def test_a_chunk_survives_the_wire() -> None:
    assert _same(convert.chunk_from_msg(_wire(convert.chunk_to_msg(CHUNK, 99))), CHUNK)


def test_a_step_survives_the_wire() -> None:
    assert _same(convert.step_from_msg(_wire(convert.step_to_msg(STEP, "base"))), STEP)


def test_an_episode_survives_the_wire() -> None:
    assert _same(convert.episode_from_msg(_wire(convert.episode_to_msg(EPISODE))), EPISODE)


@pytest.mark.parametrize("stamp_ns", [0, 1, 999_999_999, 1_000_000_000, 1_795_411_000_146_119_903])
def test_stamps_are_exact(stamp_ns: int) -> None:
    assert convert.stamp_from_msg(convert.stamp_to_msg(stamp_ns)) == stamp_ns


def test_blue_first_images_and_padded_rows_are_read() -> None:
    image = OBSERVATION.image[:20]
    message = convert.image_to_msg(np.ascontiguousarray(image[:, :, ::-1]), 0, "camera")
    message.encoding = "bgr8"
    assert np.array_equal(convert.image_from_msg(message), image)
    padded = np.zeros((20, 200), dtype=np.uint8)
    padded[:, :192] = image.reshape(20, 192)
    message = convert.image_to_msg(image, 0, "camera")
    message.step, message.data = 200, padded.tobytes()
    assert np.array_equal(convert.image_from_msg(message), image)


def test_the_image_of_an_observation_cannot_be_written_to() -> None:
    observation = convert.observation_from_msg(_wire(convert.observation_to_msg(OBSERVATION, "base", "camera")))
    with pytest.raises(ValueError, match="read-only"):
        observation.image[0, 0, 0] = 1


def _bad_observation(change: str) -> object:
    message = convert.observation_to_msg(OBSERVATION, "base", "camera")
    if change == "nan pose":
        message.tcp_pose.position.x = float("nan")
    elif change == "no rotation":
        message.tcp_pose.orientation.w = message.tcp_pose.orientation.x = 0.0
        message.tcp_pose.orientation.y = message.tcp_pose.orientation.z = 0.0
    elif change == "nan quaternion":
        message.reset_pose.orientation.w = float("nan")
    elif change == "inf twist":
        message.tcp_twist.angular.z = float("inf")
    elif change == "nan wrench":
        message.wrench.force.y = float("nan")
    elif change == "short image":
        message.image.data = message.image.data[:-1]
    elif change == "encoding":
        message.image.encoding = "16UC1"
    elif change == "not square":
        message = convert.observation_to_msg(replace(OBSERVATION, image=OBSERVATION.image[:32]), "base", "camera")
    elif change == "nan width":
        message.gripper_width_m = float("nan")
    return message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("nan pose", r"tcp_pose.position: \(nan"),
        ("no rotation", "tcp_pose.orientation: length 0"),
        ("nan quaternion", "reset_pose.orientation"),
        ("inf twist", "tcp_twist.*finite"),
        ("nan wrench", "wrench.*finite"),
        ("short image", "12287 bytes for height 64"),
        ("encoding", "'16UC1', must be rgb8 or bgr8"),
        ("not square", "64 x 32, must be square"),
        ("nan width", "gripper_width_m nan"),
    ],
)
def test_a_bad_observation_is_refused_by_name(change: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as refusal:
        convert.observation_from_msg(_bad_observation(change))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("deltas", "states"), [(6, 0), (0, 0), (5, 1), (7, 1), (6, 2)])
def test_a_chunk_whose_sizes_disagree_reaches_the_door_which_records_the_refusal(deltas: int, states: int) -> None:
    message = convert.chunk_to_msg(CHUNK, 0)
    message.deltas, message.gripper_closed = [0.0] * deltas, [False] * states
    assert Door(load_task("usb_insertion"), CHUNK.frame_id).offer(convert.chunk_from_msg(message))


def test_a_chunk_with_nan_reaches_the_door_which_records_the_refusal() -> None:
    message = convert.chunk_to_msg(replace(CHUNK, deltas=np.full((2, 6), np.nan)), 0)
    assert np.isnan(convert.chunk_from_msg(message).deltas).all()


def test_unknown_phases_outcomes_and_sources_are_refused() -> None:
    episode, step = convert.episode_to_msg(EPISODE), convert.step_to_msg(STEP, "base")
    episode.phase = 9
    with pytest.raises(ValueError, match="9 is not a valid Phase"):
        convert.episode_from_msg(episode)
    episode.phase, episode.outcome = 1, "maybe"
    with pytest.raises(ValueError, match="'maybe' is not a valid Outcome"):
        convert.episode_from_msg(episode)
    step.source = 77
    with pytest.raises(ValueError, match="77 is not a valid Source"):
        convert.step_from_msg(step)


def test_joints_survive_the_wire_and_come_in_the_order_asked_for() -> None:
    joints = convert.Joints(["b", "a"], np.array([0.1, 0.2]), np.array([1.0, 2.0]))
    sample = convert.JOINTS.unpack(convert.JOINTS.pack(joints, [3.0, 4.0], 7, "base"))
    assert (sample.stamp_ns, sample.frame_id) == (7, "base")
    ordered = sample.value.in_order(["a", "b"])
    assert ordered.position.tolist() == [0.2, 0.1]
    assert ordered.velocity.tolist() == [2.0, 1.0]
    with pytest.raises(ValueError, match="joints: c missing; there are b, a"):
        sample.value.in_order(["a", "c"])


def test_joints_without_velocities_are_refused() -> None:
    joints = convert.Joints(["a", "b"], np.array([0.1, 0.2]), np.array([]))
    with pytest.raises(ValueError, match="2 names, 2 positions, 0 velocities"):
        convert.JOINTS.unpack(convert.JOINTS.pack(joints, [], 7, "base"))
