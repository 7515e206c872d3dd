"""The law that the engine evaluates is the law of rldg_core.impedance."""

from __future__ import annotations

import msgspec
import mujoco
import numpy as np
import pytest

from rldg_core.frames import Array, Pose, apply_body_delta, body_delta
from rldg_core.impedance import filter_target, joint_torques, spring_damper_wrench
from rldg_core.task import load_task
from rldg_sim.arm import JOINTS
from rldg_sim.cell import Cell
from rldg_sim.scene import PHYSICS_STEP_S

TASK = load_task("usb_insertion")


def native_response(cell: Cell, delta: Array, duration_ms: int) -> tuple[Pose, list[Pose]]:
    start = cell.reset("", 0)
    cell.set_target(apply_body_delta(start, delta))
    poses = []
    for _ in range(duration_ms // 10):
        cell.advance(0.01)
        poses.append(cell.state().tcp_pose)
    return start, poses


def reference_response(cell: Cell, delta: Array, duration_ms: int) -> list[Pose]:
    """The numpy law in a 1 kHz loop on the same arm, with the engine's own springs and dampers taken out."""
    start = cell.reset("", 0)
    stage = cell._stage
    model, data = stage.model, stage.data
    for actuators in (stage.springs, stage.dampers, stage.postures):
        model.actuator_gainprm[actuators] = 0.0
        model.actuator_biasprm[actuators] = 0.0
    joints = [int(model.joint(name).dofadr[0]) for name in JOINTS]
    posture = data.qpos[joints].copy()
    target, filtered = apply_body_delta(start, delta), start
    jacobian, poses = np.zeros((6, model.nv)), []
    for step in range(duration_ms):
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], stage.tcp)
        pose = cell._site_pose(stage.tcp)
        filtered = filter_target(filtered, target, TASK.impedance.target_filter)
        arm = jacobian[:, joints]
        wrench = spring_damper_wrench(pose, arm @ data.qvel[joints], filtered, TASK.impedance.compliance)
        data.qfrc_applied[joints] = joint_torques(
            arm, wrench, data.qpos[joints], data.qvel[joints], posture, TASK.impedance.nullspace_stiffness_nm_rad
        )
        mujoco.mj_step(model, data)
        if (step + 1) % 10 == 0:
            mujoco.mj_kinematics(model, data)
            poses.append(cell._site_pose(stage.tcp))
    return poses


@pytest.mark.parametrize(
    "delta",
    [
        pytest.param([0.008, 0.0, 0.0, 0.0, 0.0, 0.0], id="x"),
        pytest.param([0.0, 0.0, 0.008, 0.0, 0.0, 0.0], id="z"),
        pytest.param([0.0, 0.0, 0.0, 0.08, 0.0, 0.0], id="roll"),
        pytest.param([0.0, 0.0, 0.0, 0.0, 0.0, 0.08], id="yaw"),
        pytest.param([0.03, 0.0, 0.0, 0.0, 0.0, 0.0], id="x, clipped"),
        pytest.param([0.006, -0.004, 0.005, 0.04, -0.05, 0.06], id="all at once"),
    ],
)
def test_step_response_equals_the_numpy_law_within_one_percent(make_cell, delta: list[float]) -> None:
    step = np.array(delta)
    start, native = native_response(make_cell(TASK), step, 600)
    reference = reference_response(make_cell(TASK), step, 600)
    for part in (slice(0, 3), slice(3, 6)):
        size = np.linalg.norm(step[part])
        if size == 0.0:
            continue
        difference = [
            np.linalg.norm(body_delta(start, a)[part] - body_delta(start, b)[part])
            for a, b in zip(native, reference, strict=True)
        ]
        assert max(difference) <= 0.01 * size


def test_set_point_is_filtered_by_the_factor_of_the_task(make_cell) -> None:
    cell = make_cell(TASK)
    start = cell.reset("", 0)
    cell.set_target(apply_body_delta(start, [0.008, 0.0, 0.0, 0.0, 0.0, 0.0]))
    cell.advance(0.1)
    filtered = np.array([cell._stage.data.act[i] for i in cell._stage.filters[:3]])
    covered = np.linalg.norm(filtered - start.position) / 0.008
    assert covered == pytest.approx(1.0 - TASK.impedance.target_filter**100, rel=1e-6)


def test_contact_force_stays_below_stiffness_times_clip(make_cell) -> None:
    cell = make_cell(TASK)
    start = cell.reset("", 0)
    board = cell.truth().fixture_pose @ Pose.from_rpy([0.03, 0.0, 0.0], [np.pi, 0.0, 0.0])
    cell.set_target(Pose(np.array([*board.position[:2], start.position[2]]), start.quaternion))
    cell.advance(2.0)
    for depth in np.arange(0.0, 0.2, 0.01):  # far below the table
        cell.set_target(Pose(np.array([*board.position[:2], start.position[2] - depth]), start.quaternion))
        cell.advance(0.2)
    pushed = -cell.state().wrench[2]
    ceiling = TASK.impedance.compliance.k_pos_n_m[2] * TASK.impedance.compliance.clip_pos_m[2]
    assert 0.9 * ceiling < pushed < 1.05 * ceiling


def test_gains_can_be_changed_while_it_runs(make_cell) -> None:
    cell = make_cell(TASK)
    start = cell.reset("", 0)
    soft = msgspec.structs.replace(TASK.impedance.compliance, k_pos_n_m=(0.0, 0.0, 0.0))
    cell.set_gains(soft)
    cell.set_target(apply_body_delta(start, [0.01, 0.0, 0.0, 0.0, 0.0, 0.0]))
    cell.advance(1.0)
    assert np.linalg.norm(cell.state().tcp_pose.position - start.position) < 1e-4
    cell.set_gains(TASK.impedance.compliance)
    cell.advance(1.5)
    assert np.linalg.norm(cell.state().tcp_pose.position - start.position) == pytest.approx(0.01, abs=2e-4)


def test_cutting_time_into_pieces_changes_nothing(make_cell) -> None:
    whole, pieces = make_cell(TASK), make_cell(TASK)
    for cell in (whole, pieces):
        start = cell.reset("", 4)
        cell.set_target(apply_body_delta(start, [0.01, 0.0, 0.01, 0.0, 0.05, 0.1]))
    whole.advance(0.3)
    for milliseconds in (1, 6, 10, 13, 100, 170):
        pieces.advance(milliseconds * PHYSICS_STEP_S)
    np.testing.assert_array_equal(whole._stage.data.qpos, pieces._stage.data.qpos)


@pytest.mark.parametrize("duration", [0.0, -0.1, float("nan"), float("inf")])
def test_time_only_goes_forward(make_cell, duration: float) -> None:
    with pytest.raises(ValueError, match="duration_s"):
        make_cell(TASK).advance(duration)
