"""Whatever fails around the arbiter, it holds, names the cause in step and diagnostics, and recovers."""

from __future__ import annotations

import pytest
from control_graph import Graph
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rldg_interfaces.srv import SelectPolicy
from std_msgs.msg import UInt8
from std_srvs.srv import SetBool, Trigger

from rldg_core.types import Phase, Source
from rldg_ros import qos


@pytest.fixture
def graph(request: pytest.FixtureRequest) -> Graph:
    with Graph(request.node.name) as graph:
        graph.run_until_running()
        assert graph.bench.spin(lambda: graph.step.source is Source.POLICY), graph.reasons()[-5:]
        yield graph


def _holds(graph: Graph, says: str, timeout_s: float = 10.0) -> bool:
    return graph.bench.spin(lambda: graph.step.source is Source.HOLD and says in graph.step.reason, timeout_s)


def _level(graph: Graph, check: str) -> bytes | None:
    return graph.probe.statuses[check].level if check in graph.probe.statuses else None


def _call(graph: Graph, kind: type, name: str, request: object) -> object:
    client = graph.probe.create_client(kind, name)
    assert graph.bench.spin(client.service_is_ready)
    future = client.call_async(request)
    assert graph.bench.spin(future.done)
    return future.result()


def test_a_second_publisher_of_targets_is_named(graph: Graph) -> None:
    rival = Node("rival", context=graph.bench.context)
    rival.create_publisher(PoseStamped, "target_pose", qos.reliable())
    graph.bench.add(rival)
    assert _holds(graph, "second publisher on target_pose: /rival"), graph.reasons()[-3:]
    assert graph.bench.spin(lambda: _level(graph, "arbiter: arm") == DiagnosticStatus.ERROR)
    graph.bench.remove(rival)
    assert graph.bench.spin(lambda: graph.step.source is Source.POLICY), graph.reasons()[-3:]


def test_a_frozen_camera_is_named(graph: Graph) -> None:
    graph.cell.live = False
    assert _holds(graph, "camera frozen"), graph.reasons()[-3:]
    assert graph.bench.spin(lambda: _level(graph, "observer: inputs") == DiagnosticStatus.ERROR)
    graph.cell.live = True
    assert graph.bench.spin(lambda: graph.step.source is Source.POLICY), graph.reasons()[-3:]


def test_a_dead_observer_holds_the_arm_and_a_new_one_revives_the_graph(graph: Graph) -> None:
    graph.bench.remove(graph.observer)
    assert _holds(graph, "observer: observations stopped"), graph.reasons()[-3:]
    graph.start(type(graph.observer))
    assert graph.bench.spin(lambda: graph.step.source is Source.HOLD and not graph.step.reason), graph.reasons()[-3:]


def test_a_dead_episode_manager_holds_the_arm(graph: Graph) -> None:
    graph.bench.remove(graph.manager)
    assert _holds(graph, "episode"), graph.reasons()[-3:]
    assert graph.bench.spin(lambda: "episode_manager: no heartbeat" in graph.step.reason), graph.reasons()[-3:]


def test_a_silent_arm_holds_at_its_last_pose(graph: Graph) -> None:
    graph.cell.destroy_publisher(graph.cell._pub.pop("current_pose"))
    graph.cell.publish = lambda stamp_ns: None  # the cell is gone altogether
    assert _holds(graph, "arm: no current_pose"), graph.reasons()[-3:]


def test_an_operator_whose_device_vanishes_while_held_keeps_the_arm_still(graph: Graph) -> None:
    for _ in range(20):
        graph.probe.deflect(0.8)
        graph.bench.spin_for(0.03)
    assert graph.step.source is Source.HUMAN, graph.step
    assert _holds(graph, "operator device fell silent while held"), graph.reasons()[-3:]
    assert all(step.source is Source.HOLD for step in graph.next_steps(8))  # never back to the policy by itself
    for _ in range(20):
        graph.probe.deflect(0.0)
        graph.bench.spin_for(0.03)
    assert graph.bench.spin(lambda: graph.step.source is Source.POLICY), graph.reasons()[-3:]


def test_the_e_stop_is_latched_until_it_is_released(graph: Graph) -> None:
    assert _call(graph, SetBool, "arbiter/estop", SetBool.Request(data=True)).success
    assert _holds(graph, "e-stop")
    assert all(step.source is Source.HOLD for step in graph.next_steps(5))
    assert _call(graph, SetBool, "arbiter/estop", SetBool.Request(data=False)).success
    assert graph.bench.spin(lambda: graph.step.source is Source.POLICY), graph.reasons()[-3:]


def test_a_reflex_and_a_user_stop_of_the_robot_hold_the_arm(graph: Graph) -> None:
    mode = graph.probe.create_publisher(UInt8, "robot_mode", qos.latched())
    mode.publish(UInt8(data=5))
    assert _holds(graph, "robot mode 5, user stop")
    refused = _call(graph, Trigger, "arbiter/recover", Trigger.Request())
    assert not refused.success and "user stop" in refused.message
    mode.publish(UInt8(data=4))
    assert _holds(graph, "robot mode 4, reflex")
    absent = _call(graph, Trigger, "arbiter/recover", Trigger.Request())
    assert not absent.success and "no service" in absent.message
    mode.publish(UInt8(data=2))
    assert graph.bench.spin(lambda: graph.step.source is Source.POLICY), graph.reasons()[-3:]


def test_only_a_fresh_policy_can_be_selected(graph: Graph) -> None:
    refused = _call(graph, SelectPolicy, "arbiter/select_policy", SelectPolicy.Request(policy_id="nobody"))
    assert not refused.success and "'nobody' has sent no action" in refused.message and refused.previous == "probe"
    assert _call(graph, SelectPolicy, "arbiter/select_policy", SelectPolicy.Request(policy_id="")).success
    assert graph.bench.spin(lambda: graph.step.source is Source.HOLD and graph.step.policy_id == "")
    assert _call(graph, SelectPolicy, "arbiter/select_policy", SelectPolicy.Request(policy_id="probe")).success
    assert graph.bench.spin(lambda: graph.step.source is Source.POLICY)


def test_a_reset_while_the_arm_moves_holds_it_first(graph: Graph) -> None:
    graph.manager._flow.end_run("test")
    assert graph.bench.spin(lambda: graph.probe.episodes[-1].phase is Phase.IDLE)
    graph.run_episodes()
    assert graph.bench.spin(lambda: graph.probe.episodes[-1].phase is Phase.RUNNING)
    resetting = {e.stamp_ns for e in graph.probe.episodes if e.phase is Phase.RESETTING}
    steps = [s for s in graph.probe.steps if s.observation_stamp_ns in resetting]
    assert steps and all(step.source in (Source.HOLD, Source.RESET) for step in steps[1:])


def test_a_second_arbiter_counts_when_it_sends_and_not_while_it_is_only_listed(graph: Graph) -> None:
    twin = Node("arbiter", context=graph.bench.context)
    publisher = twin.create_publisher(PoseStamped, "target_pose", qos.reliable())
    graph.bench.add(twin)
    assert graph.bench.spin(lambda: graph.arbiter.count_publishers("target_pose") == 2)
    assert all(step.source is Source.POLICY for step in graph.next_steps(5)), graph.reasons()[-5:]
    publisher.publish(PoseStamped())
    assert _holds(graph, "second publisher on target_pose: a second arbiter"), graph.reasons()[-3:]
    assert graph.bench.spin(lambda: graph.step.source is Source.POLICY), graph.reasons()[-3:]
