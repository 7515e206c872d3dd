"""Chunks of any rate become one action a tick: aligned by observation, never older than their limit."""

from __future__ import annotations

import numpy as np
import pytest

from rldg_core.bridge import MAX_CHUNK, Bridging, LateRule, RateBridge
from rldg_core.testing import make_task
from rldg_core.types import ActionChunk

TICK = 100_000_000
LAG = 67_000_000  # from the capture of an observation to its tick


def ramp(length: int, first: float = 0.0, step: float = 0.01) -> np.ndarray:
    """Rows that tell their index."""
    deltas = np.zeros((length, 6))
    deltas[:, 0] = first + step * np.arange(length)
    return deltas


def chunk(tick: int, deltas: np.ndarray, period_s: float = 0.1, lag_ns: int = LAG) -> ActionChunk:
    return ActionChunk(tick * TICK - lag_ns, "p", deltas, np.zeros(len(deltas), bool), period_s, "tcp")


def make(late: LateRule = LateRule.REST_OF_CHUNK, ensemble: float = 0.0, **safety: object) -> RateBridge:
    return RateBridge(make_task(safety=safety), "tcp", Bridging(late, ensemble))


def played(bridge: RateBridge, answers: dict[int, ActionChunk], ticks: int, lag_ns: int = LAG) -> list[float | None]:
    """The first element at each tick from 1 on; ``answers`` arrive just before the tick that is their key."""
    seen = []
    for n in range(1, ticks + 1):
        if n in answers:
            assert bridge.offer(answers[n], n * TICK - 1) == ""
        bridge.begin_tick(n * TICK, n * TICK - lag_ns)
        action, _ = bridge.due("p", n * TICK, -(10**9))
        seen.append(None if action is None else round(float(action.delta[0]), 6))
    return seen


def test_an_answer_in_time_is_played_from_its_first_action() -> None:
    assert played(make(), {1: chunk(1, ramp(4))}, 4) == [0.0, 0.01, 0.02, 0.03]


@pytest.mark.parametrize("lag_ns", [0, 20_000_000, 99_000_000, 250_000_000])
def test_the_time_from_capture_to_tick_does_not_shift_a_chunk(lag_ns: int) -> None:
    answers = {1: chunk(1, ramp(4), lag_ns=lag_ns)}
    assert played(make(max_action_age_s=0.5), answers, 3, lag_ns) == [0.0, 0.01, 0.02]


@pytest.mark.parametrize("late", [1, 2, 3])
def test_a_late_answer_is_played_from_the_action_that_is_due(late: int) -> None:
    seen = played(make(), {1 + late: chunk(1, ramp(6))}, 6)
    assert seen == [None] * late + [round(0.01 * i, 6) for i in range(late, 6)]


def test_a_lost_tick_skips_an_action_instead_of_delaying_the_plan() -> None:
    bridge = make()
    bridge.offer(chunk(1, ramp(6)))
    bridge.begin_tick(TICK, TICK - LAG)
    bridge.begin_tick(4 * TICK, 4 * TICK - LAG)
    action, _ = bridge.due("p", 4 * TICK, 0)
    assert action is not None and action.delta[0] == pytest.approx(0.03)


def test_an_answer_to_an_observation_that_was_overtaken_keeps_its_place_in_time() -> None:
    bridge = make()
    bridge.begin_tick(TICK, TICK - LAG)
    bridge.begin_tick(3 * TICK, 3 * TICK - LAG)
    bridge.offer(chunk(2, ramp(6), lag_ns=LAG + 30_000_000))  # of a tick that never was; cameras jitter
    action, _ = bridge.due("p", 3 * TICK, 0)
    assert action is not None and action.delta[0] == pytest.approx(0.01)


@pytest.mark.parametrize("period_s", [0.05, 0.2, float(np.float32(0.1)), 1 / 3])
def test_a_chunk_of_another_rate_keeps_its_time(period_s: float) -> None:
    bridge = make(max_chunk_age_s=5.0)
    seen = played(bridge, {1: chunk(1, ramp(MAX_CHUNK, step=0.001), period_s)}, 40)
    assert seen == [round(0.001 * int(n * 0.1 / period_s + 1e-3), 6) for n in range(40)]


def test_hold_ends_a_chunk_at_the_age_limit() -> None:
    assert played(make(LateRule.HOLD), {1: chunk(1, ramp(9))}, 6) == [0.0, 0.01, 0.02, None, None, None]


