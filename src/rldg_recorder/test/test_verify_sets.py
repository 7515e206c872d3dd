"""The gate finds what would teach nonsense, names the episode and the remedy, and lets good sets pass."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from rldg_core.task import Task
from rldg_core.testing import make_task
from rldg_core.types import Outcome, Source
from rldg_recorder.algebra import make_plan
from rldg_recorder.build import build
from rldg_recorder.frames import TrainingEpisode
from rldg_recorder.materialize import materialize
from rldg_recorder.plan import DatasetError, Plan, PlannedEpisode
from rldg_recorder.recipe import Recipe
from rldg_recorder.testing import Bags
from rldg_recorder.training_set import PROVENANCE_FILE, STATISTICS_FILE
from rldg_recorder.verify import CHECKS, Finding, verify

Change = Callable[[int, TrainingEpisode], TrainingEpisode]


class Workshop:
    """Makes bags in memory and builds sets of them."""

    def __init__(self, root: Path) -> None:
        self.root, self.bags = root, Bags(root / "bags")

    def record(self, episodes: int = 6, steps: int = 8, **options: Any) -> None:
        for _ in range(episodes):
            rng = np.random.default_rng(len(self.bags.episodes))
            deltas = rng.normal(0.0, 0.2, (steps, 6)).clip(-1, 1)
            deltas[:, 2] = 0.5 + 0.1 * deltas[:, 2]
            deltas[:, 3:] -= deltas[:, 3:].mean(axis=0)
            deltas[:, 3:] *= 0.1
            self.bags.add(deltas, **options)

    def build(self, change: Change | None = None, **recipe: object) -> Path:
        data = {"name": "set", "bags": [str(self.bags.root)], "sources": [{"name": "all"}], **recipe}
        data |= {"format": {"image_size_px": 32}}
        plan, _ = make_plan(msgspec.convert(data, Recipe, strict=False), self.bags.read)
        return self.build_plan(plan, change)

    def build_plan(self, plan: Plan, change: Change | None = None) -> Path:
        numbers = {planned.segments: number for number, planned in enumerate(plan.episodes)}

        def make(planned: PlannedEpisode, options: Plan) -> TrainingEpisode:
            episode = materialize(planned, options, self.bags.read)
            return episode if change is None else change(numbers[planned.segments], episode)

        return build(plan, self.root / "sets", jobs=1, executor="serial", materialize=make)

    def verify(self, folder: Path, waive: tuple[str, ...] = ("length",)) -> list[Finding]:
        """Sets of tests are short of episodes."""
        return verify(folder, waive, self.bags.read)


@pytest.fixture
def workshop(tmp_path, monkeypatch) -> Workshop:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # these sets need not outlive a power cut
    return Workshop(tmp_path)


def found(findings: list[Finding]) -> list[tuple[str, str, int | None]]:
    return [(finding.check, finding.level, finding.episode) for finding in findings]


def only(number: int, change: Callable[[TrainingEpisode], TrainingEpisode]) -> Change:
    return lambda n, episode: change(episode) if n == number else episode


def with_action(frame: int, axis: int, value: float) -> Callable[[TrainingEpisode], TrainingEpisode]:
    def change(episode: TrainingEpisode) -> TrainingEpisode:
        action = episode.action.copy()
        action[frame, axis] = value
        return dataclasses.replace(episode, action=action)

    return change


def turned(by: np.ndarray) -> Change:
    """Adds to the rotations of every episode, shape (frames, 3)."""

    def change(_: int, episode: TrainingEpisode) -> TrainingEpisode:
        action = episode.action.copy()
        action[:, 3:6] = (action[:, 3:6] + by).clip(-1, 1)
        return dataclasses.replace(episode, action=action)

    return change


def grasping(**changes: object) -> Task:
    return make_task(family="pick_and_place", control={"gripper": "binary"}, **changes)


def edit_json(path: Path, change: Callable[[dict], None]) -> None:
    data = msgspec.json.decode(path.read_bytes())
    change(data)
    path.write_bytes(msgspec.json.encode(data))


def test_a_good_set_passes_without_a_word(workshop) -> None:
    workshop.record(12)
    assert workshop.verify(workshop.build(split={"test": 0.1}), waive=()) == []


def test_every_finding_is_one_line_with_a_known_check(workshop) -> None:
    workshop.record(2, steps=3)
    findings = workshop.verify(workshop.build(only(0, with_action(0, 0, 2.0))), waive=())
    assert findings and all("\n" not in finding.text and finding.check in CHECKS for finding in findings)


def test_errors_stand_before_warnings(workshop) -> None:
    workshop.record(3)
    levels = [finding.level for finding in workshop.verify(workshop.build(only(1, with_action(0, 0, 2.0))), ())]
    assert levels == ["error", "warn"]


def test_a_check_can_be_waived(workshop) -> None:
    workshop.record()
    folder = workshop.build(only(1, with_action(0, 0, 2.0)))
    assert workshop.verify(folder, ("range", "length")) == []
    with pytest.raises(DatasetError, match=r"waive nonsense: no such check; there are provenance, range"):
        workshop.verify(folder, ("nonsense",))


@pytest.mark.filterwarnings("ignore:invalid value")  # statistics of what is not finite
@pytest.mark.parametrize(("value", "said"), [(1.25, "dz = 1.250"), (np.nan, "dz = nan"), (-np.inf, "dz = -inf")])
def test_actions_outside_the_box_are_refused(value, said, workshop) -> None:
    workshop.record()
    (finding,) = workshop.verify(workshop.build(only(4, with_action(3, 2, value))), ("statistics", "length"))
    assert found([finding]) == [("range", "error", 4)]
    assert said in finding.text and "frame 3" in finding.text


def test_a_gripper_that_is_neither_open_nor_closed_is_refused(workshop) -> None:
    workshop.record()
    assert found(workshop.verify(workshop.build(only(4, with_action(3, 6, 0.5))))) == [("range", "error", 4)]


def test_a_state_that_is_not_finite_is_refused(workshop) -> None:
    workshop.record()

    def change(episode: TrainingEpisode) -> TrainingEpisode:
        state = episode.state.copy()
        state[2, 14] = np.nan
        return dataclasses.replace(episode, state=state)

    (finding,) = workshop.verify(workshop.build(only(0, change)), ("statistics", "length"))
    assert found([finding]) == [("range", "error", 0)] and "fz of frame 2" in finding.text


# --- rotation


def rotations(workshop: Workshop, by: np.ndarray, task: Task | None = None, episodes: int = 12) -> list[Finding]:
    workshop.record(episodes, steps=9, task=task or make_task())
    return [f for f in workshop.verify(workshop.build(turned(by))) if f.check == "rotation"]


def test_a_steady_rotation_on_an_insertion_is_refused(workshop) -> None:
    findings = rotations(workshop, np.tile([0.0, -0.1, 0.0], (9, 1)))
    assert [f.level for f in findings] == ["error"] * 3
    assert "dry is -0." in findings[0].text and "limit 0.05" in findings[0].text


def test_a_policy_that_leans_the_tool_is_only_pointed_out(workshop) -> None:
    workshop.record(12, steps=9, policy="specialist")
    lean = turned(np.tile([0.0, -0.1, 0.0], (9, 1)))
    findings = [f for f in workshop.verify(workshop.build(lean)) if f.check == "rotation"]
    assert [f.level for f in findings] == ["warn"] * 3


def test_a_rotation_there_and_back_is_refused_too(workshop) -> None:
    findings = rotations(workshop, np.repeat([[0.2, 0, 0], [0, 0, 0], [-0.2, 0, 0]], 3, axis=0))
    assert ["beginning" in f.text or "end" in f.text for f in findings] == [True, True]


def test_what_leaks_from_a_translation_through_a_lever_arm_is_refused(workshop) -> None:
    # the fault of the 6x6 adjoint: 0.5 m in front of the base, scales 0.015 m and 0.1 rad, pushing down at 0.8
    lever = np.cross([0.5, 0.0, 0.0], [0.0, 0.0, 0.8 * 0.015]) / 0.1
    assert {f.text.split()[1] for f in rotations(workshop, np.tile(lever, (9, 1)))} == {"dry"}


def test_rotations_that_differ_between_episodes_pass(workshop) -> None:
    workshop.record(12, steps=9)

    def change(number: int, episode: TrainingEpisode) -> TrainingEpisode:
        return turned(np.tile([0.4 if number % 2 else -0.4, 0, 0], (9, 1)))(number, episode)

    assert [f for f in workshop.verify(workshop.build(change)) if f.check == "rotation"] == []


def test_a_start_that_is_turned_at_random_leaves_more_room(workshop) -> None:
    down = {"pose": {"xyz_m": [0, 0, 0.2], "rpy_rad": [np.pi, 0, 0]}, "randomize": {"yaw_rad": 0.1}}
    assert rotations(workshop, np.tile([0.0, 0.0, 0.08], (9, 1)), make_task(start=down)) == []


def test_a_task_that_asks_for_a_rotation_may_have_one(workshop) -> None:
    start = {"pose": {"xyz_m": [0, 0, 0.2], "rpy_rad": [np.pi, 0, 0.5]}}
    assert rotations(workshop, np.tile([0.0, 0.0, 0.3], (9, 1)), make_task(start=start)) == []


def test_tasks_that_are_no_insertions_may_rotate(workshop) -> None:
    assert rotations(workshop, np.tile([0.0, 0.3, 0.0], (9, 1)), grasping()) == []


def test_a_handful_of_episodes_is_not_judged_by_its_rotation(workshop) -> None:
    assert rotations(workshop, np.tile([0.0, 0.3, 0.0], (9, 1)), episodes=4) == []


# --- mixed, stale, ages


def test_mixed_action_scales_are_refused(workshop) -> None:
    workshop.record()
    findings = workshop.verify(workshop.build(only(3, lambda e: dataclasses.replace(e, scale=(0.02,) * 6))))
    assert found(findings) == [("mixed", "error", 3)]
    assert "0.02" in findings[0].text and "0.015" in findings[0].text


def test_mixed_rates_are_refused(workshop) -> None:
    workshop.record()
    findings = workshop.verify(workshop.build(only(3, lambda e: dataclasses.replace(e, rate_hz=5.0))))
    assert found(findings) == [("mixed", "error", 3)] and "5 Hz, the set's is 10 Hz" in findings[0].text


def test_mixed_set_point_rules_are_refused(workshop) -> None:
    workshop.record(5)
    workshop.record(1, task=make_task(control={"setpoint": "leashed"}))
    findings = workshop.verify(workshop.build())
    assert found(findings) == [("mixed", "error", 5)] and "leashed pose, most from the measured" in findings[0].text


def frozen(frames: range) -> Callable[[TrainingEpisode], TrainingEpisode]:
    def change(episode: TrainingEpisode) -> TrainingEpisode:
        images = [episode.images[frames[0] if i in frames else i] for i in range(len(episode))]
        return dataclasses.replace(episode, images=images)

    return change


def test_an_image_that_stays_while_the_arm_moves_is_refused(workshop) -> None:
    workshop.record()
    findings = workshop.verify(workshop.build(only(4, frozen(range(2, 6)))))
    assert found(findings) == [("stale", "error", 4)] and "frames 2 to 3" in findings[0].text


def test_an_image_that_stays_while_the_arm_stands_is_fine(workshop) -> None:
    workshop.record()
    workshop.bags.add([[0.0] * 6] * 8)
    assert workshop.verify(workshop.build(only(6, frozen(range(2, 6))))) == []


@pytest.mark.parametrize(("column", "said"), [("image_age_s", "image is 0.500 s old"), ("skew_s", "0.500 s apart")])
def test_old_images_are_refused(column, said, workshop) -> None:
    workshop.record(5)
    workshop.record(1, columns={column: [0.0] * 4 + [0.5] + [0.0] * 4})
    findings = workshop.verify(workshop.build())
    assert found(findings) == [("ages", "error", 5)] and said in findings[0].text


def test_a_set_whose_bags_are_gone_is_verified_without_them(workshop) -> None:
    workshop.record()
    folder = workshop.build()
    workshop.bags.episodes.clear()
    findings = workshop.verify(folder)
    assert found(findings) == [("ages", "warn", None)] and "6 bags cannot be read" in findings[0].text


# --- who and how it ended


POLICY_ONLY = [{"name": "rl", "select": {"driven_by": "policy"}}]


def human_frame(episode: TrainingEpisode) -> TrainingEpisode:
    source = episode.source.copy()
    source[2] = Source.HUMAN
    return dataclasses.replace(episode, source=source)


def test_interventions_in_a_policys_source_are_refused(workshop) -> None:
    workshop.record(6, policy="rl")
    findings = workshop.verify(workshop.build(only(5, human_frame), sources=POLICY_ONLY))
    assert found(findings) == [("interventions", "error", 5)] and "1 of 8 frames" in findings[0].text


def test_interventions_are_fine_where_the_recipe_allows_them(workshop) -> None:
    workshop.record(6, policy="rl")
    assert workshop.verify(workshop.build(only(5, human_frame))) == []


def test_a_failure_among_successes_is_refused(workshop) -> None:
    workshop.record()
    folder = workshop.build()
    edit_json(folder / PROVENANCE_FILE, lambda data: data["bags"][4].update(outcome="failure"))
    assert found(workshop.verify(folder)) == [("outcome", "error", 4)]


def test_failures_are_fine_where_the_recipe_asks_for_them(workshop) -> None:
    workshop.record(6, outcome=Outcome.TIMEOUT)
    sources = [{"name": "all", "select": {"outcome": ["success", "timeout"]}}]
    assert workshop.verify(workshop.build(sources=sources)) == []


def test_a_success_by_a_later_label_is_mentioned(workshop) -> None:
    workshop.record(5)
    workshop.record(1, columns={"terminated": np.zeros(9, bool), "reward": np.zeros(9)})
    assert found(workshop.verify(workshop.build())) == [("outcome", "warn", 5)]


def test_frames_after_the_end_are_refused(workshop) -> None:
    workshop.record()
    change = only(2, lambda e: dataclasses.replace(e, done=np.arange(8) == 3))
    assert found(workshop.verify(workshop.build(change))) == [("outcome", "error", 2)]


# --- leakage and repetition


def plan_of(workshop: Workshop, **recipe: object) -> Plan:
    data = {"name": "set", "bags": [str(workshop.bags.root)], "sources": [{"name": "all"}], **recipe}
    return make_plan(msgspec.convert({**data, "format": {"image_size_px": 32}}, Recipe, strict=False))[0]


def test_one_start_in_train_and_test_is_refused(workshop) -> None:
    workshop.record()
    workshop.record(1, seed=3)
    *train, last = plan_of(workshop).episodes
    plan = plan_of(workshop)
    episodes = (*train, msgspec.structs.replace(last, split="test"))
    findings = workshop.verify(workshop.build_plan(msgspec.structs.replace(plan, episodes=episodes)))
    assert found(findings) == [("leakage", "error", 6)]
    assert "episode 2 of the same task peg, scene 'seen' and seed 3" in findings[0].text


def test_one_bag_in_train_and_test_is_refused(workshop) -> None:
    workshop.record()
    plan = plan_of(workshop)
    segment = plan.episodes[0].segments[0]
    half = msgspec.structs.replace(segment, rows=segment.rows[:5])
    rest = msgspec.structs.replace(segment, rows=segment.rows[5:])
    episodes = [msgspec.structs.replace(plan.episodes[0], segments=(half,)), *plan.episodes[1:]]
    episodes += [msgspec.structs.replace(plan.episodes[0], segments=(rest,), split="test")]
    folder = workshop.build_plan(msgspec.structs.replace(plan, episodes=tuple(episodes)))
    findings = [f for f in workshop.verify(folder) if f.check == "leakage"]
    assert found(findings) == [("leakage", "error", 6)] and "of the same bag " in findings[0].text


def test_rows_that_are_there_twice_are_refused(workshop) -> None:
    workshop.record()
    plan = plan_of(workshop)
    folder = workshop.build_plan(msgspec.structs.replace(plan, episodes=(*plan.episodes, plan.episodes[0])))
    assert found(workshop.verify(folder)) == [("repeated", "error", 6)]


# --- what can be learned


def test_a_gripper_that_never_moves_on_a_grasping_task_is_refused(workshop) -> None:
    workshop.record(6, task=grasping())
    findings = workshop.verify(workshop.build())
    assert found(findings) == [("constant", "error", None)] and "in none of 6 episodes" in findings[0].text


def test_a_gripper_that_moves_passes(workshop) -> None:
    workshop.record(6, task=grasping(), closed=[False] * 4 + [True] * 4)
    assert workshop.verify(workshop.build()) == []


def test_an_action_that_is_always_the_same_is_mentioned(workshop) -> None:
    workshop.record()

    def change(_: int, episode: TrainingEpisode) -> TrainingEpisode:
        return dataclasses.replace(episode, action=episode.action * np.array([0, 1, 1, 1, 1, 1, 1], np.float32))

    findings = workshop.verify(workshop.build(change))
    assert found(findings) == [("constant", "warn", None)] and findings[0].text.startswith("dx is 0.000")


def test_short_episodes_and_few_episodes_are_mentioned(workshop) -> None:
    workshop.record(8)
    workshop.record(1, steps=3)
    assert found(workshop.verify(workshop.build(), waive=())) == [("length", "warn", 8), ("length", "warn", None)]


def test_an_empty_instruction_is_refused(workshop) -> None:
    workshop.record()
    findings = workshop.verify(workshop.build(only(5, lambda e: dataclasses.replace(e, instruction=" "))))
    assert found(findings) == [("instruction", "error", 5)]


def test_unequal_objects_are_mentioned(workshop) -> None:
    workshop.record()
    workshop.record(3, task=make_task(name="plug"))
    findings = workshop.verify(workshop.build())
    assert found(findings) == [("balance", "warn", None)] and "6 of peg, 3 of plug" in findings[0].text


# --- files that do not match


def test_missing_provenance_is_refused(workshop) -> None:
    workshop.record()
    folder = workshop.build()
    (folder / PROVENANCE_FILE).unlink()
    assert ("provenance", "error", None) in found(workshop.verify(folder))


def test_frames_of_bags_that_are_not_listed_are_refused(workshop) -> None:
    workshop.record()
    folder = workshop.build()
    edit_json(folder / PROVENANCE_FILE, lambda data: data["bags"].pop())
    assert ("provenance", "error", 5) in found(workshop.verify(folder))


def test_frames_of_rows_outside_the_plan_are_refused(workshop) -> None:
    workshop.record()
    folder = workshop.build()
    edit_json(folder / PROVENANCE_FILE, lambda data: data["episodes"][2]["segments"][0].update(rows=[0, 1, 2]))
    findings = workshop.verify(folder)
    assert found(findings) == [("provenance", "error", 2)] and "5 frames" in findings[0].text


def test_another_recipe_than_the_hash_names_is_refused(workshop) -> None:
    workshop.record()
    folder = workshop.build()
    edit_json(folder / PROVENANCE_FILE, lambda data: data.update(recipe=data["recipe"].replace("seed: 0", "seed: 1")))
    assert found(workshop.verify(folder)) == [("provenance", "error", None)]


def test_statistics_of_other_data_are_refused(workshop) -> None:
    workshop.record()
    folder = workshop.build()
    edit_json(folder / STATISTICS_FILE, lambda data: data["set"]["action"]["q99"].__setitem__(2, 0.9))
    findings = workshop.verify(folder)
    assert found(findings) == [("statistics", "error", None)] and "q99 of action" in findings[0].text


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"set": {"action": {"min": "x"}}}'])
def test_broken_statistics_are_refused(text, workshop) -> None:
    workshop.record()
    folder = workshop.build()
    (folder / STATISTICS_FILE).write_text(text)
    assert found(workshop.verify(folder)) == [("statistics", "error", None)]


def test_a_set_with_other_columns_is_refused(workshop) -> None:
    workshop.record()
    folder = workshop.build()
    edit_json(folder / "meta" / "info.json", lambda data: data["features"].pop("action"))
    with pytest.raises(DatasetError, match="has no column 'action'"):
        workshop.verify(folder)


def test_a_folder_that_is_no_set_is_refused(tmp_path) -> None:
    with pytest.raises(DatasetError, match="is this the folder of a training set"):
        verify(tmp_path)
