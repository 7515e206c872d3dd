"""The main loop ends on signals with code 0 and on failures with code 1."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rldg_ros.main import stood_still
from rldg_ros.testing import domain_id

SCRIPT = """
import sys
from rldg_ros.base import BaseNode
from rldg_ros.main import run

class Node(BaseNode):
    def __init__(self):
        if sys.argv[1] == "raise":
            raise RuntimeError("no")
        super().__init__("looped")
        self.active = sys.argv[1] == "active"
        self.create_timer(0.2, self.tick)
        print("up", flush=True)
    def tick(self):
        if sys.argv[1] == "later":
            raise RuntimeError("boom")

sys.exit(run(Node))
"""


def _start(mode: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain_id("main loop")),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_code_0(number: signal.Signals) -> None:
    with _start("run") as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(("mode", "says"), [("raise", "RuntimeError: no"), ("later", "boom")])
def test_a_failure_ends_it_with_code_1_and_says_why(mode: str, says: str) -> None:
    with _start(mode) as process:
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert says in errors


def test_an_active_node_that_was_stopped_for_longer_than_its_lease_ends_itself() -> None:
    with _start("active") as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGSTOP)
        time.sleep(5.5)
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "the process stood still for 5." in errors


def test_a_long_computation_is_no_standstill() -> None:
    assert not stood_still(wall_s=8.0, cpu_s=6.0)
    assert not stood_still(wall_s=4.9, cpu_s=0.0)
    assert stood_still(wall_s=8.0, cpu_s=0.1)


def test_a_node_that_ends_frees_its_shared_memory() -> None:
    process = _start("run")
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    links = (os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir())
    locks = [Path(link) for link in links if link.startswith("/dev/shm/fastdds_") and "_port" not in link]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20.0) == 0
    assert locks and not [lock for lock in locks if lock.exists()]
