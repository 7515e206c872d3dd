"""A learner that hears the stream, loses some of it, is stopped, and finds the rest in the bags."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from rldg_core.task import load_task
from rldg_core.types import Outcome
from rldg_recorder.episode import Episode, EpisodeInfo, PolicyInfo, write_info
from rldg_recorder.episode_reader import read_episode
from rldg_recorder.testing_bags import episode_items, write_bag
from rldg_rl import pretrain
from rldg_rl.checkpoint import CheckpointError, Label, TransitionLog, Weights
from rldg_rl.config import Encoder, TrainingConfig
from rldg_rl.encoders import PixelsSimEncoder
from rldg_rl.learner import LOG_FILE
from rldg_rl.networks import Spec
from rldg_rl.policy import save_specialist
from rldg_rl.rlpd import make_state, policy_params
from rldg_rl.train import make_card
from rldg_rl.transitions import _step
from rldg_rl.worker import LEARNER, START, LearnerWorker, Message

TASK = load_task("usb_insertion")
CONFIG = TrainingConfig(encoder=Encoder.PIXELS_SIM, hidden=(8,), warmup_steps=10_000)  # it only takes in
TICKS = 12


def spec_and_encoder() -> tuple[Spec, PixelsSimEncoder]:
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0.0, 0.1, leaf.shape).astype(leaf.dtype), pretrain.empty_params(12))
    encoder = PixelsSimEncoder(params, 12)
    return Spec(encoder.feature_dim), encoder


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bags") / "s" / "0001"
    write_bag(folder, (item for item in episode_items("s/0001", TICKS) if item.topic != "/current_pose"))
    info = EpisodeInfo(
        state="complete",
        session_id="s",
        episode_id="s/0001",
        outcome=Outcome.SUCCESS,
        policies=(PolicyInfo(policy_id="scripted", steps=TICKS // 2),),
        steps=TICKS,
        task=TASK,
    )
    write_info(folder, info)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    spec, encoder = spec_and_encoder()
    weights = Weights(0, jax.tree.map(np.array, policy_params(make_state(CONFIG, spec, 0))))
    save_specialist(tmp_path / START, make_card(TASK, encoder, 0, 0, None), weights, CONFIG, spec, encoder)
    return tmp_path


def said(episode: Episode) -> Iterator[Message]:
    for row in range(len(episode)):
        yield episode.observation(row)
        yield _step(episode, row)


def taken(run: Path) -> list[tuple[str, int]]:
    log = TransitionLog(run / LEARNER / LOG_FILE, spec_and_encoder()[0], CONFIG.views)
    found = [(entry.episode_id, entry.t) for entry in log.entries() if not isinstance(entry, Label)]
    log.close()
    return found


def wait(done: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 20.0
    while not done():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_what_the_stream_lost_comes_from_the_bag_and_nothing_twice(run: Path, bag: Path) -> None:
    messages = list(said(read_episode(bag)))
    published: list[bytes] = []
    deaf = LearnerWorker(TASK, run, None, 0, published.append)
    deaf.start()
    for message in messages[:6] + messages[14:]:  # rows 3 to 6 are lost
        deaf.hear(message)
    wait(lambda: len(taken(run)) == 6)
    assert deaf.stop() and not deaf.trouble and len(published) == 1
    assert sorted(t for _, t in taken(run)) == [0, 1, 7, 8, 9, 10]

    reader = LearnerWorker(TASK, run, bag.parents[1], 0, published.append)
    reader.start()
    for message in messages:
        reader.hear(message)
    wait(lambda: len(taken(run)) == TICKS - 1)
    assert reader.stop() and not reader.trouble
    assert sorted(taken(run)) == [("s/0001", t) for t in range(TICKS - 1)]


def test_a_run_can_be_rebuilt_from_its_bags_alone(run: Path, bag: Path) -> None:
    worker = LearnerWorker(TASK, run, bag.parents[1], 0, lambda data: None)
    worker.start()
    wait(lambda: worker.from_bags == TICKS - 1)
    assert worker.stop()
    assert sorted(taken(run)) == [("s/0001", t) for t in range(TICKS - 1)]


def test_a_second_learner_of_the_same_run_is_refused(run: Path) -> None:
    first = LearnerWorker(TASK, run, None, 0, lambda data: None)
    with pytest.raises(CheckpointError, match="another learner writes here"):
        LearnerWorker(TASK, run, None, 0, lambda data: None)
    first.start()
    assert first.stop()
