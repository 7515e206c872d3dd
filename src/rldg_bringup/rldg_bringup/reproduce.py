"""``reproduce``: an experiment of the paper, in simulation, from nothing to a figure beside the paper's."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from rldg_bringup.experiment_display import Display, tell
from rldg_core.task import TaskError
from rldg_core.yaml_text import decode_yaml
from rldg_experiments.plan import Experiment, ExperimentError, experiment_names, load_experiment

PROGRAM = (sys.executable, "-m", "rldg_bringup.cli")
WORKSPACE = Path("runs/stages")


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rldg reproduce",
        description="Run an experiment: every stage whose result is not there yet, then its figures. "
        "An interrupted run is taken up by the same command.",
    )
    parser.add_argument(
        "experiment", nargs="?", help="a name of config/experiments or a YAML file; without: lists them"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="changes",
        help="another value of a parameter of the experiment",
    )
    parser.add_argument("--out", type=Path, help="folder of the page (default: reports/<experiment>)")
    add_running(parser)
    return parser.parse_args(argv)


def add_running(parser: argparse.ArgumentParser) -> None:
    """The options of all verbs that run an experiment."""
    parser.add_argument(
        "--workspace", type=Path, default=WORKSPACE, help="where stages keep what they make (default: %(default)s)"
    )
    parser.add_argument(
        "--again",
        action="append",
        default=[],
        metavar="STAGE",
        help="do a stage anew, and all that follow from it",
    )
    parser.add_argument("--plan", action="store_true", help="list the stages and whether they are done, and do nothing")
    parser.add_argument(
        "--executor",
        choices=("here", "ray"),
        default="here",
        help="this machine or a Ray cluster (default: %(default)s)",
    )


def main(argv: list[str]) -> int:
    """Run the verb; returns 0 when the page is there, 1 where a stage failed, 2 for a wrong call."""
    options = _arguments(argv)
    console = Console(highlight=False)
    try:
        if options.experiment is None:
            _list(console)
            return 0
        experiment = load_experiment(options.experiment, _changes(options.changes))
    except ExperimentError as error:
        print(f"rldg reproduce: {error}", file=sys.stderr)
        return 2
    return carry_out("reproduce", console, experiment, options, options.out or Path("reports") / experiment.name)


def _list(console: Console) -> None:
    for name in experiment_names():
        experiment = load_experiment(name)
        console.print(f"[bold]{name}[/]: {experiment.title}; {len(experiment.stages)} stages", soft_wrap=True)


def _changes(words: list[str]) -> Mapping[str, Any]:
    changes = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign:
            raise ExperimentError(f"--set: {word!r}: must be of the form NAME=VALUE")
        try:
            changes[name] = decode_yaml(value)
        except ValueError as error:
            raise ExperimentError(f"--set: {word!r}: {error}") from None
    return changes


def carry_out(verb: str, console: Console, experiment: Experiment, options: argparse.Namespace, out: Path) -> int:
    """Run an experiment with a display and write its page; returns the exit status of the verb."""
    from rldg_bringup.bench import machine, versions
    from rldg_experiments.measures import find
    from rldg_experiments.report import PAGE, write_report
    from rldg_experiments.running import Here, OnRay, StageError, products, run, survey

    try:
        if options.plan:
            for state in survey(experiment, options.workspace):
                console.print(f"{state.phase:8} {state.stage.name}: {state.folder}", soft_wrap=True)
            return 0
        console.print(f"[bold]{experiment.title}[/]\n{experiment.about}")
        backend = OnRay(PROGRAM) if options.executor == "ray" else Here(PROGRAM)
        with Display(console) as display:
            records = run(
                experiment, options.workspace, backend, display.show, options.again, versions().get("rldg", "")
            )
        made = products(experiment, options.workspace)
        results = write_report(experiment, records, find(experiment, made), made, out, machine(), versions())
    except StageError as error:
        print(f"rldg {verb}: {error}\nthe same command goes on from here", file=sys.stderr)
        return 1
    except (ExperimentError, TaskError, OSError) as error:
        print(f"rldg {verb}: {error}", file=sys.stderr)
        return 2
    tell(console, results, out / PAGE)
    return 0
