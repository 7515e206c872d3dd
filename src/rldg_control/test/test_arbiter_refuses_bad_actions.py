"""Actions that are not finite, too large, stale, in another frame, of odd size or a stranger's do not move the arm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from control_graph import FORWARD, TASK, Graph, answer
from rldg_interfaces.msg import Action

from rldg_core.types import Change, Observation, Source


def _odd_size(observation: Observation) -> Action:
    message = answer(observation)
    message.deltas = [0.1] * 5
    return message


BAD: dict[str, tuple[Callable[[Observation], Action | None], str]] = {
    "nan": (lambda o: answer(o, np.full(6, np.nan)), "not finite"),
    "infinite": (lambda o: answer(o, np.array([np.inf, 0, 0, 0, 0, 0])), "not finite"),
    "stale": (lambda o: answer(o, observation_stamp_ns=o.stamp_ns - 2 * 10**9), "stale"),
    "from the future": (lambda o: answer(o, observation_stamp_ns=o.stamp_ns + 5 * 10**9), "future"),
    "wrong frame": (lambda o: answer(o, frame_id="fr3_link0"), "in frame 'fr3_link0'"),
    "zero period": (lambda o: answer(o, period_s=0.0), "period 0"),
    "odd size": (_odd_size, "shape (1, 5)"),
    "stranger": (lambda o: answer(o, policy_id="stranger"), "stale|has sent no action"),
    "silent": (lambda o: None, "stale|has sent no action"),
}


@pytest.fixture(scope="module")
def graph() -> Graph:
    with Graph("bad actions") as graph:
        yield graph


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_action_holds_the_arm_and_the_step_says_why(graph: Graph, kind: str) -> None:
    policy, says = BAD[kind]
    graph.probe.policy = answer
    if not graph.probe.episodes or graph.manager._flow.run is None:
        graph.run_until_running()
    assert graph.bench.spin(lambda: graph.step.source is Source.POLICY), graph.reasons()[-5:]
    graph.probe.policy = policy

    def holds_for_it() -> bool:  # and not because the machine was busy
        return graph.step.source is Source.HOLD and any(word in graph.step.reason for word in says.split("|"))

    assert graph.bench.spin(holds_for_it), graph.reasons()[-5:]
    held = graph.step
    assert pytest.approx(0.0) == np.abs(held.executed.delta).max()
    assert held.changed & Change.REFUSED
    graph.probe.policy = answer
    assert graph.bench.spin(lambda: graph.step.source is Source.POLICY), "it must recover by itself"


def test_a_huge_action_is_cut_to_what_the_task_allows(graph: Graph) -> None:
    graph.probe.policy = lambda o: answer(o, 1e6 * FORWARD)
    if graph.manager._flow.run is None:
        graph.run_until_running()
    assert graph.bench.spin(lambda: graph.step.source is Source.POLICY and Change.CLIPPED in graph.step.changed)
    steps = [step for step in graph.next_steps(3) if step.source is Source.POLICY]
    assert all(np.abs(step.executed.delta).max() <= 1.0 + 1e-6 for step in steps)
    for before, after in zip(graph.probe.steps, graph.probe.steps[1:], strict=False):
        moved = np.linalg.norm(after.target.position - before.target.position)
        assert moved <= TASK.safety.max_linear_speed_m_s * TASK.control.period_s + 1e-6
