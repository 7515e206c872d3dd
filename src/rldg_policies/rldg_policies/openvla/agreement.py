"""How often a model with rounded weights says what the exact one says, and what it costs: measured, never assumed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from rldg_policies.openvla.memory import weight_bytes
from rldg_policies.openvla.policy import OpenVLA

REPORT = "agreement.yaml"  # in the folder of the checkpoint

Frame = tuple[npt.NDArray[np.uint8], str]
"""Image and instruction."""


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Two models asked about the same frames. Each decodes on its own: after a token that differs, others may.

    Attributes:
        frames: that both were asked about.
        distinct_share: different answers of the exact model per frame: where it always says the same, agreement says
            nothing.
        token_agreement: share of tokens that are equal; ``by_dimension`` of those of each dimension of the action.
        within_one_bin: share of tokens that are equal or neighbours.
        l1: mean difference of a number of the action, in the units of the training set.
        max_difference: the largest.
        exact_mb, fast_mb: memory of the weights.
        exact_hz, fast_hz: answers per second, of the median, on ``device``.
    """

    frames: int
    distinct_share: float
    token_agreement: float
    by_dimension: tuple[float, ...]
    within_one_bin: float
    l1: float
    max_difference: float
    exact_mb: float
    fast_mb: float
    exact_hz: float
    fast_hz: float
    device: str


def agreement(exact: OpenVLA, fast: OpenVLA, frames: Iterable[Frame]) -> Agreement:
    """Ask both about every frame, by turns.

    Raises:
        ValueError: there is no frame, or the models are not of the same kind.
    """
    if exact.model.spec != fast.model.spec or exact.bounds != fast.bounds:
        raise ValueError("agreement: the two models have other sizes or statistics; compare modes of one checkpoint")
    ids: tuple[list[list[int]], list[list[int]]] = [], []
    seconds: tuple[list[float], list[float]] = [], []
    for image, instruction in frames:
        for which, policy in enumerate((exact, fast)):
            if not ids[which]:
                policy.warm_up(instruction)
                policy.predict(image, instruction)
            began_s = time.perf_counter()
            _, decoded = policy.predict(image, instruction)
            seconds[which].append(time.perf_counter() - began_s)
            ids[which].append(decoded.ids)
    if not ids[0]:
        raise ValueError("agreement: there are no frames; give a training set with episodes")
    tokens = np.array(ids)
    apart = np.abs(tokens[0] - tokens[1])
    difference = np.abs(exact.actions(tokens[0]) - exact.actions(tokens[1]))
    rates = [1.0 / statistics.median(times) for times in seconds]
    return Agreement(
        frames=len(tokens[0]),
        distinct_share=len(np.unique(tokens[0], axis=0)) / len(tokens[0]),
        token_agreement=float((apart == 0).mean()),
        by_dimension=tuple((apart == 0).mean(0).tolist()),
        within_one_bin=float((apart <= 1).mean()),
        l1=float(difference.mean()),
        max_difference=float(difference.max()),
        exact_mb=weight_bytes(exact.model) / 1e6,
        fast_mb=weight_bytes(fast.model) / 1e6,
        exact_hz=rates[0],
        fast_hz=rates[1],
        device=str(exact.model.language_model.lm_head.weight.device),
    )


def write_report(folder: Path, found: Mapping[str, Agreement]) -> Path:
    """Write what was found, by mode, beside the weights of a checkpoint; returns the file."""
    path = folder / REPORT
    partial = path.with_suffix(".partial")
    partial.write_bytes(msgspec.yaml.encode(msgspec.to_builtins(found)))
    partial.replace(path)
    return path
