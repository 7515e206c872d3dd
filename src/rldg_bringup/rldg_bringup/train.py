"""``train``: one command from a task to a specialist, and what is going on while it runs."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console

from rldg_core.processes import XLA_FLAGS

if TYPE_CHECKING:
    from rldg_rl.train import Result

MAX_SEED = 199  # start states are numbered below 2**31


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rldg train",
        description="Train a specialist in simulation: demonstrations, training with help, stop rule, evaluation.",
    )
    parser.add_argument("task", help="a name of config/tasks or a YAML file")
    parser.add_argument(
        "--preset", default="pixels_sim", help="a name of config/training or a YAML file (default: %(default)s)"
    )
    parser.add_argument(
        "--segment",
        choices=("all", "grasped"),
        help="grasped: a person brings every episode to where the gripper holds the object (default: the preset's)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    parser.add_argument("--run", type=Path, help="folder of the run (default: a new one in runs/)")
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("checkpoints"), help="where the specialist goes (default: %(default)s)"
    )
    parser.add_argument(
        "--graph", action="store_true", help="train through the ROS graph; a run that was stopped is taken up again"
    )
    parser.add_argument(
        "--learner",
        choices=("here", "elsewhere"),
        default="here",
        help="elsewhere: another machine launches it, with ./rldg up learner (with --graph only)",
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON, without a display")
    options = parser.parse_args(argv)
    if not 0 <= options.seed <= MAX_SEED:
        parser.error(f"--seed: is {options.seed}, must be from 0 to {MAX_SEED}")
    if options.segment and options.graph:
        parser.error("--segment: is for training in one process; with --graph a preset's whole task is learned")
    if options.learner == "elsewhere" and not options.graph:
        parser.error("--learner: elsewhere needs --graph: in one process there is no other learner")
    return options


def main(argv: list[str]) -> int:
    """Run the verb; returns 0 when the specialist passed its stop rule, 1 if not, 2 for a wrong call."""
    options = _arguments(argv)
    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
    from rldg_bringup.domain import DomainError
    from rldg_bringup.train_curves import PICTURE, draw, kept
    from rldg_bringup.train_display import display
    from rldg_core.task import TaskError, load_task
    from rldg_rl.backbone import WeightsError
    from rldg_rl.checkpoint import CheckpointError
    from rldg_rl.config import Segment, load_config
    from rldg_rl.encoders import EncoderError
    from rldg_rl.learner import DivergenceError
    from rldg_rl.train import TrainingError, as_json, run_training

    console = Console(highlight=False, stderr=options.json)
    try:
        task = load_task(options.task)
        config = load_config(options.preset, task.family)
        if options.segment:
            config = msgspec.structs.replace(config, segment=Segment(options.segment))
        run = options.run or _free(Path("runs"), f"{task.name}-{Path(options.preset).stem}-{options.seed}")
        if options.run and not options.graph and run.is_dir() and any(run.iterdir()):
            raise TaskError(f"--run: {run} is not empty; name a new folder")
        console.print(f"[bold]{task.name}[/], preset {options.preset}, seed {options.seed}: run in {run}")
        with display(console, config) as show, kept(run, show) as tell:
            if options.graph:
                from rldg_bringup.train_graph import train_in_graph

                result = train_in_graph(options.task, options.preset, run, options.seed, options.learner, tell)
            else:
                result = run_training(task, config, run, options.seed, tell)
    except (TaskError, EncoderError, WeightsError, DomainError) as error:
        print(f"rldg train: {error}", file=sys.stderr)
        return 2
    except (TrainingError, DivergenceError, CheckpointError, RuntimeError, TimeoutError, OSError) as error:
        print(f"rldg train: {error}", file=sys.stderr)
        return 1
    checkpoint = _keep(Path(result.checkpoint), options.checkpoints)
    draw([run], run / PICTURE)
    _tell(console, result, checkpoint, run / PICTURE)
    if options.json:
        print(as_json(result))
    return 0 if result.stopped == "converged" else 1


def _free(folder: Path, name: str) -> Path:
    """The first of name, name-2, name-3 ... that is not there yet."""
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(path for path in (folder / candidate for candidate in names) if not path.exists())


def _keep(made: Path, checkpoints: Path) -> Path:
    """Copy the checkpoint to where specialists are kept; an older one of its name gives way."""
    from rldg_rl.checkpoint import whole_folder

    with whole_folder(checkpoints / made.name) as draft:
        shutil.copytree(made, draft, dirs_exist_ok=True)
    return checkpoints / made.name


def _tell(console: Console, result: Result, checkpoint: Path, curves: Path) -> None:
    console.print(
        f"{result.task}, {result.encoder}: {result.success_rate:.0%} of {result.trials} autonomous episodes succeeded, "
        f"{_number(result.mean_steps, '.1f')} steps each (demonstrations {result.demo_steps:.1f})\n"
        f"after {result.env_steps} environment steps, {result.episodes} episodes, {result.intervention_steps} steps of "
        f"help; {result.wall_s:.0f} s, {_number(result.cpu_s, '.0f')} s of CPU; stopped: {result.stopped}\n"
        f"checkpoint: {checkpoint}\ncurves: {curves}\n"
        f"next: ./rldg collect {result.task} --checkpoint {checkpoint} --episodes 100"
    )


def _number(value: float, form: str) -> str:
    return format(value, form) if value == value else "-"
