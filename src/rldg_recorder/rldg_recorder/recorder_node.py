"""The recorder: one bag for each episode, with everything that was said on its topics."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import rclpy
from rclpy.duration import Infinite
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rldg_interfaces.msg import Episode
from std_msgs.msg import String

from rldg_recorder.bag_writer import Topic
from rldg_recorder.definitions import definition, type_hash
from rldg_recorder.recording import Message, Recording
from rldg_recorder.topics import TopicSpec, catalogue
from rldg_recorder.writing import BagThread, Settings
from rldg_ros import conversions as convert
from rldg_ros.base import ERROR, OK, WARN, BaseNode
from rldg_ros.main import run

# deep, so that nothing is dropped while the executor is busy elsewhere: seconds of the fastest stream
_DEPTH, _DEPTH_LARGE = 2000, 300
_STORAGES = ("auto", "mcap", "rosbag2")
_MB = 1 << 20


class RecorderNode(BaseNode):
    """Hands serialised messages to :class:`Recording`, which decides, and that to a thread, which writes.

    Nothing here waits for a disk. What goes wrong there costs the bag of the episode, is said on ``/diagnostics``, and
    the next episode is tried again.
    """

    def __init__(self, **kwargs: object) -> None:
        super().__init__("recorder", **kwargs)
        self._bags = self.declare("bags", "bags", "Folder for bags; each is <session>/<number> in it.")
        self._names = self.declare(
            "topics", [""], "Topics to record beside observation, step and episode; empty for all the project knows."
        )
        self._cameras = self.declare("cameras", False, "Record the cameras' own streams too.")
        self._operator = self.declare("operator", "", "Who demonstrates and intervenes, for episode.yaml.")
        self._storage = self.declare(
            "storage", "auto", "How bags are written: rosbag2, mcap, or auto for rosbag2 where it is installed."
        )
        self._pre_roll_s = self.declare(
            "pre_roll_s", 0.5, "How much of the time before an episode is recorded (s).", low=0.0, high=10.0
        )
        self._max_queue_mb = self.declare(
            "max_queue_mb", 256, "Messages that may wait for the disk; more are dropped (MB).", low=1, high=100_000
        )
        self._min_free_mb = self.declare(
            "min_free_mb", 500, "Free space below which nothing is recorded (MB).", low=0, high=1_000_000
        )
        self._thread: BagThread | None = None

    def on_setup(self) -> None:
        if self._storage not in _STORAGES:
            raise ValueError(f"parameter storage: {self._storage!r}, must be {', '.join(_STORAGES)}")
        settings = Settings(
            folder=Path(self._bags).expanduser().absolute(),
            task=self.task,
            robot=self.robot,
            lockstep=self.lockstep,
            operator=self._operator,
            storage=self._storage,
            max_queue_bytes=self._max_queue_mb * _MB,
            min_free_bytes=self._min_free_mb * _MB,
            software=_software(),
        )
        known = catalogue(self.task, self.lockstep, cameras=True)
        wanted = {self.resolve_topic_name(name) for name in self._names if name}
        specs = {self.resolve_topic_name(spec.name): spec for spec in known}
        if not wanted:
            wanted = {self.resolve_topic_name(spec.name) for spec in catalogue(self.task, self.lockstep, self._cameras)}
        wanted |= {name for name, spec in specs.items() if spec.critical}
        self._specs: dict[str, TopicSpec] = {name: spec for name, spec in specs.items() if name in wanted}
        self._unknown = wanted - self._specs.keys()  # of a type that is not known before somebody publishes it
        self._episode_topic = self.resolve_topic_name("episode")
        self._card_topic = self.resolve_topic_name("policy_card")
        self._cycle_ns = 0  # stamp of the newest verdict
        self._in_trouble: set[str] = set()  # topics the audit finds fault with
        self._qos: dict[str, str] = {}  # offered, as rosbag2 writes it
        self._latched = {name for name, spec in self._specs.items() if spec.latched}
        self._thread = BagThread(settings)
        step_topic = self.resolve_topic_name("step")
        self._recording = Recording(self._thread, step_topic, self._latched, self._pre_roll_s)
        self._listeners: dict[str, Subscription[Any]] = {}
        for name, spec in self._specs.items():
            self._subscribe(name, spec.type, reliable=True, latched=spec.latched)
        self._look_at_graph()

    def on_stop(self) -> None:
        self._recording.stop("the recorder was deactivated")
        self._say_closed()

    def on_teardown(self) -> None:
        if self._thread is None:
            return
        if not self._thread.stop():
            self.get_logger().error("the disk does not answer; the bag is left to ./rldg bag salvage")
        self._say_closed()
        self._thread = None

    def on_pulse(self) -> None:
        assert self._thread is not None
        self._recording.poll(time.monotonic())
        self._say_closed()
        self._report()

    def on_diagnose(self) -> None:
        self._look_at_graph()

    # what comes in

    def _subscribe(self, name: str, kind: str, *, reliable: bool, latched: bool) -> None:
        """(Again) with this quality of service."""
        assert self._thread is not None
        spec = self._specs.get(name)
        package, _, message = kind.split("/")
        try:
            topic = Topic(name, kind, definition(kind), type_hash(kind), self._qos.get(name, ""))
            message_type = getattr(import_module(f"{package}.msg"), message)
        except (LookupError, ImportError, AttributeError) as error:
            raise ValueError(f"topic {name}: its type {kind} is not installed: {error}") from None
        self._thread.know(topic, spec)
        profile = QoSProfile(
            depth=_DEPTH_LARGE if spec is not None and spec.large else _DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        if name in self._listeners:
            self.destroy_subscription(self._listeners[name])
        special = {self._episode_topic: self._on_episode, self._card_topic: self._on_card}
        handler = _WithInfo(partial(self._on_message, name, special.get(name)))
        self._listeners[name] = self.create_subscription(message_type, name, handler, profile, raw=True)

    def _on_message(
        self, name: str, special: Callable[[Message], None] | None, data: bytes, info: dict[str, Any]
    ) -> None:
        now_ns = time.time_ns()
        gid = info.get("publisher_gid")  # this and the count are not known to every ROS 2
        message = Message(
            name,
            data,
            max(0, info.get("received_timestamp") or now_ns),
            max(0, info.get("source_timestamp") or now_ns),
            info.get("publication_sequence_number") or 0,
            gid["data"] if isinstance(gid, dict) else b"",
        )
        if special is not None:
            special(message)
        elif self.active:
            self._recording.arrive(message, self._clock_ns(message), time.monotonic())
        else:
            self._recording.remember(message)

    def _clock_ns(self, message: Message) -> int:
        """What the pre-roll is measured with; in lockstep the cycle's own time, without a subscription to the clock."""
        return self._cycle_ns if self.lockstep else message.log_ns

    def _on_episode(self, message: Message) -> None:
        if not self.active:
            self._recording.remember(message)
            return
        try:
            status = convert.episode_from_msg(deserialize_message(message.data, Episode))
        except Exception as error:  # whatever the middleware raises for bytes that are no message
            self.report(f"topic {message.topic}", ERROR, " ".join(str(error).split())[:200])
            self._recording.arrive(message, self._clock_ns(message), time.monotonic())
            return
        self.report(f"topic {message.topic}", OK)
        self._cycle_ns = status.stamp_ns
        foreign = bool(status.task) and status.task != self.task.name
        self.report(
            "task",
            ERROR if foreign else OK,
            f"the episode is of task {status.task!r}, the recorder's parameter says {self.task.name!r}"
            if foreign
            else "",
        )
        self._recording.on_episode(message, status, self._clock_ns(message), time.monotonic())

    def _on_card(self, message: Message) -> None:
        assert self._thread is not None
        try:
            card = msgspec.yaml.decode(deserialize_message(message.data, String).data, type=_Card)
            self._thread.cards[card.policy_id] = card.checkpoint_hash
        except Exception as error:
            self.report(f"topic {message.topic}", WARN, f"not a policy card: {' '.join(str(error).split())[:200]}")
        else:
            self.report(f"topic {message.topic}", OK)
        if self.active:
            self._recording.arrive(message, self._clock_ns(message), time.monotonic())
        else:
            self._recording.remember(message)

    # the graph

    def _look_at_graph(self) -> None:
        """Who publishes what, and how; subscribe to what appeared, and anew where the quality of service differs."""
        assert self._thread is not None
        if self._unknown:
            found = dict(self.get_topic_names_and_types())
            for name in sorted(self._unknown & found.keys()):
                self._unknown.discard(name)
                self._try_to_subscribe(name, found[name][0], self.get_publishers_info_by_topic(name))
        present = set()
        for name, listener in list(self._listeners.items()):
            publishers = self.get_publishers_info_by_topic(name)
            if not publishers:
                continue
            present.add(name)
            offered = _offered(publishers)
            profile = listener.qos_profile
            reliable, latched = _common(publishers)
            too_strict = (profile.reliability == ReliabilityPolicy.RELIABLE and not reliable) or (
                profile.durability == DurabilityPolicy.TRANSIENT_LOCAL and not latched
            )
            if too_strict:
                self._try_to_subscribe(name, publishers[0].topic_type, publishers)
            if self._qos.get(name) != offered:
                self._qos[name] = offered
                self._thread.know_qos(name, offered)
        self._thread.present = present

    def _try_to_subscribe(self, name: str, kind: str, publishers: list[TopicEndpointInfo]) -> None:
        reliable, latched = _common(publishers)
        try:
            self._subscribe(name, kind, reliable=reliable, latched=latched)
        except ValueError as error:
            self.report(f"topic {name}", ERROR, str(error))
        if latched:
            self._latched.add(name)

    # what is said

    def _report(self) -> None:
        thread = self._thread
        assert thread is not None
        episode_id = self._recording.episode_id
        self.report(
            "recording",
            ERROR if thread.trouble else OK,
            thread.trouble or (f"recording {episode_id}" if episode_id else "waiting for an episode"),
            queued_mb=round(thread.queued_bytes / _MB, 1),
        )
        dropped = dict(thread.dropped)
        text = ", ".join(f"{count} of {name}" for name, count in sorted(dropped.items()))
        self.report(
            "queue",
            ERROR if dropped else OK,
            f"the disk is too slow, dropped {text}; raise max_queue_mb" if text else "",
        )
        wrong: dict[str, list[Any]] = {}
        for finding in thread.findings:
            wrong.setdefault(finding.topic, []).append(finding)
        for topic in self._in_trouble - wrong.keys():
            self.report(f"audit {topic}", OK)
        for topic, findings in wrong.items():
            failed = any(finding.level == "fail" for finding in findings)
            self.report(f"audit {topic}", ERROR if failed else WARN, "; ".join(finding.text for finding in findings))
        self._in_trouble = set(wrong)

    def _say_closed(self) -> None:
        while self._thread is not None and self._thread.closed:
            folder, info, report = self._thread.closed.popleft()
            worst = report.findings[0].text if report is not None and report.findings else info.reason
            self.get_logger().info(
                f"{folder}: {info.state}, {info.outcome}, {info.steps} steps, audit {info.audit or 'impossible'}"
                + (f": {worst}" if info.audit != "ok" else "")
            )
            self.report(
                "last episode", OK if info.audit == "ok" else WARN, "" if info.audit == "ok" else f"{folder}: {worst}"
            )


