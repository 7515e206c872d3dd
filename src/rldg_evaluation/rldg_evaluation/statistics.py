"""How sure a number of trials makes us: intervals, tests, stopping, power, times that were cut off.

All functions are pure. A success probability is judged from counts, two policies on the same start states from pairs,
cycle times from what was seen before the time limit. p values are two-sided.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

Floats = npt.NDArray[np.float64]
CONFIDENCE = 0.95
_FEW_TRIALS, _MAX_TRIALS = 150, 2000  # of a search for how many are needed


class Interval(NamedTuple):
    low: float
    high: float


class Count(NamedTuple):
    """Successes of a number of independent trials."""

    successes: int
    trials: int

    @property
    def rate(self) -> float:
        return self.successes / self.trials if self.trials else float("nan")


class Pairs(NamedTuple):
    """Trials of two policies on the same start states, by who succeeded."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def trials(self) -> int:
        return sum(self)

    @property
    def first(self) -> Count:
        return Count(self.both + self.only_first, self.trials)

    @property
    def second(self) -> Count:
        return Count(self.both + self.only_second, self.trials)


def count_pairs(outcomes: Iterable[tuple[bool, bool]]) -> Pairs:
    """Pairs from (first succeeded, second succeeded) of every start state."""
    seen = [(bool(first), bool(second)) for first, second in outcomes]
    return Pairs(*(seen.count(case) for case in ((True, True), (True, False), (False, True), (False, False))))


# intervals of one probability


def wilson(count: Count, confidence: float = CONFIDENCE) -> Interval:
    """The score interval (Wilson 1927): covers with about ``confidence`` on average over probabilities.

    Raises:
        ValueError: a count or a confidence that cannot be.
    """
    _check(count, confidence)
    if not count.trials:
        return Interval(0.0, 1.0)
    n, p = count.trials, count.rate
    z2 = float(stats.norm.ppf((1.0 + confidence) / 2.0)) ** 2
    middle, half = p + z2 / (2 * n), np.sqrt(z2 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)))
    low = 0.0 if count.successes == 0 else (middle - half) / (1.0 + z2 / n)
    high = 1.0 if count.successes == n else (middle + half) / (1.0 + z2 / n)
    return Interval(float(low), float(high))


def clopper_pearson(count: Count, confidence: float = CONFIDENCE) -> Interval:
    """The exact interval (Clopper and Pearson 1934): covers with at least ``confidence`` whatever the probability.

    Raises:
        ValueError: a count or a confidence that cannot be.
    """
    _check(count, confidence)
    (k, n), tail = count, (1.0 - confidence) / 2.0
    low = 0.0 if k == 0 else float(stats.beta.ppf(tail, k, n - k + 1))
    high = 1.0 if k == n else float(stats.beta.ppf(1.0 - tail, k + 1, n - k))
    return Interval(low, high)


# two policies


def fisher(first: Count, second: Count) -> float:
    """Fisher's exact test that both succeed equally often; independent start states, conservative."""
    return float(stats.fisher_exact(_table(first, second)).pvalue)


def barnard(first: Count, second: Count) -> float:
    """Barnard's exact test (1945), unconditional: sees more than Fisher's with the same few trials."""
    table = _table(first, second)
    if not table.sum(axis=1).all():
        return 1.0  # the same outcome everywhere
    return float(stats.barnard_exact(table).pvalue)


def mcnemar(pairs: Pairs) -> float:
    """The exact test of McNemar (1947) on pairs: only start states where the two differ tell them apart."""
    differ = pairs.only_first + pairs.only_second
    return float(stats.binomtest(pairs.only_first, differ).pvalue) if differ else 1.0


def difference(first: Count, second: Count, confidence: float = CONFIDENCE) -> Interval:
    """Interval of first rate minus second rate, independent trials: hybrid score (Newcombe 1998b, method 10)."""
    return _newcombe(first, second, 0.0, confidence)


def paired_difference(pairs: Pairs, confidence: float = CONFIDENCE) -> Interval:
    """Interval of first rate minus second rate on the same start states (Newcombe 1998c, method 10)."""
    a, b, c, d = pairs
    scale = np.sqrt(float(a + b) * (c + d) * (a + c) * (b + d))
    product = float(a * d - b * c)
    if product > 0:
        product = max(product - pairs.trials / 2, 0.0)
    return _newcombe(pairs.first, pairs.second, product / scale if scale else 0.0, confidence)


