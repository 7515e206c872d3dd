"""What an Octo model is, as one hashable struct."""

from __future__ import annotations

from typing import Annotated

import msgspec

from rldg_policies.patch_stem import PatchStem, Size

SlotName = Annotated[str, msgspec.Meta(pattern="^(primary|wrist)$")]
SIZES_PX: dict[str, int] = {"primary": 256, "wrist": 128}  # of the released models
PATCH_PX = 16
MAX_ACTION = 5.0  # normalised actions are clipped to this


class OctoError(ValueError):
    """A model, checkpoint, statistic, image or instruction is missing or wrong; one line with the remedy."""


class ImageSlot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A camera that the model knows, and the side of its images; one token per 16 x 16 pixels."""

    name: SlotName
    size_px: Annotated[int, msgspec.Meta(ge=16, le=1024, multiple_of=16)]

    @property
    def tokens(self) -> int:
        return (self.size_px // PATCH_PX) ** 2


class T5(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="t5"):
    """Instructions through a frozen T5 encoder (T5-base by default) whose weights are in the checkpoint."""

    vocabulary: Size = 32128
    width: Size = 768
    layers: Size = 12
    heads: Size = 12
    head_width: Size = 64
    mlp: Size = 3072
    tokens: Size = 16  # instructions are padded to this


class Embedding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="embedding"):
    """Instructions as one vector of a sentence encoder outside the model (384 numbers: the packaged MiniLM)."""

    width: Size = 384

    @property
    def tokens(self) -> int:
        return 1


class Diffusion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The action head: steps of the noise schedule, and a residual MLP that predicts the noise.

    The last two are 1 and False in the released models; small ones that train for minutes have more of both.

    Attributes:
        draws: noisy versions of every chunk in the loss. They cost little: the transformer runs once for all of them.
        clip_denoised: at every step of the sampler, bring the actions that the prediction points to into the range of
            actions (Ho et al. 2020). Otherwise the first step multiplies an error of the prediction by 32.
    """

    steps: Size = 20
    hidden: Size = 256
    blocks: Size = 3
    time_width: Annotated[int, msgspec.Meta(ge=2, le=4096, multiple_of=2)] = 32
    draws: Size = 1
    clip_denoised: bool = False


class OctoConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model. Hashable, so that compiled functions may depend on it.

    Attributes:
        slots: cameras, in the order of their tokens.
        width, layers, heads, mlp: of the transformer.
        window: observations that it is trained and served on.
        max_horizon: the longest window that it has position embeddings for.
        action_horizon, action_dim: of the chunk that is predicted.
        readout_tokens: per timestep; the head reads their mean.
        repeat_language: a copy of the language tokens stands beside every observation.
        correct_attention: False for checkpoints before 1.5, which were trained with an error in the mask
            (:func:`rldg_policies.octo.transformer.attention_rule`).
        stem: what makes tokens of images; None for that of the released models.
    """

    slots: Annotated[tuple[ImageSlot, ...], msgspec.Meta(min_length=1, max_length=2)]
    language: T5 | Embedding
    width: Size
    layers: Size
    heads: Size
    mlp: Size
    window: Size = 1
    max_horizon: Size = 10
    action_horizon: Size = 4
    action_dim: Size = 7
    readout_tokens: Size = 1
    diffusion: Diffusion = Diffusion()
    repeat_language: bool = True
    correct_attention: bool = True
    stem: PatchStem | None = None

    def __post_init__(self) -> None:
        names = [slot.name for slot in self.slots]
        if len(set(names)) < len(names):
            raise OctoError(f"slots: {', '.join(names)} has a slot twice; name each camera once")
        if self.width % self.heads:
            raise OctoError(f"width: is {self.width}, must be a multiple of heads, {self.heads}")
        if self.window > self.max_horizon:
            raise OctoError(f"window: is {self.window}, must be at most max_horizon, {self.max_horizon}")
        if self.stem is not None and self.stem.patch_px != PATCH_PX:
            raise OctoError(f"stem: sides {self.stem.sides} must multiply to {PATCH_PX}")


def for_camera(config: OctoConfig, camera_slot: SlotName) -> OctoConfig:
    """The same model with one camera: the tokenizer of the other one is left out (RLDG uses the wrist camera only).

    The authors' fine-tuning example feeds a single camera to ``primary``, whatever it looks at; ``wrist`` has a
    quarter of the tokens.

    Raises:
        OctoError: the model has no such slot.
    """
    slots = tuple(slot for slot in config.slots if slot.name == camera_slot)
    if not slots:
        names = ", ".join(slot.name for slot in config.slots)
        raise OctoError(f"camera_slot: {camera_slot!r} is not in the model; it has {names}")
    return msgspec.structs.replace(config, slots=slots)
