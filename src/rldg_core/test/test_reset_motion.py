"""The reset motion rises before it moves sideways and keeps its speed."""

import itertools

import numpy as np

from rldg_core.frames import rotation_angle
from rldg_core.reset_motion import ResetMotion
from rldg_core.testing import tool_down


def test_it_rises_before_it_crosses_and_ends_at_the_start_pose():
    here, start = tool_down(0.5, 0.0, 0.1), tool_down(0.56, -0.05, 0.2, yaw=0.2)
    motion = ResetMotion(here, start, lift_m=0.05)
    path = [motion.target(t) for t in np.arange(0.0, motion.duration_s + 0.1, 0.01)]
    for pose in path:
        if pose.position[2] < 0.15 - 1e-9:
            np.testing.assert_allclose(pose.position[:2], here.position[:2])
    np.testing.assert_allclose(path[-1].position, start.position)
    assert rotation_angle(path[-1], start) < 1e-9


def test_it_keeps_its_speed():
    motion = ResetMotion(tool_down(0.45, 0.05, 0.1), tool_down(0.55, -0.05, 0.2, yaw=1.0), 0.05, 0.1, 0.8)
    path = [motion.target(t) for t in np.arange(0.0, motion.duration_s + 0.1, 0.01)]
    steps = [np.linalg.norm(b.position - a.position) for a, b in itertools.pairwise(path)]
    turns = [rotation_angle(a, b) for a, b in itertools.pairwise(path)]
    assert max(steps) <= 0.1 * 0.01 + 1e-9 and max(turns) <= 0.8 * 0.01 + 1e-6


def test_no_way_to_go_takes_no_time():
    motion = ResetMotion(tool_down(), tool_down(), lift_m=0.0)
    assert motion.duration_s == 0.0
    np.testing.assert_allclose(motion.target(0.0).position, tool_down().position)
