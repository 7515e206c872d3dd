"""One step of fine-tuning changes what it should, and nothing else."""

from typing import Any

import jax
import msgspec
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from rldg_policies.octo.config import T5, OctoError
from rldg_policies.octo.data_layout import Batch, make_batch
from rldg_policies.octo.model import OctoModel
from rldg_policies.octo.training import (
    Mode,
    Schedule,
    TrainingConfig,
    is_trained,
    learning_rate,
    make_state,
    optimizer,
    train_step,
)

CONFIG = TrainingConfig(
    steps=100, warmup_steps=1, learning_rate=1e-2, schedule=Schedule.CONSTANT, weight_decay=0.1, augment=False
)
T5_TINY = T5(vocabulary=16, width=8, layers=1, heads=2, head_width=4, mlp=16, tokens=1)


@pytest.fixture(scope="module")
def with_t5(model: OctoModel) -> OctoModel:
    return OctoModel(msgspec.structs.replace(model.config, language=T5_TINY))


def stepped(model: OctoModel, params: Any, batch: Batch, config: TrainingConfig, steps: int) -> tuple[Any, list[float]]:
    state, losses = make_state(params, config), []
    for _ in range(steps):
        state, metrics = train_step(state, batch, jax.random.key(0), model, config)
        losses.append(float(metrics["loss"]))
    return state.params, losses


@pytest.fixture(scope="module")
def full(with_t5: OctoModel, episode: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[float]]:
    """Parameters before and after thirty steps on one batch with the same noise, and the losses."""
    batch = make_batch([episode], [(0, 0), (0, 2), (0, 4), (0, 5)], with_t5.config)
    before = with_t5.init(0)
    after, losses = stepped(with_t5, before, batch, CONFIG, 30)
    return flatten_dict(before, sep="/"), flatten_dict(after, sep="/"), losses


def test_training_lowers_the_loss(full: Any) -> None:
    losses = full[2]
    assert np.isfinite(losses).all()
    assert losses[0] == losses[1]  # the first step is of the warm-up, with a rate of 0
    assert losses[-1] < 0.5 * losses[0]


def test_the_language_encoder_is_frozen_and_everything_else_is_trained(full: Any) -> None:
    before, after, _ = full
    assert after.keys() == before.keys()
    for path in before:
        # a key's bias shifts all weights of a softmax alike
        same = np.array_equal(before[path], after[path])
        assert same == ("/hf_model/" in path) or path.endswith("key/bias"), path


@pytest.mark.parametrize("mode", [Mode.HEAD_ONLY, Mode.HEAD_MLP_ONLY])
def test_only_the_head_is_trained_in_modes_of_that_name(with_t5: OctoModel, mode: Mode) -> None:
    trained = {path.partition("/")[0] for path in flatten_dict(with_t5.shapes(), sep="/") if is_trained(path, mode)}
    assert trained == {"heads_action"}


def test_what_is_frozen_has_no_gradient_and_no_optimiser(with_t5: OctoModel) -> None:
    config = msgspec.structs.replace(CONFIG, mode=Mode.HEAD_ONLY)
    state = make_state(with_t5.init(0), config)
    assert all(path.startswith("heads_action/") for path in state.trained)
    assert state.trained.keys() | state.frozen.keys() == flatten_dict(with_t5.shapes(), sep="/").keys()
    numbers = sum(leaf.size for leaf in state.trained.values())
    assert sum(leaf.size for leaf in jax.tree.leaves(state.optimizer)) == 2 * numbers + 2  # two moments, two counters


def test_only_kernels_decay() -> None:
    flat = {"a/kernel": np.ones(3, np.float32), "a/bias": np.ones(3, np.float32), "x_pos_embedding": np.ones(3)}
    tool = optimizer(CONFIG)
    state = tool.init(flat)
    nothing = {path: np.zeros(3, np.float32) for path in flat}
    for _ in range(2):
        updates, state = tool.update(nothing, state, flat)
    assert {path: bool(np.asarray(update).any()) for path, update in updates.items()} == {
        "a/kernel": True,
        "a/bias": False,
        "x_pos_embedding": False,
    }


def test_a_large_gradient_is_clipped_as_a_whole() -> None:
    tool = optimizer(CONFIG)
    flat = {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}

    def first_moment(scale: float) -> np.ndarray:
        grad = {"a": scale * np.array([3.0, 0.0], np.float32), "b": scale * np.array([0.0, 4.0], np.float32)}
        _, state = tool.update(grad, tool.init(flat), flat)
        adam = next(part for part in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(part, "mu"))
        return np.array([adam.mu["a"][0], adam.mu["b"][1]], np.float32)

    np.testing.assert_allclose(first_moment(100.0), [0.06, 0.08], rtol=0.01)
    np.testing.assert_allclose(first_moment(0.1), [0.03, 0.04], rtol=0.01)


def test_learning_rates_rise_and_fall_or_stay() -> None:
    cosine = learning_rate(TrainingConfig(steps=1000, warmup_steps=100, learning_rate=1e-3))
    assert [float(cosine(step)) for step in (0, 50, 100, 550, 1000)] == pytest.approx([0, 5e-4, 1e-3, 5e-4, 0])
    constant = learning_rate(CONFIG)
    assert [float(constant(step)) for step in (0, 1, 99)] == pytest.approx([0, 1e-2, 1e-2])


def test_a_warm_up_beyond_the_end_is_refused() -> None:
    with pytest.raises(OctoError, match="warmup_steps: is 2000, must be below steps, 100"):
        TrainingConfig(steps=100)
