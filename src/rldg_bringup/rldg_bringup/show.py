"""``show``: launch a task in simulation, let the scripted operator or a policy do it, and show what happened."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from rldg_bringup.domain import lease_domain
from rldg_bringup.episode_report import EpisodeReport, TickStatistics, tick_statistics
from rldg_bringup.launch_runner import Launch
from rldg_bringup.pictures import Image, contact_sheet, evenly_spaced
from rldg_bringup.up import launch_file
from rldg_core.task import load_task
from rldg_core.types import Change, Observation, Outcome, Source, Step
from rldg_evaluation.films import Film

_READY_TIMEOUT_S = 90.0
_SHEET_COLUMNS = 6
_BAND_PX = 6  # under the film of a swap, in the colour of who drives
_COLOURS = {(True, True): (0, 114, 178), (True, False): (213, 94, 0)}  # the old policy, the new one
_NOBODY = (160, 160, 160)
_SHEET_ROWS = 20  # of the first episodes; the film has all


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rldg show",
        description="Launch a task in simulation, let the scripted operator or a policy do it, and film it.",
    )
    parser.add_argument(
        "--task", default="usb_insertion", help="a name of config/tasks or a YAML file (default: %(default)s)"
    )
    parser.add_argument("--episodes", type=int, default=5, help="how many episodes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode (default: %(default)s)")
    parser.add_argument("--scene", default="", help="scene of the task (default: its first)")
    parser.add_argument(
        "--policy",
        type=_policy,
        metavar="TYPE[=FOLDER]",
        help="who does it, and its checkpoint (default: operator)",
    )
    parser.add_argument(
        "--swap-to",
        type=_policy,
        metavar="TYPE[=FOLDER]",
        help="who takes over while the arm moves; the episodes are counted from then on",
    )
    parser.add_argument("--lockstep", action="store_true", help="as fast as the processor allows, not in real time")
    parser.add_argument("--output", type=Path, default=Path("reports/show"), help="folder for film and contact sheet")
    options = parser.parse_args(argv)
    if not 1 <= options.episodes <= 100_000:
        parser.error(f"--episodes: is {options.episodes}, must be 1 or more, and 100000 at most")
    if not 0 <= options.seed < 2**31:
        parser.error(f"--seed: is {options.seed}, must be from 0 to {2**31 - 1}")
    if options.swap_to and options.lockstep:
        parser.error("--swap-to: is for real time; leave out --lockstep")
    return options


class _Policy(NamedTuple):
    """A type of policy, and the folder of its checkpoint, "" for none."""

    type: str
    checkpoint: str


def _policy(text: str) -> _Policy:
    kind, _, folder = text.partition("=")
    if folder and not Path(folder).is_dir():
        raise argparse.ArgumentTypeError(f"{folder} is no folder")
    return _Policy(kind, str(Path(folder).absolute()) if folder else "")


def main(argv: list[str]) -> int:
    """Run the verb; returns 0 if every episode succeeded, else 1."""
    options = _arguments(argv)
    console = Console(highlight=False)
    try:
        task = load_task(options.task)
        task.scene(options.scene)
        file = launch_file("cell")
        options.output.mkdir(parents=True, exist_ok=True)
    except (ValueError, LookupError, OSError) as error:
        print(f"rldg show: {error}", file=sys.stderr)
        return 2
    lease = lease_domain(file.name)
    if lease is not None:
        os.environ["ROS_DOMAIN_ID"] = str(lease.domain)
    arguments = {
        "task": options.task,
        "operator": "none" if options.policy else "scripted",
        "lockstep": str(options.lockstep).lower(),
        "scene": options.scene,
    }
    if options.policy:
        arguments |= {"policy": options.policy.type}
        if options.policy.checkpoint:
            arguments["policy_parameters"] = json.dumps({"checkpoint": options.policy.checkpoint})
    console.print(f"[bold]{task.name}[/] in simulation: “{task.instruction}”, {options.episodes} episodes")
    launch = Launch(file, arguments, log_dir=options.output / "log")
    try:
        with launch:
            reports, rows, swap = _run(options, task.control.rate_hz, console)
    except (RuntimeError, TimeoutError) as error:
        print(f"rldg show: {error}\n  log: {options.output / 'log' / 'launch.log'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if lease is not None:
            lease.close()
    contact_sheet(rows, options.output / "contact_sheet.png")
    _print_table(console, reports)
    ticks = None
    if not options.lockstep:
        ticks = tick_statistics(reports, task.control.period_s)
        _print_ticks(console, ticks)
    if swap is not None:
        console.print(swap.line)
    _write(options, reports, ticks, swap)
    console.print(f"film: {options.output / 'film.mp4'}\npictures: {options.output / 'contact_sheet.png'}")
    if swap is not None:
        return 0 if swap.drives else 1
    return 0 if all(report.outcome is Outcome.SUCCESS for report in reports) else 1


class _Swap(NamedTuple):
    """How a swap went.

    Attributes:
        line: what ``./rldg swap`` said.
    """

    drives: bool
    line: str


def _write(
    options: argparse.Namespace, reports: list[EpisodeReport], ticks: TickStatistics | None, swap: _Swap | None
) -> None:
    """The figures as JSON."""
    told = {
        "task": options.task,
        "episodes": [
            {
                "seed": report.seed,
                "outcome": report.outcome.value,
                "duration_s": report.duration_s,
                "drove": _drove(report),
            }
            for report in reports
        ],
        "ticks": None if ticks is None else {"ticks": ticks.ticks, "missed": ticks.missed},
        "swap": swap.line if swap is not None else "",
    }
    (options.output / "show.json").write_text(json.dumps(told, indent=1) + "\n")


def _drove(report: EpisodeReport) -> dict[str, int]:
    """Steps by who drove: id of a policy, or the source."""
    names = [step.policy_id if step.source is Source.POLICY else step.source.name.lower() for step in report.steps]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def _run(
    options: argparse.Namespace, rate_hz: float, console: Console
) -> tuple[list[EpisodeReport], list[tuple[str, list[Image]]], _Swap | None]:
    """Run the episodes with a progress line; returns their reports, the rows of the contact sheet and the swap."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from rldg_bringup.episode_runner_node import EpisodeRunner

    reports: list[EpisodeReport] = []
    rows: list[tuple[str, list[Image]]] = []
    frames: list[Image] = []
    scene: list[Image] = []
    colour = [_NOBODY]

    with (
        EpisodeRunner() as runner,
        Film(options.output / "film.mp4", rate_hz) as film,
        Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        ) as progress,
    ):

        def on_scene(image: Image) -> None:
            scene[:] = [image]

        def on_step(step: Step) -> None:
            driving = step.policy_id if step.source is Source.POLICY else ""
            colour[0] = _COLOURS.get((bool(driving), driving == (options.policy or ("",))[0]), _NOBODY)

        def on_observation(observation: Observation) -> None:
            if observation.episode_id and scene and scene[0].shape == observation.image.shape:
                frames.append(np.concatenate([scene[0], observation.image], axis=1))
                if options.swap_to:
                    frames[-1][-_BAND_PX:] = colour[0]
                film.add(frames[-1])

        def run(count: int, first: int) -> None:
            for report in runner.run_episodes(count, first, options.scene):
                reports.append(report)
                caption = f"seed {report.seed}: {report.outcome} after {report.duration_s:.1f} s"
                if len(rows) < _SHEET_ROWS:
                    rows.append((caption, [frames[i] for i in evenly_spaced(len(frames), _SHEET_COLUMNS)]))
                frames.clear()
                progress.update(line, advance=1, description=caption)

        line = progress.add_task("starting the nodes", total=None if options.swap_to else options.episodes)
        runner.wait_until_ready(_READY_TIMEOUT_S)
        runner.watch(on_scene, on_observation, on_step)
        progress.update(line, description="episodes")
        swap = _swap_while(options.swap_to, lambda: run(1, options.seed + len(reports))) if options.swap_to else None
        run(options.episodes, options.seed + len(reports))
    return reports, rows, swap


