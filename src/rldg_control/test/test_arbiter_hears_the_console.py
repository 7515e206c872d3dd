"""The keys of the console are one more device at the door, beside one that keeps its hands off."""

from __future__ import annotations

import numpy as np
import pytest
from control_graph import ROBOT, Graph
from geometry_msgs.msg import TwistStamped
from sensor_msgs.msg import Joy

from rldg_core.types import Source
from rldg_ros import conversions as convert
from rldg_ros import qos


class Keys:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._twist = graph.probe.create_publisher(TwistStamped, "console/twist_stamped", qos.reliable(10))
        self._joy = graph.probe.create_publisher(Joy, "console/joy", qos.reliable(10))

    def say(self, forward: float, seconds: float, scripted: float = 0.0) -> None:
        """Both devices report at 20 Hz."""
        header = convert.header(self._graph.probe.get_clock().now().nanoseconds, ROBOT.base_frame)
        for _ in range(round(seconds * 20)):
            self._twist.publish(
                TwistStamped(header=header, twist=convert.twist_to_msg(np.array([forward, 0, 0, 0, 0, 0.0])))
            )
            self._joy.publish(Joy(header=header, buttons=[0, 0]))
            self._graph.probe.deflect(scripted)
            self._graph.bench.spin_for(0.05)


@pytest.fixture
def graph(request: pytest.FixtureRequest) -> Graph:
    with Graph(request.node.name) as graph:
        graph.run_until_running()
        assert graph.bench.spin(lambda: graph.step.source is Source.POLICY), graph.reasons()[-5:]
        yield graph


def test_a_held_key_drives_although_another_device_is_at_rest(graph: Graph) -> None:
    keys = Keys(graph)
    keys.say(0.8, 0.5)
    before = len(graph.probe.steps)
    keys.say(0.8, 1.0)
    steps = graph.probe.steps[before:]
    driven = [step for step in steps if step.source is not Source.HOLD]  # a busy machine is late now and then
    assert len(driven) > len(steps) / 2, graph.reasons()[-5:]
    assert all(step.source is Source.HUMAN and step.human_action.delta[0] > 0.5 for step in driven)
    keys.say(0.0, 0.8)
    assert graph.bench.spin(lambda: graph.step.source is Source.POLICY), graph.reasons()[-3:]


def test_the_person_at_the_console_goes_before_a_device_that_is_held(graph: Graph) -> None:
    keys = Keys(graph)
    keys.say(0.8, 0.5, scripted=-0.8)
    before = len(graph.probe.steps)
    keys.say(0.8, 0.5, scripted=-0.8)
    asked = [step.human_action for step in graph.probe.steps[before:] if step.human_action is not None]
    assert asked and all(action.delta[0] > 0.5 for action in asked)


def test_keys_that_fall_silent_while_held_stop_the_arm_until_they_were_at_rest(graph: Graph) -> None:
    keys = Keys(graph)
    keys.say(0.8, 0.5)
    for _ in range(30):  # the other device goes on reporting
        graph.probe.deflect(0.0)
        graph.bench.spin_for(0.03)
    assert graph.step.source is Source.HOLD and "fell silent while held" in graph.step.reason, graph.reasons()[-3:]
    keys.say(0.0, 0.8)
    assert graph.bench.spin(lambda: graph.step.source is Source.POLICY), graph.reasons()[-3:]
