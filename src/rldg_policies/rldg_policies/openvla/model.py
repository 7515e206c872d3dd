"""OpenVLA (Kim et al. 2024, section 3): image patches and prompt in, action tokens out of one Llama."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from rldg_policies.openvla.config import Config, LlamaSpec
from rldg_policies.openvla.vision import Projector, VisionBackbone, make_vision

IGNORED = -100  # label of a position that is not trained


class Output(NamedTuple):
    """What the model says.

    Attributes:
        logits: (batch, 1 + patches + tokens - 1, vocabulary); with labels (labelled, vocabulary), in their order.
        loss: mean cross entropy over the labelled positions, in float32; with labels only.
        targets: (labelled,) the ids that ``logits`` should have chosen; with labels only.
    """

    logits: Tensor
    loss: Tensor | None = None
    targets: Tensor | None = None


class KeyValues(Protocol):
    """Remembers keys and values of the layers of a language model."""

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Take those of the tokens at hand, (1, heads, tokens, width); return what they may look at."""


class OpenVLAModel(nn.Module):
    """The network. Parameters have the names of the released files.

    A padding mask is not needed: prompts are padded on the right, where nothing that comes before looks.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.spec = config  # not `config`: peft would take it for one of transformers
        self.vision_backbone, width = make_vision(config)
        self.projector = Projector(width, config.llama.hidden_size)
        self.language_model = LlamaForCausalLM(llama_config(config.llama))

    def embed(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        """The first token, the patches, the other tokens: (batch, patches + tokens, width).

        Args:
            pixel_values: (batch, 6, side, side), see :mod:`rldg_policies.openvla.images`.
            input_ids: (batch, tokens) int64, padded on the right.
        """
        tokens = self.language_model.model.embed_tokens(input_ids)
        patches = self.projector(self.vision_backbone(pixel_values)).to(tokens.dtype)
        return torch.cat([tokens[:, :1], patches, tokens[:, 1:]], 1)

    def hidden(
        self, embeds: Tensor, positions: Tensor, mask: Tensor | None = None, cache: KeyValues | None = None
    ) -> Tensor:
        """What the language model's head reads, (batch, tokens, width).

        Args:
            embeds: (batch, tokens, width).
            positions: (tokens,) int64.
            mask: (1, 1, tokens, keys) bool, True where a key may be seen; None: all up to the own position.
            cache: where earlier keys and values are.
        """
        llama = self.language_model.model
        cos, sin = llama.rotary_emb(embeds, position_ids=positions[None])
        half = sin.shape[-1] // 2
        rotation = cos[:, :, None], torch.cat([-sin[..., :half], sin[..., half:]], -1)[:, :, None]
        for number, layer in enumerate(llama.layers):
            embeds = _layer(layer, number, embeds, rotation, mask, cache)
        return _rms_norm(llama.norm, embeds)

    def forward(self, pixel_values: Tensor, input_ids: Tensor, labels: Tensor | None = None) -> Output:
        """Logits, and with labels the loss.

        Args:
            pixel_values, input_ids: of :meth:`embed`.
            labels: (batch, tokens) int64: ids, or -100 where nothing is trained.

        Raises:
            ValueError: no position has a label.
        """
        embeds = self.embed(pixel_values, input_ids)
        hidden = self.hidden(embeds, torch.arange(embeds.shape[1], device=embeds.device))
        head = self.language_model.lm_head
        if labels is None:
            return Output(head(hidden))
        # token i + 1 is predicted at position patches + i; the head is applied only where something is trained
        trained = labels[:, 1:] != IGNORED
        targets = labels[:, 1:][trained]
        if not len(targets):
            raise ValueError(f"labels: all {labels.numel()} are {IGNORED}, at least one must be an id")
        logits = head(hidden[:, self.spec.patches : -1][trained])
        return Output(logits, F.cross_entropy(logits.float(), targets), targets)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # The frequencies are no weights: a cast to bfloat16 must not round them, and no file fills them.
        super()._apply(fn, recurse)
        rotation = LlamaRotaryEmbedding(self.language_model.config)
        self.language_model.model.rotary_emb = rotation.to(self.language_model.lm_head.weight.device)
        return self


# --- a layer of the language model -----------------------------------------------------------------------------------
#
# What transformers' own layer computes, from its modules, in a third of the operations: for one token at a time their
# number is what a pass of a small model costs, and on a GPU a good part of what that of a large one does.


def _layer(
    layer: Any,
    number: int,
    x: Tensor,
    rotation: tuple[Tensor, Tensor],
    mask: Tensor | None,
    cache: KeyValues | None,
) -> Tensor:
    attention, mlp = layer.self_attn, layer.mlp
    seen = _rms_norm(layer.input_layernorm, x)
    queries, keys, values = attention.q_proj(seen), attention.k_proj(seen), attention.v_proj(seen)
    turned = _rotate(torch.cat([queries, keys], -1).unflatten(-1, (-1, attention.head_dim)), *rotation).transpose(1, 2)
    key_heads = keys.shape[-1] // attention.head_dim
    query_heads = turned.shape[1] - key_heads
    q, k = turned.split([query_heads, key_heads], 1)
    v = values.unflatten(-1, (key_heads, -1)).transpose(1, 2)
    if cache is not None:
        k, v = cache.update(k, v, number)
    grouped = query_heads != key_heads
    read = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=grouped)
    x = x + attention.o_proj(read.transpose(1, 2).flatten(2))
    seen = _rms_norm(layer.post_attention_layernorm, x)
    return x + mlp.down_proj(F.silu(mlp.gate_proj(seen)) * mlp.up_proj(seen))


def _rms_norm(norm: Any, x: Tensor) -> Tensor:
    """Rounded to the type of ``x`` before it is scaled, as in the released code."""
    return norm.weight * F.rms_norm(x, x.shape[-1:], None, norm.variance_epsilon)


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021) of (batch, tokens, heads, width); the first half of ``sin`` is negated."""
    return heads * cos + heads.roll(heads.shape[-1] // 2, -1) * sin


def llama_config(spec: LlamaSpec) -> LlamaConfig:
    """The same for transformers."""
    return LlamaConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.num_hidden_layers,
        num_attention_heads=spec.num_attention_heads,
        num_key_value_heads=spec.num_key_value_heads,
        rms_norm_eps=spec.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
        max_position_embeddings=spec.max_position_embeddings,
        pad_token_id=spec.pad_token_id,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )


