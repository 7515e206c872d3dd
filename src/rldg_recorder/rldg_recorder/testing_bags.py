"""Makers of bags for tests: the messages of an episode as the cell publishes them, serialised without ROS."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from rldg_core.testing import TICK_NS
from rldg_core.types import Outcome, Phase, Source
from rldg_recorder.bag_writer import BagWriter, Topic
from rldg_recorder.definitions import definition, type_hash

TYPES = {
    "/episode": "rldg_interfaces/msg/Episode",
    "/observation": "rldg_interfaces/msg/Observation",
    "/step": "rldg_interfaces/msg/Step",
    "/current_pose": "geometry_msgs/msg/PoseStamped",
}
QOS = """- history: keep_last
  depth: 10
  reliability: reliable
  durability: volatile
  deadline: {sec: 9223372036, nsec: 854775807}
  lifespan: {sec: 9223372036, nsec: 854775807}
  liveliness: automatic
  liveliness_lease_duration: {sec: 9223372036, nsec: 854775807}
  avoid_ros_namespace_conventions: false
"""
IMAGE_PX = 128
POSE = {"orientation": {"w": 1.0}}
STATE_NS = 1_000_000  # period of /current_pose


class Item(NamedTuple):
    """One message of a stream."""

    topic: str
    data: bytes
    stamp_ns: int
    sequence: int


def topic(name: str) -> Topic:
    """One of the topics of TYPES."""
    return Topic(name, TYPES[name], definition(TYPES[name]), type_hash(TYPES[name]), QOS)


@functools.cache
def store() -> Any:
    """The types of TYPES in a typestore of rosbags."""
    made = get_typestore(Stores.EMPTY)
    for name in TYPES.values():
        # types that several definitions nest may be registered once only
        new = {kind: fields for kind, fields in get_types_from_msg(definition(name), name).items()}
        made.register({kind: fields for kind, fields in new.items() if kind not in made.types})
    return made


def serialise(type_name: str, **fields: object) -> bytes:
    """A message in CDR; fields that are not given are zero, empty or false, nested ones are given as dicts."""
    return bytes(store().serialize_cdr(make(type_name, **fields), type_name))


def make(type_name: str, **fields: object) -> Any:
    """A message as an object; see :func:`serialise`."""
    values = {}
    for name, (kind, detail) in store().fielddefs[type_name][1]:
        given = fields.pop(name, None)
        if kind.name == "NAME":
            values[name] = make(detail, **(given or {}))  # type: ignore[arg-type]
        elif kind.name == "BASE":
            values[name] = given if given is not None else "" if detail[0] == "string" else 0
        else:
            length = detail[1] if kind.name == "ARRAY" else 0
            element = detail[0][1][0]
            values[name] = given if given is not None else np.zeros(length, np.dtype(element))
    if fields:
        raise TypeError(f"{type_name} has no field {min(fields)}")
    return store().types[type_name](**values)


def header(stamp_ns: int) -> dict[str, object]:
    sec, nanosec = divmod(stamp_ns, 10**9)
    return {"stamp": {"sec": sec, "nanosec": nanosec}, "frame_id": "fr3_link0"}


def episode_items(
    episode_id: str = "s/0001", ticks: int = 20, ended: bool = True, begin_ns: int = 10**9, task: str = "usb_insertion"
) -> Iterator[Item]:
    """An episode at 10 Hz with its state at 1 kHz, in the order of its stamps; a human drives every third tick."""
    sequence = dict.fromkeys(TYPES, 0)

    def item(name: str, stamp_ns: int, **fields: object) -> Item:
        sequence[name] += 1
        return Item(name, serialise(TYPES[name], header=header(stamp_ns), **fields), stamp_ns, sequence[name])

    image = np.arange(IMAGE_PX * IMAGE_PX * 3, dtype=np.uint32).astype(np.uint8)
    for tick in range(ticks):
        stamp_ns = begin_ns + tick * TICK_NS
        last = ended and tick == ticks - 1
        picture = {
            "height": IMAGE_PX,
            "width": IMAGE_PX,
            "encoding": "rgb8",
            "step": IMAGE_PX * 3,
            "data": image + np.uint8(tick % 256),
        }
        names = {"episode_id": episode_id, "index": tick}
        yield item(
            "/observation",
            stamp_ns,
            **names,
            instruction="insert",
            image={"header": header(stamp_ns), **picture},
            tcp_pose=POSE,
            reset_pose=POSE,
        )
        yield item(
            "/episode",
            stamp_ns,
            **names,
            session_id=episode_id.partition("/")[0],
            task=task,
            scene="seen",
            seed=7,
            instruction="insert",
            phase=int(Phase.ENDED if last else Phase.RUNNING),
            outcome=Outcome.SUCCESS.value if last else Outcome.NONE.value,
            reason="goal reached" if last else "",
        )
        human = tick % 3 == 0
        yield item(
            "/step",
            stamp_ns,
            **names,
            observation_stamp=header(stamp_ns)["stamp"],
            is_first=tick == 0,
            is_last=last,
            terminated=last,
            source=int(Source.HUMAN if human else Source.POLICY),
            policy_id="" if human else "scripted",
            target=POSE,
        )
        for state in range(TICK_NS // STATE_NS):
            yield item("/current_pose", stamp_ns + state * STATE_NS)


def write_items(writer: BagWriter, items: Iterator[Item], flush_ns: int = 250_000_000) -> int:
    """Write a stream as the recorder does, with a flush each quarter of a second of its stamps; returns how many."""
    numbers = {name: writer.add_topic(topic(name)) for name in TYPES}
    count, flushed_ns = 0, 0
    for name, data, stamp_ns, sequence in items:
        writer.write(numbers[name], data, stamp_ns + 1000, stamp_ns, sequence)
        count += 1
        if stamp_ns - flushed_ns >= flush_ns:
            writer.flush()
            flushed_ns = stamp_ns
    return count


def write_bag(folder: Path, items: Iterator[Item]) -> int:
    """Write and close a bag; returns the number of its messages."""
    from rldg_recorder.bag_writer import open_writer

    writer = open_writer(folder, "mcap")
    count = write_items(writer, items)
    writer.close()
    return count
