"""``collect``: a frozen specialist does its task, and every episode becomes a bag."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console

from rldg_bringup.domain import DomainError
from rldg_bringup.episode_report import EpisodeReport
from rldg_bringup.train import XLA_FLAGS
from rldg_core.task import load_robot, load_task
from rldg_core.types import Outcome, Source

POLICY = "specialist"
UNUSED_SEED = 2_000_000_000  # start states from here on belong to no training
_READY_TIMEOUT_S = 120.0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rldg collect",
        description="Roll a trained specialist out in simulation and record a bag of every episode.",
    )
    parser.add_argument("task", help="a name of config/tasks or a YAML file")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of the specialist")
    parser.add_argument("--episodes", type=int, required=True, help="how many episodes")
    parser.add_argument(
        "--seed",
        type=int,
        help="seed of the first start state (default: the first that no training uses and no bag there has)",
    )
    parser.add_argument("--bags", type=Path, default=Path("bags"), help="where the bags go (default: %(default)s)")
    options = parser.parse_args(argv)
    if not 1 <= options.episodes <= 100_000:
        parser.error(f"--episodes: is {options.episodes}, must be from 1 to 100000")
    if options.seed is not None and not 0 <= options.seed < 2**31 - options.episodes:
        parser.error(f"--seed: is {options.seed}, must be from 0 to {2**31 - 1 - options.episodes}")
    return options


def main(argv: list[str]) -> int:
    """Run the verb; returns 0 when all episodes were recorded, however they ended, 1 if not, 2 for a wrong call."""
    options = _arguments(argv)
    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
    from rldg_rl.policy import load_card, make_specialist

    console = Console(highlight=False)
    try:
        task = load_task(options.task)
        card = load_card(options.checkpoint)
        if card.task != task.name:
            raise ValueError(
                f"{options.checkpoint}: is a specialist for {card.task}, not for {task.name}; "
                f"say ./rldg collect {card.task}, or name another checkpoint"
            )
        parameters = {"checkpoint": str(options.checkpoint.absolute())}
        make_specialist(task, load_robot("fr3"), POLICY, parameters)  # what the node would refuse
        options.bags.mkdir(parents=True, exist_ok=True)
        seed = _unused_seed(options.bags) if options.seed is None else options.seed
    except (ValueError, OSError) as error:
        print(f"rldg collect: {error}", file=sys.stderr)
        return 2
    arguments = {
        "task": options.task,
        "operator": "none",
        "policy": POLICY,
        "policy_parameters": json.dumps(parameters),
        "lockstep": "true",
        "record": "true",
        "bags": str(options.bags.absolute()),
    }
    console.print(f"[bold]{task.name}[/]: {options.episodes} episodes of {card.name}")
    log_dir = Path(tempfile.mkdtemp(prefix="rldg-collect-"))
    try:
        reports = _roll_out(console, options.episodes, seed, arguments, log_dir)
    except DomainError as error:
        print(f"rldg collect: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, TimeoutError) as error:
        print(f"rldg collect: {error}\n  log: {log_dir / 'launch.log'}", file=sys.stderr)
        return 1
    return _tell(console, options, reports)


def _unused_seed(bags: Path) -> int:
    """The first start state that no training uses and no bag there has: in lockstep it would only be repeated."""
    from rldg_recorder.episode import read_info
    from rldg_recorder.episode_reader import find_bags

    return max([UNUSED_SEED, *(read_info(folder).seed + 1 for folder in find_bags(bags))])


def _roll_out(
    console: Console, episodes: int, seed: int, arguments: dict[str, str], log_dir: Path
) -> list[EpisodeReport]:
    """Run the episodes with a progress line.

    Raises:
        DomainError, RuntimeError, TimeoutError: the cell did not come up, or an episode could not be run.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from rldg_bringup.running import running

    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    reports: list[EpisodeReport] = []
    with Progress(*columns, console=console) as progress:
        line = progress.add_task("starting the nodes", total=episodes)
        with running("cell", arguments, log_dir, _READY_TIMEOUT_S) as (_, runner):
            progress.update(line, description="episodes")
            for report in runner.run_episodes(episodes, seed):
                if report.sources[Source.POLICY] == 0:
                    why = next((step.reason for step in report.steps if step.reason), "nobody asked it to")
                    raise RuntimeError(f"{report.episode_id}: the specialist did not drive: {why}")
                reports.append(report)
                successes = sum(report.outcome is Outcome.SUCCESS for report in reports)
                progress.update(line, advance=1, description=f"{successes} of {len(reports)} succeeded")
    return reports


def _tell(console: Console, options: argparse.Namespace, reports: list[EpisodeReport]) -> int:
    """The closing table, of what the bags say."""
    from rich.table import Table

    from rldg_recorder.episode import read_info

    folders = [options.bags / report.episode_id for report in reports]
    infos = [read_info(folder) for folder in folders if folder.is_dir()]
    whole = [info for info in infos if info.state == "complete"]
    lengths = [info.steps - 1 for info in whole if info.outcome is Outcome.SUCCESS]
    table = Table("episodes", "successes", "mean steps", "recorded whole", "audit ok")
    table.add_row(
        str(len(reports)),
        str(len(lengths)),
        f"{np.mean(lengths):.1f}" if lengths else "-",
        str(len(whole)),
        str(sum(info.audit == "ok" for info in whole)),
    )
    console.print(table)
    console.print(
        f"bags: {folders[0].parent}\nnext: ./rldg dataset build config/recording/distill.yaml", soft_wrap=True
    )
    return 0 if len(whole) == options.episodes else 1
