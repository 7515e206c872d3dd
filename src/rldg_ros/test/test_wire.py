"""Bytes that are packed here are what rclpy reads, and the other way round; wrong bytes are refused with one line."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, WrenchStamped
from rclpy.serialization import deserialize_message, serialize_message
from rldg_interfaces.msg import Action, Episode, Observation, Step
from sensor_msgs.msg import JointState

from rldg_ros import conversions as convert
from rldg_ros.wire import Layout

KINDS = [Action, Episode, JointState, Observation, PoseStamped, Step, WrenchStamped]


def _filled(kind: type[Any], text: str) -> Any:
    """A message whose every field differs from its default; ``text`` shifts what comes after it."""
    numbers = random.Random(1)

    def fill(message: Any) -> Any:
        for name, field in message.get_fields_and_field_types().items():
            value = getattr(message, name)
            if hasattr(value, "get_fields_and_field_types"):
                value = fill(value)
            elif field == "string":
                value = text
            elif field == "sequence<string>":
                value = ["a" + text, text]
            elif field == "sequence<uint8>":
                value = bytes(range(50))
            elif field == "sequence<boolean>":
                value = [True, False, True]
            elif field.startswith("sequence"):
                value = [0.5, -2.0, 8.0]
            elif "[" in field:
                value = [numbers.randrange(99) / 4 for _ in value]
            else:
                value = True if field == "boolean" else type(value)(numbers.randrange(1, 99))
            setattr(message, name, value)
        return message

    return fill(kind())


@pytest.mark.parametrize("text", [*("x" * n for n in range(9)), "größer 0"])
@pytest.mark.parametrize("kind", KINDS)
def test_rclpy_and_a_layout_read_each_other_at_every_alignment(kind: type[Any], text: str) -> None:
    message, layout = _filled(kind, text), Layout(kind)
    values = layout.unpack(serialize_message(message))
    assert deserialize_message(layout.pack(values), kind) == message


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_message_survives(kind: type[Any]) -> None:
    layout = Layout(kind)
    assert deserialize_message(layout.pack(layout.unpack(serialize_message(kind()))), kind) == kind()


def test_a_field_keeps_its_place() -> None:
    message = deserialize_message(convert.WRENCH.pack(np.arange(6.0), 7, "tcp"), WrenchStamped)
    assert (message.wrench.force.x, message.wrench.torque.z) == (0.0, 5.0)
    assert message.header.stamp.nanosec == 7 and message.header.frame_id == "tcp"
    step = Step(executed_gripper_closed=True)
    step.header.stamp.nanosec = 3
    assert convert.STEP_GRIPPER.unpack(serialize_message(step)) == (3, True)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_end_early_are_refused_wherever_they_end(kind: type[Any]) -> None:
    layout = Layout(kind)
    data = layout.pack(layout.unpack(serialize_message(_filled(kind, "text"))))
    for end in range(len(data)):
        with pytest.raises(ValueError, match=f"not a {kind.__name__}: [^\n]+$"):
            layout.unpack(data[:end])


def test_noise_is_refused_or_read_but_breaks_nothing() -> None:
    noise = random.Random(3)
    for kind in KINDS:
        layout, data = Layout(kind), serialize_message(_filled(kind, "text"))
        for _ in range(300):
            spoiled = bytearray(data)
            for _ in range(4):
                spoiled[noise.randrange(4, len(spoiled))] = noise.randrange(256)
            try:
                values = layout.unpack(bytes(spoiled))
            except ValueError as error:
                assert "\n" not in str(error)
            else:
                assert len(values) == len(layout.unpack(data))


def test_the_other_byte_order_is_read() -> None:
    numbers = struct.pack(">iI", 1, 5) + struct.pack(">I4s", 4, b"abc\0") + struct.pack(">7d", *range(7))
    values = Layout(PoseStamped).unpack(b"\0\0\0\0" + numbers)
    assert values == (1, 5, "abc", *map(float, range(7)))


def test_sequences_are_views_that_cannot_be_written_to() -> None:
    deltas = Layout(Action).unpack(serialize_message(Action(deltas=[1.0, 2.0])))[-2]
    assert np.array_equal(deltas, [1.0, 2.0]) and not deltas.flags.writeable


def test_a_type_without_a_flat_layout_is_refused() -> None:
    with pytest.raises(TypeError, match=r"DiagnosticArray\.status: sequence<.*has no flat layout"):
        Layout(DiagnosticArray)
