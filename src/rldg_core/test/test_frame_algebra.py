"""Frame algebra: group laws, round trips, and the free-vector rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldg_core.frames import (
    Pose,
    apply_body_delta,
    body_delta,
    cross,
    exp_rotation,
    interpolate,
    log_rotation,
    quaternion_from_matrix,
    quaternion_from_rpy,
    quaternion_to_matrix,
    rotate,
    rotate_free,
    rotation_angle,
)

coordinate = st.floats(-1.0, 1.0)
vectors = st.tuples(coordinate, coordinate, coordinate).map(np.array)
rotation_vectors = vectors.filter(lambda v: np.linalg.norm(v) < 3.0)
poses = st.builds(lambda p, r: Pose(p, exp_rotation(3.0 * r)), vectors, rotation_vectors)


def close(a: Pose, b: Pose, tolerance: float = 1e-9) -> bool:
    return bool(np.linalg.norm(a.position - b.position) < tolerance and rotation_angle(a, b) < 1e-7)


@given(poses, poses, poses)
def test_composition_is_associative(a, b, c):
    assert close((a @ b) @ c, a @ (b @ c))


@given(poses)
def test_inverse_undoes(a):
    assert close(a @ a.inverse(), Pose.identity())


@given(poses, vectors)
def test_transform_is_the_matrix_product(a, point):
    np.testing.assert_allclose(a.transform(point), a.matrix() @ point + a.position, atol=1e-12)


@given(vectors, vectors)
def test_cross_is_the_vector_product(a, b):
    np.testing.assert_array_equal(cross(a, b), np.cross(a, b))


@given(rotation_vectors)
def test_log_is_the_inverse_of_exp(v):
    np.testing.assert_allclose(log_rotation(exp_rotation(v)), v, atol=1e-9)


@given(poses)
def test_matrix_round_trip(a):
    again = quaternion_from_matrix(quaternion_to_matrix(a.quaternion))
    assert min(np.abs(again - a.quaternion).max(), np.abs(again + a.quaternion).max()) < 1e-9


@given(poses, poses)
def test_body_delta_leads_from_one_pose_to_the_other(a, b):
    assert close(apply_body_delta(a, body_delta(a, b)), b, 1e-8)


@given(poses, vectors)
def test_a_pure_translation_never_becomes_a_rotation(pose, translation):
    """The adjoint of the original release added up to 0.6 of full-scale yaw, more the farther the base."""
    turned = rotate_free(pose.quaternion, np.concatenate([translation, np.zeros(3)]))
    assert (turned[3:] == 0.0).all()
    np.testing.assert_allclose(np.linalg.norm(turned[:3]), np.linalg.norm(translation), atol=1e-12)


@pytest.mark.parametrize("pitch", [-0.1, 0.0, 0.1])
@pytest.mark.parametrize("yaw", [-3.0, 0.0, 1.5707963])
def test_rpy_agrees_with_the_product_of_axis_rotations(pitch, yaw):
    rx = np.array([[1, 0, 0], [0, -1, 0], [0, 0, -1]])
    ry = np.array([[np.cos(pitch), 0, np.sin(pitch)], [0, 1, 0], [-np.sin(pitch), 0, np.cos(pitch)]])
    rz = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    got = quaternion_to_matrix(quaternion_from_rpy((np.pi, pitch, yaw)))
    np.testing.assert_allclose(got, rz @ ry @ rx, atol=1e-12)


@given(poses, poses, st.floats(0.0, 1.0))
def test_interpolation_takes_the_short_way_through_hemisphere_flips(a, b, fraction):
    flipped = Pose(b.position, -b.quaternion)
    assert close(interpolate(a, b, fraction), interpolate(a, flipped, fraction))
    assert rotation_angle(a, interpolate(a, b, fraction)) <= rotation_angle(a, b) * fraction + 1e-6


def test_rotating_by_a_quarter_turn_about_z_maps_x_to_y():
    np.testing.assert_allclose(
        rotate(quaternion_from_rpy((0, 0, np.pi / 2)), np.array([1.0, 0, 0])), [0, 1, 0], atol=1e-12
    )


@pytest.mark.parametrize(
    ("position", "quaternion"),
    [
        ([np.nan, 0, 0], [0, 0, 0, 1]),
        ([0, 0, 0], [0, 0, 0, 0]),
        ([0, 0, 0], [0, 0, np.inf, 1]),
        ([0, 0], [0, 0, 0, 1]),
    ],
)
def test_a_pose_that_is_none_is_refused(position, quaternion):
    with pytest.raises(ValueError, match="pose"):
        Pose(np.array(position, float), np.array(quaternion, float))
