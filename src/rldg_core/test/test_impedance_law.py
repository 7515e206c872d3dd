"""Force ceiling, speed ceiling, set-point filter and torque-rate limit of the impedance law."""

import numpy as np
import pytest

from rldg_core.frames import Pose, apply_body_delta
from rldg_core.impedance import filter_target, joint_torques, limit_torque_rate, spring_damper_wrench
from rldg_core.task import Gains
from rldg_core.testing import tool_down

GAINS = Gains(
    k_pos_n_m=(2000.0, 2000.0, 2000.0),
    d_pos_ns_m=(89.0, 89.0, 89.0),
    k_rot_nm_rad=(75.0, 75.0, 75.0),
    d_rot_nms_rad=(7.0, 7.0, 7.0),
    clip_pos_m=(0.01, 0.003, 0.004),
    clip_rot_rad=(0.04, 0.04, 0.04),
)


def test_the_contact_force_never_exceeds_stiffness_times_clip():
    far = Pose(np.array([9.0, -9.0, 9.0]), tool_down(yaw=1.0).quaternion)
    wrench = spring_damper_wrench(tool_down(), np.zeros(6), far, GAINS)
    np.testing.assert_allclose(wrench, [20.0, -6.0, 8.0, 0.0, 0.0, 3.0], atol=1e-9)


def test_the_free_speed_settles_at_stiffness_times_clip_over_damping():
    """2000 N/m x 3 mm / 89 Ns/m = 67 mm/s."""
    speed = 0.0
    for _ in range(2000):
        wrench = spring_damper_wrench(tool_down(), np.array([0, speed, 0, 0, 0, 0]), tool_down(y=1.0), GAINS)
        speed += wrench[1] / 5.0 * 0.001
    assert speed == pytest.approx(2000 * 0.003 / 89, rel=1e-3)


def test_the_filter_covers_39_percent_in_100_ms_and_is_exponential_in_rotation_too():
    start, target = tool_down(), apply_body_delta(tool_down(), [0.015, 0, 0, 0, 0, 0.1])
    filtered = start
    for _ in range(100):
        filtered = filter_target(filtered, target, 0.995)
    covered = 1.0 - 0.995**100
    assert covered == pytest.approx(0.394, abs=1e-3)
    assert filtered.position[0] - start.position[0] == pytest.approx(0.015 * covered)
    expected = apply_body_delta(start, [0.015 * covered, 0, 0, 0, 0, 0.1 * covered])
    np.testing.assert_allclose(filtered.quaternion, expected.quaternion, atol=1e-9)


@pytest.mark.parametrize(("rate_hz", "mm_per_step"), [(4, 10.3), (5, 8.8), (10, 5.1), (20, 2.8), (30, 1.9)])
def test_the_measured_set_point_moves_as_far_per_step_as_published(rate_hz, mm_per_step):
    """1-D mass of 5 kg, K 2000, D 89, filter 0.005 per ms, 15 mm ahead of the measured position at every step."""
    gains = Gains(**{**{f: getattr(GAINS, f) for f in GAINS.__struct_fields__}, "clip_pos_m": (0.01, 0.01, 0.01)})
    position, speed, filtered = 0.0, 0.0, Pose.identity()
    ends = []
    for _ in range(40):
        target = Pose(np.array([position + 0.015, 0, 0]), np.array([0, 0, 0, 1.0]))
        for _ in range(round(1000 / rate_hz)):
            filtered = filter_target(filtered, target, 0.995)
            here = Pose(np.array([position, 0, 0]), np.array([0, 0, 0, 1.0]))
            speed += spring_damper_wrench(here, np.array([speed, 0, 0, 0, 0, 0]), filtered, gains)[0] / 5.0 * 0.001
            position += speed * 0.001
        ends.append(position)
    assert (ends[-1] - ends[-11]) / 10 * 1000 == pytest.approx(mm_per_step, rel=0.06)


def test_the_posture_does_not_push_the_tcp():
    rng = np.random.default_rng(0)
    jacobian = rng.normal(size=(6, 7))
    torque = joint_torques(jacobian, np.zeros(6), np.zeros(7), np.zeros(7), np.ones(7), 10.0)
    assert np.abs(torque).max() > 0.1
    np.testing.assert_allclose(np.linalg.pinv(jacobian.T) @ torque, 0.0, atol=1e-9)


def test_torque_changes_by_no_more_than_the_rate():
    np.testing.assert_allclose(limit_torque_rate(np.zeros(3), np.array([5.0, -0.5, -9.0]), 1.0), [1.0, -0.5, -1.0])
