"""Pose and twist of the TCP from the joints, beside the physics and beside their own derivative."""

import numpy as np
import pytest

from rldg_core.frames import body_delta
from rldg_core.kinematics import tcp_state
from rldg_core.task import load_robot

HOME = np.array(load_robot("fr3").home_rad)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_model_of_the_simulated_arm(seed: int) -> None:
    mujoco = pytest.importorskip("mujoco")
    from rldg_sim.arm import JOINTS, add_arm

    spec = mujoco.MjSpec()
    add_arm(spec)
    model = spec.compile()
    data = mujoco.MjData(model)
    rng = np.random.default_rng(seed)
    q, dq = HOME + rng.uniform(-0.4, 0.4, 7), rng.uniform(-1.0, 1.0, 7)
    for i, name in enumerate(JOINTS):
        data.qpos[model.joint(name).qposadr[0]], data.qvel[model.joint(name).dofadr[0]] = q[i], dq[i]
    mujoco.mj_forward(model, data)
    site = model.site("fr3_hand_tcp").id
    turned = data.site_xmat[site].reshape(3, 3)
    velocity = np.zeros(6)
    mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_SITE, site, velocity, True)  # angular first, site's axes
    pose, twist = tcp_state(q, dq)
    np.testing.assert_allclose(pose.position, data.site_xpos[site], atol=1e-9)
    np.testing.assert_allclose(pose.matrix(), turned, atol=1e-9)
    np.testing.assert_allclose(twist, [*velocity[3:], *velocity[:3]], atol=1e-9)


def test_the_twist_is_the_derivative_of_the_pose() -> None:
    dq, dt = np.linspace(-0.5, 0.7, 7), 1e-6
    before, twist = tcp_state(HOME - dq * dt / 2.0, dq)
    after, _ = tcp_state(HOME + dq * dt / 2.0, dq)
    np.testing.assert_allclose(body_delta(before, after) / dt, twist, atol=1e-5)


@pytest.mark.parametrize(
    ("q", "dq"), [(np.zeros(6), np.zeros(7)), (np.zeros(7), np.zeros(3)), (np.full(7, np.nan), np.zeros(7))]
)
def test_what_is_not_seven_finite_joints_is_refused(q: np.ndarray, dq: np.ndarray) -> None:
    with pytest.raises(ValueError, match="joints"):
        tcp_state(q, dq)
