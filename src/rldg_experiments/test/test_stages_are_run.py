"""Stages are run when what they need is there, once, and an interrupted run is taken up."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_plans import SMALL, written

from rldg_experiments.plan import ExperimentError, load_experiment
from rldg_experiments.running import RECORD, Here, StageError, run, survey

FAKE = (sys.executable, str(Path(__file__).with_name("fake_verbs.py")))


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "calls"
    path.touch()
    monkeypatch.setenv("FAKE_CALLS", str(path))
    return path


def verbs(calls: Path) -> list[str]:
    return [line.split()[0] for line in calls.read_text().splitlines()]


def test_every_stage_is_done_once_after_what_it_needs(tmp_path: Path, calls: Path) -> None:
    experiment, workspace = load_experiment(written(tmp_path)), tmp_path / "stages"
    records = run(experiment, workspace, Here(FAKE))
    assert verbs(calls) == ["collect", "dataset", "finetune", "evaluate"]
    assert list(records) == ["demos", "data", "student", "trials"]
    assert records["student"].told == {"verb": "finetune"} and records["student"].command[0] == "finetune"
    assert run(experiment, workspace, Here(FAKE)) == records
    assert len(verbs(calls)) == 4 and all(state.kept for state in survey(experiment, workspace))


def test_what_a_verb_is_told_names_what_the_others_made(tmp_path: Path, calls: Path) -> None:
    workspace = tmp_path / "stages"
    records = run(load_experiment(written(tmp_path)), workspace, Here(FAKE))
    data = next(workspace.glob("build-*/data"))
    assert records["student"].command[1:4] == ("octo_nano", "--data", str(data))
    recipe = json.loads(next(workspace.glob("build-*/recipe.yaml")).read_text())
    assert recipe["bags"] == [str(next(workspace.glob("collect-*/bags")))]


def test_records_name_no_folder_of_this_machine(tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load_experiment(written(tmp_path))
    monkeypatch.chdir(tmp_path)
    records = run(experiment, Path("stages"), Here(FAKE))
    assert str(tmp_path) not in "".join(path.read_text() for path in Path("stages").glob(f"*/{RECORD}"))
    assert records["demos"].command[-3].startswith("stages/collect-usb_insertion-")


def test_a_stage_that_fails_is_named_with_its_last_line_and_the_next_run_goes_on(
    tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, workspace = load_experiment(written(tmp_path)), tmp_path / "stages"
    monkeypatch.setenv("FAKE_FAILS", "finetune")
    with pytest.raises(StageError, match=r"student: ended with status 3: the cable is out; log: .*log\.txt"):
        run(experiment, workspace, Here(FAKE))
    monkeypatch.delenv("FAKE_FAILS")
    run(experiment, workspace, Here(FAKE))
    assert verbs(calls) == ["collect", "dataset", "finetune", "finetune", "evaluate"]


def test_independent_stages_run_side_by_side_within_the_cores(
    tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_HANGS", "collect")
    demos = SMALL["stages"][0]
    stages = [{**demos, "name": f"d{i}", "successes": i + 1} for i in range(3)]
    experiment = load_experiment(written(tmp_path, stages=stages, figures=[]))
    seen: list[int] = []

    def show(states: object) -> None:
        seen.append(sum(state.phase == "running" for state in states))  # type: ignore[attr-defined]
        if len(verbs(calls)) == 2 and len(seen) > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(experiment, tmp_path / "stages", Here(FAKE, cores=2), show)
    assert max(seen) == 2
    for line in calls.read_text().splitlines():  # they were ended with us
        with pytest.raises(ProcessLookupError):
            os.kill(int(line.split()[1]), 0)


def test_sigkill_takes_the_verb_along_and_the_next_run_goes_on(tmp_path: Path, calls: Path) -> None:
    path, workspace = written(tmp_path), tmp_path / "stages"
    program = f"""
