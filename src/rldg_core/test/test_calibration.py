"""Calibration from made-up readings: exact, noisy, with outliers, and of motions that leave the answer open."""

import math

import numpy as np
import pytest

from rldg_core.calibration import (
    CalibrationError,
    mean_pose,
    moved_box,
    rms,
    solve_fixture,
    solve_hand_eye,
    solve_tip,
)
from rldg_core.frames import Pose, apply_body_delta, exp_rotation, quaternion_multiply, rotation_angle

DOWN = Pose.from_rpy([0.5, 0.0, 0.35], [math.pi, 0.0, 0.0])
TCP_CAMERA = Pose.from_rpy([0.065, 0.002, -0.058], [0.1, -0.6, 1.5])
BASE_BOARD = Pose.from_rpy([0.55, 0.02, 0.01], [0.02, 0.01, 0.4])
TIP = np.array([0.001, -0.002, 0.03])


def wrist_poses(rng: np.random.Generator, n: int = 12, tilt_rad: float = 0.5) -> list[Pose]:
    delta = [rng.uniform(-0.08, 0.08, 3).tolist() + rng.uniform(-tilt_rad, tilt_rad, 3).tolist() for _ in range(n)]
    return [apply_body_delta(DOWN, d) for d in delta]


def views(base_tcp: list[Pose]) -> list[Pose]:
    return [(pose @ TCP_CAMERA).inverse() @ BASE_BOARD for pose in base_tcp]


def noisy(rng: np.random.Generator, poses: list[Pose], std_m: float, std_rad: float) -> list[Pose]:
    return [apply_body_delta(p, np.concatenate([rng.normal(0, std_m, 3), rng.normal(0, std_rad, 3)])) for p in poses]


def about(
    rng: np.random.Generator, n: int = 8, tilt_rad: float = 0.5, base_tip: tuple = (0.5, 0.1, 0.05)
) -> list[Pose]:
    """Poses of the TCP whose tip is at one point."""
    turned = [quaternion_multiply(DOWN.quaternion, exp_rotation(rng.uniform(-tilt_rad, tilt_rad, 3))) for _ in range(n)]
    return [Pose(np.array(base_tip) - Pose(np.zeros(3), q).transform(TIP), q) for q in turned]


def test_a_camera_is_found_exactly_from_exact_readings() -> None:
    poses = wrist_poses(np.random.default_rng(0), n=6)
    found = solve_hand_eye(poses, views(poses))
    assert np.allclose(found.tcp_camera.position, TCP_CAMERA.position, atol=1e-9)
    assert rotation_angle(found.tcp_camera, TCP_CAMERA) < 1e-7
    assert np.allclose(found.base_board.position, BASE_BOARD.position, atol=1e-9)
    assert rms(found.errors_m) < 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_a_camera_is_found_within_a_millimetre_from_noisy_readings(seed) -> None:
    rng = np.random.default_rng(seed)
    poses = wrist_poses(rng, n=15)
    found = solve_hand_eye(noisy(rng, poses, 1e-4, 2e-4), noisy(rng, views(poses), 5e-4, 2e-3))
    assert np.linalg.norm(found.tcp_camera.position - TCP_CAMERA.position) < 1.5e-3
    assert rotation_angle(found.tcp_camera, TCP_CAMERA) < math.radians(0.3)
    assert 1e-4 < rms(found.errors_m) < 2e-3


def test_one_and_two_wrong_views_are_named() -> None:
    rng = np.random.default_rng(3)
    poses = wrist_poses(rng)
    seen = noisy(rng, views(poses), 3e-4, 1e-3)
    seen[4] = apply_body_delta(seen[4], [0.0, 0.03, 0.0, 0.0, 0.0, 0.0])
    with pytest.raises(CalibrationError, match=r"readings 4 contradict the others"):
        solve_hand_eye(poses, seen)
    seen[7] = apply_body_delta(seen[7], [0.0, 0.0, 0.0, 0.3, 0.0, 0.0])
    with pytest.raises(CalibrationError, match=r"readings (4, 7|7, 4) contradict the others"):
        solve_hand_eye(poses, seen)


def test_a_board_of_another_size_than_said_is_no_outlier() -> None:
    poses = wrist_poses(np.random.default_rng(0))
    larger = [Pose(1.1 * view.position, view.quaternion) for view in views(poses)]
    with pytest.raises(CalibrationError, match="size of its squares"):
        solve_hand_eye(poses, larger)


@pytest.mark.parametrize("turn", [[0.0, 0.0, 0.2], [0.0, 0.0, 0.0], [0.001, 0.002, 0.0]])
def test_turns_about_one_axis_or_none_do_not_tell_where_the_camera_is(turn) -> None:
    poses = [apply_body_delta(DOWN, [0.01 * i, 0.02 * i, 0.0, *(i * np.array(turn))]) for i in range(8)]
    with pytest.raises(CalibrationError, match="tilt it"):
        solve_hand_eye(poses, views(poses))


@pytest.mark.parametrize("n", [0, 1, 5])
def test_too_few_views_are_refused(n) -> None:
    poses = wrist_poses(np.random.default_rng(0), n=n)
    with pytest.raises(CalibrationError, match=f"{n} readings of the board, at least 6"):
        solve_hand_eye(poses, views(poses))
    with pytest.raises(ValueError, match="as many"):
        solve_hand_eye([*poses, DOWN], views(poses))


