"""The recorder node: it hears everything from the start, whoever speaks and however, and reports what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.serialization import serialize_message
from rldg_interfaces.msg import Episode
from rldg_interfaces.msg import Observation as ObservationMsg
from rldg_interfaces.msg import Step as StepMsg
from std_msgs.msg import Float64, String, UInt8

from rldg_core.frames import Pose
from rldg_core.testing import TICK_NS
from rldg_core.types import Action, EpisodeStatus, Observation, Outcome, Phase, Source, Step
from rldg_recorder import recorder_node
from rldg_recorder.bag_reader import BagReader
from rldg_recorder.episode import EpisodeInfo, read_info
from rldg_recorder.episode_reader import read_episode
from rldg_recorder.recorder_node import RecorderNode
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.testing import Bench, overrides

IMAGE = np.zeros((16, 16, 3), np.uint8)


class FakeCell(Node):
    """Says what a cell says."""

    def __init__(self, bench: Bench, namespace: str = "") -> None:
        super().__init__("cell", context=bench.context, namespace=namespace)
        self.bench = bench
        self.sent: dict[str, list[bytes]] = {}
        self.statuses: dict[str, DiagnosticStatus] = {}
        self.begin_ns = 10**9
        self.outputs = {
            "observation": self.create_publisher(ObservationMsg, "observation", qos.reliable()),
            "step": self.create_publisher(StepMsg, "step", qos.reliable(10)),
            "episode": self.create_publisher(Episode, "episode", qos.latched()),
            "current_pose": self.create_publisher(PoseStamped, "current_pose", qos.reliable(10)),
            "robot_mode": self.create_publisher(UInt8, "robot_mode", qos.latched()),
            "policy_card": self.create_publisher(String, "policy_card", qos.latched()),
        }
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.reliable(50))

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        self.statuses.update({status.name.partition(": ")[2]: status for status in msg.status})

    def level(self, check: str) -> bytes | None:
        return self.statuses[check].level if check in self.statuses else None

    def say(self, name: str, message: object) -> None:
        data = message if isinstance(message, bytes) else bytes(serialize_message(message))
        self.sent.setdefault(name, []).append(data)
        self.outputs[name].publish(data)
        self.bench.executor.spin_once(0.0)

    def judge(self, phase: Phase, index: int = 0, episode_id: str = "s/0001", outcome: Outcome = Outcome.NONE) -> None:
        stamp_ns = self.begin_ns + index * TICK_NS
        said = EpisodeStatus(
            stamp_ns, "s", episode_id, "usb_insertion", "seen", 7, "insert", phase, outcome, index=max(0, index)
        )
        self.say("episode", convert.episode_to_msg(said))

    def tick(self, index: int, episode_id: str = "s/0001", last: bool = False) -> None:
        stamp_ns = self.begin_ns + index * TICK_NS
        seen = Observation(
            stamp_ns, IMAGE, Pose.identity(), np.zeros(6), np.zeros(6), 0.0, True, "insert", episode_id, index
        )
        self.say("observation", convert.observation_to_msg(seen, "fr3_link0", "camera"))
        self.judge(Phase.ENDED if last else Phase.RUNNING, index, episode_id, Outcome.SUCCESS if last else Outcome.NONE)
        self.say("current_pose", convert.stamped_pose_to_msg(Pose.identity(), stamp_ns, "fr3_link0"))
        done = Step(
            stamp_ns, stamp_ns, Source.POLICY, Action(np.zeros(6)), Pose.identity(), episode_id, index,
            is_first=index == 0, is_last=last, policy_id="scripted",
        )  # fmt: skip
        self.say("step", convert.step_to_msg(done, "fr3_link0"))

    def episode(self, ticks: int = 5, episode_id: str = "s/0001") -> None:
        self.judge(Phase.RUNNING, -1, episode_id)
        for index in range(ticks):
            self.tick(index, episode_id, last=index == ticks - 1)


class Setup:
    def __init__(self, bench: Bench, bags: Path) -> None:
        self.bench, self.bags = bench, bags
        self.cell = FakeCell(bench)
        bench.add(self.cell)

    def up(self, **parameters: object) -> RecorderNode:
        values = {
            "task": "usb_insertion", "bags": str(self.bags), "lockstep": True, "storage": "mcap", "min_free_mb": 0,
            **parameters,
        }  # fmt: skip
        node = RecorderNode(context=self.bench.context, parameter_overrides=overrides(**values))
        self.bench.add(node)
        names = ["observation", "step", "episode"] if "topics" in parameters else list(self.cell.outputs)
        assert self.bench.spin(lambda: all(self.cell.outputs[name].get_subscription_count() for name in names))
        self.bench.spin_for(0.3)
        return node

    def closed(self, place: str = "s/0001", state: str = "complete") -> EpisodeInfo:
        """The description of a bag, once it is closed."""

        def done() -> bool:
            path = self.bags / place / "episode.yaml"
            return path.exists() and read_info(path.parent).state not in ("recording",)

        assert self.bench.spin(done), f"{place} was not closed"
        info = read_info(self.bags / place)
        assert info.state == state, info.reason
        return info

    def recorded(self, topic: str, place: str = "s/0001") -> list[bytes]:
        with BagReader(self.bags / place) as bag:
            return [bytes(message.data) for message in bag.messages({topic})]


@pytest.fixture
def setup(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setup]:
    with Bench(request.node.name) as bench:
        yield Setup(bench, tmp_path / "bags")


def test_everything_that_was_said_in_an_episode_is_in_its_bag_byte_for_byte(setup: Setup) -> None:
    setup.up(operator="ada")
    for number in (1, 2):
        setup.cell.sent.clear()
        setup.cell.begin_ns += 10**10
        setup.cell.episode(ticks=30, episode_id=f"s/000{number}")
        info = setup.closed(f"s/000{number}")
        assert (info.steps, info.operator, info.audit) == (30, "ada", "ok")
        for name in ("observation", "step", "current_pose"):
            assert setup.recorded(f"/{name}", f"s/000{number}") == setup.cell.sent[name], name
        assert len(read_episode(setup.bags / "s" / f"000{number}")) == 30
    assert {name: entry.lost for name, entry in info.topics.items() if entry.lost} == {}


def test_a_bag_holds_sequence_numbers_capture_stamps_and_the_quality_of_service(setup: Setup) -> None:
    setup.up()
    setup.cell.episode(ticks=4)
    setup.closed()
    with BagReader(setup.bags / "s" / "0001") as bag:
        steps = list(bag.messages({"/step"}))
        assert [message.sequence for message in steps] == [1, 2, 3, 4]
        assert all(0 < message.publish_ns <= message.log_ns for message in steps)
        assert "transient_local" in bag.topics["/episode"].qos and "volatile" in bag.topics["/step"].qos
        assert bag.topics["/step"].type_hash.startswith("RIHS01_")


def test_what_was_latched_before_the_recorder_came_is_in_every_bag(setup: Setup) -> None:
    setup.cell.say("robot_mode", UInt8(data=2))
    setup.cell.say("policy_card", String(data="{policy_id: scripted, checkpoint_hash: abc, name: scripted}"))
    setup.up()
    for number in (1, 2):
        setup.cell.begin_ns += 10**10
        setup.cell.episode(episode_id=f"s/000{number}")
        info = setup.closed(f"s/000{number}")
        assert setup.recorded("/robot_mode", f"s/000{number}") == setup.cell.sent["robot_mode"]
        assert [(policy.policy_id, policy.checkpoint_hash, policy.steps) for policy in info.policies] == [
            ("scripted", "abc", 5)
        ]


@pytest.mark.parametrize("card", ["", "][", "policy_id: [1]", "- 1", "{checkpoint_hash: x}"])
def test_a_policy_card_of_nonsense_is_reported_and_recorded(setup: Setup, card: str) -> None:
    setup.up()
    setup.cell.say("policy_card", String(data=card))
    check = "topic /policy_card"
    assert setup.bench.spin(lambda: setup.cell.level(check) == DiagnosticStatus.WARN)
    setup.cell.episode()
    assert setup.closed().policies[0].checkpoint_hash == ""


@pytest.mark.parametrize("data", [b"\x00", b"\x00\x01\x00\x00\x01", b"\x00\x01\x00\x00" + b"\xff" * 60], ids=len)
def test_bytes_that_are_no_message_are_kept_and_harm_nobody(setup: Setup, data: bytes) -> None:
    setup.up()
    setup.cell.judge(Phase.RUNNING, -1)
    names = setup.cell.outputs.keys() - {"robot_mode"}  # whose publisher refuses more bytes than its type has
    for name in names:
        setup.cell.say(name, data)
    for index in range(3):
        setup.cell.tick(index, last=index == 2)
    info = setup.closed()
    assert (info.steps, info.audit) == (3, "fail")
    for name in names:
        assert data in setup.recorded(f"/{name}"), name
    assert setup.bench.spin(lambda: setup.cell.level("topic /episode") == DiagnosticStatus.OK), (
        "until the next good one"
    )


def test_publishers_that_offer_less_are_heard_too_and_unknown_topics_as_soon_as_they_speak(setup: Setup) -> None:
    setup.up(topics=["current_twist", "gripper/command", "later"])
    cell, bench = setup.cell, setup.bench
    weak = cell.create_publisher(TwistStamped, "current_twist", qos.sensor())
    volatile = cell.create_publisher(Float64, "gripper/command", qos.reliable())
    later = cell.create_publisher(String, "later", qos.latched())
    later.publish(String(data="first"))
    assert bench.spin(lambda: all(one.get_subscription_count() for one in (weak, volatile, later)))
    bench.spin_for(0.3)
    cell.judge(Phase.RUNNING, -1)
    weak.publish(TwistStamped())
    volatile.publish(Float64(data=1.0))
    cell.episode()
    setup.closed()
    with BagReader(setup.bags / "s" / "0001") as bag:
        assert {"/current_twist", "/gripper/command", "/later", "/step"} <= set(bag.topics)
        assert "/current_pose" not in bag.topics, "only what was asked for, and what an episode cannot do without"
        assert bag.counts["/later"] == 1


def test_deactivating_closes_the_bag_as_partial_and_activating_again_begins_another(setup: Setup) -> None:
    node = setup.up()
    setup.cell.judge(Phase.RUNNING, -1)
    for index in range(3):
        setup.cell.tick(index)
    setup.bench.spin_for(0.2)
    assert node.trigger_deactivate() is TransitionCallbackReturn.SUCCESS
    assert "deactivated" in setup.closed(state="partial").reason
    setup.cell.tick(3)
    setup.bench.spin_for(0.2)  # this one is not for the inactive recorder
    assert node.trigger_activate() is TransitionCallbackReturn.SUCCESS
    for index in range(4, 8):
        setup.cell.tick(index, last=index == 7)
    info = setup.closed("s/0001-2", state="partial")
    assert "from step 4 on" in info.reason and info.outcome is Outcome.SUCCESS


def test_cleaning_up_ends_the_thread_and_the_node_comes_up_again(setup: Setup) -> None:
    node = setup.up()
    setup.cell.episode()
    setup.closed()
    node.trigger_deactivate()
    assert node.trigger_cleanup() is TransitionCallbackReturn.SUCCESS
    assert node._thread is None
    assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() is TransitionCallbackReturn.SUCCESS
    setup.bench.spin_for(0.5)
    setup.cell.begin_ns += 10**10
    setup.cell.episode(episode_id="s/0002")
    setup.closed("s/0002")


def test_a_verdict_that_an_operator_changes_changes_the_description(setup: Setup) -> None:
    setup.up()
    setup.cell.episode()
    setup.closed()
    setup.cell.judge(Phase.ENDED, 4, outcome=Outcome.FAILURE)
    assert setup.bench.spin(lambda: read_info(setup.bags / "s" / "0001").outcome is Outcome.FAILURE)
    assert len(read_info(setup.bags / "s" / "0001").labels) == 1


def test_a_stream_that_falls_silent_in_an_episode_is_on_diagnostics(setup: Setup) -> None:
    setup.up(lockstep=False)
    cell, bench = setup.cell, setup.bench
    check = "audit /current_pose"
    pose = convert.stamped_pose_to_msg(Pose.identity(), 10**9, "fr3_link0")
    bench.spin_for(1.2)  # so that the recorder knows who is there
    cell.judge(Phase.RUNNING, -1)
    cell.tick(0)
    assert bench.spin(lambda: cell.level(check) == DiagnosticStatus.WARN)
    assert "silent" in cell.statuses[check].message

    def speak() -> bool:
        cell.begin_ns += 10**7
        pose.header.stamp = convert.stamp_to_msg(cell.begin_ns)
        cell.say("current_pose", pose)
        bench.spin_for(0.01)
        return "silent" not in cell.statuses[check].message

    assert bench.spin(speak)
    cell.judge(Phase.ENDED, 0, outcome=Outcome.ABORTED)
    setup.closed(state="partial")
    assert bench.spin(lambda: cell.level(check) == DiagnosticStatus.OK)


def test_a_full_disk_is_an_error_until_an_episode_can_be_recorded(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [10]
    made = recorder_node.Settings
    monkeypatch.setattr(recorder_node, "Settings", lambda **values: made(**values, free_bytes=lambda _: free[0] << 20))
    setup.up(min_free_mb=100)
    setup.cell.episode()
    assert setup.bench.spin(lambda: setup.cell.level("recording") == DiagnosticStatus.ERROR)
    assert "10 MB are free, min_free_mb is 100" in setup.cell.statuses["recording"].message
    free[0] = 1000
    setup.cell.begin_ns += 10**10
    setup.cell.episode(episode_id="s/0002")
    setup.closed("s/0002")
    assert setup.bench.spin(lambda: setup.cell.level("recording") == DiagnosticStatus.OK)


def test_an_episode_of_another_task_is_an_error_and_recorded(setup: Setup) -> None:
    setup.up(task="vga_insertion")
    setup.cell.episode()
    assert setup.bench.spin(lambda: setup.cell.level("task") == DiagnosticStatus.ERROR)
    setup.closed()


def test_a_namespace_keeps_two_cells_apart(setup: Setup) -> None:
    other = FakeCell(setup.bench, namespace="two")
    setup.bench.add(other)
    node = RecorderNode(
        context=setup.bench.context,
        namespace="two",
        parameter_overrides=overrides(
            task="usb_insertion", bags=str(setup.bags), lockstep=True, storage="mcap", min_free_mb=0
        ),
    )
    setup.bench.add(node)
    assert setup.bench.spin(lambda: all(one.get_subscription_count() for one in other.outputs.values()))
    setup.bench.spin_for(0.3)
    setup.cell.episode(ticks=2, episode_id="s/0001")
    other.episode(ticks=4, episode_id="t/0001")
    info = setup.closed("t/0001")
    assert info.steps == 4 and info.audit == "ok"
    assert not (setup.bags / "s").exists()
    assert all(name.startswith("/two/") for name in info.topics)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [({"storage": "paper"}, "storage"), ({"task": "no_such_task"}, "no such file")],
)
def test_a_wrong_parameter_fails_configure(setup: Setup, parameters: dict[str, object], says: str) -> None:
    values = {"task": "usb_insertion", "bags": str(setup.bags), **parameters}
    node = RecorderNode(context=setup.bench.context, parameter_overrides=overrides(**values))
    setup.bench.add(node, activate=False)
    assert node.trigger_configure() is TransitionCallbackReturn.FAILURE
    assert setup.bench.spin(lambda: says in getattr(setup.cell.statuses.get("lifecycle"), "message", ""))
