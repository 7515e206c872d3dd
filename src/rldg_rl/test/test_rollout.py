"""Episodes become transitions that say what was executed and what came of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rldg_core.task import load_task
from rldg_core.types import Outcome
from rldg_rl.encoders import StateEncoder
from rldg_rl.replay import Transition
from rldg_rl.rollout import demonstration, play
from rldg_sim.cell import Cell
from rldg_sim.demonstrate import demonstrate
from rldg_sim.loop import Loop
from rldg_sim.operator import Style


def loop_of(name: str) -> Loop:
    task = load_task(name)
    return Loop(task, Cell(task), with_images=False)


@pytest.fixture(scope="module")
def usb() -> Loop:
    return loop_of("usb_insertion")


def played(loop: Loop, action: np.ndarray) -> tuple[list[Transition], Outcome]:
    learned: list[Transition] = []
    episode = play(loop, StateEncoder(loop.task), lambda _: action, 1, episode_id="e", learn=learned.append)
    assert episode.steps == len(learned)
    return learned, episode.outcome


def demonstrated(loop: Loop, with_gripper: bool) -> list[Transition]:
    ticks, steps = demonstrate(loop, 0, style=Style.flawless())
    assert ticks[-1].status.outcome is Outcome.SUCCESS
    return list(demonstration(StateEncoder(loop.task), "d", ticks, steps, with_gripper=with_gripper))


def test_running_out_of_time_truncates_and_does_not_terminate(usb: Loop) -> None:
    learned, outcome = played(usb, np.array([0.0, 0.0, -0.2, 0.0, 0.0, 0.0]))
    assert outcome is Outcome.TIMEOUT and len(learned) == usb.task.max_steps
    assert [t.truncated for t in learned] == [False] * (len(learned) - 1) + [True]
    assert not any(t.terminated or t.reward for t in learned)


def test_only_the_last_step_of_a_success_is_rewarded_and_terminal(usb: Loop) -> None:
    learned = demonstrated(usb, with_gripper=False)
    assert [t.reward for t in learned] == [0.0] * (len(learned) - 1) + [1.0]
    assert [t.terminated for t in learned] == [False] * (len(learned) - 1) + [True]
    assert not any(t.truncated for t in learned) and all(t.demo for t in learned)


def test_what_one_step_leads_to_is_what_the_next_step_sees(usb: Loop) -> None:
    learned = demonstrated(usb, with_gripper=False)
    assert [t.t for t in learned] == list(range(len(learned)))
    for before, after in itertools.pairwise(learned):
        np.testing.assert_array_equal(before.next_features, after.features)


def test_the_action_that_was_executed_is_stored_and_not_the_one_asked_for(usb: Loop) -> None:
    learned, _ = played(usb, np.array([0.0, 0.0, -5.0, 0.0, 0.0, 0.0]))
    actions = np.stack([t.action for t in learned])
    assert actions.shape[1] == 6 and np.abs(actions).max() <= 1.0
    assert actions[0, 2] == pytest.approx(-1.0)
    assert actions[-1, 2] > -0.7  # at the top of the workspace the door allows no more


def test_grasping_stores_the_held_state_and_each_change_of_it_once() -> None:
    learned = demonstrated(loop_of("pick_and_place"), with_gripper=True)
    held = [t.action[6] for t in learned]
    assert set(held) == {0.0, 1.0} and held[0] == held[-1] == 0.0
    assert [t.toggled for t in learned] == [bool(a != b) for a, b in zip([0.0, *held], held, strict=False)]
    assert sum(t.toggled for t in learned) == 2
