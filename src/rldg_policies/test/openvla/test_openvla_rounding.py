"""Weights are rounded within known bounds, when a folder is read or afterwards, and never where they are damaged."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from rldg_policies.openvla import memory, rounding
from rldg_policies.openvla.checkpoint import load, load_model, save
from rldg_policies.openvla.config import CheckpointError, Mode
from rldg_policies.openvla.decoding import Decoder
from rldg_policies.openvla.memory import weight_bytes
from rldg_policies.openvla.model import OpenVLAModel, make_random_model
from rldg_policies.openvla.policy import OpenVLA
from rldg_policies.openvla.presets import preset
from rldg_policies.openvla.rounding import Int4Linear, Int8Linear, RoundedLinear, has_product, rounded_copy

MODES: list[Mode] = ["fast_int8", "fast_int4"]
HALF = 2.0**-9  # relative error of rounding to bfloat16


def _weights(outputs: int = 48, inputs: int = 128) -> torch.Tensor:
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(3))
    weight[0] = 0.0
    weight[1] = 5.0
    weight[2] *= 1e-6
    weight[3, 7] = 100.0
    return weight


def _filled(kind: type[RoundedLinear], weight: torch.Tensor, packed: bool = False) -> RoundedLinear:
    layer = kind(*weight.shape, packed)
    layer.fill(weight)
    return layer


def test_eight_bits_are_off_by_half_a_step_of_the_largest_weight_of_their_output() -> None:
    weight = _weights()
    step = weight.abs().amax(1, keepdim=True) / 127.0
    off = (_filled(Int8Linear, weight).dequantised() - weight).abs()
    assert (off <= 0.5 * step * (1.0 + 2.0 * HALF) + 1e-37).all()
    assert off.max() > 0.3 * step.max()  # something was rounded


def test_four_bits_are_off_by_half_a_step_of_the_range_of_their_group() -> None:
    weight = _weights(inputs=320)
    layer = _filled(Int4Linear, weight)
    assert isinstance(layer, Int4Linear) and layer.group == 64
    grouped = weight.unflatten(1, (-1, 64))
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    # half a step, and what rounding of step and middle to bfloat16 moves the outermost level by
    bound = (high - low) / 30.0 + HALF * (16.0 * (high - low) / 15.0 + torch.maximum(low.abs(), high.abs()))
    off = (layer.dequantised().unflatten(1, (-1, 64)) - grouped).abs()
    assert (off <= bound + 1e-37).all()
    assert off.max() > 0.3 * (high - low).max() / 15.0


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 60])
def test_the_product_is_that_of_the_rounded_weights(kind: type[RoundedLinear], rows: int) -> None:
    weight = _weights()
    x = torch.randn(2, rows, 128, generator=torch.Generator().manual_seed(rows))
    plain = _filled(kind, weight)
    expected = torch.nn.functional.linear(x, plain.dequantised())
    torch.testing.assert_close(plain(x), expected, rtol=1e-4, atol=1e-4)
    mode: Mode = "fast_int8" if kind is Int8Linear else "fast_int4"
    if not has_product(mode, 48, 128, "cpu"):
        pytest.skip("this build of PyTorch has no product for such weights")
    found = _filled(kind, weight, packed=True)(x)
    assert found.shape == expected.shape and found.dtype == torch.float32
    size = torch.nn.functional.linear(x.abs(), weight.abs())
    assert ((found - expected).abs() <= 4.0 * HALF * size + 1e-6).all()


@pytest.mark.parametrize("mode", MODES)
def test_a_product_that_is_missing_or_wrong_is_not_used(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = rounding._KINDS[mode]

    def missing(self: RoundedLinear, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("no kernel for this device")

    def wrong(self: RoundedLinear, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, torch.ones(self.outputs, self.inputs, dtype=x.dtype))

    for product in (missing, wrong):
        monkeypatch.setattr(kind, "_product", product)
        assert not has_product.__wrapped__(mode, 48, 128, "cpu")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("packed", [True, False])
def test_a_rounded_model_is_near_the_exact_one_and_takes_less_memory(
    varied_model: OpenVLAModel, mode: Mode, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packed:
        monkeypatch.setattr(rounding, "has_product", lambda *_: False)
    before = {name: tensor.clone() for name, tensor in varied_model.state_dict().items()}
    copy = rounded_copy(varied_model, mode)
    layers = [module for module in copy.modules() if isinstance(module, RoundedLinear)]
    assert len(layers) == 2 * 7
    embeds = torch.randn(1, 12, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact, rounded = (model.hidden(embeds, torch.arange(12)) for model in (varied_model, copy))
    off = float((exact - rounded).norm() / exact.norm())
    assert 1e-4 < off < (0.03 if mode == "fast_int8" else 0.25)
    inside = sum(layer.outputs * layer.inputs for layer in layers)
    saved = weight_bytes(varied_model) - weight_bytes(copy)
    assert saved > inside * (2.9 if mode == "fast_int8" else 3.2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in varied_model.state_dict().items())


@pytest.mark.parametrize("mode", MODES)
def test_a_folder_is_rounded_as_it_is_read(policy: OpenVLA, tmp_path: Path, mode: Mode) -> None:
    save(tmp_path / "c", policy)
    read, made = load_model(tmp_path / "c", mode=mode).state_dict(), rounded_copy(policy.model, mode).state_dict()
    assert read.keys() == made.keys() and all(torch.equal(read[name], made[name]) for name in made)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    rounded = load(tmp_path / "c", mode=mode)
    _, decoded = rounded.predict(image, "insert the plug")
    expected = OpenVLA(rounded_copy(policy.model, mode), policy.prompts, policy.statistics)
    assert decoded == expected.predict(image, "insert the plug")[1]
    with pytest.raises(CheckpointError, match="rounded weights; merge it before saving, or load the model exact"):
        save(tmp_path / "again", rounded)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("check_finite", [True, False])
def test_weights_that_are_not_finite_are_refused(
    policy: OpenVLA, tmp_path: Path, mode: Mode, value: float, check_finite: bool
) -> None:
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    model = make_random_model(policy.model.spec, 0)
    with torch.no_grad():
        model.get_parameter(name)[3, 4] = value
    with pytest.raises(ValueError, match=rf"{name}: a weight is not finite; the training diverged"):
        rounded_copy(model, mode)
    save(tmp_path / "c", OpenVLA(model, policy.prompts, policy.statistics))
    with pytest.raises(CheckpointError, match=rf"model.safetensors: {name}: a weight is not finite") as refused:
        load_model(tmp_path / "c", mode=mode, check_finite=check_finite)
    assert "\n" not in str(refused.value)


def test_a_fast_mode_needs_less_memory_and_is_refused_before_it_runs_out(
    policy: OpenVLA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "c", policy)
    needed = weight_bytes(load_model(tmp_path / "c", mode="fast_int4"))
    monkeypatch.setattr(memory, "free_bytes", lambda device: needed)
    assert load_model(tmp_path / "c", mode="fast_int4")
    for mode in ("exact", "fast_int8"):
        with pytest.raises(CheckpointError, match=r"the weights need 0.0 GB on cpu, 0.0 GB are free; end other .*"):
            load_model(tmp_path / "c", mode=mode)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10)
    with pytest.raises(CheckpointError, match="a fast_int8 copy: the weights need"):
        rounded_copy(policy.model, "fast_int8")


def test_sizes_that_cannot_be_rounded_to_four_bits_are_refused(tmp_path: Path, policy: OpenVLA) -> None:
    llama = msgspec.structs.replace(preset("openvla-test").llama, intermediate_size=72)
    model = make_random_model(msgspec.structs.replace(preset("openvla-test"), llama=llama), 0)
    with pytest.raises(ValueError, match="fast_int4: a layer has 72 inputs, must be a multiple of 32"):
        rounded_copy(model, "fast_int4")
    save(tmp_path / "c", OpenVLA(model, policy.prompts, policy.statistics))
    with pytest.raises(CheckpointError, match=r"config.json: fast_int4: a layer has 72 inputs"):
        load_model(tmp_path / "c", mode="fast_int4")


def test_half_precision_is_rounded_too(varied_model: OpenVLAModel) -> None:
    model = make_random_model(varied_model.spec, 0).to(torch.bfloat16)
    copy = rounded_copy(model, "fast_int8")
    with torch.no_grad():
        hidden = copy.hidden(torch.ones(1, 3, 64, dtype=torch.bfloat16), torch.arange(3))
    assert hidden.dtype == torch.bfloat16 and hidden.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_recorded_passes_choose_the_same_tokens_and_drafts_tip_near_ties_only(
    varied_model: OpenVLAModel, mode: Mode
) -> None:
    model = rounded_copy(varied_model, mode)
    free, fixed = Decoder(model, 16, 7), Decoder(model, 16, 7, record=lambda function, *inputs: function)
    prompt, same = [1, 326, 299, 501, 259], []
    for frame in torch.randn(30, 1, 6, 28, 28, generator=torch.Generator().manual_seed(0)):
        plain = free.decode(frame, prompt)
        same.append(fixed.decode(frame, prompt) == plain)
        same.append(fixed.decode(frame, prompt, lambda decided, ids=plain.ids: ids[len(decided) :]).ids == plain.ids)
    assert np.mean(same) > 0.9
