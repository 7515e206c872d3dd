"""The actor changes its weights between episodes and never within one."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from rldg_core.frames import Pose
from rldg_core.task import load_robot, load_task
from rldg_core.types import Observation
from rldg_rl import pretrain
from rldg_rl.actor import Actor
from rldg_rl.broadcast import pack_weights
from rldg_rl.checkpoint import CheckpointError, Weights
from rldg_rl.config import Encoder, TrainingConfig
from rldg_rl.encoders import PixelsSimEncoder
from rldg_rl.networks import Spec
from rldg_rl.policy import save_specialist
from rldg_rl.rlpd import make_state, policy_params
from rldg_rl.train import make_card

TASK, ROBOT = load_task("usb_insertion"), load_robot("fr3")
CONFIG = TrainingConfig(encoder=Encoder.PIXELS_SIM, hidden=(8,))
SEEN = Observation(
    5, np.full((256, 256, 3), 90, np.uint8), Pose.identity(), np.zeros(6), np.ones(6), 0.0, True, episode_id="s/1"
)


@cache
def encoder() -> PixelsSimEncoder:
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0.0, 0.1, leaf.shape).astype(leaf.dtype), pretrain.empty_params(12))
    return PixelsSimEncoder(params, 12)


def spec() -> Spec:
    return Spec(encoder().feature_dim)


def weights(version: int) -> Weights:
    return Weights(version, jax.tree.map(np.array, policy_params(make_state(CONFIG, spec(), version))))


def checkpoint(folder: Path, version: int, config: TrainingConfig = CONFIG) -> Path:
    return save_specialist(folder, make_card(TASK, encoder(), 0, 0, None), weights(version), config, spec(), encoder())


@pytest.fixture
def actor(tmp_path: Path) -> Actor:
    return Actor(TASK, ROBOT, "me", {"checkpoint": str(checkpoint(tmp_path / "start", 0))}, lambda what: None)


def drives(actor: Actor) -> np.ndarray:
    """The first layer of the policy that drives."""
    return actor._specialist._params.actor["params"]["Dense_0"]["kernel"].copy()


def test_newer_weights_count_from_the_next_episode_on(actor: Actor) -> None:
    actor.reset()
    before = drives(actor)
    actor.offer(pack_weights(weights(7), CONFIG))
    actor.act(SEEN)
    assert actor.version == 0 and np.array_equal(drives(actor), before)
    actor.reset()
    assert actor.version == 7 and not np.array_equal(drives(actor), before)


def test_weights_that_cannot_be_used_leave_those_before_them(actor: Actor) -> None:
    actor.reset()
    before = drives(actor)
    actor.offer(b"noise")
    with pytest.raises(CheckpointError, match="not weights"):
        actor.reset()
    assert np.array_equal(drives(actor), before)
    actor.act(SEEN)


def test_it_draws_its_actions_except_in_every_third_episode(actor: Actor) -> None:
    same = []
    for _ in range(6):
        actor.reset()
        same.append(np.array_equal(actor.act(SEEN).deltas, actor.act(SEEN).deltas))
    assert same == [False, False, True] * 2


def test_a_checkpoint_is_served_as_it_is_until_it_is_told_to_learn_again(actor: Actor, tmp_path: Path) -> None:
    actor.serve(checkpoint(tmp_path / "candidate", 3))
    actor.offer(pack_weights(weights(7), CONFIG))
    for _ in range(2):
        actor.reset()
        assert actor.version == 3
        np.testing.assert_array_equal(actor.act(SEEN).deltas, actor.act(SEEN).deltas)
    actor.serve(None)
    actor.reset()
    assert actor.version == 7


def test_a_checkpoint_of_another_run_is_not_served(actor: Actor, tmp_path: Path) -> None:
    other = TrainingConfig(encoder=Encoder.PIXELS_SIM, hidden=(8,), gamma=0.5)
    with pytest.raises(CheckpointError, match="of another preset or other shapes"):
        actor.serve(checkpoint(tmp_path / "candidate", 3, other))
    with pytest.raises(CheckpointError, match="no such file"):
        actor.serve(tmp_path / "nowhere")
    actor.reset()
    assert actor.version == 0
