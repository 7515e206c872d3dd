"""A released config becomes ours; what asks for anything else is refused and nothing is imported."""

import copy
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from rldg_policies.octo.config import T5, OctoError
from rldg_policies.octo.presets import preset
from rldg_policies.octo.released import read_released


def part(module: str, name: str, **kwargs: Any) -> dict[str, Any]:
    return {"module": f"octo.model.components.{module}", "name": name, "args": [], "kwargs": kwargs}


def image_tokenizer(key: str) -> dict[str, Any]:
    encoder = part("vit_encoders", "SmallStem16")
    return part("tokenizers", "ImageTokenizer", encoder=encoder, obs_stack_keys=[key], task_stack_keys=[key])


RELEASED: dict[str, Any] = {
    "seed": 42,
    "window_size": 2,
    "text_processor": {
        "module": "octo.data.utils.text_processing",
        "name": "HFTokenizer",
        "args": [],
        "kwargs": {"tokenizer_name": "t5-base", "tokenizer_kwargs": {"max_length": 16, "padding": "max_length"}},
    },
    "dataset_kwargs": {"frame_transform_kwargs": {"resize_size": {"primary": [256, 256], "wrist": [128, 128]}}},
    "model": {
        "observation_tokenizers": {
            "primary": image_tokenizer("image_primary"),
            "wrist": image_tokenizer("image_wrist"),
        },
        "task_tokenizers": {
            "language": part("tokenizers", "LanguageTokenizer", encoder="t5-base", finetune_encoder=False)
        },
        "heads": {
            "action": part(
                "action_heads",
                "DiffusionActionHead",
                readout_key="readout_action",
                use_map=False,
                action_horizon=4,
                action_dim=7,
                n_diffusion_samples=1,
                dropout_rate=0.0,
            )
        },
        "readouts": {"action": 1},
        "transformer_kwargs": {
            "num_layers": 12,
            "num_attention_heads": 6,
            "mlp_dim": 1536,
            "dropout_rate": 0.0,
            "attention_dropout_rate": 0.0,
            "add_position_embedding": False,
        },
        "token_embedding_size": 384,
        "max_horizon": 10,
        "repeat_task_tokens": True,
        "use_correct_attention": True,
    },
}


def test_the_config_of_octo_small_is_read() -> None:
    assert read_released(RELEASED, "config.json") == preset("octo-small")


def test_image_sizes_and_padding_of_instructions_are_those_of_the_file() -> None:
    found = copy.deepcopy(RELEASED)
    found["dataset_kwargs"]["frame_transform_kwargs"]["resize_size"]["wrist"] = [64, 64]
    found["text_processor"]["kwargs"]["tokenizer_kwargs"]["max_length"] = 32
    config = read_released(found, "config.json")
    assert [slot.size_px for slot in config.slots] == [256, 64]
    assert config.language == T5(tokens=32)


def test_a_config_before_1_5_is_read_with_the_attention_it_was_trained_with() -> None:
    found = copy.deepcopy(RELEASED)
    del found["model"]["use_correct_attention"], found["model"]["repeat_task_tokens"]
    head = found["model"]["heads"]["action"]["kwargs"]
    head["pred_horizon"] = head.pop("action_horizon")
    config = read_released(found, "config.json")
    expected = msgspec.structs.replace(preset("octo-small"), correct_attention=False, repeat_language=False)
    assert config == expected


def test_a_deleted_tokenizer_is_not_in_the_model() -> None:
    found = copy.deepcopy(RELEASED)
    del found["model"]["observation_tokenizers"]["primary"]
    assert [slot.name for slot in read_released(found, "config.json").slots] == ["wrist"]


def hostile_module(found: Any) -> None:
    found["model"]["heads"]["action"].update(module="antigravity", name="fly")


def other_head(found: Any) -> None:
    found["model"]["heads"]["action"].update(name="L1ActionHead")


def other_stem(found: Any) -> None:
    found["model"]["observation_tokenizers"]["wrist"]["kwargs"]["encoder"]["name"] = "SmallStem32"


def unnamed_arguments(found: Any) -> None:
    found["model"]["heads"]["action"]["args"] = ["readout_obs"]


def pooling(found: Any) -> None:
    found["model"]["heads"]["action"]["kwargs"]["use_map"] = True


def unknown_option(found: Any) -> None:
    found["model"]["heads"]["action"]["kwargs"]["temperature"] = 1.0


def dropout(found: Any) -> None:
    found["model"]["transformer_kwargs"]["dropout_rate"] = 0.1


def no_goal(found: Any) -> None:
    found["model"]["observation_tokenizers"]["wrist"]["kwargs"]["task_stack_keys"] = []


def other_camera(found: Any) -> None:
    found["model"]["observation_tokenizers"]["front"] = image_tokenizer("image_front")


def other_language(found: Any) -> None:
    found["model"]["task_tokenizers"]["language"]["kwargs"]["encoder"] = "/etc/passwd"


def no_square(found: Any) -> None:
    found["dataset_kwargs"]["frame_transform_kwargs"]["resize_size"]["wrist"] = [128, 96]


def many_layers(found: Any) -> None:
    found["model"]["transformer_kwargs"]["num_layers"] = "12"


def no_model(found: Any) -> None:
    found["model"] = None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (hostile_module, "antigravity:fly is not supported in its place; supported: octo.*:DiffusionActionHead"),
        (other_head, "octo.model.components.action_heads:L1ActionHead is not supported"),
        (other_stem, "SmallStem32 is not supported in its place; supported: .*:SmallStem16"),
        (unnamed_arguments, "has arguments without a name, .'readout_obs'."),
        (pooling, "DiffusionActionHead: use_map is True, supported: False"),
        (unknown_option, "unknown field `temperature`"),
        (dropout, "transformer_kwargs: dropout_rate is 0.1, supported: 0.0"),
        (no_goal, "tokenizer 'wrist': task_stack_keys is .., supported: .'image_wrist'."),
        (other_camera, "primary|wrist"),
        (other_language, "language encoder '/etc/passwd' is not supported; supported: t5-base"),
        (no_square, "tokenizer 'wrist': images are 96 x 128, supported are squares"),
        (many_layers, "Expected `int`, got `str`"),
        (no_model, "Expected `object`, got `null`"),
    ],
)
def test_what_does_not_exist_here_is_refused_in_one_line(spoil: Callable[[Any], None], message: str) -> None:
    found = copy.deepcopy(RELEASED)
    spoil(found)
    with pytest.raises(OctoError, match=f"^config.json: .*{message}") as refused:
        read_released(found, "config.json")
    assert "\n" not in str(refused.value)
    assert "antigravity" not in sys.modules
