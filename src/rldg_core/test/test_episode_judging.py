"""Success rule, time limit, labels and the order of phases."""

import numpy as np
import pytest

from rldg_core.frames import Pose
from rldg_core.judge import Judge, Sight, at_start
from rldg_core.task import TaskError
from rldg_core.testing import TICK_NS, make_observation, make_task, tool_down
from rldg_core.types import Outcome, Phase

FIXTURE = Pose.from_rpy((0.5, 0.0, 0.0), (0, 0, 0))


def started(task):
    judge = Judge(task, "s")
    judge.begin("", seed=3)
    judge.start(make_observation(0, tool_down(), episode_id="", wrench=np.full(6, 2.0)))
    return judge


def watch(judge, index, pose, fixture=FIXTURE, **changes):
    return judge.judge(make_observation((index + 1) * TICK_NS, pose, index=index, **changes), fixture)


def test_an_episode_starts_with_the_reset_pose_and_the_tare(task):
    status = started(task).status
    assert (status.phase, status.episode_id, status.seed, status.scene) == (Phase.RUNNING, "s/0001", 3, "seen")
    np.testing.assert_allclose(status.reset_pose.position, tool_down().position)
    np.testing.assert_allclose(status.tare, 2.0)


def test_reaching_the_goal_is_success_with_reward_one(task):
    judge = started(task)
    assert watch(judge, 0, tool_down()).phase is Phase.RUNNING
    status = watch(judge, 1, tool_down(z=0.102))
    assert (status.phase, status.outcome, status.reward, status.reason) == (
        Phase.ENDED,
        Outcome.SUCCESS,
        1.0,
        "goal reached",
    )


@pytest.mark.parametrize(
    "pose", [tool_down(0.506, z=0.1), tool_down(y=-0.006, z=0.1), tool_down(z=0.104), tool_down(z=0.1, yaw=0.12)]
)
def test_outside_any_tolerance_is_no_success(task, pose):
    assert watch(started(task), 1, pose).phase is Phase.RUNNING


def test_the_goal_moves_with_the_fixture(task):
    fixture = Pose.from_rpy((0.55, 0.05, 0.0), (0, 0, 0.3))
    assert watch(started(task), 1, tool_down(z=0.1), fixture).phase is Phase.RUNNING
    assert watch(started(task), 1, tool_down(0.55, 0.05, 0.1, yaw=0.3), fixture).outcome is Outcome.SUCCESS


def test_an_unknown_fixture_never_gives_success(task):
    assert watch(started(task), 1, tool_down(z=0.1), None).phase is Phase.RUNNING


def test_a_goal_reached_before_the_first_action_is_aborted(task):
    status = watch(started(task), 0, tool_down(z=0.1))
    assert (status.outcome, status.reward) == (Outcome.ABORTED, 0.0)


def test_consecutive_ticks_are_required_where_the_rule_says_so():
    rule = {"goal": {"xyz_m": [0, 0, 0.1], "rpy_rad": [np.pi, 0, 0]}, "position_tolerance_m": [0.01] * 3}
    judge = started(make_task(success={**rule, "consecutive_ticks": 2}))
    assert watch(judge, 1, tool_down(z=0.1)).phase is Phase.RUNNING
    assert watch(judge, 2, tool_down()).phase is Phase.RUNNING
    assert watch(judge, 3, tool_down(z=0.1)).phase is Phase.RUNNING
    assert watch(judge, 4, tool_down(z=0.1)).outcome is Outcome.SUCCESS


def test_an_open_gripper_can_be_part_of_the_rule():
    rule = {"goal": {"xyz_m": [0, 0, 0.1], "rpy_rad": [np.pi, 0, 0]}, "position_tolerance_m": [0.01] * 3}
    task = make_task(success={**rule, "gripper": "open"})
    assert watch(started(task), 1, tool_down(z=0.1), gripper_closed=True).phase is Phase.RUNNING
    assert watch(started(task), 1, tool_down(z=0.1), gripper_closed=False).outcome is Outcome.SUCCESS


