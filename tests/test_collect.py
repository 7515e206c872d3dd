"""A frozen specialist is rolled out through the graph, and what it did is in bags that training sets accept."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rldg_bringup.collect import UNUSED_SEED
from rldg_bringup.testing import free_environment
from rldg_bringup.train import MAX_SEED
from rldg_core.task import load_task
from rldg_core.types import Outcome, Source
from rldg_recorder.episode import read_info
from rldg_recorder.episode_reader import find_bags, read_episode
from rldg_rl import rlpd
from rldg_rl.checkpoint import Weights
from rldg_rl.config import Encoder as Kind
from rldg_rl.config import TrainingConfig
from rldg_rl.encoders import Encoder, StateEncoder
from rldg_rl.graph import begin
from rldg_rl.networks import Spec
from rldg_rl.policy import load_card, save_specialist
from rldg_rl.train import Purpose, make_card, scene_seed

TASK = load_task("usb_insertion")
CONFIG = TrainingConfig(encoder=Kind.PIXELS_SIM, hidden=(16,), pretrain_frames=128, pretrain_epochs=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A specialist that knows nothing."""
    return begin(TASK, CONFIG, tmp_path_factory.mktemp("run"), 0)


def collect(*arguments: object, task: str = "usb_insertion") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rldg_bringup.cli", "collect", task, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=110.0, env=free_environment())


def test_every_episode_is_a_bag_that_the_specialist_drove(checkpoint: Path, tmp_path: Path) -> None:
    done = collect("--checkpoint", checkpoint, "--episodes", 1, "--bags", tmp_path / "bags")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = find_bags(tmp_path / "bags")
    info, episode = read_info(folder), read_episode(folder)
    assert (info.state, info.audit, info.seed, info.lockstep) == ("complete", "ok", UNUSED_SEED, True)
    assert [(policy.policy_id, policy.checkpoint_hash) for policy in info.policies] == [
        ("specialist", load_card(checkpoint).weights_sha256)
    ]
    assert (episode.source[:-1] == int(Source.POLICY)).all()
    assert re.search(r"│ 1 +│ \d +│ \S+ +│ 1 +│ 1 +│", done.stdout) and f"bags: {folder.parent}" in done.stdout


@pytest.mark.timeout(300)
def test_the_operator_brings_the_object_into_the_gripper_for_a_specialist_that_begins_there(tmp_path: Path) -> None:
    checkpoint = begin(load_task("fmb_assembly"), CONFIG, tmp_path / "run", 0)
    card = checkpoint / "policy.yaml"
    card.write_text(card.read_text().replace("segment: all", "segment: grasped"))
    words = "--checkpoint", checkpoint, "--episodes", 1, "--bags", tmp_path / "bags"
    done = collect(*words, task="fmb_assembly")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = find_bags(tmp_path / "bags")
    drivers = [int(source) for source in read_episode(folder).source[:-1] if source != Source.HOLD]
    taken_over = drivers.index(int(Source.POLICY))
    assert taken_over > 20 and set(drivers[:taken_over]) == {int(Source.HUMAN)}
    assert set(drivers[taken_over:]) == {int(Source.POLICY)}


def test_demonstrations_are_collected_until_there_are_enough_successes_and_an_interrupted_run_is_taken_up(
    tmp_path: Path,
) -> None:
    words = "--operator", "scripted", "--bags", tmp_path
    assert collect(*words, "--successes", 1).returncode == 0
    done = collect(*words, "--successes", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    infos = sorted((read_info(folder) for folder in find_bags(tmp_path)), key=lambda info: info.seed)
    good = [info for info in infos if info.outcome is Outcome.SUCCESS and info.audit in ("ok", "warn")]
    assert len(good) == 2 and [info.seed for info in infos] == list(range(UNUSED_SEED, UNUSED_SEED + len(infos)))
    assert all(info.human_steps > 0 and not info.policies for info in good)
    assert collect(*words, "--successes", 2).returncode == 0
    assert len(find_bags(tmp_path)) == len(infos)


def test_no_training_uses_the_start_states_that_are_collected_on() -> None:
    assert scene_seed(MAX_SEED + 1, Purpose.DEMOS, 0) == UNUSED_SEED


def blind(folder: Path) -> Path:
    """A specialist that reads the simulation's truth."""
    config = TrainingConfig(encoder=Kind.STATE, hidden=(16,))
    encoder: Encoder = StateEncoder(TASK)
    spec = Spec(encoder.feature_dim, False)
    weights = Weights(0, rlpd.policy_params(rlpd.make_state(config, spec, 0)))
    return save_specialist(folder, make_card(TASK, encoder, 0, 0, None), weights, config, spec, encoder)


def test_what_cannot_be_collected_is_refused_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    cases = {
        "encoder 'state' reads the simulation's truth": collect(
            "--checkpoint", blind(tmp_path / "blind"), "--episodes", 1, "--bags", tmp_path / "bags"
        ),
        "is a specialist for usb_insertion, not for vga_insertion": collect(
            "--checkpoint", checkpoint, "--episodes", 1, "--bags", tmp_path / "bags", task="vga_insertion"
        ),
        "nowhere/policy.yaml: cannot be read": collect("--checkpoint", tmp_path / "nowhere", "--episodes", 1),
        "--episodes: is 0": collect("--checkpoint", checkpoint, "--episodes", 0),
    }
    for words, done in cases.items():
        assert done.returncode == 2
        assert words in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not (tmp_path / "bags").exists()