def test_a_tip_is_found_exactly_and_with_noise() -> None:
    rng = np.random.default_rng(1)
    exact = about(rng)
    assert np.allclose(solve_tip(exact).tcp_tip_m, TIP, atol=1e-12)
    assert np.allclose(solve_tip(exact).base_tip_m, [0.5, 0.1, 0.05], atol=1e-12)
    found = solve_tip(noisy(rng, about(rng, n=10), 2e-4, 2e-4))
    assert np.linalg.norm(found.tcp_tip_m - TIP) < 1e-3


def test_a_reading_with_the_tip_elsewhere_is_named() -> None:
    poses = about(np.random.default_rng(1))
    poses[2] = Pose(poses[2].position + np.array([0.0, 0.01, 0.0]), poses[2].quaternion)
    with pytest.raises(CalibrationError, match="readings 2 contradict"):
        solve_tip(poses)


def test_a_tip_that_slides_is_no_outlier() -> None:
    rng = np.random.default_rng(1)
    poses = [about(rng, n=1, base_tip=(0.5 + 0.004 * i, 0.1, 0.05))[0] for i in range(8)]
    with pytest.raises(CalibrationError, match="agree within"):
        solve_tip(poses)


def test_turning_about_the_tool_alone_does_not_tell_its_length() -> None:
    turned = [quaternion_multiply(DOWN.quaternion, exp_rotation([0.0, 0.0, 0.4 * i])) for i in range(6)]
    poses = [Pose(np.array([0.5, 0.0, 0.1]) - Pose(np.zeros(3), q).transform(TIP), q) for q in turned]
    with pytest.raises(CalibrationError, match="tilt the tool"):
        solve_tip(poses)
    with pytest.raises(CalibrationError, match="tilt the tool"):
        solve_tip(about(np.random.default_rng(0), tilt_rad=0.05))


GOAL = Pose.from_rpy([0.0, 0.0, 0.016], [math.pi, 0.0, 0.0])
FIXTURE = Pose.from_rpy([0.48, 0.05, 0.031], [0.01, -0.02, 0.3])


def test_a_fixture_is_where_the_plug_is_home() -> None:
    found = solve_fixture([FIXTURE @ GOAL], GOAL)
    assert np.allclose(found.base_fixture.position, FIXTURE.position, atol=1e-12)
    rng = np.random.default_rng(0)
    found = solve_fixture(noisy(rng, [FIXTURE @ GOAL] * 5, 2e-4, 2e-3), GOAL)
    assert np.linalg.norm(found.base_fixture.position - FIXTURE.position) < 5e-4
    assert rotation_angle(found.base_fixture, FIXTURE) < 5e-3
    assert len(found.errors_m) == len(found.errors_rad) == 5


def test_an_insertion_that_was_not_one_is_named() -> None:
    poses = [FIXTURE @ GOAL] * 4
    poses[1] = Pose(poses[1].position + np.array([0.0, 0.0, 0.012]), poses[1].quaternion)
    with pytest.raises(CalibrationError, match="readings 1 contradict"):
        solve_fixture(poses, GOAL)


def test_two_insertions_that_differ_do_not_say_which_is_right() -> None:
    home = FIXTURE @ GOAL
    poses = [home, Pose(home.position + np.array([0.0, 0.0, 0.012]), home.quaternion)]
    with pytest.raises(CalibrationError, match="home each time"):
        solve_fixture(poses, GOAL)


def test_a_fixture_that_leans_is_refused() -> None:
    leaning = Pose.from_rpy([0.5, 0.0, 0.03], [0.2, 0.0, 0.0]) @ GOAL
    with pytest.raises(CalibrationError, match=r"tilted by 11.5 degrees"):
        solve_fixture([leaning], GOAL)
    with pytest.raises(CalibrationError, match="0 readings"):
        solve_fixture([], GOAL)


def test_the_mean_of_poses_does_not_mind_the_sign_of_quaternions() -> None:
    a, b = Pose.from_rpy([0, 0, 0], [math.pi - 0.1, 0, 0]), Pose.from_rpy([0, 0, 2.0], [-math.pi + 0.1, 0, 0])
    assert rotation_angle(mean_pose([a, b]), Pose.from_rpy([0, 0, 0], [math.pi, 0, 0])) < 1e-9
    assert np.allclose(mean_pose([a, b]).position, [0, 0, 1.0])


def test_a_workspace_moves_and_turns_with_its_fixture() -> None:
    old = Pose.from_rpy([0.5, 0.0, 0.03], [0.0, 0.0, 0.0])
    low, high = moved_box([0.4, -0.2, 0.04], [0.6, 0.2, 0.2], old, Pose.from_rpy([0.4, 0.1, 0.05], [0, 0, 0]))
    assert np.allclose(low, [0.3, -0.1, 0.06])
    assert np.allclose(high, [0.5, 0.3, 0.22])
    low, high = moved_box([0.4, -0.2, 0.04], [0.6, 0.2, 0.2], old, Pose.from_rpy([0.5, 0.0, 0.03], [0, 0, math.pi / 2]))
    assert np.allclose(low, [0.3, -0.1, 0.04])
    assert np.allclose(high, [0.7, 0.1, 0.2])