def _newcombe(first: Count, second: Count, correlation: float, confidence: float) -> Interval:
    if not first.trials or not second.trials:
        return Interval(-1.0, 1.0)
    one, two = wilson(first, confidence), wilson(second, confidence)

    def reach(x: float, y: float) -> float:
        return float(np.sqrt(max(x * x - 2.0 * correlation * x * y + y * y, 0.0)))

    apart = first.rate - second.rate
    low = apart - reach(first.rate - one.low, two.high - second.rate)
    high = apart + reach(one.high - first.rate, second.rate - two.low)
    return Interval(max(low, -1.0), min(high, 1.0))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm 1979): below alpha together means one false claim with at most alpha."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


# stopping


def confidence_sequence(count: Count, confidence: float = CONFIDENCE) -> Interval:
    """An interval that may be looked at after every trial: all of them hold together with ``confidence``.

    A gambler who bets against a probability p with a uniform prior has, after k successes of n trials, the wealth
    B(k + 1, n - k + 1) / (p^k (1 - p)^(n - k)). If p is true, it ever reaches 1 / alpha in a share alpha of all runs
    at most (Ville 1939). The probabilities against which he has not won that much are the interval (Robbins 1970;
    Howard, Ramdas, McAuliffe and Sekhon 2021; Waudby-Smith and Ramdas 2024 for betting).

    Raises:
        ValueError: a count or a confidence that cannot be.
    """
    _check(count, confidence)
    k, n = count
    if not n:
        return Interval(0.0, 1.0)
    limit = -np.log(1.0 - confidence)

    def excess(p: float) -> float:
        return log_wealth(count, p) - limit

    # convex in p with its least value, below the limit, at the rate
    low = 0.0 if k == 0 else optimize.brentq(excess, 1e-300, k / n, xtol=1e-12)
    high = 1.0 if k == n else optimize.brentq(excess, k / n, 1.0 - 1e-16, xtol=1e-12)
    return Interval(float(low), float(high))


def log_wealth(count: Count, p: float) -> float:
    """Logarithm of what a gambler with a uniform prior has made of 1 by betting against the probability p."""
    k, n = count
    return float(special.betaln(k + 1, n - k + 1) - special.xlogy(k, p) - special.xlog1py(n - k, -p))


# power


def fisher_power(first: float, second: float, trials: int, alpha: float = 0.05) -> float:
    """Probability that Fisher's test at ``alpha`` tells two probabilities apart, with ``trials`` of each; exact."""
    k = np.arange(trials + 1)
    p_values = _all_fisher(trials)
    chance = np.outer(stats.binom.pmf(k, trials, first), stats.binom.pmf(k, trials, second))
    return float(chance[p_values <= alpha].sum())


def mcnemar_power(only_first: float, only_second: float, trials: int, alpha: float = 0.05) -> float:
    """Probability that the paired test at ``alpha`` sees a difference; exact.

    Args:
        only_first: probability that at a start state only the first policy succeeds.
        only_second: that only the second does.
        trials: start states.
    """
    apart = only_first + only_second
    if apart <= 0.0:
        return 0.0
    power = 0.0
    for differ in range(1, trials + 1):
        wins = np.arange(differ + 1)
        p_values = np.minimum(1.0, 2.0 * stats.binom.cdf(np.minimum(wins, differ - wins), differ, 0.5))
        rejected = stats.binom.pmf(wins, differ, only_first / apart)[p_values <= alpha].sum()
        power += float(stats.binom.pmf(differ, trials, apart) * rejected)
    return power


def trials_needed(first: float, second: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """How many trials of each policy Fisher's test at ``alpha`` needs to see the difference with ``power``.

    Raises:
        ValueError: probabilities outside [0, 1], or a difference that more than 2000 trials would be needed for.
    """
    for name, value in (("first", first), ("second", second)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} probability: is {value}, must be from 0 to 1")
    apart, spread = abs(first - second), first * (1.0 - first) + second * (1.0 - second)
    z = float(stats.norm.ppf(1.0 - alpha / 2.0) + stats.norm.ppf(power))
    guess = z * z * spread / (apart * apart) if apart else np.inf  # of the normal approximation

    def enough(trials: int) -> bool:
        return fisher_power(first, second, trials, alpha) >= power

    if guess < _FEW_TRIALS:  # exact power rises in a saw-tooth, so the first that is enough is found one by one
        return next(trials for trials in range(2, _MAX_TRIALS) if enough(trials))
    low, high = int(0.8 * min(guess, _MAX_TRIALS)), _MAX_TRIALS
    if guess >= _MAX_TRIALS or not enough(high):
        raise ValueError(
            f"{first:.1%} against {second:.1%}: more than {_MAX_TRIALS} trials of each are needed to tell them apart"
        )
    while high - low > 1:  # up to the height of a tooth
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _all_fisher(trials: int) -> Floats:
    """p value of every pair of counts with ``trials`` each, (trials + 1, trials + 1)."""
    n = trials
    ways, ways_of_total = _log_choose(n), _log_choose(2 * n)
    p_values = np.ones((n + 1, n + 1))
    for total in range(2 * n + 1):
        firsts = np.arange(max(0, total - n), min(n, total) + 1)
        chance = np.exp(ways[firsts] + ways[total - firsts] - ways_of_total[total])
        order = np.sort(chance)
        upto = np.searchsorted(order, chance * (1.0 + 1e-7), side="right")  # as probable or less, up to rounding
        p_values[firsts, total - firsts] = np.minimum(1.0, np.cumsum(order)[upto - 1])
    return p_values


def _log_choose(n: int) -> Floats:
    """Logarithms of n over k for all k."""
    k = np.arange(n + 1)
    return np.asarray(special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1))