def _swap_while(new: _Policy, run_one: Callable[[], None]) -> _Swap:
    """Run episodes until ``./rldg swap`` has brought a policy into the running cell, or has not."""
    words = ["swap", new.type, *(["--checkpoint", new.checkpoint] if new.checkpoint else [])]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "rldg_bringup.cli", *words], stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
        try:
            while process.poll() is None:
                run_one()
        finally:
            process.terminate()
            process.wait()
        said.seek(0)
        lines = said.read().splitlines()
    return _Swap(process.returncode == 0, lines[0] if lines else "./rldg swap said nothing")


def _print_table(console: Console, reports: list[EpisodeReport]) -> None:
    from rich.table import Table

    table = Table("seed", "outcome", "time [s]", "steps", "driven by", "limited", title="Episodes")
    for report in reports:
        sources = ", ".join(f"{source.name.lower()} {n}" for source, n in sorted(report.sources.items(), reverse=True))
        limited = sum(bool(step.changed & ~Change.CLIPPED) for step in report.steps)
        table.add_row(
            str(report.seed),
            str(report.outcome),
            f"{report.duration_s:.1f}",
            str(len(report.steps)),
            sources,
            str(limited),
            style="green" if report.outcome is Outcome.SUCCESS else "red",
        )
    successes = [report for report in reports if report.outcome is Outcome.SUCCESS]
    mean_s = np.mean([report.duration_s for report in successes]) if successes else float("nan")
    human = sum(report.sources[Source.HUMAN] for report in reports)
    total = sum(len(report.steps) for report in reports)
    console.print(table)
    console.print(
        f"{len(successes)} of {len(reports)} succeeded, mean cycle time {mean_s:.1f} s, "
        f"human in {human} of {total} steps"
    )


def _print_ticks(console: Console, ticks: TickStatistics) -> None:
    console.print(
        f"{ticks.ticks} ticks, {ticks.missed} missed, period error p99 {ticks.period_error_p99_ms:.1f} ms, "
        f"observation to command p50 {ticks.command_age_p50_ms:.0f} ms, p99 {ticks.command_age_p99_ms:.0f} ms"
    )
