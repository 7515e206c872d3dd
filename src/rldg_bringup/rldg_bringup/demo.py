"""``demo``: launch a task in simulation, let the scripted operator do it, and show what happened."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from rldg_bringup.domain import lease_domain
from rldg_bringup.episode_report import EpisodeReport, TickStatistics, tick_statistics
from rldg_bringup.launch_runner import Launch
from rldg_bringup.pictures import Image, contact_sheet, evenly_spaced
from rldg_bringup.up import launch_file
from rldg_core.task import load_task
from rldg_core.types import Change, Observation, Outcome, Source
from rldg_evaluation.films import Film

_READY_TIMEOUT_S = 90.0
_SHEET_COLUMNS = 6
_SHEET_ROWS = 20  # of the first episodes; the film has all


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rldg demo", description="Launch a task in simulation and let the scripted operator do it."
    )
    parser.add_argument(
        "--task", default="usb_insertion", help="a name of config/tasks or a YAML file (default: %(default)s)"
    )
    parser.add_argument("--episodes", type=int, default=5, help="how many episodes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode (default: %(default)s)")
    parser.add_argument("--scene", default="", help="scene of the task (default: its first)")
    parser.add_argument("--lockstep", action="store_true", help="as fast as the processor allows, not in real time")
    parser.add_argument("--output", type=Path, default=Path("reports/demo"), help="folder for film and contact sheet")
    options = parser.parse_args(argv)
    if not 1 <= options.episodes <= 100_000:
        parser.error(f"--episodes: is {options.episodes}, must be 1 or more, and 100000 at most")
    if not 0 <= options.seed < 2**31:
        parser.error(f"--seed: is {options.seed}, must be from 0 to {2**31 - 1}")
    return options


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
        print(f"rldg demo: {error}", file=sys.stderr)
        return 2
    lease = lease_domain(file.name)
    if lease is not None:
        os.environ["ROS_DOMAIN_ID"] = str(lease.domain)
    arguments = {
        "task": options.task,
        "operator": "scripted",
        "lockstep": str(options.lockstep).lower(),
        "scene": options.scene,
    }
    console.print(f"[bold]{task.name}[/] in simulation: “{task.instruction}”, {options.episodes} episodes")
    launch = Launch(file, arguments, log_dir=options.output / "log")
    try:
        with launch:
            reports, rows = _run(options, task.control.rate_hz, console)
    except (RuntimeError, TimeoutError) as error:
        print(f"rldg demo: {error}\n  log: {options.output / 'log' / 'launch.log'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if lease is not None:
            lease.close()
    contact_sheet(rows, options.output / "contact_sheet.png")
    _print_table(console, reports)
    if not options.lockstep:
        _print_ticks(console, tick_statistics(reports, task.control.period_s))
    console.print(f"film: {options.output / 'film.mp4'}\npictures: {options.output / 'contact_sheet.png'}")
    return 0 if all(report.outcome is Outcome.SUCCESS for report in reports) else 1


def _run(
    options: argparse.Namespace, rate_hz: float, console: Console
) -> tuple[list[EpisodeReport], list[tuple[str, list[Image]]]]:
    """Run the episodes with a progress line; returns their reports and the rows of the contact sheet."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from rldg_bringup.episode_runner_node import EpisodeRunner

    reports: list[EpisodeReport] = []
    rows: list[tuple[str, list[Image]]] = []
    frames: list[Image] = []
    scene: list[Image] = []

    with (
        EpisodeRunner() as runner,
        Film(options.output / "film.mp4", rate_hz) as film,
        Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        ) as progress,
    ):

        def on_scene(image: Image) -> None:
            scene[:] = [image]

        def on_observation(observation: Observation) -> None:
            if observation.episode_id and scene and scene[0].shape == observation.image.shape:
                frames.append(np.concatenate([scene[0], observation.image], axis=1))
                film.add(frames[-1])

        line = progress.add_task("starting the nodes", total=options.episodes)
        runner.wait_until_ready(_READY_TIMEOUT_S)
        runner.watch(on_scene, on_observation)
        progress.update(line, description="episodes")
        for report in runner.run_episodes(options.episodes, options.seed, options.scene):
            reports.append(report)
            caption = f"seed {report.seed}: {report.outcome} after {report.duration_s:.1f} s"
            if len(rows) < _SHEET_ROWS:
                rows.append((caption, [frames[i] for i in evenly_spaced(len(frames), _SHEET_COLUMNS)]))
            frames.clear()
            progress.update(line, advance=1, description=caption)
    return reports, rows


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
