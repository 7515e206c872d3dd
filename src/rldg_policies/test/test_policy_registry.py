"""Policies are found by name, and what they return is checked before it is sent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rldg_core.frames import Pose
from rldg_core.task import load_robot, load_task
from rldg_core.types import ActionChunk, Observation
from rldg_policies.policy import check_chunk, make_policy, policy_names

TASK, ROBOT = load_task("usb_insertion"), load_robot("fr3")
OBSERVATION = Observation(
    5, np.zeros((8, 8, 3), np.uint8), Pose.identity(), np.zeros(6), np.zeros(6), 0.0, True, episode_id="s/1"
)
CHUNK = ActionChunk(5, "me", np.zeros((2, 6)), np.array([True, False]), 0.1, ROBOT.tcp_frame)


def test_the_scripted_policy_is_known_and_made_by_name() -> None:
    assert "scripted" in policy_names()
    policy = make_policy("scripted", TASK, ROBOT, "me", {"speed_m_s": 0.02})
    assert policy.policy_id == "me" and policy.rate_hz == TASK.control.rate_hz
    check_chunk(policy.act(OBSERVATION), OBSERVATION, "me", ROBOT.tcp_frame)


def test_an_unknown_policy_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"policy 'nope': not installed; there are .*scripted"):
        make_policy("nope", TASK, ROBOT, "me", {})


@pytest.mark.parametrize(
    ("parameters", "says"),
    [({"sped": 1}, "allowed: speed_m_s"), ({"speed_m_s": -1}, "> 0"), ({"pitch_m": "a"}, "float")],
)
def test_wrong_parameters_are_refused(parameters: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_policy("scripted", TASK, ROBOT, "me", parameters)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("nothing", "returned str"),
        (replace(CHUNK, deltas=np.zeros(6)), r"shape \(6,\)"),
        (replace(CHUNK, deltas=np.zeros((0, 6)), gripper_closed=np.zeros(0, bool)), r"shape \(0, 6\)"),
        (replace(CHUNK, deltas=np.zeros((2, 7))), r"shape \(2, 7\)"),
        (replace(CHUNK, gripper_closed=np.array([True])), "1 gripper states for 2 actions"),
        (replace(CHUNK, deltas=np.full((2, 6), np.nan)), "not finite"),
        (replace(CHUNK, deltas=np.full((2, 6), np.inf)), "not finite"),
        (replace(CHUNK, period_s=0.0), "period_s 0.0"),
        (replace(CHUNK, policy_id="you"), "answered as 'you'"),
        (replace(CHUNK, frame_id="base"), "in frame 'base'"),
        (replace(CHUNK, observation_stamp_ns=4), "another observation"),
    ],
)
def test_a_bad_chunk_is_refused(bad: ActionChunk, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_chunk(bad, OBSERVATION, "me", ROBOT.tcp_frame)
