"""The stem of small models: one token for every 16 x 16 pixels, which looks nowhere else."""

from __future__ import annotations

import jax
import msgspec
import numpy as np
import pytest

from rldg_policies.octo.config import ImageSlot, PatchStem
from rldg_policies.octo.model import OctoModel
from rldg_policies.octo.presets import preset
from rldg_policies.octo.tokenizers import ImageTokenizer


@pytest.mark.parametrize(
    "stem", [PatchStem(), PatchStem(sides=(16,), widths=(24,)), PatchStem(sides=(2, 8), widths=(4, 8))]
)
def test_a_token_changes_with_its_own_pixels_only(stem: PatchStem) -> None:
    images = np.random.default_rng(0).integers(0, 255, (1, 1, 64, 64, 3), dtype=np.uint8)
    tokenizer = ImageTokenizer(stem)
    params = tokenizer.init(jax.random.key(0), images)
    before = np.asarray(tokenizer.apply(params, images))
    assert before.shape == (1, 1, 16, stem.widths[-1])
    images[0, 0, 16:32, 48:64] ^= 0x55  # row 1, column 3 of the patches
    changed = np.abs(np.asarray(tokenizer.apply(params, images)) - before).max(axis=-1)[0, 0]
    assert changed[1 * 4 + 3] > 1e-3 and np.delete(changed, 1 * 4 + 3).max() == 0.0


def test_a_new_small_model_tells_patches_apart_by_place() -> None:
    config = msgspec.structs.replace(preset("octo-nano"), slots=(ImageSlot(name="wrist", size_px=64),))
    places = OctoModel(config).init(0)["octo_transformer"]["obs_wrist_pos_embedding"][0, 0]
    likeness = np.corrcoef(places)
    assert likeness[5, 6] > likeness[5, 7] and likeness[5, 9] > likeness[5, 13]  # neighbours are more alike
    assert np.delete(likeness[5], 5).max() < 0.999
