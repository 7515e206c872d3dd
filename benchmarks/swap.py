"""Swaps among warm policies at random moments in a real-time cell beside load: missed ticks, gaps, delay, jumps."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from rldg_bringup.domain import lease_domain
from rldg_bringup.launch_runner import Launch
from rldg_bringup.swap import policy_launch
from rldg_bringup.up import launch_file
from rldg_core.events import Event, EventKind, parse_event
from rldg_core.frames import rotation_angle
from rldg_core.task import Task, load_task
from rldg_core.types import Source, Step

DEFAULT_POLICIES = ["a=scripted", "b=scripted", "c=scripted"]
READY_S = 120.0
AFTER_NS = 500_000_000  # in which a hand-over may be felt
_ENDS = (EventKind.SWAP_COMPLETED, EventKind.SWAP_ROLLED_BACK)


def main(argv: list[str]) -> dict[str, float]:
    """Measure; the figures are those of docs/reference/benchmarks.md."""
    from _policies import FORM, parse  # type: ignore[import-not-found, unused-ignore]

    parser = argparse.ArgumentParser(prog="rldg bench swap", description=__doc__)
    parser.add_argument("--task", default="usb_insertion")
    parser.add_argument("--swaps", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--load", type=int, default=2, help="busy processes beside it (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the order (default: %(default)s)")
    parser.add_argument(
        "--policies",
        nargs="+",
        default=DEFAULT_POLICIES,
        metavar=FORM,
        help="at least two (default: three scripted ones)",
    )
    options = parser.parse_args(argv)
    policies = [parse(text) for text in options.policies]
    if len({policy_id for policy_id, _, _ in policies}) < 2:
        parser.error("--policies: at least two with different ids are swapped between")
    task = load_task(options.task)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        lease = lease_domain("bench swap")
        if lease is not None:
            stack.enter_context(lease)
            os.environ["ROS_DOMAIN_ID"] = str(lease.domain)
        arguments = {"task": options.task, "operator": "none"}
        stack.enter_context(Launch(launch_file("cell"), arguments, log_dir=Path(folder) / "cell"))
        for policy_id, name, checkpoint in policies:
            file, arguments = policy_launch(name, policy_id, checkpoint)
            arguments["task"] = options.task
            stack.enter_context(Launch(launch_file(file), arguments, log_dir=Path(folder) / policy_id))
        return measure([policy_id for policy_id, _, _ in policies], task, options.swaps, options.load, options.seed)


def measure(ids: list[str], task: Task, swaps: int, load: int, seed: int) -> dict[str, float]:
    """Swap in the cell of this process's ROS domain."""
    from _load import busy  # type: ignore[import-not-found, unused-ignore]
    from rldg_interfaces.msg import Observation as ObservationMsg
    from rldg_interfaces.msg import Step as StepMsg
    from std_msgs.msg import String

    from rldg_bringup.episode_runner_node import EpisodeRunner
    from rldg_ros import qos
    from rldg_ros.conversions import stamp_from_msg, step_from_msg

    rng = np.random.default_rng(seed)
    steps: list[Step] = []
    events: list[Event] = []
    forces: list[tuple[int, float]] = []  # stamp of the observation, N
    requested_ns: list[tuple[str, int]] = []

    def ends() -> int:
        return sum(event.kind in _ENDS for event in events)

    with EpisodeRunner() as runner:
        runner.wait_until_ready(READY_S)
        for policy_id in ids:
            runner.select_policy_when_fresh(policy_id, READY_S)
        runner.listen(StepMsg, "step", lambda msg: steps.append(step_from_msg(msg)), qos.reliable(200))
        runner.listen(String, "event", lambda msg: events.append(parse_event(msg.data)), qos.latched(20))
        runner.listen(
            ObservationMsg,
            "observation",
            lambda msg: forces.append((stamp_from_msg(msg.header.stamp), _force_n(msg))),
            qos.reliable(10),
        )
        runs = [runner.start_episodes(count=100_000).get_result_async()]
        with busy(load, READY_S + 10.0 * swaps):
            runner.spin(5.0)
            first, before = len(steps), ends()
            while len(requested_ns) < swaps:
                runner.spin_until(
                    lambda: runs[-1].done() or steps[-1].source is Source.POLICY, 60.0, "a policy that drives"
                )
                if runs[-1].done():  # a node hung for a second, which the machine may be the cause of
                    print(f"episodes begin again: {runs[-1].result().result.message}", file=sys.stderr)
                    runs.append(runner.start_episodes(count=100_000).get_result_async())
                    runner.spin(1.0)
                    continue
                runner.spin(float(rng.uniform(0.0, 0.5)))
                time.sleep(float(rng.uniform(0.0, 0.1)))  # spinning ends with a message: in step with the ticks
                current = steps[-1].policy_id
                chosen = str(rng.choice([policy_id for policy_id in ids if policy_id != current]))
                now_ns = time.time_ns()
                try:
                    runner.select_policy(chosen)
                except RuntimeError as refusal:  # it has not answered since the reset
                    print(f"not swapped: {refusal}", file=sys.stderr)
                    continue
                requested_ns.append((chosen, now_ns))
                runner.spin_until(lambda: ends() - before >= len(requested_ns), 60.0, "the end of a probation")
                if len(requested_ns) % 10 == 0:
                    print(f"{len(requested_ns)} swaps, {len(steps) - first} ticks", file=sys.stderr)
    return figures(steps[first:], events, requested_ns, task) | peaks(forces, events) | {"runs": float(len(runs))}


