"""Shared memory that killed processes leave behind goes, and that of living ones stays."""

import fcntl
import os
import time
from pathlib import Path

import pytest

from rldg_bringup.shared_memory import remove_abandoned

LIVING, KILLED, NEW = "fastdds_00000000000000aa", "fastdds_00000000000000bb", "fastdds_00000000000000cc"
PORT = "fastdds_port7411"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in (LIVING, KILLED, NEW, PORT):
        (tmp_path / name).write_bytes(bytes(1000))
        (tmp_path / f"{name}_el").touch()
        if name != NEW:
            os.utime(tmp_path / f"{name}_el", (time.time() - 60,) * 2)
    (tmp_path / f"sem.{PORT}_mutex").touch()
    (tmp_path / "of_another_program").touch()
    return tmp_path


def test_only_what_nobody_holds_is_removed(directory: Path) -> None:
    with (directory / f"{LIVING}_el").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = {path.name for path in directory.iterdir()}
        assert remove_abandoned(directory) == 2000
    gone = before - {path.name for path in directory.iterdir()}
    assert gone == {KILLED, f"{KILLED}_el", PORT, f"{PORT}_el", f"sem.{PORT}_mutex"}


def test_a_lock_without_its_segment_does_no_harm(directory: Path) -> None:
    (directory / KILLED).unlink()
    assert remove_abandoned(directory / "nowhere") == 0
    (directory / f"{LIVING}_el").unlink()
    assert remove_abandoned(directory) == 1000  # the port
