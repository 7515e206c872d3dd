"""The in-process loop and the graph in lockstep are two faces of one system: the same seed, the same steps."""

from pathlib import Path

import numpy as np

from rldg_bringup.testing import running_cell
from rldg_core.task import load_task
from rldg_core.types import Step
from rldg_sim.cell import Cell
from rldg_sim.demonstrate import demonstrate
from rldg_sim.loop import Loop

TASK, SEED, TICKS = "usb_insertion", 5, 15  # free space: contact amplifies the nanometres of another settling time


def in_the_graph(folder: Path) -> list[Step]:
    with running_cell(folder, task=TASK, lockstep="true") as (_, runner):
        (report,) = runner.run_episodes(count=1, first_seed=SEED)
    return report.steps


def test_the_same_operator_does_the_same_in_both(tmp_path: Path) -> None:
    task = load_task(TASK)
    cell = Cell(task, image_size_px=32)
    _, here = demonstrate(Loop(task, cell, with_images=False), SEED)
    cell.close()
    there = in_the_graph(tmp_path)
    assert len(here) > TICKS and len(there) > TICKS
    for mine, theirs in list(zip(here, there, strict=False))[:TICKS]:
        assert mine.index == theirs.index and mine.source == theirs.source
        np.testing.assert_allclose(mine.executed.delta, theirs.executed.delta, atol=1e-4)
        np.testing.assert_allclose(mine.target.position, theirs.target.position, atol=1e-6)
