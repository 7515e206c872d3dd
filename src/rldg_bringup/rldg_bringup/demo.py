"""``demo``: the whole of RLDG on one task, small enough for a laptop."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from rldg_bringup.reproduce import add_running, carry_out
from rldg_experiments.plan import Experiment, ExperimentError, load_experiment

EXPERIMENT = "demo"
MINUTES = 20  # that the experiment file is made for
_FIXED = 9  # of them, set-up and the specialist, which takes the time it takes
_SCALED = {"episodes": 10, "steps": 200, "trials": 4}  # parameters that follow the time, and the least of each


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rldg demo",
        description="All of RLDG on one task in simulation: a specialist is trained and collects episodes, a "
        "generalist is fine-tuned on them and another one on as many demonstrations, takes over live, is evaluated. "
        "An interrupted run is taken up by the same command.",
    )
    parser.add_argument("--task", default="", help="a name of config/tasks or a YAML file (default: usb_insertion)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    parser.add_argument(
        "--minutes",
        type=int,
        default=MINUTES,
        help="about how long, on two cores: data, fine-tuning and trials are cut or grow (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("reports/demo"), help="folder of the page (default: %(default)s)"
    )
    add_running(parser)
    options = parser.parse_args(argv)
    if not _FIXED < options.minutes <= 1440:
        parser.error(
            f"--minutes: is {options.minutes}, must be from {_FIXED + 1} to 1440: the specialist takes {_FIXED - 2}"
        )
    if not 0 <= options.seed <= 199:
        parser.error(f"--seed: is {options.seed}, must be from 0 to 199")
    return options


def scaled(minutes: int, seed: int, task: str = "") -> Experiment:
    """The experiment, cut or grown to about so many minutes on two cores.

    Raises:
        ExperimentError: the task is not known.
    """
    factor = (minutes - _FIXED) / (MINUTES - _FIXED)
    usual = load_experiment(EXPERIMENT).parameters
    changes = {name: max(least, round(factor * usual[name])) for name, least in _SCALED.items()}
    return load_experiment(EXPERIMENT, {**changes, "seed": seed, **({"task": task} if task else {})})


def main(argv: list[str]) -> int:
    """Run the verb; returns 0 when the page is there, 1 where a stage failed, 2 for a wrong call."""
    options = _arguments(argv)
    try:
        experiment = scaled(options.minutes, options.seed, options.task)
    except ExperimentError as error:
        print(f"rldg demo: {error}", file=sys.stderr)
        return 2
    return carry_out("demo", Console(highlight=False), experiment, options, options.out)
