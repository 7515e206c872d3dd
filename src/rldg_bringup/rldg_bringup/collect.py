"""``collect``: a frozen specialist, or the scripted operator, does a task, and every episode becomes a bag."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from rldg_bringup.domain import DomainError
from rldg_bringup.episode_report import EpisodeReport
from rldg_core.processes import XLA_FLAGS
from rldg_core.task import load_robot, load_task
from rldg_core.types import Outcome, Source

if TYPE_CHECKING:
    from rldg_core.task import Task
    from rldg_recorder.recipe import DrivenBy

POLICY = "specialist"
UNUSED_SEED = 2_000_000_000  # start states from here on belong to no training
_READY_TIMEOUT_S = 120.0
_WHAT = {False: "episodes", True: "successes"}


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rldg collect",
        description="Roll a trained specialist out in simulation, or have the scripted operator demonstrate, "
        "and record a bag of every episode.",
    )
    parser.add_argument("task", help="a name of config/tasks or a YAML file")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--checkpoint", type=Path, help="folder of the specialist")
    who.add_argument("--operator", choices=("scripted",), help="who demonstrates instead")
    number = parser.add_mutually_exclusive_group(required=True)
    number.add_argument("--episodes", type=int, help="how many episodes")
    number.add_argument(
        "--successes",
        type=int,
        help="until the folder holds so many successful ones of the task; an interrupted run is taken up",
    )
    parser.add_argument("--scene", default="", help="scene of the task (default: its first)")
    parser.add_argument(
        "--seed",
        type=int,
        help="seed of the first start state (default: the first that no training uses and no bag there has)",
    )
    parser.add_argument("--bags", type=Path, default=Path("bags"), help="where the bags go (default: %(default)s)")
    options = parser.parse_args(argv)
    for name in ("episodes", "successes"):
        count = getattr(options, name)
        if count is not None and not 1 <= count <= 100_000:
            parser.error(f"--{name}: is {count}, must be from 1 to 100000")
    most = options.episodes or _most_episodes(options.successes)
    if options.seed is not None and not 0 <= options.seed < 2**31 - most:
        parser.error(f"--seed: is {options.seed}, must be from 0 to {2**31 - 1 - most}")
    return options


def _most_episodes(successes: int) -> int:
    """After how many tries a policy is given up that so many successes are wanted of."""
    return 20 + 5 * successes


def main(argv: list[str]) -> int:
    """Run the verb; returns 0 when all that was asked for was recorded, 1 if not, 2 for a wrong call."""
    options = _arguments(argv)
    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
    console = Console(highlight=False)
    try:
        task = load_task(options.task)
        task.scene(options.scene)
        name, arguments, driven_by = _who(options, task)
        options.bags.mkdir(parents=True, exist_ok=True)
        seed = _unused_seed(options.bags) if options.seed is None else options.seed
    except (ValueError, LookupError, OSError) as error:
        print(f"rldg collect: {error}", file=sys.stderr)
        return 2
    arguments |= {
        "task": options.task,
        "scene": options.scene,
        "lockstep": "true",
        "record": "true",
        "bags": str(options.bags.absolute()),
    }
    console.print(
        f"[bold]{task.name}[/]: {options.episodes or options.successes} {_WHAT[bool(options.successes)]} of {name}"
    )
    log_dir = Path(tempfile.mkdtemp(prefix="rldg-collect-"))
    reports: list[EpisodeReport] = []
    try:
        while missing := _missing(options, task, driven_by, reports):
            reports += _roll_out(console, options, missing, seed + len(reports), arguments, log_dir)
    except DomainError as error:
        print(f"rldg collect: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, TimeoutError) as error:
        print(f"rldg collect: {error}\n  log: {log_dir / 'launch.log'}", file=sys.stderr)
        return 1
    return _tell(console, options, reports)


def _missing(options: argparse.Namespace, task: Task, driven_by: DrivenBy, reports: list[EpisodeReport]) -> int:
    """How many episodes are to be run next.

    Raises:
        RuntimeError: too few succeed.
    """
    if options.episodes:
        return 0 if reports else int(options.episodes)
    missing = max(0, options.successes - _successes(options, task.name, driven_by))
    if missing and len(reports) + missing > _most_episodes(options.successes):
        good = sum(report.outcome is Outcome.SUCCESS for report in reports)
        raise RuntimeError(
            f"only {good} of {len(reports)} episodes succeeded; {missing} are missing: train the policy further"
        )
    return missing


def _who(options: argparse.Namespace, task: Task) -> tuple[str, dict[str, str], DrivenBy]:
    """What drives is called, the arguments of the cell that make it drive, and who drives then.

    Before a specialist that begins where the object hangs in the gripper, the scripted operator brings it there.

    Raises:
        ValueError: the checkpoint is no specialist for the task.
    """
    from rldg_recorder.recipe import DrivenBy

    if options.operator:
        arguments = {"operator": options.operator, "policy": "none"}
        return f"the {options.operator} operator", arguments, DrivenBy.HUMAN
    from rldg_rl.config import Segment
    from rldg_rl.policy import load_card, make_specialist

    card = load_card(options.checkpoint)
    if card.task != task.name:
        raise ValueError(
            f"{options.checkpoint}: is a specialist for {card.task}, not for {task.name}; "
            f"say ./rldg collect {card.task}, or name another checkpoint"
        )
    parameters = {"checkpoint": str(options.checkpoint.absolute())}
    make_specialist(task, load_robot("fr3"), POLICY, parameters)  # what the node would refuse
    arguments = {"policy": POLICY, "policy_parameters": json.dumps(parameters)}
    if Segment(card.segment) is Segment.ALL:
        return card.name, {**arguments, "operator": "none"}, DrivenBy.POLICY
    return card.name, {**arguments, "operator": "scripted", "lead_in": "true"}, DrivenBy.MIXED


def _successes(options: argparse.Namespace, task: str, driven_by: DrivenBy) -> int:
    """Episodes in the folder that a training set would take: whole, successful, driven by the one who is asked for."""
    from rldg_recorder.algebra import find, refusal
    from rldg_recorder.recipe import Select

    scene = (options.scene,) if options.scene else ()
    select = Select(task=(task,), scene=scene, driven_by=driven_by)
    return sum(not refusal(info, select) for _, info in find([str(options.bags)])[0])


def _unused_seed(bags: Path) -> int:
    """The first start state that no training uses and no bag there has: in lockstep it would only be repeated."""
    from rldg_recorder.episode import read_info
    from rldg_recorder.episode_reader import find_bags

    return max([UNUSED_SEED, *(read_info(folder).seed + 1 for folder in find_bags(bags))])


def _roll_out(
    console: Console, options: argparse.Namespace, episodes: int, seed: int, arguments: dict[str, str], log_dir: Path
) -> list[EpisodeReport]:
    """Run the episodes with a progress line.

    Raises:
        DomainError, RuntimeError, TimeoutError: the cell did not come up, or an episode could not be run.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from rldg_bringup.running import running

    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    driver = Source.HUMAN if options.operator else Source.POLICY
    reports: list[EpisodeReport] = []
    with Progress(*columns, console=console) as progress:
        line = progress.add_task("starting the nodes", total=episodes)
        with running("cell", arguments, log_dir, _READY_TIMEOUT_S) as (_, runner):
            progress.update(line, description="episodes")
            for report in runner.run_episodes(episodes, seed, options.scene):
                if report.sources[driver] == 0:
                    why = next((step.reason for step in report.steps if step.reason), "nobody asked it to")
                    who = "operator" if options.operator else "specialist"
                    raise RuntimeError(f"{report.episode_id}: the {who} did not drive: {why}")
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
    recipe = "usb_insertion" if options.operator else "distill"
    sessions = {folder.parent for folder in folders}
    where = sessions.pop() if len(sessions) == 1 else options.bags
    console.print(f"bags: {where}\nnext: ./rldg dataset build config/recording/{recipe}.yaml", soft_wrap=True)
    return 0 if options.successes or len(whole) == options.episodes else 1
