"""Test support: cell, observer, episode manager and arbiter in one process; a probe plays policy and operator."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fake_cell import FakeCell
from geometry_msgs.msg import TwistStamped
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.task import Future
from rldg_interfaces.action import RunEpisodes
from rldg_interfaces.msg import Action, Episode
from rldg_interfaces.msg import Observation as ObservationMsg
from rldg_interfaces.msg import Step as StepMsg
from sensor_msgs.msg import Joy

from rldg_control.arbiter_node import ArbiterNode
from rldg_control.episode_manager_node import EpisodeManagerNode
from rldg_control.observer_node import ObserverNode
from rldg_core.task import load_robot, load_task
from rldg_core.types import ActionChunk, EpisodeStatus, Observation, Phase, Step
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.base import BaseNode
from rldg_ros.testing import Bench, overrides

TASK, ROBOT = load_task("usb_insertion"), load_robot("fr3")
FORWARD = np.array([0.2, 0.0, 0.0, 0.0, 0.0, 0.0])

Policy = Callable[[Observation], Action | None]


def answer(observation: Observation, delta: np.ndarray = FORWARD, **changes: object) -> Action:
    """A policy's message for an observation."""
    fields = {
        "observation_stamp_ns": observation.stamp_ns,
        "policy_id": "probe",
        "deltas": np.atleast_2d(delta),
        "gripper_closed": np.array([True]),
        "period_s": TASK.control.period_s,
        "frame_id": ROBOT.tcp_frame,
        **changes,
    }
    return convert.chunk_to_msg(ActionChunk(**fields), observation.stamp_ns)


class Probe(Node):
    """Records what the graph says; answers observations as ``policy`` does; moves the operator's device."""

    def __init__(self, bench: Bench) -> None:
        super().__init__("probe", context=bench.context)
        self.policy: Policy = answer
        self.observations: list[Observation] = []
        self.steps: list[Step] = []
        self.episodes: list[EpisodeStatus] = []
        self.statuses: dict[str, DiagnosticStatus] = {}
        self._actions = self.create_publisher(Action, "action", qos.reliable(10))
        self._twist = self.create_publisher(TwistStamped, "spacenav/twist_stamped", qos.reliable(10))
        self.twists: list[TwistStamped] = []
        self.create_subscription(TwistStamped, "spacenav/twist_stamped", self.twists.append, qos.reliable(10))
        self._joy = self.create_publisher(Joy, "spacenav/joy", qos.reliable(10))
        self.create_subscription(ObservationMsg, "observation", self._on_observation, qos.reliable(10))
        self.create_subscription(
            StepMsg, "step", lambda m: self.steps.append(convert.step_from_msg(m)), qos.reliable(10)
        )
        self.create_subscription(
            Episode, "episode", lambda m: self.episodes.append(convert.episode_from_msg(m)), qos.latched()
        )
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.reliable(10))
        self.runs = ActionClient(self, RunEpisodes, "episode_manager/run_episodes")

    def destroy_node(self) -> None:
        self.runs.destroy()  # it would keep the node
        super().destroy_node()

    def _on_observation(self, msg: ObservationMsg) -> None:
        observation = convert.observation_from_msg(msg)
        self.observations.append(observation)
        action = self.policy(observation)
        if action is not None:
            self._actions.publish(action)

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        self.statuses.update({status.name: status for status in msg.status})

    def deflect(self, forward: float) -> None:
        """One report of the operator's device."""
        twist = TwistStamped(header=convert.header(self.get_clock().now().nanoseconds, ROBOT.base_frame))
        twist.twist.linear.x = forward
        self._twist.publish(twist)
        self._joy.publish(Joy(header=twist.header, buttons=[0, 0]))


class Graph:
    """Use as a context manager: the nodes are up and the arm holds."""

    def __init__(self, name: str, lockstep: bool = False, **arbiter: object) -> None:
        self.bench = Bench(name)
        self.cell = FakeCell(TASK, ROBOT, lockstep, context=self.bench.context)
        self.probe = Probe(self.bench)
        common = {"task": "usb_insertion", "lockstep": lockstep}
        own = {"context": self.bench.context}
        self.observer = ObserverNode(parameter_overrides=overrides(**common), **own)
        self.manager = EpisodeManagerNode(parameter_overrides=overrides(session_id="s", **common), **own)
        self.arbiter = ArbiterNode(
            parameter_overrides=overrides(**{"initial_policy": "probe", **common, **arbiter}), **own
        )
        self.nodes: list[Node] = [self.cell, self.probe, self.observer, self.manager, self.arbiter]

    def __enter__(self) -> Graph:
        for node in self.nodes:
            self.bench.add(node)
        if not self.cell.lockstep:
            self.cell.run_clock()
            assert self.bench.spin(lambda: self.probe.steps and not self.probe.steps[-1].reason), self.reasons()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bench.__exit__(kind, error, trace)

    @property
    def step(self) -> Step:
        return self.probe.steps[-1]

    def reasons(self) -> list[str]:
        return [step.reason for step in self.probe.steps]

    def run_episodes(self, count: int = 1, **goal: object) -> Future:
        """Send the goal; returns the future of its handle."""
        assert self.bench.spin(self.probe.runs.server_is_ready)
        future = self.probe.runs.send_goal_async(RunEpisodes.Goal(count=count, **goal))
        assert self.bench.spin(future.done)
        return future

    def run_until_running(self) -> None:
        self.run_episodes()
        assert self.bench.spin(lambda: self.probe.episodes and self.probe.episodes[-1].phase is Phase.RUNNING)

    def next_steps(self, count: int = 2) -> list[Step]:
        """Steps that are published from now on."""
        have = len(self.probe.steps)
        assert self.bench.spin(lambda: len(self.probe.steps) >= have + count)
        return self.probe.steps[have:]

    def start(self, kind: type[BaseNode]) -> BaseNode:
        """A fresh node of a kind, in place of one that was removed."""
        node = kind(context=self.bench.context, parameter_overrides=overrides(task="usb_insertion"))
        self.bench.add(node)
        return node
