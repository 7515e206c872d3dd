"""A step on a batch that is spread over two devices equals one on a single device."""

import os
import subprocess
import sys

import jax
import pytest

from rldg_policies.octo.config import OctoError
from rldg_policies.octo.data_layout import Batch
from rldg_policies.octo.training import make_mesh, shard

# printed: devices, and by how much parameters (relative to how far they came) and losses differ after two steps
CODE = """
import sys
import jax, numpy as np
from rldg_policies.octo.config import Diffusion, Embedding, ImageSlot, OctoConfig
from rldg_policies.octo.data_layout import Episode, make_batch
from rldg_policies.octo.model import OctoModel
from rldg_policies.octo.training import TrainingConfig, make_mesh, make_state, replicate, shard, train_step

jax.config.update("jax_disable_most_optimizations", True)
model = OctoModel(
    OctoConfig(
        slots=(ImageSlot(name="wrist", size_px=16),), language=Embedding(width=8), width=16, layers=1, heads=2, mlp=32,
        diffusion=Diffusion(steps=5, hidden=16, blocks=1),
    )
)
config = TrainingConfig(steps=10, warmup_steps=0, learning_rate=1e-3)
rng = np.random.default_rng(0)
episode = Episode(
    {"wrist": rng.integers(0, 256, (4, 16, 16, 3), np.uint8)},
    rng.normal(size=(4, 7)).astype(np.float32), rng.normal(size=(1, 8)).astype(np.float32),
)
batch = make_batch([episode], [(0, t) for t in range(4)], model.config)
ended = []
for devices in (jax.devices()[:1], jax.devices()):
    mesh = make_mesh(devices)
    state = replicate(make_state(model.init(0), config), mesh)
    for step in range(2):
        state, metrics = train_step(state, shard(batch, mesh), jax.random.key(step), model, config)
    assert all(leaf.sharding.is_fully_replicated for leaf in state.trained.values())
    assert all(len(leaf.devices()) == len(devices) for leaf in state.trained.values())
    ended.append((state.trained, float(metrics["loss"])))
(one, one_loss), (two, two_loss) = ended
start = make_state(model.init(0), config).trained
between, way = (
    sum(float(np.abs(np.asarray(a[path]) - np.asarray(one[path])).sum()) for path in one) for a in (two, start)
)
print(len(jax.devices()), between / way, abs(one_loss - two_loss) / one_loss)
"""


def test_two_devices_train_as_one_does() -> None:
    flags = "--xla_force_host_platform_device_count=2 --xla_cpu_use_fusion_emitters=false"  # the second compiles faster
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-2000:]
    devices, parameters, loss = done.stdout.split()
    assert devices == "2"
    assert float(parameters) < 1e-3
    assert float(loss) < 1e-5


def test_a_batch_that_cannot_be_spread_evenly_is_refused(batch: Batch) -> None:
    mesh = make_mesh(jax.devices()[:1] * 3)
    with pytest.raises(OctoError, match="batch: has 4 samples, must be a multiple of the number of devices, 3"):
        shard(batch, mesh)
