"""One update of RLPD with a learned temperature and a discrete gripper critic, as HIL-SERL uses it.

To be read next to the papers: RLPD (Ball et al. 2023, algorithm 1 and section 4), SAC with a learned temperature
(Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", section 5) and HIL-SERL (Luo et al. 2024,
gripper critic). Pure functions of a state and a batch. Deliberate differences from the released HIL-SERL code: running
out of time bootstraps; the gripper may explore; values that critics are trained towards stay in the range of what an
episode can earn; a network that is not updated does not change by a bit; and what is served is an average of the policy
over its last updates, which does not jump from one evaluation to the next.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rldg_core.types import ACTION_SIZE
from rldg_rl import networks
from rldg_rl.config import TrainingConfig
from rldg_rl.networks import Params, Spec, apply

MARGIN = 0.05  # by which a gripper action of a demonstration is to be worth more than the other one
_LOG_2 = float(np.log(2.0))
_LOG_SQRT_2_PI = float(0.5 * np.log(2.0 * np.pi))


Values = Any  # an array of numpy or jax


class Batch(NamedTuple):
    """Transitions, with any number of leading axes ``...``.

    Attributes:
        features, next_features: (..., spec.features), of spec.dtype.
        action: (..., spec.action), executed, policy frame.
        reward: (...), without gripper penalty.
        terminated: (...), 1 where the episode ended by success or failure: nothing follows. 0 where it went on, and
            where it ran out of time.
        toggled: (...), 1 where the action changed the held state of the gripper.
    """

    features: Values
    next_features: Values
    action: Values
    reward: Values
    terminated: Values
    toggled: Values


class CriticParams(NamedTuple):
    """What the critic loss trains: the head on the stored features, and the ensemble on what it returns."""

    head: Params
    ensemble: Params


class PolicyParams(NamedTuple):
    """What acting needs."""

    actor: Params
    head: Params
    gripper: Params


class TrainState(NamedTuple):
    """Everything that an update changes. ``gripper*`` are empty where actions have no gripper."""

    actor: Params
    critic: CriticParams
    target_critic: CriticParams
    gripper: Params
    target_gripper: Params
    served: PolicyParams  # average over the last updates of what acts
    raw_temperature: jax.Array  # temperature = softplus of it
    actor_optimizer: optax.OptState
    critic_optimizer: optax.OptState
    gripper_optimizer: optax.OptState
    temperature_optimizer: optax.OptState
    key: jax.Array  # uint32 data of the random key
    updates: jax.Array  # how many critic updates this state has seen


Metrics = dict[str, jax.Array]


def optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """Each network has one of its own, over nothing but its parameters."""
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.adam(config.learning_rate))


@partial(jax.jit, static_argnames=("config", "spec"))
def make_state(config: TrainingConfig, spec: Spec, seed: int) -> TrainState:
    """Fresh networks and optimisers; target networks equal their networks."""
    key, *keys = jax.random.split(jax.random.key(seed), 5)
    features = jnp.zeros((1, spec.features), spec.dtype)
    head = networks.Head(config, spec).init(keys[0], features)
    read = apply(networks.Head(config, spec), head, features)
    critic = CriticParams(
        head, networks.ensemble(config).init(keys[1], read, jnp.zeros((1, ACTION_SIZE), dtype=jnp.float32))
    )
    actor = networks.Actor(config).init(keys[2], read)
    gripper = networks.GripperCritic(config).init(keys[3], read) if spec.gripper else {}
    raw_temperature = jnp.asarray(np.log(np.expm1(config.initial_temperature)), dtype=jnp.float32)
    start = optimizer(config).init
    served = jax.tree.map(jnp.copy, PolicyParams(actor, head, gripper))
    return TrainState(
        actor=actor,
        critic=critic,
        target_critic=jax.tree.map(jnp.copy, critic),
        gripper=gripper,
        target_gripper=jax.tree.map(jnp.copy, gripper),
        served=served,
        raw_temperature=raw_temperature,
        actor_optimizer=start(actor),
        critic_optimizer=start(critic),
        gripper_optimizer=start(gripper),
        temperature_optimizer=start(raw_temperature),
        key=jax.random.key_data(key),
        updates=jnp.zeros((), jnp.int32),
    )


def policy_params(state: TrainState) -> PolicyParams:
    """What acts while it learns."""
    return PolicyParams(state.actor, state.critic.head, state.gripper)


def target_entropy(config: TrainingConfig) -> float:
    """Of the continuous dimensions; the gripper is not one of them."""
    return config.target_entropy_per_dim * ACTION_SIZE


# --- the policy ------------------------------------------------------------------------------------------------------


def sample(actor: Params, read: jax.Array, key: jax.Array, config: TrainingConfig) -> tuple[jax.Array, jax.Array]:
    """An action a = tanh(u), u ~ N(mean, std), and log pi(a) = log N(u) - sum log(1 - tanh(u)^2) (SAC, appendix C)."""
    mean, std = apply(networks.Actor(config), actor, read)
    noise = jax.random.normal(key, mean.shape)
    u = mean + std * noise
    log_normal = -0.5 * noise**2 - jnp.log(std) - _LOG_SQRT_2_PI
    log_slope = 2.0 * (_LOG_2 - u - jax.nn.softplus(-2.0 * u))  # log(1 - tanh(u)^2), also where tanh(u) is 1
    return jnp.tanh(u), (log_normal - log_slope).sum(-1)


@partial(jax.jit, static_argnames=("deterministic", "config", "spec"))
def act(
    params: PolicyParams,
    features: Values,
    key: jax.Array,
    *,
    deterministic: bool,
    config: TrainingConfig,
    spec: Spec,
) -> jax.Array:
    """The action at one observation.

    Args:
        params: of :func:`policy_params`.
        features: (..., spec.features).
        key: of jax.random; unused where deterministic.
        deterministic: the mode of the policy instead of a sample, and the better gripper action instead of a draw with
            probabilities proportional to exp(Q / ``gripper_temperature``).

    Returns:
        (..., spec.action): six numbers in [-1, 1], then, with a gripper, 1 for closed and 0 for open.
    """
    read = apply(networks.Head(config, spec), params.head, features)
    if deterministic:
        action = jnp.tanh(apply(networks.Actor(config), params.actor, read)[0])
    else:
        action = sample(params.actor, read, key, config)[0]
    if not spec.gripper:
        return action
    both = apply(networks.GripperCritic(config), params.gripper, read)
    if not deterministic and config.gripper_temperature:
        # Where both are worth about the same the other one is tried: a gripper that closed on nothing would else never
        # find out that opening helps. Where one is clearly better, as with the object in it, it is taken.
        both += config.gripper_temperature * jax.random.gumbel(jax.random.fold_in(key, 1), both.shape)
    closed = both.argmax(-1)
    return jnp.concatenate([action, closed[..., None].astype(action.dtype)], axis=-1)


# --- the update ------------------------------------------------------------------------------------------------------


def bellman_target(
    reward: jax.Array, terminated: jax.Array, next_q: jax.Array, config: TrainingConfig, key: jax.Array | None = None
) -> jax.Array:
    """r + gamma (1 - terminated) min_Z Q'(s', a'), with no entropy in the backup (HIL-SERL; RLPD section 4.4).

    Q' is held in [0, 1], where an episode earns 1 once or nothing: in long tasks it would else rise above.

    Args:
        reward, terminated: (batch,).
        next_q: (critics, batch), of the target networks at an action of the policy.
        key: draws the subset Z where it is smaller than the ensemble (RLPD, algorithm 1).
    """
    if config.critic_subset < config.critics:
        assert key is not None
        next_q = jax.random.choice(key, next_q, (config.critic_subset,), replace=False, axis=0)
    return reward + config.gamma * (1.0 - terminated) * jnp.clip(next_q.min(0), 0.0, 1.0)


def gripper_target(batch: Batch, next_online: jax.Array, next_target: jax.Array, config: TrainingConfig) -> jax.Array:
    """Double DQN: the online network chooses, the target network says what it is worth; a toggle costs.

    Args:
        next_online, next_target: (batch, 2), Q of open and closed at the next observation.
    """
    best = next_online.argmax(-1)
    next_q = jnp.take_along_axis(next_target, best[:, None], axis=-1)[:, 0]
    reward = batch.reward - config.gripper_penalty * batch.toggled
    return reward + config.gamma * (1.0 - batch.terminated) * next_q


def imitation_loss(mode: jax.Array, demonstrated: jax.Array, better: jax.Array) -> jax.Array:
    """|a - a_demo|^2 where the critics hold the person's action for the better one (Nair et al. 2018, section IV.B).

    Args:
        mode, demonstrated: (batch, 6).
        better: (batch,) bool.
    """
    return jnp.where(jax.lax.stop_gradient(better), ((mode - demonstrated) ** 2).sum(-1), 0.0)


def margin_loss(both: jax.Array, of_action: jax.Array, closed: jax.Array) -> jax.Array:
    """max_a [Q(s, a) + margin where a is not the person's] - Q(s, a_demo) (DQfD, Hester et al. 2018, equation 2).

    Args:
        both: (batch, 2), Q of open and closed; ``of_action``: (batch,), that of what the person did.
        closed: (batch,), 1 where that was closed.
    """
    other = MARGIN * (1 - jax.nn.one_hot(closed, 2))
    return (both + other).max(-1) - of_action


def _descend(
    grad: Params, opt: optax.OptState, params: Params, config: TrainingConfig
) -> tuple[Params, optax.OptState]:
    step, opt = optimizer(config).update(grad, opt, params)
    return optax.apply_updates(params, step), opt


def _follow(target: Params, params: Params, tau: float) -> Params:
    """Polyak average: target <- (1 - tau) target + tau params."""
    return jax.tree.map(lambda old, new: old + tau * (new - old), target, params)


def update(
    state: TrainState, batch: Batch, config: TrainingConfig, spec: Spec, *, with_actor: bool
) -> tuple[TrainState, Metrics]:
    """One critic update and, on request, one of actor and temperature, on one batch (RLPD, algorithm 1).

    Args:
        batch: arrays with one leading axis.
        with_actor: RLPD updates the actor after several critics; where False, actor, temperature and their
            optimisers come back as they were, bit for bit.
    """
    head, critics = partial(apply, networks.Head(config, spec)), partial(apply, networks.ensemble(config))
    key, next_key, subset_key, actor_key = jax.random.split(jax.random.wrap_key_data(state.key), 4)
    action = batch.action[:, :ACTION_SIZE]
    demonstrated = slice(len(action) // 2, None)  # how the replay draws: demonstrations are the second half

    # Target: a' ~ pi(s'), y = r + gamma (1 - terminated) min_Z Q'(s', a')
    next_read = head(state.critic.head, batch.next_features)
    next_action, _ = sample(state.actor, next_read, next_key, config)
    target_read = head(state.target_critic.head, batch.next_features) if spec.grid else next_read
    next_q = critics(state.target_critic.ensemble, target_read, next_action)
    y = bellman_target(batch.reward, batch.terminated, next_q, config, subset_key)

    # Critics: mean over ensemble and batch of (Q_i(s, a) - y)^2
    def critic_loss(params: CriticParams) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        read = head(params.head, batch.features)
        q = critics(params.ensemble, read, action)
        return ((q - y) ** 2).mean(), (q, read)

    (loss, (q, read)), grad = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
    critic, critic_optimizer = _descend(grad, state.critic_optimizer, state.critic, config)
    metrics = {"critic_loss": loss, "q_mean": q.mean(), "q_min": q.min(), "q_max": q.max()}
    state = state._replace(
        critic=critic,
        critic_optimizer=critic_optimizer,
        target_critic=_follow(state.target_critic, critic, config.tau),
        key=jax.random.key_data(key),
        updates=state.updates + 1,
    )

    # Gripper critic: double DQN on the features that the critics shape
    if spec.gripper:
        gripper_critic = partial(apply, networks.GripperCritic(config))
        closed = (batch.action[:, ACTION_SIZE] > 0.5).astype(jnp.int32)
        y_gripper = gripper_target(
            batch,
            gripper_critic(state.gripper, next_read),
            gripper_critic(state.target_gripper, target_read),
            config,
        )

        def gripper_loss(params: Params) -> jax.Array:
            both = gripper_critic(params, read)
            of_action = jnp.take_along_axis(both, closed[:, None], axis=-1)[:, 0]
            loss = ((of_action - y_gripper) ** 2).mean()
            if config.imitation:
                loss += config.imitation * margin_loss(both, of_action, closed)[demonstrated].mean()
            return loss

        metrics["gripper_loss"], grad = jax.value_and_grad(gripper_loss)(state.gripper)
        gripper, gripper_optimizer = _descend(grad, state.gripper_optimizer, state.gripper, config)
        state = state._replace(
            gripper=gripper,
            gripper_optimizer=gripper_optimizer,
            target_gripper=_follow(state.target_gripper, gripper, config.tau),
        )

    if not with_actor:
        return state, metrics

    # Actor: maximise mean_i Q_i(s, a) - alpha log pi(a), a ~ pi(s); no gradient into critics or head
    temperature = jax.nn.softplus(state.raw_temperature)

    def actor_loss(params: Params) -> tuple[jax.Array, jax.Array]:
        sampled, log_pi = sample(params, read, actor_key, config)
        value = critics(critic.ensemble, read, sampled).mean(0)
        loss = (temperature * log_pi - value).mean()
        if config.imitation:
            mode = jnp.tanh(apply(networks.Actor(config), params, read)[0])
            better = critics(critic.ensemble, read, action).mean(0) > critics(critic.ensemble, read, mode).mean(0)
            loss += config.imitation * imitation_loss(mode, action, better)[demonstrated].mean()
        return loss, log_pi.mean()

    (metrics["actor_loss"], log_pi), grad = jax.value_and_grad(actor_loss, has_aux=True)(state.actor)
    actor, actor_optimizer = _descend(grad, state.actor_optimizer, state.actor, config)

    # Temperature: minimise alpha (entropy - target), so that it rises while the entropy is below its target
    def temperature_loss(raw: jax.Array) -> jax.Array:
        return jax.nn.softplus(raw) * (-log_pi - target_entropy(config))

    grad = jax.grad(temperature_loss)(state.raw_temperature)
    raw_temperature, temperature_optimizer = _descend(grad, state.temperature_optimizer, state.raw_temperature, config)
    metrics |= {"entropy": -log_pi, "temperature": temperature}
    state = state._replace(
        actor=actor,
        actor_optimizer=actor_optimizer,
        raw_temperature=raw_temperature,
        temperature_optimizer=temperature_optimizer,
    )
    return state, metrics


@partial(jax.jit, static_argnames=("config", "spec"), donate_argnums=0)
def update_many(state: TrainState, batches: Batch, config: TrainingConfig, spec: Spec) -> tuple[TrainState, Metrics]:
    """``config.utd`` updates in one call, of which every ``config.actor_every``-th includes the actor.

    Args:
        state: its buffers are used up.
        batches: arrays with two leading axes: (config.utd, config.batch).

    Returns:
        The new state, and metrics: means over the updates; ``q_min`` and ``q_max`` are the extremes.
    """

    def group(state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
        collected: list[Metrics] = []
        for i in range(config.actor_every):
            batch = jax.tree.map(lambda array, i=i: array[i], batches)
            state, metrics = update(state, batch, config, spec, with_actor=i == config.actor_every - 1)
            collected.append(metrics)
        state = state._replace(served=_follow(state.served, policy_params(state), config.average_tau))
        last = collected[-1]
        return state, {name: jnp.stack([m[name] for m in collected if name in m]) for name in last}

    groups = jax.tree.map(lambda a: a.reshape(-1, config.actor_every, *a.shape[1:]), batches)
    state, metrics = jax.lax.scan(group, state, groups)
    reduce = {"q_min": jnp.min, "q_max": jnp.max}
    return state, {name: reduce.get(name, jnp.mean)(values) for name, values in metrics.items()}
