"""What survives a kill: a log of transitions that is appended to, and a checkpoint file that is replaced whole.

The log holds what came from the robot and is never rewritten; reading it again makes the same replay. The checkpoint
holds the rest (networks, targets, optimisers, random states, counters) and how much of the log belongs to it.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np

from rldg_rl import rlpd
from rldg_rl.config import TrainingConfig
from rldg_rl.networks import Params, Spec
from rldg_rl.replay import Transition

FORMAT = 1
_HEAD = struct.Struct("<II")  # length and CRC-32 of the record that follows


class CheckpointError(ValueError):
    """A checkpoint, log or weights file is missing or wrong; the message is one line: file, what, remedy."""


# --- the log ---------------------------------------------------------------------------------------------------------


class _Header(msgspec.Struct, frozen=True, tag="log", array_like=True):
    format: int
    spec: Spec
    views: int


class _Step(msgspec.Struct, frozen=True, tag="step", array_like=True):
    episode_id: str
    t: int
    features: bytes  # empty: the next features of the record before
    next_features: bytes
    action: bytes
    reward: float
    terminated: bool
    truncated: bool
    intervention: bool
    demo: bool
    toggled: bool


class Label(msgspec.Struct, frozen=True, tag="label", array_like=True):
    """What an operator said of a transition afterwards."""

    episode_id: str
    t: int
    reward: float
    terminated: bool


_decode = msgspec.msgpack.Decoder(_Header | _Step | Label).decode
_encode = msgspec.msgpack.Encoder().encode


class TransitionLog:
    """An append-only file of transitions and labels. A record that a kill cut short is dropped.

    Args:
        path: made if it is not there.
        spec, views: of the transitions; a log of others is refused.

    Raises:
        CheckpointError: the file is of another kind, spec or format, or damaged before its end.
    """

    def __init__(self, path: Path, spec: Spec, views: int) -> None:
        self._path, self._spec, self._views = path, spec, views
        header = _Header(FORMAT, spec, views)
        self._file = path.open("ab", buffering=0)  # what is written has left this process
        self._longest = 2 * views * spec.features * np.dtype(spec.dtype).itemsize + 1024  # bytes of one record
        self._last: Transition | None = None
        self.size = self.start = 0  # bytes that are whole, and those of them before the first entry
        if os.fstat(self._file.fileno()).st_size == 0:
            self._append(header)
            self.start = self.size
            return
        for record, end in self._records():
            if self.size == 0 and record != header:
                raise CheckpointError(f"{path}: is not a log of transitions with {spec}; use another folder")
            self.start = self.start or end
            self.size = end
        if self.size == 0:
            raise CheckpointError(f"{path}: is not a log of transitions; use another folder")

    def lock(self) -> None:
        """Keep other processes from writing here, until this one ends or closes it.

        Raises:
            CheckpointError: another one does.
        """
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"{self._path}: another learner writes here; end it, or name another run") from None

    def append(self, entry: Transition | Label) -> None:
        """Add an entry; it survives a kill of this process when this returns."""
        if isinstance(entry, Label):
            self._append(entry)
            return
        last, self._last = self._last, entry
        follows = last is not None and (last.episode_id, last.t + 1) == (entry.episode_id, entry.t)
        known = follows and last is not None and np.array_equal(last.next_features, entry.features)
        self._append(
            _Step(
                entry.episode_id,
                entry.t,
                b"" if known else entry.features.tobytes(),
                entry.next_features.tobytes(),
                entry.action.tobytes(),
                float(entry.reward),
                *(bool(flag) for flag in entry[6:]),
            )
        )

    def _append(self, record: _Header | _Step | Label) -> None:
        payload = _encode(record)
        left = _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
        size = self.size + len(left)
        self._file.truncate(self.size)  # half a record that a kill or a full disk left
        while left:
            left = left[self._file.write(left) :]
        self.size = size

    def _records(self) -> Iterator[tuple[_Header | _Step | Label, int]]:
        """All whole records and where they end; what a kill cut short is at most one record."""
        with self._path.open("rb") as file:
            total = os.fstat(file.fileno()).st_size
            end = 0
            while end + _HEAD.size <= total:
                length, checksum = _HEAD.unpack(file.read(_HEAD.size))
                payload = file.read(length)
                whole = len(payload) == length and zlib.crc32(payload) == checksum
                if not whole and total - end <= _HEAD.size + self._longest:
                    return
                if not whole:
                    raise CheckpointError(f"{self._path}: is damaged at byte {end}; restore the file from a copy")
                end += _HEAD.size + length
                try:
                    yield _decode(payload), end
                except msgspec.DecodeError as error:
                    raise CheckpointError(
                        f"{self._path}: is not a log of transitions: {error}; use another folder"
                    ) from None

    def entries(self) -> Iterator[Transition | Label]:
        """Everything in the log, in the order in which it came."""
        shape, dtype = (self._views, self._spec.features), np.dtype(self._spec.dtype)
        last = np.zeros(shape, dtype)
        for record, _ in self._records():
            if isinstance(record, Label):
                yield record
            elif isinstance(record, _Step):
                next_features = np.frombuffer(record.next_features, dtype).reshape(shape)
                features = np.frombuffer(record.features, dtype).reshape(shape) if record.features else last
                action = np.frombuffer(record.action, np.float32)
                last = next_features
                yield Transition(
                    record.episode_id,
                    record.t,
                    features,
                    next_features,
                    action,
                    record.reward,
                    record.terminated,
                    record.truncated,
                    record.intervention,
                    record.demo,
                    record.toggled,
                )

    def truncate(self, size: int) -> None:
        """Forget everything after the first ``size`` bytes."""
        self._file.truncate(size)
        self._last, self.size = None, size

    def sync(self) -> None:
        """Make everything so far survive a power cut too."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


