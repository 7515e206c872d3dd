"""The update against numbers worked out by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from rldg_rl import networks, rlpd
from rldg_rl.config import Encoder, TrainingConfig
from rldg_rl.networks import Spec

CONFIG = TrainingConfig(encoder=Encoder.STATE, hidden=(16, 16), batch=8, utd=4)
SPEC = Spec(features=5)
update = jax.jit(rlpd.update, static_argnames=("config", "spec", "with_actor"))
sample = jax.jit(rlpd.sample, static_argnames="config")
critics = jax.jit(networks.ensemble(CONFIG).apply)


def batch(spec: Spec = SPEC, size: int = 8, seed: int = 0, **values: np.ndarray) -> rlpd.Batch:
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 1, (size, spec.action)).astype(np.float32)
    action[:, 6:] = rng.integers(0, 2, action[:, 6:].shape)
    made = rlpd.Batch(
        features=rng.normal(size=(size, spec.features)).astype(spec.dtype),
        next_features=rng.normal(size=(size, spec.features)).astype(spec.dtype),
        action=action,
        reward=rng.integers(0, 2, size).astype(np.float32),
        terminated=rng.integers(0, 2, size).astype(np.float32),
        toggled=rng.integers(0, 2, size).astype(np.float32),
    )
    return made._replace(**values)


def same(a, b) -> bool:
    """Bit for bit."""
    return all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def lived(config: TrainingConfig, spec: Spec) -> rlpd.TrainState:
    """After one update: values, which start at nothing, are something, and optimisers have momentum."""
    return update(rlpd.make_state(config, spec, 0), batch(spec, seed=9), config, spec, with_actor=True)[0]


# --- targets ---------------------------------------------------------------------------------------------------------


def test_the_target_is_reward_plus_discounted_minimum_unless_terminated() -> None:
    reward, terminated = jnp.array([1.0, 1.0, 0.0, 0.0]), jnp.array([1.0, 0.0, 1.0, 0.0])
    next_q = jnp.array([[0.5, 0.5, 0.9, 0.9], [0.8, 0.3, 0.7, 1.0]])
    target = rlpd.bellman_target(reward, terminated, next_q, CONFIG)
    np.testing.assert_allclose(target, [1.0, 1.0 + 0.97 * 0.3, 0.0, 0.97 * 0.9], rtol=1e-6)


def test_a_subset_of_critics_is_drawn_for_the_minimum() -> None:
    config = TrainingConfig(encoder=Encoder.STATE, critics=4, critic_subset=2)
    next_q = jnp.array([[0.1], [0.2], [0.3], [0.4]])
    seen = {
        round(float(rlpd.bellman_target(jnp.zeros(1), jnp.zeros(1), next_q, config, jax.random.key(i))[0] / 0.97), 3)
        for i in range(60)
    }
    assert seen == {0.1, 0.2, 0.3}  # the largest of four is never the smaller of two


def test_the_gripper_target_lets_the_online_network_choose_and_the_target_network_judge() -> None:
    values: dict[str, Any] = {
        "reward": np.array([0.0, 0.0, 1.0], np.float32),
        "terminated": np.array([0.0, 0.0, 1.0], np.float32),
        "toggled": np.array([0.0, 1.0, 1.0], np.float32),
    }
    online = jnp.array([[0.2, 0.9], [0.8, 0.1], [0.5, 0.4]])
    target = jnp.array([[0.7, 0.3], [0.6, 0.9], [0.9, 0.9]])
    got = rlpd.gripper_target(batch(size=3, **values), online, target, CONFIG)
    np.testing.assert_allclose(got, [0.97 * 0.3, 0.97 * 0.6 - 0.02, 1.0 - 0.02], rtol=1e-6)


def test_the_critic_loss_is_the_mean_squared_distance_to_the_target_without_entropy() -> None:
    state = lived(CONFIG, SPEC)
    some = batch()
    _, metrics = update(state, some, CONFIG, SPEC, with_actor=False)
    _, next_key, *_ = jax.random.split(jax.random.wrap_key_data(state.key), 4)
    next_action, _ = sample(state.actor, some.next_features, next_key, CONFIG)
    next_q = np.asarray(critics(state.target_critic.ensemble, some.next_features, next_action))
    y = some.reward + 0.97 * (1 - some.terminated) * next_q.min(0)
    q = np.asarray(critics(state.critic.ensemble, some.features, some.action))
    np.testing.assert_allclose(metrics["critic_loss"], np.mean((q - y) ** 2), rtol=1e-5)


def test_target_networks_follow_by_tau() -> None:
    state = lived(CONFIG, SPEC)
    after, _ = update(state, batch(), CONFIG, SPEC, with_actor=False)
    expected = jax.tree.map(lambda old, new: 0.995 * old + 0.005 * new, state.target_critic, after.critic)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), after.target_critic, expected)


def test_values_of_a_chain_of_three_states_are_discounted_steps_to_the_goal() -> None:
    """States 0 -> 1 -> 2 -> success; with the reward only there, Q is gamma^2, gamma, 1 and stays in [0, 1]."""
    config = TrainingConfig(
        encoder=Encoder.STATE, hidden=(32,), batch=96, utd=100, learning_rate=1e-3, tau=0.05, initial_temperature=1e-4
    )
    spec = Spec(features=4)
    states = np.eye(4, dtype=np.float32)
    index = np.tile(np.arange(3), (100, 32))
    rng = np.random.default_rng(0)
    state = rlpd.make_state(config, spec, 0)
    for _ in range(40):
        steps = rlpd.Batch(
            features=states[index],
            next_features=states[index + 1],
            action=rng.uniform(-1, 1, (*index.shape, 6)).astype(np.float32),
            reward=(index == 2).astype(np.float32),
            terminated=(index == 2).astype(np.float32),
            toggled=np.zeros(index.shape, np.float32),
        )
        state, metrics = rlpd.update_many(state, steps, config, spec)
    action = rng.uniform(-1, 1, (3, 6)).astype(np.float32)
    q = jax.jit(networks.ensemble(config).apply)(state.critic.ensemble, states[:3], action)
    np.testing.assert_allclose(q, np.tile([0.97**2, 0.97, 1.0], (2, 1)), atol=0.05)
    assert metrics["q_min"] > -0.05
    assert metrics["q_max"] < 1.1


# --- the policy ------------------------------------------------------------------------------------------------------


def test_the_probability_of_an_action_is_that_of_a_squashed_gaussian() -> None:
    state = rlpd.make_state(CONFIG, SPEC, 0)
    features = batch().features
    action, log_pi = sample(state.actor, features, jax.random.key(0), CONFIG)
    mean, std = (np.asarray(x, np.float64) for x in networks.Actor(CONFIG).apply(state.actor, features))
    u = np.arctanh(np.asarray(action, np.float64))
    density = np.exp(-0.5 * ((u - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi)) / (1 - np.tanh(u) ** 2)
    np.testing.assert_allclose(log_pi, np.log(density).sum(-1), rtol=1e-3, atol=1e-3)


def test_actions_stay_in_range_and_the_gripper_is_open_or_closed() -> None:
    spec = Spec(features=5, gripper=True)
    params = rlpd.policy_params(lived(CONFIG, spec))
    features = 100 * np.random.default_rng(0).normal(size=(500, 5)).astype(np.float32)
    actions = rlpd.act(params, features, jax.random.key(0), deterministic=False, config=CONFIG, spec=spec)
    assert actions.shape == (500, 7)
    assert np.abs(actions).max() <= 1.0
    assert set(np.asarray(actions[:, 6])) == {0.0, 1.0}


def test_values_that_are_trained_towards_stay_in_the_range_of_what_an_episode_earns() -> None:
    reward, terminated = jnp.zeros(3), jnp.zeros(3)
    target = rlpd.bellman_target(reward, terminated, jnp.array([[1.5, -0.2, 0.5], [1.2, 0.4, 0.9]]), CONFIG)
    np.testing.assert_allclose(target, [0.97, 0.0, 0.97 * 0.5], rtol=1e-6)


# --- imitation -------------------------------------------------------------------------------------------------------


def test_only_actions_that_the_critics_prefer_are_imitated() -> None:
    mode, shown = jnp.array([[0.0] * 6, [0.5] * 6]), jnp.array([[0.5] * 6, [0.0] * 6])
    np.testing.assert_allclose(rlpd.imitation_loss(mode, shown, jnp.array([True, False])), [6 * 0.25, 0.0])


def test_the_gripper_explores_where_both_actions_are_worth_about_the_same_and_never_when_it_is_served() -> None:
    config, spec = msgspec.structs.replace(CONFIG, gripper_temperature=0.02), Spec(features=5, gripper=True)
    params = rlpd.policy_params(rlpd.make_state(config, spec, 0))

    def closed(shift: float, deterministic: bool) -> float:
        last = max(params.gripper["params"], key=lambda name: name.startswith("Dense") and int(name.split("_")[1]))
        layer = params.gripper["params"][last]
        level = {"kernel": 0 * layer["kernel"], "bias": jnp.asarray([0.0, shift])}
        changed = params._replace(gripper={"params": {**params.gripper["params"], last: level}})
        features = np.zeros((2000, 5), np.float32)
        act = rlpd.act(changed, features, jax.random.key(1), deterministic=deterministic, config=config, spec=spec)
        return float(act[:, 6].mean())

    assert closed(0.001, deterministic=True) == 1.0 and closed(-0.001, deterministic=True) == 0.0
    assert 0.45 < closed(0.001, deterministic=False) < 0.58
    assert closed(0.02, deterministic=False) == pytest.approx(1 / (1 + np.exp(-1)), abs=0.04)
    assert closed(0.4, deterministic=False) == 1.0


def test_the_person_s_gripper_action_is_to_be_worth_a_margin_more() -> None:
    both = jnp.array([[0.2, 0.5], [0.5, 0.5 + rlpd.MARGIN], [0.3, 0.3]])
    closed = jnp.array([0, 1, 1])
    loss = rlpd.margin_loss(both, jnp.take_along_axis(both, closed[:, None], -1)[:, 0], closed)
    np.testing.assert_allclose(loss, [0.3 + rlpd.MARGIN, 0.0, rlpd.MARGIN], atol=1e-6)


def test_demonstrations_are_the_second_half_of_a_batch() -> None:
    plain, config = CONFIG, msgspec.structs.replace(CONFIG, imitation=100.0)
    both = batch(SPEC, seed=4)
    actors = [update(lived(each, SPEC), both, each, SPEC, with_actor=True)[0].actor for each in (plain, plain, config)]
    assert same(actors[0], actors[1]) and not same(actors[0], actors[2])
    # what the first half did is no example, whatever it is: only the critics see it
    grad = jax.grad(lambda shown: rlpd.imitation_loss(jnp.zeros((8, 6)), shown, jnp.ones(8, bool))[4:].sum())
    assert np.abs(grad(jnp.asarray(both.action[:, :6]))).sum(-1).astype(bool).tolist() == [False] * 4 + [True] * 4


def test_what_is_served_is_the_average_of_what_acted() -> None:
    config = msgspec.structs.replace(CONFIG, average_tau=0.25, utd=2, actor_every=2)
    state = rlpd.make_state(config, SPEC, 0)
    expected = jax.tree.map(np.array, rlpd.policy_params(state))
    for seed in range(3):
        batches = jax.tree.map(lambda *a: np.stack(a), batch(SPEC, seed=seed), batch(SPEC, seed=seed + 10))
        state, _ = rlpd.update_many(state, batches, config, SPEC)
        acts = rlpd.policy_params(state)
        expected = jax.tree.map(lambda e, a: 0.75 * e + 0.25 * np.asarray(a), expected, acts)
    for got, wanted in zip(jax.tree.leaves(state.served), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-7)


def test_the_deterministic_action_does_not_depend_on_the_key() -> None:
    params = rlpd.policy_params(rlpd.make_state(CONFIG, SPEC, 0))
    features = batch().features
    modes = [
        rlpd.act(params, features, jax.random.key(i), deterministic=True, config=CONFIG, spec=SPEC) for i in range(2)
    ]
    np.testing.assert_array_equal(*modes)


# --- temperature -----------------------------------------------------------------------------------------------------


def temperature_after(log_std: float) -> tuple[float, float]:
    """Before and after one update with an actor of this standard deviation about 0."""
    state = rlpd.make_state(CONFIG, SPEC, 0)
    actor = jax.tree.map(jnp.zeros_like, state.actor)
    actor["params"]["Dense_1"]["bias"] = jnp.full(6, log_std)
    after, _ = update(state._replace(actor=actor), batch(size=256), CONFIG, SPEC, with_actor=True)
    return float(jax.nn.softplus(state.raw_temperature)), float(jax.nn.softplus(after.raw_temperature))


def test_the_temperature_starts_where_the_preset_says() -> None:
    assert temperature_after(0.0)[0] == pytest.approx(CONFIG.initial_temperature, rel=1e-5)


def test_the_temperature_rises_while_the_policy_is_too_sure() -> None:
    before, after = temperature_after(-4.0)  # six dimensions of std 0.018: entropy about -15.5, target -3
    assert after > before


def test_the_temperature_falls_while_the_policy_is_too_random() -> None:
    before, after = temperature_after(-0.5)  # std 0.6: entropy about +3
    assert after < before


def test_the_target_entropy_counts_only_continuous_dimensions() -> None:
    assert rlpd.target_entropy(CONFIG) == -3.0


# --- what an update leaves alone -------------------------------------------------------------------------------------


def test_a_critic_update_leaves_actor_and_temperature_as_they_are() -> None:
    state = lived(CONFIG, SPEC)
    after, _ = update(state, batch(seed=1), CONFIG, SPEC, with_actor=False)
    for name in ("actor", "actor_optimizer", "raw_temperature", "temperature_optimizer"):
        assert same(getattr(state, name), getattr(after, name)), name
    assert not same(state.critic, after.critic)


def test_the_actor_has_no_say_in_the_critics() -> None:
    state = lived(CONFIG, SPEC)
    alone, _ = update(state, batch(), CONFIG, SPEC, with_actor=False)
    both, _ = update(state, batch(), CONFIG, SPEC, with_actor=True)
    assert same(alone.critic, both.critic)
    assert not same(alone.actor, both.actor)


def test_halves_become_the_same_numbers_in_single_precision() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    np.testing.assert_allclose(jax.jit(networks.single_precision)(halves), halves, rtol=0.0, atol=6.2e-5)
    normal = halves[np.abs(halves) >= 6.2e-5]
    np.testing.assert_array_equal(jax.jit(networks.single_precision)(normal), normal.astype(np.float32))


GRID = Spec(features=2 * 2 * 6 + 3, gripper=True, grid=(6, 4))


def test_only_the_critic_loss_trains_the_head() -> None:
    config = TrainingConfig(encoder=Encoder.PIXELS, hidden=(16,), bottleneck=8, vector_features=4)
    state = lived(config, GRID)
    some = batch(GRID)

    def head_after(used: rlpd.Batch, *, with_actor: bool):
        return update(state, used, config, GRID, with_actor=with_actor)[0].critic.head

    first = head_after(some, with_actor=False)
    assert not same(first, state.critic.head)
    assert same(first, head_after(some, with_actor=True))
    assert same(first, head_after(some._replace(toggled=1 - some.toggled), with_actor=False))  # gripper loss differs


def test_without_a_gripper_there_is_no_gripper_network() -> None:
    state = rlpd.make_state(CONFIG, SPEC, 0)
    assert jax.tree.leaves((state.gripper, state.target_gripper)) == []


def test_the_toggle_penalty_reaches_the_gripper_critic_alone() -> None:
    spec = Spec(features=5, gripper=True)
    state, some = lived(CONFIG, spec), batch(spec)
    calm, _ = update(state, some._replace(toggled=0 * some.toggled), CONFIG, spec, with_actor=True)
    busy, _ = update(state, some._replace(toggled=0 * some.toggled + 1), CONFIG, spec, with_actor=True)
    assert same((calm.critic, calm.actor), (busy.critic, busy.actor))
    assert not same(calm.gripper, busy.gripper)


# --- many updates ----------------------------------------------------------------------------------------------------


def test_many_updates_equal_single_ones() -> None:
    batches = [batch(seed=i) for i in range(4)]
    state = rlpd.make_state(CONFIG, SPEC, 0)
    for i, each in enumerate(batches):
        state, _ = update(state, each, CONFIG, SPEC, with_actor=i % CONFIG.actor_every == 1)
    stacked = rlpd.Batch(*(np.stack(columns) for columns in zip(*batches, strict=True)))
    together, _ = rlpd.update_many(rlpd.make_state(CONFIG, SPEC, 0), stacked, CONFIG, SPEC)
    assert int(together.updates) == 4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), together, state)


def test_the_critics_of_an_ensemble_differ() -> None:
    config = TrainingConfig(encoder=Encoder.STATE, critics=5, critic_subset=2, hidden=(16, 16))
    state = lived(config, SPEC)
    q = jax.jit(networks.ensemble(config).apply)(state.critic.ensemble, batch().features, batch().action)
    assert q.shape == (5, 8)
    assert len(np.unique(np.asarray(q)[:, 0])) == 5
