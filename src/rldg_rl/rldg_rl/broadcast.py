"""Weights of a policy as bytes, from the learner to actors that know preset and shapes already."""

from __future__ import annotations

import functools

import jax
import msgspec
import numpy as np

from rldg_rl import rlpd
from rldg_rl.checkpoint import CheckpointError, Weights
from rldg_rl.config import TrainingConfig
from rldg_rl.networks import Params, Spec
from rldg_rl.policy import config_digest

_REMEDY = "start actor and learner with the same run"


class _Message(msgspec.Struct, frozen=True, array_like=True):
    version: int
    config_sha256: str
    leaves: list[bytes]  # in the order of the tree, little endian


def pack_weights(weights: Weights, config: TrainingConfig) -> bytes:
    """The message."""
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(weights.params)]
    return msgspec.msgpack.encode(_Message(weights.version, config_digest(config), leaves))


def unpack_weights(data: bytes, config: TrainingConfig, spec: Spec) -> Weights:
    """What :func:`pack_weights` packed.

    Raises:
        CheckpointError: not weights, or those of another preset or of other shapes.
    """
    try:
        message = msgspec.msgpack.decode(data, type=_Message)
    except msgspec.MsgspecError as error:
        raise CheckpointError(f"learner/weights: not weights: {error}; {_REMEDY}") from None
    if message.config_sha256 != config_digest(config):
        raise CheckpointError(f"learner/weights: of another preset, {message.config_sha256[:12]}; {_REMEDY}")
    expected, structure = jax.tree.flatten(_shapes(config, spec))
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in expected]
    if [len(leaf) for leaf in message.leaves] != sizes:
        raise CheckpointError(f"learner/weights: of networks of other shapes than {spec}; {_REMEDY}")
    arrays = [
        np.frombuffer(data, leaf.dtype).reshape(leaf.shape) for data, leaf in zip(message.leaves, expected, strict=True)
    ]
    if not all(np.isfinite(array).all() for array in arrays):
        raise CheckpointError(f"learner/weights: version {message.version} is not finite; the learner has diverged")
    return Weights(message.version, jax.tree.unflatten(structure, arrays))


@functools.cache
def _shapes(config: TrainingConfig, spec: Spec) -> Params:
    return jax.eval_shape(lambda: rlpd.policy_params(rlpd.make_state(config, spec, 0)))
