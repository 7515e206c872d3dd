"""``finetune``: a generalist and a training set in, a checkpoint that any policy node serves out."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rldg_policies.finetuning import Event, FinetuneConfig, Finished, Trainer
    from rldg_policies.training_frames import TrainingFrames


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rldg finetune",
        description="Fine-tune a generalist on a training set. An interrupted run is taken up by the same command.",
    )
    parser.add_argument("config", help="a name of config/finetuning or a YAML file")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of a LeRobot v3.0 set, made by ./rldg dataset build"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint; must not exist")
    parser.add_argument("--base", help="folder of the model to begin from (default: as the configuration says)")
    parser.add_argument("--tokenizer", type=Path, help="folder of the T5 tokenizer, for released Octo models")
    parser.add_argument("--steps", type=int, help="of the optimiser, at most (default: as the configuration says)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON, without a display")
    options = parser.parse_args(argv)
    if options.steps is not None and options.steps < 1:
        parser.error(f"--steps: is {options.steps}, must be at least 1")
    return options


def main(argv: list[str]) -> int:
    """Run the verb; returns 0, 1 where the run failed, 2 for a wrong call."""
    options = _arguments(argv)
    from rldg_core.task import TaskError
    from rldg_policies.finetuning import load_finetune_config, run_finetuning
    from rldg_policies.training_frames import load_frames

    console = Console(highlight=False, stderr=options.json)
    try:
        config = load_finetune_config(options.config)
        changes = {"base": options.base, "steps": options.steps}
        config = msgspec.structs.replace(config, **{name: value for name, value in changes.items() if value})
        frames = load_frames(options.data, seed=options.seed)
    except (TaskError, ValueError) as error:
        print(f"rldg finetune: {error}", file=sys.stderr)
        return 2
    counts = [(len(part), sum(map(len, part))) for part in (frames.train, frames.held_out)]
    console.print(
        f"[bold]{frames.name}[/]: {counts[0][0]} episodes, {counts[0][1]} frames to train on, {counts[1][0]} and "
        f"{counts[1][1]} held out; {config.type} from {config.base}, seed {options.seed}"
    )
    try:
        trainer = make_trainer(config, frames, options.seed, options.tokenizer)
        with Display(console, options.out) as display:
            finished = run_finetuning(trainer, config, frames, options.out, options.seed, display.show)
    except (ValueError, OSError, MemoryError, ImportError) as error:
        print(f"rldg finetune: {error}", file=sys.stderr)
        return 1
    tell(
        console,
        finished,
        f"./rldg up <task> policy:={config.type} policy_parameters:='{{checkpoint: {finished.checkpoint}}}'",
    )
    if options.json:
        print(json.dumps(asdict(finished)))
    return 0


def make_trainer(config: FinetuneConfig, frames: TrainingFrames, seed: int, tokenizer: Path | None = None) -> Trainer:
    """What trains a model of the type that the configuration names; its framework is imported here."""
    if config.type == "openvla":
        from rldg_policies.openvla.finetuning import OpenVLATrainer

        return OpenVLATrainer(config, frames, seed)
    from rldg_policies.octo.finetuning import OctoTrainer

    return OctoTrainer(config, frames, seed, tokenizer)


class Display:
    """A live line, a line for each look at held-out frames, and curves for TensorBoard beside the checkpoint."""

    def __init__(self, console: Console, out: Path) -> None:
        from rldg_policies.board import open_board

        columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
        self._progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
        self._line = self._progress.add_task("begins", total=None)
        self._board = open_board(out.with_name(f"{out.name}.tensorboard"))

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._board.close()

    def show(self, event: Event) -> None:
        from rldg_policies.finetuning import Looked, Stepped

        if isinstance(event, Stepped):
            self._progress.update(
                self._line,
                completed=event.step,
                total=event.steps,
                description=f"loss {event.figures['loss']:.4f}",
            )
            self._write("train", event.figures, event.step)
        elif isinstance(event, Looked):
            figures = ", ".join(f"{name} {value:.3f}" for name, value in event.figures.items())
            self._progress.console.print(f"{event.step} steps: held out: {figures}{'  *' if event.best else ''}")
            self._write("held_out", event.figures, event.step)

    def _write(self, kind: str, figures: dict[str, float], step: int) -> None:
        for name, value in figures.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)


def tell(console: Console, finished: Finished, following: str) -> None:
    """What a run came to, and the command that comes next."""
    held = ", ".join(f"{name} {value:.3f}" for name, value in finished.held_out.items())
    console.print(
        f"kept: step {finished.step} of {finished.steps}, stopped by {finished.stopped}; held out: {held}\n"
        f"on training frames, in the trainer {finished.trained_accuracy:.3f}, as it is served "
        f"{finished.served_accuracy:.3f}; {finished.wall_s:.0f} s, {finished.cpu_s:.0f} s of CPU\n"
        f"checkpoint: {finished.checkpoint}\n"
        f"next: {following}"
    )
