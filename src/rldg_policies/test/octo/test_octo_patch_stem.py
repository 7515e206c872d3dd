"""The stem of small models: one token for every 16 x 16 pixels, which looks nowhere else, or a few for all of them."""

from __future__ import annotations

import jax
import msgspec
import numpy as np
import pytest

from rldg_policies.octo.config import ImageSlot
from rldg_policies.octo.model import OctoModel
from rldg_policies.octo.presets import preset
from rldg_policies.octo.tokenizers import ImageTokenizer
from rldg_policies.patch_stem import PatchStem


@pytest.mark.parametrize(("sides", "widths"), [((4, 2, 2), (8, 8, 16)), ((16,), (24,)), ((2, 8), (4, 8))])
def test_a_token_changes_with_its_own_pixels_only(sides: tuple[int, ...], widths: tuple[int, ...]) -> None:
    stem = PatchStem(sides=sides, widths=widths, tokens=0)
    images = np.random.default_rng(0).integers(0, 255, (1, 1, 64, 64, 3), dtype=np.uint8)
    tokenizer = ImageTokenizer(stem)
    params = tokenizer.init(jax.random.key(0), images)
    before = np.asarray(tokenizer.apply(params, images))
    assert before.shape == (1, 1, 16, stem.widths[-1])
    images[0, 0, 16:32, 48:64] ^= 0x55  # row 1, column 3 of the patches
    changed = np.abs(np.asarray(tokenizer.apply(params, images)) - before).max(axis=-1)[0, 0]
    assert changed[1 * 4 + 3] > 1e-3 and np.delete(changed, 1 * 4 + 3).max() == 0.0


def test_a_few_tokens_sum_up_the_whole_image() -> None:
    images = np.random.default_rng(0).integers(0, 255, (2, 1, 64, 64, 3), dtype=np.uint8)
    tokenizer = ImageTokenizer(PatchStem(tokens=3, token_width=10))
    params = tokenizer.init(jax.random.key(0), images)
    before = np.asarray(tokenizer.apply(params, images))
    assert before.shape == (2, 1, 3, 10)
    images[0, 0, 16:32, 48:64] ^= 0x55
    changed = np.abs(np.asarray(tokenizer.apply(params, images)) - before).max(axis=-1)[:, 0]
    assert (changed[0] > 1e-4).all() and changed[1].max() == 0.0


def test_a_new_small_model_tells_patches_apart_by_place() -> None:
    slots = (ImageSlot(name="wrist", size_px=64),)
    config = msgspec.structs.replace(preset("octo-nano"), slots=slots, stem=PatchStem(tokens=0))
    places = OctoModel(config).init(0)["octo_transformer"]["obs_wrist_pos_embedding"][0, 0]
    likeness = np.corrcoef(places)
    assert likeness[5, 6] > likeness[5, 7] and likeness[5, 9] > likeness[5, 13]  # neighbours are more alike
    assert np.delete(likeness[5], 5).max() < 0.999