def make_model(config: Config, dtype: torch.dtype = torch.float32) -> OpenVLAModel:
    """A model without weights, on the meta device: it costs no memory whatever its size."""
    with torch.device("meta"):
        return OpenVLAModel(config).to(dtype)


def make_random_model(config: Config, seed: int) -> OpenVLAModel:
    """A model with random float32 weights that learns from few images, in evaluation mode.

    Matrices are normal with a standard deviation of 1 / sqrt(inputs), tokens of 0.02. Three things differ from what
    large models begin with, without which small ones learn to ignore the image first: LayerScale begins at 1, positions
    of patches are waves instead of noise, and neighbouring action tokens are alike.
    """
    model = make_model(config).to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(seed)
    llama, vision = model.language_model, model.vision_backbone
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(module, (nn.Linear, nn.Conv2d)) and name == "weight":
                    parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
                elif parameter.ndim == 1:
                    parameter.fill_(0.0 if name == "bias" else 1.0)
                else:
                    parameter.normal_(0.0, 0.02, generator=generator)
        towers = (vision.featurizer, vision.fused_featurizer) if isinstance(vision, VisionBackbone) else ()
        for tower in towers:
            waves = _grid_waves(config.image_px // config.patch_px, tower.pos_embed.shape[2] // 4)
            tower.pos_embed[0, :, : waves.shape[1]] = waves
        for weight in (llama.lm_head.weight, llama.model.embed_tokens.weight):
            actions = weight[config.action_base_id - config.n_bins : config.action_base_id]
            smooth = _smooth_rows(config.n_bins, weight.shape[1], generator)
            actions.copy_(0.6 * actions + 0.8 * actions.std() * smooth)
    return model


def _grid_waves(cells: int, frequencies: int) -> Tensor:
    """Sines and cosines of column and row, (cells^2, 4 frequencies), wavelengths of 2 pi to almost 200 pi cells."""
    scales = 100.0 ** (-torch.arange(frequencies) / frequencies)
    row, column = (
        cell.flatten()[:, None] * scales for cell in torch.meshgrid([torch.arange(cells)] * 2, indexing="ij")
    )
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], 1)


def _smooth_rows(count: int, width: int, generator: torch.Generator) -> Tensor:
    """Random rows (count, width) of standard deviation 1 that change slowly: sums of 24 cosines of falling weight."""
    number = torch.arange(1, 25)
    waves = torch.cos(torch.linspace(0.0, math.pi, count)[:, None] * number) / number**0.75
    rows = waves @ torch.randn(len(number), width, generator=generator)
    return rows / rows.std()
