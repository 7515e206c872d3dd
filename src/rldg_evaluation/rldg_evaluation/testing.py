"""Support for tests: results of trials that nobody ran."""

from __future__ import annotations

from rldg_core.types import Outcome
from rldg_evaluation.plan import LoadedPlan, Trial
from rldg_evaluation.running import Result
from rldg_evaluation.trace import Failure


def result(loaded: LoadedPlan, trial: Trial, outcome: Outcome, **changes: object) -> Result:
    """A trial with this outcome; failures got stuck."""
    fields = {
        "plan": loaded.hash,
        "trial": trial.id,
        "policy": trial.policy,
        "checkpoint_sha256": "",
        "task": loaded.tasks[trial.task].name,
        "scene": trial.scene,
        "seed": trial.seed,
        "outcome": outcome,
        "reason": "",
        "failure": Failure.NONE if outcome is Outcome.SUCCESS else Failure.STUCK,
        "steps": 50,
        "robot_s": 5.0,
        "closest_m": 0.01,
        "mean_force_n": 1.0,
        "peak_force_n": 9.0,
        "mean_torque_nm": 0.1,
        "limited_steps": 1,
        "guarded_steps": 0,
        "refused_steps": 0,
        "trouble": "",
        "answer_ms": 2.0,
        "wall_s": 0.5,
        "runner": "fast",
        "software": "abc1234",
    }
    return Result(**(fields | changes))  # type: ignore[arg-type]
