"""The direct driver, with the real client library: its robot dies under it and comes back."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from rldg_control.arm_driver import ArmDriver, Stage
from rldg_control.franka_arm import FrankaArm
from rldg_core.recovery import MOVE, REFLEX
from rldg_core.target_gate import TargetGate
from rldg_core.task import load_robot, load_task

pytest.importorskip("franky", reason="no franky: ./rldg test installs it (setup/rig.lock)")
pytest.importorskip("franka_sim", reason="no franka_sim: ./rldg test installs it (setup/rig.lock)")

ADDRESS = "127.0.0.42"
TASK, ROBOT = load_task("usb_insertion"), load_robot("fr3")


def start_robot() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.protocol_robot", TASK.name, ADDRESS]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1])


def until(condition: Callable[[], object], timeout_s: float = 60.0) -> bool:
    end_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.05)
    return bool(condition())


def test_a_robot_that_is_gone_is_a_fault_until_it_is_back_and_recovered() -> None:
    arm = partial(FrankaArm, ADDRESS, ROBOT, TASK.impedance, time.time_ns)
    driver, ended = ArmDriver(arm, TargetGate("base"), TASK.impedance, ROBOT.home_rad, 5.0), threading.Event()
    thread = threading.Thread(target=driver.run, args=(ended,))
    thread.start()
    robot = None
    try:
        assert until(lambda: "Connection" in driver.trouble), driver.trouble
        assert driver.stage is Stage.CONNECTING and ADDRESS in driver.trouble
        robot = start_robot()
        assert until(lambda: driver.mode == MOVE), driver.trouble
        robot.kill()
        robot.wait()
        assert until(lambda: driver.mode == REFLEX)
        assert until(lambda: "no connection to the robot" in driver.recover().result(60.0)), driver.trouble
        robot = start_robot()
        assert until(lambda: driver.recover().result(60.0) == ""), driver.trouble
        assert driver.mode == MOVE and driver.trouble == ""
    finally:
        ended.set()
        thread.join()
        if robot is not None:
            robot.terminate()
            robot.wait(20.0)
