"""A set in the making: under a name of its own until it is whole, and used by one build at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rldg_recorder.plan import DatasetError


@contextmanager
def partial_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """Where the set ``target`` is made, by one build at a time: ``shards``, and ``set`` without files.

    Raises:
        DatasetError: the set exists and must not be replaced, or another build uses the folder.
    """
    _check_free(target, overwrite)
    folder = target.with_name(f".{target.name}.partial")
    descriptor = _lock(folder)
    try:
        _check_free(target, overwrite)  # again: a build that was running at the first look may have ended since
        shutil.rmtree(folder / "set", ignore_errors=True)
        (folder / "set").mkdir()
        yield folder
    finally:
        os.close(descriptor)


def _check_free(target: Path, overwrite: bool) -> None:
    if os.path.lexists(target) and not overwrite:
        raise DatasetError(f"{target}: exists already; choose another name, remove it or overwrite it")


def _lock(folder: Path) -> int:
    """A descriptor of the folder that holds the only lock on it; the folder is made where it is missing."""
    while True:
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise DatasetError(f"{folder}: another build of this set is running; wait for it or end it") from None
        if folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
        os.close(descriptor)  # a build that has just ended took the folder away


def put(partial: Path, target: Path) -> None:
    """Give ``partial/set``, which is whole, its name, and remove the rest. What stood there is replaced."""
    for path in (partial / "set").rglob("*"):
        if path.is_file():  # on disk before the name says that it is whole
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    old = partial / "old"
    if os.path.lexists(target):
        target.replace(old)
    (partial / "set").replace(target)
    shutil.rmtree(partial, ignore_errors=True)  # the set is whole, whatever stays
