"""The Octo model as functions of its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax.traverse_util import flatten_dict, unflatten_dict

from rldg_policies.octo import t5
from rldg_policies.octo.config import T5, OctoConfig
from rldg_policies.octo.data_layout import Batch, Observation, Values
from rldg_policies.octo.diffusion import NoiseNetwork, cosine_betas, denoise, noise_loss
from rldg_policies.octo.transformer import OctoTransformer

Params = Any  # a tree of arrays
T5_PATH = ("octo_transformer", "task_tokenizers_language", "hf_model")


class _Head(nn.Module):
    config: OctoConfig

    @nn.compact
    def __call__(self, embedding: jax.Array, noisy: jax.Array, step: jax.Array) -> jax.Array:
        return NoiseNetwork(self.config.diffusion, name="diffusion_model")(embedding, noisy, step)


class _Networks(nn.Module):
    config: OctoConfig

    def setup(self) -> None:
        self.octo_transformer = OctoTransformer(self.config)
        self.heads_action = _Head(self.config)

    def __call__(self, observation: Observation, language: jax.Array, noisy: jax.Array, step: jax.Array) -> jax.Array:
        return self.noise(self.readout(observation, language), noisy, step)

    def readout(self, observation: Observation, language: jax.Array) -> jax.Array:
        return self.octo_transformer(*observation, language).mean(-2)

    def noise(self, embedding: jax.Array, noisy: jax.Array, step: jax.Array) -> jax.Array:
        return self.heads_action(embedding, noisy, step)


@dataclass(frozen=True)
class OctoModel:
    """The networks of a config. Trees of parameters have the paths and shapes of the released checkpoints."""

    config: OctoConfig

    @cached_property
    def _networks(self) -> _Networks:
        return _Networks(self.config)

    @property
    def chunk_size(self) -> int:
        """Numbers in a chunk."""
        return self.config.action_horizon * self.config.action_dim

    @cached_property
    def betas(self) -> npt.NDArray[np.float32]:
        """Of the diffusion, (steps,)."""
        return cosine_betas(self.config.diffusion.steps)

    def shapes(self) -> Params:
        """The tree of parameters that this config has, with shapes instead of arrays."""
        config = self.config
        images = {s.name: np.zeros((1, 1, s.size_px, s.size_px, 3), np.uint8) for s in config.slots}
        language = np.zeros((1, config.language.tokens, config.language.width), np.float32)
        noisy, step = np.zeros((1, 1, self.chunk_size), np.float32), np.zeros((1, 1, 1), np.int32)
        seen = Observation(images, np.ones((1, 1), bool))
        params = jax.eval_shape(self._networks.init, jax.random.key(0), seen, language, noisy, step)["params"]
        if isinstance(config.language, T5):
            shapes = flatten_dict(t5.t5_shapes(config.language))
            tree = {(*T5_PATH, *path): jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}
            params = unflatten_dict(flatten_dict(params) | tree)
        return params

    def init(self, seed: int) -> Params:
        """Random parameters, numpy float32, distributed as in the released code.

        Small models whose tokens are patches also begin with positions that tell where: it takes long to find out.
        """
        rng = np.random.default_rng(seed)
        shapes = flatten_dict(self.shapes(), sep="/")
        flat = {path: _initial(path, leaf.shape, rng) for path, leaf in shapes.items()}
        if self.config.stem is not None and not self.config.stem.tokens:
            for slot in self.config.slots:
                flat[f"octo_transformer/obs_{slot.name}_pos_embedding"] += _waves(slot.tokens, self.config.width)
        return unflatten_dict(flat, sep="/")

    def encode_language(self, params: Params, ids: Values, mask: Values) -> jax.Array:
        """Features of an instruction, (batch, 16, 768), from the token ids of T5, (batch, 16)."""
        for name in T5_PATH:
            params = params[name]
        return t5.encode_t5(params, ids, mask)

    def apply(self, params: Params, observation: Observation, language: Values) -> jax.Array:
        """What the transformer has read out at each timestep, (batch, window, width)."""
        read: Any = self._networks.apply({"params": params}, observation, language, method="readout")
        return read

    def noise(self, params: Params, embedding: jax.Array, noisy: jax.Array, step: jax.Array) -> jax.Array:
        """What the head takes for noise in ``noisy`` (..., chunk_size) at the diffusion step ``step`` (..., 1)."""
        noise: Any = self._networks.apply({"params": params}, embedding, noisy, step, method="noise")
        return noise

    def loss(self, params: Params, batch: Batch, key: jax.Array) -> jax.Array:
        """The diffusion loss, summed over the numbers of an action and averaged over everything else."""
        observation = batch.observation
        predict = partial(self.noise, params, self.apply(params, observation, batch.language))
        mask = jnp.asarray(batch.action_mask) & jnp.asarray(observation.timestep_mask)[:, :, None, None]
        flat = (*mask.shape[:2], self.chunk_size)
        actions, draws = jnp.reshape(batch.actions, flat), self.config.diffusion.draws
        return self.config.action_dim * noise_loss(predict, actions, mask.reshape(flat), key, self.betas, draws)

    def sample(
        self, params: Params, observation: Observation, language: Values, key: jax.Array, used_dims: int | None = None
    ) -> jax.Array:
        """Draw a chunk of normalised actions for the newest timestep.

        Args:
            used_dims: how many numbers of an action mean something, where it is padded to ``action_dim``.

        Returns:
            (batch, action_horizon, action_dim), within +-5.
        """
        batch, window = observation.timestep_mask.shape
        embedding = self.apply(params, observation, language)[:, -1]
        dims = jnp.arange(self.config.action_dim) < (used_dims or self.config.action_dim)
        used = jnp.tile(dims, self.config.action_horizon)
        predict, shape = partial(self.noise, params, embedding), (batch, window, self.chunk_size)
        flat = denoise(predict, shape, used, key, self.betas, self.config.diffusion.clip_denoised)
        return flat.reshape(batch, self.config.action_horizon, self.config.action_dim)


def _waves(tokens: int, width: int) -> npt.NDArray[np.float32]:
    """Sines and cosines of row and column of the patches of a square, (tokens, width) (Vaswani et al. 2017)."""
    row, column = np.divmod(np.arange(tokens), round(tokens**0.5))
    frequencies = 100.0 ** -np.linspace(0.0, 1.0, width // 4, endpoint=False)
    angles = [place[:, None] * frequencies for place in (row, column)]
    waves = np.concatenate([function(angle) for angle in angles for function in (np.sin, np.cos)], axis=1)
    return np.pad(0.5 * waves, ((0, 0), (0, width - waves.shape[1]))).astype(np.float32)


def _initial(path: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A parameter before training. In numpy: XLA takes ten seconds to compile the draws of the smallest model."""
    leaf = path.rpartition("/")[2]
    if leaf == "bias":
        return np.zeros(shape, np.float32)
    if leaf in ("scale", "weight"):
        return np.ones(shape, np.float32)
    normal = rng.standard_normal(shape, np.float32)
    if leaf != "kernel":
        return np.float32(0.02) * normal  # embeddings
    if "time_preprocess" in path:
        return np.float32(0.2) * normal
    heads = path.endswith(("query/kernel", "key/kernel", "value/kernel"))
    fan_out = int(np.prod(shape[1:] if heads else shape[-1:]))
    fan_in = normal.size // fan_out
    if any(part in path for part in ("Transformer_0", "cond_encoder", "reverse_network/Dense")):
        limit = (6.0 / (fan_in + fan_out)) ** 0.5  # Glorot and Bengio 2010
        return rng.uniform(-limit, limit, shape).astype(np.float32)
    return np.float32(fan_in**-0.5) * normal  # LeCun et al. 1998
