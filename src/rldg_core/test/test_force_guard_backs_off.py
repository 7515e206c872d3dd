"""After a force limit the arm holds, and backs off by the few millimetres that its task allows, and no more."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rldg_core.door import Door
from rldg_core.events import EventKind
from rldg_core.frames import Pose, rotation_angle
from rldg_core.task import Task
from rldg_core.testing import TICK_NS, make_chunk, make_observation, make_task, running, tool_down
from rldg_core.types import Change, Source, Step

PUSH = np.array([60.0, 0, 0, 0, 0, 0])  # N; the limit is 40
FORWARD = np.array([0.5, 0, 0, 0, 0, 0])  # base x: the tool points down, its x along base x


def press(task: Task, loaded: range, ticks: int = 30, came: bool = True, obeys: float = 1.0) -> tuple[Door, list[Step]]:
    """Drive forward at first, then feel a force; the arm does a share of what it is told."""
    door, pose, steps = Door(task, "tcp"), tool_down(), []
    door.select("p", 0, require_fresh=False)
    for n in range(1, ticks + 1):
        stamp_ns = n * TICK_NS
        door.offer(make_chunk(FORWARD if came else np.zeros(6), stamp_ns))
        wrench = PUSH if n in loaded else np.zeros(6)
        step = door.tick(stamp_ns, make_observation(stamp_ns, pose, wrench=wrench), running(stamp_ns))
        assert step is not None
        steps.append(step)
        pose = Pose(pose.position + obeys * (step.target.position - pose.position), step.target.quaternion)
    return door, steps


def test_without_the_key_it_only_holds() -> None:
    _, steps = press(make_task(), range(8, 31))
    held = [step for step in steps if Change.FORCE_GUARD in step.changed]
    assert held and all(step.source is Source.HOLD for step in held)
    assert all(np.array_equal(step.target.position, held[0].target.position) for step in held)


@pytest.mark.parametrize("retract_m", [0.002, 0.005, 0.02])
def test_it_holds_then_goes_back_the_way_it_came_by_no_more_than_allowed(retract_m: float) -> None:
    task = make_task(safety={"retract_m": retract_m})
    _, steps = press(task, range(8, 31))
    guarded = [step for step in steps if Change.FORCE_GUARD in step.changed]
    samples = task.safety.force_samples
    assert [step.source for step in guarded[:samples]] == [Source.HOLD] * samples
    assert all(step.source is Source.RESET and "force guard" in step.reason for step in guarded[samples:])
    start, end = guarded[0].target, guarded[-1].target
    assert np.linalg.norm(end.position - start.position) == pytest.approx(retract_m)
    assert end.position[0] < start.position[0] and abs(end.position[2] - start.position[2]) < 1e-9
    assert rotation_angle(start, end) < 1e-9
    moves = [np.linalg.norm(b.target.position - a.target.position) for a, b in itertools.pairwise(guarded)]
    assert max(moves) <= 0.02 * 0.1 + 1e-9
    assert any(np.abs(step.executed.delta).max() > 0.0 for step in guarded)  # what was done is what is stored


def test_where_it_did_not_come_from_anywhere_it_backs_off_along_the_tool() -> None:
    _, steps = press(make_task(safety={"retract_m": 0.004}), range(1, 31), came=False)
    np.testing.assert_allclose(steps[-1].target.position - steps[0].target.position, [0, 0, 0.004], atol=1e-9)


def test_an_arm_that_cannot_move_is_not_asked_for_more() -> None:
    _, steps = press(make_task(safety={"retract_m": 0.004}), range(8, 31), obeys=0.0)
    guarded = [step for step in steps if Change.FORCE_GUARD in step.changed]
    assert max(np.linalg.norm(s.target.position - tool_down().position) for s in guarded) <= 0.004 + 1e-9


def test_once_the_force_is_gone_the_policy_drives_again_and_the_trip_was_said_once() -> None:
    door, steps = press(make_task(safety={"retract_m": 0.004}), range(8, 16))
    assert steps[-1].source is Source.POLICY
    events = [event for event in door.take_events() if event.kind is EventKind.FORCE_GUARD]
    assert len(events) == 1 and "60.0 N" in events[0].reason


def test_the_e_stop_ends_the_retreat() -> None:
    task = make_task(safety={"retract_m": 0.01})
    door, steps = press(task, range(1, 40), ticks=8)
    assert steps[-1].source is Source.RESET
    door.set_estop("button")
    stamp_ns = 9 * TICK_NS
    step = door.tick(stamp_ns, make_observation(stamp_ns, steps[-1].target, wrench=PUSH), running(stamp_ns))
    assert step is not None and step.source is Source.HOLD and "e-stop" in step.reason


@pytest.mark.parametrize("retract_m", [-0.001, 0.021, float("nan")])
def test_only_a_few_millimetres_can_be_asked_for(retract_m: float) -> None:
    with pytest.raises(ValueError, match=r"retract_m|Invalid|Expected"):
        make_task(safety={"retract_m": retract_m})
