"""``evaluate``: policies are tried as a plan says, and a report tells which is better and how sure that is."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from rldg_core.processes import XLA_FLAGS

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
    parser.add_argument(
        "--both", action="store_true", help="both ways, and whether they agree; results in <out>/fast and <out>/graph"
    )
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
        "--runs",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="training runs whose learning curves the report shows",
    )
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
    if options.fast and options.both:
        parser.error("--both: includes --fast; leave one of them out")
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
        if options.both:
            return _both(console, loaded, out, options)
        if not options.report:
            _run(console, loaded, out, options, options.fast)
        return _tell(console, out, options.runs)
    except TaskError as error:  # of a process: the trials that are done stay
        print(f"rldg evaluate: {error}\nthe same command goes on with the other trials", file=sys.stderr)
        return 1
    except (EvaluationError, DatasetError, DomainError, ValueError, OSError) as error:
        print(f"rldg evaluate: {error}", file=sys.stderr)
        return 2


def _both(console: Console, loaded: LoadedPlan, out: Path, options: argparse.Namespace) -> int:
    """Run the plan in processes and through the graph, and say whether the two agree."""
    from rldg_evaluation.agreement import AGREEMENT, write_agreement
    from rldg_evaluation.plan import EvaluationError

    late = [policy.name for policy in loaded.plan.policies if policy.latency_s]
    if late and not options.real_time:
        raise EvaluationError(f"--both: policy {late[0]} has latency_s, which lockstep does not know; leave it out")
    folders = {"fast": out / "fast", "graph": out / "graph"}
    for name, folder in folders.items():
        if not options.report:
            _run(console, loaded, folder, options, fast=name == "fast")
        _tell(console, folder, options.runs)
    for agreement in write_agreement(folders["fast"], folders["graph"], out):
        console.print(agreement.sentence)
    console.print(f"pair by pair: {out / AGREEMENT}", soft_wrap=True)
    return 0


def _run(console: Console, loaded: LoadedPlan, out: Path, options: argparse.Namespace, fast: bool) -> None:
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
        f"{'in processes' if fast else 'in the launched cell'}; results in {out}"
    )
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
    with (
        Store(out, loaded) as store,
        _player(options, fast) as (play, executor),
        Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress,
    ):
        line = progress.add_task("begins", total=len(loaded.trials), completed=len(store.results))
        successes = Counter(result.policy for result in store.results if result.success)
        tried = Counter(result.policy for result in store.results)
        for result in run(loaded, store, play, executor, versions().get("rldg", ""), interleaved=not fast):
            if result is not None:
                successes[result.policy] += result.success
                tried[result.policy] += 1
                description = f"{result.policy}: {successes[result.policy]} of {tried[result.policy]}"
                progress.update(line, description=description)
            progress.advance(line)


@contextmanager
def _player(options: argparse.Namespace, fast: bool) -> Iterator[tuple[Play, Executor]]:
    """What runs a trial, and where."""
    from rldg_recorder.executors import make_executor

    if fast:
        from rldg_evaluation.fast import play

        yield play, make_executor(options.executor, options.jobs)
        return
    from rldg_bringup.evaluate_graph import GraphTrials

    with GraphTrials(lockstep=not options.real_time) as trials:
        yield trials, make_executor("serial", 1)


def _tell(console: Console, out: Path, runs: Sequence[Path]) -> int:
    """Write the report and print what it says first."""
    from rich.table import Table

    from rldg_evaluation.report import PAGE, write_report

    analysis = write_report(out, runs)
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
