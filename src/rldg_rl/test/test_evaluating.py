"""A checkpoint that is examined in another process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from rldg_core.task import load_task
from rldg_rl import rlpd
from rldg_rl.checkpoint import CheckpointError, Weights
from rldg_rl.config import Encoder, TrainingConfig
from rldg_rl.encoders import StateEncoder
from rldg_rl.evaluating import Examination, Examiner
from rldg_rl.networks import Spec
from rldg_rl.policy import WEIGHTS, load_specialist, save_specialist
from rldg_rl.rollout import play
from rldg_rl.selection import summary
from rldg_rl.train import make_card
from rldg_sim.cell import Cell
from rldg_sim.loop import Loop

TASK = load_task("usb_insertion")
CONFIG = TrainingConfig(encoder=Encoder.STATE, hidden=(8,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder = StateEncoder(TASK)
    spec = Spec(encoder.feature_dim)
    weights = Weights(0, jax.tree.map(np.array, rlpd.policy_params(rlpd.make_state(CONFIG, spec, 0))))
    path = tmp_path_factory.mktemp("run") / "candidate"
    return save_specialist(path, make_card(TASK, encoder, 0, 0, None), weights, CONFIG, spec, encoder)


@pytest.fixture
def examiner() -> Iterator[Examiner]:
    found = Examiner(TASK)
    yield found
    found.close()


def test_it_comes_to_the_same_as_here_and_a_bad_checkpoint_says_what_is_wrong(folder: Path, examiner: Examiner) -> None:
    examiner.begin(Examination(folder, first_seed=5, first=2, total=2))
    specialist, _ = load_specialist(folder, TASK)
    loop = Loop(TASK, Cell(TASK), with_images=False)
    here = summary([play(loop, specialist.encoder, specialist.choose, seed) for seed in (5, 6)])
    evaluation, cpu_s = examiner.result()
    assert (evaluation.successes, evaluation.trials) == (here.successes, here.trials) and cpu_s > 0.0

    (folder / WEIGHTS).write_bytes(b"nonsense")
    examiner.begin(Examination(folder, 0, 1, 1))
    with pytest.raises(CheckpointError, match="it was changed"):
        examiner.result()


def test_a_process_that_dies_is_noticed(folder: Path, examiner: Examiner) -> None:
    (child,) = multiprocessing.active_children()
    assert child.pid is not None
    examiner.begin(Examination(folder, 0, 100, 100))
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="ended with status -9; is there enough memory"):
        examiner.result()


SCRIPT = """
from rldg_core.task import load_task
from rldg_rl.evaluating import Examiner
if __name__ == "__main__":
    examiner = Examiner(load_task("usb_insertion"))
    print(examiner._process.pid, flush=True)
    examiner.result()
"""


def test_it_does_not_outlive_a_training_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    with subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        child = int(training.stdout.readline())
        training.kill()
    for _ in range(300):
        if not alive(child):
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the examiner is still there after 30 s")


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
