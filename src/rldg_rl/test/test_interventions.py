"""The scripted person helps in short bursts, in ever fewer episodes."""

from __future__ import annotations

import numpy as np
import pytest

from rldg_core.task import load_task
from rldg_core.types import Action, Phase, Source
from rldg_rl.config import Interventions
from rldg_rl.interventions import ScriptedPerson
from rldg_sim.cell import Cell
from rldg_sim.loop import Loop

TASK = load_task("usb_insertion")
ALWAYS = Interventions(episode_probability=1.0, step_probability=0.15, decay_episodes=10, burst_steps=(3, 5))


@pytest.fixture(scope="module")
def loop():
    cell = Cell(TASK)
    yield Loop(TASK, cell, with_images=False)
    cell.close()


def sources(loop: Loop, person: ScriptedPerson, episodes: int, ticks: int = 60) -> list[Source]:
    person.begin(episodes)
    tick, seen = loop.reset("", 3), []
    while tick.status.phase is Phase.RUNNING and len(seen) < ticks:
        step, tick = loop.step(Action(np.zeros(6), True), person.command(tick))
        seen.append(step.source)
    return seen


def test_a_person_takes_over_and_gives_back(loop: Loop) -> None:
    seen = sources(loop, ScriptedPerson(TASK, ALWAYS, 0), 0)
    assert {Source.HUMAN, Source.POLICY} == set(seen)


def test_nobody_helps_once_the_schedule_has_run_out(loop: Loop) -> None:
    assert Source.HUMAN not in sources(loop, ScriptedPerson(TASK, ALWAYS, 0), 10)


def test_an_arm_that_is_stuck_is_helped(loop: Loop) -> None:
    only_when_stuck = Interventions(episode_probability=0.0, decay_episodes=10)
    seen = sources(loop, ScriptedPerson(TASK, only_when_stuck, 0), 0, ticks=12)
    assert seen[:9] == [Source.POLICY] * 9 and Source.HUMAN in seen[9:]


def test_the_same_seed_helps_at_the_same_ticks(loop: Loop) -> None:
    one, other = (sources(loop, ScriptedPerson(TASK, ALWAYS, 5), 0) for _ in range(2))
    assert one == other != sources(loop, ScriptedPerson(TASK, ALWAYS, 6), 0)


def test_help_brings_the_tool_closer_to_the_goal(loop: Loop) -> None:
    person = ScriptedPerson(TASK, Interventions(episode_probability=1.0, step_probability=1.0, decay_episodes=10), 0)
    person.begin(0)
    tick = loop.reset("", 3)

    def away_m() -> float:
        return float(np.linalg.norm((tick.truth.fixture_pose.position - tick.observation.tcp_pose.position)[:2]))

    before_m = away_m()
    for _ in range(20):
        _, tick = loop.step(Action(np.zeros(6), True), person.command(tick))
    assert away_m() < before_m - 0.01
