"""Chunks, windows and masks are those of the released data pipeline."""

from typing import Any

import msgspec
import numpy as np
import pytest

from rldg_policies.octo.config import OctoError
from rldg_policies.octo.data_layout import Batch, Episode, chunk_targets, history, make_batch
from rldg_policies.octo.model import OctoModel


def test_one_repeat_of_the_last_action_is_trained_on_and_no_more() -> None:
    actions = np.arange(6, dtype=np.float32)[:, None]
    chunks, mask = chunk_targets(actions, horizon=4, action_dim=1)
    assert chunks[..., 0].tolist()[3:] == [[3, 4, 5, 5], [4, 5, 5, 5], [5, 5, 5, 5]]
    assert mask[..., 0].astype(int).tolist() == [[1] * 4] * 4 + [[1, 1, 1, 0], [1, 1, 0, 0]]


def test_missing_dimensions_of_an_action_are_zero_and_masked() -> None:
    chunks, mask = chunk_targets(np.ones((3, 6), np.float32), horizon=2, action_dim=7)
    assert not chunks[..., 6].any()
    assert not mask[..., 6].any()
    assert mask[:, 0, :6].all()


def test_before_the_start_the_first_frame_repeats_and_is_masked() -> None:
    indices, real = history(4, window=3)
    assert indices.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]
    assert real.astype(int).tolist() == [[0, 0, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1]]


def test_a_batch_has_the_frames_of_its_windows_and_the_chunks_due_at_each(
    model: OctoModel, episode: Episode, batch: Batch
) -> None:
    wrist = np.asarray(episode.images["wrist"])
    np.testing.assert_array_equal(batch.observation.images["wrist"][1], wrist[1:3])
    np.testing.assert_array_equal(batch.observation.images["wrist"][0], wrist[[0, 0]])
    assert batch.observation.timestep_mask.tolist() == [[False, True], [True, True], [True, True], [True, True]]
    np.testing.assert_array_equal(batch.actions[1], np.stack([episode.actions[1:5], episode.actions[2:6]]))
    assert batch.action_mask[3, 1, :, 0].tolist() == [True, True, False, False]
    assert batch.language.shape == (4, 1, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": {}}, "episode 0: slot 'wrist' must have 6 images of type uint8.16, 16, 3., one for each action"),
        ({"images": {"wrist": np.zeros((5, 16, 16, 3), np.uint8)}}, "must have 6 images"),
        ({"images": {"wrist": np.zeros((6, 32, 32, 3), np.uint8)}}, "must have 6 images of type uint8.16, 16, 3."),
        ({"images": {"wrist": np.zeros((6, 16, 16, 3), np.float32)}}, "must have 6 images of type uint8"),
        ({"language": np.zeros((1, 9), np.float32)}, "language has shape .1, 9., must be .1, 8."),
        ({"actions": np.zeros((6, 8), np.float32)}, "actions have shape .6, 8., must be .T, at most 7."),
        ({"actions": np.full((6, 7), np.nan, np.float32)}, "an action is not finite"),
    ],
)
def test_an_episode_that_does_not_fit_the_model_is_refused(
    model: OctoModel, episode: Episode, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(OctoError, match=message):
        make_batch([episode._replace(**changes)], [(0, 0)], model.config)


def test_a_window_of_one_has_no_padding(model: OctoModel, episode: Episode) -> None:
    config = msgspec.structs.replace(model.config, window=1)
    assert make_batch([episode], [(0, 0)], config).observation.timestep_mask.all()
