"""What the page shows follows from what the cell said."""

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from rldg_console.state import MAX_EVENTS, MAX_POLICIES, CellState
from rldg_core.events import Event, EventKind
from rldg_core.frames import Pose
from rldg_core.task import load_task
from rldg_core.testing import TICK_NS
from rldg_core.types import Action, ActionChunk, Change, EpisodeStatus, Observation, Outcome, Phase, Source, Step

TASK = load_task("usb_insertion")
REST = Action(np.zeros(6))


def step(n: int = 1, **changes: object) -> Step:
    return Step(
        n * TICK_NS, n * TICK_NS, **{"source": Source.HOLD, "executed": REST, "target": Pose.identity(), **changes}
    )


def episode(
    number: int, phase: Phase = Phase.ENDED, outcome: Outcome = Outcome.NONE, **changes: object
) -> EpisodeStatus:
    return EpisodeStatus(TICK_NS, episode_id=f"s/{number:04d}", phase=phase, outcome=outcome, **changes)


def answer(policy_id: str, stamp_ns: int) -> ActionChunk:
    return ActionChunk(stamp_ns, policy_id, np.zeros((1, 6)), np.zeros(1, bool), 0.1, "tcp")


def lines(state: CellState) -> list[str]:
    return [entry.text for entry in state.events]


def test_before_anything_is_heard_there_is_something_to_show() -> None:
    view = CellState(TASK).view(0, 0.0)
    assert view.silent_s is None and view.phase == "idle" and view.success.trials == 0
    assert json.loads(msgspec.json.encode(view))["type"] == "state"


def test_who_drives_and_why_not_are_those_of_the_last_step() -> None:
    state = CellState(TASK)
    state.on_step(step(source=Source.POLICY, policy_id="octo", changed=Change.CLIPPED | Change.SPEED), 1.0)
    view = state.view(TICK_NS, 1.5)
    assert (view.source, view.policy_id, view.changed, view.silent_s) == ("policy", "octo", ["clipped", "speed"], 0.5)
    state.on_step(step(2, reason="observer: observations stopped"), 2.0)
    assert state.view(TICK_NS, 2.0).reason == "observer: observations stopped"


def test_the_e_stop_is_what_the_steps_say() -> None:
    state = CellState(TASK)
    state.on_step(step(reason="e-stop: requested through topic estop"), 1.0)
    assert state.view(0, 1.0).estop == "requested through topic estop"
    state.on_step(step(2), 2.0)
    assert state.view(0, 2.0).estop == ""


def test_success_counts_trials_and_leaves_out_aborted_ones() -> None:
    state = CellState(TASK)
    for number, outcome in enumerate([Outcome.SUCCESS, Outcome.TIMEOUT, Outcome.ABORTED, Outcome.SUCCESS]):
        state.on_episode(episode(number, outcome=outcome))
        state.on_episode(episode(number, outcome=outcome))  # latched topics say it again
    shown = state.view(0, 0.0).success
    assert (shown.successes, shown.trials, shown.aborted) == (2, 3, 1)
    assert (shown.low, shown.high) == pytest.approx((0.2077, 0.9385), abs=1e-4)
    assert shown.recent == ["success", "timeout", "aborted", "success"]


def test_a_new_verdict_replaces_the_old_one() -> None:
    state = CellState(TASK)
    state.on_episode(episode(1, outcome=Outcome.SUCCESS))
    state.on_episode(episode(1, outcome=Outcome.FAILURE, reason="relabelled by ada"))
    shown = state.view(0, 0.0).success
    assert (shown.successes, shown.trials) == (0, 1)
    assert lines(state)[-1] == "episode 0001: failure: relabelled by ada"


def test_a_new_verdict_on_the_last_episode_does_not_end_the_one_that_runs() -> None:
    state = CellState(TASK)
    state.on_episode(episode(1, outcome=Outcome.SUCCESS))
    state.on_episode(episode(2, Phase.RESETTING))
    state.on_episode(episode(2, Phase.RUNNING))
    state.on_episode(episode(1, outcome=Outcome.FAILURE))
    assert (state.view(0, 0.0).phase, state.view(0, 0.0).episode_id) == ("running", "s/0002")
    state.on_episode(episode(2, Phase.RUNNING))
    assert lines(state).count("episode 0002 begins, seed 0") == 1


