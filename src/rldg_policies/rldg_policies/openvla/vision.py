"""The two vision transformers of OpenVLA and what joins them, with the parameter names of the released files.

DINOv2 ViT-L/14 with registers (Darcet et al. 2023) and SigLIP So400m/14 (Zhai et al. 2023), as timm names their parts;
GELU is the exact one in both. Features are taken before the last block and without a final norm.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rldg_policies.openvla.config import PATCH_PX, Config, TowerSpec
from rldg_policies.patch_stem import PatchStem

_EPS = 1e-6


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_factor


class Block(nn.Module):
    def __init__(self, spec: TowerSpec, scaled: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(spec.width, eps=_EPS) for _ in range(2))
        self.attn = Attention(spec.width, spec.heads)
        self.mlp = Mlp(spec.width, spec.mlp)
        self.ls1, self.ls2 = (LayerScale(spec.width) if scaled else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class AttentionPool(nn.Module):
    """The parameters of SigLIP's pooling head, which OpenVLA never applies."""

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.latent = nn.Parameter(torch.zeros(1, 1, spec.width))
        self.q, self.proj = (nn.Linear(spec.width, spec.width) for _ in range(2))
        self.kv = nn.Linear(spec.width, 2 * spec.width)
        self.norm = nn.LayerNorm(spec.width, eps=_EPS)
        self.mlp = Mlp(spec.width, spec.mlp)


class Tower(nn.Module):
    """One vision transformer, from (batch, 3, side, side) to (batch, patches, width)."""

    def __init__(self, spec: TowerSpec, patches: int, dino: bool) -> None:
        super().__init__()
        self.read = spec.blocks
        self.prefix = 1 + spec.registers if dino else 0
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, spec.width, PATCH_PX, stride=PATCH_PX)})
        self.pos_embed = nn.Parameter(torch.zeros(1, patches, spec.width))  # patches only, also with other tokens
        if dino:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.width))
            self.reg_token = nn.Parameter(torch.zeros(1, spec.registers, spec.width))
        self.blocks = nn.ModuleList(Block(spec, scaled=dino) for _ in range(spec.blocks + spec.tail))
        if spec.tail:
            self.norm = nn.LayerNorm(spec.width, eps=_EPS)
            if not dino:
                self.attn_pool = AttentionPool(spec)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2) + self.pos_embed
        if self.prefix:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.reg_token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks[: self.read]:
            x = block(x)
        return x[:, self.prefix :]


class VisionBackbone(nn.Module):
    """Both towers, from (batch, 6, side, side) to (batch, patches, width of DINOv2 + width of SigLIP)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.featurizer = Tower(config.dino, config.patches, dino=True)
        self.fused_featurizer = Tower(config.siglip, config.patches, dino=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        dino, siglip = pixel_values.split(3, 1)
        return torch.cat([self.featurizer(dino), self.fused_featurizer(siglip)], -1)


class Stem(nn.Module):
    """What small models see with, from (batch, 6, side, side) to (batch, tokens, width): see :class:`PatchStem`.

    Its layers are called as those of the towers are: adapters go by names.
    """

    def __init__(self, spec: PatchStem, side_px: int) -> None:
        super().__init__()
        self.tokens = spec.tokens
        channels = (3, *spec.widths)
        self.stages = nn.ModuleList(
            nn.Sequential(OrderedDict(proj=nn.Conv2d(before, after, side, stride=side), act=nn.ReLU()))
            for before, after, side in zip(channels, spec.widths, spec.sides, strict=False)
        )
        if spec.tokens:
            places = (side_px // spec.patch_px) ** 2
            self.proj = nn.Linear(places * spec.widths[-1], spec.tokens * spec.token_width)
        self.norm = nn.LayerNorm(spec.width, eps=_EPS)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = pixel_values[:, 3:]
        for stage in self.stages:
            x = stage(x)
        if self.tokens:
            return self.norm(self.proj(x.flatten(1)).unflatten(1, (self.tokens, -1)))
        return self.norm(x.flatten(2).transpose(1, 2))


def make_vision(config: Config) -> tuple[nn.Module, int]:
    """What a model sees with, and the width of its features."""
    if config.stem is not None:
        return Stem(config.stem, config.image_px), config.stem.width
    return VisionBackbone(config), config.dino.width + config.siglip.width


class Projector(nn.Module):
    """From fused vision features to the width of the language model."""

    def __init__(self, vision: int, llama: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision, 4 * vision)
        self.fc2 = nn.Linear(4 * vision, llama)
        self.fc3 = nn.Linear(llama, llama)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(features)))))
