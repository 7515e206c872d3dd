"""Two ways to run the same trials are compared pair by pair."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from rldg_core.types import Outcome
from rldg_evaluation.agreement import AGREEMENT, agree, pair_up, write_agreement
from rldg_evaluation.plan import EvaluationPlan, LoadedPlan, prepare
from rldg_evaluation.running import TRACES, Store
from rldg_evaluation.testing import result
from rldg_evaluation.trace import Trace

DATA = {
    "name": "both",
    "tasks": [{"task": "usb_insertion", "scenes": ["seen"]}],
    "policies": [{"name": "p", "type": "scripted"}],
}


def plan(trials: int = 4, **changes: object) -> LoadedPlan:
    return prepare(msgspec.convert({**DATA, "trials": trials, **changes}, EvaluationPlan))


def keep(folder: Path, loaded: LoadedPlan, outcomes: list[Outcome], steps: int = 5, shift_m: float = 0.0) -> Path:
    """Trials with these outcomes; from observation 3 on the TCP is shifted."""
    tcp_m = np.zeros((steps + 1, 3))
    tcp_m[3:, 0] = shift_m
    zeros = np.zeros
    trace = Trace(
        tcp_m,
        zeros((0, 3)),
        zeros((steps + 1, 3)),
        zeros((steps + 1, 6)),
        zeros(steps + 1, bool),
        zeros(steps, np.uint8),
        zeros(steps, np.uint32),
        zeros((steps, 6)),
    )
    with Store(folder, loaded) as store:
        for trial, outcome in zip(sorted(loaded.trials, key=lambda t: t.id), outcomes, strict=True):
            store.append(result(loaded, trial, outcome, steps=steps, robot_s=0.1 * steps, runner=""))
            trace.save(folder / TRACES / f"{trial.id}.npz")
    return folder


DONE, LATE, NOT = Outcome.SUCCESS, Outcome.TIMEOUT, Outcome.ABORTED


def test_pairs_are_counted_by_who_succeeded_and_where_they_parted(tmp_path: Path) -> None:
    loaded = plan()
    fast = keep(tmp_path / "fast", loaded, [DONE, DONE, LATE, LATE])
    graph = keep(tmp_path / "graph", loaded, [DONE, LATE, DONE, LATE], shift_m=0.002)
    (told,) = write_agreement(fast, graph, tmp_path)
    assert told.pairs == (1, 1, 1, 1) and told.difference == 0.0 and told.p == 1.0
    assert (told.same_outcome, told.same_steps, told.never_parted) == (2, 4, 0)
    assert told.interval.low < 0.0 < told.interval.high and told.equivalent_within < told.interval.high
    data = msgspec.json.decode((tmp_path / AGREEMENT).read_bytes())
    assert [pair["parted"] for pair in data["pairs"]] == [3] * 4 and data["policies"][0]["same_outcome"] == 2


def test_all_alike_is_said_with_how_sure_that_is(tmp_path: Path) -> None:
    loaded = plan(100)
    folders = [keep(tmp_path / name, loaded, [DONE] * 99 + [LATE]) for name in ("fast", "graph")]
    (told,) = agree(pair_up(*folders))
    assert 0.0 < told.equivalent_within < 0.06
    assert "99 of 100 in process, 99 of 100 through the graph, +0.0 points" in told.sentence
    assert "Same outcome in 100 pairs, same number of steps in 100, within 1 mm all the way in 100." in told.sentence


def test_trials_that_count_for_nothing_and_those_run_once_are_left_out(tmp_path: Path) -> None:
    loaded = plan()
    fast = keep(tmp_path / "fast", loaded, [DONE, NOT, DONE, DONE])
    graph = keep(tmp_path / "graph", loaded, [NOT, DONE, DONE, LATE], steps=7)
    pairs = pair_up(fast, graph)
    assert [pair.outcomes for pair in pairs] == [("success", "success"), ("success", "timeout")]
    assert pairs[0].steps == (5, 7) and pairs[0].parted is None


def test_folders_of_different_plans_are_refused(tmp_path: Path) -> None:
    fast = keep(tmp_path / "fast", plan(), [DONE] * 4)
    graph = keep(tmp_path / "graph", plan(seed=1), [DONE] * 4)
    with pytest.raises(ValueError, match="different plans"):
        pair_up(fast, graph)
