"""Folders with the layout of the released ``openvla-7b``: read with little memory, and written whole or not at all.

Configuration, statistics and tokenizer are JSON, the weights stand in ``model.safetensors`` or in the shards that
``model.safetensors.index.json`` lists. No code of a folder is ever run. The model holds every tensor of the released
files, also those that never reach its output (:class:`TowerSpec`), so that a folder must have exactly the tensors of
its model, and one that is written has all that the one read had.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rldg_policies.openvla.config import (
    CheckpointError,
    Config,
    Mode,
    config_from_json,
    config_to_json,
    preprocessor_to_json,
    with_preprocessor,
)
from rldg_policies.openvla.memory import check_free, weight_bytes
from rldg_policies.openvla.model import OpenVLAModel, make_model
from rldg_policies.openvla.policy import OpenVLA, Statistics
from rldg_policies.openvla.prompt import BEGIN, END, PromptEncoder, load_tokenizer
from rldg_policies.openvla.rounding import RoundedLinear, put_rounded_layers
from rldg_policies.weight_files import readable
from rldg_recorder.partial import partial_folder, put

CONFIG, PREPROCESSOR, GENERATION = "config.json", "preprocessor_config.json", "generation_config.json"
TOKENIZER, STATISTICS = "tokenizer.json", "dataset_statistics.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD_BYTES = 5_000_000_000
_FLOATS = {"F32", "F16", "BF16"}
_SHARD = re.compile(r"[\w.-]+\.safetensors")  # a name in the folder, not a path


def load(
    folder: Path,
    *,
    dataset: str = "",
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    check_finite: bool = True,
    mode: Mode = "exact",
) -> OpenVLA:
    """Everything that serving or fine-tuning needs.

    Args:
        dataset: whose statistics turn tokens into actions; needed where the folder has those of several.
        dtype, device, check_finite, mode: of :func:`load_model`.

    Raises:
        CheckpointError: a file is missing or wrong.
        StatisticsError: the statistics are.
    """
    _, statistics = read_config(folder)
    prompts = load_prompts(folder)
    model = load_model(folder, dtype=dtype, device=device, check_finite=check_finite, mode=mode)
    return OpenVLA(model, prompts, statistics, dataset)


def load_prompts(folder: Path) -> PromptEncoder:
    """What makes the prompts of the model in a folder.

    Raises:
        CheckpointError: a file is missing, or the tokenizer is of another model.
    """
    return PromptEncoder(load_tokenizer(folder / TOKENIZER), read_config(folder)[0])


def read_config(folder: Path) -> tuple[Config, Statistics]:
    """The model that a folder describes, and the statistics of its data sets.

    Raises:
        CheckpointError: a file is missing or wrong, or asks for something that is not done here.
    """
    data = _read_json(folder / CONFIG)
    with _named(folder / CONFIG):
        config = config_from_json(data)
    if (folder / PREPROCESSOR).exists():
        preprocessor = _read_json(folder / PREPROCESSOR)
        with _named(folder / PREPROCESSOR):
            config = with_preprocessor(config, preprocessor)
    own = (folder / STATISTICS).exists()
    statistics = _read_json(folder / STATISTICS) if own else data.get("norm_stats", {})
    if not isinstance(statistics, dict):
        raise CheckpointError(f"{folder / CONFIG}: norm_stats is {type(statistics).__name__}, must be an object")
    return config, statistics


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; an OpenVLA folder has one") from None
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path}: {error}; copy the file again") from None


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the name of the file before what is wrong with it."""
    try:
        yield
    except ValueError as error:  # msgspec's is one
        raise CheckpointError(f"{path}: {error}") from None


# --- reading weights -------------------------------------------------------------------------------------------------


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    check_finite: bool = True,
    mode: Mode = "exact",
) -> OpenVLAModel:
    """The network, in evaluation mode. One tensor at a time is held twice.

    Args:
        dtype: of the weights in memory; by default that of ``config.json``.
        check_finite: refuse weights that are not finite numbers; costs a look at each. Those that are rounded are
            always looked at.
        mode: round the weights of the language model as they are read.

    Raises:
        CheckpointError: a file is missing, damaged or of another model, or there is too little memory.
    """
    config, _ = read_config(folder)
    dtype = dtype or getattr(torch, config.torch_dtype)
    with _named(folder / CONFIG):
        model = make_model(config, dtype).eval()
    expected = model.state_dict()
    files = _find_tensors(folder, expected)
    rounded: dict[str, RoundedLinear] = {}
    if mode != "exact":
        with _named(folder / CONFIG):
            rounded = put_rounded_layers(model, mode, torch.device(device))
    check_free(str(folder), weight_bytes(model), torch.device(device))
    places = model.to_empty(device=device).state_dict()
    for path, names in files.items():
        with _opened(path) as file, torch.no_grad():
            for name in names:
                if name in rounded:
                    with _named(path), _named(Path(name)):
                        rounded[name].fill(file.get_tensor(name).to(device))
                    continue
                place = places[name].copy_(file.get_tensor(name))
                if check_finite and not torch.isfinite(place.sum(dtype=torch.float32)):
                    raise CheckpointError(f"{path}: {name} is not finite; the training diverged or the file is damaged")
    return model


