"""A run is stopped at any moment and taken up again: every trial once, and nothing mixed that does not belong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from rldg_core.types import Outcome
from rldg_evaluation import fast
from rldg_evaluation.plan import EvaluationError, EvaluationPlan, LoadedPlan, Trial, prepare
from rldg_evaluation.running import (
    TRACES,
    TRIALS,
    Job,
    Result,
    Stopper,
    Store,
    checkpoint_sha256,
    read_plan,
    read_results,
    run,
)
from rldg_evaluation.trace import Failure
from rldg_recorder.executors import TaskError, make_executor

DATA = {
    "name": "taken_up",
    "tasks": [{"task": "usb_insertion", "scenes": ["seen"]}],
    "policies": [{"name": "operator", "type": "operator"}, {"name": "down", "type": "scripted"}],
    "trials": 4,
}


def plan(**changes: object) -> LoadedPlan:
    return prepare(msgspec.convert(DATA | changes, EvaluationPlan, strict=False))


def outcome_of(trial: Trial) -> Outcome:
    return Outcome.SUCCESS if trial.policy == "operator" else Outcome.TIMEOUT


def pretend(job: Job, trial: Trial) -> Result:
    """A runner without a robot."""
    outcome = outcome_of(trial)
    return Result(
        plan=job.plan_hash,
        trial=trial.id,
        policy=trial.policy,
        checkpoint_sha256=job.checkpoint_sha256,
        task=job.loaded.tasks[trial.task].name,
        scene=trial.scene,
        seed=trial.seed,
        outcome=outcome,
        reason="",
        failure=Failure.NONE if outcome is Outcome.SUCCESS else Failure.FAR,
        steps=10,
        robot_s=1.0,
        closest_m=0.0,
        mean_force_n=0.0,
        peak_force_n=0.0,
        mean_torque_nm=0.0,
        limited_steps=0,
        guarded_steps=0,
        refused_steps=0,
        trouble="",
        answer_ms=0.0,
        wall_s=0.0,
        runner="fast",
    )


def everything(loaded: LoadedPlan, folder: Path, executor: str = "serial", play=pretend) -> list[Result]:
    with Store(folder, loaded) as store:
        for _ in run(loaded, store, play, make_executor(executor, 2)):
            pass
        return list(store.results)


def test_every_trial_is_run_once_and_read_back(tmp_path: Path) -> None:
    loaded = plan()
    results = everything(loaded, tmp_path / "run")
    assert Counter(result.trial for result in results) == Counter(trial.id for trial in loaded.trials)
    assert read_results(tmp_path / "run") == results
    assert read_plan(tmp_path / "run") == loaded and read_plan(tmp_path / "run").hash == loaded.hash
    assert everything(loaded, tmp_path / "run") == results  # nothing is left to do


def test_policies_take_turns_in_the_order_of_the_plan_and_the_operator_comes_last(tmp_path: Path) -> None:
    loaded = plan(policies=[*DATA["policies"], {"name": "up", "type": "scripted"}])
    with Store(tmp_path, loaded) as store:
        for _ in run(loaded, store, pretend, make_executor("serial", 1), interleaved=True):
            pass
        tried = [result.trial for result in store.results]
    driven = [trial for trial in loaded.trials if trial.policy != "operator"]
    assert tried[:8] == [trial.id for trial in driven] and len(tried) == 12
    assert len({trial.policy for trial in driven[:3]}) == 2  # not one after the other


@pytest.mark.parametrize("cut", range(1, 40, 7))
def test_a_last_line_that_was_cut_off_is_dropped_and_its_trial_run_again(cut, tmp_path) -> None:
    loaded, path = plan(), tmp_path / TRIALS
    whole = everything(loaded, tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_results(tmp_path) == whole[:-1]
    assert everything(loaded, tmp_path) == whole
    assert len(path.read_bytes().splitlines()) == len(whole)


def test_a_damaged_line_before_the_last_is_not_passed_over(tmp_path) -> None:
    loaded, path = plan(), tmp_path / TRIALS
    everything(loaded, tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    for damage in (
        b"{}\n",
        b"\x00\x00\n",
        b'{"plan": 1}\n',
        lines[1].replace(b'"timeout"', b'"maybe"').replace(b'"success"', b'"?"'),
    ):
        path.write_bytes(lines[0] + damage + b"".join(lines[2:]))
        with pytest.raises(EvaluationError, match=r"trials.jsonl:2: .*remove the line"):
            everything(loaded, tmp_path)
    assert path.read_bytes().startswith(lines[0])  # and what is good stays


def test_the_folder_of_another_plan_is_refused(tmp_path) -> None:
    everything(plan(), tmp_path)
    with pytest.raises(EvaluationError, match="holds trials of another plan; choose another --out"):
        everything(plan(trials=5), tmp_path)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(EvaluationError, match="is of another plan"):
        everything(plan(trials=5), tmp_path)


def test_two_runs_do_not_write_into_one_folder(tmp_path) -> None:
    loaded = plan()
    with Store(tmp_path, loaded), pytest.raises(EvaluationError, match="another run writes into it"):
        Store(tmp_path, loaded)
    Store(tmp_path, loaded).__exit__(None, None, None)


def test_a_checkpoint_that_changed_meanwhile_is_noticed(tmp_path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "weights").write_bytes(b"old")
    policies = [{"name": "down", "type": "scripted", "checkpoint": str(checkpoint)}]
    loaded = plan(policies=policies)
    (result, *_) = everything(loaded, tmp_path / "run")
    assert result.checkpoint_sha256 == checkpoint_sha256(str(checkpoint)) != ""
    (checkpoint / "weights").write_bytes(b"new")
    with pytest.raises(EvaluationError, match=r"policy down: checkpoint .* has changed since trial"):
        everything(loaded, tmp_path / "run")
    (checkpoint / "weights").rename(checkpoint / "renamed")
    (checkpoint / "renamed").write_bytes(b"old")
    assert checkpoint_sha256(str(checkpoint)) != result.checkpoint_sha256


@pytest.mark.parametrize("text", [None, b"", b"{}", b"\xff"])
def test_a_folder_without_a_sound_plan_is_refused(text, tmp_path) -> None:
    if text is not None:
        (tmp_path / "plan.json").write_bytes(text)
    with pytest.raises(EvaluationError, match=r"plan\.json: "):
        read_plan(tmp_path)


def test_trials_stop_as_soon_as_the_side_is_clear(tmp_path) -> None:
    loaded = plan(trials=60, stop={"against": 0.8})
    results = everything(loaded, tmp_path)
    tried = Counter(result.policy for result in results)
    # 1 / ((n + 1) 0.2^n) first exceeds 20 at n = 3, and 1 / ((n + 1) 0.8^n) at n = 29
    assert (tried["down"], tried["operator"]) == (3, 29)
    assert everything(loaded, tmp_path) == results


def test_a_trial_that_is_not_wanted_any_more_costs_nothing(tmp_path) -> None:
    loaded, played = plan(trials=60, stop={"against": 0.8}), list[str]()

    def count(job: Job, trial: Trial) -> Result:
        played.append(trial.id)
        return pretend(job, trial)

    with Store(tmp_path, loaded) as store:
        told = list(run(loaded, store, count, make_executor("serial", 1)))
    assert len(told) == 120 and told.count(None) == 120 - len(played) == 120 - 32


def test_without_a_rule_nothing_stops() -> None:
    stopper = Stopper(None, [])
    assert not any(stopper.is_closed(trial, "usb_insertion") for trial in plan(trials=100).trials)


def fail_at_three(job: Job, trial: Trial) -> Result:
    if len(read_results(Path(job.folder))) == 3:
        raise ValueError("the cable is out")
    return pretend(job, trial)


def test_what_was_done_before_an_error_is_kept(tmp_path) -> None:
    with pytest.raises(TaskError, match="the cable is out"):
        everything(plan(), tmp_path, play=fail_at_three)
    assert len(read_results(tmp_path)) == 3
    assert len(everything(plan(), tmp_path)) == 8


SCRIPT = """
import sys
from pathlib import Path
from rldg_evaluation import fast
from rldg_evaluation.running import Store, run
from rldg_evaluation.plan import load_plan
from rldg_recorder.executors import make_executor
if __name__ == "__main__":
    loaded = load_plan(sys.argv[1])
    with Store(Path(sys.argv[2]), loaded) as store:
        for _ in run(loaded, store, fast.play, make_executor("processes", 2)):
            pass
