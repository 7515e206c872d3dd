"""A specialist may learn the part of a task that begins with the object in the gripper."""

import numpy as np
import pytest

from rldg_core.task import load_task
from rldg_core.types import Outcome, Phase
from rldg_rl.config import Segment
from rldg_rl.encoders import StateEncoder
from rldg_rl.replay import Transition
from rldg_rl.rollout import play
from rldg_rl.segments import cut, lead_in
from rldg_sim.cell import Cell
from rldg_sim.demonstrate import demonstrate
from rldg_sim.loop import Loop


@pytest.fixture(scope="module")
def loop():
    task = load_task("fmb_assembly")
    cell = Cell(task)
    yield Loop(task, cell, with_images=False)
    cell.close()


def test_a_person_brings_the_object_into_the_air(loop: Loop) -> None:
    lying_m = loop.reset("", 3).truth.object_pose.position[2]
    tick = lead_in(loop, Segment.GRASPED, 3)
    assert tick.status.phase is Phase.RUNNING and tick.observation.gripper_closed
    assert tick.truth.object_pose.position[2] > lying_m + 0.03


def test_the_whole_task_begins_with_the_reset(loop: Loop) -> None:
    assert lead_in(loop, Segment.ALL, 3).observation.index == loop.reset("", 3).observation.index


def test_the_policy_is_asked_and_learns_from_there_on_only(loop: Loop) -> None:
    learned: list[Transition] = []
    hold = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    episode = play(
        loop, StateEncoder(loop.task), lambda _: hold, 3, segment=Segment.GRASPED, episode_id="e", learn=learned.append
    )
    whole = loop.task.time_limit_s * loop.task.control.rate_hz
    assert episode.outcome is Outcome.TIMEOUT and 0 < episode.steps == len(learned) < whole - 20


def test_a_demonstration_is_cut_to_the_segment(loop: Loop) -> None:
    ticks, steps = demonstrate(loop, 5)
    rest, after = cut(Segment.GRASPED, ticks, steps)
    assert 5 < len(after) < len(steps) - 10 and len(rest) == len(after) + 1
    assert rest[-1] is ticks[-1] and after[-1] is steps[-1]
    assert cut(Segment.ALL, ticks, steps) == (ticks, steps)
    assert cut(Segment.GRASPED, ticks[:5], steps[:4]) == ([], [])


def test_a_task_without_an_object_has_no_such_segment() -> None:
    task = load_task("usb_insertion")
    cell = Cell(task)
    with pytest.raises(ValueError, match="segment grasped: the task has no object"):
        lead_in(Loop(task, cell, with_images=False), Segment.GRASPED, 0)
    cell.close()
