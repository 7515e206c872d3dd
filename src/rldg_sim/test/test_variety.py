"""Varied tasks: can be done, are not those that are evaluated, and follow from their seed."""

from __future__ import annotations

import msgspec
import pytest

from rldg_core.task import Task, load_task, task_names
from rldg_core.types import Outcome
from rldg_sim.cell import Cell
from rldg_sim.demonstrate import demonstrate
from rldg_sim.loop import Loop
from rldg_sim.operator import Style
from rldg_sim.variety import varied

SEEN = ("usb_insertion", "fmb_insertion", "pick_and_place", "fmb_assembly")


@pytest.mark.parametrize("name", SEEN)
def test_the_same_seed_gives_the_same_task_and_another_one_another(name: str) -> None:
    task = load_task(name)
    assert varied(task, 3) == varied(task, 3) != varied(task, 4)


@pytest.mark.parametrize("name", SEEN)
def test_what_the_arm_is_asked_for_stays_and_what_is_seen_and_said_does_not(name: str) -> None:
    task, words = load_task(name), {text for each in map(load_task, task_names()) for text in said(each)}
    for seed in range(30):
        other = varied(task, seed)
        assert (other.control, other.workspace, other.success) == (task.control, task.workspace, task.success)
        assert other.instruction not in words and other.scenes[0].name not in {scene.name for scene in task.scenes}
        assert other.simulation != task.simulation
        # what is drawn also fits the schema of task files
        assert msgspec.convert(msgspec.to_builtins(other), Task) == other


def said(task: Task) -> tuple[str, ...]:
    return task.instruction, *task.paraphrases


@pytest.mark.parametrize("name", SEEN)
def test_variants_can_be_done(name: str) -> None:
    outcomes = []
    for seed in range(4):
        task = varied(load_task(name), seed)
        cell = Cell(task)
        ticks, _ = demonstrate(Loop(task, cell, with_images=False), seed, style=Style.flawless())
        cell.close()
        outcomes.append(ticks[-1].status.outcome)
    assert outcomes.count(Outcome.SUCCESS) >= 3


def test_a_task_without_simulation_cannot_be_varied() -> None:
    with pytest.raises(ValueError, match="has no simulation section"):
        varied(msgspec.structs.replace(load_task("usb_insertion"), simulation=None), 0)