# --- folders ---------------------------------------------------------------------------------------------------------


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty draft of a folder, which takes its name, and the place of what has it, when the block has ended.

    A reader finds the old folder or the new one, or for an instant none; never half of one.
    """
    draft, old = (folder.with_name(f".{folder.name}.{kind}{os.getpid()}") for kind in ("new", "old"))
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    yield draft
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


# --- trees of arrays in a file ---------------------------------------------------------------------------------------


def write_tree(path: Path, tree: Params, about: dict[str, Any]) -> None:
    """Write arrays under the names of their places in the tree, and what JSON can say about them; all or nothing."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    columns: dict[str, Any] = {jax.tree_util.keystr(place): np.asarray(leaf) for place, leaf in leaves}
    columns["about"] = np.frombuffer(json.dumps({"format": FORMAT, **about}).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **columns)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_tree(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What :func:`write_tree` wrote: arrays by place, and the rest.

    Raises:
        CheckpointError: missing, cut short, damaged, or of another format.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays.pop("about").tobytes())
        if about["format"] != FORMAT:
            raise CheckpointError(f"{path}: is of format {about['format']}, must be {FORMAT}; train it again")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; train first, or name another folder") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: is damaged: {' '.join(str(error).split())}; use another checkpoint") from None
    return arrays, about


def into_tree(path: Path, arrays: dict[str, np.ndarray], like: Params) -> Params:
    """Put arrays into their places in a tree of the same shapes.

    Raises:
        CheckpointError: other places, shapes or types: the file belongs to other networks.
    """
    expected, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(place) for place, _ in expected]
    if set(names) != set(arrays):
        odd = sorted(set(names) ^ set(arrays))[0]
        raise CheckpointError(f"{path}: {odd} is in the file or in the networks, not in both; use the preset it had")
    for name, (_, leaf) in zip(names, expected, strict=True):
        found = arrays[name]
        if (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
            raise CheckpointError(
                f"{path}: {name} is {found.dtype}{list(found.shape)}, must be {leaf.dtype}{list(leaf.shape)}; "
                "use the preset it had"
            )
    return jax.tree_util.tree_unflatten(structure, [arrays[name] for name in names])


# --- weights of a policy ---------------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """What a policy needs to act, as numpy arrays."""

    version: int  # grows with every update
    params: rlpd.PolicyParams


def save_weights(path: Path, weights: Weights, config: TrainingConfig, spec: Spec) -> None:
    """Write the weights with the preset and shapes that make sense of them, atomically."""
    write_tree(path, weights.params, {"version": weights.version, **describe(config, spec)})


def load_weights(path: Path) -> tuple[Weights, TrainingConfig, Spec]:
    """What :func:`save_weights` wrote.

    Raises:
        CheckpointError: missing, damaged, or not weights.
    """
    arrays, about = read_tree(path)
    try:
        config = msgspec.convert(about["config"], TrainingConfig)
        spec = msgspec.convert(about["spec"], Spec)
        version = int(about["version"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not weights of a specialist: {error}; use another file") from None
    like = jax.eval_shape(lambda: rlpd.policy_params(rlpd.make_state(config, spec, 0)))
    return Weights(version, into_tree(path, arrays, like)), config, spec


def describe(config: TrainingConfig, spec: Spec) -> dict[str, Any]:
    """Preset and shapes as they stand in a file."""
    return {"config": msgspec.to_builtins(config), "spec": list(spec)}
