"""The model computes what the released code computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rldg_policies.openvla.checkpoint import load_model
from rldg_policies.openvla.decoding import Decoder
from rldg_policies.openvla.model import OpenVLAModel

TOWERS = {
    "dino": {"width": 32, "blocks": 2, "heads": 2, "mlp": 128, "registers": 4, "tail": True},
    "siglip": {"width": 36, "blocks": 2, "heads": 2, "mlp": 144, "tail": True},
}


@pytest.fixture(scope="module")
def model(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenVLAModel:
    folder = tmp_path_factory.mktemp("golden")
    config = json.loads((golden / "config.json").read_text()) | {"rldg": TOWERS}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").symlink_to(golden / "model.safetensors")
    return load_model(folder)  # every tensor of the file has its place, or this raises


@pytest.fixture(scope="module")
def io(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "io.safetensors")


@torch.no_grad()
def test_vision_features_and_patches_are_those_of_the_released_code(
    model: OpenVLAModel, io: dict[str, torch.Tensor]
) -> None:
    features = model.vision_backbone(io["pv"])
    torch.testing.assert_close(features, io["vf"], rtol=0, atol=1e-5)
    torch.testing.assert_close(model.projector(features), io["pf"], rtol=0, atol=1e-5)


@torch.no_grad()
def test_logits_are_those_of_the_released_code(model: OpenVLAModel, io: dict[str, torch.Tensor]) -> None:
    logits = model(io["pv"], io["full"]).logits
    assert logits.shape == (1, 256 + 24, 32064)
    torch.testing.assert_close(logits[:, -12:], io["logits_last_12"], rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_loss_is_that_of_the_released_logits(model: OpenVLAModel, io: dict[str, torch.Tensor]) -> None:
    expected = torch.nn.functional.cross_entropy(io["logits_last_12"][0, 3:-1], io["labels"][0, -8:])
    torch.testing.assert_close(model(io["pv"], io["full"], io["labels"]).loss, expected, rtol=0, atol=1e-4)


def test_greedy_tokens_are_those_of_the_released_code(model: OpenVLAModel, io: dict[str, torch.Tensor]) -> None:
    decoder = Decoder(model, prompt_tokens=16, tokens=7, actions_only=False)
    assert decoder.decode(io["pv"], io["ids"][0].tolist()).ids == io["gen"][0, 16:].tolist()
