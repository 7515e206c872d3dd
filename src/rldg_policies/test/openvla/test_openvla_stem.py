"""What small models see with instead of the two towers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch

from rldg_policies.openvla.config import Config, config_from_json, config_to_json
from rldg_policies.openvla.lora import add_adapter
from rldg_policies.openvla.model import make_random_model
from rldg_policies.openvla.presets import preset
from rldg_policies.patch_stem import PatchStem

TEST = preset("openvla-test")


def with_stem(stem: PatchStem, image_px: int = 32) -> Config:
    return msgspec.structs.replace(TEST, stem=stem, image_px=image_px)


def image_tokens(config: Config, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return make_random_model(config, 0).vision_backbone(pixels)


def test_without_a_summary_a_token_changes_with_its_own_pixels_only() -> None:
    config = with_stem(PatchStem(sides=(4, 2), widths=(8, 12), tokens=0))
    before = torch.randn(1, 6, 32, 32, generator=torch.Generator().manual_seed(0))
    after = before.clone()
    after[0, 3:, 8:16, 24:32] += 1.0  # row 1, column 3 of the patches
    changed = (image_tokens(config, after) - image_tokens(config, before)).abs().amax(-1)[0]
    assert changed.shape == (config.patches,) == (16,)
    assert changed[7] > 1e-3 and changed.sum() == changed[7]


def test_a_summary_sees_the_whole_image_of_one_example() -> None:
    config = with_stem(PatchStem(sides=(4, 2), widths=(8, 12), tokens=3, token_width=10))
    before = torch.randn(2, 6, 32, 32, generator=torch.Generator().manual_seed(0))
    after = before.clone()
    after[0, 3:, 8:16, 24:32] += 1.0
    changed = (image_tokens(config, after) - image_tokens(config, before)).abs().amax(-1)
    assert changed.shape == (2, 3) and config.patches == 3
    assert (changed[0] > 1e-4).all() and changed[1].max() == 0.0


def test_it_reads_what_siglip_would() -> None:
    config = with_stem(PatchStem())
    before = torch.randn(1, 6, 32, 32, generator=torch.Generator().manual_seed(0))
    after = before.clone()
    after[:, :3] = 0.0
    assert torch.equal(image_tokens(config, before), image_tokens(config, after))


def test_all_its_layers_get_adapters() -> None:
    adapted: Any = add_adapter(make_random_model(with_stem(PatchStem()), 0), rank=2)
    names = {name for name, _ in adapted.named_parameters() if "vision_backbone" in name and "lora_A" in name}
    assert len(names) == 4  # three stages and the summary


def test_it_is_written_and_read_again() -> None:
    config = with_stem(PatchStem(sides=(8, 2), widths=(8, 12), tokens=5))
    assert config_from_json(config_to_json(config, {"a": {}})) == config


def test_an_image_must_be_made_of_whole_patches() -> None:
    with pytest.raises(ValueError, match="image_sizes: 40 px must be a multiple of the patch side, 16 px"):
        with_stem(PatchStem(), image_px=40)


@pytest.mark.parametrize(("sides", "widths"), [((), ()), ((4, 4), (8,))])
def test_stages_have_a_side_and_a_width_each(sides: tuple[int, ...], widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must name the same stages, at least 1"):
        PatchStem(sides=sides, widths=widths)
