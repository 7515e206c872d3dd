"""The encoder of T5 (Raffel et al. 2020) as a function of its weights, which stay as they are.

The tree of weights is that of Hugging Face's Flax T5, as the Octo checkpoints hold it.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from rldg_policies.octo.config import T5

BUCKETS, MAX_DISTANCE = 32, 128  # of relative positions
EPSILON = 1e-6
Params = Any  # a tree of arrays


def t5_shapes(config: T5) -> dict[str, Any]:
    """Shapes of the weights, in their tree."""
    inner, norm = config.heads * config.head_width, {"weight": (config.width,)}
    into, out = {"kernel": (config.width, inner)}, {"kernel": (inner, config.width)}
    mlp = {"wi": {"kernel": (config.width, config.mlp)}, "wo": {"kernel": (config.mlp, config.width)}}
    blocks: dict[str, Any] = {}
    for layer in range(config.layers):
        attention: dict[str, Any] = {"q": into, "k": into, "v": into, "o": out}
        if layer == 0:  # all layers share it
            attention["relative_attention_bias"] = {"embedding": (BUCKETS, config.heads)}
        halves = {
            "0": {"SelfAttention": attention, "layer_norm": norm},
            "1": {"DenseReluDense": mlp, "layer_norm": norm},
        }
        blocks[str(layer)] = {"layer": halves}
    return {
        "shared": {"embedding": (config.vocabulary, config.width)},
        "encoder": {"block": blocks, "final_layer_norm": norm},
    }


def relative_buckets(length: int) -> npt.NDArray[np.int64]:
    """Bucket of the distance from each token to each other, (length, length): exact up to 7, then logarithmic.

    Half of the buckets are for keys that come after the query (Raffel et al., section 2.1).
    """
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half, exact = BUCKETS // 2, BUCKETS // 4
    near = np.abs(distance)
    with np.errstate(divide="ignore"):
        far = exact + (np.log(near / exact) / math.log(MAX_DISTANCE / exact) * (half - exact)).clip(0).astype(int)
    return np.where(distance > 0, half, 0) + np.where(near < exact, near, np.minimum(far, half - 1))


def _normalised(params: Params, x: jax.Array) -> jax.Array:
    return params["weight"] * x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + EPSILON)


def encode_t5(params: Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """Features of token ids.

    Args:
        params: tree under ``hf_model``.
        ids, mask: (batch, n) integers; where the mask is 0, a token is not looked at.

    Returns:
        (batch, n, width), of padding too.
    """
    blocks = params["encoder"]["block"]
    table = blocks["0"]["layer"]["0"]["SelfAttention"]["relative_attention_bias"]["embedding"]
    bias = jnp.moveaxis(table[relative_buckets(ids.shape[1])], -1, 0)[None]
    bias = jnp.where(mask[:, None, None, :] > 0, bias, jnp.finfo(jnp.float32).min)
    x = params["shared"]["embedding"][ids]
    for layer in range(len(blocks)):
        attention, mlp = blocks[str(layer)]["layer"]["0"], blocks[str(layer)]["layer"]["1"]
        x = x + _attention(attention["SelfAttention"], _normalised(attention["layer_norm"], x), bias)
        dense = mlp["DenseReluDense"]
        hidden = jax.nn.relu(_normalised(mlp["layer_norm"], x) @ dense["wi"]["kernel"])
        x = x + hidden @ dense["wo"]["kernel"]
    return _normalised(params["encoder"]["final_layer_norm"], x)


def _attention(params: Params, x: jax.Array, bias: jax.Array) -> jax.Array:
    """T5 does not divide by the root of the width."""
    q, k, v = (jnp.reshape(x @ params[name]["kernel"], (*x.shape[:2], bias.shape[1], -1)) for name in ("q", "k", "v"))
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias, axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*x.shape[:2], -1) @ params["o"]["kernel"]