# cycle times


@dataclass(frozen=True)
class Survival:
    """What share of trials has not succeeded yet, over time (Kaplan and Meier 1958).

    Attributes:
        times_s: at which it falls, rising.
        share: after each of them, with a point-wise interval (log-log, from Greenwood's variance).
        median_s: when half have succeeded, nan where they have not; with its interval (Brookmeyer and Crowley 1982),
            whose high end is inf where it is not known.
    """

    times_s: Floats
    share: Floats
    low: Floats
    high: Floats
    median_s: float
    median_interval_s: Interval


def survival(times_s: Sequence[float], succeeded: Sequence[bool], confidence: float = CONFIDENCE) -> Survival:
    """How long trials take.

    Args:
        times_s: until success, or until the time up to which there was none. A trial that failed for good did not
            succeed within the time limit either: give it the limit, not the time of its failure, at which it would
            count as one that might have succeeded a moment later.
        succeeded: which of the two.

    Raises:
        ValueError: nothing given, or not as many of one as of the other.
    """
    data = _censored(times_s, succeeded)
    if not any(succeeded):
        nothing = np.zeros(0)
        return Survival(nothing, nothing, nothing, nothing, float("nan"), Interval(float("nan"), float("inf")))
    function = stats.ecdf(data).sf
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # that there is none at 0 and 1
        band = function.confidence_interval(confidence, method="log-log")
    times, share = function.quantiles, function.probabilities
    # without variance (nobody, or everybody) the point estimate is all there is
    low, high = (np.where(np.isnan(part.probabilities), share, part.probabilities) for part in (band.low, band.high))
    fell = np.diff(np.concatenate([[1.0], share])) < 0.0

    def first_below(curve: Floats) -> float:
        below = np.flatnonzero(curve <= 0.5 + 1e-12)
        return float(times[below[0]]) if len(below) else float("inf")

    median_s = first_below(share)
    interval = Interval(first_below(low), first_below(high))
    return Survival(
        times[fell], share[fell], low[fell], high[fell], median_s if np.isfinite(median_s) else float("nan"), interval
    )


def log_rank(
    first_s: Sequence[float],
    first_succeeded: Sequence[bool],
    second_s: Sequence[float],
    second_succeeded: Sequence[bool],
) -> float:
    """The log-rank test (Mantel 1966) that both are equally fast; nan where nothing tells them apart at any time."""
    first, second = _censored(first_s, first_succeeded), _censored(second_s, second_succeeded)
    if not any(first_succeeded) and not any(second_succeeded):
        return float("nan")
    with np.errstate(invalid="ignore"):
        return float(stats.logrank(first, second).pvalue)


def _censored(times_s: Sequence[float], succeeded: Sequence[bool]) -> stats.CensoredData:
    times, done = np.asarray(times_s, dtype=np.float64), np.asarray(succeeded, dtype=bool)
    if times.shape != done.shape or times.ndim != 1 or not len(times):
        raise ValueError(f"times of shape {times.shape} for outcomes of shape {done.shape}: must be equal, not empty")
    if not np.isfinite(times).all() or (times < 0.0).any():
        raise ValueError("times must be finite and not negative")
    return stats.CensoredData.right_censored(times, ~done)


def _table(first: Count, second: Count) -> npt.NDArray[np.int64]:
    for count in (first, second):
        _check(count, CONFIDENCE)
    return np.array(
        [[first.successes, second.successes], [first.trials - first.successes, second.trials - second.successes]]
    )


def _check(count: Count, confidence: float) -> None:
    if not 0 <= count.successes <= count.trials:
        raise ValueError(
            f"{count.successes} successes of {count.trials} trials: must be from 0 to the number of trials"
        )
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence: is {confidence}, must be between 0 and 1")
