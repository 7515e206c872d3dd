"""A small convolutional network that finds goal and object in the wrist image, trained in simulation.

It learns to regress what the simulation knows (:meth:`rldg_rl.encoders.StateEncoder.relations`) from images along noisy
expert and random motion. Its convolutions do not overlap, so that each is a product of matrices, several times as fast
on a CPU; two views of the image, all of it coarsely and its middle finely, make up for that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax

from rldg_core.images import square
from rldg_core.task import GripperUse, Task
from rldg_core.teleop import HumanCommand, Teleop
from rldg_core.types import Action, Phase
from rldg_recorder.executors import make_executor
from rldg_rl.encoders import StateEncoder
from rldg_rl.features import COARSE_M, COARSE_RAD, FINE_M, RELATION_SIZE
from rldg_sim.cell import Cell
from rldg_sim.loop import Loop, Tick
from rldg_sim.operator import ScriptedOperator, Style

Images = npt.NDArray[np.uint8]

IMAGE_PX, VIEW_PX = 128, 64
EMBEDDING = 32
_BATCH, _LEARNING_RATE = 64, 4e-3
_WEIGHT = np.repeat([1.0, 3.0], RELATION_SIZE // 2).astype(np.float32)  # the fine half of a relation decides
_PART = 1000
_RANDOM, _SPELL = 0.35, (2, 9)  # share of random motion, and the ticks that one kind of motion lasts


def views(image: Images) -> Images:
    """What the network sees of a square image of at least 128 pixels: shape (64, 64, 6).

    Three channels hold the whole image, three the window around the tool's tip at twice the resolution.
    """
    middling = square(image, IMAGE_PX)
    return np.concatenate([square(middling, VIEW_PX), middling[24 : 24 + VIEW_PX, 32 : 32 + VIEW_PX]], axis=-1)


def _patches(x: jax.Array, side: int) -> jax.Array:
    """(..., h, w, c) as (..., h / side, w / side, side * side * c)."""
    *lead, height, width, channels = x.shape
    x = x.reshape(*lead, height // side, side, width // side, side, channels)
    x = jnp.moveaxis(x, -4, -3)
    return x.reshape(*lead, height // side, width // side, side * side * channels)


class PoseNet(nn.Module):
    """From views to an embedding, (..., 32), and relations, (..., outputs)."""

    outputs: int

    @nn.compact
    def __call__(self, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
        scaled = seen.astype(jnp.float32) / 127.5 - 1.0
        flat = []
        for view in (scaled[..., :3], scaled[..., 3:]):
            x = view
            for side, channels in ((4, 32), (2, 64), (2, 64)):
                x = nn.relu(nn.Dense(channels)(_patches(x, side)))
            flat.append(x.reshape(*x.shape[:-3], -1))
        x = nn.relu(nn.LayerNorm()(nn.Dense(128)(jnp.concatenate(flat, axis=-1))))
        embedding = jnp.tanh(nn.LayerNorm()(nn.Dense(EMBEDDING)(x)))
        return embedding, nn.Dense(self.outputs)(nn.relu(nn.Dense(64)(jnp.concatenate([x, embedding], axis=-1))))


def empty_params(outputs: int) -> Any:
    """Shapes and types of the network's parameters, without values."""
    blank = jnp.zeros((1, VIEW_PX, VIEW_PX, 6), jnp.uint8)
    return jax.eval_shape(lambda: PoseNet(outputs).init(jax.random.key(0), blank))


@dataclass(frozen=True)
class Frames:
    """Labelled images.

    Attributes:
        views: (n, 64, 64, 6).
        relations: (n, 12 or 24).
        episode: (n,), which episode each is from.
    """

    views: Images
    relations: npt.NDArray[np.float32]
    episode: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pretrained:
    """A trained network and how far off it is on episodes it has not seen.

    Attributes:
        params: of :class:`PoseNet`.
        error_m: mean absolute error of the offset to the goal along each axis of the TCP, within 5 mm sideways.
        error_rad: of the yaw.
        frames: how many it was trained and validated on.
        cpu_s: of collecting and training.
    """

    params: Any
    outputs: int
    error_m: tuple[float, float, float]
    error_rad: float
    frames: int
    cpu_s: float


