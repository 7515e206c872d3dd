"""The tree of parameters: sizes of the released models, and how a new model begins."""

import math
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from rldg_policies.octo.config import OctoError
from rldg_policies.octo.model import OctoModel
from rldg_policies.octo.presets import PRESETS, preset


def flat(tree: Any) -> dict[str, Any]:
    return flatten_dict(tree, sep="/")


@pytest.fixture(scope="module")
def octo_small() -> dict[str, Any]:
    return flat(OctoModel(preset("octo-small")).shapes())


@pytest.mark.parametrize(("name", "networks"), [("octo-small", 27_042_060), ("octo-base", 92_830_092)])
def test_released_sizes_have_the_released_number_of_parameters(name: str, networks: int) -> None:
    shapes = flat(OctoModel(preset(name)).shapes())
    t5 = {path: leaf for path, leaf in shapes.items() if "/hf_model/" in path}
    assert len(t5) == 99
    assert sum(leaf.size for leaf in t5.values()) == 109_628_544
    assert sum(leaf.size for leaf in shapes.values()) == networks + 109_628_544


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("heads_action/diffusion_model/time_preprocess/kernel", (16, 1)),
        ("heads_action/diffusion_model/reverse_network/Dense_0/kernel", (444, 256)),
        ("heads_action/diffusion_model/reverse_network/MLPResNetBlock_2/Dense_1/kernel", (1024, 256)),
        (
            "octo_transformer/BlockTransformer_0/Transformer_0/encoderblock_11/MultiHeadDotProductAttention_0/out/kernel",
            (6, 64, 384),
        ),
        ("octo_transformer/BlockTransformer_0/Transformer_0/encoderblock_0/MlpBlock_0/Dense_1/kernel", (1536, 384)),
        ("octo_transformer/obs_primary_pos_embedding", (1, 10, 256, 384)),
        ("octo_transformer/obs_wrist_projection/kernel", (512, 384)),
        ("octo_transformer/readout_action_pos_embedding", (1, 10, 1, 384)),
        ("octo_transformer/task_language_pos_embedding", (1, 16, 384)),
        ("octo_transformer/observation_tokenizers_wrist/SmallStem16_0/StdConv_3/kernel", (3, 3, 192, 384)),
        ("octo_transformer/observation_tokenizers_primary/SmallStem16_0/embedding/kernel", (1, 1, 384, 512)),
        (
            "octo_transformer/task_tokenizers_language/hf_model/encoder/block/0/layer/0/SelfAttention/"
            "relative_attention_bias/embedding",
            (32, 12),
        ),
    ],
)
def test_parameters_of_octo_small_are_where_the_release_has_them(
    octo_small: dict[str, Any], path: str, shape: tuple[int, ...]
) -> None:
    assert octo_small[path].shape == shape


def test_a_new_model_has_the_shapes_and_the_spread_it_should(model: OctoModel) -> None:
    found, shapes = flat(model.init(3)), flat(model.shapes())
    assert {path: leaf.shape for path, leaf in found.items()} == {path: leaf.shape for path, leaf in shapes.items()}
    assert all(leaf.dtype == np.float32 for leaf in found.values())
    stem = found["octo_transformer/observation_tokenizers_wrist/SmallStem16_0/StdConv_3/kernel"]
    assert stem.std() == pytest.approx(1.0 / math.sqrt(9 * 192), rel=0.02)
    dense = found["heads_action/diffusion_model/cond_encoder/Dense_0/kernel"]
    assert np.abs(dense).max() == pytest.approx(math.sqrt(6.0 / (32 + 64)), rel=0.02)
    assert not any(leaf.any() for path, leaf in found.items() if path.endswith("bias"))


def test_a_seed_decides_how_a_model_begins(model: OctoModel) -> None:
    first, again, other = (flat(model.init(seed)) for seed in (3, 3, 4))
    path = "octo_transformer/task_language_projection/kernel"
    np.testing.assert_array_equal(first[path], again[path])
    assert not np.array_equal(first[path], other[path])


@pytest.mark.parametrize("name", ["octo-nano", "octo-test"])
def test_presets_for_a_cpu_are_small(name: str) -> None:
    assert sum(leaf.size for leaf in jax.tree.leaves(OctoModel(preset(name)).shapes())) < 4_000_000


def test_an_unknown_preset_is_refused_with_the_names_of_those_that_exist() -> None:
    with pytest.raises(OctoError, match=f"'octo-huge': not known; there are {', '.join(PRESETS)}"):
        preset("octo-huge")
