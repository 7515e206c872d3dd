"""How much faster than the robot policies are evaluated in processes.

Robot seconds per wall second of ``./rldg evaluate --fast``, loading and compiling included, for an untrained nano model
of each generalist and for the scripted policy. Untrained ones seldom succeed, so trials last until the time limit.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rldg_core.processes import XLA_FLAGS

TASK = "usb_insertion"
NANO = ("octo", "openvla")


def main(argv: list[str]) -> dict[str, float]:
    """Measure; the figures are those of docs/reference/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="rldg bench evaluate", description=__doc__)
    parser.add_argument("--trials", type=int, default=20, help="of each policy (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    parser.add_argument(
        "--policies", nargs="+", choices=(*NANO, "scripted"), default=(*NANO, "scripted"), help="(default: all)"
    )
    options = parser.parse_args(argv)
    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.policies:
            policy: dict[str, Any] = {"name": kind, "type": kind}
            if kind in NANO:
                try:
                    policy["checkpoint"] = str(make_nano(kind, Path(folder)))
                except ImportError as error:
                    print(f"{kind}: not measured: {error}; ./rldg finetune --help installs it", file=sys.stderr)
                    continue
            if kind == "openvla":
                policy["parameters"] = {"threads": 1}
            robot_s, wall_s, trials_s, answer_ms = measure(policy, options.trials, options.jobs, Path(folder) / "runs")
            figures[f"{kind}_realtime_factor"] = robot_s / wall_s
            figures[f"{kind}_loaded_realtime_factor"] = options.jobs * robot_s / trials_s
            figures[f"{kind}_answer_ms"] = answer_ms
            print(
                f"{kind}: {robot_s:.0f} s of robot time in {wall_s:.1f} s with {options.jobs} processes, of which "
                f"trials {trials_s / options.jobs:.1f} s; {answer_ms:.1f} ms an answer",
                file=sys.stderr,
            )
    slowest = [figures[name] for kind in NANO if (name := f"{kind}_realtime_factor") in figures]
    if slowest:
        figures["fast_realtime_factor"] = min(slowest)  # of the nano models
    return figures


def measure(policy: dict[str, Any], trials: int, jobs: int, folder: Path) -> tuple[float, float, float, float]:
    """Robot and wall time of an evaluation, the sum of those of its trials (s), and the mean of an answer (ms)."""
    import msgspec

    from rldg_evaluation import fast
    from rldg_evaluation.plan import EvaluationPlan, prepare
    from rldg_evaluation.running import Store, run
    from rldg_recorder.executors import make_executor

    data = {"name": "bench", "policies": [policy], "tasks": [{"task": TASK, "scenes": ["seen"]}], "trials": trials}
    loaded = prepare(msgspec.convert(data, EvaluationPlan, strict=False))
    with Store(folder / policy["name"], loaded) as store:
        began_s = time.perf_counter()
        for _ in run(loaded, store, fast.play, make_executor("processes", jobs)):
            pass
        wall_s = time.perf_counter() - began_s
        results = store.results
        robot_s, trials_s = sum(result.robot_s for result in results), sum(result.wall_s for result in results)
        return robot_s, wall_s, trials_s, sum(result.answer_ms for result in results) / len(results)


def make_nano(kind: str, folder: Path) -> Path:
    """A checkpoint of the nano model, after one step on noise.

    Raises:
        ImportError: the packages of the generalists are not installed.
    """
    import msgspec
    import numpy as np

    from rldg_core.task import load_task
    from rldg_policies.finetuning import Trainer, load_finetune_config, run_finetuning
    from rldg_policies.training_frames import FrameEpisode, TrainingFrames
    from rldg_recorder.statistics import column_statistics

    task, rng = load_task(TASK), np.random.default_rng(0)
    episodes = [
        FrameEpisode(
            [rng.integers(0, 255, (128, 128, 3), np.uint8) for _ in range(8)],
            np.column_stack([rng.uniform(-1.0, 1.0, (8, 6)), np.ones(8)]).astype(np.float32),
            task.instruction,
        )
        for _ in range(2)
    ]
    every = np.concatenate([episode.action for episode in episodes])
    statistics: dict[str, Any] = {"noise": {"action": {**column_statistics(every), "mask": [True] * 6 + [False]}}}
    scale = tuple(task.control.scale.tolist())
    frames = TrainingFrames("noise", task.control.rate_hz, scale, (episodes[0],), (episodes[1],), statistics)
    config = msgspec.structs.replace(
        load_finetune_config(f"{kind}_nano"), steps=1, batch=1, evaluate_every=1, evaluation_frames=1, warmup_steps=0
    )
    if kind == "octo":
        from rldg_policies.octo.finetuning import OctoTrainer

        trainer: Trainer = OctoTrainer(config, frames, 0)
    else:
        from rldg_policies.openvla.finetuning import OpenVLATrainer

        trainer = OpenVLATrainer(config, frames, 0)
    run_finetuning(trainer, config, frames, folder / kind, 0)
    return folder / kind
