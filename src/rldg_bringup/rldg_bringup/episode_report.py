"""What is worth saying about one episode, gathered from its steps and verdicts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rldg_core.types import EpisodeStatus, Outcome, Phase, Source, Step


@dataclass
class EpisodeReport:
    """One episode as seen from outside.

    Attributes:
        duration_s: control time from the first to the last observation.
        steps: the steps of the episode, in order.
    """

    episode_id: str = ""
    seed: int = 0
    outcome: Outcome = Outcome.NONE
    reason: str = ""
    steps: list[Step] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Take in a step; those between episodes are passed over."""
        if step.episode_id:
            self.steps.append(step)

    def judge(self, status: EpisodeStatus) -> None:
        """Take in a verdict."""
        if status.phase is Phase.RUNNING and status.episode_id != self.episode_id:
            # also where the last episode never ended, because its manager died
            self.episode_id, self.seed = status.episode_id, status.seed
            self.steps = [step for step in self.steps if step.episode_id == status.episode_id]
        if status.phase is Phase.ENDED and self.episode_id and status.episode_id == self.episode_id:
            self.outcome, self.reason = status.outcome, status.reason

    @property
    def complete(self) -> bool:
        """Whether the outcome is known and the step that carries it has arrived: they come on two topics."""
        return self.outcome is not Outcome.NONE and bool(self.steps) and self.steps[-1].is_last

    @property
    def duration_s(self) -> float:
        stamps = [step.observation_stamp_ns for step in self.steps]
        return (stamps[-1] - stamps[0]) * 1e-9 if stamps else 0.0

    @property
    def sources(self) -> Counter[Source]:
        """How many steps each source drove."""
        return Counter(step.source for step in self.steps)


@dataclass(frozen=True)
class TickStatistics:
    """Timing of the ticks of several episodes, by the stamps that the arbiter gave them."""

    ticks: int
    missed: int
    period_error_p99_ms: float
    command_age_p50_ms: float
    command_age_p99_ms: float


def tick_statistics(reports: list[EpisodeReport], period_s: float) -> TickStatistics:
    """How well the ticks kept the period.

    Args:
        reports: at least one of them with two steps or more.
        period_s: the control period.
    """
    period_ns = period_s * 1e9
    errors: list[npt.NDArray[np.float64]] = []
    missed = 0
    ages = [step.command_age_s for report in reports for step in report.steps]
    for report in reports:
        stamps = np.array([step.stamp_ns for step in report.steps], dtype=np.int64)
        gaps = np.diff(stamps) / period_ns
        missed += int(np.maximum(np.round(gaps) - 1, 0).sum())
        errors.append(np.abs(gaps - 1.0) * period_s)
    worst = np.percentile(np.concatenate(errors), 99) if errors and sum(map(len, errors)) else 0.0
    return TickStatistics(
        ticks=len(ages),
        missed=missed,
        period_error_p99_ms=float(worst) * 1e3,
        command_age_p50_ms=float(np.percentile(ages, 50)) * 1e3 if ages else 0.0,
        command_age_p99_ms=float(np.percentile(ages, 99)) * 1e3 if ages else 0.0,
    )