def test_an_intervention_is_told_when_it_begins_and_ends() -> None:
    state = CellState(TASK)
    sources = [Source.POLICY, Source.HUMAN, Source.HOLD, Source.HUMAN, Source.HUMAN]
    for n, source in enumerate(sources):
        hands = REST if source is not Source.POLICY else None
        state.on_step(step(n, source=source, policy_id="octo", episode_id="s/0001", human_action=hands), float(n))
    state.on_step(step(5, source=Source.POLICY, policy_id="octo", episode_id="s/0001"), 5.0)
    assert lines(state) == ["a person takes over from octo", "the person let go after 0.4 s"]
    assert state.view(0, 5.0).intervened == pytest.approx(0.5)


def test_a_policy_is_shown_with_its_age_its_latency_and_its_card() -> None:
    state = CellState(TASK)
    state.on_card("{policy_id: octo, name: octo, checkpoint_hash: 0123456789abcdef}")
    for n in range(3):
        state.on_action(answer("octo", n * TICK_NS), n * TICK_NS + 40_000_000, 0.1 * n)
    state.on_step(step(policy_id="octo"), 0.2)
    (policy,) = state.view(3 * TICK_NS, 0.3).policies
    assert policy.selected and policy.checkpoint == "0123456789ab"
    assert (policy.age_s, policy.latency_s) == pytest.approx((0.1, 0.04))


def test_a_policy_that_is_gone_leaves_the_list() -> None:
    state = CellState(TASK)
    state.on_action(answer("octo", 0), 0, 0.0)
    assert len(state.view(0, 9.0).policies) == 1
    assert state.view(0, 11.0).policies == []


def test_whoever_invents_names_does_not_fill_the_memory() -> None:
    state = CellState(TASK)
    for n in range(1000):
        state.on_action(answer(f"p{n}", n), n, 0.0)
        state.on_check(f"node: {n}", "bad", "broken", 0.0)
        state.on_event(Event(stamp_ns=n, kind=EventKind.FAULT, reason="x"))
    view = state.view(0, 0.0)
    assert len(view.policies) == MAX_POLICIES and len(view.troubles) <= 100 and len(state.events) == MAX_EVENTS


@pytest.mark.parametrize("card", ["", "[1, 2]", "{name: x}", "{policy_id: 3}", "{", "a: &a [*a]"])
def test_a_card_of_nonsense_is_refused(card: str) -> None:
    with pytest.raises(ValueError):
        CellState(TASK).on_card(card)


def test_events_have_the_weight_of_their_kind() -> None:
    state = CellState(TASK)
    for kind in (EventKind.SWAP_COMPLETED, EventKind.SWAP_ROLLED_BACK, EventKind.ESTOP_LATCHED, EventKind.LABELLED):
        state.on_event(Event(stamp_ns=1, kind=kind, policy_id="b", previous="a"))
    assert [entry.level for entry in state.events] == ["good", "bad", "warn", "info"]


def test_a_trouble_is_listed_until_its_check_is_in_order_or_its_node_is_gone() -> None:
    state = CellState(TASK)
    state.on_check("observer: inputs", "warn", "late", 0.0)
    state.on_check("arbiter: arm", "bad", "camera frozen", 0.0)
    assert [trouble.name for trouble in state.view(0, 1.0).troubles] == ["arbiter: arm", "observer: inputs"]
    state.on_check("arbiter: arm", "info", "", 1.0)
    assert [trouble.name for trouble in state.view(0, 2.0).troubles] == ["observer: inputs"]
    assert state.view(0, 30.0).troubles == []


def test_force_and_gripper_are_those_of_the_last_observation() -> None:
    state = CellState(TASK)
    wrench = np.array([3.0, 0.0, -4.0, 9.0, 9.0, 9.0])
    image = np.zeros((8, 8, 3), np.uint8)
    seen = Observation(0, image, Pose.identity(), np.zeros(6), wrench, gripper_width_m=0.02, gripper_closed=True)
    state.on_observation(seen)
    state.on_observation(replace(seen, stamp_ns=1))
    view = state.view(0, 0.0)
    assert (view.force_n, view.gripper_mm, view.gripper_closed) == pytest.approx((5.0, 20.0, True))
