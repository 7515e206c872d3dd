"""The scripted operator succeeds, in its own time and way."""

from __future__ import annotations

import numpy as np
import pytest

from rldg_core.task import Split, load_task, task_names
from rldg_core.types import Outcome, Source
from rldg_sim.cell import Cell
from rldg_sim.demonstrate import demonstrate
from rldg_sim.loop import Loop
from rldg_sim.operator import ScriptedOperator, Style

SEEN = [name for name in task_names() if load_task(name).split is Split.SEEN]


def successes(cell: Cell, seeds: range, style: Style | None = None) -> list[int]:
    """Lengths of the successful episodes."""
    loop = Loop(cell.task, cell, with_images=False)
    ends = [demonstrate(loop, seed, style=style)[0][-1] for seed in seeds]
    return [end.observation.index for end in ends if end.status.outcome is Outcome.SUCCESS]


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SEEN)
def test_ninety_five_of_a_hundred_episodes_succeed(make_cell, name: str) -> None:
    assert len(successes(make_cell(name), range(100))) >= 95


@pytest.mark.parametrize("name", ["usb_insertion", "fmb_insertion"])
def test_nearly_every_episode_succeeds(make_cell, name: str) -> None:
    assert len(successes(make_cell(name), range(1000, 1012))) >= 10


def test_a_person_takes_longer_than_a_flawless_hand(make_cell) -> None:
    cell = make_cell("usb_insertion")
    person, flawless = successes(cell, range(8)), successes(cell, range(8), Style.flawless())
    assert len(flawless) == 8
    assert 1.4 * np.mean(flawless) < np.mean(person) < 3.0 * np.mean(flawless)


def test_the_same_seed_drives_the_same_way_and_another_differently(make_cell) -> None:
    loop = Loop(load_task("usb_insertion"), make_cell("usb_insertion"), with_images=False)
    first, again, other = (demonstrate(loop, seed)[1] for seed in (3, 3, 4))
    assert len(first) == len(again)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.executed.delta, b.executed.delta)
    assert ScriptedOperator(loop.task, 3).style != ScriptedOperator(loop.task, 4).style
    assert len(first) != len(other) or any(
        (a.executed.delta != b.executed.delta).any() for a, b in zip(first, other, strict=True)
    )


def test_hands_come_off_and_everything_executed_is_in_range(make_cell) -> None:
    """A person pauses; after a while the dead-man rule lets go of the arm."""
    loop = Loop(load_task("usb_insertion"), make_cell("usb_insertion"), with_images=False)
    steps = [step for seed in range(12) for step in demonstrate(loop, seed)[1]]
    assert all(np.abs(step.executed.delta).max() <= 1.0 for step in steps)
    human = [step for step in steps if step.source is Source.HUMAN]
    assert len(human) > 0.8 * len(steps)
    idle = [step for step in human if step.human_action is not None and not step.human_action.delta.any()]
    assert len(idle) > 0.02 * len(steps)
    turned = np.mean([np.abs(step.executed.delta[3:]) for step in human])
    assert turned < 0.1, "an insertion needs hardly any rotation"


def test_a_plug_pressed_beside_the_hole_is_searched_home(make_cell) -> None:
    """Somebody who misjudges by millimetres still succeeds, by feeling."""
    cell = make_cell("usb_insertion")
    poor = Style(1, 0.6, 0.0, 1, 0.0015, 0.01, 0.2, 0.02, 0.1, 0.4, 0.35, False)
    loop, forces, wins = Loop(cell.task, cell, with_images=False), [], 0
    for seed in range(8):
        ticks, _ = demonstrate(loop, seed, style=poor)
        forces.append(max(np.linalg.norm(tick.observation.wrench[:3]) for tick in ticks))
        wins += ticks[-1].status.outcome is Outcome.SUCCESS
    assert wins >= 6
    assert np.median(forces) > 5.0, "it was felt"
