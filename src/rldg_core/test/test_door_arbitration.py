"""Who drives, and what makes the arm hold."""

import itertools

import numpy as np
import pytest

from rldg_core.door import Door
from rldg_core.frames import apply_body_delta, body_delta, rotation_angle
from rldg_core.teleop import HumanCommand
from rldg_core.testing import TICK_NS, make_chunk, make_observation, make_task, running, tool_down
from rldg_core.types import Action, Change, EpisodeStatus, Outcome, Phase, Source

PUSH = np.array([0.5, -0.25, 1.0, 0.0, 0.0, 0.2])
HUMAN = HumanCommand(active=True, action=Action(np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])))


@pytest.fixture
def door(task):
    door = Door(task, "tcp")
    door.select("p", 0, require_fresh=False)
    return door


def tick(door, n=1, episode=None, observation=None, **inputs):
    stamp = n * TICK_NS
    return door.tick(stamp, observation or make_observation(stamp), episode or running(stamp), **inputs)


def test_the_selected_policy_drives_by_the_set_point_rule(door, task):
    door.offer(make_chunk(PUSH))
    step = tick(door)
    assert step.source is Source.POLICY and step.policy_id == "p" and step.changed == Change.NONE
    expected = apply_body_delta(tool_down(), PUSH * task.control.scale)
    np.testing.assert_allclose(body_delta(expected, step.target), 0.0, atol=1e-9)
    np.testing.assert_allclose(step.executed.delta, PUSH, atol=1e-9)


def test_another_policy_has_no_authority(door):
    door.offer(make_chunk(PUSH, policy_id="shadow"))
    step = tick(door)
    assert step.source is Source.HOLD and "no action" in step.reason


def test_the_human_overrides_the_policy_and_both_wishes_are_recorded(door):
    door.offer(make_chunk(PUSH))
    step = tick(door, human=HUMAN)
    assert step.source is Source.HUMAN
    np.testing.assert_allclose(step.executed.delta, HUMAN.action.delta, atol=1e-9)
    np.testing.assert_allclose(step.policy_action.delta, PUSH)
    np.testing.assert_allclose(step.human_action.delta, HUMAN.action.delta)


def test_an_action_beyond_one_is_clipped_and_stored_as_executed(door):
    door.offer(make_chunk(10.0 * PUSH))
    step = tick(door)
    assert Change.CLIPPED in step.changed
    np.testing.assert_allclose(step.executed.delta, np.clip(10.0 * PUSH, -1, 1), atol=1e-9)


def test_at_the_wall_the_executed_action_is_what_the_wall_left(door, task):
    at_wall = tool_down(z=task.workspace.min_m[2] + 0.005)
    door.offer(make_chunk([0, 0, 1.0, 0, 0, 0]))  # tool z points down
    step = tick(door, observation=make_observation(pose=at_wall))
    assert Change.WORKSPACE in step.changed
    np.testing.assert_allclose(step.executed.delta, [0, 0, 1 / 3, 0, 0, 0], atol=1e-9)


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        (make_chunk(np.full(6, np.nan)), "not finite"),
        (make_chunk([0, 0, np.inf, 0, 0, 0]), "not finite"),
        (make_chunk(PUSH, frame_id="fr3_link0"), "frame 'fr3_link0'"),
        (make_chunk(np.zeros((0, 6))), "shape"),
        (make_chunk(np.zeros((300, 6))), "shape"),
        (make_chunk(np.zeros((2, 7))), "shape"),
        (make_chunk(PUSH, stamp_ns=100 * TICK_NS), "future"),
    ],
)
def test_a_wrong_action_is_refused_by_name_and_the_arm_holds(door, chunk, words):
    tick(door, 1)
    assert words in door.offer(chunk)
    step = tick(door, 2)
    assert step.source is Source.HOLD and words in step.reason and Change.REFUSED in step.changed


@pytest.mark.parametrize("policy_id", ["", "x" * 65, "a\nb", "\x1b[2J"])
def test_a_policy_must_have_a_name_that_fits_a_log_line(door, policy_id):
    assert "must be 1 to 64" in door.offer(make_chunk(PUSH, policy_id=policy_id))


def test_only_so_many_policies_are_remembered(door):
    refusals = [door.offer(make_chunk(PUSH, policy_id=f"p{i}")) for i in range(40)]
    assert [bool(r) for r in refusals].index(True) == 32
    assert door.offer(make_chunk(PUSH, policy_id="p0")) == ""