def test_the_time_limit_ends_the_episode_after_its_number_of_actions(task):
    judge = started(task)
    assert watch(judge, task.max_steps - 1, tool_down()).phase is Phase.RUNNING
    status = watch(judge, task.max_steps, tool_down())
    assert (status.outcome, status.reward) == (Outcome.TIMEOUT, 0.0)


def test_an_operator_label_ends_the_episode_at_the_next_observation(task):
    judge = started(task)
    assert judge.label("success", "ada") == ""
    status = watch(judge, 1, tool_down())
    assert (status.outcome, status.reward, status.reason) == (Outcome.SUCCESS, 1.0, "label by ada")


def test_a_label_can_be_undone_before_it_takes_effect(task):
    judge = started(task)
    judge.label("failure")
    assert judge.label("undo") == ""
    assert watch(judge, 1, tool_down()).phase is Phase.RUNNING
    assert judge.label("undo") == "nothing to undo"


def test_undoing_the_label_that_ended_an_episode_leaves_it_aborted(task):
    judge = started(task)
    judge.label("success")
    watch(judge, 1, tool_down())
    judge.begin("", seed=4)
    assert judge.label("undo") == ""
    assert (judge.ended.episode_id, judge.ended.outcome, judge.ended.reward) == ("s/0001", Outcome.ABORTED, 0.0)
    assert (judge.status.phase, judge.status.episode_id) == (Phase.RESETTING, "s/0002")
    assert judge.label("undo") == "nothing to undo"


def test_undoing_a_new_label_brings_the_old_verdict_back(task):
    judge = started(task)
    watch(judge, 1, tool_down(z=0.1))
    judge.label("failure")
    assert judge.label("undo") == ""
    assert (judge.status.outcome, judge.status.reward) == (Outcome.SUCCESS, 1.0) and judge.ended == judge.status


def test_while_the_next_episode_runs_the_last_one_keeps_its_label(task):
    judge = started(task)
    judge.label("success")
    watch(judge, 1, tool_down())
    judge.begin("", seed=4)
    judge.start(make_observation(0, tool_down(), episode_id=""))
    assert judge.label("undo") == "nothing to undo" and judge.ended.outcome is Outcome.SUCCESS


def test_the_last_episode_can_be_relabelled_after_the_fact(task):
    judge = started(task)
    watch(judge, 1, tool_down(z=0.1))
    assert judge.label("failure") == ""
    assert (judge.status.outcome, judge.status.reward) == (Outcome.FAILURE, 0.0)


def test_the_last_episode_can_be_relabelled_while_the_next_one_resets(task):
    judge = started(task)
    watch(judge, 1, tool_down(z=0.1))
    judge.begin("", seed=4)
    assert judge.label("failure", "ada") == ""
    assert (judge.ended.episode_id, judge.ended.outcome, judge.ended.reason) == (
        "s/0001",
        Outcome.FAILURE,
        "relabelled by ada",
    )
    assert (judge.status.phase, judge.status.episode_id) == (Phase.RESETTING, "s/0002")


@pytest.mark.parametrize("label", ["won", "", "SUCCESS"])
def test_an_unknown_label_is_refused_with_the_known_ones(task, label):
    assert "success, failure, aborted, undo" in started(task).label(label)


def test_a_label_without_an_episode_is_refused(task):
    assert "no episode" in Judge(task, "s").label("success")


def test_an_aborted_reset_ends_the_episode(task):
    judge = Judge(task, "s")
    judge.begin("", seed=0)
    judge.abort("reset_scene failed")
    status = watch(judge, 0, tool_down(), episode_id="")
    assert (status.phase, status.outcome, status.reason) == (Phase.ENDED, Outcome.ABORTED, "reset_scene failed")


def test_an_observation_of_another_episode_is_not_judged(task):
    assert watch(started(task), 1, tool_down(z=0.1), episode_id="s/0000").phase is Phase.RUNNING


def seeing(task, probabilities, **changes):
    """A running judge whose classifier says one probability after another, and how often it was asked."""
    asked = []
    judge = Judge(task, "s", Sight(lambda image: asked.append(image) or probabilities[len(asked) - 1], 0.8, **changes))
    judge.begin("", seed=3)
    judge.start(make_observation(0, tool_down(), episode_id=""))
    return judge, asked


