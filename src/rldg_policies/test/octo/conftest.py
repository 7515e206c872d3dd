"""A small model and what it reads, for the tests of Octo."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rldg_policies.octo.checkpoint import Checkpoint
from rldg_policies.octo.config import Diffusion, Embedding, ImageSlot, OctoConfig
from rldg_policies.octo.data_layout import Batch, Episode, make_batch
from rldg_policies.octo.model import OctoModel

LOW, HIGH = [-1.0] * 6 + [0.0], [1.0] * 7
STATISTICS = {
    "pegs": {
        "action": {
            **{"mean": [0.5] * 7, "std": [2.0] * 7, "min": LOW, "max": HIGH, "q01": LOW, "q99": HIGH},
            "mask": [True] * 6 + [False],
        }
    }
}


@pytest.fixture(scope="module", autouse=True)
def compile_quickly() -> Iterator[None]:
    """The models are so small that optimising them takes longer than running them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def model() -> OctoModel:
    return OctoModel(
        OctoConfig(
            slots=(ImageSlot(name="wrist", size_px=16),),
            language=Embedding(width=8),
            width=16,
            layers=1,
            heads=2,
            mlp=32,
            window=2,
            diffusion=Diffusion(steps=5, hidden=16, blocks=1),
        )
    )


@pytest.fixture(scope="session")
def params(model: OctoModel) -> Any:
    return model.init(0)


@pytest.fixture(scope="session")
def checkpoint(model: OctoModel, params: Any) -> Checkpoint:
    return Checkpoint(model.config, params, STATISTICS)


@pytest.fixture(scope="session")
def episode() -> Episode:
    """Six frames."""
    rng = np.random.default_rng(0)
    return Episode(
        {"wrist": rng.integers(0, 256, (6, 16, 16, 3), np.uint8)},
        rng.normal(size=(6, 7)).astype(np.float32),
        rng.normal(size=(1, 8)).astype(np.float32),
    )


@pytest.fixture
def batch(model: OctoModel, episode: Episode) -> Batch:
    return make_batch([episode], [(0, 0), (0, 2), (0, 4), (0, 5)], model.config)


@pytest.fixture(scope="session")
def golden(golden_path: Callable[[str], Path]) -> dict[str, Any]:
    """What the released code computed with a tiny random model, where it is at hand."""
    with np.load(golden_path("octo_tiny_wrist.npz"), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
