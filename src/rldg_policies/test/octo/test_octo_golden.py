"""The same numbers as the released code, on a tiny random model with T5 and a window of two."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from rldg_policies.octo.config import T5, ImageSlot, OctoConfig
from rldg_policies.octo.data_layout import Batch, Observation
from rldg_policies.octo.model import OctoModel
from rldg_policies.octo.transformer import Group, Kind, attention_mask

MODEL = OctoModel(
    OctoConfig(
        slots=(ImageSlot(name="wrist", size_px=128),),
        language=T5(vocabulary=128, width=32, layers=2, heads=2, head_width=16, mlp=64),
        width=32,
        layers=2,
        heads=2,
        mlp=64,
        window=2,
    )
)


@pytest.fixture(scope="module", autouse=True)
def draws_of_the_released_code() -> Iterator[None]:
    with jax.threefry_partitionable(False):
        yield


@pytest.fixture(scope="module")
def params(golden: dict[str, Any]) -> Any:
    flat = {name.removeprefix("params/"): leaf for name, leaf in golden.items() if name.startswith("params/")}
    return unflatten_dict(flat, sep="/")


@pytest.fixture(scope="module")
def observation(golden: dict[str, Any]) -> Observation:
    return Observation({"wrist": golden["obs/image_wrist"]}, golden["obs/timestep_pad_mask"])


@pytest.fixture(scope="module")
def language(golden: dict[str, Any], params: Any) -> jax.Array:
    words = "task/language_instruction"
    return MODEL.encode_language(params, golden[f"{words}/input_ids"], golden[f"{words}/attention_mask"])


@pytest.fixture(scope="module")
def read_out(params: Any, observation: Observation, language: jax.Array) -> jax.Array:
    return jax.jit(MODEL.apply)(params, observation, language)


def test_the_tree_of_parameters_is_the_same(params: Any) -> None:
    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        return {path: leaf.shape for path, leaf in flatten_dict(tree, sep="/").items()}

    assert shapes(MODEL.shapes()) == shapes(params)


def test_the_readout_is_the_same(golden: dict[str, Any], read_out: jax.Array) -> None:
    np.testing.assert_allclose(read_out, golden["readout"][:, :, 0], rtol=0, atol=5e-5)


def test_the_attention_mask_is_the_same(golden: dict[str, Any]) -> None:
    seen = golden["obs/timestep_pad_mask"]

    def group(kind: Kind, count: int, mask: np.ndarray) -> Group:
        mask = np.broadcast_to(mask[..., None], (*mask.shape, count))
        return Group(kind, jnp.zeros((*mask.shape, 0)), jnp.asarray(mask))

    task = group(Kind.TASK, 16, np.ones(2, bool))
    counts = [(Kind.OBSERVATION, 64, seen), (Kind.OBSERVATION, 16, np.ones((2, 2), bool))]
    steps = [group(*count) for count in [*counts, (Kind.READOUT, 1, np.ones((2, 2), bool))]]
    np.testing.assert_array_equal(attention_mask(task, steps), golden["mask"])


def test_the_noise_schedule_is_the_same(golden: dict[str, Any]) -> None:
    np.testing.assert_allclose(MODEL.betas, golden["betas"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.cumprod(1.0 - MODEL.betas), golden["alpha_hats"], rtol=0, atol=1e-6)


def test_the_predicted_noise_is_the_same(golden: dict[str, Any], params: Any, read_out: jax.Array) -> None:
    step = jnp.full((2, 2, 1), 3)
    np.testing.assert_allclose(MODEL.noise(params, read_out, golden["na"], step), golden["eps"], rtol=0, atol=1e-4)


def test_the_loss_is_the_same(
    golden: dict[str, Any], params: Any, observation: Observation, language: jax.Array
) -> None:
    batch = Batch(observation, language, golden["action"], np.ones((2, 2, 4, 7), bool))
    loss = jax.jit(MODEL.loss)(params, batch, key_in("heads_action", jax.random.PRNGKey(5)))
    assert float(loss) == pytest.approx(float(golden["loss"]), rel=1e-5)


def test_the_sampler_draws_the_same_actions(
    golden: dict[str, Any], params: Any, observation: Observation, language: jax.Array
) -> None:
    drawn = jax.jit(MODEL.sample)(params, observation, language, jax.random.PRNGKey(7))
    np.testing.assert_allclose(drawn, golden["pred"], rtol=0, atol=5e-4)


def key_in(name: str, key: jax.Array) -> jax.Array:
    """The released code takes the key of its loss from Flax, which folds in the name of the module."""

    class Head(nn.Module):
        @nn.compact
        def __call__(self) -> jax.Array:
            return self.make_rng("dropout")

    class Outer(nn.Module):
        @nn.compact
        def __call__(self) -> jax.Array:
            return Head(name=name)()

    return Outer().apply({}, rngs={"dropout": key})
