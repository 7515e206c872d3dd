"""Success of a policy through the robot's own protocol, the cell's contacts behind it, beside the plain simulation.

Ticks go by the robot's clock, which a busy machine slows down.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from rldg_control.arm_driver import ArmDriver, Stage
from rldg_control.franka_arm import FrankaArm
from rldg_core.frames import Pose, body_delta
from rldg_core.reset_motion import ResetMotion
from rldg_core.target_gate import TargetGate
from rldg_core.task import GripperUse, Task, load_robot, load_task
from rldg_core.types import ArmState, Outcome, Phase
from rldg_policies.policy import Policy, make_policy
from rldg_sim.cell import Cell, Truth
from rldg_sim.loop import POLICY_ID, Loop
from rldg_sim.protocol_server import ProtocolServer

FIRST_SEED = 2_100_000_000  # no start state of a training is from here on
ADDRESS = "127.0.0.9"
THERE_M, THERE_RAD = 0.003, 0.03
ARRIVAL_S = 20.0  # of the robot's time
PATIENCE_S = 0.05  # with which the robot waits for a busy machine


class RehearsedCell:
    """A cell whose arm is driven by the rig's driver over the wire; what `Loop` asks of a cell.

    Raises:
        RuntimeError: the arm is at fault, or does not arrive.
    """

    def __init__(self, task: Task) -> None:
        self._cell, self._robot = Cell(task), load_robot("fr3")
        self._task = task
        self._server = ProtocolServer(self._cell, ADDRESS, PATIENCE_S)
        self._server.open()
        self._gate = TargetGate(self._robot.base_frame)
        self.driver = ArmDriver(
            partial(FrankaArm, ADDRESS, self._robot, task.impedance, time.time_ns),
            self._gate,
            task.impedance,
            self._robot.home_rad,
            stale_s=1.0,
            clock=lambda: self._cell.time_s,
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.driver.run, args=(self._stop,), daemon=True)
        self._thread.start()
        self._due_s = 0.0
        self._wait(lambda: self.driver.stage is Stage.TRACKING, "the driver does not track")

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        end_s = self._cell.time_s + ARRIVAL_S
        while not done():
            if self.driver.stage is Stage.FAULT or self._server.failure:
                raise RuntimeError(self._server.failure or self.driver.trouble)
            if self._cell.time_s > end_s:
                raise RuntimeError(what)
            time.sleep(0.002)

    def reset(self, scene: str, seed: int) -> None:
        start = self._server.arm.reset(scene, seed)
        motion, began_s = ResetMotion(self.state().tcp_pose, start, self._task.reset_lift_m), self._cell.time_s

        def there() -> bool:
            self.set_target(motion.target(self._cell.time_s - began_s))
            state = self.state()
            off = body_delta(start, state.tcp_pose)
            at_rest = bool(np.abs(state.tcp_twist).max() < 0.01)
            return at_rest and bool(np.linalg.norm(off[:3]) < THERE_M and np.linalg.norm(off[3:]) < THERE_RAD)

        self._wait(there, "the arm does not reach the start pose")
        self._due_s = self._cell.time_s

    def set_target(self, target: Pose) -> None:
        if self._gate.admit(self._robot.base_frame, self._cell.time_s):
            self.driver.set_target(target)

    def set_gripper(self, closed: bool) -> None:
        """The plug is held."""

    def advance(self, duration_s: float) -> None:
        self._due_s += duration_s
        self._due_s = max(self._due_s, self._cell.time_s)  # a tick that comes late puts off the next
        self._wait(lambda: self._cell.time_s >= self._due_s, "the robot's clock stands still")

    def state(self) -> ArmState:
        assert self.driver.reading is not None
        with self._server.arm.lock:
            width_m = self._cell.state().gripper_width_m
        return replace(self.driver.reading.state, gripper_width_m=width_m)

    def truth(self) -> Truth:
        with self._server.arm.lock:
            return self._cell.truth()

    def image(self) -> npt.NDArray[np.uint8]:
        with self._server.arm.lock:
            self._cell.keep_still()
        return self._cell.image(still=True)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5.0)
        self._server.close()
        self._cell.close()


def play(loop: Loop, policy: Policy, seed: int) -> tuple[Outcome, int]:
    """One episode; outcome and number of steps."""
    policy.reset()
    tick, steps = loop.reset("", seed), 0
    while tick.status.phase is Phase.RUNNING:
        refused = loop.offer(policy.act(tick.observation))
        if refused:
            print(f"seed {seed}: {refused}", file=sys.stderr)
        _, tick = loop.step(None)
        steps += 1
    return tick.status.outcome, steps


def main(argv: list[str]) -> dict[str, float]:
    """Measure; the figures are those of docs/reference/benchmarks.md."""
    from _policies import FORM, parse  # type: ignore[import-not-found, unused-ignore]

    parser = argparse.ArgumentParser(prog="rldg bench rehearsal", description=__doc__)
    parser.add_argument("--task", default="usb_insertion", help="one that holds its plug (default: %(default)s)")
    parser.add_argument("--policy", default="scripted", metavar=FORM, help="default: %(default)s")
    parser.add_argument("--trials", type=int, default=100, help="of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="of the first (default: %(default)s)")
    options = parser.parse_args(argv)
    task, (_, name, checkpoint) = load_task(options.task), parse(options.policy)
    if task.control.gripper is not GripperUse.FIXED:
        parser.error(f"--task: {options.task} uses the gripper; one that holds its plug is asked for")
    policy = make_policy(name, task, load_robot("fr3"), POLICY_ID, {"checkpoint": checkpoint} if checkpoint else {})
    policy.warm_up()
    sys.setswitchinterval(0.0005)
    figures = {"trials": float(options.trials)} | measure("plain", lambda: Cell(task), task, policy, options)
    return figures | measure("rehearsed", lambda: RehearsedCell(task), task, policy, options)


def measure(
    kind: str, make: Callable[[], Any], task: Task, policy: Policy, options: argparse.Namespace
) -> dict[str, float]:
    """Success in percent, mean steps of a success, and how often the robot stopped: then with a new one at the next."""
    stage = make()
    successes, faults = 0, 0
    steps: list[int] = []
    for number in range(options.trials):
        try:
            outcome, count = play(Loop(task, stage), policy, options.seed + number)
            what = outcome.value
        except RuntimeError as error:
            outcome, what = Outcome.ABORTED, str(error)
            faults += 1
            stage.close()
            stage = make()
        if outcome is Outcome.SUCCESS:
            successes += 1
            steps.append(count)
        else:
            print(f"{kind}: seed {options.seed + number}: {what}", file=sys.stderr)
        if (number + 1) % 10 == 0:
            print(f"{kind}: {successes} of {number + 1}, {faults} faults", file=sys.stderr)
    stage.close()
    figures = {f"{kind}_success_pct": 100.0 * successes / options.trials, f"{kind}_faults": float(faults)}
    return figures | ({f"{kind}_steps_mean": float(np.mean(steps))} if steps else {})
