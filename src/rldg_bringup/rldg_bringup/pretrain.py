"""``pretrain``: what the small generalists know before they are fine-tuned, made in simulation by one command."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress

_DATA = Path("datasets/broad")


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rldg pretrain",
        description="Train a small generalist on the scripted operator's episodes in tasks of all families, with "
        "parts, words and tables that no task file has. An interrupted run is taken up by the same command.",
    )
    parser.add_argument("config", help="octo_nano, openvla_nano, or a YAML file (see config/pretraining)")
    parser.add_argument("--out", type=Path, help="folder of the weights; must not exist (default: checkpoints/<base>)")
    parser.add_argument("--recipe", type=Path, help="YAML file (default: config/broad_episodes.yaml)")
    parser.add_argument("--data", type=Path, default=_DATA, help="where the episodes are kept (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="of the optimiser, at most (default: as the configuration says)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that make episodes")
    options = parser.parse_args(argv)
    for name, low, high in (("steps", 1, None), ("jobs", 1, 256), ("seed", 0, 199)):
        value = getattr(options, name)
        if value is not None and not (low <= value and (high is None or value <= high)):
            parser.error(f"--{name}: is {value}, must be at least {low}" + (f" and at most {high}" if high else ""))
    return options


def main(argv: list[str]) -> int:
    """Run the verb; returns 0, 1 where the run failed, 2 for a wrong call."""
    options = _arguments(argv)
    from rldg_bringup.broad_episodes import broad_frames, load_recipe
    from rldg_bringup.finetune import Display, make_trainer, tell
    from rldg_core.task import TaskError
    from rldg_policies.finetuning import load_finetune_config, run_finetuning

    console = Console(highlight=False)
    try:
        config = load_finetune_config(options.config, "pretraining")
        if options.steps:
            config = msgspec.structs.replace(config, steps=options.steps)
        recipe = load_recipe(options.recipe)
    except (TaskError, ValueError) as error:
        print(f"rldg pretrain: {error}", file=sys.stderr)
        return 2
    out = options.out or Path("checkpoints") / Path(config.base).name
    total = sum(recipe.episodes.values())
    try:
        with Progress(console=console) as bar:
            line = bar.add_task(f"episodes in {options.data}", total=total)
            frames = broad_frames(
                recipe, options.data, options.seed, options.jobs, lambda done, _: bar.update(line, completed=done)
            )
        counts = [sum(map(len, part)) for part in (frames.train, frames.held_out)]
        console.print(
            f"{total} episodes, {counts[0]} frames to train on, {counts[1]} held out; {config.type} from "
            f"{config.base}, seed {options.seed}"
        )
        trainer = make_trainer(config, frames, options.seed)
        with Display(console, out) as display:
            finished = run_finetuning(trainer, config, frames, out, options.seed, display.show)
        if config.type == "openvla":
            _halve(out)
    except (ValueError, OSError, MemoryError, ImportError, RuntimeError) as error:
        print(f"rldg pretrain: {error}", file=sys.stderr)
        return 1
    tell(console, finished, f"./rldg finetune <config> --base {out} --data <set> --out <folder>")
    return 0


def _halve(folder: Path) -> None:
    """Keep the weights in bfloat16, as the released models are: half the space."""
    import torch

    from rldg_policies.openvla.checkpoint import load, save

    save(folder, load(folder), dtype=torch.bfloat16)