@dataclass(frozen=True)
class _Part:
    """What a process collects at a time."""

    task: Task
    count: int
    seed: tuple[int, int]


def collect(task: Task, count: int, seed: int, jobs: int = 1) -> Frames:
    """Images along expert motion, noisy to all degrees, and random motion, in spells of a few ticks.

    Nobody grasps or carries anything on such a way: where there is an object, every other episode is nearly
    undisturbed, and random motion keeps its direction, or it would never be seen from afar.

    Args:
        count: how many.
        jobs: processes that collect them; the same seed gives the same images whatever their number.

    Raises:
        RuntimeError: a process failed.
    """
    sizes = [min(_PART, count - begin) for begin in range(0, count, _PART)]
    parts = [_Part(task, size, (seed, number)) for number, size in enumerate(sizes)]
    executor = make_executor("processes" if min(jobs, len(parts)) > 1 else "serial", min(jobs, len(parts)))
    found = list(executor.map_in_order(_collect, parts))
    return Frames(
        np.concatenate([part.views for part in found]),
        np.concatenate([part.relations for part in found]),
        np.concatenate([part.episode + number * _PART for number, part in enumerate(found)]),
    )


def _collect(part: _Part) -> Frames:
    task, count = part.task, part.count
    cell = Cell(task)
    loop, truth_of = Loop(task, cell), StateEncoder(task)
    rng = np.random.default_rng([*part.seed, 0xCA3])
    with_gripper, with_object = task.control.gripper is GripperUse.BINARY, task.object is not None
    seen, relations, episodes = [], [], []
    number = 0
    while len(seen) < count:
        tick, left, number = loop.reset("", int(rng.integers(2**31))), 0, number + 1
        noise, random, calm, way = 0.0, False, with_object and bool(rng.random() < 0.5), np.zeros(6)
        operator: ScriptedOperator | None = None
        while tick.status.phase is Phase.RUNNING and len(seen) < count:
            now = tick.observation
            seen.append(views(now.image))
            relations.append(truth_of.relations(now.tcp_pose, tick.truth))
            episodes.append(number)
            if left == 0:
                left = int(rng.integers(*_SPELL))
                noise = float(rng.choice([0.05, 0.3] if calm else [0.05, 0.3, 0.7]))
                random = bool(rng.random() < _RANDOM) and not calm
                way = rng.uniform(-1.0, 1.0, 6) if with_object else way
                if operator is None or not calm:  # who begins anew every few ticks never comes to grasp
                    operator = ScriptedOperator(task, int(rng.integers(2**31)), style=Style.flawless())
                    operator.take_over(
                        tcp_pose=now.tcp_pose, object_pose=tick.truth.object_pose, gripper_closed=now.gripper_closed
                    )
            assert operator is not None
            left -= 1
            wanted = _expert(operator, tick)
            shake = rng.uniform(-1.0, 1.0, 6) if random else noise * rng.normal(size=6)
            drift = (way + 0.3 * shake if with_object else shake) if random else wanted.delta + shake
            closed = wanted.gripper_closed if with_gripper else True
            _, tick = loop.step(Action(np.clip(drift, -1.0, 1.0), closed))
    cell.close()
    return Frames(np.stack(seen), np.stack(relations), np.array(episodes))


def _expert(operator: ScriptedOperator, tick: Tick) -> Action:
    seen, device = tick.observation, Teleop()
    command = operator.act(
        tcp_pose=seen.tcp_pose,
        fixture_pose=tick.truth.fixture_pose,
        object_pose=tick.truth.object_pose,
        gripper_width_m=seen.gripper_width_m,
        wrench=seen.wrench,
    )
    device.update(seen.stamp_ns, command.twist, [int(command.close), int(command.open)])
    asked: HumanCommand = device.command(seen.stamp_ns, seen.tcp_pose, seen.gripper_closed)
    return asked.action if asked.action is not None else Action(np.zeros(6), seen.gripper_closed)


