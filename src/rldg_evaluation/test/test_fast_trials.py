"""Trials in one process: the same door, the same outcome every time, and nothing a policy does ends the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from rldg_core.types import ActionChunk, Observation, Outcome, Source
from rldg_evaluation import fast
from rldg_evaluation.plan import EvaluationPlan, LoadedPlan, TriedPolicy, prepare
from rldg_evaluation.running import TRACES, Job
from rldg_evaluation.trace import Failure, Trace
from rldg_sim.cell import Cell
from rldg_sim.demonstrate import demonstrate
from rldg_sim.loop import POLICY_ID, Loop


def plan(*policies: dict[str, object], task: str = "usb_insertion") -> LoadedPlan:
    data = {"name": "p", "tasks": [{"task": task, "scenes": ["seen"]}], "policies": policies, "trials": 2}
    return prepare(msgspec.convert(data, EvaluationPlan, strict=False))


def job(loaded: LoadedPlan, folder: Path) -> Job:
    (folder / TRACES).mkdir(exist_ok=True)
    return Job(loaded=loaded, plan_hash=loaded.hash, folder=str(folder), checkpoint_sha256="", software="test")


class Puppet:
    """A policy whose answers a test gives."""

    policy_id, rate_hz = POLICY_ID, 10.0

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.resets = 0
        self.answer = lambda observation: chunk(observation, np.zeros((1, 6)))

    def warm_up(self) -> None: ...

    def reset(self) -> None:
        self.resets += 1

    def act(self, observation: Observation) -> ActionChunk:
        self.asked.append(observation.index)
        return self.answer(observation)


def chunk(observation: Observation, deltas: np.ndarray, **changes: object) -> ActionChunk:
    fields = {
        "observation_stamp_ns": observation.stamp_ns,
        "policy_id": POLICY_ID,
        "deltas": deltas,
        "gripper_closed": np.ones(len(deltas), bool),
        "period_s": 0.1,
        "frame_id": "fr3_hand_tcp",
    }
    return ActionChunk(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def puppet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Puppet]:
    made = Puppet()
    monkeypatch.setattr(fast, "make_policy", lambda *_: made)
    monkeypatch.setattr(fast, "_stage", None)
    yield made


def played(puppet: Puppet, folder: Path, latency_s: float = 0.0):
    loaded = plan({"name": "puppet", "type": "scripted", "latency_s": latency_s})
    stage = fast.Stage(loaded.plan.policies[0])
    result, trace = stage.play(job(loaded, folder), loaded.trials[0])
    return result, trace


def test_the_operator_does_what_he_does_when_he_demonstrates(tmp_path: Path) -> None:
    loaded = plan({"name": "operator", "type": "operator"})
    trial = loaded.trials[0]
    result = fast.play(job(loaded, tmp_path), trial)
    task = loaded.tasks["usb_insertion"]
    ticks, steps = demonstrate(Loop(task, Cell(task), with_images=False), trial.seed, scene=trial.scene)
    assert result is not None and (result.outcome, result.steps) == (ticks[-1].status.outcome, len(steps))
    trace = Trace.load(tmp_path / TRACES / f"{trial.id}.npz")
    np.testing.assert_array_equal(trace.executed, [step.executed.delta for step in steps])
    assert result.robot_s == pytest.approx(0.1 * len(steps)) and result.plan == loaded.hash


def test_a_trial_comes_out_the_same_whatever_was_tried_before(tmp_path: Path) -> None:
    loaded = plan({"name": "down", "type": "scripted"})
    first, second = loaded.trials
    here = job(loaded, tmp_path)
    alone = fast.Stage(loaded.plan.policies[0]).play(here, second)
    stage = fast.Stage(loaded.plan.policies[0])
    stage.play(here, first)
    after = stage.play(here, second)
    np.testing.assert_array_equal(alone[1].executed, after[1].executed)
    clocks = {"wall_s": 0.0, "answer_ms": 0.0}
    assert msgspec.structs.replace(alone[0], **clocks) == msgspec.structs.replace(after[0], **clocks)


def test_a_policy_is_asked_once_a_tick_and_told_when_an_episode_begins(puppet, tmp_path) -> None:
    result, trace = played(puppet, tmp_path)
    assert puppet.asked == list(range(result.steps)) and puppet.resets == 1
    assert (trace.source == Source.POLICY).all() and result.outcome is Outcome.TIMEOUT
    assert (result.refused_steps, result.trouble, result.failure) == (0, "", Failure.FAR)


def test_a_slow_policy_answers_late_and_its_chunk_goes_on_meanwhile(puppet, tmp_path) -> None:
    rows = np.zeros((8, 6))
    rows[:, 5] = np.linspace(0.1, 0.8, 8)  # turning about the tool disturbs nothing else
    puppet.answer = lambda observation: chunk(observation, rows)
    _, trace = played(puppet, tmp_path, latency_s=0.3)
    assert puppet.asked[:4] == [0, 3, 6, 9]
    assert (trace.source[:3] == Source.HOLD).all()  # nothing has come yet
    # the answer to observation 0 comes at tick 3, when the fourth of its actions is due
    np.testing.assert_allclose(trace.executed[3:9, 5], [0.4, 0.5, 0.6, 0.4, 0.5, 0.6], atol=1e-6)


def test_answers_that_come_too_late_are_not_executed(puppet, tmp_path) -> None:
    result, trace = played(puppet, tmp_path, latency_s=0.5)
    assert (trace.source == Source.HOLD).all()
    assert result.failure is Failure.NO_ANSWER and result.refused_steps == result.steps


WRONG = {
    "raises": (lambda o: 1 / 0, "ZeroDivisionError: division by zero"),
    "NaN": (lambda o: chunk(o, np.full((1, 6), np.nan)), "not finite"),
    "wrong shape": (lambda o: chunk(o, np.zeros((1, 5))), "shape"),
    "of somebody else": (lambda o: chunk(o, np.zeros((1, 6)), policy_id="other"), "answered as 'other'"),
    "nothing": (lambda o: None, "returned NoneType"),
    "another observation": (lambda o: chunk(o, np.zeros((1, 6)), observation_stamp_ns=1), "another observation"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_policy_that_answers_nonsense_holds_the_arm_and_the_result_says_why(case, puppet, tmp_path) -> None:
    puppet.answer, words = WRONG[case]
    result, trace = played(puppet, tmp_path)
    assert words in result.trouble and "\n" not in result.trouble
    assert (trace.source == Source.HOLD).all() and result.failure is Failure.NO_ANSWER


def test_a_policy_that_cannot_be_made_is_named(tmp_path) -> None:
    loaded = plan({"name": "bad", "type": "scripted", "parameters": {"speed": 1.0}})
    with pytest.raises(ValueError, match="unknown field `speed`"):
        fast.play(job(loaded, tmp_path), loaded.trials[0])


def test_the_operator_has_no_parameters() -> None:
    assert TriedPolicy(name="a", type="operator").all_parameters == {}
