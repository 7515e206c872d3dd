"""From the results of a run to what may be said about its policies."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

import msgspec

from rldg_evaluation.plan import LoadedPlan, split_of
from rldg_evaluation.running import Result
from rldg_evaluation.statistics import (
    Count,
    Interval,
    Pairs,
    barnard,
    clopper_pearson,
    confidence_sequence,
    count_pairs,
    fisher,
    holm,
    log_rank,
    mcnemar,
    paired_difference,
    survival,
    trials_needed,
    wilson,
)

ALPHA = 0.05
EVERYWHERE = "everywhere"  # in place of a task and scene: all of them together


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what the report's JSON holds."""


class Cell(_Record, frozen=True, kw_only=True):
    """One policy in one scene of one task.

    Attributes:
        wilson, exact: 95 % intervals of the success rate.
        sequence: the one that holds although the trials were stopped when it was clear; None without such a rule.
        failures: trials by how they failed, without the successes.
        aborted: trials that count for nothing.
        limited_steps, guarded_steps, refused_steps: sums over the trials, of ``steps`` in all.
    """

    policy: str
    task: str
    scene: str
    split: str
    count: Count
    wilson: Interval
    exact: Interval
    sequence: Interval | None
    failures: dict[str, int]
    aborted: int
    steps: int
    limited_steps: int
    guarded_steps: int
    refused_steps: int
    mean_force_n: float
    closest_m: float  # median of the trials' least distances
    answer_ms: float


class Comparison(_Record, frozen=True, kw_only=True):
    """Two policies on the same start states.

    Attributes:
        where: task and scene, or `EVERYWHERE`.
        pairs: who succeeded: both, only first, only second, neither.
        difference: of the success rates, first minus second, with its 95 % interval.
        p: exact McNemar.
        p_holm: the same, corrected for all comparisons of its table.
        p_fisher, p_barnard: of the counts alone.
        sentence: what may be said.
    """

    first: str
    second: str
    where: str
    pairs: Pairs
    difference: float
    interval: Interval
    p: float
    p_holm: float
    p_fisher: float
    p_barnard: float
    sentence: str


class CycleTime(_Record, frozen=True, kw_only=True):
    """How long one policy takes at one task: Kaplan-Meier over all scenes.

    Attributes:
        median_s: by when half of the trials have succeeded, None where they have not.
        high_s: of its 95 % interval; None where it is not known.
    """

    policy: str
    task: str
    count: Count
    median_s: float | None
    low_s: float | None
    high_s: float | None
    times_s: list[float]
    share: list[float]
    low: list[float]
    high: list[float]
    limit_s: float


class TimeComparison(_Record, frozen=True, kw_only=True):
    """Two policies at one task: log-rank test, alone and corrected for all of its table."""

    first: str
    second: str
    task: str
    p: float
    p_holm: float


class PolicyOrigin(_Record, frozen=True, kw_only=True):
    """Where a policy comes from."""

    name: str
    type: str
    parameters: dict[str, str | int | float | bool]
    checkpoint: str
    checkpoint_sha256: str


class Provenance(_Record, frozen=True, kw_only=True):
    """Where the numbers come from."""

    plan: str
    plan_hash: str
    first_seed: int
    start_states: dict[str, list[int]]  # seeds tried, by task and scene
    policies: list[PolicyOrigin]
    software: list[str]
    runners: dict[str, int]
    bags: list[str]
    trials_planned: int
    trials_run: int


class Analysis(_Record, frozen=True, kw_only=True):
    """Everything the report says, as it is written to ``report.json``."""

    sentences: list[str]
    cells: list[Cell]
    overall: list[Comparison]
    by_scene: list[Comparison]
    cycle_times: list[CycleTime]
    time_comparisons: list[TimeComparison]
    provenance: Provenance


def analyse(loaded: LoadedPlan, results: Sequence[Result]) -> Analysis:
    """What the results so far say; a run need not be complete."""
    names = [policy.name for policy in loaded.plan.policies]
    counting = [result for result in results if result.counts]
    places = list(dict.fromkeys((result.task, result.scene) for result in _in_order(loaded, results)))
    by_scene = [
        comparison
        for task, scene in places
        for comparison in compare(
            names, [r for r in counting if (r.task, r.scene) == (task, scene)], f"{task}, {scene}"
        )
    ]
    overall = compare(names, counting, EVERYWHERE if len(places) > 1 else ", ".join(*places) if places else EVERYWHERE)
    cycle_times, time_comparisons = _times(loaded, names, counting)
    return Analysis(
        sentences=_sentences(loaded, results, overall),
        cells=[
            _cell(loaded, policy, task, scene, [r for r in results if r.cell == (policy, task, scene)])
            for task, scene in places
            for policy in names
        ],
        overall=corrected(overall),
        by_scene=corrected(by_scene) if len(places) > 1 else [],
        cycle_times=cycle_times,
        time_comparisons=time_comparisons,
        provenance=_provenance(loaded, results),
    )


