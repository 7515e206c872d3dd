"""What an OpenVLA is made of, and the ``config.json`` and ``preprocessor_config.json`` that say so.

The files are those of the released ``openvla-7b``. What they cannot say about a model of other sizes stands under one
key more, ``rldg`` (:class:`Extra`); without it the sizes are the released ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from rldg_policies.patch_stem import PatchStem

Size = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Count = Annotated[int, msgspec.Meta(ge=1, le=256)]

Mode = Literal["exact", "fast_int8", "fast_int4"]
"""How the language model computes: with its weights as they are, or rounded (:mod:`rldg_policies.openvla.rounding`)."""

PATCH_PX = 14
LLAMA_EMPTY_TOKEN = 29871  # "▁" of Llama 2; stands between the prompt and the actions in the released training data
PROMPT = "In: What action should the robot take to {instruction}?\nOut:"
RELEASED = {"vision_backbone_id": "dinosiglip-vit-so-224px", "llm_backbone_id": "llama2-7b-pure"}
# ImageNet's, rounded to bfloat16 as in the released preprocessor_config.json, then SigLIP's
PIXEL_MEAN = (0.484375, 0.455078125, 0.40625, 0.5, 0.5, 0.5)
PIXEL_STD = (0.228515625, 0.2236328125, 0.224609375, 0.5, 0.5, 0.5)


class CheckpointError(ValueError):
    """A file of a checkpoint is missing or wrong; the message is one line: file, what, remedy."""


class TowerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of a vision transformer.

    Attributes:
        blocks: those that reach the output. A released tower is read after its second to last block.
        tail: also hold what a released tower has behind that: a block, a norm and, in SigLIP, attention pooling. It
            never changes the output, but it is in the files, and adapters are made for it too.
        registers: register tokens, DINOv2 only.
    """

    width: Size
    blocks: Count
    heads: Count
    mlp: Size
    registers: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    tail: bool = False

    def __post_init__(self) -> None:
        _check_heads("tower", self.width, self.heads)


class LlamaSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of ``text_config`` that matter, with the defaults that they have where it does not name them.

    Those are Llama-2-7B's, but for ``rms_norm_eps``: the released files do not carry 1e-5, so that the model was
    fine-tuned, and is served, with the default of its class.
    """

    vocab_size: Size
    pad_token_id: Annotated[int, msgspec.Meta(ge=0)]
    hidden_size: Size = 4096
    intermediate_size: Size = 11008
    num_hidden_layers: Count = 32
    num_attention_heads: Count = 32
    num_key_value_heads: Count = 32
    rms_norm_eps: Annotated[float, msgspec.Meta(gt=0)] = 1e-6
    rope_theta: Annotated[float, msgspec.Meta(gt=0)] = 10000.0
    max_position_embeddings: Size = 2048

    def __post_init__(self) -> None:
        _check_heads("text_config", self.hidden_size, self.num_attention_heads)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"text_config: num_attention_heads {self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )


def _check_heads(where: str, width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"{where}: width {width} must be a multiple of the number of heads {heads}")


DINOV2_L = TowerSpec(width=1024, blocks=23, heads=16, mlp=4096, registers=4, tail=True)
SIGLIP_SO400M = TowerSpec(width=1152, blocks=26, heads=16, mlp=4304, tail=True)


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An OpenVLA. The number of action dimensions is not part of it: that follows from the statistics of a data set.

    Attributes:
        dino, siglip: the two towers; both see the same image, DINOv2's features come first.
        stem: what a small model sees with instead of the towers; it reads what SigLIP would.
        image_px: side of the image, a multiple of the side of a patch: 14, or that of the stem.
        n_bins: bin edges of an action dimension, and action tokens; their ids are the last before ``action_base_id``.
        pad_to_multiple_of: ids at the end of the vocabulary that no tokenizer makes.
        max_length: tokens of a sequence, patches included.
        empty_token_id: stands between the prompt and the actions.
        prompt: with ``{instruction}``, which is put in lower case.
        center_crop: look at the middle 0.9 of the area, as one must after training with random crops of that size.
        pixel_mean, pixel_std: of DINOv2's three channels and SigLIP's, for pixels in [0, 1].
        torch_dtype: of the weights in the files.
    """

    dino: TowerSpec = DINOV2_L
    siglip: TowerSpec = SIGLIP_SO400M
    stem: PatchStem | None = None
    llama: LlamaSpec = LlamaSpec(vocab_size=32064, pad_token_id=32000)
    image_px: Size = 224
    n_bins: Annotated[int, msgspec.Meta(ge=2, le=65536)] = 256
    pad_to_multiple_of: Size = 64
    max_length: Size = 2048
    empty_token_id: Annotated[int, msgspec.Meta(ge=0)] = LLAMA_EMPTY_TOKEN
    prompt: str = PROMPT
    center_crop: bool = False
    pixel_mean: tuple[float, float, float, float, float, float] = PIXEL_MEAN
    pixel_std: tuple[float, float, float, float, float, float] = PIXEL_STD
    torch_dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"

    def __post_init__(self) -> None:
        if self.image_px % self.patch_px:
            raise ValueError(
                f"image_sizes: {self.image_px} px must be a multiple of the patch side, {self.patch_px} px"
            )
        if not 0 <= self.action_base_id - self.n_bins < self.action_base_id:
            raise ValueError(
                f"vocab_size {self.llama.vocab_size} has no room for {self.n_bins} action tokens "
                f"before its last {self.pad_to_multiple_of} ids"
            )
        if max(self.llama.pad_token_id, self.empty_token_id) >= self.llama.vocab_size:
            raise ValueError(f"pad_token_id and empty_token_id must be below vocab_size {self.llama.vocab_size}")
        if self.prompt.count("{instruction}") != 1:
            raise ValueError(f"prompt: {self.prompt!r} must contain {{instruction}} once")
        if not all(map(math.isfinite, self.pixel_mean)) or not all(0 < std < math.inf for std in self.pixel_std):
            raise ValueError(f"pixel mean {self.pixel_mean} and std {self.pixel_std} must be finite, the std positive")

    @property
    def action_base_id(self) -> int:
        """The id above the highest action id: 32000 in the released model, which is not its ``vocab_size``."""
        return self.llama.vocab_size - self.pad_to_multiple_of

    @property
    def patch_px(self) -> int:
        """Side of a patch."""
        return PATCH_PX if self.stem is None else self.stem.patch_px

    @property
    def patches(self) -> int:
        """Image tokens of a sequence."""
        summary = self.stem.tokens if self.stem is not None else 0
        return summary or (self.image_px // self.patch_px) ** 2


# --- config.json -----------------------------------------------------------------------------------------------------


class Extra(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The key ``rldg`` of our own ``config.json``; the fields are those of :class:`Config`."""

    dino: TowerSpec = DINOV2_L
    siglip: TowerSpec = SIGLIP_SO400M
    stem: PatchStem | None = None
    empty_token_id: int = LLAMA_EMPTY_TOKEN
    prompt: str = PROMPT
    center_crop: bool = False


# what the code does; a file that says otherwise describes another model
_FIXED: dict[str, Any] = {
    "model_type": "openvla",
    "arch_specifier": "no-align+fused-gelu-mlp",
    "image_resize_strategy": "resize-naive",
    "use_fused_vision_backbone": True,
    "timm_override_act_layers": [None, None],
    "output_projector_states": False,
}
_READ = {"text_config", "image_sizes", "n_action_bins", "pad_to_multiple_of", "llm_max_length", "pad_token_id"}
# names and versions, and what is read from elsewhere
_LABELS = {
    *("vision_backbone_id", "llm_backbone_id", "hf_llm_id", "timm_model_ids", "architectures", "auto_map"),
    *("transformers_version", "_name_or_path", "norm_stats", "torch_dtype", "dtype", "rldg"),
}
_FIXED_TEXT: dict[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "pretraining_tp": 1,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}
_LABELS_TEXT = {
    "torch_dtype",
    "dtype",
    "architectures",
    "bos_token_id",
    "eos_token_id",
    "use_cache",
    "initializer_range",
}


def config_from_json(data: Mapping[str, Any]) -> Config:
    """The model that a ``config.json`` describes.

    Raises:
        ValueError: a field is missing, wrong, or asks for something that is not done here.
    """
    _check_fields(data, _FIXED, _READ | _LABELS, "")
    missing = sorted(_READ - data.keys())
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    text = data["text_config"]
    if not isinstance(text, dict):
        raise ValueError(f"text_config is {type(text).__name__}, must be an object")
    fields = set(LlamaSpec.__struct_fields__)
    _check_fields(text, _FIXED_TEXT, _LABELS_TEXT | fields, "text_config: ")
    for name, value in RELEASED.items():
        if "rldg" not in data and data.get(name) != value:
            raise ValueError(f"{name} is {data.get(name)!r}, must be {value!r}")
    extra = msgspec.convert(data.get("rldg", {}), Extra)
    llama = msgspec.convert({name: value for name, value in text.items() if name in fields}, LlamaSpec)
    if data["pad_token_id"] != llama.pad_token_id:
        raise ValueError(f"pad_token_id is {data['pad_token_id']}, text_config has {llama.pad_token_id}")
    sides = msgspec.convert(data["image_sizes"], tuple[int, int])
    if sides[0] != sides[1]:
        raise ValueError(f"image_sizes: {list(sides)} must be equal, the towers share one grid of patches")
    found = {
        "image_px": sides[0],
        "n_bins": data["n_action_bins"],
        "pad_to_multiple_of": data["pad_to_multiple_of"],
        "max_length": data["llm_max_length"],
        "torch_dtype": data.get("torch_dtype", data.get("dtype", "bfloat16")),
        **{name: getattr(extra, name) for name in Extra.__struct_fields__},
    }
    return msgspec.convert({**found, "llama": llama}, Config, from_attributes=True)


def _check_fields(data: Mapping[str, Any], fixed: Mapping[str, Any], known: set[str], where: str) -> None:
    for name, value in data.items():
        if name in fixed and value != fixed[name]:
            raise ValueError(f"{where}{name} is {value!r}, must be {fixed[name]!r}")
        if name not in fixed and name not in known:
            raise ValueError(f"{where}{name} is not known here; remove it if the model does not depend on it")


def config_to_json(config: Config, norm_stats: Mapping[str, Any]) -> dict[str, Any]:
    """The ``config.json`` of a model, with the statistics of the data sets that it was trained on."""
    extra = Extra(**{name: getattr(config, name) for name in Extra.__struct_fields__})
    released = (config.dino, config.siglip, config.stem, config.image_px) == (DINOV2_L, SIGLIP_SO400M, None, 224)
    llama = config.empty_token_id == LLAMA_EMPTY_TOKEN
    return {
        **_FIXED,
        "architectures": ["OpenVLAForActionPrediction"],
        "vision_backbone_id": RELEASED["vision_backbone_id"] if released else "own",
        "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"]
        if released
        else ["own", "own"],
        "image_sizes": [config.image_px, config.image_px],
        "llm_backbone_id": RELEASED["llm_backbone_id"] if llama else "own",
        "hf_llm_id": "meta-llama/Llama-2-7b-hf" if llama else "own",
        "llm_max_length": config.max_length,
        "n_action_bins": config.n_bins,
        "pad_to_multiple_of": config.pad_to_multiple_of,
        "pad_token_id": config.llama.pad_token_id,
        "text_config": {
            "model_type": "llama",
            "torch_dtype": config.torch_dtype,
            **msgspec.to_builtins(config.llama),
        },
        "torch_dtype": config.torch_dtype,
        "norm_stats": dict(norm_stats),
        "rldg": msgspec.to_builtins(extra),
    }


# --- preprocessor_config.json ----------------------------------------------------------------------------------------


class _Resize(msgspec.Struct):
    size: list[int]
    interpolation: int
    antialias: bool = True
    max_size: None = None


class _Crop(msgspec.Struct):
    output_size: list[int]


class _Normalize(msgspec.Struct):
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    inplace: bool = False


class _Preprocessor(msgspec.Struct, kw_only=True):
    """The fields of the file that say what happens to an image; the others repeat them or name classes."""

    tvf_resize_params: tuple[_Resize, _Resize]
    tvf_crop_params: tuple[_Crop, _Crop]
    tvf_normalize_params: tuple[_Normalize, _Normalize]
    image_resize_strategy: Literal["resize-naive"] = "resize-naive"
    tvf_do_letterbox: Literal[False] | None = False
    use_fused_vision_backbone: bool = True


_BICUBIC = 3  # of PIL


def with_preprocessor(config: Config, data: Mapping[str, Any]) -> Config:
    """The same model with the pixel statistics of a ``preprocessor_config.json``.

    Raises:
        ValueError: a field is missing or wrong, or asks for something else than a bicubic resize to the model's size.
    """
    found = msgspec.convert(dict(data), _Preprocessor)
    side = [config.image_px, config.image_px]
    for resize, crop in zip(found.tvf_resize_params, found.tvf_crop_params, strict=True):
        if (resize.size, crop.output_size, resize.interpolation, resize.antialias) != (side, side, _BICUBIC, True):
            raise ValueError(
                f"resizes to {resize.size} and crops to {crop.output_size} with interpolation {resize.interpolation}, "
                f"antialias {resize.antialias}; must be {side}, {side}, {_BICUBIC} (bicubic), True"
            )
    first, second = found.tvf_normalize_params
    return msgspec.structs.replace(config, pixel_mean=first.mean + second.mean, pixel_std=first.std + second.std)


def preprocessor_to_json(config: Config) -> dict[str, Any]:
    """The ``preprocessor_config.json`` of a model."""
    side = [config.image_px, config.image_px]
    mean, std = list(config.pixel_mean), list(config.pixel_std)
    means, stds = [mean[:3], mean[3:]], [std[:3], std[3:]]
    return {
        "image_processor_type": "PrismaticImageProcessor",
        "processor_class": "PrismaticProcessor",
        "image_resize_strategy": "resize-naive",
        "input_sizes": [[3, *side], [3, *side]],
        "interpolations": ["bicubic", "bicubic"],
        "means": means,
        "stds": stds,
        "tvf_resize_params": [
            {"antialias": True, "interpolation": _BICUBIC, "max_size": None, "size": side} for _ in means
        ],
        "tvf_crop_params": [{"output_size": side} for _ in means],
        "tvf_normalize_params": [
            {"inplace": False, "mean": mean, "std": std} for mean, std in zip(means, stds, strict=True)
        ],
        "tvf_do_letterbox": False,
        "tvf_letterbox_fill": None,
        "use_fused_vision_backbone": True,
    }
