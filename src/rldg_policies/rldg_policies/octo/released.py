"""Reads the ``config.json`` of a released Octo model.

Such a file names Python classes to import. Nothing is imported here: the names are compared with those of the parts
that exist in this package, and a file that asks for anything else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import msgspec

from rldg_policies.octo.config import MAX_ACTION, SIZES_PX, T5, OctoConfig, OctoError, Size, SlotName

_T5 = {"t5-base": T5(), "t5-small": T5(width=512, layers=6, heads=8, mlp=2048)}


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a file names a class and its arguments (the authors' ModuleSpec)."""

    module: str
    name: str
    args: list[Any]
    kwargs: dict[str, Any]


class _Arguments(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Arguments of the class ``path``. Those in ``fixed`` exist here with their default only."""

    path: ClassVar[str]
    fixed: ClassVar[tuple[str, ...]]


class _ImageTokenizer(_Arguments):
    path = "octo.model.components.tokenizers:ImageTokenizer"
    fixed = ("task_film_keys", "use_token_learner", "proper_pad_mask")
    encoder: _Part
    obs_stack_keys: tuple[str, ...]
    task_stack_keys: tuple[str, ...] = ()
    task_film_keys: tuple[str, ...] = ()
    use_token_learner: bool = False
    proper_pad_mask: bool = True


class _SmallStem16(_Arguments):
    path = "octo.model.components.vit_encoders:SmallStem16"
    fixed = ("use_film", "img_norm_type")
    use_film: bool = False
    img_norm_type: str = "default"


class _LanguageTokenizer(_Arguments):
    path = "octo.model.components.tokenizers:LanguageTokenizer"
    fixed = ("finetune_encoder", "proper_pad_mask")
    encoder: str
    finetune_encoder: bool = False
    proper_pad_mask: bool = True


class _DiffusionActionHead(_Arguments):
    path = "octo.model.components.action_heads:DiffusionActionHead"
    fixed = ("readout_key", "use_map", "max_action", "loss_type", "dropout_rate", "use_layer_norm")
    action_horizon: Size = 1
    action_dim: Size = 7
    diffusion_steps: Size = 20
    hidden_dim: Size = 256
    num_blocks: Size = 3
    time_dim: Size = 32
    n_diffusion_samples: Size = 1
    readout_key: str = "readout_action"
    use_map: bool = False
    max_action: float = MAX_ACTION
    loss_type: str = "mse"
    dropout_rate: float | None = 0.0
    use_layer_norm: bool = True


class _Transformer(_Arguments):
    path = "transformer_kwargs"
    fixed = ("dropout_rate", "attention_dropout_rate", "add_position_embedding")
    num_layers: Size
    num_attention_heads: Size
    mlp_dim: Size
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    add_position_embedding: bool = False


class _Tasks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    language: _Part


class _Heads(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    action: _Part


class _Readouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    action: Size


class _Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    observation_tokenizers: dict[SlotName, _Part]
    task_tokenizers: _Tasks
    heads: _Heads
    readouts: _Readouts
    transformer_kwargs: dict[str, Any]
    token_embedding_size: Size
    max_horizon: Size
    repeat_task_tokens: bool = False
    use_correct_attention: bool = False


A = TypeVar("A", bound=_Arguments)


def read_released(found: Mapping[str, Any], where: object) -> OctoConfig:
    """A released ``config.json``, decoded, as a config of ours.

    Args:
        found: of which ``model`` is read, and, where they are there, the window and the image sizes it was trained
            with (``window_size``, ``dataset_kwargs.frame_transform_kwargs.resize_size``) and the length to which
            instructions are padded (``text_processor``).
        where: for messages.

    Raises:
        OctoError: it asks for a class or an option that does not exist here, or is no such file.
    """
    try:
        return _config(found)
    except (OctoError, msgspec.ValidationError) as error:
        raise OctoError(f"{where}: {error}; use a released Octo model with image, language and diffusion") from None


def _config(found: Mapping[str, Any]) -> OctoConfig:
    model = msgspec.convert(found.get("model"), _Model)
    transformer = _checked(model.transformer_kwargs, _Transformer)
    head_kwargs = dict(model.heads.action.kwargs)
    if "pred_horizon" in head_kwargs:  # its name before 1.5
        head_kwargs["action_horizon"] = head_kwargs.pop("pred_horizon")
    head = _arguments(msgspec.structs.replace(model.heads.action, kwargs=head_kwargs), _DiffusionActionHead)
    sizes = _inside(found, "dataset_kwargs", "frame_transform_kwargs", "resize_size")
    plain = {
        "slots": [_slot(name, part, sizes) for name, part in model.observation_tokenizers.items()],
        "language": _language(model.task_tokenizers.language, found),
        "width": model.token_embedding_size,
        "layers": transformer.num_layers,
        "heads": transformer.num_attention_heads,
        "mlp": transformer.mlp_dim,
        "window": found.get("window_size", 1),
        "max_horizon": model.max_horizon,
        "action_horizon": head.action_horizon,
        "action_dim": head.action_dim,
        "readout_tokens": model.readouts.action,
        "diffusion": {
            "steps": head.diffusion_steps,
            "hidden": head.hidden_dim,
            "blocks": head.num_blocks,
            "time_width": head.time_dim,
            "draws": head.n_diffusion_samples,
        },
        "repeat_language": model.repeat_task_tokens,
        "correct_attention": model.use_correct_attention,
    }
    return msgspec.convert(plain, OctoConfig)


def _slot(name: str, part: _Part, sizes: Mapping[str, Any]) -> dict[str, Any]:
    tokenizer, key = _arguments(part, _ImageTokenizer), f"image_{name}"
    _arguments(tokenizer.encoder, _SmallStem16)
    for option in ("obs_stack_keys", "task_stack_keys"):
        if getattr(tokenizer, option) != (key,):
            raise OctoError(f"tokenizer {name!r}: {option} is {list(getattr(tokenizer, option))}, supported: [{key!r}]")
    height, width = msgspec.convert(sizes.get(name, (SIZES_PX[name], SIZES_PX[name])), tuple[int, int])
    if height != width:
        raise OctoError(f"tokenizer {name!r}: images are {width} x {height}, supported are squares")
    return {"name": name, "size_px": height}


def _language(part: _Part, found: Mapping[str, Any]) -> dict[str, Any]:
    encoder = _arguments(part, _LanguageTokenizer).encoder
    if encoder not in _T5:
        raise OctoError(f"language encoder {encoder!r} is not supported; supported: {', '.join(_T5)}")
    tokens = _inside(found, "text_processor", "kwargs", "tokenizer_kwargs").get("max_length", T5().tokens)
    return {**msgspec.to_builtins(_T5[encoder]), "tokens": tokens}


def _arguments(part: _Part, kind: type[A]) -> A:
    """The arguments of a part that must be of the class ``kind.path``."""
    if f"{part.module}:{part.name}" != kind.path:
        raise OctoError(f"{part.module}:{part.name} is not supported in its place; supported: {kind.path}")
    if part.args:
        raise OctoError(f"{kind.path}: has arguments without a name, {part.args}; supported are named ones")
    return _checked(part.kwargs, kind)


def _checked(kwargs: Mapping[str, Any], kind: type[A]) -> A:
    made = msgspec.convert(kwargs, kind)
    for field in msgspec.structs.fields(kind):
        value = getattr(made, field.name)
        if field.name in kind.fixed and value not in (field.default, None):
            raise OctoError(f"{kind.path}: {field.name} is {value!r}, supported: {field.default!r}")
    return made


def _inside(found: Any, *names: str) -> Mapping[str, Any]:
    """What lies under the names, or nothing."""
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}