def test_the_rest_of_a_chunk_is_played_and_its_last_action_kept_for_the_age_limit() -> None:
    seen = played(make(), {1: chunk(1, ramp(5))}, 9)
    assert seen == [0.0, 0.01, 0.02, 0.03, 0.04, 0.04, 0.04, None, None]


def test_slow_down_plays_the_rest_at_half_speed_along_the_same_path() -> None:
    path = np.zeros((7, 6))
    path[:, 0] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    seen = played(make(LateRule.SLOW_DOWN), {1: chunk(1, path)}, 20)
    assert seen[:3] == [0.1, 0.2, 0.3]  # in time
    assert seen[3:11] == [0.2, 0.2, 0.25, 0.25, 0.3, 0.3, 0.35, 0.35]
    assert seen[-1] is None


@pytest.mark.parametrize("late", LateRule)
def test_no_rule_executes_what_answers_an_observation_beyond_the_limit(late: LateRule) -> None:
    bridge = make(late, max_chunk_age_s=0.8)
    seen = played(bridge, {1: chunk(1, ramp(MAX_CHUNK), 10.0)}, 60)
    ages_s = [n * 0.1 + LAG * 1e-9 for n, value in enumerate(seen) if value is not None]
    assert max(ages_s) <= (0.3 if late is LateRule.HOLD else 0.8)


def test_a_limit_for_chunks_below_the_limit_for_actions_does_not_shorten_that() -> None:
    assert played(make(max_chunk_age_s=0.1), {1: chunk(1, ramp(1))}, 4) == [0.0, 0.0, 0.0, None]


def test_the_newest_chunk_wins_by_default() -> None:
    answers = {n: chunk(n, ramp(4, first=0.1 * n)) for n in (1, 2, 3)}
    assert played(make(), answers, 4) == [0.1, 0.2, 0.3, 0.31]


def test_an_ensemble_averages_what_the_chunks_say_about_this_tick() -> None:
    answers = {n: chunk(n, np.full((4, 6), float(n))) for n in (1, 2, 3)}
    assert played(make(ensemble=1.0), answers, 3) == [1.0, 1.5, 2.0]
    assert played(make(ensemble=0.5), answers, 2) == [1.0, round((2 + 0.5 * 1) / 1.5, 6)]


def test_an_ensemble_leaves_out_what_has_run_out_or_belongs_to_another_episode() -> None:
    bridge = make(ensemble=1.0)
    for n in (1, 2, 3, 4):
        bridge.offer(chunk(n, np.full((2, 6), float(n))))
        bridge.begin_tick(n * TICK, n * TICK - LAG)
    action, _ = bridge.due("p", 4 * TICK, 0)
    assert action is not None and action.delta[0] == pytest.approx(3.5)  # the first two are over
    action, _ = bridge.due("p", 4 * TICK, 4 * TICK - LAG)
    assert action is not None and action.delta[0] == pytest.approx(4.0)


def test_an_ensemble_of_huge_actions_stays_finite() -> None:
    bridge = make(ensemble=1.0)
    for n in (1, 2, 3):
        bridge.offer(chunk(n, np.full((5, 6), 1.7e308)))
        bridge.begin_tick(n * TICK, n * TICK - LAG)
    action, _ = bridge.due("p", 3 * TICK, 0)
    assert action is not None and np.isfinite(action.delta).all()


@pytest.mark.parametrize("ensemble", [-0.1, 1.1, float("nan")])
def test_a_weight_outside_its_range_is_refused(ensemble: float) -> None:
    with pytest.raises(ValueError, match=r"ensemble: .* must be in \[0, 1\]"):
        Bridging(ensemble=ensemble)


def test_latency_is_measured_over_the_last_answers() -> None:
    bridge = make()
    assert bridge.latency("p") is None
    for n in range(1, 301):
        latency_ns = 500_000_000 if n <= 200 else (n - 200) * 1_000_000
        bridge.offer(chunk(n, ramp(1)), n * TICK - LAG + latency_ns)
    latency = bridge.latency("p")
    assert latency is not None and latency.answers == 100
    assert latency.p50_s == pytest.approx(0.0505) and latency.p95_s == pytest.approx(0.09505)


def test_what_is_said_again_is_not_measured_again() -> None:
    bridge = make()
    for _ in range(3):
        bridge.offer(chunk(1, ramp(1)), TICK)
    latency = bridge.latency("p")
    assert latency is not None and latency.answers == 1