def test_a_classifier_must_see_success_on_consecutive_ticks(task):
    judge, _ = seeing(task, [0.9, 0.7, 0.8, 0.9])
    for index in (1, 2, 3):
        assert watch(judge, index, tool_down(z=0.1)).phase is Phase.RUNNING
    status = watch(judge, 4, tool_down(z=0.1))
    assert (status.outcome, status.reward, status.reason) == (Outcome.SUCCESS, 1.0, "goal seen")


def test_a_certain_classifier_is_not_even_asked_far_from_the_goal(task):
    judge, asked = seeing(task, [1.0] * 9)
    for index in range(1, 5):
        assert watch(judge, index, tool_down(z=0.107)).phase is Phase.RUNNING
    assert asked == []


def test_with_a_classifier_the_tolerances_are_wider(task):
    pose = tool_down(z=0.105)  # the rule alone allows 3 mm
    assert watch(started(task), 1, pose).phase is Phase.RUNNING
    judge, _ = seeing(task, [1.0, 1.0])
    watch(judge, 1, pose)
    assert watch(judge, 2, pose).outcome is Outcome.SUCCESS


def test_an_interruption_of_the_geometry_starts_the_count_again(task):
    judge, _ = seeing(task, [1.0] * 3)
    for index, z_m in ((1, 0.1), (2, 0.2), (3, 0.1)):
        assert watch(judge, index, tool_down(z=z_m)).phase is Phase.RUNNING
    assert watch(judge, 4, tool_down(z=0.1)).outcome is Outcome.SUCCESS


def test_hits_of_one_episode_do_not_count_for_the_next(task):
    judge, _ = seeing(task, [1.0] * 2)
    watch(judge, 1, tool_down(z=0.1))
    judge.begin("", seed=4)
    judge.start(make_observation(0, tool_down(), episode_id=""))
    assert watch(judge, 1, tool_down(z=0.1), episode_id="s/0002").phase is Phase.RUNNING


def test_a_probability_that_is_no_number_is_no_success(task):
    judge, _ = seeing(task, [float("nan")] * 2, consecutive_ticks=1)
    assert watch(judge, 1, tool_down(z=0.1)).phase is Phase.RUNNING


@pytest.mark.parametrize(("spread_m", "outcome"), [(0.0, Outcome.NONE), (0.05, Outcome.SUCCESS)])
def test_a_fixture_that_nobody_sees_is_where_the_task_file_has_it(spread_m, outcome):
    placed = {"pose": {"xyz_m": [0.5, 0.0, 0.0]}, "randomize": {"xyz_m": [spread_m, 0.0, 0.0]}}
    judge, _ = seeing(make_task(fixture=placed), [1.0] * 4, consecutive_ticks=1)
    assert watch(judge, 1, tool_down(0.54, z=0.1), None).outcome is outcome


@pytest.mark.parametrize(
    ("gripper", "closed", "outcome"),
    [("open", False, Outcome.SUCCESS), ("open", True, Outcome.NONE), ("any", False, Outcome.NONE)],
)
def test_an_object_that_nobody_sees_needs_the_gripper_of_the_rule(gripper, closed, outcome):
    rule = {"goal": {"xyz_m": [0, 0, 0.1]}, "position_tolerance_m": [0.01] * 3, "subject": "object", "gripper": gripper}
    judge, _ = seeing(make_task(success=rule), [1.0], consecutive_ticks=1)
    assert watch(judge, 1, tool_down(), FIXTURE, gripper_closed=closed).outcome is outcome


def test_an_unknown_scene_is_refused(task):
    with pytest.raises(TaskError, match="no scene"):
        Judge(task, "s").begin("dark", 0)


def test_the_arm_is_at_the_start_only_when_it_is_there_and_at_rest():
    assert at_start(make_observation(pose=tool_down()), tool_down())
    assert not at_start(make_observation(pose=tool_down(0.52)), tool_down())
    assert not at_start(make_observation(pose=tool_down(), tcp_twist=np.full(6, 0.05)), tool_down())
