"""The scripted policy descends, turns back to the start orientation, and searches in a spiral when in contact."""

from __future__ import annotations

import numpy as np

from rldg_core.frames import Pose, apply_body_delta
from rldg_core.task import load_robot, load_task
from rldg_core.types import Observation
from rldg_policies.policy import make_policy

TASK, ROBOT = load_task("usb_insertion"), load_robot("fr3")
START = Pose.from_rpy((0.5, 0.0, 0.1), (np.pi, 0.0, 0.2))
SCALE = TASK.control.scale


def _observation(pose: Pose, axial_n: float = 0.0, episode_id: str = "s/1", closed: bool = True) -> Observation:
    wrench = np.array([0.0, 0.0, axial_n, 0.0, 0.0, 0.0])
    image = np.zeros((8, 8, 3), np.uint8)
    return Observation(1, image, pose, np.zeros(6), wrench, 0.0, closed, episode_id=episode_id, reset_pose=START)


def _policy() -> object:
    return make_policy("scripted", TASK, ROBOT, "me", {"speed_m_s": 0.05})


def test_in_free_space_it_goes_down_the_tool_axis_at_its_speed() -> None:
    (delta,) = _policy().act(_observation(START)).deltas
    assert np.allclose(delta * SCALE, [0, 0, 0.05 * TASK.control.period_s, 0, 0, 0], atol=1e-12)


def test_it_returns_to_the_axis_and_orientation_on_which_it_began() -> None:
    pose = apply_body_delta(START, np.array([0.004, 0.0, 0.02, 0.0, 0.0, 0.05]))
    target = apply_body_delta(pose, _policy().act(_observation(pose)).deltas[0] * SCALE)
    offset = START.inverse() @ target
    assert np.abs(offset.position[:2]).max() < 1e-9 and abs(offset.quaternion[2]) < 1e-9
    assert offset.position[2] > 0.02


def test_in_contact_it_presses_and_widens_a_spiral() -> None:
    policy = _policy()
    radii, depths = [], []
    for _ in range(40):
        target = apply_body_delta(START, policy.act(_observation(START, axial_n=-6.0)).deltas[0] * SCALE)
        offset = (START.inverse() @ target).position
        radii.append(float(np.hypot(*offset[:2])))
        depths.append(offset[2])
    assert np.allclose(depths, 0.003, atol=1e-9)
    assert radii[-1] > radii[10] > radii[0]
    policy.reset()
    assert (
        _policy().act(_observation(START, -6.0)).deltas.tolist()
        == policy.act(_observation(START, -6.0)).deltas.tolist()
    )


def test_between_episodes_it_asks_for_nothing_and_it_never_moves_the_gripper() -> None:
    chunk = _policy().act(_observation(START, episode_id="", closed=False))
    assert not chunk.deltas.any() and chunk.gripper_closed.tolist() == [False]
    assert _policy().act(_observation(START, axial_n=-9.0)).gripper_closed.tolist() == [True]
