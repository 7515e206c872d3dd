"""What the tests of the simulation share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from rldg_core.task import Task, load_task
from rldg_sim.cell import Cell


@pytest.fixture
def make_cell() -> Iterator[Callable[..., Cell]]:
    """Builds cells and closes them after the test."""
    cells: list[Cell] = []

    def make(task: str | Task, **keywords: int) -> Cell:
        cells.append(Cell(load_task(task) if isinstance(task, str) else task, **keywords))
        return cells[-1]

    yield make
    for cell in cells:
        cell.close()
