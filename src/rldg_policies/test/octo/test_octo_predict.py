"""From frames and an instruction to a chunk in the units of the training set."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rldg_policies.normalisation import StatisticsError
from rldg_policies.octo.checkpoint import Checkpoint, save
from rldg_policies.octo.config import OctoError
from rldg_policies.octo.data_layout import Observation
from rldg_policies.octo.images import resize
from rldg_policies.octo.policy import FrameMemory, Octo

KEY = jax.random.key(0)


def encode(instruction: str) -> np.ndarray:
    return np.full((1, 8), float(len(instruction)), np.float32)


@pytest.fixture(scope="module")
def octo(checkpoint: Checkpoint) -> Octo:
    return Octo(checkpoint, language=encode)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)


def test_a_chunk_is_what_the_model_draws_in_the_units_of_the_training_set(octo: Octo, frames: np.ndarray) -> None:
    chunk, info = octo.predict({"wrist": frames}, "insert", KEY)
    seen = Observation({"wrist": frames[None]}, np.ones((1, 2), bool))
    drawn = np.asarray(jax.jit(octo.model.sample)(octo.params, seen, encode("insert")[None], KEY))[0]
    assert chunk.shape == (4, 7)
    assert chunk.dtype == np.float32
    np.testing.assert_allclose(info.normalised, drawn, atol=1e-5)
    np.testing.assert_allclose(chunk[:, :6], 2.0 * info.normalised[:, :6] + 0.5, rtol=1e-5)
    np.testing.assert_array_equal(chunk[:, 6], info.normalised[:, 6])  # the gripper is not scaled
    assert info.seconds > 0.0


def test_frames_instruction_and_key_decide_what_is_drawn(octo: Octo, frames: np.ndarray) -> None:
    chunk = octo.predict({"wrist": frames}, "insert", KEY)[0]
    np.testing.assert_array_equal(chunk, octo.predict({"wrist": list(frames)}, "insert", KEY)[0])
    for seen, words, key in [
        (255 - frames, "insert", KEY),
        (frames, "pull", KEY),
        (frames, "insert", jax.random.key(1)),
    ]:
        assert not np.array_equal(chunk, octo.predict({"wrist": seen}, words, key)[0])


def test_a_window_that_is_not_full_is_padded_with_what_the_model_does_not_see(octo: Octo, frames: np.ndarray) -> None:
    found = octo.predict({"wrist": frames[:1]}, "insert", KEY)[1].normalised
    windows = {"wrist": np.stack([255 - frames[0], frames[0]])[None]}
    seen = Observation(windows, np.array([[False, True]]))
    drawn = jax.jit(octo.model.sample)(octo.params, seen, encode("insert")[None], KEY)[0]
    np.testing.assert_allclose(found, drawn, atol=1e-5)


@pytest.fixture(scope="module")
def six(checkpoint: Checkpoint) -> Octo:
    """A model whose training set had no gripper, warmed up for frames larger than the model reads."""
    action = {name: values[:6] for name, values in checkpoint.statistics["pegs"]["action"].items()}
    made = Octo(checkpoint._replace(statistics={"pegs": {"action": action}}), language=encode)
    made.warm_up(32)
    return made


def test_after_warm_up_nothing_is_compiled(six: Octo) -> None:
    old_kind_of_key = jax.random.PRNGKey(0)
    with jax.no_tracing():
        for count, key in ((1, KEY), (2, KEY), (2, old_kind_of_key)):
            six.predict({"wrist": np.zeros((count, 32, 32, 3), np.uint8)}, "insert", key)


def test_frames_of_another_size_are_resized(octo: Octo, six: Octo, frames: np.ndarray) -> None:
    large = np.asarray(resize(frames, 32))
    seen = Observation({"wrist": np.asarray(resize(large, 16))[None]}, np.ones((1, 2), bool))
    drawn = jax.jit(octo.model.sample, static_argnums=4)(six.params, seen, encode("insert")[None], KEY, 6)[0]
    np.testing.assert_allclose(six.predict({"wrist": large}, "insert", KEY)[1].normalised, drawn[:, :6], atol=1e-5)


def test_actions_of_six_numbers_leave_the_seventh_of_the_model_unused(six: Octo) -> None:
    assert six.predict({"wrist": np.zeros((1, 32, 32, 3), np.uint8)}, "insert", KEY)[0].shape == (4, 6)


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        ({}, "images: are of no slot, the model has wrist"),
        ({"primary": np.zeros((1, 16, 16, 3), np.uint8)}, "images: are of primary, the model has wrist"),
        (
            {"wrist": np.zeros((0, 16, 16, 3), np.uint8)},
            r"images: there are \[0\], must be as many of each slot, 1 to 2",
        ),
        ({"wrist": np.zeros((3, 16, 16, 3), np.uint8)}, r"images: there are \[3\]"),
        ({"wrist": np.zeros((1, 16, 16, 3), np.float32)}, r"image of 'wrist': is float32\[16, 16, 3\]"),
        (
            {"wrist": np.zeros((1, 16, 12, 3), np.uint8)},
            r"image of 'wrist': is uint8\[16, 12, 3\], must be uint8\[side",
        ),
        ({"wrist": np.zeros((1, 16, 16, 4), np.uint8)}, r"image of 'wrist': is uint8\[16, 16, 4\]"),
        ({"wrist": ["no image"]}, "image of 'wrist': is str"),
        ({"wrist": [np.zeros((16, 16, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)]}, "have several sizes"),
    ],
)
def test_frames_that_the_model_cannot_read_are_refused(octo: Octo, seen: Any, message: str) -> None:
    with pytest.raises(OctoError, match=message):
        octo.predict(seen, "insert", KEY)


def test_statistics_that_do_not_belong_to_the_model_are_refused(checkpoint: Checkpoint) -> None:
    action = checkpoint.statistics["pegs"]["action"]
    longer = {name: [*values, values[-1]] for name, values in action.items()}
    with pytest.raises(OctoError, match="statistics of 'pegs': are of 8 numbers, the model's actions have 7"):
        Octo(checkpoint._replace(statistics={"pegs": {"action": longer}}), language=encode)
    with pytest.raises(StatisticsError, match="has no statistics of 'cables'; there are: pegs"):
        Octo(checkpoint, dataset="cables", language=encode)


def test_a_folder_is_served(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(OctoError, match=r"config\.json: cannot be read"):
        Octo.load(tmp_path / "nothing")
    save(tmp_path / "model", checkpoint)
    with pytest.raises(OctoError, match="the model reads 8 numbers, the packaged sentence encoder has 384"):
        Octo.load(tmp_path / "model")


def test_the_memory_holds_the_last_frames_of_an_episode(frames: np.ndarray) -> None:
    memory = FrameMemory(2)
    first, second, third = ({"wrist": np.full((16, 16, 3), value, np.uint8)} for value in (1, 2, 3))

    def values(seen: dict[str, list[np.ndarray]]) -> list[int]:
        return [int(frame[0, 0, 0]) for frame in seen["wrist"]]

    assert [values(memory.push(frame)) for frame in (first, second, third)] == [[1], [1, 2], [2, 3]]
    memory.reset()
    assert values(memory.push(first)) == [1]
