"""A checkpoint that is examined in another process."""

from __future__ import annotations

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


def test_it_comes_to_the_same_as_here_and_a_bad_checkpoint_says_what_is_wrong(folder: Path) -> None:
    examiner = Examiner(TASK)
    try:
        there = examiner.submit(Examination(folder, first_seed=5, first=2, total=2))
        specialist, _ = load_specialist(folder, TASK)
        loop = Loop(TASK, Cell(TASK), with_images=False)
        here = summary([play(loop, specialist.encoder, specialist.choose, seed) for seed in (5, 6)])
        evaluation, cpu_s = there.result(60.0)
        assert (evaluation.successes, evaluation.trials) == (here.successes, here.trials) and cpu_s > 0.0

        (folder / WEIGHTS).write_bytes(b"nonsense")
        with pytest.raises(CheckpointError, match="it was changed"):
            examiner.submit(Examination(folder, 0, 1, 1)).result(60.0)
    finally:
        examiner.close()
