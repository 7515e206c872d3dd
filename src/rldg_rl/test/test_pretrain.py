"""A small network learns to read poses off the wrist image."""

from __future__ import annotations

import numpy as np
import pytest

from rldg_core.task import load_task
from rldg_rl import pretrain
from rldg_rl.checkpoint import CheckpointError
from rldg_rl.encoders import PixelsSimEncoder, load_encoder
from rldg_sim.cell import Cell
from rldg_sim.loop import Loop

TASK = load_task("usb_insertion")


@pytest.fixture(scope="module")
def frames() -> pretrain.Frames:
    return pretrain.collect(TASK, 200, 1)


@pytest.fixture(scope="module")
def losses() -> list[float]:
    """Of every epoch of ``trained``."""
    return []


@pytest.fixture(scope="module")
def trained(frames: pretrain.Frames, losses: list[float]) -> pretrain.Pretrained:
    return pretrain.fit(frames, 0, 10, lambda epoch, loss: losses.append(loss))


def test_the_views_show_the_whole_image_and_its_middle_at_twice_the_resolution() -> None:
    image = np.zeros((256, 256, 3), np.uint8)
    image[48:176, 64:192] = 200
    seen = pretrain.views(image)
    assert seen.shape == (64, 64, 6)
    assert (seen[..., 3:] == 200).all()
    assert (seen[12:44, 16:48, :3] == 200).all() and not seen[:12, :, :3].any()


def test_the_same_seed_collects_the_same_frames(frames: pretrain.Frames) -> None:
    again = pretrain.collect(TASK, 40, 1)
    np.testing.assert_array_equal(again.views, frames.views[:40])
    np.testing.assert_array_equal(again.relations, frames.relations[:40])


def test_any_number_of_processes_collects_the_same_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "_PART", 20)
    alone, together = pretrain.collect(TASK, 50, 1), pretrain.collect(TASK, 50, 1, jobs=2)
    np.testing.assert_array_equal(alone.views, together.views)
    np.testing.assert_array_equal(alone.relations, together.relations)
    np.testing.assert_array_equal(alone.episode, together.episode)
    assert len(alone.views) == 50 and len(set(alone.episode)) == 3  # an episode is not in two parts
    assert not np.array_equal(alone.views[:10], alone.views[20:30])


def test_frames_come_from_far_and_near(frames: pretrain.Frames) -> None:
    lateral = np.abs(frames.relations[:, :2]).max(axis=1)
    assert lateral.min() < 0.1 and lateral.max() > 0.3


def test_training_brings_the_loss_down(trained: pretrain.Pretrained, losses: list[float]) -> None:
    assert len(losses) == 10 and losses[-1] < 0.7 * losses[0]
    assert all(0.0 < error < 0.05 for error in trained.error_m)


def test_an_encoder_that_is_loaded_gives_the_same_features(trained: pretrain.Pretrained, tmp_path) -> None:
    cell = Cell(TASK)
    observation = Loop(TASK, cell).reset("", 7).observation
    encoder = PixelsSimEncoder(trained.params, trained.outputs)
    encoder.save(tmp_path)
    loaded = load_encoder("pixels_sim", TASK, tmp_path)
    assert loaded.digest == encoder.digest
    features = encoder.encode(observation)
    assert features.shape == (encoder.feature_dim,) and features.dtype == np.float32
    np.testing.assert_array_equal(loaded.encode(observation), features)
    cell.close()


def test_an_encoder_without_weights_is_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"encoder\.npz: no such file"):
        load_encoder("pixels_sim", TASK, tmp_path)


def test_an_encoder_of_a_task_with_other_objects_is_refused(trained: pretrain.Pretrained, tmp_path) -> None:
    PixelsSimEncoder(trained.params, trained.outputs).save(tmp_path)
    with pytest.raises(CheckpointError, match="has 12 outputs, task pick_and_place 24"):
        load_encoder("pixels_sim", load_task("pick_and_place"), tmp_path)