def figures(
    steps: list[Step], events: list[Event], requested_ns: list[tuple[str, int]], task: Task
) -> dict[str, float]:
    """From what was recorded to the figures."""
    period_s = task.control.period_s
    gaps_s = np.diff([step.stamp_ns for step in steps]) * 1e-9
    delays_s = [
        delay
        for chosen, asked_ns in requested_ns
        if (delay := _first_executed_s(steps, chosen, asked_ns, period_s)) is not None
    ]
    handed = {event.stamp_ns for event in events if event.kind is EventKind.SWAP_HANDED_OVER}
    begun_ns = steps[0].stamp_ns
    jumps = [
        _jump(last, step, task)
        for last, step in itertools.pairwise(steps)
        if step.stamp_ns in handed and step.source is Source.POLICY and step.episode_id == last.episode_id
    ]
    found = {
        "swaps": float(len(requested_ns)),
        "rolled_back": float(
            sum(event.kind is EventKind.SWAP_ROLLED_BACK and event.stamp_ns >= begun_ns for event in events)
        ),
        "ticks": float(len(steps)),
        "missed_ticks": float(np.maximum(np.round(gaps_s / period_s) - 1, 0).sum()),
        "max_gap_ms": float(gaps_s.max() * 1e3),
    }
    if delays_s:
        found["warm_swap_ms_p50"] = float(np.median(delays_s) * 1e3)
        found["warm_swap_ms_max"] = float(np.max(delays_s) * 1e3)
        found["warm_swaps"] = float(len(delays_s))
    if jumps:
        found["max_jump_ratio"] = float(np.max(jumps))
    for name in ("warm_swap_ms_p50", "max_jump_ratio"):
        if name not in found:
            print(f"{name}: no swap fell into the motion of an episode", file=sys.stderr)
    return found


def peaks(forces: list[tuple[int, float]], events: list[Event]) -> dict[str, float]:
    """The largest contact force shortly after a hand-over, and at all other times."""
    handed = [event.stamp_ns for event in events if event.kind is EventKind.SWAP_HANDED_OVER]
    near = [any(0 <= stamp_ns - ns <= AFTER_NS for ns in handed) for stamp_ns, _ in forces]
    found = {}
    for name, wanted in (("peak_force_after_swap_n", True), ("peak_force_otherwise_n", False)):
        values = [force for (_, force), is_near in zip(forces, near, strict=True) if is_near is wanted]
        if values:
            found[name] = max(values)
    return found


def _force_n(msg: Any) -> float:
    force = msg.wrench.force
    return float(np.linalg.norm([force.x, force.y, force.z]))


def _first_executed_s(steps: list[Step], chosen: str, asked_ns: int, period_s: float) -> float | None:
    """From the request to the first action of the policy; None where the episode ended or blocked in between."""
    for step in steps:
        if step.stamp_ns < asked_ns:
            continue
        if step.policy_id == chosen and step.source is Source.POLICY:
            return (step.stamp_ns - asked_ns) * 1e-9
        if step.is_last or not step.episode_id:
            return None
    return None


def _jump(last: Step, step: Step, task: Task) -> float:
    """How far the target moved, as a share of what it may in one tick."""
    moved_m = float(np.linalg.norm(step.target.position - last.target.position))
    turned_rad = rotation_angle(step.target, last.target)
    limits, period_s = task.safety, task.control.period_s
    return max(
        moved_m / (limits.max_linear_speed_m_s * period_s), turned_rad / (limits.max_angular_speed_rad_s * period_s)
    )


if __name__ == "__main__":
    print(main(sys.argv[1:]))
