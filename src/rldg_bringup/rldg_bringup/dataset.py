"""``dataset``: build training sets from bags, verify them, look at them, export and edit them."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rldg_recorder.episode import BagError
from rldg_recorder.plan import DatasetError

_COLOURS = {"error": "red", "warn": "yellow"}


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rldg dataset",
        description="Build training sets from bags, verify them, look at them, export and edit them.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, what: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=what, description=what)

    build = command("build", "make and verify the training set that a recipe describes")
    build.add_argument("recipe", type=Path, help="a file of config/recording, or one of your own")
    build.add_argument("--out", type=Path, default=Path("datasets"), help="folder of all sets (default: %(default)s)")
    build.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: all cores)")
    build.add_argument(
        "--executor", choices=("processes", "serial", "ray"), default="processes", help="who does the work"
    )
    build.add_argument("--overwrite", action="store_true", help="replace a training set of the same name")
    build.add_argument("--plan", action="store_true", help="say what the set would hold, and stop")
    build.add_argument("--rlds", type=Path, metavar="FOLDER", help="also write it as RLDS, as export does, in one pass")
    verify = command("verify", "refuse a training set that would teach nonsense; exit status 1 if it would")
    for parser_ in (build, verify):
        parser_.add_argument(
            "--waive", action="append", default=[], metavar="CHECK", help="accept what this check finds"
        )
    inspect = command("inspect", "a summary and a picture of a training set")
    inspect.add_argument("--picture", type=Path, help="file to write (default: inspect.png in the set's folder)")
    inspect.add_argument("--foxglove", type=Path, help="also write images and curves as MCAP for Foxglove")
    inspect.add_argument("--rerun", type=Path, help="also write them as RRD for Rerun (needs rerun-sdk)")
    export = command("export", "write a training set as RLDS, which the trainers of Octo and OpenVLA read")
    export.add_argument("--rlds", type=Path, required=True, metavar="FOLDER", help="tensorflow_datasets data directory")
    for parser_ in (verify, inspect, export):
        parser_.add_argument("dataset", type=Path, help="folder of a training set")
    merge = command("merge", "one training set of several")
    merge.add_argument("datasets", type=Path, nargs="+", metavar="dataset", help="folders of training sets")
    delete = command("delete", "a training set without some of its episodes")
    delete.add_argument("--episodes", type=int, nargs="+", required=True, help="numbers, from 0")
    split = command("split", "a training set with other episodes put aside for testing")
    split.add_argument("--test", type=float, required=True, help="share of the episodes of each object, in (0, 1)")
    split.add_argument("--seed", type=int, default=0, help="of the choice (default: %(default)s)")
    for parser_ in (delete, split):
        parser_.add_argument("dataset", type=Path, help="folder of a training set; it is not changed")
    for parser_ in (merge, delete, split):
        parser_.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="of the new set; must not exist")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run the verb; returns 0, 1 where something is wrong with the data, 2 for a wrong call."""
    options = _arguments(argv)
    run: Callable[[argparse.Namespace, Console], int] = {
        "build": _build,
        "verify": _verify,
        "inspect": _inspect,
        "export": _export,
        "merge": _edit,
        "delete": _edit,
        "split": _edit,
    }[options.command]
    try:
        return run(options, Console(highlight=False))
    except (BagError, DatasetError, OSError, ImportError) as error:
        print(f"rldg dataset: {error}", file=sys.stderr)
        return 1


def _build(options: argparse.Namespace, console: Console) -> int:
    from rldg_recorder.algebra import make_plan
    from rldg_recorder.build import build
    from rldg_recorder.recipe import load_recipe
    from rldg_recorder.rlds_writer import Rlds, name_of

    plan, report = make_plan(load_recipe(options.recipe))
    for text in report.lines():
        console.print(text, soft_wrap=True, markup=False)
    if options.plan:
        return 0
    rlds = None
    if options.rlds is not None:
        rlds = Rlds(options.rlds, name_of(plan.name), image_format="jpeg" if plan.jpeg else "png")
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as progress:
        line = progress.add_task("episodes", total=len(plan.episodes))
        folder = build(
            plan,
            options.out,
            jobs=options.jobs,
            executor=options.executor,
            overwrite=options.overwrite,
            rlds=rlds,
            progress=lambda done, _total: progress.update(line, completed=done),
        )
    status = _verdict(folder, options.waive, console)
    if rlds is not None:
        console.print(f"RLDS: {rlds.target}{' is refused with it' if status else ''}", soft_wrap=True, markup=False)
    return status


def _verify(options: argparse.Namespace, console: Console) -> int:
    return _verdict(options.dataset, options.waive, console)


def _verdict(folder: Path, waive: list[str], console: Console) -> int:
    from rldg_recorder.verify import verify

    findings = verify(folder, waive)
    for finding in findings:
        where = "" if finding.episode is None else f" episode {finding.episode}:"
        console.print(
            f"[{_COLOURS[finding.level]}]{finding.level}[/] {finding.check}:{where} {escape(finding.text)}",
            soft_wrap=True,
        )
    name = escape(str(folder))
    errors = sum(finding.level == "error" for finding in findings)
    if errors:
        console.print(f"[red]refused[/]: {name}: {errors} errors; mend the recipe, or accept one with --waive CHECK")
    else:
        console.print(f"[green]verified[/]: {name}")
    return 1 if errors else 0


def _inspect(options: argparse.Namespace, console: Console) -> int:
    from rldg_bringup.export import training_set_rows, write_rows
    from rldg_bringup.inspection import training_set_figure
    from rldg_recorder.training_set import TrainingSet

    training_set = TrainingSet(options.dataset)
    table = Table("task", "split", "episodes", "frames", title=str(options.dataset))
    groups = Counter((entry.instruction, entry.split) for entry in training_set.episodes)
    frames = Counter[tuple[str, str]]()
    for entry in training_set.episodes:
        frames[entry.instruction, entry.split] += entry.length
    for (instruction, split), count in sorted(groups.items()):
        table.add_row(instruction, split, str(count), str(frames[instruction, split]))
    console.print(table)
    picture = options.picture or options.dataset / "inspect.png"
    training_set_figure(training_set, picture)
    console.print(f"picture: {picture}")
    for path, kind in ((options.foxglove, "foxglove"), (options.rerun, "rerun")):
        if path is not None:
            write_rows(training_set_rows(training_set), path, kind)
            console.print(f"{kind}: {path}")
    return 0


def _export(options: argparse.Namespace, console: Console) -> int:
    from rldg_recorder.rlds_writer import Rlds, export_rlds, format_of, name_of
    from rldg_recorder.training_set import TrainingSet

    training_set = TrainingSet(options.dataset)
    rlds = Rlds(options.rlds, name_of(training_set.name), image_format=format_of(training_set))
    console.print(f"RLDS: {export_rlds(training_set, rlds)}")
    return 0


def _edit(options: argparse.Namespace, console: Console) -> int:
    from rldg_recorder.edit import delete_episodes, merge_sets, split_set

    out, name = options.to.parent, options.to.name
    if options.command == "merge":
        folder = merge_sets(options.datasets, out, name)
    elif options.command == "delete":
        folder = delete_episodes(options.dataset, options.episodes, out, name)
    else:
        folder = split_set(options.dataset, options.test, out, name, options.seed)
    return _verdict(folder, [], console)
