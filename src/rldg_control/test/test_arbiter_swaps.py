"""In the graph: a swap, a roll-back, an e-stop button and an abort after a fault, each told as an event."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from control_graph import FORWARD, Graph, answer
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rldg_interfaces.msg import Action
from rldg_interfaces.srv import SelectPolicy
from std_msgs.msg import Bool, String, UInt8
from std_srvs.srv import SetBool, Trigger

from rldg_core.events import Event, EventKind, parse_event
from rldg_core.types import Observation, Phase, Source
from rldg_ros import qos

WITHIN_S = 0.3


class Second:
    """Another policy beside the probe's own: answers as it is told to."""

    def __init__(self, graph: Graph) -> None:
        self.fault = ""
        self.stopped_ns = 0
        self._graph = graph
        graph.probe.policy = self

    def __call__(self, observation: Observation) -> Action:
        if self.fault and not self.stopped_ns:
            self.stopped_ns = self._graph.probe.get_clock().now().nanoseconds
        if self.fault != "hang":
            delta = np.full(6, np.nan) if self.fault == "nan" else -FORWARD
            self._graph.probe._actions.publish(answer(observation, delta, policy_id="second"))
        return answer(observation)


@pytest.fixture(scope="module")
def graph() -> Iterator[Graph]:
    with Graph("swaps", probation_ticks=10, after_fault="abort") as graph:
        yield graph


@pytest.fixture
def events(graph: Graph) -> Iterator[list[Event]]:
    """What is told from now on, in an episode in which the first policy drives."""
    if graph.manager._flow.run is None:
        graph.run_episodes(100)
    assert graph.bench.spin(lambda: graph.step.source is Source.POLICY and graph.arbiter._door.proven == "probe")
    heard: list[Event] = []
    now_ns = graph.probe.get_clock().now().nanoseconds

    def on_event(msg: String) -> None:
        event = parse_event(msg.data)
        if event.stamp_ns >= now_ns:  # late joiners hear the last ones
            heard.append(event)

    listener = graph.probe.create_subscription(String, "event", on_event, qos.latched(20))
    yield heard
    graph.probe.destroy_subscription(listener)
    graph.probe.policy = answer


def call(graph: Graph, kind: type, name: str, request: object) -> object:
    client = graph.probe.create_client(kind, name)
    assert graph.bench.spin(client.service_is_ready)
    future = client.call_async(request)
    assert graph.bench.spin(future.done)
    return future.result()


def select(graph: Graph, policy_id: str) -> bool:
    return call(graph, SelectPolicy, "arbiter/select_policy", SelectPolicy.Request(policy_id=policy_id)).success


def swapped(graph: Graph) -> Second:
    second = Second(graph)
    assert graph.bench.spin(lambda: select(graph, "second"))
    return second


def test_a_swap_is_told_from_request_to_completion(graph: Graph, events: list[Event]) -> None:
    swapped(graph)
    assert graph.bench.spin(lambda: any(event.kind is EventKind.SWAP_COMPLETED for event in events)), events
    refused, events = events[:-3], events[-3:]  # it may have been asked for before its first answer
    assert [event.kind for event in refused] in ([], [EventKind.SWAP_REFUSED])
    kinds = [event.kind for event in events]
    assert kinds == [EventKind.SWAP_REQUESTED, EventKind.SWAP_HANDED_OVER, EventKind.SWAP_COMPLETED]
    assert {(event.previous, event.policy_id) for event in events} == {("probe", "second")}
    assert (events[1].stamp_ns - events[0].stamp_ns) * 1e-9 <= 0.1  # at the next tick
    handed = next(step for step in graph.probe.steps if step.stamp_ns == events[1].stamp_ns)
    assert handed.policy_id == "second"
    assert select(graph, "probe")


@pytest.mark.parametrize("fault", ["nan", "hang"])
def test_a_policy_that_fails_on_probation_loses_the_door_in_time(graph: Graph, events: list[Event], fault: str) -> None:
    second = swapped(graph)
    assert graph.bench.spin(lambda: graph.step.policy_id == "second")
    second.fault = fault
    assert graph.bench.spin(lambda: events and events[-1].kind is EventKind.SWAP_ROLLED_BACK, 5.0), events
    assert (events[-1].stamp_ns - second.stopped_ns) * 1e-9 <= WITHIN_S, events[-1]
    assert graph.bench.spin(lambda: graph.step.policy_id == "probe" and graph.step.source is Source.POLICY, 2.0)
    told = next(step for step in graph.probe.steps if step.stamp_ns == events[-1].stamp_ns)
    assert "rolled back" in told.reason and told.policy_id == "probe"


def test_a_policy_whose_node_reports_an_error_is_not_waited_for(graph: Graph, events: list[Event]) -> None:
    diagnostics = graph.probe.create_publisher(DiagnosticArray, "/diagnostics", qos.reliable(10))
    second = swapped(graph)
    assert graph.bench.spin(lambda: graph.step.policy_id == "second")
    second.fault = "hang"
    error = DiagnosticStatus(level=DiagnosticStatus.ERROR, name="policy_second: policy", message="the weights are gone")
    diagnostics.publish(DiagnosticArray(status=[error]))
    assert graph.bench.spin(lambda: events and events[-1].kind is EventKind.SWAP_ROLLED_BACK, 5.0), events
    assert events[-1].reason == "the weights are gone"
    graph.probe.destroy_publisher(diagnostics)


def test_an_e_stop_button_latches_and_only_the_service_releases(graph: Graph, events: list[Event]) -> None:
    button = graph.probe.create_publisher(Bool, "estop", qos.reliable())
    assert graph.bench.spin(lambda: button.get_subscription_count() == 1)
    button.publish(Bool(data=True))
    assert graph.bench.spin(lambda: "e-stop: requested through topic estop" in graph.step.reason)
    button.publish(Bool(data=False))
    assert all("e-stop" in step.reason for step in graph.next_steps(3))
    assert call(graph, SetBool, "arbiter/estop", SetBool.Request(data=False)).success
    assert graph.bench.spin(lambda: graph.step.source is Source.POLICY)
    assert [event.kind for event in events] == [EventKind.ESTOP_LATCHED, EventKind.ESTOP_RELEASED]
    graph.probe.destroy_publisher(button)


def test_a_reflex_aborts_the_episode_where_it_is_told_to_and_the_recovery_is_told(
    graph: Graph, events: list[Event]
) -> None:
    mode = graph.probe.create_publisher(UInt8, "robot_mode", qos.latched())
    reset = graph.probe.create_service(Trigger, "cartesian_impedance_controller/recover", _recovers)
    episode_id = graph.step.episode_id
    mode.publish(UInt8(data=4))
    assert graph.bench.spin(
        lambda: any(e.episode_id == episode_id and e.outcome == "aborted" for e in graph.probe.episodes)
    )
    assert graph.bench.spin(lambda: call(graph, Trigger, "arbiter/recover", Trigger.Request()).success)
    mode.publish(UInt8(data=2))
    assert graph.bench.spin(lambda: any(event.kind is EventKind.RESUMED for event in events)), events
    kinds = [event.kind for event in events]
    order = [EventKind.FAULT, EventKind.RECOVERING, EventKind.RECOVERED, EventKind.RESUMED]
    assert [kind for kind in kinds if kind in order] == order and EventKind.ABORTED in kinds
    assert graph.bench.spin(lambda: graph.probe.episodes[-1].phase is Phase.RUNNING)
    graph.probe.destroy_service(reset)


def _recovers(_request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
    response.success = True
    return response