def test_a_policy_that_was_silent_for_long_makes_room_for_another(door):
    assert not any(door.offer(make_chunk(PUSH, policy_id=f"p{i}")) for i in range(32))
    tick(door, 100)
    assert door.offer(make_chunk(PUSH, 100 * TICK_NS, policy_id="new"))  # 10 s: they may come back
    door.offer(make_chunk(PUSH, 100 * TICK_NS, policy_id="p0"))
    tick(door, 700)
    assert door.offer(make_chunk(PUSH, 700 * TICK_NS, policy_id="new")) == ""
    assert "new" in door.policies and "p0" in door.policies and "p1" not in door.policies


def test_a_good_action_after_a_refused_one_drives_again(door):
    door.offer(make_chunk(np.full(6, np.nan)))
    door.offer(make_chunk(PUSH))
    assert tick(door).source is Source.POLICY


def test_a_stale_action_is_not_executed(door, task):
    door.offer(make_chunk(PUSH, TICK_NS))
    late = 1 + round(task.safety.max_action_age_s * 10) + 1
    step = tick(door, late)
    assert step.source is Source.HOLD and "stale" in step.reason


def test_an_answer_to_an_older_observation_does_not_replace_a_newer_one(door):
    door.offer(make_chunk(PUSH, 2 * TICK_NS))
    door.offer(make_chunk(-PUSH, TICK_NS))
    step = tick(door, 2)
    np.testing.assert_allclose(step.executed.delta, PUSH, atol=1e-9)


def test_a_chunk_is_played_one_action_a_tick_and_then_runs_out(door):
    door.offer(make_chunk(np.diag([1.0, 1, 1, 1, 1, 1])[:3]))
    played = [tick(door, n) for n in range(1, 8)]
    assert [int(np.argmax(s.executed.delta)) for s in played[:3]] == [0, 1, 2]
    assert played[-1].source is Source.HOLD and "stale" in played[-1].reason


def test_hold_freezes_the_pose_at_which_it_began(door):
    door.select("", 0)
    first = tick(door, 1, observation=make_observation(TICK_NS, tool_down(0.5)))
    later = tick(door, 2, observation=make_observation(2 * TICK_NS, tool_down(0.505)))
    np.testing.assert_allclose(later.target.position, first.target.position)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"faults": ["two nodes publish target_pose"]}, "two nodes"),
        ({"human": HumanCommand(fault="operator device fell silent")}, "silent"),
        ({"observation": make_observation(TICK_NS - 4 * TICK_NS)}, "observation is 0.40 s old"),
        ({"episode": running(TICK_NS - 4 * TICK_NS)}, "behind the observation"),
        ({"episode": running(phase=Phase.ENDED)}, ""),
        ({"episode": EpisodeStatus(TICK_NS)}, ""),
        ({"observation": make_observation(episode_id="s/0000")}, ""),
        ({"observation": make_observation(image_age_s=-4.0)}, "clock is 4.00 s ahead"),
        ({"observation": make_observation(skew_s=4.9)}, "4.90 s away"),
        ({"observation": make_observation(state_age_s=0.5)}, "arm state is 0.50 s old"),
        ({"episode": running(0)}, "no verdict on this observation yet"),
    ],
)
def test_anything_missing_late_or_wrong_means_hold(door, inputs, words):
    door.offer(make_chunk(PUSH))
    step = tick(door, **inputs)
    assert step.source is Source.HOLD and words in step.reason


def test_a_latched_estop_stops_the_human_too_until_it_is_released(door):
    door.set_estop("button")
    assert tick(door, human=HUMAN).reason == "e-stop: button"
    door.set_estop("")
    assert tick(door, 2, human=HUMAN).source is Source.HUMAN


def test_a_human_may_drive_between_episodes_but_a_policy_may_not(door):
    door.offer(make_chunk(PUSH))
    idle = EpisodeStatus(TICK_NS)
    observation = make_observation(episode_id="")
    assert tick(door, episode=idle, observation=observation).source is Source.HOLD
    assert tick(door, episode=idle, observation=observation, human=HUMAN).source is Source.HUMAN


def test_nobody_but_the_reset_motion_drives_during_a_reset(door):
    goal = tool_down(0.51)
    resetting = running(phase=Phase.RESETTING)
    assert tick(door, episode=resetting, human=HUMAN).source is Source.HOLD
    step = tick(door, episode=resetting, human=HUMAN, reset_target=goal)
    assert step.source is Source.RESET
    np.testing.assert_allclose(step.target.position, goal.position)


def test_an_arm_that_the_scene_moved_is_not_pulled_back(door):
    tick(door, 1)
    resetting = running(2 * TICK_NS, phase=Phase.RESETTING)
    elsewhere = make_observation(2 * TICK_NS, tool_down(0.58, 0.09))
    assert rotation_angle(tick(door, 2, resetting, elsewhere).target, elsewhere.tcp_pose) < 1e-9
    np.testing.assert_allclose(
        tick(door, 3, None, make_observation(3 * TICK_NS, tool_down(0.58, 0.09))).target.position,
        elsewhere.tcp_pose.position,
    )


