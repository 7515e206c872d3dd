"""In lockstep one tick follows the other, everyone answers each stamp, and the same run gives the same steps."""

from __future__ import annotations

import numpy as np
from control_graph import TASK, Graph, answer
from rldg_interfaces.msg import Action

from rldg_core.types import Observation, Source, Step

STEPS = 60


def _noisy_policy() -> object:
    rng = np.random.default_rng(3)

    def policy(observation: Observation) -> Action:
        return answer(observation, rng.uniform(-1.0, 1.0, 6))

    return policy


def _run(name: str) -> tuple[list[Step], list[Observation]]:
    with Graph(name, lockstep=True, lockstep_wait_for=["policy"], lockstep_timeout_s=20.0) as graph:
        graph.probe.policy = _noisy_policy()
        assert graph.bench.spin(lambda: graph.probe._actions.get_subscription_count() == 1)
        graph.bench.spin_for(0.5)
        goal = graph.run_episodes(2)
        assert goal.result().accepted
        graph.cell.limit = STEPS
        graph.cell.publish(10**9)
        assert graph.bench.spin(lambda: len(graph.probe.steps) >= STEPS, 30.0), graph.reasons()[-3:]
        return graph.probe.steps[:STEPS], graph.probe.observations


def _same(a: Step, b: Step) -> bool:
    return (
        np.array_equal(a.target.position, b.target.position)
        and np.array_equal(a.target.quaternion, b.target.quaternion)
        and np.array_equal(a.executed.delta, b.executed.delta)
        and (a.stamp_ns, a.index, a.source, a.reason, a.changed, a.episode_id)
        == (b.stamp_ns, b.index, b.source, b.reason, b.changed, b.episode_id)
    )


def test_every_stamp_has_one_observation_and_one_step_and_runs_repeat_exactly() -> None:
    steps, observations = _run("lockstep one")
    period_ns = round(TASK.control.period_s * 1e9)
    stamps = [step.stamp_ns for step in steps]
    assert stamps == [10**9 + i * period_ns for i in range(STEPS)]
    assert [step.observation_stamp_ns for step in steps] == stamps
    assert [o.stamp_ns for o in observations[:STEPS]] == stamps
    driven = [step for step in steps if step.source is Source.POLICY]
    assert len(driven) > STEPS // 2
    assert [step.index for step in driven] == list(range(len(driven)))
    assert driven[0].is_first and not any(step.reason for step in steps)
    again, _ = _run("lockstep two")
    assert all(_same(a, b) for a, b in zip(steps, again, strict=True))


def test_a_policy_that_does_not_answer_is_named_and_costs_one_time_out() -> None:
    with Graph("lockstep absent", lockstep=True, lockstep_wait_for=["policy"], lockstep_timeout_s=0.5) as graph:
        graph.probe.policy = lambda observation: None
        graph.bench.spin_for(0.5)
        graph.cell.limit = 30
        graph.cell.publish(10**9)
        assert graph.bench.spin(lambda: len(graph.probe.steps) >= 30, 10.0), len(graph.probe.steps)
        assert all(step.reason == "lockstep: policy is missing" for step in graph.probe.steps)
        graph.probe.policy = answer
        graph.cell.limit = 60
        graph.cell.publish(graph.cell.stamp_ns + 10**8)
        assert graph.bench.spin(lambda: len(graph.probe.steps) >= 60, 10.0)
        assert not graph.step.reason