import sys
from pathlib import Path
from rldg_experiments.plan import load_experiment
from rldg_experiments.running import Here, run
run(load_experiment({str(path)!r}), Path({str(workspace)!r}), Here({FAKE!r}))
"""
    ours = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "FAKE_HANGS": "finetune"})
    deadline = time.monotonic() + 60.0
    while "finetune" not in verbs(calls) and time.monotonic() < deadline:
        time.sleep(0.05)
    verb = int(calls.read_text().splitlines()[-1].split()[1])
    ours.send_signal(signal.SIGKILL)
    ours.wait()
    while Path(f"/proc/{verb}").exists() and "zombie" not in Path(f"/proc/{verb}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    records = run(load_experiment(path), workspace, Here(FAKE))
    assert verbs(calls) == ["collect", "dataset", "finetune", "finetune", "evaluate"] and len(records) == 4


def test_a_verb_that_begins_anew_finds_nothing_of_the_last_attempt(
    tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"do": "train", "name": "t", "task": "usb_insertion"}
    experiment, workspace = load_experiment(written(tmp_path, stages=[train], figures=[])), tmp_path / "stages"
    monkeypatch.setenv("FAKE_FAILS", "train")
    with pytest.raises(StageError):
        run(experiment, workspace, Here(FAKE))
    folder = next(workspace.glob("train-*"))
    (folder / "run").mkdir()
    monkeypatch.delenv("FAKE_FAILS")
    run(experiment, workspace, Here(FAKE))
    assert not (folder / "run").exists()


def test_again_repeats_a_stage_and_what_follows_from_it(tmp_path: Path, calls: Path) -> None:
    experiment, workspace = load_experiment(written(tmp_path)), tmp_path / "stages"
    run(experiment, workspace, Here(FAKE))
    run(experiment, workspace, Here(FAKE), again=["student"])
    assert verbs(calls) == ["collect", "dataset", "finetune", "evaluate", "finetune", "evaluate"]
    with pytest.raises(ExperimentError, match=r"--again: no stage 'nobody'; there are demos, data, student, trials"):
        run(experiment, workspace, Here(FAKE), again=["nobody"])


def test_whoever_holds_the_lock_of_a_stage_does_it_and_the_other_run_waits(tmp_path: Path, calls: Path) -> None:
    experiment, workspace = load_experiment(written(tmp_path)), tmp_path / "stages"
    folder = survey(experiment, workspace)[0].folder
    folder.mkdir(parents=True)
    lines: list[str] = []
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def show(states: list[object]) -> None:
            lines.append(states[0].line)  # type: ignore[attr-defined]
            if len(lines) == 5:
                assert not verbs(calls)
                fcntl.flock(lock, fcntl.LOCK_UN)

        run(experiment, workspace, Here(FAKE), show)  # type: ignore[arg-type]
    assert "another run is at it" in lines and len(verbs(calls)) == 4


@pytest.mark.parametrize("damage", ["{", '{"name": "a"}'])
def test_a_damaged_record_is_told_with_the_remedy(tmp_path: Path, calls: Path, damage: str) -> None:
    experiment, workspace = load_experiment(written(tmp_path)), tmp_path / "stages"
    run(experiment, workspace, Here(FAKE))
    next(workspace.glob(f"collect-*/{RECORD}")).write_text(damage)
    with pytest.raises(ExperimentError, match=r"stage\.json: .*; delete .*collect-"):
        run(experiment, workspace, Here(FAKE))


def test_a_product_that_was_deleted_is_told(tmp_path: Path, calls: Path) -> None:
    experiment, workspace = load_experiment(written(tmp_path)), tmp_path / "stages"
    run(experiment, workspace, Here(FAKE))
    made = next(workspace.glob("collect-*/bags/episode_0"))
    made.rmdir()
    with pytest.raises(ExperimentError, match=r"bags: is missing; delete"):
        run(experiment, workspace, Here(FAKE))