"""


def children(pid: int) -> set[int]:
    return {int(p) for task in Path(f"/proc/{pid}/task").iterdir() for p in (task / "children").read_text().split()}


def test_a_run_that_was_killed_goes_on_where_it_was_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "taken_up.yaml").write_bytes(msgspec.yaml.encode(DATA))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "taken_up.yaml"), str(tmp_path / "run")]
    process = subprocess.Popen(command)
    trials, end = tmp_path / "run" / TRIALS, time.monotonic() + 60.0
    while not (trials.exists() and trials.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    workers = children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = read_results(tmp_path / "run")
    assert 2 <= len(before) < 8 and workers
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert subprocess.run(command, timeout=90.0).returncode == 0
    after = read_results(tmp_path / "run")
    assert after[: len(before)] == before
    loaded = plan()
    assert Counter(result.trial for result in after) == Counter(trial.id for trial in loaded.trials)
    assert {path.stem for path in (tmp_path / "run" / TRACES).glob("*.npz")} == {trial.id for trial in loaded.trials}
    # and in one go, in this process, the same comes out
    alone = everything(loaded, tmp_path / "alone", play=fast.play)
    facts = {result.trial: (result.outcome, result.steps, result.failure, result.closest_m) for result in alone}
    assert {result.trial: (result.outcome, result.steps, result.failure, result.closest_m) for result in after} == facts
