"""How fast OpenVLA-7B answers on a GPU, and how often its faster modes say the same.

From an image of 256 x 256 pixels to the tokens of an action, image preparation included, by the median call: the
decoder of this project (``exact``: fixed memory, recorded passes), the same with a draft that guesses 7 of 10
dimensions right, ``generate`` of transformers on the very same language model, and the modes with rounded weights. The
weights of a preset are random, made on the device, with a head that prefers actions as a trained one does: good for
times, and hard on agreement, because near ties are everywhere. With a checkpoint the frames are those of a training
set that were held out, and what the modes did is written into the checkpoint's ``agreement.yaml``.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rldg_policies.openvla.agreement import Agreement, Frame
    from rldg_policies.openvla.policy import OpenVLA

IMAGE_PX, WARM_UP = 256, 5
HIT_RATE, DIMS = 0.7, 7  # of a draft; of an action
PROMPT_TOKENS = 24  # of a usual instruction
FAST = ("fast_int8", "fast_int4")


def main(argv: list[str]) -> dict[str, float]:
    """Measure; the figures are those of docs/reference/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="rldg bench openvla", description=__doc__)
    parser.add_argument("--preset", help="with random weights (default: openvla-7b)")
    parser.add_argument("--checkpoint", type=Path, help="a folder made by ./rldg finetune, instead of a preset")
    parser.add_argument("--data", type=Path, help="the training set of the checkpoint, whose held-out frames are shown")
    parser.add_argument("--frames", type=int, default=200, help="to ask about (default: %(default)s)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options = parser.parse_args(argv)
    if options.frames < 1:
        parser.error(f"--frames: is {options.frames}, must be at least 1")
    if (options.checkpoint is None) != (options.data is None) or (options.checkpoint and options.preset):
        parser.error("--checkpoint and --data belong together, and without --preset")
    import torch

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        return absent("there is no CUDA device")
    preset_name = options.preset or "openvla-7b"
    if device == "cpu" and preset_name == "openvla-7b" and options.checkpoint is None:
        return absent("openvla-7b needs a CUDA device, and there is none; --preset openvla-nano runs here")
    if device == "cpu":
        from os import sched_getaffinity

        torch.set_num_threads(len(sched_getaffinity(0)))
    try:
        if options.checkpoint is None:
            policy, frames = random_policy(preset_name, device), random_frames(options.frames)
        else:
            policy, frames = load_policy(options.checkpoint, options.data, device, options.frames)
        found = compare(policy, frames)
    except (ValueError, OSError, MemoryError, torch.cuda.OutOfMemoryError) as error:
        raise SystemExit(f"rldg bench openvla: {error}") from None
    if options.checkpoint is not None:
        from rldg_policies.openvla.agreement import write_report

        print(f"written: {write_report(options.checkpoint, found[1])}", file=sys.stderr)
    show(found[1])
    return found[0]


def absent(why: str) -> dict[str, float]:
    print(f"exact_hz, draft_hz, baseline_hz, token_agreement: not measured: {why}", file=sys.stderr)
    return {}


def compare(policy: OpenVLA, frames: list[Frame]) -> tuple[dict[str, float], dict[str, Agreement]]:
    """All figures, and the agreement of each fast mode."""
    from rldg_policies.openvla.agreement import agreement
    from rldg_policies.openvla.policy import OpenVLA, fixed_draft
    from rldg_policies.openvla.rounding import rounded_copy

    spec, rng = policy.model.spec, np.random.default_rng(0)
    policy.warm_up(frames[0][1])

    def draft(truth: list[int]) -> list[int]:
        wrong = rng.integers(spec.action_base_id - spec.n_bins, spec.action_base_id, len(truth))
        return np.where(rng.random(len(truth)) < HIT_RATE, truth, wrong).tolist()

    exact_hz, exact = ask(frames, lambda image, words, _: policy.predict(image, words)[1].ids)
    guesses = iter([draft(ids) for ids in (exact[0],) * WARM_UP + tuple(exact)])
    draft_hz, drafted = ask(
        frames, lambda image, words, _: policy.predict(image, words, fixed_draft(next(guesses)))[1].ids
    )
    baseline_hz, baseline = ask(frames, lambda image, words, _: generate(policy, image, words))
    figures = {
        "exact_hz": exact_hz,
        "draft_hz": draft_hz,
        "baseline_hz": baseline_hz,
        "token_agreement": share_equal(exact, baseline),
        "token_agreement_draft": share_equal(exact, drafted),
        "distinct_share": len(set(map(tuple, exact))) / len(exact),
    }
    for name, value in figures.items():
        print(f"{name}: {value:.4g}", file=sys.stderr)
    reports: dict[str, Agreement] = {}
    for mode in FAST:
        try:
            model = rounded_copy(policy.model, mode)
        except ValueError as error:
            print(f"{mode}_hz, token_agreement_{mode}: not measured: {error}", file=sys.stderr)
            continue
        rounded = OpenVLA(model, policy.prompts, policy.statistics, policy.dataset)
        reports[mode] = agreement(policy, rounded, frames)
        figures[f"{mode}_hz"] = reports[mode].fast_hz
        figures[f"token_agreement_{mode}"] = reports[mode].token_agreement
    return figures, reports


def ask(frames: list[Frame], answer: Callable[..., list[int]]) -> tuple[float, list[list[int]]]:
    """Answers per second, and what they were."""
    times, answers = [], []
    for number, (image, words) in enumerate(itertools.chain([frames[0]] * WARM_UP, frames)):
        began_s = time.perf_counter()
        ids = answer(image, words, number)
        if number >= WARM_UP:
            times.append(time.perf_counter() - began_s)
            answers.append(ids)
    return 1.0 / statistics.median(times), answers


def generate(policy: OpenVLA, image: Any, instruction: str) -> list[int]:
    """The same tokens by transformers' own loop, with its own cache, over the whole vocabulary."""
    import torch

    from rldg_policies.openvla.images import preprocess

    model, dims = policy.model, policy.action_dim
    llama = model.language_model
    with torch.inference_mode():
        ids = torch.tensor([policy.prompts.prompt(instruction, dims)], device=llama.lm_head.weight.device)
        embeds = model.embed(preprocess(image, model.spec).to(llama.lm_head.weight), ids)
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        found = llama.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=dims,
            min_new_tokens=dims,
            do_sample=False,
            pad_token_id=model.spec.llama.pad_token_id,
        )
    return found[0, -dims:].tolist()


