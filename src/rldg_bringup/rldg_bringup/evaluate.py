"""``evaluate``: policies are tried as a plan says, and a report tells which is better and how sure that is."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from rldg_bringup.train import XLA_FLAGS

if TYPE_CHECKING:
    from rldg_evaluation.plan import LoadedPlan
    from rldg_evaluation.running import Play
    from rldg_recorder.executors import Executor


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rldg evaluate",
        description="Try policies on shared start states and report which is better and how sure that is. "
        "An interrupted run is taken up by the same command.",
    )
    parser.add_argument("plan", nargs="?", help="a name of config/evaluation or a YAML file")
    parser.add_argument("--fast", action="store_true", help="in processes without ROS, instead of the launched cell")
    parser.add_argument("--out", type=Path, help="folder of trials and report (default: reports/<name of the plan>)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes, with --fast (default: %(default)s)"
    )
    parser.add_argument(
        "--executor",
        choices=("processes", "serial", "ray"),
        default="processes",
        help="with --fast (default: %(default)s)",
    )
    parser.add_argument("--real-time", action="store_true", help="the launched cell by the clock, not in lockstep")
    parser.add_argument("--report", action="store_true", help="only write the report of the trials that are there")
    parser.add_argument(
        "--power",
        nargs=2,
        type=float,
        metavar=("P", "Q"),
        help="only say how many trials of each tell success rates P and Q apart",
    )
    options = parser.parse_args(argv)
    if (options.plan is None) == (options.power is None):
        parser.error("name a plan, or say --power P Q")
    if options.jobs < 1:
        parser.error(f"--jobs: is {options.jobs}, must be at least 1")
    if options.fast and options.real_time:
        parser.error("--real-time: is for the launched cell; leave out --fast")
    return options


def main(argv: list[str]) -> int:
    """Run the verb; returns 0 when every trial was run, 1 where one could not be, 2 for a wrong call."""
    options = _arguments(argv)
    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
    from rldg_bringup.domain import DomainError
    from rldg_evaluation.plan import EvaluationError, load_plan
    from rldg_evaluation.statistics import trials_needed
    from rldg_recorder.executors import TaskError
    from rldg_recorder.plan import DatasetError

    console = Console(highlight=False)
    try:
        if options.power is not None:
            first, second = options.power
            console.print(f"{trials_needed(first, second)} trials of each (Fisher's exact test, 5 %, power 80 %)")
            return 0
        loaded = load_plan(options.plan)
        out = options.out or Path("reports") / loaded.plan.name
        if not options.report:
            _run(console, loaded, out, options)
        return _tell(console, out)
    except TaskError as error:  # of a process: the trials that are done stay
        print(f"rldg evaluate: {error}\nthe same command goes on with the other trials", file=sys.stderr)
        return 1
    except (EvaluationError, DatasetError, DomainError, ValueError, OSError) as error:
        print(f"rldg evaluate: {error}", file=sys.stderr)
        return 2


def _run(console: Console, loaded: LoadedPlan, out: Path, options: argparse.Namespace) -> None:
    """Run what is left, with a progress line."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from rldg_bringup.bench import versions
    from rldg_evaluation.running import Store, run

    plan = loaded.plan
    console.print(
        f"[bold]{plan.name}[/]: {len(plan.policies)} policies, {len(loaded.trials)} trials, "
        f"{'in processes' if options.fast else 'in the launched cell'}; results in {out}"
    )
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
    with (
        Store(out, loaded) as store,
        _player(options) as (play, executor),
        Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress,
    ):
        line = progress.add_task("begins", total=len(loaded.trials), completed=len(store.results))
        successes = Counter(result.policy for result in store.results if result.success)
        tried = Counter(result.policy for result in store.results)
        for result in run(loaded, store, play, executor, versions().get("rldg", "")):
            if result is not None:
                successes[result.policy] += result.success
                tried[result.policy] += 1
                description = f"{result.policy}: {successes[result.policy]} of {tried[result.policy]}"
                progress.update(line, description=description)
            progress.advance(line)


@contextmanager
def _player(options: argparse.Namespace) -> Iterator[tuple[Play, Executor]]:
    """What runs a trial, and where."""
    from rldg_recorder.executors import make_executor

    if options.fast:
        from rldg_evaluation import fast

        yield fast.play, make_executor(options.executor, options.jobs)
        return
    from rldg_bringup.evaluate_graph import GraphTrials

    with GraphTrials(lockstep=not options.real_time) as trials:
        yield trials, make_executor("serial", 1)


def _tell(console: Console, out: Path) -> int:
    """Write the report and print what it says first."""
    from rich.table import Table

    from rldg_evaluation.report import PAGE, write_report

    analysis = write_report(out)
    table = Table("policy", "task", "scene", "successes", "95 % (Wilson)", "failures")
    for cell in analysis.cells:
        table.add_row(
            cell.policy,
            cell.task,
            cell.scene,
            f"{cell.count.successes} of {cell.count.trials}",
            f"{100 * cell.wilson.low:.0f} to {100 * cell.wilson.high:.0f} %",
            ", ".join(f"{mode} {number}" for mode, number in cell.failures.items()),
        )
    console.print(table)
    for sentence in analysis.sentences:
        console.print(sentence)
    console.print(f"report: {out / PAGE}", soft_wrap=True)
    return 0
