"""The network is a Llama that reads patches, and its loss is that of the released training."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch.nn import functional as F

from rldg_policies.openvla.config import Config, TowerSpec
from rldg_policies.openvla.model import OpenVLAModel, make_model, make_random_model
from rldg_policies.openvla.presets import preset

TEST = preset("openvla-test")


def _batch(config: Config, size: int = 3, tokens: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(size, 6, config.image_px, config.image_px, generator=generator)
    ids = torch.randint(3, config.action_base_id, (size, tokens), generator=generator)
    labels = ids.clone()
    labels[:, :5] = -100
    labels[1, 9:] = -100
    return pixels, ids, labels


@torch.no_grad()
def test_logits_are_those_of_the_language_model_of_transformers(varied_model: OpenVLAModel) -> None:
    pixels, ids, _ = _batch(varied_model.spec)
    expected = varied_model.language_model(inputs_embeds=varied_model.embed(pixels, ids)).logits
    torch.testing.assert_close(varied_model(pixels, ids).logits, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_may_share_keys_and_halves_round_where_transformers_rounds(dtype: torch.dtype) -> None:
    llama = msgspec.structs.replace(TEST.llama, hidden_size=64, num_attention_heads=4, num_key_value_heads=2)
    model = make_random_model(msgspec.structs.replace(TEST, llama=llama), 0).to(dtype)
    pixels, ids, _ = _batch(model.spec)
    embeds = model.embed(pixels.to(dtype), ids)
    expected = model.language_model.model(inputs_embeds=embeds).last_hidden_state
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    found = model.hidden(embeds, torch.arange(embeds.shape[1]))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_patches_stand_behind_the_first_token(varied_model: OpenVLAModel) -> None:
    pixels, ids, _ = _batch(varied_model.spec)
    embeds, tokens = varied_model.embed(pixels, ids), varied_model.language_model.model.embed_tokens(ids)
    patches = varied_model.spec.patches
    assert torch.equal(embeds[:, 0], tokens[:, 0]) and torch.equal(embeds[:, 1 + patches :], tokens[:, 1:])


@torch.no_grad()
def test_the_loss_is_the_mean_over_labelled_tokens_each_given_those_before(varied_model: OpenVLAModel) -> None:
    pixels, ids, labels = _batch(varied_model.spec)
    output = varied_model(pixels, ids, labels)
    logits = varied_model(pixels, ids).logits[:, varied_model.spec.patches :]  # from the last patch on
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(output.loss, expected)
    assert output.targets.tolist() == labels[labels != -100].tolist()
    assert output.logits.shape == (len(output.targets), TEST.llama.vocab_size)


@torch.no_grad()
def test_padding_on_the_right_changes_nothing(varied_model: OpenVLAModel) -> None:
    pixels, ids, labels = _batch(varied_model.spec)
    padded = [F.pad(tensor, (0, 5), value=value) for tensor, value in ((ids, 960), (labels, -100))]
    torch.testing.assert_close(varied_model(pixels, *padded).loss, varied_model(pixels, ids, labels).loss)


def test_labels_without_an_id_are_refused(varied_model: OpenVLAModel) -> None:
    pixels, ids, labels = _batch(varied_model.spec)
    with pytest.raises(ValueError, match="labels: all 36 are -100"):
        varied_model(pixels, ids, torch.full_like(labels, -100))


def test_every_parameter_of_a_small_preset_is_trained() -> None:
    model = make_random_model(TEST, 0)
    model(*_batch(TEST)).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_of_the_released_tensors_exactly_those_behind_the_read_block_do_not_matter(released_config: Config) -> None:
    model = make_random_model(released_config, 0)
    model(*_batch(released_config)).loss.backward()
    unread = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    norms = {f"{tower}.norm.{kind}" for tower in ("featurizer", "fused_featurizer") for kind in ("weight", "bias")}
    pool = {"latent"} | {
        f"{part}.{kind}" for part in ("q", "kv", "proj", "norm", "mlp.fc1", "mlp.fc2") for kind in ("weight", "bias")
    }
    skipped = norms | {f"fused_featurizer.attn_pool.{name}" for name in pool}
    assert len(skipped) == 17
    last = {name.removeprefix("vision_backbone.") for name in unread} - skipped
    assert skipped <= {name.removeprefix("vision_backbone.") for name in unread}
    assert len(last) == 14 + 12 and all(name.split(".")[1:3] == ["blocks", "1"] for name in last)


def test_training_lowers_the_loss() -> None:
    model, batch = make_random_model(TEST, 0), _batch(TEST, size=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = model(*batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] > 6 and losses[-1] < 0.3 * losses[0]


def test_a_seed_decides_the_weights() -> None:
    first, again, other = (make_random_model(TEST, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["projector.fc1.weight"], other["projector.fc1.weight"])


def test_a_cast_of_the_model_does_not_round_its_frequencies() -> None:
    model = make_random_model(TEST, 0)
    before = model.language_model.model.rotary_emb.inv_freq.clone()
    after = model.to(torch.bfloat16).language_model.model.rotary_emb.inv_freq
    assert after.dtype == torch.float32 and torch.equal(before, after)
    assert make_model(TEST, torch.bfloat16).language_model.lm_head.weight.device.type == "meta"


def test_a_random_model_knows_its_patches_apart_and_takes_neighbouring_actions_for_alike() -> None:
    towers = {"dino": TowerSpec(width=96, blocks=1, heads=3, mlp=96), "siglip": TEST.siglip, "image_px": 98}
    model = make_random_model(msgspec.structs.replace(preset("openvla-nano"), stem=None, **towers), 0)
    for tower in (model.vision_backbone.featurizer, model.vision_backbone.fused_featurizer):
        apart = torch.cdist(tower.pos_embed, tower.pos_embed)[0] + 10.0 * torch.eye(49)
        assert apart.min() > 0.5
    actions = F.normalize(model.language_model.lm_head.weight[704:960], dim=1)
    alike = actions @ actions.T
    assert alike.diagonal(1).mean() > 0.5 and alike.diagonal(1).max() < 0.9  # but not the same
    assert alike.diagonal(128).mean().abs() < 0.4
