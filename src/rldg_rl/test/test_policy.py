"""A specialist's checkpoint folder serves as a policy, or says why not."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jax
import msgspec
import numpy as np
import pytest

from rldg_core.frames import Pose
from rldg_core.task import load_robot, load_task
from rldg_core.types import Observation
from rldg_policies.policy import check_chunk
from rldg_rl import pretrain
from rldg_rl.checkpoint import CheckpointError, Weights
from rldg_rl.config import Encoder as Kind
from rldg_rl.config import TrainingConfig
from rldg_rl.encoders import Encoder, PixelsSimEncoder, StateEncoder
from rldg_rl.networks import Spec
from rldg_rl.policy import CARD, WEIGHTS, Card, Specialist, load_specialist, make_specialist, save_specialist
from rldg_rl.rlpd import make_state, policy_params

TASK, ROBOT = load_task("usb_insertion"), load_robot("fr3")
SEEN = Observation(
    5, np.full((256, 256, 3), 90, np.uint8), Pose.identity(), np.zeros(6), np.ones(6), 0.0, True, episode_id="s/1"
)


@cache
def weights_for(config: TrainingConfig, spec: Spec) -> Weights:
    return Weights(3, jax.tree.map(np.array, policy_params(make_state(config, spec, 0))))


def write(folder: Path, encoder: Encoder, **changes: object) -> Path:
    config = TrainingConfig(encoder=Kind(encoder.name), hidden=(16,))
    spec = Spec(encoder.feature_dim)
    weights = weights_for(config, spec)
    card = Card(
        name="one",
        task=TASK.name,
        encoder=encoder.name,
        encoder_digest=encoder.digest,
        image_size_px=encoder.image_size_px,
        rate_hz=10.0,
        translation_scale_m=0.015,
        rotation_scale_rad=0.1,
        setpoint="measured",
        gripper="fixed",
        seed=0,
        env_steps=100,
    )
    return save_specialist(folder, msgspec.structs.replace(card, **changes), weights, config, spec, encoder)


@cache
def pixels() -> PixelsSimEncoder:
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0.0, 0.1, leaf.shape).astype(leaf.dtype), pretrain.empty_params(12))
    return PixelsSimEncoder(params, 12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "one", pixels())


def test_a_checkpoint_answers_as_a_policy(folder: Path) -> None:
    policy = make_specialist(TASK, ROBOT, "me", {"checkpoint": str(folder)})
    policy.warm_up()
    chunk = policy.act(SEEN)
    check_chunk(chunk, SEEN, "me", ROBOT.tcp_frame)
    assert np.abs(chunk.deltas).max() <= 1.0 and policy.rate_hz == TASK.control.rate_hz
    assert policy.checkpoint_hash == policy.card.weights_sha256 != ""


def test_the_mode_is_served_unless_samples_are_asked_for(folder: Path) -> None:
    mode = make_specialist(TASK, ROBOT, "me", {"checkpoint": str(folder)})
    np.testing.assert_array_equal(mode.act(SEEN).deltas, mode.act(SEEN).deltas)
    drawn = make_specialist(TASK, ROBOT, "me", {"checkpoint": str(folder), "sample": True})
    assert (drawn.act(SEEN).deltas != drawn.act(SEEN).deltas).any()


def test_what_is_loaded_acts_as_what_was_saved(folder: Path) -> None:
    specialist, card = load_specialist(folder, TASK)
    config, spec = TrainingConfig(encoder=Kind.PIXELS_SIM, hidden=(16,)), Spec(pixels().feature_dim)
    saved = Specialist(weights_for(config, spec), config, spec, pixels())
    np.testing.assert_array_equal(specialist.act(SEEN), saved.act(SEEN))
    assert card.env_steps == 100


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(folder: Path) -> None:
    (folder / "stray").touch()
    write(folder, pixels(), env_steps=200)
    assert load_specialist(folder, TASK)[1].env_steps == 200
    assert [path.name for path in folder.parent.iterdir()] == ["one"]
    assert sorted(path.name for path in folder.iterdir()) == ["encoder.npz", CARD, WEIGHTS]


def test_a_privileged_specialist_is_not_served(tmp_path: Path) -> None:
    folder = write(tmp_path / "one", StateEncoder(TASK))
    with pytest.raises(CheckpointError, match="'state' reads the simulation's truth"):
        make_specialist(TASK, ROBOT, "me", {"checkpoint": str(folder)})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rate_hz": 5.0}, "rate_hz: is 5.0, task usb_insertion has 10.0"),
        ({"translation_scale_m": 0.02}, "translation_scale_m: is 0.02"),
        ({"setpoint": "leashed"}, "setpoint: is leashed"),
        ({"gripper": "binary"}, "gripper: is binary"),
        ({"encoder_digest": "0" * 64}, "the specialist was trained on 000000000000"),
        ({"type": "generalist"}, "of type 'generalist'"),
        ({"version": 2}, "version 2"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    folder = write(tmp_path / "one", pixels(), **changes)
    with pytest.raises(CheckpointError, match=says):
        load_specialist(folder, TASK)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (CARD, None, "cannot be read: No such file"),
        (CARD, b"]: not yaml", "policy.yaml: "),
        (CARD, b"name: x", "missing required field"),
        (WEIGHTS, None, "cannot be read: No such file"),
        (WEIGHTS, b"PK", "it was changed"),
        ("encoder.npz", b"PK", "is damaged"),
    ],
)
def test_a_damaged_folder_is_refused(folder: Path, name: str, content: bytes | None, says: str) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        load_specialist(folder, TASK)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [({}, "checkpoint"), ({"checkpoint": "x", "temperature": 1}, "allowed: checkpoint, sample, seed")],
)
def test_wrong_parameters_are_refused(parameters: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_specialist(TASK, ROBOT, "me", parameters)
