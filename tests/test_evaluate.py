"""``./rldg evaluate``: the same trials in processes and through the graph, and a report at the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml

from rldg_bringup.testing import free_environment
from rldg_evaluation.agreement import AGREEMENT
from rldg_evaluation.bag_trace import read_trace
from rldg_evaluation.running import TRACES, Result, read_results
from rldg_evaluation.trace import Trace
from rldg_recorder.episode import BagError, read_info

OPERATOR = {"name": "operator", "type": "operator"}
DOWN = {"name": "down", "type": "scripted"}
FREE_SPACE = 15  # steps; contact amplifies the nanometres of another settling time


def plan(folder: Path, *policies: dict[str, object], trials: int = 1, task: str = "usb_insertion") -> Path:
    data = {
        "name": "tried",
        "tasks": [{"task": task, "scenes": ["seen"]}],
        "policies": list(policies),
        "trials": trials,
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def evaluate(*arguments: object, timeout_s: float = 110.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rldg_bringup.cli", "evaluate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=free_environment())


def test_a_plan_becomes_trials_and_a_report_that_says_who_is_better(tmp_path: Path) -> None:
    done = evaluate(plan(tmp_path, OPERATOR, DOWN, trials=8), "--fast", "--jobs", 2, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "operator succeeds more often than down: 8 of 8 against 0 of 8 on the same start states" in said
    assert (tmp_path / "out/report.html").is_file() and len(read_results(tmp_path / "out")) == 16
    again = evaluate(tmp_path / "plan.yaml", "--report", "--out", tmp_path / "out")
    assert again.returncode == 0 and len(read_results(tmp_path / "out")) == 16


def test_wrong_calls_are_refused_in_one_line(tmp_path: Path) -> None:
    sound = plan(tmp_path, DOWN)
    cases = {
        "name a plan, or say --power": evaluate(),
        "plans here: ": evaluate("nothing"),
        "--jobs: is 0": evaluate(sound, "--fast", "--jobs", 0),
        "--real-time: is for the launched cell": evaluate(sound, "--fast", "--real-time"),
        "--both: includes --fast": evaluate(sound, "--fast", "--both"),
        "plan.json: cannot be read": evaluate(sound, "--report", "--out", tmp_path / "nothing"),
        "more than 2000 trials": evaluate("--power", 0.5, 0.5),
        "first probability: is 80.0, must be from 0 to 1": evaluate("--power", 80, 95),
    }
    for words, done in cases.items():
        assert done.returncode == 2
        assert words in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_a_policy_that_cannot_be_made_ends_the_run_and_keeps_what_is_done(tmp_path: Path) -> None:
    bad = {"name": "bad", "type": "scripted", "parameters": {"speed": 1.0}}
    done = evaluate(plan(tmp_path, OPERATOR, bad), "--fast", "--jobs", 1, "--out", tmp_path / "out")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "unknown field `speed`" in done.stderr
    assert [result.policy for result in read_results(tmp_path / "out")] == ["operator"]


def test_the_number_of_trials_is_told_without_a_plan() -> None:
    done = evaluate("--power", 0.8, 0.95)
    assert done.returncode == 0 and done.stdout.startswith("82 trials of each")


def both(folder: Path, trials: int, *policies: dict[str, object], timeout_s: float) -> list[tuple[Result, Result]]:
    path = plan(folder, *policies, trials=trials)
    done = evaluate(path, "--both", "--jobs", 1, "--out", folder, timeout_s=timeout_s)
    assert done.returncode == 0, done.stderr
    here, there = ({r.trial: r for r in read_results(folder / out)} for out in ("fast", "graph"))
    assert here.keys() == there.keys()
    return [(here[trial], there[trial]) for trial in sorted(here)]


def test_trials_of_policies_that_take_turns_in_one_cell_are_those_in_process_and_have_a_bag(tmp_path: Path) -> None:
    slow = [
        {"name": f"{mm}mm_s", "type": "scripted", "parameters": {"speed_m_s": mm / 1000}} for mm in (10, 20)
    ]  # so slow that they stay in free space
    pairs = both(tmp_path, 1, *slow, timeout_s=115.0)
    driven = [read_info(tmp_path / "graph" / theirs.bag).policies for _, theirs in pairs]
    assert sorted(policy.policy_id for policies in driven for policy in policies) == ["a", "b"]  # one in each trial
    for mine, theirs in pairs:
        assert (mine.outcome, mine.start, mine.runner) == (theirs.outcome, theirs.start, "fast")
        assert theirs.runner == "graph" and theirs.refused_steps == 0
        bag = tmp_path / "graph" / theirs.bag
        assert (read_info(bag).state, read_info(bag).seed) == ("complete", mine.seed)
        here, there = (Trace.load(tmp_path / out / TRACES / f"{mine.trial}.npz") for out in ("fast", "graph"))
        for name in ("tcp_m", "to_goal_m", "executed", "wrench"):
            first, second = (getattr(trace, name)[:FREE_SPACE] for trace in (here, there))
            np.testing.assert_allclose(first, second, atol=0.05 if name == "wrench" else 1e-4)
        np.testing.assert_array_equal(here.source[:FREE_SPACE], there.source[:FREE_SPACE])
        assert (len(here.tcp_m) - len(here.source), len(there.tcp_m) - len(there.source)) == (1, 1)
    assert (tmp_path / "graph" / "report.html").read_text().count("<video ") == 2
    told = msgspec.json.decode((tmp_path / AGREEMENT).read_bytes())["policies"]
    assert [each["same_outcome"] for each in told] == [1, 1]
    (bag / "metadata.yaml").unlink()
    for file in bag.glob("*.mcap"):
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BagError):
        read_trace(bag)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("task", ["usb_insertion", "pick_and_place"])
def test_success_through_the_graph_and_in_process_agree_within_statistical_error(task: str, tmp_path: Path) -> None:
    done = evaluate(
        plan(tmp_path, OPERATOR, trials=40, task=task), "--both", "--out", tmp_path / "out", timeout_s=1700.0
    )
    assert done.returncode == 0, done.stderr
    (told,) = msgspec.json.decode((tmp_path / "out" / AGREEMENT).read_bytes())["policies"]
    assert sum(told["pairs"]) == 40 and told["p"] > 0.05, told
