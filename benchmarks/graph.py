"""The whole graph in separate processes: ticks per second in lockstep, tick timing and command age in real time."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rldg_bringup.domain import lease_domain
from rldg_bringup.launch_runner import Launch
from rldg_bringup.up import launch_file
from rldg_core.task import config_directory

IMAGE_SIZE_PX = 128
POLICY = "scripted"
WARM_UP_TICKS = 150


def main(argv: list[str]) -> dict[str, float]:
    """Measure; the figures are those of docs/reference/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="rldg bench graph", description=__doc__)
    parser.add_argument("--task", default="usb_insertion")
    parser.add_argument("--ticks", type=int, default=1500, help="lockstep ticks to time (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="real-time measurement (default: %(default)s)")
    parser.add_argument("--load", type=int, default=2, help="busy processes beside it (default: %(default)s)")
    parser.add_argument("--image-size-px", type=int, default=IMAGE_SIZE_PX)
    options = parser.parse_args(argv)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        # the same task with the image size that is measured
        task = Path(folder) / f"{options.task}.yaml"
        parent = config_directory() / "tasks" / f"{options.task}.yaml"
        task.write_text(f"extends: {parent}\ncamera: {{image_size_px: {options.image_size_px}}}\n")
        lease = lease_domain("bench graph")
        if lease is not None:
            os.environ["ROS_DOMAIN_ID"] = str(lease.domain)
        try:
            if options.ticks > 0:
                figures |= lockstep(task, Path(folder), options.ticks)
            if options.seconds > 0:
                figures |= real_time(task, Path(folder), options.seconds, options.load)
        finally:
            if lease is not None:
                lease.close()
    return figures


def lockstep(task: Path, folder: Path, ticks: int) -> dict[str, float]:
    """How many ticks a second the graph makes when nothing waits for the clock."""
    from rldg_interfaces.msg import Step

    from rldg_bringup.episode_runner_node import EpisodeRunner
    from rldg_ros import qos

    arguments = {"task": str(task), "operator": "none", "policy": POLICY, "lockstep": "true"}
    with Launch(launch_file("cell"), arguments, log_dir=folder / "lockstep"), EpisodeRunner(follow=False) as runner:
        runner.wait_until_ready(90.0)
        runner.select_policy_when_fresh(POLICY)
        runner.start_episodes(count=10_000)
        # counting costs what it measures: serialised messages, and only as many as must be
        count = 0

        def on_step(_: bytes) -> None:
            nonlocal count
            count += 1

        runner.node.create_subscription(Step, "step", on_step, qos.reliable(50), raw=True)
        runner.spin_until(lambda: count >= WARM_UP_TICKS, 120.0, "the first ticks")
        first, began_s = count, time.perf_counter()
        runner.spin_until(lambda: count >= first + ticks, 600.0, "the ticks")
        rate = (count - first) / (time.perf_counter() - began_s)
    print(f"lockstep: {count - first} ticks at {rate:.0f} per second", file=sys.stderr)
    return {"lockstep_ticks_per_s": rate}


def real_time(task: Path, folder: Path, seconds: float, load: int) -> dict[str, float]:
    """How well ticks keep their period beside ``load`` busy processes, and how old observations are when acted on."""
    from _load import busy  # type: ignore[import-not-found, unused-ignore]
    from rldg_interfaces.msg import Step

    from rldg_bringup.episode_runner_node import EpisodeRunner
    from rldg_ros import qos
    from rldg_ros.conversions import step_from_msg

    arguments = {"task": str(task), "operator": "none", "policy": POLICY}
    with Launch(launch_file("cell"), arguments, log_dir=folder / "real_time"), EpisodeRunner() as runner:
        runner.wait_until_ready(90.0)
        runner.select_policy_when_fresh(POLICY)
        steps = []
        with busy(load, seconds + 30.0):
            runner.spin(2.0)
            runner.listen(Step, "step", lambda msg: steps.append(step_from_msg(msg)), qos.reliable(50))
            end = time.monotonic() + seconds
            for _ in runner.run_episodes(count=10_000, timeout_s=120.0):
                print(f"real time: {len(steps)} ticks", file=sys.stderr)
                if time.monotonic() > end:
                    break
    stamps = np.array([step.stamp_ns for step in steps])
    period_s = 0.1
    gaps = np.diff(stamps) * 1e-9 / period_s
    ages = [step.command_age_s for step in steps if step.episode_id]
    return {
        "realtime_tick_p99_error_ms": float(np.percentile(np.abs(gaps - 1.0), 99)) * period_s * 1e3,
        "realtime_missed_ticks": float(np.maximum(np.round(gaps) - 1, 0).sum()),
        "realtime_ticks": float(len(stamps)),
        "command_age_p50_ms": float(np.percentile(ages, 50)) * 1e3,
        "command_age_p99_ms": float(np.percentile(ages, 99)) * 1e3,
    }


if __name__ == "__main__":
    print(main(sys.argv[1:]))
