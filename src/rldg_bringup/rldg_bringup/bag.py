"""``bag``: list, audit, salvage and look at recorded episodes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rldg_core.types import Outcome
from rldg_recorder.episode import BagError, Episode, EpisodeInfo, read_info
from rldg_recorder.episode_reader import find_bags, read_episode

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "error": "red"}


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rldg bag", description="List, audit, salvage and look at recorded episodes.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, what in (
        ("list", "one line for each episode"),
        ("audit", "was everything recorded, in time? exit status 1 if not"),
        ("salvage", "make a bag readable whose recorder was killed or whose disk was full"),
        ("inspect", "a summary and a picture of an episode"),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument(
            "folders",
            nargs="*" if name == "list" else "+",
            type=Path,
            metavar="FOLDER",
            help="bags, or folders of bags",
        )
        if name == "inspect":
            command.add_argument("--picture", type=Path, help="file to write; default: inspect.png in the bag's folder")
            command.add_argument("--foxglove", type=Path, help="also write images and curves as MCAP for Foxglove")
            command.add_argument("--rerun", type=Path, help="also write them as RRD for Rerun (needs rerun-sdk)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run the verb; returns 0, 1 where a bag is bad, 2 for a wrong call."""
    options = _arguments(argv)
    run = {"list": _list, "audit": _audit, "salvage": _salvage, "inspect": _inspect}[options.command]
    try:
        bags = [bag for folder in options.folders or [Path("bags")] for bag in find_bags(folder)]
        if options.command == "salvage":  # which may have lost its episode.yaml
            bags = bags or options.folders
        if not bags:
            raise BagError(f"{options.folders[0]}: holds no bag; record one: ./rldg up usb_insertion record:=true")
        return run(bags, options, Console(highlight=False))
    except (BagError, OSError, ImportError) as error:
        print(f"rldg bag: {error}", file=sys.stderr)
        return 1


def _list(bags: list[Path], _options: argparse.Namespace, console: Console) -> int:
    status = 0
    for bag in bags:
        try:
            info = read_info(bag)
        except BagError as error:
            console.print(f"[red]{error}[/]", soft_wrap=True)
            status = 1
            continue
        outcome = str(info.outcome) if info.state == "complete" else info.state
        colour = "green" if outcome == Outcome.SUCCESS else "yellow"
        console.print(
            f"[{colour}]{outcome:<9}[/] {info.steps:>4} steps, {info.human_steps:>4} by human, "
            f"audit {info.audit or 'none':<4}  {info.task.name}, {info.scene}, seed {info.seed}: {bag}",
            soft_wrap=True,
        )
    return status


def _audit(bags: list[Path], _options: argparse.Namespace, console: Console) -> int:
    from rldg_recorder.audit import audit_bag

    failed = 0
    for bag in bags:
        try:
            report = audit_bag(bag)
        except BagError as error:
            console.print(f"[red]fail[/]  {error}")
            failed += 1
            continue
        failed += report.verdict == "fail"
        console.print(f"[{_COLOURS[report.verdict]}]{report.verdict}[/]  {bag}", soft_wrap=True)
        for finding in report.findings:
            console.print(
                f"      [{_COLOURS[finding.level]}]{finding.level}[/] {finding.topic} {finding.text}", soft_wrap=True
            )
    console.print(f"{len(bags) - failed} of {len(bags)} bags can be used")
    return 1 if failed else 0


def _salvage(bags: list[Path], _options: argparse.Namespace, console: Console) -> int:
    from rldg_recorder.salvage import salvage

    failed = 0
    for bag in bags:
        try:
            info = salvage(bag)
        except BagError as error:
            console.print(f"[red]lost[/]  {error}")
            failed += 1
            continue
        if info.salvage is None:
            console.print(f"[green]whole[/] {bag}: nothing to do")
        else:
            console.print(
                f"[yellow]saved[/] {bag}: {info.steps} steps, {info.salvage.messages} messages; "
                f"{info.salvage.lost_bytes} bytes at the end were of no whole message. {info.salvage.note}"
            )
    return 1 if failed else 0


def _inspect(bags: list[Path], options: argparse.Namespace, console: Console) -> int:
    from rldg_bringup.export import episode_rows, write_rows
    from rldg_bringup.inspection import episode_figure

    single = len(bags) == 1
    if not single and (options.picture or options.foxglove or options.rerun):
        raise BagError(f"{len(bags)} bags: --picture, --foxglove and --rerun name one file; give one bag")
    for bag in bags:
        episode = read_episode(bag)
        console.print(_summary(episode))
        picture = options.picture or bag / "inspect.png"
        episode_figure(episode, picture)
        console.print(f"picture: {picture}")
        for path, kind in ((options.foxglove, "foxglove"), (options.rerun, "rerun")):
            if path is not None:
                write_rows(episode_rows(episode), path, kind)
                console.print(f"{kind}: {path}")
    return 0


def _summary(episode: Episode) -> Table:
    info = episode.info
    table = Table(title=str(episode.folder), show_header=False)
    for name, value in _described(info).items():
        table.add_row(name, value)
    table.add_row("image", f"{episode.images[0].shape[1]} x {episode.images[0].shape[0]} px, {len(episode)} steps")
    for topic, entry in sorted(info.topics.items()):
        expected = "event" if entry.expected_hz is None else f"{entry.expected_hz:g} Hz expected"
        table.add_row(topic, f"{entry.messages} messages, {expected}, lost {entry.lost}, overrun {entry.overrun}")
    return table


def _described(info: EpisodeInfo) -> dict[str, str]:
    control = info.task.control
    policies = ", ".join(f"{policy.policy_id} ({policy.steps} steps)" for policy in info.policies)
    return {
        "episode": f"{info.episode_id}, {info.state}",
        "task": f"{info.task.name}, scene {info.scene}, seed {info.seed}",
        "instruction": info.instruction,
        "outcome": f"{info.outcome} ({info.reason})" if info.reason else str(info.outcome),
        "driven by": f"{info.operator or 'an operator'} ({info.human_steps} steps)"
        + (f", {policies}" if policies else ""),
        "duration": f"{info.duration_s:.1f} s, {info.steps} steps at {control.rate_hz:g} Hz",
        "action of 1": f"{1e3 * control.translation_scale_m:g} mm, {control.rotation_scale_rad:g} rad",
        "audit": info.audit or "not judged",
        "software": ", ".join(f"{name} {version}" for name, version in info.software.items()),
    }
