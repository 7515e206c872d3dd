"""How often a second the small generalists answer on a CPU, and how many passes a draft saves.

Each model has random weights and is served as the policy node serves it: a checkpoint folder through the policy's
factory, an observation with an image of 256 x 256 pixels in, a chunk of actions out, image preparation included; with
all cores that the process may use. Rates are of the median call; the CPU time of a call is a figure of its own, because
wall time on a busy machine measures the neighbours. Octo-small has the wrist slot and language features of the shape
of T5's, which are computed once for an instruction, here by a T5 of one layer. torch and JAX have a process each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

IMAGE_PX, WARM_UP = 256, 10
INSTRUCTION = "insert the usb plug into the socket"
HIT_RATE, DIMS = 0.7, 7  # of a draft; of an action
MODELS = {"openvla_nano": "openvla", "octo_nano": "octo", "octo_small": "octo"}


def main(argv: list[str]) -> dict[str, float]:
    """Measure; the figures are those of docs/reference/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="rldg bench generalists", description=__doc__)
    parser.add_argument("--calls", type=int, default=100, help="of which the median counts (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=500, help="decoded with and without draft (default: %(default)s)")
    options = parser.parse_args(argv)
    if min(options.calls, options.frames) < 1:
        parser.error(f"--calls {options.calls}, --frames {options.frames}: must be at least 1")
    figures: dict[str, float] = {}
    for model in MODELS:
        figures |= run(model, options.calls)
    figures |= run("draft", options.frames)
    return figures


def run(what: str, count: int) -> dict[str, float]:
    """The figures of one measurement in a process of its own; none, with a line on stderr, where it failed."""
    command = [sys.executable, str(Path(__file__).resolve()), what, str(count)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired as error:
        print(f"{what}: not measured: {error}", file=sys.stderr)
        return {}
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{what}: not measured: {last}", file=sys.stderr)
        return {}
    figures = dict(json.loads(done.stdout.strip().splitlines()[-1]))
    print(", ".join(f"{name} {value:.3g}" for name, value in figures.items()), file=sys.stderr)
    return figures


def time_policy(model: str, calls: int) -> dict[str, float]:
    """Wall and CPU time from observation to chunk."""
    from rldg_core.frames import Pose
    from rldg_core.task import load_robot, load_task
    from rldg_core.types import Observation
    from rldg_policies.policy import make_policy

    task, robot, kind = load_task("usb_insertion"), load_robot("fr3"), MODELS[model]
    images = np.random.default_rng(0).integers(0, 256, (16, IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
    observations = itertools.cycle(
        Observation(1, image, Pose.identity(), np.zeros(6), np.zeros(6), 0.0, True, instruction=INSTRUCTION)
        for image in images
    )
    with tempfile.TemporaryDirectory() as folder:
        parameters = {"openvla": write_openvla, "octo": write_octo}[kind](Path(folder), model, task)
        policy = make_policy(kind, task, robot, model, parameters)
    policy.warm_up()
    policy.reset()
    wall, cpu = [], []
    for call in range(WARM_UP + calls):
        observation = next(observations)
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        policy.act(observation)
        if call >= WARM_UP:
            wall.append(time.perf_counter() - wall_start)
            cpu.append(time.process_time() - cpu_start)
    return {f"{model}_hz": 1.0 / statistics.median(wall), f"{model}_cpu_ms": 1e3 * statistics.median(cpu)}


def write_openvla(folder: Path, model: str, task: Any) -> dict[str, Any]:
    """A checkpoint with random weights, and what a policy is told about it."""
    from rldg_policies.openvla import checkpoint

    checkpoint.write(folder, random_openvla(model.replace("_", "-")))
    write_card(folder, "openvla", model, task)
    return {"checkpoint": str(folder), "draft": "none"}  # a draft saves passes where actions are alike, not here


def random_openvla(preset_name: str) -> Any:
    from rldg_policies.openvla.model import make_random_model
    from rldg_policies.openvla.nano_vocabulary import nano_tokenizer
    from rldg_policies.openvla.policy import OpenVLA
    from rldg_policies.openvla.presets import preset
    from rldg_policies.openvla.prompt import PromptEncoder

    config = preset(preset_name)
    return OpenVLA(make_random_model(config, 0), PromptEncoder(nano_tokenizer(), config), STATISTICS)


def write_octo(folder: Path, model: str, task: Any) -> dict[str, Any]:
    """As :func:`write_openvla`."""
    import msgspec
    from tokenizers import Tokenizer, models, pre_tokenizers

    from rldg_policies.octo import checkpoint
    from rldg_policies.octo.config import T5, for_camera
    from rldg_policies.octo.model import OctoModel
    from rldg_policies.octo.presets import preset

    config = for_camera(preset(model.replace("_", "-")), "wrist")
    config = msgspec.structs.replace(config, window=1)
    if isinstance(config.language, T5):
        config = msgspec.structs.replace(config, language=T5(vocabulary=64, layers=1, heads=1, mlp=64))
    checkpoint.write(folder, checkpoint.Checkpoint(config, OctoModel(config).init(0), STATISTICS))
    write_card(folder, "octo", model, task)
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return {"checkpoint": str(folder), "tokenizer": str(folder)}


LOW, HIGH = [-1.0] * DIMS, [1.0] * DIMS
STATISTICS = {
    "random": {"action": {"mean": [0.0] * DIMS, "std": HIGH, "min": LOW, "max": HIGH, "q01": LOW, "q99": HIGH}}
}


def write_card(folder: Path, kind: Any, model: str, task: Any) -> None:
    from rldg_policies.generalist import GeneralistCard
    from rldg_policies.generalist import write_card as write

    scale = tuple(task.control.scale.tolist())
    card = GeneralistCard(
        **{"type": kind, "name": model, "base": model, "training_set": "random", "statistics_sha256": ""},
        **{"rate_hz": task.control.rate_hz, "scale": scale, "instructions": (INSTRUCTION,)},
        **{"steps": 0, "seed": 0, "held_out": {}},
    )
    write(folder, card)


def count_passes(frames: int) -> dict[str, float]:
    """Passes without a draft, over passes with one that guesses 7 of 10 dimensions; fails where a token differs."""
    import torch

    from rldg_policies.openvla.policy import fixed_draft

    policy = random_openvla("openvla-nano")
    with torch.no_grad():  # so large that images change the tokens
        policy.model.language_model.model.embed_tokens.weight.mul_(20.0)
        policy.model.projector.fc3.weight.mul_(4.0)
    rng = np.random.default_rng(0)
    base = policy.model.spec.action_base_id
    plain = drafted = 0
    distinct = set()
    for number in range(frames):
        image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)  # enlarged: noise of single pixels all looks alike
        _, alone = policy.predict(image, INSTRUCTION)
        wrong = rng.integers(base - policy.model.spec.n_bins, base, DIMS)
        guesses = np.where(rng.random(DIMS) < HIT_RATE, alone.ids, wrong).tolist()
        _, helped = policy.predict(image, INSTRUCTION, fixed_draft(guesses))
        if helped.ids != alone.ids:
            raise SystemExit(f"frame {number}: {helped.ids} with a draft, {alone.ids} without")
        plain, drafted = plain + alone.passes, drafted + helped.passes
        distinct.add(tuple(alone.ids))
    return {"draft_passes_ratio": plain / drafted, "draft_distinct_share": len(distinct) / frames}


if __name__ == "__main__":
    name, number = sys.argv[1], int(sys.argv[2])
    print(json.dumps(count_passes(number) if name == "draft" else time_policy(name, number)))