class _Card(msgspec.Struct):
    policy_id: str
    checkpoint_hash: str = ""


class _WithInfo:
    """Calls ``handler(message, info)``; executors hand over the two as two arguments or, in Kilted, as one pair."""

    __signature__ = inspect.signature(lambda message, info: None)  # by which rclpy sees that the information is wanted

    def __init__(self, handler: Callable[[bytes, dict[str, Any]], None]) -> None:
        self._handler = handler

    def __call__(self, *taken: Any) -> None:
        self._handler(*(taken if len(taken) == 2 else taken[0]))


def _common(publishers: list[TopicEndpointInfo]) -> tuple[bool, bool]:
    """Whether all are reliable, and whether all are transient local."""
    return (
        all(info.qos_profile.reliability == ReliabilityPolicy.RELIABLE for info in publishers),
        all(info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for info in publishers),
    )


def _offered(publishers: list[TopicEndpointInfo]) -> str:
    """The profiles of all publishers as rosbag2 writes them into a bag."""

    def seconds(duration: Any) -> dict[str, int]:
        sec, nsec = divmod(min(int(duration.nanoseconds), int(Infinite.nanoseconds)), 1_000_000_000)
        return {"sec": sec, "nsec": nsec}

    profiles = [
        {
            "history": profile.history.name.lower(),
            "depth": profile.depth,
            "reliability": profile.reliability.name.lower(),
            "durability": profile.durability.name.lower(),
            "deadline": seconds(profile.deadline),
            "lifespan": seconds(profile.lifespan),
            "liveliness": profile.liveliness.name.lower(),
            "liveliness_lease_duration": seconds(profile.liveliness_lease_duration),
            "avoid_ros_namespace_conventions": profile.avoid_ros_namespace_conventions,
        }
        for profile in (info.qos_profile for info in publishers)
    ]
    return msgspec.yaml.encode(profiles).decode()


def _software() -> dict[str, str]:
    """What episodes were recorded with; the project's own version is its git commit where it runs from a checkout."""
    versions = {"python": platform.python_version(), "rmw": rclpy.get_rmw_implementation_identifier()}
    with suppress(importlib.metadata.PackageNotFoundError):
        versions["rldg"] = importlib.metadata.version("rldg_recorder")
    describe = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty=+", "--tags"]
    with suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(describe, capture_output=True, text=True, check=True, timeout=2.0)
        versions["rldg"] = answer.stdout.strip()
    versions["ros"] = os.environ.get("ROS_DISTRO", "")
    for name in ("rclpy", "ros-rclpy"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions["ros"] = versions["ros"] or f"{name} {importlib.metadata.version(name)}"
    return versions


def main(args: list[str] | None = None) -> int:
    return run(RecorderNode, args)


if __name__ == "__main__":
    sys.exit(main())
