"""How far the stages of an experiment are, and what it came to, in a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from rldg_experiments.report import Results
    from rldg_experiments.running import State

_LINE = 60  # characters of what a verb said last


class Display:
    """A bar for the whole and one for each stage that runs; a line for each that is done. A context manager."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(16), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console)
        self._all = self._progress.add_task("[bold]stages[/]", total=None)
        self._lines: dict[str, TaskID] = {}
        self._told: set[str] = set()

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, states: Sequence[State]) -> None:
        done = sum(state.phase == "done" for state in states)
        self._progress.update(self._all, total=len(states), completed=done)
        for state in states:
            name = state.stage.name
            if state.phase == "running":
                if name not in self._lines:
                    self._lines[name] = self._progress.add_task(name, total=None)
                line = escape(state.line[-_LINE:])
                self._progress.update(
                    self._lines[name],
                    description=f"{name}: {line}" if line else name,
                    completed=state.done,
                    total=state.total or None,
                )
            elif name in self._lines:
                self._progress.remove_task(self._lines.pop(name))
            if state.phase in ("done", "failed") and name not in self._told:
                self._told.add(name)
                self._progress.console.print(_line(state))


def _line(state: State) -> str:
    if state.phase == "failed":
        return f"[red]failed[/]  {state.stage.name} after {time.monotonic() - state.began_s:.0f} s"
    record = state.record
    took = "was there already" if state.kept or record is None else f"{record.wall_s:.0f} s"
    return f"[green]done[/]    {state.stage.name}: {took}"


def tell(console: Console, results: Results, page: Path) -> None:
    """What it came to."""
    console.print()
    for sentence in results.sentences:
        console.print(f"• {sentence}")
    console.print(f"page: {page}", soft_wrap=True)
