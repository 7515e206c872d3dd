"""The direct driver's 1 kHz loop against a server of the robot's protocol: commands in time, alone and beside load."""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from functools import partial

import numpy as np

from rldg_control.arm_driver import ArmDriver, Stage
from rldg_control.franka_arm import FrankaArm
from rldg_core.frames import Pose
from rldg_core.target_gate import TargetGate
from rldg_core.task import load_robot, load_task

SERVER_PRIORITY, DRIVER_PRIORITY = 40, 60  # SCHED_FIFO
STALE_S = 1.0
READY_S = 60.0
SAMPLE_S = 0.05  # the robot counts over its last 100 ms
RADIUS_M, TURN_S = 0.02, 4.0


def main(argv: list[str]) -> dict[str, float]:
    """Measure; the figures are those of docs/reference/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="rldg bench fci", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="each of the two runs (default: %(default)s)")
    parser.add_argument("--task", default="usb_insertion")
    parser.add_argument("--address", default="127.0.0.51", help="where the server listens (default: %(default)s)")
    parser.add_argument("--load", type=int, default=1, help="busy processes beside the second run (default: 1)")
    parser.add_argument("--ordinary", action="store_true", help="without real-time scheduling")
    options = parser.parse_args(argv)
    from _load import busy  # type: ignore[import-not-found, unused-ignore]

    context = multiprocessing.get_context("spawn")
    server = context.Process(target=_serve, args=(options.task, options.address, options.ordinary), daemon=True)
    server.start()
    try:
        figures = _drive(options, "")
        with busy(options.load, 60.0 * options.minutes + READY_S):
            figures |= _drive(options, "loaded_")
    finally:
        server.terminate()
        server.join(10.0)
    return figures


def _drive(options: argparse.Namespace, prefix: str) -> dict[str, float]:
    """Lead the arm in circles with a target every 0.1 s, as the arbiter does, and watch the robot's count."""
    task, robot, gate = load_task(options.task), load_robot("fr3"), TargetGate("base")
    arm = partial(FrankaArm, options.address, robot, task.impedance, time.time_ns)
    driver, ended = ArmDriver(arm, gate, task.impedance, robot.home_rad, STALE_S), threading.Event()
    thread = threading.Thread(target=_run, args=(driver, ended, options.ordinary))
    thread.start()
    try:
        begin_s = time.monotonic()
        while driver.stage is not Stage.TRACKING or driver.reading is None:
            if time.monotonic() - begin_s > READY_S:
                raise RuntimeError(f"the driver does not track: {driver.trouble}")
            time.sleep(0.1)
        return {prefix + name: value for name, value in _circle(driver, gate, 60.0 * options.minutes).items()}
    finally:
        ended.set()
        thread.join()


def _circle(driver: ArmDriver, gate: TargetGate, duration_s: float) -> dict[str, float]:
    assert driver.reading is not None
    centre, rates, aborts = driver.reading.state.tcp_pose, [], 0
    begin_s, begin_robot_s = time.monotonic(), driver.reading.robot_time_s
    told_s = -math.inf
    while (elapsed_s := time.monotonic() - begin_s) < duration_s:
        if driver.stage is Stage.FAULT:
            aborts += 1
            print(f"after {elapsed_s:.0f} s: {driver.trouble}", file=sys.stderr)
            if refusal := driver.recover().result(30.0):
                print(f"not recovered: {refusal}", file=sys.stderr)
                break
        if elapsed_s - told_s >= 0.1 and gate.admit("base", time.monotonic()):
            told_s, angle = elapsed_s, 2.0 * math.pi * elapsed_s / TURN_S
            offset = RADIUS_M * np.array([math.cos(angle) - 1.0, math.sin(angle), 0.0])
            driver.set_target(Pose(centre.position + offset, centre.quaternion))
        if elapsed_s > 1.0 and driver.stage is Stage.TRACKING:  # the first 100 ms count what was before
            rates.append(driver.reading.success_rate)
        time.sleep(SAMPLE_S)
    robot_s = driver.reading.robot_time_s - begin_robot_s
    return {
        "success_mean": float(np.mean(rates)),
        "success_min": float(np.min(rates)),
        "aborts_n": float(aborts),
        "realtime_factor": robot_s / (time.monotonic() - begin_s),
    }


def _run(driver: ArmDriver, ended: threading.Event, ordinary: bool) -> None:
    """The driver's thread; the 1 kHz thread that franky starts from it inherits its scheduling."""
    _schedule(DRIVER_PRIORITY, ordinary)
    driver.run(ended)


def _schedule(priority: int, ordinary: bool) -> None:
    if ordinary:
        return
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except PermissionError:
        print("no right to real-time scheduling (ulimit -r): ordinary scheduling was measured", file=sys.stderr)


def _serve(task: str, address: str, ordinary: bool) -> None:
    from rldg_sim.cell import Cell
    from rldg_sim.protocol_server import ProtocolServer

    sys.setswitchinterval(0.0005)
    _schedule(SERVER_PRIORITY, ordinary)
    server = ProtocolServer(Cell(load_task(task)), address)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.open()
    while not server.failure:
        time.sleep(0.2)
    sys.exit(server.failure)
