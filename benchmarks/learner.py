"""How fast the learner learns, how much it remembers per byte, and how that compares with LeRobot's SAC learner.

Rates are critic updates per second, the median of several blocks: drawing batches of 256 from both lists included, an
update of actor and temperature with every second one. By the clock, either may use all cores (what counts is the best
of LeRobot with one thread and with one a core); by CPU time, either has one thread for its matrices. Its networks,
buffers and order of calls are its own, with the same sizes and its own compilation on (its default) and off; its state
encoder, which cannot be left out, is as wide as its input. It is measured where the interpreter in RLDG_PEER_PYTHON,
or this one, can import it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FEATURES, ACTIONS, BATCH, UTD, ACTOR_EVERY = 90, 6, 256, 4, 2
TRANSITIONS = 4000  # in either list
IMAGE_TRANSITIONS = 50_000
GRID = (4, 4, 320)  # what the ImageNet backbone makes of an image of 128 x 128 pixels
ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def main(argv: list[str]) -> dict[str, float]:
    """Measure; the figures are those of docs/reference/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="rldg bench learner", description=__doc__)
    parser.add_argument("--groups", type=int, default=25, help="of 4 updates, in one block (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=5, help="of which the median counts (default: %(default)s)")
    options = parser.parse_args(argv)
    arguments = [str(options.groups), str(options.blocks)]
    ours = run(sys.executable, "ours", arguments)
    if ours is None:
        raise SystemExit("rldg bench learner: the learner itself could not be measured; see above")
    figures = {"updates_per_s": 1.0 / ours["wall_s"], "updates_per_cpu_s": 1.0 / ours["cpu_s"]}
    tell("ours", ours)
    python = os.environ.get("RLDG_PEER_PYTHON", sys.executable)
    cores = len(os.sched_getaffinity(0))
    for what, figure in (("lerobot_compiled", "ratio_lerobot"), ("lerobot", "ratio_lerobot_eager")):
        peers = [run(python, what, [*arguments, str(threads)]) for threads in sorted({1, cores})]
        measured = [peer for peer in peers if peer is not None]
        for peer in measured:
            tell(what, peer)
        if measured:
            figures[figure] = min(peer["wall_s"] for peer in measured) / ours["wall_s"]
            figures[f"{figure}_cpu"] = min(peer["cpu_s"] for peer in measured) / ours["cpu_s"]
    for views in (1, 2):
        memory = run(sys.executable, "memory", [str(views)])
        if memory is not None:
            figures[f"bytes_per_transition_{views}_view{'s' * (views > 1)}"] = memory["bytes_per_transition"]
            figures[f"resident_gb_of_50k_{views}_view{'s' * (views > 1)}"] = memory["resident_bytes"] / 1e9
    return figures


def tell(what: str, measured: dict[str, float]) -> None:
    rates = f"{1.0 / measured['wall_s']:.0f} updates/s, {1.0 / measured['cpu_s']:.0f} per CPU second"
    print(f"{what}: {rates}", file=sys.stderr)


def run(python: str, what: str, arguments: list[str]) -> dict[str, float] | None:
    """One measurement in a process of its own, or None with a line on stderr that says why not."""
    environment = os.environ | ONE_THREAD
    if what.startswith("lerobot"):
        environment = {k: v for k, v in environment.items() if k not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    command = [python, str(Path(__file__).resolve()), what, *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"{what}: not measured: {error}", file=sys.stderr)
        return None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{what}: not measured with {python}: {last}; see RLDG_PEER_PYTHON", file=sys.stderr)
        return None
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def time_blocks(group: Callable[[], None], wait: Callable[[], None], groups: int, blocks: int) -> dict[str, float]:
    """Median CPU and wall time of one update (s), of ``UTD`` in a group."""
    for _ in range(3):
        group()
    wait()
    cpu, wall = [], []
    for _ in range(blocks):
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        for _ in range(groups):
            group()
        wait()
        cpu.append((time.process_time() - cpu_start) / groups / UTD)
        wall.append((time.perf_counter() - wall_start) / groups / UTD)
    return {"cpu_s": statistics.median(cpu), "wall_s": statistics.median(wall)}


def ours(groups: int, blocks: int) -> dict[str, float]:
    import jax
    import numpy as np

    from rldg_rl.config import Encoder, TrainingConfig
    from rldg_rl.learner import Learner
    from rldg_rl.networks import Spec
    from rldg_rl.replay import Transition

    config = TrainingConfig(encoder=Encoder.STATE, batch=BATCH, utd=UTD, actor_every=ACTOR_EVERY)
    learner = Learner(config, Spec(FEATURES), 0)
    rng = np.random.default_rng(0)
    for demo in (True, False):
        frames = rng.normal(size=(TRANSITIONS + 1, FEATURES)).astype(np.float32)
        actions = rng.uniform(-1, 1, (TRANSITIONS, ACTIONS))
        learner.add(
            Transition(str(demo), t, frames[t], frames[t + 1], actions[t], float(end), end, False, False, demo)
            for t in range(TRANSITIONS)
            for end in (t % 20 == 19,)
        )

    def group() -> None:
        if not learner.step():
            raise SystemExit("the governor allows no more updates: fewer --groups or --blocks")

    return time_blocks(group, lambda: jax.block_until_ready(learner.metrics() and None), groups, blocks)


def memory(views: int) -> dict[str, float]:
    """What 50,000 transitions of images take as the replay counts it, and as the process grows."""
    import numpy as np

    from rldg_rl.networks import Spec
    from rldg_rl.replay import Replay, Transition

    spec = Spec(GRID[0] * GRID[1] * GRID[2] + 19, grid=GRID)
    replay = Replay(spec, 200_000, views)
    before = resident_bytes()
    frame = np.zeros((views, spec.features), np.float16)
    for t in range(IMAGE_TRANSITIONS):
        following = frame.copy()
        following[:] = t % 1000 + 1
        replay.add(Transition("0", t, frame, following, np.zeros(ACTIONS), 0.0, False, False, t % 4 == 0, False))
        frame = following
    return {
        "bytes_per_transition": replay.bytes_per_transition,
        "resident_bytes": float(resident_bytes() - before),
    }


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def lerobot(groups: int, blocks: int, threads: int, *, compiled: bool) -> dict[str, float]:
    """In the peer's interpreter: the body of its learner's loop, which ends with an update of the actor."""
    import numpy as np
    import torch  # type: ignore[import-not-found]
    from lerobot.configs.types import FeatureType, PolicyFeature  # type: ignore[import-not-found]
    from lerobot.policies.sac.configuration_sac import SACConfig  # type: ignore[import-not-found]
    from lerobot.policies.sac.modeling_sac import SACPolicy  # type: ignore[import-not-found]
    from lerobot.rl.buffer import ReplayBuffer, concatenate_batch_transitions  # type: ignore[import-not-found]

    torch.set_num_threads(threads)
    state, action = "observation.state", "action"
    config = SACConfig(
        input_features={state: PolicyFeature(FeatureType.STATE, (FEATURES,))},
        output_features={action: PolicyFeature(FeatureType.ACTION, (ACTIONS,))},
        dataset_stats={
            state: {"min": [-1.0] * FEATURES, "max": [1.0] * FEATURES},
            action: {"min": [-1.0] * ACTIONS, "max": [1.0] * ACTIONS},
        },
        device="cpu",
        latent_dim=FEATURES,
        use_torch_compile=compiled,
        use_backup_entropy=False,
        discount=0.97,
        temperature_init=0.01,
    )
    policy = SACPolicy(config)
    policy.train()
    actor = [p for n, p in policy.actor.named_parameters() if not n.startswith("encoder")]
    optimizers = {
        "critic": torch.optim.Adam(policy.critic_ensemble.parameters(), lr=3e-4),
        "actor": torch.optim.Adam(actor, lr=3e-4),
        "temperature": torch.optim.Adam([policy.log_alpha], lr=3e-4),
    }
    trained: dict[str, list[Any]] = {
        "critic": list(policy.critic_ensemble.parameters()),
        "actor": actor,
        "temperature": [policy.log_alpha],
    }
    rng = np.random.default_rng(0)
    buffers = []
    for _ in range(2):
        buffer = ReplayBuffer(TRANSITIONS, device="cpu", state_keys=[state], use_drq=False)
        frames = torch.from_numpy(rng.normal(size=(TRANSITIONS + 1, 1, FEATURES)).astype(np.float32))
        for t in range(TRANSITIONS):
            end = t % 20 == 19
            buffer.add({state: frames[t]}, torch.rand(1, ACTIONS), float(end), {state: frames[t + 1]}, end, False)
        buffers.append(buffer)

    def descend(model: str, batch: dict[str, Any]) -> None:
        loss = policy.forward(batch, model=model)[f"loss_{model}"]
        optimizers[model].zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters=trained[model], max_norm=40.0)
        optimizers[model].step()

    def group() -> None:
        for _ in range(UTD // ACTOR_EVERY):
            for _ in range(ACTOR_EVERY):
                batch = concatenate_batch_transitions(*(buffer.sample(BATCH // 2) for buffer in buffers))
                descend("critic", batch)
                policy.update_target_networks()
            descend("actor", batch)
            descend("temperature", batch)

    return time_blocks(group, lambda: None, groups, blocks)


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    if name == "memory":
        print(json.dumps(memory(int(numbers[0]))))
    elif name == "ours":
        print(json.dumps(ours(*map(int, numbers))))
    else:
        print(json.dumps(lerobot(*map(int, numbers), compiled=name == "lerobot_compiled")))
