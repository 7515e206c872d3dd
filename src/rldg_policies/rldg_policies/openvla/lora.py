"""Low-rank adapters (Hu et al. 2021) as OpenVLA's fine-tuning trains them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from rldg_policies.openvla.checkpoint import write_tensors
from rldg_policies.openvla.config import CheckpointError
from rldg_policies.openvla.model import OpenVLAModel, make_model
from rldg_recorder.partial import partial_folder, put

# What "all-linear" meant when OpenVLA was released: every linear layer, the head and the patch convolutions too.
# Today's leaves those out, which is another adapter.
TARGETS = (
    *("q", "kv", "proj", "qkv", "fc1", "fc2", "fc3", "lm_head"),
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# peft saves the frozen layers along where the head is a target
_FROZEN = {
    "base_model.model.language_model." + name
    for name in ("model.embed_tokens.weight", "lm_head.weight", "lm_head.base_layer.weight")
}


def add_adapter(
    model: OpenVLAModel, *, rank: int = 32, alpha: int = 16, dropout: float = 0.0, targets: Sequence[str] = TARGETS
) -> PeftModel:
    """Freeze a model and put an adapter on it, in place; it changes nothing until it is trained.

    The defaults are the released ones: the product of the two matrices is scaled by ``alpha / rank`` = 0.5.
    """
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets), init_lora_weights="gaussian"
    )
    return get_peft_model(model, config)


def merge(adapted: PeftModel) -> OpenVLAModel:
    """The model with the adapter added to its weights, which costs nothing any more.

    Raises:
        ValueError: a weight would not be finite.
    """
    return adapted.merge_and_unload(safe_merge=True)


def merged_copy(adapted: PeftModel) -> OpenVLAModel:
    """What :func:`merge` would return, on the CPU, in evaluation mode; the adapted model goes on as it is."""
    model: Any = adapted.base_model.model
    plain = make_model(model.spec, model.language_model.lm_head.weight.dtype).to_empty(device="cpu").eval()
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name, place in plain.named_parameters():
            module_name, _, kind = name.rpartition(".")
            layer: Any = modules[module_name]
            if isinstance(modules[module_name], LoraLayer):
                weight = getattr(layer.base_layer, kind)
                place.copy_(weight + layer.get_delta_weight("default") if kind == "weight" else weight)
            else:
                place.copy_(getattr(layer, kind))
    return plain


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Those that are trained, and all."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(n for n, trained in counts if trained), sum(n for n, _ in counts)


def save_adapter(folder: Path, adapted: PeftModel) -> None:
    """Write what peft reads; a folder that is there is replaced when all is written.

    Raises:
        DatasetError: another process writes there.
    """
    config = adapted.peft_config["default"].to_dict()
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    with partial_folder(folder, overwrite=True) as partial:
        draft = partial / "set"
        text = json.dumps(config, indent=2, sort_keys=True, default=sorted)  # sets
        (draft / CONFIG).write_text(text + "\n", encoding="utf-8")
        write_tensors(draft / WEIGHTS, tensors)
        put(partial, folder)


class _Adapter(msgspec.Struct, kw_only=True):
    """What of ``adapter_config.json`` can be honoured; fields that say nothing are allowed."""

    peft_type: str
    r: int
    lora_alpha: int
    target_modules: list[str]
    lora_dropout: float = 0.0


# who made it, how it was begun, and what is looked up by name
_LABELS = {
    *("base_model_name_or_path", "revision", "task_type", "inference_mode", "init_lora_weights", "peft_version"),
    *("auto_mapping", "ensure_weight_tying"),
}


def load_adapter(model: OpenVLAModel, folder: Path) -> PeftModel:
    """Put an adapter of the released fine-tuning, or of :func:`save_adapter`, on a model, in place.

    Raises:
        CheckpointError: a file is missing or damaged, or the adapter is of another kind or model.
    """
    path = folder / CONFIG
    try:
        data = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        found = msgspec.convert(data, _Adapter)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; an adapter folder has one") from None
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path}: {error}") from None
    defaults = LoraConfig().to_dict()
    for name, value in data.items():
        known = name in _Adapter.__struct_fields__ or name in _LABELS or value == defaults.get(name)
        if not known and value not in (None, False, [], {}):
            raise CheckpointError(f"{path}: {name} is {value!r}, which is not done here; use a plain LoRA adapter")
    if found.peft_type != "LORA" or found.r < 1 or not set(found.target_modules) <= set(TARGETS):
        raise CheckpointError(
            f"{path}: is {found.peft_type} of rank {found.r} on {', '.join(sorted(found.target_modules))}; "
            f"must be LORA of a positive rank on some of {', '.join(TARGETS)}"
        )
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {' '.join(str(error).split())}; copy it again") from None
    for name in _FROZEN & tensors.keys():
        del tensors[name]
    like = _adapted(make_model(model.spec), found)  # a look at the shapes, before the model is touched
    expected = get_peft_model_state_dict(like, save_embedding_layers=False)
    for name in sorted(expected.keys() | tensors.keys()):
        shapes = [list(place[name].shape) if name in place else None for place in (tensors, expected)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(f"{path}: {name} has shape {shapes[0]}, must be {shapes[1]}; it is of another model")
        if not torch.isfinite(tensors[name]).all():
            raise CheckpointError(f"{path}: {name} is not finite; the training diverged or the file is damaged")
    adapted = _adapted(model, found)
    set_peft_model_state_dict(adapted, tensors)
    return adapted


def _adapted(model: OpenVLAModel, adapter: _Adapter) -> PeftModel:
    return add_adapter(
        model,
        rank=adapter.r,
        alpha=adapter.lora_alpha,
        dropout=adapter.lora_dropout,
        targets=adapter.target_modules,
    )