def _find_tensors(folder: Path, expected: Mapping[str, Tensor]) -> dict[Path, list[str]]:
    """Which file has which tensors; all are there, with the right shapes, before memory is taken for any."""
    listed: dict[str, str] | None = None
    if (folder / INDEX).exists():
        path = folder / INDEX
        with _named(path):
            listed = msgspec.convert(_read_json(path).get("weight_map"), dict[str, str])
        for file_name in set(listed.values()):
            if not _SHARD.fullmatch(file_name):
                raise CheckpointError(f"{path}: {file_name!r} must be the name of a .safetensors file in the folder")
    names = sorted(set(listed.values())) if listed is not None else [WEIGHTS]
    found: dict[Path, list[str]] = {}
    for file_name in names:
        path = folder / file_name
        with _opened(path) as file:
            found[path] = list(file.keys())
            for name in found[path]:
                if name in expected:
                    _check_tensor(path, name, file.get_slice(name), expected[name])
    held = [name for names in found.values() for name in names]
    if listed is not None and {name: path.name for path, names in found.items() for name in names} != listed:
        raise CheckpointError(f"{folder / INDEX}: does not list what is in the shards; copy index and shards again")
    for odd, what in ((expected.keys() - set(held), "is missing"), (set(held) - expected.keys(), "is not expected")):
        if odd:
            raise CheckpointError(
                f"{folder}: {sorted(odd)[0]} {what} ({len(odd)} such tensors); "
                f"the weights are of another model than {CONFIG}"
            )
    return found


def _check_tensor(path: Path, name: str, stored: Any, expected: Tensor) -> None:
    shape, kind = list(stored.get_shape()), stored.get_dtype()
    if shape != list(expected.shape) or kind not in _FLOATS:
        raise CheckpointError(
            f"{path}: {name} is {kind}{shape}, must be {list(expected.shape)} of {', '.join(sorted(_FLOATS))}; "
            f"the weights are of another model than {CONFIG}"
        )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file; copy all files of the checkpoint") from None
        raise CheckpointError(f"{path}: is damaged: {' '.join(str(error).split())}; copy it again") from None


# --- writing ---------------------------------------------------------------------------------------------------------


def save(
    folder: Path, policy: OpenVLA, *, dtype: torch.dtype | None = None, max_shard_bytes: int = _SHARD_BYTES
) -> None:
    """Write a folder that :func:`load` reads. One that is there is replaced when all is written.

    Args, raises: of :func:`write`; and DatasetError where another process writes there.
    """
    with partial_folder(folder, overwrite=True) as partial:
        write(partial / "set", policy, dtype=dtype, max_shard_bytes=max_shard_bytes)
        put(partial, folder)


def write(
    folder: Path, policy: OpenVLA, *, dtype: torch.dtype | None = None, max_shard_bytes: int = _SHARD_BYTES
) -> None:
    """Write the files into an empty folder.

    Args:
        dtype: of the weights in the files; by default as they are.
        max_shard_bytes: of one file, but for a single larger tensor.

    Raises:
        CheckpointError: an adapter has not been merged into the model, or its weights are rounded.
    """
    model = policy.model
    tensors = model.state_dict()
    if tensors.keys() != make_model(model.spec).state_dict().keys():
        raise CheckpointError(
            f"{folder}: the model has an adapter or rounded weights; merge it before saving, or load the model exact"
        )
    dtype = dtype or model.language_model.lm_head.weight.dtype
    config = msgspec.structs.replace(model.spec, torch_dtype=str(dtype).removeprefix("torch."))
    files = {
        CONFIG: config_to_json(config, policy.statistics),
        PREPROCESSOR: preprocessor_to_json(config),
        GENERATION: {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": config.llama.pad_token_id},
        STATISTICS: policy.statistics,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / TOKENIZER).write_text(policy.prompts.tokenizer.to_str(pretty=True), encoding="utf-8")
    _save_tensors(folder, tensors, dtype, max_shard_bytes)


def _save_tensors(folder: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype, max_shard_bytes: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    room = max_shard_bytes
    for name, tensor in tensors.items():
        size = tensor.numel() * dtype.itemsize
        if size > room and shards[-1]:
            shards.append({})
            room = max_shard_bytes
        room -= size
        shards[-1][name] = tensor
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [WEIGHTS]
    else:
        total = sum(tensor.numel() for tensor in tensors.values()) * dtype.itemsize
        places = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for file, shard in zip(names, shards, strict=True):
        write_tensors(folder / file, {name: tensor.to("cpu", dtype) for name, tensor in shard.items()})


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file as the released ones."""
    with readable(path):
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"}
        )