def _in_order(loaded: LoadedPlan, results: Iterable[Result]) -> list[Result]:
    """By task and scene as the plan and the task files have them."""
    tasks = {task.name: task for task in loaded.tasks.values()}
    scenes = {(name, scene.name): i for name, task in tasks.items() for i, scene in enumerate(task.scenes)}
    return sorted(results, key=lambda r: (list(tasks).index(r.task), scenes[r.task, r.scene]))


def count(results: Iterable[Result]) -> Count:
    """Successes among the trials that count."""
    seen = [result.success for result in results if result.counts]
    return Count(sum(seen), len(seen))


def _cell(loaded: LoadedPlan, policy: str, task: str, scene: str, results: Sequence[Result]) -> Cell:
    counts = count(results)
    counting = [result for result in results if result.counts]
    failures = Counter(result.failure.value for result in counting if not result.success)
    tasks = {each.name: each for each in loaded.tasks.values()}
    rule = loaded.plan.stop
    return Cell(
        policy=policy,
        task=task,
        scene=scene,
        split=split_of(tasks[task], scene).value,
        count=counts,
        wilson=wilson(counts),
        exact=clopper_pearson(counts),
        sequence=confidence_sequence(counts, rule.confidence) if rule is not None else None,
        failures=dict(failures.most_common()),
        aborted=len(results) - len(counting),
        steps=sum(result.steps for result in counting),
        limited_steps=sum(result.limited_steps for result in counting),
        guarded_steps=sum(result.guarded_steps for result in counting),
        refused_steps=sum(result.refused_steps for result in counting),
        mean_force_n=_mean([result.mean_force_n for result in counting]),
        closest_m=_middle([result.closest_m for result in counting]),
        answer_ms=_mean([result.answer_ms for result in counting]),
    )


def compare(names: Sequence[str], results: Sequence[Result], where: str) -> list[Comparison]:
    """All pairs of policies on the start states that both were tried at."""
    outcomes: defaultdict[str, dict[tuple[str, str, int], bool]] = defaultdict(dict)
    for result in results:
        outcomes[result.policy][result.start] = result.success
    made = []
    for first, second in combinations(names, 2):
        shared = outcomes[first].keys() & outcomes[second].keys()
        if not shared:
            continue
        pairs = count_pairs((outcomes[first][start], outcomes[second][start]) for start in shared)
        p = mcnemar(pairs)
        made.append(
            Comparison(
                first=first,
                second=second,
                where=where,
                pairs=pairs,
                difference=pairs.first.rate - pairs.second.rate,
                interval=paired_difference(pairs),
                p=p,
                p_holm=p,
                p_fisher=fisher(pairs.first, pairs.second),
                p_barnard=barnard(pairs.first, pairs.second),
                sentence="",
            )
        )
    return made


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """With p values for their number, and with what may then be said."""
    adjusted = holm([comparison.p for comparison in comparisons])
    with_p = [
        msgspec.structs.replace(comparison, p_holm=p) for comparison, p in zip(comparisons, adjusted, strict=True)
    ]
    return [msgspec.structs.replace(each, sentence=verdict(each, len(with_p))) for each in with_p]


def verdict(comparison: Comparison, number: int) -> str:
    """Which of two policies is better and how sure that is, in a sentence or two.

    Args:
        number: of comparisons that p was corrected for.
    """
    first, second = comparison.pairs.first, comparison.pairs.second
    names, counts = [comparison.first, comparison.second], [first, second]
    difference, (low, high) = comparison.difference, comparison.interval
    if difference < 0.0:
        names, counts = names[::-1], counts[::-1]
        difference, low, high = -difference, -high, -low
    better, other = counts
    number_said = f", corrected for {number} comparisons" if number > 1 else ""
    numbers = (
        f"{better.successes} of {better.trials} against {other.successes} of {other.trials} on the same start states, "
        f"{100 * difference:+.0f} points (95 % interval {100 * low:+.0f} to {100 * high:+.0f}; "
        f"p {'' if comparison.p_holm < 0.001 else '= '}{show_p(comparison.p_holm)}{number_said})"
    )
    if comparison.p_holm < ALPHA:
        return f"{names[0]} succeeds more often than {names[1]}: {numbers}."
    if not difference:
        return (
            f"{names[0]} and {names[1]} succeeded equally often: {numbers}. "
            f"One may still be better by up to {100 * max(high, -low):.0f} points."
        )
    return f"Whether {names[0]} or {names[1]} is better is not shown: {numbers}. {_more_trials(better, other)}"


