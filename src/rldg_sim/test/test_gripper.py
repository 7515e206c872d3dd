"""Fingers hold what they close on."""

from __future__ import annotations

import numpy as np
import pytest

from rldg_core.frames import Pose
from rldg_sim.cell import Cell

DOWN = [np.pi, 0.0, 0.0]


def grasp(cell: Cell, seed: int) -> Pose:
    """Reset, close the fingers around the object and lift it by 10 cm; the lifted TCP pose."""
    cell.reset("", seed)
    held = cell.truth().object_pose
    assert held is not None
    x_axis = held.matrix()[:, 0]
    yaw = float(np.arctan2(x_axis[1], x_axis[0]))
    over = Pose.from_rpy(held.position + np.array([0.0, 0.0, 0.12]), [np.pi, 0.0, yaw])
    cell.set_target(over)
    cell.advance(4.0)
    cell.set_target(Pose(held.position, over.quaternion))
    cell.advance(2.5)
    cell.set_gripper(True)
    cell.advance(0.8)
    lifted = Pose(held.position + np.array([0.0, 0.0, 0.1]), over.quaternion)
    cell.set_target(lifted)
    cell.advance(2.0)
    return lifted


@pytest.mark.parametrize(("name", "width_m"), [("pick_and_place", 0.0515), ("fmb_assembly", 0.016)])
def test_a_grasped_object_comes_along_and_does_not_slip(make_cell, name: str, width_m: float) -> None:
    cell = make_cell(name)
    grasp(cell, 3)
    state, held = cell.state(), cell.truth().object_pose
    assert held is not None
    assert state.gripper_width_m == pytest.approx(width_m, abs=0.002)
    before = state.tcp_pose.inverse() @ held
    assert np.linalg.norm(before.position) < 0.01
    cell.advance(3.0)
    after = cell.state().tcp_pose.inverse() @ cell.truth().object_pose
    assert np.linalg.norm(after.position - before.position) < 0.0005


def test_a_free_tool_feels_nothing_from_the_first_moment_on(make_cell) -> None:
    cell = make_cell("usb_insertion")
    for seed in range(3):
        start = cell.reset("", seed)
        np.testing.assert_allclose(cell.state().wrench, np.zeros(6), atol=1e-3)
        cell.set_target(Pose(start.position, (start @ Pose.from_rpy(np.zeros(3), [0.08, 0.05, 0.0])).quaternion))
        cell.advance(3.0)
        np.testing.assert_allclose(cell.state().wrench, np.zeros(6), atol=0.05)


def test_the_wrench_is_what_the_environment_exerts_on_the_tool(make_cell) -> None:
    cell = make_cell("fmb_assembly")
    cell.reset("", 3)
    np.testing.assert_allclose(cell.state().wrench, np.zeros(6), atol=1e-3)
    lifted = grasp(cell, 3)
    force = cell.state().wrench[:3]  # the tool points down, so the object's weight pulls along +z
    weight = cell.task.simulation.object.mass_kg * 9.81
    assert force[2] == pytest.approx(weight, rel=0.05)
    assert np.abs(force[:2]).max() < 0.1 * weight
    cell.set_target(Pose(lifted.position - [0.0, 0.0, 0.12], lifted.quaternion))
    cell.advance(2.0)
    assert cell.state().wrench[2] < -5.0  # pressed onto the table


def test_an_opened_hand_lets_go(make_cell) -> None:
    cell = make_cell("pick_and_place")
    grasp(cell, 3)
    cell.set_gripper(False)
    cell.advance(1.0)
    held = cell.truth().object_pose
    assert held is not None and held.position[2] < 0.04
    assert cell.state().gripper_width_m == pytest.approx(0.08, abs=0.001)


def test_fingers_around_a_fixed_plug_do_not_open(make_cell) -> None:
    cell = make_cell("usb_insertion")
    cell.reset("", 1)
    cell.set_gripper(False)
    cell.advance(1.0)
    assert cell.state().gripper_width_m == pytest.approx(cell.task.simulation.held.grip_size_m[1], abs=1e-4)
