"""Adapters are those of the released fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rldg_policies.openvla.config import CheckpointError, Config
from rldg_policies.openvla.lora import add_adapter, count_parameters, load_adapter, merge, merged_copy, save_adapter
from rldg_policies.openvla.model import OpenVLAModel, make_model, make_random_model
from rldg_policies.openvla.presets import preset

Edit = Callable[..., None]


def test_the_7b_adapter_has_the_published_number_of_parameters() -> None:
    adapted = add_adapter(make_model(preset("openvla-7b"), torch.bfloat16))
    trained, total = count_parameters(adapted)
    assert trained == 110_828_288
    assert total == 7_541_237_184 + 110_828_288
    assert sum(".lora_" in name for name, _ in adapted.named_parameters()) == 878


def _model(config: Config) -> OpenVLAModel:
    return make_random_model(config, 0)


def _logits(model: torch.nn.Module, config: Config) -> torch.Tensor:
    pixels = torch.randn(2, 6, config.image_px, config.image_px, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(pixels, torch.arange(3, 11).expand(2, 8)).logits


def _trained(config: Config) -> Any:
    torch.manual_seed(0)  # peft draws from it
    adapted = add_adapter(_model(config), rank=4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2, generator=generator)
    return adapted


def test_a_new_adapter_changes_nothing_and_is_all_that_is_trained(released_config: Config) -> None:
    model = _model(released_config)
    before = _logits(model, released_config)
    adapted = add_adapter(model)
    torch.testing.assert_close(_logits(adapted, released_config), before)
    assert all(("lora_" in name) == parameter.requires_grad for name, parameter in adapted.named_parameters())


def test_the_product_is_scaled_by_a_half(released_config: Config) -> None:
    adapted = add_adapter(_model(released_config))
    layer = adapted.base_model.model.projector.fc1
    assert layer.scaling["default"] == 0.5
    # normal with standard deviation 1 / rank
    assert layer.lora_A["default"].weight.std().item() == pytest.approx(1 / 32, rel=0.1)


def test_one_step_changes_the_adapter_and_nothing_else(released_config: Config) -> None:
    adapted = add_adapter(_model(released_config), rank=4)
    before = {name: parameter.clone() for name, parameter in adapted.named_parameters()}
    pixels, ids = torch.randn(2, 6, 28, 28), torch.randint(3, 32000, (2, 9))
    adapted(pixels, ids, ids).loss.backward()
    torch.optim.AdamW(adapted.parameters(), lr=1e-3).step()
    changed = {name for name, parameter in adapted.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed and all("lora_" in name for name in changed)
    assert any("patch_embed" in name for name in changed) and any("lm_head" in name for name in changed)


def test_merging_keeps_the_answers_and_leaves_a_plain_model(released_config: Config) -> None:
    adapted = _trained(released_config)
    before = _logits(adapted, released_config)
    merged = merge(adapted)
    assert isinstance(merged, OpenVLAModel)
    assert merged.state_dict().keys() == make_model(released_config).state_dict().keys()
    torch.testing.assert_close(_logits(merged, released_config), before, rtol=1e-3, atol=1e-4)
    assert (before - _logits(_model(released_config), released_config)).abs().max() > 0.01


def test_a_merged_copy_is_what_merging_gives_and_leaves_the_adapter_on(released_config: Config) -> None:
    adapted = _trained(released_config)
    before = _logits(adapted, released_config)
    copy = merged_copy(adapted).state_dict()
    assert torch.equal(_logits(adapted, released_config), before)
    merged = merge(adapted).state_dict()
    assert copy.keys() == merged.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(copy[name], tensor, rtol=0, atol=1e-6)


def test_an_adapter_that_is_not_finite_is_not_merged(released_config: Config) -> None:
    adapted = _trained(released_config)
    with torch.no_grad():
        adapted.base_model.model.projector.fc1.lora_B["default"].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        merge(adapted)


def test_what_is_saved_is_loaded(released_config: Config, tmp_path: Path) -> None:
    adapted = _trained(released_config)
    save_adapter(tmp_path / "adapter", adapted)
    loaded = load_adapter(_model(released_config), tmp_path / "adapter")
    assert torch.equal(_logits(loaded, released_config), _logits(adapted, released_config))


def _folder(config: Config, tmp_path: Path) -> Path:
    """An adapter folder as the released fine-tuning writes it."""
    folder = tmp_path / "adapter"
    save_adapter(folder, _trained(config))
    tensors = load_file(folder / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.") and name.endswith("weight") for name in tensors)
    tensors["base_model.model.language_model.lm_head.base_layer.weight"] = torch.zeros(4)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_frozen_layers_that_the_released_code_saves_along_are_not_used(released_config: Config, tmp_path: Path) -> None:
    folder = _folder(released_config, tmp_path)
    loaded = load_adapter(_model(released_config), folder)
    assert torch.equal(_logits(loaded, released_config), _logits(_trained(released_config), released_config))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"peft_type": "IA3"}, "is IA3 of rank 4"),
        ({"r": 0}, "rank 0"),
        ({"r": "4"}, "Expected `int`"),
        ({"use_dora": True}, "use_dora is True, which is not done here"),
        ({"use_rslora": True}, "use_rslora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"target_modules": ["rotary_emb"]}, "on rotary_emb; must be LORA"),
        ({"target_modules": ".*"}, "Expected `array`"),
        ({"r": 8}, r"has shape \[4, .* must be \[8, "),
        ({"target_modules": ["fc1"]}, r"has shape \[.*\], must be None"),
    ],
)
def test_another_kind_of_adapter_is_refused_and_the_model_is_left_alone(
    released_config: Config, tmp_path: Path, edit: Edit, fields: dict[str, Any], says: str
) -> None:
    folder = _folder(released_config, tmp_path)
    edit(folder / "adapter_config.json", **fields)
    model = _model(released_config)
    with pytest.raises(CheckpointError, match=says):
        load_adapter(model, folder)
    assert model.state_dict().keys() == make_model(released_config).state_dict().keys()


def test_damaged_adapter_files_are_refused(released_config: Config, tmp_path: Path) -> None:
    folder = _folder(released_config, tmp_path)
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors = load_file(weights)
    first = sorted(tensors)[3]
    tensors[first][0] = float("inf")
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match=f"{first} is not finite"):
        load_adapter(_model(released_config), folder)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"adapter_model.safetensors: cannot be read"):
        load_adapter(_model(released_config), folder)
    weights.unlink()
    (folder / "adapter_model.bin").write_bytes(b"a pickle, which nobody opens")
    with pytest.raises(CheckpointError, match=r"adapter_model.safetensors: cannot be read"):
        load_adapter(_model(released_config), folder)
    config.write_text("{")
    with pytest.raises(CheckpointError, match=r"adapter_config.json: "):
        load_adapter(_model(released_config), folder)
    config.unlink()
    with pytest.raises(CheckpointError, match=r"adapter_config.json: cannot be read"):
        load_adapter(_model(released_config), folder)
