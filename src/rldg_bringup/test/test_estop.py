"""``estop`` by a key: space stops, r releases, q ends; and what it refuses."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rclpy.node import Node
from std_srvs.srv import SetBool

from rldg_bringup import estop
from rldg_ros.testing import Bench


def test_keys_latch_release_and_end() -> None:
    keys = iter([None, " ", "x", "r", None, " ", "q", " "])
    done: list[bool] = []
    idled: list[None] = []
    estop.follow_keys(lambda: next(keys), done.append, lambda: idled.append(None))
    assert done == [True, False, True] and len(idled) == 2


@pytest.mark.parametrize("end", ["q", "\x03", "\x04", ""])
def test_each_way_out_ends_it(end: str) -> None:
    estop.follow_keys(lambda: end, lambda latched: pytest.fail("latched"), lambda: pytest.fail("idled"))


def test_without_a_terminal_there_are_no_keys() -> None:
    command = [sys.executable, "-m", "rldg_bringup.estop", "--keys"]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and "--keys needs a terminal" in result.stderr


def test_without_a_cell_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("ROS_DOMAIN_ID")
    assert estop.main([]) == 2
    assert "no cell runs on this machine" in capsys.readouterr().err


def test_in_a_real_terminal_the_space_bar_reaches_the_arbiter() -> None:
    with Bench("estop") as bench:
        heard: list[bool] = []

        def on_estop(request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
            heard.append(request.data)
            response.success, response.message = True, "latched" if request.data else "released"
            return response

        arbiter = Node("arbiter", context=bench.context)
        arbiter.create_service(SetBool, "arbiter/estop", on_estop)
        bench.add(arbiter)
        here, there = pty.openpty()
        environment = {**os.environ, "ROS_DOMAIN_ID": str(bench.context.get_domain_id())}
        verb = subprocess.Popen(
            [sys.executable, "-m", "rldg_bringup.estop", "--keys"], env=environment, stdin=there, stdout=there
        )
        try:
            for keys, wanted in ((b" ", [True]), (b"r", [True, False])):
                os.write(here, keys)
                assert bench.spin(lambda wanted=wanted: heard == wanted, 30.0), heard
            os.write(here, b"q")
            assert bench.spin(lambda: verb.poll() is not None, 10.0)
            assert verb.returncode == 0
        finally:
            verb.kill()
            os.close(here)
            os.close(there)
