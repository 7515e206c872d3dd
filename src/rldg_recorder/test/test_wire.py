"""The heads of serialised messages are read as the middleware writes them, and nonsense is refused."""

import pytest
from rclpy.serialization import serialize_message
from rldg_interfaces.msg import Observation, Step
from std_msgs.msg import Header

from rldg_recorder.definitions import definition
from rldg_recorder.wire import begins_with_header, observation_head, stamp_of, step_head


def stamped(message: Step | Observation, sec: int = 7, nanosec: int = 5, frame_id: str = "fr3_link0") -> bytes:
    message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id = sec, nanosec, frame_id
    return bytes(serialize_message(message))


@pytest.mark.parametrize("frame_id", ["", "a", "ab", "abc", "fr3_link0"])
@pytest.mark.parametrize("policy_id", ["", "scripted", "policy 2"])
def test_the_head_of_a_step_is_what_the_middleware_wrote(frame_id: str, policy_id: str) -> None:
    step = Step(episode_id="s/0001", index=70_000, is_last=True, source=2, policy_id=policy_id, command_age_s=0.25)
    step.reward, step.terminated, step.reason = 1.0, True, "goal reached"
    step.observation_stamp.sec, step.observation_stamp.nanosec = 6, 999_999_999
    head = step_head(stamped(step, frame_id=frame_id))
    assert (head.stamp_ns, head.observation_stamp_ns) == (7_000_000_005, 6_999_999_999)
    assert (head.episode_id, head.index, head.is_first, head.is_last) == ("s/0001", 70_000, False, True)
    assert (head.source, head.policy_id, head.command_age_s) == (2, policy_id, 0.25)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 48])
def test_the_head_of_an_observation_is_what_the_middleware_wrote(size: int) -> None:
    observation = Observation(episode_id="s/0001", index=3, image_age_s=0.125, state_age_s=0.5, skew_s=0.25)
    observation.image.data = bytes(size)
    head = observation_head(stamped(observation))
    assert (head.stamp_ns, head.episode_id, head.index) == (7_000_000_005, "s/0001", 3)
    assert (head.image_age_s, head.state_age_s, head.skew_s) == (0.125, 0.5, 0.25)


def test_a_stamp_before_the_epoch_and_big_endian_bytes_are_read() -> None:
    header = Header()
    header.stamp.sec, header.stamp.nanosec = -1, 5
    data = bytes(serialize_message(header))
    assert stamp_of(data) == -999_999_995
    assert stamp_of(bytes([0, 0, 0, 0]) + data[4:8][::-1] + data[8:12][::-1] + data[12:]) == -999_999_995


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00\x01\x00\x00", b"\x00\x01\x00\x00" + b"\xff" * 8, b"\x07\x01" + bytes(30), bytes([0, 9] + [0] * 30)],
)
def test_bytes_without_a_valid_stamp_have_none(data: bytes) -> None:
    assert stamp_of(data) is None


def test_every_way_of_cutting_off_a_step_or_an_observation_is_refused_or_read_but_never_crashes() -> None:
    for read, data in ((step_head, stamped(Step(episode_id="s/1"))), (observation_head, stamped(Observation()))):
        for length in range(0, 30):
            with pytest.raises(ValueError, match=r"cut off|CDR header|a text of"):
                read(data[:length])


def test_a_text_that_claims_to_be_longer_than_the_message_is_refused() -> None:
    data = bytearray(stamped(Step(episode_id="s/1"), frame_id=""))
    data[12:16] = b"\xff\xff\xff\x7f"
    with pytest.raises(ValueError, match="a text of 2147483647 bytes"):
        step_head(bytes(data))


def test_types_with_and_without_a_header_are_told_apart() -> None:
    for name in ("rldg_interfaces/msg/Step", "rldg_interfaces/msg/Observation", "geometry_msgs/msg/PoseStamped"):
        assert begins_with_header(definition(name)), name
    for name in ("std_msgs/msg/Float64", "std_msgs/msg/UInt8", "std_msgs/msg/Header", "std_msgs/msg/Empty"):
        assert not begins_with_header(definition(name)), name
    assert not begins_with_header("int8 A=1 # std_msgs/Header header\nfloat64 x\nstd_msgs/Header header")
    assert begins_with_header("# first\n\nuint8 A=1\nstd_msgs/Header header  # then")
