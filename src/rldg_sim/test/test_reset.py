"""A reset depends on scene and seed alone, and never starts an episode that is already won."""

from __future__ import annotations

import numpy as np
import pytest

from rldg_core.frames import Pose, apply_body_delta, body_delta, rotation_angle
from rldg_core.judge import reached
from rldg_core.safety import Envelope
from rldg_core.task import GripperUse, TaskError, load_task, task_names
from rldg_sim.cell import Cell


def snapshot(cell: Cell) -> list[np.ndarray]:
    data, model = cell._stage.data, cell._stage.model
    return [
        *(np.array(getattr(data, name)) for name in ("qpos", "qvel", "act", "ctrl", "mocap_pos", "mocap_quat")),
        *(
            np.array(getattr(model, name))
            for name in ("geom_rgba", "mat_rgba", "light_dir", "light_diffuse", "geom_matid")
        ),
        cell.image("wrist", 64),
    ]


def wander(cell: Cell) -> list[np.ndarray]:
    """Half a second of motion that depends on everything in the state."""
    pose = cell.state().tcp_pose
    cell.set_target(apply_body_delta(pose, [0.02, -0.01, 0.03, 0.05, 0.0, 0.1]))
    cell.set_gripper(True)
    cell.advance(0.5)
    state = cell.state()
    return [np.array(cell._stage.data.qpos), state.wrench, state.tcp_twist]


@pytest.mark.parametrize("name", ["usb_insertion", "pick_and_place"])
def test_same_scene_and_seed_give_the_same_bits_whatever_happened_before(make_cell, name: str) -> None:
    fresh, used = make_cell(name), make_cell(name)
    other = used.task.scenes[-1].name
    used.reset(other, 99)
    wander(used)
    used.reset("", 5)
    wander(used)
    start_a, start_b = fresh.reset("", 7), used.reset("", 7)
    np.testing.assert_array_equal(start_a.position, start_b.position)
    for a, b in zip(snapshot(fresh) + wander(fresh), snapshot(used) + wander(used), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", task_names())
def test_no_start_is_a_success_and_every_start_can_be_reached(make_cell, name: str) -> None:
    cell = make_cell(name)
    task, envelope = cell.task, Envelope(cell.task.workspace)
    closed = task.control.gripper is GripperUse.FIXED
    for seed in range(40):
        start = cell.reset("", seed)
        truth, pose = cell.truth(), cell.state().tcp_pose
        subject = pose if truth.object_pose is None else truth.object_pose
        assert not reached(task.success, subject, truth.fixture_pose, closed)
        assert np.linalg.norm(pose.position - start.position) < 0.002
        assert rotation_angle(pose, start) < 0.01
        assert envelope.contains(start), "the start lies outside the workspace"
        goal = truth.fixture_pose @ task.success.goal.pose()
        if truth.object_pose is None:
            assert envelope.contains(goal), "the goal lies outside the workspace"


@pytest.mark.parametrize("name", task_names())
def test_starts_fill_the_range_of_the_task_file(make_cell, name: str) -> None:
    cell = make_cell(name)
    task = cell.task
    starts, fixtures = [], []
    for seed in range(60):
        start = cell.reset("", seed)
        fixtures.append(cell.truth().fixture_pose)
        starts.append(
            body_delta(Pose(task.start.pose.pose().position, np.array([0, 0, 0, 1.0])), fixtures[-1].inverse() @ start)
        )
    for axis, half in enumerate(task.start.randomize.xyz_m):
        offsets = np.array(starts)[:, axis]
        assert np.abs(offsets).max() <= half + 1e-9
        assert half == 0.0 or np.ptp(offsets) > 1.5 * half
    for axis, half in enumerate(task.fixture.randomize.xyz_m):
        offsets = np.array([f.position[axis] - task.fixture.pose.xyz_m[axis] for f in fixtures])
        assert np.abs(offsets).max() <= half + 1e-9
        assert half == 0.0 or np.ptp(offsets) > 1.5 * half


def test_an_unknown_scene_is_refused_by_name(make_cell) -> None:
    cell = make_cell("usb_insertion")
    with pytest.raises(TaskError, match="no scene 'moon'; it has seen, unseen_background"):
        cell.reset("moon", 0)


def test_a_task_without_simulation_cannot_be_simulated() -> None:
    import msgspec

    rig_only = msgspec.structs.replace(load_task("usb_insertion"), simulation=None)
    with pytest.raises(TaskError, match="no simulation part"):
        Cell(rig_only)


def test_the_surroundings_can_be_reset_around_a_resting_arm(make_cell) -> None:
    cell = make_cell("pick_and_place")
    cell.reset("", 1)
    cell.advance(0.5)
    before, placed = cell.state().tcp_pose, cell.truth().object_pose
    cell.reset("unseen_both", 2, move_arm=False)
    after, moved = cell.state().tcp_pose, cell.truth().object_pose
    assert np.linalg.norm(after.position - before.position) < 1e-6
    assert placed is not None and moved is not None
    assert np.linalg.norm(moved.position[:2] - placed.position[:2]) > 0.001
    cell.advance(0.5)
    assert np.linalg.norm(cell.state().tcp_pose.position - before.position) < 1e-3


def test_a_plug_that_still_sticks_is_pulled_out_before_its_board_moves(make_cell) -> None:
    cell = make_cell("fmb_insertion")
    cell.reset("", 1)
    goal = cell.truth().fixture_pose @ cell.task.success.goal.pose()
    for height, seconds in ((0.04, 4.0), (0.03, 0.5), (0.02, 0.5), (0.01, 0.5), (0.0, 0.5), (-0.002, 1.0)):
        cell.set_target(Pose(goal.position + np.array([0.0, 0.0, height]), goal.quaternion))
        cell.advance(seconds)
    assert cell.state().tcp_pose.position[2] < goal.position[2] + 0.002
    cell.reset("", 2, move_arm=False)
    assert cell.state().tcp_pose.position[2] > goal.position[2] + cell.task.simulation.fixture.depth_m
    cell.advance(1.0)
    assert np.linalg.norm(cell.state().tcp_twist[:3]) < 0.01
    assert np.linalg.norm(cell.state().wrench[:3]) < 1.0


def test_time_goes_on_across_resets(make_cell) -> None:
    cell = make_cell("usb_insertion")
    cell.advance(0.25)
    cell.reset("", 3)
    cell.advance(0.1)
    assert cell.time_s == pytest.approx(0.35)
