"""The policy node answers the newest observation, and a policy that misbehaves is reported and silent."""

from __future__ import annotations

import threading
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rldg_interfaces.msg import Action
from rldg_interfaces.msg import Observation as ObservationMsg
from std_msgs.msg import String

from rldg_core.frames import Pose
from rldg_core.task import load_robot
from rldg_core.types import ActionChunk, Observation
from rldg_policies import policy_node
from rldg_policies.policy_node import PolicyNode
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.testing import Bench, overrides

ROBOT = load_robot("fr3")
IMAGE = np.zeros((16, 16, 3), np.uint8)


class FakePolicy:
    """Does as it is told by ``behave``."""

    policy_id, rate_hz = "fake", 10.0

    def __init__(self) -> None:
        self.behave = "well"
        self.seen: list[int] = []
        self.resets = 0
        self.warm = False
        self.entered, self.gate = threading.Event(), threading.Event()

    def warm_up(self) -> None:
        if self.behave == "cold":
            raise RuntimeError("no weights at /nowhere")
        self.warm = True

    def reset(self) -> None:
        self.resets += 1

    def act(self, observation: Observation) -> ActionChunk:
        assert self.warm
        self.seen.append(observation.index)
        chunk = ActionChunk(observation.stamp_ns, "fake", np.full((1, 6), 0.5), np.array([True]), 0.1, ROBOT.tcp_frame)
        if self.behave == "slow":
            self.entered.set()
            self.gate.wait(10.0)
        elif self.behave == "raise":
            raise KeyError("weights")
        elif self.behave == "nan":
            return replace(chunk, deltas=np.full((1, 6), np.nan))
        elif self.behave == "shape":
            return replace(chunk, deltas=np.zeros((1, 5)))
        return chunk


class Probe(Node):
    def __init__(self, bench: Bench) -> None:
        super().__init__("probe", context=bench.context)
        self.actions: list[Action] = []
        self.statuses: dict[str, DiagnosticStatus] = {}
        self.observations = self.create_publisher(ObservationMsg, "observation", qos.reliable())
        self.create_subscription(Action, "action", self.actions.append, qos.reliable(10))
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.reliable(10))

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        self.statuses.update({status.name: status for status in msg.status})

    def show(self, index: int, episode_id: str = "s/1") -> None:
        observation = Observation(
            (index + 1) * 10**8, IMAGE, Pose.identity(), np.zeros(6), np.zeros(6), 0.0, True, "", episode_id, index
        )
        self.observations.publish(convert.observation_to_msg(observation, ROBOT.base_frame, ROBOT.camera_frame))


class Setup:
    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bench, self.policy = bench, FakePolicy()
        monkeypatch.setattr(policy_node, "make_policy", lambda *_: self.policy)
        self.node = PolicyNode(
            context=bench.context, parameter_overrides=overrides(task="usb_insertion", policy="fake")
        )
        self.probe = Probe(bench)
        bench.add(self.probe)
        bench.add(self.node, activate=False)

    def up(self) -> None:
        assert self.node.trigger_configure() is TransitionCallbackReturn.SUCCESS
        assert self.node.trigger_activate() is TransitionCallbackReturn.SUCCESS
        probe = self.probe
        assert self.bench.spin(lambda: probe.observations.get_subscription_count() and probe.count_publishers("action"))
        self.bench.spin_for(0.3)


@pytest.fixture
def setup(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Setup:
    with Bench(request.node.name) as bench:
        yield Setup(bench, monkeypatch)


def test_an_observation_is_answered_with_its_stamp_and_a_new_episode_resets_the_policy(setup: Setup) -> None:
    setup.up()
    for index, episode_id in ((0, "s/1"), (1, "s/1"), (0, "s/2")):
        count = len(setup.probe.actions)
        setup.probe.show(index, episode_id)
        assert setup.bench.spin(lambda count=count: len(setup.probe.actions) > count)
    action = setup.probe.actions[1]
    assert convert.stamp_from_msg(action.observation_stamp) == 2 * 10**8
    assert action.policy_id == "fake" and action.header.frame_id == ROBOT.tcp_frame
    assert np.allclose(action.deltas, 0.5)
    assert setup.policy.resets == 2


def test_a_policy_says_what_it_is_to_whoever_comes_later(setup: Setup) -> None:
    setup.policy.checkpoint_hash = "sha256:12"  # type: ignore[attr-defined]
    setup.up()
    cards: list[String] = []
    setup.probe.create_subscription(String, "policy_card", cards.append, qos.latched())
    assert setup.bench.spin(lambda: cards)
    assert msgspec.yaml.decode(cards[0].data) == {
        "policy_id": "fake",
        "name": "fake",
        "checkpoint_hash": "sha256:12",
        "parameters": {},
    }


def test_a_slow_policy_gets_the_newest_observation_next_and_the_node_stays_alive(setup: Setup) -> None:
    setup.policy.behave = "slow"
    setup.up()
    setup.probe.show(0)
    assert setup.bench.spin(setup.policy.entered.is_set)
    for index in (1, 2, 3):
        setup.probe.show(index)
        setup.bench.spin_for(0.1)  # callbacks run although the policy computes
    setup.policy.behave = "well"
    setup.policy.gate.set()
    assert setup.bench.spin(lambda: len(setup.probe.actions) == 2)
    assert setup.policy.seen == [0, 3]


@pytest.mark.parametrize(("behave", "says"), [("raise", "KeyError"), ("nan", "not finite"), ("shape", "(1, 5)")])
def test_a_policy_that_misbehaves_is_reported_silent_and_forgiven(setup: Setup, behave: str, says: str) -> None:
    setup.policy.behave = behave
    setup.up()
    setup.probe.show(0)
    statuses = setup.probe.statuses
    assert setup.bench.spin(lambda: "policy: policy" in statuses and says in statuses["policy: policy"].message)
    assert statuses["policy: policy"].level == DiagnosticStatus.ERROR
    assert not setup.probe.actions
    setup.policy.behave = "well"
    setup.probe.show(1)
    assert setup.bench.spin(lambda: setup.probe.actions)
    assert setup.bench.spin(lambda: statuses["policy: policy"].level == DiagnosticStatus.OK)


def test_a_policy_that_cannot_warm_up_fails_configure(setup: Setup) -> None:
    setup.policy.behave = "cold"
    assert setup.node.trigger_configure() is TransitionCallbackReturn.FAILURE
    name = "policy: lifecycle"
    assert setup.bench.spin(lambda: "no weights" in getattr(setup.probe.statuses.get(name), "message", ""))


def test_a_deactivated_policy_is_silent_even_about_what_it_was_computing(setup: Setup) -> None:
    setup.policy.behave = "slow"
    setup.up()
    setup.probe.show(0)
    assert setup.bench.spin(setup.policy.entered.is_set)
    threading.Timer(0.3, setup.policy.gate.set).start()
    setup.node.trigger_deactivate()
    setup.probe.show(1)
    setup.bench.spin_for(0.5)
    assert not setup.probe.actions
    setup.policy.behave = "well"
    setup.node.trigger_activate()
    setup.probe.show(2)
    assert setup.bench.spin(lambda: setup.probe.actions)
