"""Do the two ways to run a trial agree? The same trials, in one process and through the graph, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from rldg_evaluation.running import TRACES, Result, read_plan, read_results
from rldg_evaluation.statistics import Interval, Pairs, count_pairs, mcnemar, paired_difference
from rldg_evaluation.trace import Trace

AGREEMENT = "agreement.json"
APART_M = 0.001  # two trials have parted where their TCPs are further from each other than this
EQUIVALENCE = 0.90  # confidence of the interval that two one-sided tests at 5 % mean


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One trial, run in two ways.

    Attributes:
        steps: of both.
        parted: first observation at which the TCPs are apart by more than `APART_M`; None where they never are.
    """

    trial: str
    policy: str
    seed: int
    outcomes: tuple[str, str]
    steps: tuple[int, int]
    parted: int | None


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """What the pairs of one policy say; first is in process, second through the graph.

    Attributes:
        difference: of the success rates, first minus second.
        interval: of the difference, 95 % (Newcombe).
        p: exact McNemar.
        equivalent_within: least margin for which two one-sided tests at 5 % say that the rates are no further apart.
        same_outcome, same_steps, never_parted: numbers of pairs.
    """

    policy: str
    pairs: Pairs
    difference: float
    interval: Interval
    p: float
    equivalent_within: float
    same_outcome: int
    same_steps: int
    never_parted: int

    @property
    def sentence(self) -> str:
        first, second = self.pairs.first, self.pairs.second
        low, high = (100.0 * end for end in self.interval)
        return (
            f"{self.policy}: {first.successes} of {first.trials} in process, {second.successes} of {second.trials} "
            f"through the graph, {100.0 * self.difference:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}, "
            f"p = {self.p:.2f}); the same within {100.0 * self.equivalent_within:.1f} points (5 %). "
            f"Same outcome in {self.same_outcome} pairs, same number of steps in {self.same_steps}, "
            f"within {1e3 * APART_M:g} mm all the way in {self.never_parted}."
        )


def pair_up(fast: Path, graph: Path) -> list[Pair]:
    """The trials that were run in both folders and count in both.

    Raises:
        EvaluationError: a folder holds no run, or a damaged one.
        ValueError: the folders are of different plans, or a trace cannot be read.
    """
    if read_plan(fast).hash != read_plan(graph).hash:
        raise ValueError(f"{fast} and {graph}: hold trials of different plans; run one plan in both ways")
    here, there = ({result.trial: result for result in read_results(folder)} for folder in (fast, graph))
    return [
        _pair(here[trial], there[trial], fast, graph)
        for trial in sorted(here.keys() & there.keys())
        if here[trial].counts and there[trial].counts
    ]


def _pair(first: Result, second: Result, fast: Path, graph: Path) -> Pair:
    one, other = (Trace.load(folder / TRACES / f"{first.trial}.npz").tcp_m for folder in (fast, graph))
    common = min(len(one), len(other))
    apart = np.flatnonzero(np.linalg.norm(one[:common] - other[:common], axis=1) > APART_M)
    return Pair(
        trial=first.trial,
        policy=first.policy,
        seed=first.seed,
        outcomes=(first.outcome.value, second.outcome.value),
        steps=(first.steps, second.steps),
        parted=int(apart[0]) if len(apart) else None,
    )


def agree(pairs: Sequence[Pair]) -> list[Agreement]:
    """What they say, by policy."""
    found = []
    for policy in dict.fromkeys(pair.policy for pair in pairs):
        mine = [pair for pair in pairs if pair.policy == policy]
        counts = count_pairs((pair.outcomes[0] == "success", pair.outcomes[1] == "success") for pair in mine)
        found.append(
            Agreement(
                policy=policy,
                pairs=counts,
                difference=counts.first.rate - counts.second.rate,
                interval=paired_difference(counts),
                p=mcnemar(counts),
                equivalent_within=max(abs(end) for end in paired_difference(counts, EQUIVALENCE)),
                same_outcome=counts.both + counts.neither,
                same_steps=sum(pair.steps[0] == pair.steps[1] for pair in mine),
                never_parted=sum(pair.parted is None for pair in mine),
            )
        )
    return found


def write_agreement(fast: Path, graph: Path, folder: Path) -> list[Agreement]:
    """Compare two folders of one plan and write ``agreement.json`` with every pair; raises as `pair_up`."""
    pairs = pair_up(fast, graph)
    agreements = agree(pairs)
    text = msgspec.json.format(msgspec.json.encode({"policies": agreements, "pairs": pairs}))
    part = folder / f".{AGREEMENT}.part"
    part.write_bytes(text)
    part.replace(folder / AGREEMENT)
    return agreements
