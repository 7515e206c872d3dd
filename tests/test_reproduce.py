"""The verbs that run experiments: what they refuse, what they list, what follows from the minutes."""

import subprocess
import sys

import pytest

from rldg_bringup.demo import MINUTES, scaled
from rldg_experiments.plan import Collect, Evaluate, Finetune


def rldg(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rldg_bringup.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=110.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reproduce", "nothing"], "no such file; experiments here: demo"),
        (["reproduce", "demo", "--set", "trials"], "must be of the form NAME=VALUE"),
        (["reproduce", "demo", "--set", "colour=red"], "parameter 'colour': unknown"),
        (["reproduce", "demo", "--set", "trials={"], "--set: 'trials={'"),
        (["reproduce", "demo", "--again", "nobody"], "--again: no stage 'nobody'"),
        (["demo", "--minutes", "5"], "must be from 10 to 1440"),
        (["demo", "--seed", "200"], "must be from 0 to 199"),
        (["demo", "--task", "usb"], "no such file; tasks here"),
        (["show", "--policy", "octo=/nowhere"], "/nowhere is no folder"),
        (["show", "--swap-to", "faulty", "--lockstep"], "--swap-to: is for real time"),
    ],
)
def test_a_wrong_call_is_refused_in_one_line_before_anything_starts(words: list[str], said: str) -> None:
    done = rldg(*words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr


def test_without_a_name_the_experiments_are_listed() -> None:
    done = rldg("reproduce")
    assert done.returncode == 0 and "fig5_connectors: " in done.stdout and "_connectors: " not in done.stdout[:14]


def test_a_plan_is_told_without_doing_it(tmp_path) -> None:
    done = rldg("reproduce", "demo", "--plan", "--workspace", str(tmp_path / "stages"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("waiting") == 9 and not (tmp_path / "stages").exists()


def test_less_time_means_less_data_steps_and_trials_and_the_same_specialist() -> None:
    usual, short = scaled(MINUTES, 0), scaled(MINUTES // 2, 0)
    assert usual.stage("specialist") == short.stage("specialist")
    for name, kind, field in (("rollouts", Collect, "successes"), ("rldg-student", Finetune, "steps")):
        long_stage, short_stage = usual.stage(name), short.stage(name)
        assert isinstance(short_stage, kind) and getattr(short_stage, field) < getattr(long_stage, field)
    trials = [experiment.stage("evaluation") for experiment in (usual, short)]
    assert isinstance(trials[0], Evaluate) and trials[1].plan["trials"] < trials[0].plan["trials"]
    for one, other in (("rollouts", "demonstrations"), ("rldg-student", "human-student")):
        first, second = short.stage(one), short.stage(other)
        assert getattr(first, "successes", None) == getattr(second, "successes", None)
        assert getattr(first, "steps", None) == getattr(second, "steps", None)


@pytest.mark.long
def test_a_policy_takes_over_in_the_film(tmp_path) -> None:
    done = rldg("show", "--policy", "scripted", "--swap-to", "faulty", "--episodes", "1", "--output", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "policy 'faulty' drives: it took over from 'scripted'" in done.stdout and (tmp_path / "film.mp4").is_file()
