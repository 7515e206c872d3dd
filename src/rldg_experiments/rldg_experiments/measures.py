"""What an experiment came to: the bars of its figures, and which of the paper's claims held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from rldg_evaluation.analysis import ALPHA, Comparison, compare, corrected, count
from rldg_evaluation.plan import EvaluationError, LoadedPlan, split_of
from rldg_evaluation.report import actions_near
from rldg_evaluation.running import Result, read_plan, read_results
from rldg_evaluation.statistics import Count, Interval, survival, wilson
from rldg_experiments.plan import Bar, Experiment, ExperimentError, Figure, Paper

HELD, REVERSED, OPEN = "held", "reversed", "not shown"


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what the results' JSON holds."""


class Measured(_Record, frozen=True, kw_only=True):
    """One bar.

    Attributes:
        policy: the one of the bar's policies that did best.
        others: successes of the rest of them.
        median_s: by when half of the trials were done, None where fewer succeeded; with its interval.
    """

    label: str
    policy: str
    count: Count
    interval: Interval
    others: dict[str, Count] = {}
    median_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    line: str = ""
    x: float = 0.0
    paper: Paper | None = None


class Claim(_Record, frozen=True, kw_only=True):
    """What the paper says of two bars, and whether it is so here: held, reversed or not shown."""

    first: str
    second: str
    here: str
    comparison: Comparison


class Finding(_Record, frozen=True, kw_only=True):
    """One figure."""

    name: str
    kind: str
    title: str
    note: str
    x: str
    bars: list[Measured]
    claims: list[Claim]
    start_states: dict[str, list[int]]  # lowest and highest seed, by task and scene


def find(experiment: Experiment, products: Mapping[str, Path]) -> list[Finding]:
    """What the figures of an experiment show.

    Args:
        products: of its stages.

    Raises:
        ExperimentError: a bar is of a policy, task or split that was not tried, or results are missing.
    """
    return [measure(figure, products[figure.evaluation]) for figure in experiment.figures]


def measure(figure: Figure, folder: Path) -> Finding:
    """What one figure shows, from the folder of an evaluation.

    Raises:
        ExperimentError: a bar is of a policy, task or split that was not tried, or results are missing.
    """
    try:
        loaded, results = read_plan(folder), [result for result in read_results(folder) if result.counts]
    except EvaluationError as error:
        raise ExperimentError(f"figure {figure.name}: {error}") from None
    chosen = {bar.label: _chosen(figure, bar, loaded, results) for bar in figure.bars}
    relabelled = [
        msgspec.structs.replace(result, policy=label) for label, (_, part) in chosen.items() for result in part
    ]
    comparisons = corrected(
        [
            made
            for claim in figure.claims
            for made in compare((claim.first, claim.second), relabelled, ", ".join(sorted(loaded.tasks)))
        ]
    )
    return Finding(
        name=figure.name,
        kind=figure.kind,
        title=figure.title,
        note=figure.note,
        x=figure.x,
        bars=[_measured(bar, *chosen[bar.label], loaded, results) for bar in figure.bars],
        claims=[Claim(first=made.first, second=made.second, here=_held(made), comparison=made) for made in comparisons],
        start_states=_start_states(results),
    )


def _chosen(figure: Figure, bar: Bar, loaded: LoadedPlan, results: Sequence[Result]) -> tuple[str, list[Result]]:
    """The policy that did best among those of a bar, and its results."""
    parts = {policy: _selected(bar, policy, loaded, results) for policy in bar.policies}
    empty = [policy for policy, part in parts.items() if not part]
    if empty:
        raise ExperimentError(
            f"figure {figure.name}: {bar.label}: no trial of {empty[0]} with tasks {', '.join(bar.tasks) or 'all'} "
            f"and split {bar.split or 'any'}"
        )
    best = max(parts, key=lambda policy: count(parts[policy]).rate)
    return best, parts[best]


def _selected(bar: Bar, policy: str, loaded: LoadedPlan, results: Sequence[Result]) -> list[Result]:
    tasks = {task.name: task for task in loaded.tasks.values()}
    return [
        result
        for result in results
        if result.policy == policy
        and (not bar.tasks or result.task in bar.tasks)
        and (not bar.split or split_of(tasks[result.task], result.scene).value == bar.split)
    ]


def _measured(bar: Bar, policy: str, part: Sequence[Result], loaded: LoadedPlan, results: Sequence[Result]) -> Measured:
    limits = {task.name: task.time_limit_s for task in loaded.tasks.values()}
    times = survival(
        [result.robot_s if result.success else limits[result.task] for result in part],
        [result.success for result in part],
    )
    others = {name: count(_selected(bar, name, loaded, results)) for name in bar.policies if name != policy}
    low, high = times.median_interval_s
    return Measured(
        label=bar.label,
        policy=policy,
        count=count(part),
        interval=wilson(count(part)),
        others=others,
        median_s=_finite(times.median_s),
        low_s=_finite(low),
        high_s=_finite(high),
        line=bar.line,
        x=bar.x,
        paper=bar.paper,
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _held(made: Comparison) -> str:
    if made.p_holm >= ALPHA:
        return OPEN
    return HELD if made.difference > 0.0 else REVERSED


def _start_states(results: Sequence[Result]) -> dict[str, list[int]]:
    seeds: dict[str, list[int]] = {}
    for result in results:
        seeds.setdefault(f"{result.task}, {result.scene}", []).append(result.seed)
    return {place: [min(found), max(found)] for place, found in sorted(seeds.items())}


def actions(figure: Figure, folder: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Executed actions near the reference pose of an evaluation's plan, (n, 6), by the label of the bar."""
    loaded = read_plan(folder)
    near, _ = actions_near(folder, read_results(folder), loaded.plan.actions_near)
    return {bar.label: near[bar.policies[0]] for bar in figure.bars if len(near.get(bar.policies[0], ()))}
