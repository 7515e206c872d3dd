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
def partial_folder(folder: Path) -> Iterator[Path]:
    """The folder of a set in the making, used by one build at a time: ``shards``, and ``set`` without files.

    Raises:
        DatasetError: another build uses it.
    """
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatasetError(f"{folder}: another build of this set is running; wait for it or end it") from None
        shutil.rmtree(folder / "set", ignore_errors=True)
        (folder / "set").mkdir()
        yield folder
    finally:
        os.close(descriptor)


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
    if target.exists():
        target.replace(old)
    (partial / "set").replace(target)
    shutil.rmtree(partial)
