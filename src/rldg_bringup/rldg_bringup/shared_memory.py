"""Shared memory of Fast DDS whose process has ended without freeing it.

Each process holds tens of megabytes of it while it runs. After SIGKILL they stay, and are memory until the next boot;
so do its ports, whose mutex it may have held: who gets the port's number next would wait for it.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

DIRECTORY = Path("/dev/shm")
_MARGIN_S = 2.0  # between making and locking a lock file its maker needs no more than microseconds


def remove_abandoned(directory: Path = DIRECTORY) -> int:
    """Remove the segments and ports of this user that nobody uses any more; how many bytes that were.

    Who has made a segment or listens at a port holds a lock on the file ``<name>_el`` for as long as it lives.
    """
    removed = 0
    for lock in directory.glob("fastdds_*_el"):
        try:
            descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # somebody else's, or just gone
            continue
        try:
            about = os.fstat(descriptor)
            if about.st_uid == os.getuid() and time.time() - about.st_mtime > _MARGIN_S:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shared = lock.with_name(lock.name.removesuffix("_el"))
                removed += shared.stat().st_size
                shared.unlink()
                shared.with_name(f"sem.{shared.name}_mutex").unlink(missing_ok=True)
                lock.unlink()
        except OSError:  # it is held, or somebody else cleans up
            pass
        finally:
            os.close(descriptor)
    return removed
