"""A fault of the arm goes through its stages, each of them said, and the episode resumes or is aborted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldg_core.events import EventKind as Kind
from rldg_core.recovery import ANSWER_TIMEOUT_S, REFLEX, USER_STOP, Recovery, Stage

S = 10**9


def kinds(recovery: Recovery) -> list[Kind]:
    return [event.kind for event in recovery.take_events()]


def test_a_reflex_is_recovered_and_the_episode_resumes_after_the_arm_has_settled() -> None:
    recovery = Recovery(settle_s=0.5)
    recovery.on_mode(2, 0)
    assert recovery.blocked == "" and recovery.ask(0) == "the robot has no error to recover from"
    recovery.on_mode(REFLEX, 1 * S)
    assert "reflex" in recovery.blocked and recovery.tick(1 * S, True) == ""
    assert recovery.ask(2 * S) == "" and "recovering" in recovery.blocked
    assert recovery.ask(2 * S) == "a recovery is under way"
    recovery.answered("", 2 * S)
    assert recovery.stage is Stage.RECOVERING  # the mode has not changed yet
    assert recovery.on_mode(1, 3 * S) is True
    assert "settles" in recovery.blocked
    recovery.tick(3 * S + S // 4, True)
    assert recovery.blocked
    recovery.tick(4 * S, True)
    assert recovery.blocked == ""
    assert kinds(recovery) == [Kind.FAULT, Kind.RECOVERING, Kind.RECOVERED, Kind.RESUMED]


def test_a_user_stop_is_released_at_the_robot_and_not_by_a_service() -> None:
    recovery = Recovery()
    recovery.on_mode(USER_STOP, 0)
    assert "release the button" in recovery.ask(0) and recovery.stage is Stage.FAULT
    assert recovery.on_mode(1, S)
    recovery.tick(3 * S, True)
    assert recovery.blocked == "" and kinds(recovery) == [Kind.FAULT, Kind.RECOVERED, Kind.RESUMED]


@pytest.mark.parametrize("how", ["refused", "no answer"])
def test_a_recovery_that_fails_leaves_the_fault_and_can_be_asked_for_again(how: str) -> None:
    recovery = Recovery(abort_after_s=60.0)
    recovery.on_mode(REFLEX, 0)
    recovery.ask(S)
    if how == "refused":
        recovery.answered("joint limit", 2 * S)
    else:
        recovery.answered("", 2 * S)
        recovery.tick(round((1.5 + ANSWER_TIMEOUT_S) * S), True)
    assert recovery.stage is Stage.FAULT and kinds(recovery)[-1] is Kind.RECOVERY_FAILED
    assert recovery.ask(30 * S) == ""


def test_an_episode_is_aborted_once_when_the_fault_lasts_too_long() -> None:
    recovery = Recovery(abort_after_s=2.0)
    recovery.on_mode(REFLEX, 0)
    assert recovery.tick(2 * S, True) == ""
    assert "reflex" in recovery.tick(3 * S, True)
    assert recovery.tick(4 * S, True) == ""
    assert kinds(recovery).count(Kind.ABORTED) == 1
    recovery.on_mode(2, 5 * S)
    recovery.tick(6 * S, True)
    recovery.on_mode(REFLEX, 7 * S)
    assert recovery.tick(10 * S, True)  # the next fault counts anew


def test_without_resume_the_running_episode_is_aborted_at_once_and_none_where_none_runs() -> None:
    recovery = Recovery(resume=False)
    recovery.on_mode(REFLEX, 0)
    assert recovery.tick(1, False) == "" and recovery.tick(2, True)
    idle = Recovery(resume=False)
    idle.on_mode(REFLEX, 0)
    assert idle.tick(100 * S, False) == ""


def test_a_fault_while_the_arm_settles_is_a_fault_again() -> None:
    recovery = Recovery()
    recovery.on_mode(REFLEX, 0)
    recovery.on_mode(2, S)
    recovery.on_mode(REFLEX, S + 1)
    assert recovery.stage is Stage.FAULT
    assert kinds(recovery) == [Kind.FAULT, Kind.RECOVERED, Kind.FAULT]


actions = st.sampled_from(["mode 1", "mode 2", "mode 4", "mode 5", "ask", "ok", "no", "tick"])


@given(st.lists(st.tuples(actions, st.integers(0, 5 * S)), max_size=40), st.booleans())
def test_the_arm_is_never_free_in_a_fault_and_every_change_of_stage_is_said(
    sequence: list[tuple[str, int]], resume: bool
) -> None:
    recovery, now_ns, mode = Recovery(resume=resume), 0, 0
    for what, passed_ns in sequence:
        now_ns += passed_ns
        before = recovery.stage
        recovery.take_events()
        if what.startswith("mode"):
            mode = int(what[-1])
            recovery.on_mode(mode, now_ns)
        elif what == "ask":
            recovery.ask(now_ns)
        elif what in ("ok", "no"):
            recovery.answered("" if what == "ok" else "refused", now_ns)
        else:
            recovery.tick(now_ns, True)
        assert bool(recovery.blocked) == (recovery.stage is not Stage.CLEAR)
        assert mode not in (REFLEX, USER_STOP) or recovery.blocked
        assert recovery.stage is before or recovery.take_events()