@partial(jax.jit, static_argnames=("outputs", "schedule_steps"), donate_argnums=(0, 1))
def _fit_step(
    params: Any, opt: optax.OptState, seen: jax.Array, wanted: jax.Array, outputs: int, schedule_steps: int
) -> tuple[Any, optax.OptState, jax.Array]:
    def loss(params: Any) -> jax.Array:
        said: Any = PoseNet(outputs).apply(params, seen)
        return (_WEIGHT * optax.huber_loss(said[1], wanted, delta=0.1).reshape(-1, RELATION_SIZE)).mean()

    value, grad = jax.value_and_grad(loss)(params)
    step, opt = _optimizer(schedule_steps).update(grad, opt, params)
    return optax.apply_updates(params, step), opt, value


def _optimizer(steps: int) -> optax.GradientTransformation:
    return optax.adamw(optax.cosine_onecycle_schedule(steps, _LEARNING_RATE, pct_start=0.15), weight_decay=1e-4)


@partial(jax.jit, static_argnames="outputs")
def apply(params: Any, seen: jax.Array | Images, outputs: int) -> tuple[jax.Array, jax.Array]:
    """Embedding and relations, see :class:`PoseNet`."""
    said: Any = PoseNet(outputs).apply(params, seen)
    return said[0], said[1]


def fit(frames: Frames, seed: int, epochs: int, on_epoch: Callable[[int, float], None] | None = None) -> Pretrained:
    """Train on all episodes but each tenth, which tell the error.

    Args:
        frames: of at least two episodes.
        on_epoch: called with the number of epochs done and the mean loss of the last.
    """
    began_s = time.process_time()
    outputs = frames.relations.shape[1]
    held_out = frames.episode % 10 == 1  # the first is always among them
    train = np.flatnonzero(~held_out)
    size = min(_BATCH, len(train))
    rng = np.random.default_rng([seed, 0xF17])
    params = PoseNet(outputs).init(jax.random.key(seed), jnp.zeros((1, VIEW_PX, VIEW_PX, 6), jnp.uint8))
    steps = epochs * (len(train) // size)
    opt = _optimizer(steps).init(params)
    for epoch in range(epochs):
        order, losses = rng.permutation(train), []
        for i in range(0, len(order) - size + 1, size):
            batch = order[i : i + size]
            params, opt, loss = _fit_step(params, opt, frames.views[batch], frames.relations[batch], outputs, steps)
            losses.append(loss)
        if on_epoch is not None:
            on_epoch(epoch + 1, float(np.mean([float(value) for value in losses])))
    error_m, error_rad = _errors(params, frames, held_out)
    return Pretrained(params, outputs, error_m, error_rad, len(frames.episode), time.process_time() - began_s)


def _errors(params: Any, frames: Frames, held_out: npt.NDArray[np.bool_]) -> tuple[tuple[float, float, float], float]:
    """Mean absolute errors near the goal, on the held-out episodes; nan where none come near."""
    wanted = frames.relations[held_out]
    chunks = np.array_split(frames.views[held_out], max(1, held_out.sum() // 256))
    said = np.concatenate([np.asarray(apply(params, chunk, wanted.shape[1])[1]) for chunk in chunks])
    near = np.abs(wanted[:, :2]).max(axis=1) * COARSE_M < 0.005
    if not near.any():
        return (float("nan"),) * 3, float("nan")
    fine = slice(RELATION_SIZE // 2, RELATION_SIZE // 2 + 2)
    sideways = FINE_M * np.abs(np.arctanh(np.clip(said[near, fine], -0.99, 0.99)) - np.arctanh(wanted[near, fine]))
    x_m, y_m = sideways.mean(axis=0)
    z_m = COARSE_M * np.abs(said[near, 2] - wanted[near, 2]).mean()
    yaw_rad = COARSE_RAD * np.abs(said[near, 5] - wanted[near, 5]).mean()
    return (float(x_m), float(y_m), float(z_m)), float(yaw_rad)
