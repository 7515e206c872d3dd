"""Small models and folders for the tests of OpenVLA."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers

from rldg_policies.openvla.config import Config, LlamaSpec, TowerSpec, config_to_json, preprocessor_to_json
from rldg_policies.openvla.model import OpenVLAModel, make_random_model
from rldg_policies.openvla.nano_vocabulary import nano_tokenizer
from rldg_policies.openvla.policy import OpenVLA
from rldg_policies.openvla.presets import preset
from rldg_policies.openvla.prompt import PromptEncoder

LOW, HIGH = [-1.0] * 6 + [0.0], [1.0, 2.0, 3.0, 1.0, 1.0, 1.0, 1.0]
BOUNDS = {
    **{"mean": LOW, "std": HIGH, "min": LOW, "max": HIGH, "q01": LOW, "q99": HIGH},
    "mask": [True] * 6 + [False],
}


@pytest.fixture(scope="session")
def golden(golden_path: Callable[[str], Path]) -> Path:
    """What the released code computed with a tiny random model, where it is at hand."""
    return golden_path("openvla_tiny")


@pytest.fixture(scope="session")
def varied_model() -> OpenVLAModel:
    """The test preset with weights so large that images change its tokens."""
    model = make_random_model(preset("openvla-test"), 0)
    with torch.no_grad():
        model.language_model.lm_head.weight.mul_(3.0)
        model.language_model.model.embed_tokens.weight.mul_(20.0)
        model.projector.fc3.weight.mul_(4.0)
    return model


@pytest.fixture
def policy(varied_model: OpenVLAModel) -> OpenVLA:
    prompts = PromptEncoder(nano_tokenizer(), varied_model.spec)
    return OpenVLA(varied_model, prompts, {"pegs": {"action": BOUNDS}})


@pytest.fixture(scope="session")
def llama_like() -> Callable[[int], Tokenizer]:
    """A tokenizer with the ids of Llama 2 as far as the model depends on them; "▁" at a place of choice."""

    def make(empty_token_id: int = 29871) -> Tokenizer:
        pieces = [f"<unused{i}>" for i in range(32000)]
        pieces[:3] = ["<unk>", "<s>", "</s>"]
        pieces[3:259] = [f"<0x{byte:02X}>" for byte in range(256)]
        for index, piece in {512: "\u2581In", 3744: "Out", 29901: ":", empty_token_id: "\u2581"}.items():
            pieces[index] = piece
        for offset, letter in enumerate("abcdefghijklmnopqrstuvwxyz"):
            pieces[29000 + offset] = letter
        tokenizer = Tokenizer(models.Unigram([(piece, -10.0) for piece in pieces], unk_id=0, byte_fallback=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "<PAD>"])
        return tokenizer

    return make


def _tower(width: int, registers: int) -> TowerSpec:
    return TowerSpec(width=width, blocks=1, heads=2, mlp=2 * width, registers=registers, tail=True)


@pytest.fixture(scope="session")
def released_config() -> Config:
    """The released layout and vocabulary, with tiny networks."""
    llama = LlamaSpec(
        vocab_size=32064,
        pad_token_id=32000,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return Config(dino=_tower(16, 4), siglip=_tower(20, 0), llama=llama, image_px=28, torch_dtype="float32")


@pytest.fixture(scope="session")
def _released(
    tmp_path_factory: pytest.TempPathFactory, released_config: Config, llama_like: Callable[[int], Tokenizer]
) -> Path:
    folder = tmp_path_factory.mktemp("released")
    tensors = make_random_model(released_config, 1).state_dict()
    shards = [dict(list(tensors.items())[i::2]) for i in range(2)]
    places = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in shard.items()}, folder / file)
        places |= dict.fromkeys(shard, file)
    index = {"metadata": {}, "weight_map": places}
    config = config_to_json(released_config, {"old": {"action": BOUNDS}})
    config["rldg"] = {name: config["rldg"][name] for name in ("dino", "siglip")}
    config |= {"auto_map": {"AutoConfig": "evil.Config"}, "transformers_version": "4.40.1"}
    contents: dict[str, Any] = {
        "config.json": config,
        "preprocessor_config.json": preprocessor_to_json(released_config),
        "model.safetensors.index.json": index,
        "dataset_statistics.json": {"pegs": {"action": BOUNDS, "num_transitions": 3}},
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    llama_like(29871).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def released(_released: Path, tmp_path: Path) -> Path:
    """A folder with the layout of the released one, to be spoiled."""
    folder = tmp_path / "released"
    folder.mkdir()
    for file in _released.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def edit() -> Callable[..., None]:
    """Change fields of a JSON file; None removes one."""

    def change(path: Path, **fields: Any) -> None:
        data = msgspec.json.decode(path.read_bytes())
        for name, value in fields.items():
            if value is None:
                del data[name]
            else:
                data[name] = value
        path.write_bytes(msgspec.json.encode(data))

    return change
