"""The gymnasium face."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rldg_core.task import TaskError, load_task, task_names
from rldg_sim.demonstrate import demonstrate
from rldg_sim.env import RldgEnv, environment_id
from rldg_sim.operator import Style


@pytest.fixture
def env() -> Iterator[RldgEnv]:
    made = RldgEnv("usb_insertion", image_size_px=64)
    yield made
    made.close()


@pytest.mark.parametrize("name", ["usb_insertion", "pick_and_place"])
def test_gymnasiums_checker_is_content(name: str) -> None:
    made = gymnasium.make(environment_id(name), render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.filterwarnings("error")
        # states are metres, radians and newtons: without bounds
        warnings.filterwarnings("ignore", message=".*A Box observation space (minimum|maximum) value is.*infinity")
        check_env(made.unwrapped)
    made.close()


def test_every_task_is_registered() -> None:
    assert {environment_id(name) for name in task_names()} <= set(gymnasium.registry)
    assert environment_id("usb_insertion") == "rldg/UsbInsertion-v0"


def test_success_pays_one_and_ends_the_episode(env: RldgEnv) -> None:
    ticks, steps = demonstrate(env._loop, 11, style=Style.flawless())
    env.reset(options={"seed": 11})
    rewards, seen = [], None
    for step in steps:
        _, reward, terminated, truncated, info = env.step(step.executed.delta.astype(np.float32))
        rewards.append(reward)
        seen = (terminated, truncated, info["is_success"])
        if terminated:
            break
    assert seen == (True, False, True)
    assert sum(rewards) == rewards[-1] == 1.0
    assert abs(len(rewards) - ticks[-1].observation.index) <= 2  # actions were rounded to float32
    with pytest.raises(RuntimeError, match="reset first"):
        env.step(np.zeros(6, dtype=np.float32))


def test_the_time_limit_truncates(env: RldgEnv) -> None:
    env.reset(seed=0)
    for step in range(env.task.max_steps):
        _, reward, terminated, truncated, info = env.step(np.zeros(6, dtype=np.float32))
        assert not terminated and reward == 0.0
        assert truncated == (step == env.task.max_steps - 1)
    assert info["outcome"] == "timeout"


def test_the_policy_sees_a_pose_relative_to_its_start(env: RldgEnv) -> None:
    first, _ = env.reset(seed=1)
    np.testing.assert_allclose(first["state"][:6], np.zeros(6), atol=1e-4)
    for _ in range(10):
        observation, *_ = env.step(np.array([0, 0, 1, 0, 0, 0], dtype=np.float32))
    assert 0.02 < observation["state"][2] < 0.06, "an action along z moves the tool along its own axis"
    assert np.abs(observation["state"][:2]).max() < 0.002


def test_an_action_that_is_not_finite_holds_the_arm(env: RldgEnv) -> None:
    env.reset(seed=1)
    before = env._cell.state().tcp_pose
    for _ in range(5):
        _, _, _, _, info = env.step(np.full(6, np.nan, dtype=np.float32))
    assert "not finite" in info["reason"]
    assert (info["executed_action"] == 0.0).all()
    assert np.linalg.norm(env._cell.state().tcp_pose.position - before.position) < 1e-3


def test_options_choose_scene_and_seed(env: RldgEnv) -> None:
    a, info = env.reset(options={"scene": "unseen_background", "seed": 5})
    assert (info["scene"], info["seed"]) == ("unseen_background", 5)
    env.reset(seed=3)
    b, _ = env.reset(options={"scene": "unseen_background", "seed": 5})
    np.testing.assert_array_equal(a["image"], b["image"])
    with pytest.raises(ValueError, match="options: colour not known; allowed: scene, seed"):
        env.reset(options={"colour": "red"})
    with pytest.raises(TaskError, match="no scene 'moon'"):
        env.reset(options={"scene": "moon"})


def test_state_only_environments_render_nothing() -> None:
    made = RldgEnv(load_task("usb_insertion"), with_images=False)
    observation, _ = made.reset(seed=0)
    assert set(observation) == {"state"} == set(made.observation_space.spaces)
    made.step(made.action_space.sample())
    assert made._cell._stage.painter is None
    made.close()


@pytest.mark.parametrize("size", [5, 7])
def test_a_wrong_action_shape_is_refused(env: RldgEnv, size: int) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action: has shape"):
        env.step(np.zeros(size, dtype=np.float32))
