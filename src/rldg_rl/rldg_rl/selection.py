"""Which policy of a training to keep, and when one is good enough to end it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rldg_rl.policy import Evaluation
from rldg_rl.rollout import Episode

_WORTH_CONFIRMING = 0.9  # a policy of which less is to be expected gets no more than the first episodes

Play = Callable[[int, int], list[Episode]]
"""Given the number of the first episode and how many: autonomous episodes."""


def summary(played: list[Episode]) -> Evaluation:
    """What autonomous episodes come to."""
    lengths = [episode.steps for episode in played if episode.success]
    mean = float(np.mean(lengths)) if lengths else float("nan")
    return Evaluation(successes=len(lengths), trials=len(played), mean_steps=mean)


def examine(play: Play, first: int, total: int, allowed: int, best: float, at_once: int = 1) -> Evaluation:
    """Autonomous episodes of one policy: ``first`` of them, then up to ``total`` while it may still be the best.

    Args:
        allowed: how many may fail without a look at what is to be expected.
        best: :func:`expected` of the best policy so far, 0 if there is none.
        at_once: how many episodes to ask for at a time after the first ones.
    """
    played = play(0, min(first, total))
    while len(played) < total:
        found = summary(played)
        failures = found.trials - found.successes
        if failures > allowed and expected(found) < max(best, _WORTH_CONFIRMING):
            break
        played += play(len(played), min(at_once, total - len(played)))
    return summary(played)


def passes(evaluation: Evaluation, total: int, allowed: int) -> bool:
    """Whether a policy was examined to the end and may end the training."""
    return evaluation.trials >= total and evaluation.trials - evaluation.successes <= allowed


def expected(evaluation: Evaluation) -> float:
    """Expected success after what was seen (Laplace's rule of succession): few episodes prove little."""
    return (evaluation.successes + 1) / (evaluation.trials + 2)


def standing(evaluation: Evaluation) -> tuple[float, float]:
    """What policies are compared by: expected success, then how short their episodes are."""
    return expected(evaluation), -evaluation.mean_steps if evaluation.successes else -math.inf
