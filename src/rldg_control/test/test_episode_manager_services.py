"""The episode manager's action and services in the graph: run, cancel, label, a reset that fails or is absent."""

from __future__ import annotations

import pytest
from action_msgs.msg import GoalStatus
from control_graph import Graph
from rldg_interfaces.srv import LabelEpisode
from std_msgs.msg import String

from rldg_core.events import Event, EventKind, parse_event
from rldg_core.types import Outcome, Phase
from rldg_ros import qos


@pytest.fixture
def graph(request: pytest.FixtureRequest) -> Graph:
    with Graph(request.node.name) as graph:
        yield graph


def _label(graph: Graph, label: str) -> LabelEpisode.Response:
    client = graph.probe.create_client(LabelEpisode, "episode_manager/label")
    assert graph.bench.spin(client.service_is_ready)
    future = client.call_async(LabelEpisode.Request(label=label, labeller="ann"))
    assert graph.bench.spin(future.done)
    return future.result()


def _result(graph: Graph, goal: object) -> object:
    future = goal.result().get_result_async()
    assert graph.bench.spin(future.done)
    return future.result()


def _spin_to(graph: Graph, phase: Phase) -> None:
    assert graph.bench.spin(lambda: graph.probe.episodes and graph.probe.episodes[-1].phase is phase)


def test_labels_end_episodes_until_the_run_succeeds(graph: Graph) -> None:
    goal = graph.run_episodes(2, first_seed=5)
    for label in ("success", "failure"):
        _spin_to(graph, Phase.RUNNING)
        assert _label(graph, label).success
        assert graph.bench.spin(lambda label=label: graph.probe.episodes[-1].outcome == label)
    answer = _result(graph, goal)
    assert answer.status == GoalStatus.STATUS_SUCCEEDED
    assert (answer.result.completed, answer.result.successes, answer.result.message) == (2, 1, "")
    assert [request.seed for request in graph.cell.resets] == [5, 6]
    ended = [e for e in graph.probe.episodes if e.phase is Phase.ENDED]
    assert [e.episode_id for e in ended] == ["s/0001", "s/0002"]  # once each
    assert [e.reward for e in ended] == [1.0, 0.0] and ended[0].reason == "label by ann"


def test_a_label_is_an_event_at_once_and_a_refused_one_is_none(graph: Graph) -> None:
    events: list[Event] = []
    graph.probe.create_subscription(String, "event", lambda m: events.append(parse_event(m.data)), qos.latched(20))
    assert not _label(graph, "success").success
    graph.run_until_running()
    assert _label(graph, "success").success
    assert graph.bench.spin(lambda: events)
    assert [(event.kind, event.reason, event.episode_id) for event in events] == [
        (EventKind.LABELLED, "success by ann", "s/0001")
    ]


def test_a_second_run_is_refused_while_one_is_under_way(graph: Graph) -> None:
    graph.run_until_running()
    assert not graph.run_episodes().result().accepted


def test_a_cancelled_run_aborts_its_episode(graph: Graph) -> None:
    goal = graph.run_episodes(3)
    _spin_to(graph, Phase.RUNNING)
    cancel = goal.result().cancel_goal_async()
    assert graph.bench.spin(cancel.done)
    answer = _result(graph, goal)
    assert answer.status == GoalStatus.STATUS_CANCELED
    assert (answer.result.completed, answer.result.message) == (1, "cancelled")
    assert any(e.outcome is Outcome.ABORTED for e in graph.probe.episodes)
    _spin_to(graph, Phase.IDLE)
    assert graph.run_episodes().result().accepted


def test_a_run_can_be_cancelled_although_observations_have_stopped(graph: Graph) -> None:
    goal = graph.run_episodes(3)
    _spin_to(graph, Phase.RUNNING)
    graph.bench.remove(graph.observer)
    cancel = goal.result().cancel_goal_async()
    assert graph.bench.spin(cancel.done)
    assert _result(graph, goal).status == GoalStatus.STATUS_CANCELED


def test_a_refused_reset_aborts_the_run_with_its_reason(graph: Graph) -> None:
    graph.cell.refuse_reset = "the door is open"
    answer = _result(graph, graph.run_episodes(3))
    assert answer.status == GoalStatus.STATUS_ABORTED
    assert answer.result.message == "reset failed: the door is open"
    assert [e.outcome for e in graph.probe.episodes if e.phase is Phase.ENDED] == [Outcome.ABORTED]


def test_a_missing_reset_service_aborts_the_run_and_is_named(graph: Graph) -> None:
    graph.cell.destroy_service(next(s for s in graph.cell.services if s.service_name.endswith("reset_scene")))
    assert graph.bench.spin(lambda: not graph.manager._reset_client.service_is_ready())
    answer = _result(graph, graph.run_episodes(3))
    assert answer.status == GoalStatus.STATUS_ABORTED and "no service reset_scene" in answer.result.message


def test_labels_without_an_episode_and_unknown_ones_are_refused(graph: Graph) -> None:
    assert "no episode to label" in _label(graph, "success").message
    graph.run_until_running()
    refused = _label(graph, "splendid")
    assert not refused.success and "'splendid' is not one of" in refused.message


def test_the_episode_that_just_ended_can_be_relabelled(graph: Graph) -> None:
    graph.run_until_running()
    assert _label(graph, "failure").success
    assert graph.bench.spin(lambda: graph.manager._judge.status.phase is Phase.ENDED)
    graph.cell.publish = lambda stamp_ns: None  # no further observation may make it idle
    _spin_to(graph, Phase.ENDED)
    request = LabelEpisode.Request(label="success", labeller="bob")
    assert graph.manager._on_label(request, LabelEpisode.Response()).success
    assert graph.bench.spin(lambda: any(e.outcome is Outcome.SUCCESS for e in graph.probe.episodes))
    ended = [e for e in graph.probe.episodes if e.phase is Phase.ENDED]
    assert [e.outcome for e in ended] == [Outcome.FAILURE, Outcome.SUCCESS]
    assert len({e.episode_id for e in ended}) == 1 and ended[-1].reason == "relabelled by bob"


def test_deactivation_ends_the_run(graph: Graph) -> None:
    goal = graph.run_episodes(3)
    _spin_to(graph, Phase.RUNNING)
    graph.manager.trigger_deactivate()
    answer = _result(graph, goal)
    assert answer.status == GoalStatus.STATUS_ABORTED and "deactivated" in answer.result.message


def test_a_run_ends_when_the_arbiter_dies_under_it(graph: Graph) -> None:
    goal = graph.run_episodes(3)
    _spin_to(graph, Phase.RUNNING)
    graph.bench.remove(graph.arbiter)
    answer = _result(graph, goal)
    assert answer.status == GoalStatus.STATUS_ABORTED and "arbiter died or hangs" in answer.result.message
    assert [e.outcome for e in graph.probe.episodes if e.phase is Phase.ENDED] == [Outcome.ABORTED]