def _more_trials(better: Count, other: Count) -> str:
    try:
        needed = trials_needed(other.rate, better.rate, ALPHA)
    except ValueError:
        return "A difference as small as this one would take thousands of trials to see."
    if needed <= better.trials:
        return "So many trials would show a difference as large as this one four times out of five."
    return f"A difference as large as this one would show in about {needed} trials of each, four times out of five."


def show_p(p: float) -> str:
    """To three digits after the point, as text."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _sentences(loaded: LoadedPlan, results: Sequence[Result], overall: Sequence[Comparison]) -> list[str]:
    said = [comparison.sentence for comparison in corrected(overall)]
    missing = len(loaded.trials) - len(results)
    if missing and loaded.plan.stop is None:
        said.append(f"{missing} of {len(loaded.trials)} trials have not been run yet.")
    elif missing:
        rule = loaded.plan.stop
        assert rule is not None
        said.append(f"{missing} of {len(loaded.trials)} trials were not needed to see who is above {rule.against:.0%}.")
    aborted = sum(not result.counts for result in results)
    if aborted:
        said.append(f"{aborted} trials were aborted and count for nothing.")
    return said


def _times(
    loaded: LoadedPlan, names: Sequence[str], results: Sequence[Result]
) -> tuple[list[CycleTime], list[TimeComparison]]:
    curves, tests = [], []
    for task in loaded.tasks.values():
        columns = {}
        for name in names:
            tried = [result for result in results if (result.policy, result.task) == (name, task.name)]
            if tried:
                # what failed early has not succeeded by the time limit either
                times = [result.robot_s if result.success else task.time_limit_s for result in tried]
                columns[name] = times, [result.success for result in tried]
        for name, (times, succeeded) in columns.items():
            curve = survival(times, succeeded)
            curves.append(
                CycleTime(
                    policy=name,
                    task=task.name,
                    count=Count(sum(succeeded), len(succeeded)),
                    median_s=_known(curve.median_s),
                    low_s=_known(curve.median_interval_s.low),
                    high_s=_known(curve.median_interval_s.high),
                    times_s=curve.times_s.tolist(),
                    share=curve.share.tolist(),
                    low=curve.low.tolist(),
                    high=curve.high.tolist(),
                    limit_s=task.time_limit_s,
                )
            )
        for first, second in combinations(columns, 2):
            p = log_rank(*columns[first], *columns[second])
            if p == p:
                tests.append(TimeComparison(first=first, second=second, task=task.name, p=p, p_holm=p))
    adjusted = holm([test.p for test in tests])
    return curves, [msgspec.structs.replace(test, p_holm=p) for test, p in zip(tests, adjusted, strict=True)]


def _provenance(loaded: LoadedPlan, results: Sequence[Result]) -> Provenance:
    seeds: defaultdict[str, set[int]] = defaultdict(set)
    for result in _in_order(loaded, results):
        seeds[f"{result.task}, {result.scene}"].add(result.seed)
    hashes = {result.policy: result.checkpoint_sha256 for result in results}
    return Provenance(
        plan=loaded.plan.name,
        plan_hash=loaded.hash,
        first_seed=loaded.plan.seed,
        start_states={place: sorted(numbers) for place, numbers in seeds.items()},
        policies=[
            PolicyOrigin(
                name=policy.name,
                type=policy.type,
                parameters=policy.parameters,
                checkpoint=policy.checkpoint,
                checkpoint_sha256=hashes.get(policy.name, ""),
            )
            for policy in loaded.plan.policies
        ],
        software=sorted({result.software for result in results if result.software}),
        runners=dict(Counter(result.runner for result in results)),
        bags=[result.bag for result in results if result.bag],
        trials_planned=len(loaded.trials),
        trials_run=len(results),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def _known(value: float) -> float | None:
    return value if abs(value) != float("inf") and value == value else None
