"""What an arm obeys of target_pose, and when it holds instead."""

import pytest

from rldg_core.target_gate import TARGET_TIMEOUT_S, TargetGate

BASE = "fr3_link0"


@pytest.fixture
def gate() -> TargetGate:
    gate = TargetGate(BASE)
    gate.open(now_s=0.0)
    return gate


def test_a_target_of_now_in_the_base_frame_is_admitted(gate: TargetGate) -> None:
    assert gate.admit(BASE, now_s=0.1)
    assert gate.trouble == ""


@pytest.mark.parametrize(
    ("frame", "age_s", "complaint"),
    [
        ("world", 0.0, "frame 'world', must be 'fr3_link0'"),
        (BASE, 0.5, "0.5 s old"),
        (BASE, -0.5, "-0.5 s old"),
        (BASE, float("nan"), "nan s old"),
    ],
)
def test_others_are_refused_with_their_fault(gate: TargetGate, frame: str, age_s: float, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        gate.admit(frame, 0.1, age_s)


def test_silence_is_told_once_until_there_is_a_target_again(gate: TargetGate) -> None:
    gate.admit(BASE, 1.0)
    assert not gate.watch(1.0 + 0.9 * TARGET_TIMEOUT_S)
    assert gate.watch(1.5)
    assert not gate.watch(1.6)
    assert "silent" in gate.trouble
    gate.admit(BASE, 2.0)
    assert not gate.watch(2.0)
    assert gate.trouble == ""
    assert gate.watch(3.0)


def test_refused_targets_count_as_silence(gate: TargetGate) -> None:
    with pytest.raises(ValueError, match="frame"):
        gate.admit("world", 0.4)
    assert gate.watch(0.5)


def test_of_two_publishers_nobody_is_obeyed_and_one_that_is_left_is(gate: TargetGate) -> None:
    assert gate.count(2)
    assert not gate.count(2)
    assert not gate.admit(BASE, 0.1)
    assert "more than one publisher" in gate.trouble
    assert not gate.count(1)
    assert gate.admit(BASE, 0.2)