def share_equal(some: list[list[int]], others: list[list[int]]) -> float:
    return float((np.array(some) == np.array(others)).mean())


# --- what is asked, and about what -----------------------------------------------------------------------------------


class FixedPrompt:
    """The ids of some instruction of usual length: a preset has no tokenizer of its own, and times depend on none."""

    def __init__(self, vocabulary: int, empty_token_id: int) -> None:
        body = np.random.default_rng(1).integers(3, vocabulary, PROMPT_TOKENS - 2)
        self._ids = [1, *body.tolist(), empty_token_id]

    def prompt(self, instruction: str, action_dim: int) -> list[int]:
        return self._ids


def random_policy(preset_name: str, device: str) -> OpenVLA:
    """A preset with random weights in the type of its files, made where it is used."""
    import torch
    from torch import nn

    from rldg_policies.openvla.memory import check_free, weight_bytes
    from rldg_policies.openvla.model import make_model
    from rldg_policies.openvla.policy import OpenVLA
    from rldg_policies.openvla.presets import preset

    config = preset(preset_name)
    model = make_model(config, getattr(torch, config.torch_dtype))
    check_free(preset_name, weight_bytes(model), torch.device(device))
    model = model.to_empty(device=device).eval()
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                if isinstance(module, (nn.Linear, nn.Conv2d)) and name == "weight":
                    weight.normal_(0.0, weight[0].numel() ** -0.5, generator=generator)
                elif weight.ndim == 1:
                    weight.fill_(0.0 if name == "bias" else 1.0)
                else:
                    weight.normal_(0.0, 1.0, generator=generator)
        first = config.action_base_id - config.n_bins
        model.language_model.lm_head.weight[first : config.action_base_id] *= 4.0  # so that actions win
    prompts: Any = FixedPrompt(first, config.empty_token_id)
    low, high = [-1.0] * DIMS, [1.0] * DIMS
    action = {"mean": low, "std": high, "min": low, "max": high, "q01": low, "q99": high}
    return OpenVLA(model, prompts, {"random": {"action": action}})


def random_frames(count: int) -> list[Frame]:
    """Images of 8 x 8 large pixels: noise of single ones all looks alike."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [(image.repeat(IMAGE_PX // 8, 0).repeat(IMAGE_PX // 8, 1), "insert") for image in coarse]


def load_policy(folder: Path, data: Path, device: str, count: int) -> tuple[OpenVLA, list[Frame]]:
    """A checkpoint, and frames of the episodes that it was not trained on, evenly taken."""
    from rldg_policies.generalist import read_card
    from rldg_policies.openvla.checkpoint import load
    from rldg_policies.training_frames import load_frames

    card = read_card(folder, "openvla")
    held_out = load_frames(data, seed=card.seed).held_out
    places = [(episode, row) for episode in held_out for row in range(len(episode))]
    chosen = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)
    frames = [(episode.images[row], episode.instruction) for episode, row in (places[index] for index in chosen)]
    return load(folder, dataset=card.training_set, device=device), frames


def show(found: dict[str, Agreement]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("mode", "same tokens", "within a bin", "by dimension", "l1", "max", "MB", "Hz", highlight=False)
    for row in rows(found):
        table.add_row(*row)
    console = Console(stderr=True, width=120)
    console.print(table)
    for said in list(found.values())[:1]:
        console.print(f"{said.frames} frames, {said.distinct_share:.0%} of the exact answers differ from each other")


def rows(found: dict[str, Agreement]) -> Iterator[list[str]]:
    for mode, said in found.items():
        if mode == next(iter(found)):
            yield ["exact", "1", "1", "", "0", "0", f"{said.exact_mb:.0f}", f"{said.exact_hz:.1f}"]
        by_dimension = " ".join(f"{share:.2f}" for share in said.by_dimension)
        parts = [f"{value:.3f}" for value in (said.token_agreement, said.within_one_bin)]
        differences = [f"{value:.4f}" for value in (said.l1, said.max_difference)]
        yield [mode, *parts, by_dimension, *differences, f"{said.fast_mb:.0f}", f"{said.fast_hz:.1f}"]
