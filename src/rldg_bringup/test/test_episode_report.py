"""What is gathered about an episode from two topics that arrive in any order."""

from dataclasses import replace

import numpy as np
import pytest

from rldg_bringup.episode_report import EpisodeReport, tick_statistics
from rldg_core.testing import running, tool_down
from rldg_core.types import Action, Outcome, Phase, Source, Step


def step(index: int, episode_id: str = "s/0001", late_ms: float = 0.0, **changes: object) -> Step:
    stamp_ns = index * 100_000_000 + round(late_ms * 1e6)
    made = Step(
        stamp_ns, stamp_ns, Source.HUMAN, Action(np.zeros(6)), tool_down(), episode_id, index, command_age_s=0.07
    )
    return replace(made, **changes)


ENDED = running(phase=Phase.ENDED, outcome=Outcome.SUCCESS, reason="goal reached")


@pytest.mark.parametrize("verdict_first", [True, False])
def test_an_episode_is_complete_when_verdict_and_last_step_are_both_there(verdict_first):
    report = EpisodeReport()
    report.judge(running(seed=7))
    for i in range(3):
        report.add(step(i))
    assert not report.complete
    ends = [lambda: report.judge(ENDED), lambda: report.add(step(3, is_last=True))]
    for i, end in enumerate(ends if verdict_first else reversed(ends)):
        end()
        assert report.complete is (i == 1)
    assert (report.outcome, report.seed, report.duration_s) == (Outcome.SUCCESS, 7, pytest.approx(0.3))
    assert report.sources[Source.HUMAN] == 4


def test_steps_between_episodes_and_of_the_one_before_are_passed_over():
    report = EpisodeReport()
    report.add(step(0, episode_id=""))
    report.add(step(0, episode_id="s/0000"))
    report.judge(running())
    assert report.steps == []


def test_an_episode_that_never_ended_gives_way_to_the_next():
    report = EpisodeReport()
    report.judge(running())
    report.add(step(0))
    report.judge(running(episode_id="s/0002", seed=9))
    assert (report.episode_id, report.seed, report.steps) == ("s/0002", 9, [])


def test_the_end_of_another_episode_is_not_this_ones():
    report = EpisodeReport()
    report.judge(running())
    report.judge(replace(ENDED, episode_id="s/0000"))
    assert report.outcome is Outcome.NONE


def test_tick_statistics_count_missed_ticks_and_lateness():
    report = EpisodeReport(steps=[step(0), step(1, late_ms=4.0), step(2), step(5)])
    statistics = tick_statistics([report], 0.1)
    assert (statistics.ticks, statistics.missed) == (4, 2)
    assert statistics.command_age_p50_ms == pytest.approx(70.0)
    assert statistics.period_error_p99_ms > 4.0