def test_the_force_guard_holds_after_its_number_of_ticks_and_lets_go_below(door, task):
    sources = []
    for n in range(1, 12):
        door.offer(make_chunk(PUSH, n * TICK_NS))
        force = 60.0 if n <= 5 else 5.0
        sources.append(
            tick(door, n, observation=make_observation(n * TICK_NS, wrench=np.array([force, 0, 0, 0, 0, 0]))).source
        )
    samples = task.safety.force_samples
    assert sources[: samples - 1] == [Source.POLICY] * (samples - 1)
    assert sources[samples - 1 : 5] == [Source.HOLD] * (6 - samples)
    assert sources[-1] is Source.POLICY


def test_a_policy_is_selected_only_when_it_is_fresh(door):
    assert "has sent no action" in door.select("new", TICK_NS)
    door.offer(make_chunk(PUSH, TICK_NS, policy_id="new"))
    assert "stale" in door.select("new", 50 * TICK_NS)
    assert door.selected == "p"
    assert door.select("new", TICK_NS) == "" and door.selected == "new"


def test_gripper_toggles_wait_for_the_dwell_time():
    door = Door(make_task(control={"gripper": "binary"}), "tcp")
    closed = []
    for n in range(1, 12):
        wish = HumanCommand(active=True, action=Action(np.zeros(6), gripper_closed=n % 2 == 1))
        closed.append(tick(door, n, human=wish).executed.gripper_closed)
    assert closed[0] is True
    toggles = [i for i in range(1, len(closed)) if closed[i] != closed[i - 1]]
    assert toggles and toggles[0] >= 5 and all(b - a >= 5 for a, b in itertools.pairwise(toggles))


def test_a_verdict_is_recorded_exactly_once(door):
    ended = running(phase=Phase.ENDED, outcome=Outcome.SUCCESS, reward=1.0)
    first = tick(door, 1, episode=ended)
    again = door.tick(2 * TICK_NS, make_observation(), ended)
    assert (first.reward, first.is_last, first.terminated, first.truncated) == (1.0, True, True, False)
    assert (again.reward, again.is_last) == (0.0, False)


def test_a_late_end_of_an_episode_keeps_its_number_and_nothing_is_done_meanwhile(door):
    door.offer(make_chunk(PUSH))
    waiting = tick(door, 1, episode=running(0))
    assert waiting.source is Source.HOLD and not waiting.is_last
    ended = running(TICK_NS, phase=Phase.ENDED, outcome=Outcome.SUCCESS, reward=1.0, index=1)
    closing = tick(door, 2, ended, make_observation(2 * TICK_NS, episode_id="", index=0))
    assert (closing.episode_id, closing.index, closing.is_last, closing.reward) == ("s/0001", 1, True, 1.0)


def test_an_answer_from_before_the_episode_does_not_drive_it(door):
    door.offer(make_chunk(PUSH, TICK_NS))
    tick(door, 1, EpisodeStatus(TICK_NS), make_observation(TICK_NS, episode_id=""))
    step = tick(door, 2, observation=make_observation(2 * TICK_NS, index=0))
    assert step.source is Source.HOLD and "of this episode" in step.reason and step.is_first


def test_a_tick_without_a_new_observation_holds_and_is_not_a_second_first(door):
    first = make_observation(TICK_NS, index=0)
    door.offer(make_chunk(PUSH, TICK_NS))
    steps = [door.tick(n * TICK_NS, first, running(TICK_NS)) for n in (1, 2)]
    assert [s.source for s in steps] == [Source.POLICY, Source.HOLD]
    assert [s.is_first for s in steps] == [True, False]
    assert "no new observation" in steps[1].reason


def test_a_time_limit_truncates_and_does_not_terminate(door):
    step = tick(door, episode=running(phase=Phase.ENDED, outcome=Outcome.TIMEOUT))
    assert step.is_last and step.truncated and not step.terminated


def test_nothing_is_commanded_while_the_pose_is_unknown(task):
    door = Door(task, "tcp")
    assert door.tick(TICK_NS, None, running()) is None and "unknown" in door.trouble


def test_a_reset_opens_the_gripper():
    door = Door(make_task(control={"gripper": "binary"}), "tcp")
    close = HumanCommand(active=True, action=Action(np.zeros(6), gripper_closed=True))
    assert tick(door, 1, human=close).executed.gripper_closed
    assert not tick(door, 20, running(20 * TICK_NS, phase=Phase.RESETTING)).executed.gripper_closed
