"""Fine-tuning as the authors of Octo do it: AdamW, clipped gradients, the language encoder frozen.

A batch may be spread over the devices of a mesh, the parameters are on all of them; on one device nothing differs.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rldg_policies.octo.config import OctoError
from rldg_policies.octo.data_layout import Batch
from rldg_policies.octo.images import augment
from rldg_policies.octo.model import T5_PATH, OctoModel, Params

Flat = dict[str, jax.Array]  # leaves by path, its parts separated by "/"
Metrics = dict[str, jax.Array]
Count = Annotated[int, msgspec.Meta(ge=0, le=100_000_000)]
Rate = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class Mode(enum.StrEnum):
    """What is trained; never the language encoder."""

    FULL = "full"
    HEAD_ONLY = "head_only"
    # also freezes the attention pooling that heads before 1.5 had; for the heads here it is head_only
    HEAD_MLP_ONLY = "head_mlp_only"


class Schedule(enum.StrEnum):
    COSINE = "cosine"  # to 0 at the last step
    CONSTANT = "constant"


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train; the defaults are those of the released fine-tuning (with batches of 256). Hashable.

    Attributes:
        steps: of the schedule.
        learning_rate: after ``warmup_steps``, over which it rises from 0.
        weight_decay: of kernels, not of biases, norms and embeddings.
        clip_norm: of the gradient.
        augment: change the images of every batch (:func:`rldg_policies.octo.images.augment`).
    """

    mode: Mode = Mode.FULL
    steps: Annotated[int, msgspec.Meta(ge=1, le=100_000_000)] = 50_000
    learning_rate: Rate = 3e-4
    schedule: Schedule = Schedule.COSINE
    warmup_steps: Count = 2000
    weight_decay: Rate = 0.01
    clip_norm: Annotated[float, msgspec.Meta(gt=0.0, le=1e6)] = 1.0
    augment: bool = True

    def __post_init__(self) -> None:
        if self.warmup_steps >= self.steps:
            raise OctoError(f"warmup_steps: is {self.warmup_steps}, must be below steps, {self.steps}")


class TrainState(NamedTuple):
    """Everything that a step changes, and the parameters that none does."""

    trained: Flat
    frozen: Flat
    optimizer: optax.OptState
    step: jax.Array

    @property
    def params(self) -> Params:
        """The tree of all parameters."""
        return unflatten_dict(self.trained | self.frozen, sep="/")


def is_trained(path: str, mode: Mode) -> bool:
    """Whether the parameter at a path, its parts separated by "/", is trained."""
    return not path.startswith("/".join(T5_PATH)) and (mode is Mode.FULL or path.startswith("heads_"))


def learning_rate(config: TrainingConfig) -> optax.Schedule:
    """By step."""
    if config.schedule is Schedule.COSINE:
        return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, config.warmup_steps, config.steps)
    return optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)


def optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """Over flat trees of parameters."""
    adamw = optax.adamw(
        learning_rate(config),
        weight_decay=config.weight_decay,
        mask=lambda flat: {path: path.endswith("kernel") for path in flat},
        mu_dtype=jnp.bfloat16,
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)


def make_state(params: Params, config: TrainingConfig) -> TrainState:
    """Begin with these parameters. They are copied: steps use up the buffers of their state."""
    flat = {path: jnp.array(leaf) for path, leaf in flatten_dict(params, sep="/").items()}
    trained = {path: leaf for path, leaf in flat.items() if is_trained(path, config.mode)}
    frozen = {path: leaf for path, leaf in flat.items() if path not in trained}
    return TrainState(trained, frozen, optimizer(config).init(trained), jnp.zeros((), jnp.int32))


@partial(jax.jit, static_argnames=("model", "config"), donate_argnums=0)
def train_step(
    state: TrainState, batch: Batch, key: jax.Array, model: OctoModel, config: TrainingConfig
) -> tuple[TrainState, Metrics]:
    """One step of the optimiser on one batch.

    Args:
        state: its buffers are used up.
        key: of jax.random; use another one for every step.

    Returns:
        The new state; ``loss``, ``grad_norm`` (before it is clipped) and ``learning_rate``.
    """
    image_key, loss_key = jax.random.split(key)
    if config.augment:
        images = batch.observation.images
        keys = dict(zip(images, jax.random.split(image_key, len(images)), strict=True))
        changed = {slot: augment(keys[slot], images[slot], slot) for slot in images}
        batch = batch._replace(observation=batch.observation._replace(images=changed))

    def loss_of(trained: Flat) -> jax.Array:
        return model.loss(unflatten_dict(trained | state.frozen, sep="/"), batch, loss_key)

    loss, grad = jax.value_and_grad(loss_of)(state.trained)
    updates, optimizer_state = optimizer(config).update(grad, state.optimizer, state.trained)
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(grad), "learning_rate": learning_rate(config)(state.step)}
    trained = optax.apply_updates(state.trained, updates)
    return TrainState(trained, state.frozen, optimizer_state, state.step + 1), metrics


# --- several devices -------------------------------------------------------------------------------------------------


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices, or these, in one row."""
    return Mesh(np.array(devices or jax.devices()), ("data",))


def replicate(state: TrainState, mesh: Mesh) -> TrainState:
    """Put a state on every device."""
    placed: TrainState = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    return placed


def shard(batch: Batch, mesh: Mesh) -> Batch:
    """Spread the samples of a batch over the devices.

    Raises:
        OctoError: they cannot be spread evenly.
    """
    samples = len(batch.language)
    if samples % mesh.size:
        raise OctoError(f"batch: has {samples} samples, must be a multiple of the number of devices, {mesh.size}")
    placed: Batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    return placed
