"""Models by name: the released one, a small one that runs at control rate on a laptop, and a tiny one for tests."""

from __future__ import annotations

from typing import Any

from rldg_policies.openvla.config import Config, LlamaSpec, TowerSpec
from rldg_policies.openvla.nano_vocabulary import PAD_ID, SIZE, SPACE_ID
from rldg_policies.patch_stem import PatchStem


def _own(llama: LlamaSpec, image_px: int, **vision: Any) -> Config:
    """A small model with the nano vocabulary."""
    return Config(
        llama=llama, image_px=image_px, max_length=512, empty_token_id=SPACE_ID, torch_dtype="float32", **vision
    )


def _tower(registers: int) -> TowerSpec:
    return TowerSpec(width=32, blocks=1, heads=2, mlp=128, registers=registers)


def _llama(width: int, layers: int, heads: int, hidden: int) -> LlamaSpec:
    return LlamaSpec(
        vocab_size=SIZE,
        pad_token_id=PAD_ID,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=512,
    )


PRESETS = {
    "openvla-7b": Config(),
    "openvla-nano": _own(_llama(192, 6, 3, 512), image_px=128, stem=PatchStem()),
    "openvla-test": _own(_llama(64, 2, 2, 128), image_px=28, dino=_tower(4), siglip=_tower(0)),
}


def preset(name: str) -> Config:
    """The model of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r}: there is none; use one of {', '.join(PRESETS)}")
    return PRESETS[name]
