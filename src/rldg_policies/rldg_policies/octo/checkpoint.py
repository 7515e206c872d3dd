"""Folders that hold an Octo model: those of the release, and our own, which is simpler.

Ours has ``config.json``, ``params.safetensors`` (names are paths in the tree) and ``dataset_statistics.json``. Weights
are read as plain numbers in both, and a config is data: nothing in a folder is ever executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np
import numpy.typing as npt
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rldg_policies.octo.config import OctoConfig, OctoError
from rldg_policies.octo.model import OctoModel, Params
from rldg_policies.octo.released import read_released
from rldg_policies.weight_files import readable
from rldg_recorder.partial import partial_folder, put

CONFIG, WEIGHTS, STATISTICS = "config.json", "params.safetensors", "dataset_statistics.json"
FORMAT = 1
Flat = dict[str, npt.NDArray[Any]]  # leaves by path, its parts separated by "/"


class Checkpoint(NamedTuple):
    """What a folder holds.

    Attributes:
        params: numpy arrays, float32.
        statistics: by data set, as :func:`rldg_policies.normalisation.read_statistics` takes them.
    """

    config: OctoConfig
    params: Params
    statistics: dict[str, Any]


class Merged(NamedTuple):
    """Of :func:`merge_params`.

    Attributes:
        fresh: paths that had to stay as they were initialised.
        left_over: paths in what was loaded that have no place.
    """

    params: Params
    fresh: tuple[str, ...]
    left_over: tuple[str, ...]


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Make a folder of ours; one that is there is replaced when the new one is whole.

    Raises:
        OctoError: see :func:`write`.
        DatasetError: another process is making it.
    """
    with partial_folder(folder, overwrite=True) as partial:
        write(partial / "set", checkpoint)
        put(partial, folder)
    return folder


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the files of a folder of ours into one that is there.

    Raises:
        OctoError: a parameter is not finite, or parameters are not those of the config.
    """
    params = {path: np.asarray(leaf, np.float32) for path, leaf in _flat(checkpoint.params).items()}
    _check(params, checkpoint.config, folder)
    config = {"format": FORMAT, "octo": msgspec.to_builtins(checkpoint.config)}
    (folder / CONFIG).write_bytes(msgspec.json.format(msgspec.json.encode(config)))
    (folder / STATISTICS).write_bytes(msgspec.json.format(msgspec.json.encode(checkpoint.statistics)))
    with readable(folder / WEIGHTS):
        save_file(params, folder / WEIGHTS)


def load(folder: Path, step: int | None = None) -> Checkpoint:
    """Read a folder of ours or a released one.

    Args:
        step: which of the steps of a released folder; the last one where None.

    Raises:
        OctoError: a file is missing, cut short, damaged or of another kind, a parameter is not finite, or parameters
            are not those that the config asks for.
    """
    path = folder / CONFIG
    found = _read_json(path)
    if "model" in found:
        config = read_released(found, path)
        params = _restore(folder, step)
    elif found.get("format") == FORMAT:
        try:
            config = msgspec.convert(found.get("octo"), OctoConfig)
        except msgspec.ValidationError as error:
            raise OctoError(f"{path}: octo: {error}; use the file as it was saved") from None
        params = _read_weights(folder / WEIGHTS)
    else:
        raise OctoError(
            f"{path}: is neither a released config nor one of format {FORMAT}; use a folder with an Octo model"
        )
    _check(params, config, folder)
    statistics = _read_json(folder / STATISTICS)
    if isinstance(statistics.get("action"), dict) and "mean" in statistics["action"]:
        statistics = {"fine-tuning": statistics}  # released fine-tuning writes those of its only data set
    return Checkpoint(config, _tree(params), statistics)


def merge_params(fresh: Params, loaded: Params) -> Merged:
    """Take every leaf whose path and shape are in both from what was loaded, and the others as they are in ``fresh``.

    This is how a checkpoint is fine-tuned with another config: without a camera, with another action or horizon.
    """
    here, there = _flat(fresh), _flat(loaded)
    taken = {path for path, leaf in here.items() if path in there and there[path].shape == leaf.shape}
    return Merged(
        _tree({path: there[path] if path in taken else leaf for path, leaf in here.items()}),
        tuple(sorted(here.keys() - taken)),
        tuple(sorted(there.keys() - taken)),
    )


# --- files -----------------------------------------------------------------------------------------------------------


def _flat(params: Params) -> Flat:
    return flatten_dict(params, sep="/")


def _tree(flat: Mapping[str, Any]) -> Params:
    return unflatten_dict(flat, sep="/")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise OctoError(f"{path}: cannot be read: {error.strerror}; use a folder with an Octo model") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OctoError(f"{path}: is not JSON: {error}; use another copy") from None
    if not isinstance(found, dict):
        raise OctoError(f"{path}: holds a {type(found).__name__}, must hold an object; use another copy")
    return found


def _read_weights(path: Path) -> Flat:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise OctoError(f"{path}: no such file; use another copy of the folder") from None
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise OctoError(f"{path}: is damaged or no safetensors file: {error}; use another copy") from None


def _restore(folder: Path, step: int | None) -> Flat:
    """The parameters of a released folder, by path; Orbax wrote them to ``<step>/default``."""
    import orbax.checkpoint as ocp

    steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())
    if not steps or (step is not None and step not in steps):
        raise OctoError(f"{folder}: has no step {'' if step is None else step}; there are {steps or 'none'}")
    path = folder / str(steps[-1] if step is None else step) / "default"
    if not path.is_dir():
        raise OctoError(f"{path}: no such folder; use another copy of {folder}")
    try:
        reader = ocp.PyTreeCheckpointer()
        described = reader.metadata(path.absolute()).item_metadata
        # as numpy arrays, on whatever devices they were when they were written
        kinds = described and jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), described.tree)
        found = jax.tree.map(np.asarray, reader.restore(path.absolute(), restore_args=kinds))
    except Exception as error:  # it raises whatever its storage raises
        raise OctoError(f"{path}: cannot be restored: {' '.join(str(error).split())[:200]}; use another copy") from None
    params = _flat(found)
    for name, leaf in params.items():
        # numbers whose file is missing come as zeros, and biases of zeros have none
        if name.endswith("kernel") and not np.any(leaf):
            raise OctoError(f"{path}: parameter {name} is all zeros: its file is missing; use another copy")
    return params


def _check(params: Flat, config: OctoConfig, where: Path) -> None:
    """The parameters of a config, all of them, and numbers."""
    expected = _flat(OctoModel(config).shapes())
    odd = sorted(expected.keys() ^ params.keys())
    if odd:
        side = "missing" if odd[0] in expected else "not in the model"
        raise OctoError(f"{where}: parameter {odd[0]} is {side} ({len(odd)} such); use the config that belongs to it")
    for path, leaf in expected.items():
        found = params[path]
        if found.shape != leaf.shape:
            raise OctoError(
                f"{where}: parameter {path} has shape {list(found.shape)}, must be {list(leaf.shape)}; "
                "use the config that belongs to it"
            )
        if found.dtype != np.float32:
            raise OctoError(f"{where}: parameter {path} is {found.dtype}, must be float32; convert it")
        if not np.isfinite(found).all():
            raise OctoError(f"{where}: parameter {path} is not finite; use an earlier checkpoint")
