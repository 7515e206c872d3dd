"""A config.json says which model it is, and what is not known is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from rldg_policies.openvla.config import (
    DINOV2_L,
    SIGLIP_SO400M,
    Config,
    TowerSpec,
    config_from_json,
    config_to_json,
    preprocessor_to_json,
    with_preprocessor,
)
from rldg_policies.openvla.model import llama_config, make_model
from rldg_policies.openvla.presets import PRESETS, preset


def released() -> dict[str, Any]:
    """The fields of the released file."""
    return {
        "architectures": ["OpenVLAForActionPrediction"],
        "auto_map": {"AutoConfig": "configuration_prismatic.OpenVLAConfig"},
        "arch_specifier": "no-align+fused-gelu-mlp",
        "hf_llm_id": "meta-llama/Llama-2-7b-hf",
        "image_resize_strategy": "resize-naive",
        "image_sizes": [224, 224],
        "llm_backbone_id": "llama2-7b-pure",
        "llm_max_length": 2048,
        "model_type": "openvla",
        "n_action_bins": 256,
        "norm_stats": {},
        "output_projector_states": False,
        "pad_to_multiple_of": 64,
        "pad_token_id": 32000,
        "text_config": {"model_type": "llama", "pad_token_id": 32000, "torch_dtype": "bfloat16", "vocab_size": 32064},
        "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
        "timm_override_act_layers": [None, None],
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1",
        "use_fused_vision_backbone": True,
        "vision_backbone_id": "dinosiglip-vit-so-224px",
    }


def test_the_released_file_is_the_7b_preset() -> None:
    config = config_from_json(released())
    assert config == preset("openvla-7b")
    assert (config.dino, config.siglip) == (DINOV2_L, SIGLIP_SO400M)
    assert (config.action_base_id, config.patches, config.empty_token_id) == (32000, 256, 29871)


def test_the_7b_preset_has_the_published_number_of_parameters_in_982_tensors() -> None:
    model = make_model(preset("openvla-7b"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 7_541_237_184
    assert len(model.state_dict()) == 982


def test_llama_has_the_epsilon_of_the_released_fine_tuning() -> None:
    assert llama_config(preset("openvla-7b").llama).rms_norm_eps == 1e-6


@pytest.mark.parametrize(("name", "limit"), [("openvla-nano", 5_000_000), ("openvla-test", 1_000_000)])
def test_small_presets_are_small(name: str, limit: int) -> None:
    assert sum(parameter.numel() for parameter in make_model(preset(name)).parameters()) < limit


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="preset 'openvla-8b': there is none; use one of openvla-7b, openvla-nano"):
        preset("openvla-8b")


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_written_is_read_again(name: str) -> None:
    config = msgspec.structs.replace(preset(name), center_crop=True, prompt="Do {instruction}!", torch_dtype="float16")
    assert config_from_json(json.loads(json.dumps(config_to_json(config, {"a": {}})))) == config
    assert with_preprocessor(config, json.loads(json.dumps(preprocessor_to_json(config)))) == config


def test_the_7b_preset_writes_all_the_released_fields() -> None:
    written = config_to_json(preset("openvla-7b"), {})
    same = {name: value for name, value in released().items() if name not in ("text_config", "auto_map")}
    assert same.items() <= (written | {"transformers_version": "4.40.1"}).items()
    assert written["rldg"] == {}


def _text(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["text_config"].update(fields)


def _set(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.update(fields)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_set(model_type="prismatic"), "model_type is 'prismatic', must be 'openvla'"),
        (_set(arch_specifier="no-align+gelu-mlp"), "arch_specifier is"),
        (_set(image_resize_strategy="letterbox"), "image_resize_strategy is 'letterbox', must be 'resize-naive'"),
        (_set(timm_override_act_layers=["quick_gelu", None]), "timm_override_act_layers"),
        (_set(vision_backbone_id="siglip-vit-so400m"), "vision_backbone_id is 'siglip-vit-so400m'"),
        (_set(llm_backbone_id="vicuna-v15-7b"), "llm_backbone_id is 'vicuna-v15-7b', must be 'llama2-7b-pure'"),
        (_set(quantization_config={"bits": 4}), "quantization_config is not known here"),
        (_set(n_action_bins="256"), "Expected `int`"),
        (_set(n_action_bins=40000), "no room for 40000 action tokens"),
        (_set(pad_token_id=2), "pad_token_id is 2, text_config has 32000"),
        (_set(image_sizes=[224, 384]), "must be equal"),
        (_set(image_sizes=[225, 225]), "225 px must be a multiple of the patch side"),
        (_set(image_sizes=[224]), "length"),
        (_set(torch_dtype="float8"), "torch_dtype"),
        (_set(text_config=[]), "text_config is list, must be an object"),
        (_set(rldg={"dino_size": 3}), "unknown field `dino_size`"),
        (_set(rldg={"prompt": "no place for words"}), "must contain {instruction} once"),
        (_text(hidden_act="gelu"), "text_config: hidden_act is 'gelu', must be 'silu'"),
        (_text(rope_scaling={"factor": 2}), "text_config: rope_scaling"),
        (_text(sliding_window=4), "text_config: sliding_window is not known here"),
        (_text(hidden_size=-4), ">= 1"),
        (_text(num_hidden_layers=10**9), "<= 256"),
        (_text(hidden_size=100, num_attention_heads=3), "must be a multiple of the number of heads 3"),
        (lambda data: data.pop("text_config"), "text_config is missing"),
        (lambda data: data["text_config"].pop("vocab_size"), "vocab_size"),
    ],
)
def test_what_is_not_done_here_is_refused(spoil: Callable[[dict[str, Any]], None], says: str) -> None:
    data = released()
    spoil(data)
    with pytest.raises(ValueError, match=says) as caught:
        config_from_json(data)
    assert "\n" not in str(caught.value)


def test_towers_of_uneven_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="width 10 must be a multiple of the number of heads 4"):
        TowerSpec(width=10, blocks=1, heads=4, mlp=8)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("image_resize_strategy", "letterbox", "letterbox"),
        ("tvf_do_letterbox", True, "tvf_do_letterbox"),
        ("tvf_resize_params", [{"size": [224, 224], "interpolation": 2}] * 2, "interpolation 2"),
        ("tvf_crop_params", [{"output_size": [200, 200]}] * 2, r"crops to \[200, 200\]"),
        ("tvf_normalize_params", [{"mean": [0, 0, 0], "std": [1, 1, 0]}] * 2, "std positive"),
        ("tvf_normalize_params", [{"mean": [0, 0, 0], "std": [1, 1, 1]}], "length"),
    ],
)
def test_another_preprocessing_is_refused(field: str, value: Any, says: str) -> None:
    data = preprocessor_to_json(Config()) | {field: value}
    with pytest.raises(ValueError, match=says):
        with_preprocessor(Config(), data)


def test_the_pixel_statistics_of_the_file_are_used() -> None:
    data = preprocessor_to_json(Config())
    data["tvf_normalize_params"][0]["mean"] = [0.1, 0.2, 0.3]
    assert with_preprocessor(Config(), data).pixel_mean == (0.1, 0.2, 0.3, 0.5, 0.5, 0.5)
