"""Runs of episodes: reset, wait for the arm, run, count, cancel, and what goes wrong on the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rldg_control.episode_flow import EpisodeFlow, Run
from rldg_core.frames import Pose
from rldg_core.judge import Judge
from rldg_core.task import load_task
from rldg_core.types import EpisodeStatus, Observation, Outcome, Phase

TASK = load_task("usb_insertion")
PERIOD_NS = 100_000_000
START = Pose.from_rpy((0.5, 0.0, 0.1), (np.pi, 0.0, 0.0))
ELSEWHERE = Pose.from_rpy((0.48, 0.03, 0.07), (np.pi, 0.0, 0.0))
FIXTURE = Pose.identity()


class Flow:
    """A flow under test with an observer that follows the contract."""

    def __init__(self) -> None:
        self.resets: list[tuple[str, int]] = []
        self.flow = EpisodeFlow(TASK, Judge(TASK, "s"), lambda scene, seed: self.resets.append((scene, seed)))
        self.status: EpisodeStatus | None = None
        self.stamp_ns = 0
        self.index = 0
        self.pose = START
        self.speed_m_s = 0.0

    def observe(self, fixture: Pose | None = FIXTURE) -> EpisodeStatus | None:
        self.stamp_ns += PERIOD_NS
        running = self.status is not None and self.status.phase is Phase.RUNNING
        self.index = self.index + 1 if running else -1
        observation = Observation(
            stamp_ns=self.stamp_ns,
            image=np.zeros((4, 4, 3), dtype=np.uint8),
            tcp_pose=self.pose,
            tcp_twist=np.array([self.speed_m_s, 0, 0, 0, 0, 0]),
            wrench=np.arange(6.0),
            gripper_width_m=0.0,
            gripper_closed=True,
            episode_id=self.status.episode_id if running and self.status else "",
            index=max(self.index, 0),
        )
        status = self.flow.observe(observation, fixture)
        self.status = status or self.status
        return status

    def reset(self, start: Pose | None = START, message: str = "") -> EpisodeStatus | None:
        status = self.flow.reset_done(start, message, self.stamp_ns)
        self.status = status or self.status
        return status

    def run_to(self, phase: Phase, limit: int = 500) -> EpisodeStatus:
        for _ in range(limit):
            if self.resets and self.flow._resetting:
                self.reset()
            status = self.observe()
            if status is not None and status.phase is phase:
                return status
        raise AssertionError(f"never reached {phase.name}, is at {self.status}")


def test_an_episode_goes_from_idle_through_reset_to_running() -> None:
    flow = Flow()
    assert flow.observe().phase is Phase.IDLE
    flow.flow.begin_run(1, 7, "")
    assert flow.observe().phase is Phase.RESETTING and not flow.resets
    assert flow.observe() is None  # the manager is silent until the scene is reset
    assert flow.resets == [(TASK.scene().name, 7)]
    assert flow.observe() is None
    answer = flow.reset()
    assert answer.phase is Phase.RESETTING and np.allclose(answer.reset_pose.position, START.position)
    assert flow.observe().phase is Phase.RESETTING  # at rest once may be chance
    running = flow.observe()
    assert running.phase is Phase.RUNNING and running.stamp_ns == flow.stamp_ns
    assert running.tare.tolist() == list(range(6))
    first = flow.observe()
    assert (first.phase, first.index, first.reward) == (Phase.RUNNING, 0, 0.0)


def test_observations_taken_before_the_reset_was_over_do_not_start_the_episode() -> None:
    flow = Flow()
    flow.flow.begin_run(1, 0, "")
    flow.observe()
    flow.observe()
    flow.flow.reset_done(START, "", flow.stamp_ns + 2 * PERIOD_NS)
    assert [flow.observe().phase for _ in range(4)] == 3 * [Phase.RESETTING] + [Phase.RUNNING]


def test_a_moving_arm_is_given_time_to_stop_before_the_scene_changes_under_it() -> None:
    flow = Flow()
    flow.flow.begin_run(1, 0, "")
    flow.speed_m_s = 0.2
    for _ in range(4):
        assert flow.observe().phase is Phase.RESETTING
    assert not flow.resets
    flow.speed_m_s = 0.0
    assert flow.observe() is None and len(flow.resets) == 1


def test_the_episode_waits_until_the_arm_has_come_to_its_start() -> None:
    flow = Flow()
    flow.flow.begin_run(1, 0, "")
    flow.pose = ELSEWHERE
    flow.observe()
    flow.observe()
    flow.reset()
    for _ in range(5):
        waiting = flow.observe()
        assert waiting.phase is Phase.RESETTING and np.allclose(waiting.reset_pose.position, START.position)
    flow.pose = START
    assert [flow.observe().phase for _ in range(2)] == [Phase.RESETTING, Phase.RUNNING]


def test_an_arm_that_never_arrives_aborts_the_run_and_says_how_far_off_it_is() -> None:
    flow = Flow()
    run = flow.flow.begin_run(3, 0, "")
    flow.pose = ELSEWHERE
    ended = flow.run_to(Phase.ENDED)
    assert ended.outcome is Outcome.ABORTED and "off by 46.9 mm" in ended.reason
    assert run.finished and run.completed == 1 and "start pose" in run.message
    assert flow.observe().phase is Phase.IDLE


def test_a_failed_reset_aborts_the_episode_and_the_run_with_the_reason() -> None:
    flow = Flow()
    run = flow.flow.begin_run(3, 0, "")
    flow.observe()
    flow.observe()
    ended = flow.reset(None, "no service")
    assert (ended.phase, ended.outcome, ended.reason) == (Phase.ENDED, Outcome.ABORTED, "reset failed: no service")
    assert run.finished and (run.completed, run.successes) == (1, 0)


def test_a_run_counts_outcomes_and_uses_one_seed_after_the_other() -> None:
    flow = Flow()
    run = flow.flow.begin_run(3, 40, "")
    goal = FIXTURE @ TASK.success.goal.pose()
    outcomes = []
    for number in range(3):
        flow.run_to(Phase.RUNNING)
        flow.observe()
        if number != 1:
            flow.pose = goal
        outcomes.append(flow.run_to(Phase.ENDED).outcome)
        flow.pose = START
    assert outcomes == [Outcome.SUCCESS, Outcome.TIMEOUT, Outcome.SUCCESS]
    assert run == Run(3, 40, "", completed=3, successes=2, began_ns=run.began_ns, finished=True)
    assert [seed for _, seed in flow.resets] == [40, 41, 42]
    assert flow.observe().phase is Phase.IDLE


@pytest.mark.parametrize("when", ["before", "resetting", "reset pending", "running"])
def test_a_cancelled_run_ends_with_the_next_observation_and_asks_for_no_more_resets(when: str) -> None:
    flow = Flow()
    run = flow.flow.begin_run(5, 0, "")
    if when == "resetting":
        flow.observe()
    elif when == "reset pending":
        flow.observe()
        flow.observe()
    elif when == "running":
        flow.run_to(Phase.RUNNING)
    count = len(flow.resets)
    flow.flow.end_run("cancelled")
    ended = flow.reset() if when == "reset pending" else flow.observe()
    if when == "before":
        assert ended.phase is Phase.IDLE and run.completed == 0
    else:
        assert (ended.outcome, ended.reason) == (Outcome.ABORTED, "cancelled") and run.completed == 1
    assert run.finished and run.message == "cancelled"
    assert flow.observe().phase is Phase.IDLE
    assert len(flow.resets) == count


def test_an_observer_that_lost_count_ends_the_episode() -> None:
    flow = Flow()
    flow.flow.begin_run(1, 0, "")
    flow.run_to(Phase.RUNNING)
    for _ in range(3):
        flow.observe()
    flow.index = -1
    ended = flow.observe()
    assert ended.outcome is Outcome.ABORTED and "observer" in ended.reason


def test_only_one_run_at_a_time_and_only_possible_ones() -> None:
    flow = Flow()
    with pytest.raises(ValueError, match="count: 0"):
        flow.flow.begin_run(0, 0, "")
    with pytest.raises(ValueError, match="no scene 'nowhere'"):
        flow.flow.begin_run(1, 0, "nowhere")
    flow.flow.begin_run(2, 0, "")
    with pytest.raises(ValueError, match="under way"):
        flow.flow.begin_run(1, 0, "")


def test_without_a_fixture_pose_nothing_is_judged_a_success() -> None:
    flow = Flow()
    flow.flow.begin_run(1, 0, "")
    flow.run_to(Phase.RUNNING)
    flow.observe()
    flow.pose = FIXTURE @ TASK.success.goal.pose()
    for _ in range(5):
        assert flow.observe(fixture=None).phase is Phase.RUNNING


def test_verdicts_between_episodes_carry_the_stamp_of_the_observation() -> None:
    flow = Flow()
    for _ in range(3):
        status = flow.observe()
        assert replace(status, stamp_ns=0).episode_id == "" and status.stamp_ns == flow.stamp_ns
