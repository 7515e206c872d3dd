"""A plan is read strictly and expands to the same trials everywhere."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import msgspec
import pytest
import yaml

from rldg_core.task import Split, load_task
from rldg_evaluation.plan import FIRST_SEED, EvaluationError, EvaluationPlan, LoadedPlan, load_plan, prepare, split_of

ROOT = Path(__file__).parents[3]
DATA = {
    "name": "two",
    "tasks": [{"task": "usb_insertion"}, {"task": "pick_and_place", "scenes": ["seen", "unseen_object"]}],
    "policies": [
        {"name": "operator", "type": "operator"},
        {"name": "slow", "type": "scripted", "parameters": {"speed_m_s": 0.02}},
        {"name": "fast", "type": "scripted", "latency_s": 0.1},
    ],
    "trials": 5,
}


def plan(**changes: object) -> LoadedPlan:
    return prepare(msgspec.convert(DATA | changes, EvaluationPlan, strict=False))


def write(folder: Path, **changes: object) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(DATA | changes))
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "config/evaluation").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_plans_of_the_project_are_sound(path: Path) -> None:
    loaded = load_plan(path)
    assert loaded.plan.name == path.stem and load_plan(path.stem).hash == loaded.hash


def test_all_policies_share_the_start_states() -> None:
    seen = defaultdict(set)
    for trial in plan().trials:
        seen[trial.policy].add((trial.task, trial.scene, trial.seed))
    scenes = len(load_task("usb_insertion").scenes) + 2
    assert len(seen) == 3 and len({frozenset(states) for states in seen.values()}) == 1
    assert {len(states) for states in seen.values()} == {scenes * 5}
    assert len({(task, seed) for task, _, seed in seen["slow"]}) == scenes * 5
    assert min(seed for _, _, seed in seen["slow"]) == FIRST_SEED


def test_a_block_holds_every_policy_once_and_tasks_are_not_mixed() -> None:
    trials = plan().trials
    for begin in range(0, len(trials), 3):
        block = trials[begin : begin + 3]
        assert len({(trial.task, trial.scene, trial.seed) for trial in block}) == 1
        assert {trial.policy for trial in block} == {"operator", "slow", "fast"}
    tasks = [trial.task for trial in trials]
    assert tasks == sorted(tasks, reverse=True)


def test_the_order_within_blocks_is_drawn_and_ids_do_not_tell_the_policy() -> None:
    trials = plan(trials=200).trials
    assert len({trial.id for trial in trials}) == len(trials)
    for letter in "abc":
        who = Counter(trial.policy for trial in trials if trial.id.endswith(letter))
        assert all(len(trials) / 9 * 0.8 < n < len(trials) / 9 * 1.2 for n in who.values())
    assert not any(name in trial.id for trial in trials for name in ("operator", "slow", "fast"))


def test_expansion_and_hash_are_the_same_everywhere_and_tell_plans_apart() -> None:
    assert plan().trials == plan().trials and plan().hash == plan().hash
    assert plan().trials != plan(seed=7).trials
    assert len({plan(**changes).hash for changes in ({}, {"seed": 7}, {"trials": 6}, {"stop": {"against": 0.9}})}) == 4


def test_the_task_files_are_part_of_the_hash(tmp_path: Path) -> None:
    text = (ROOT / "config/tasks/pick_and_place.yaml").read_text()
    hashes = set()
    for limit in ("25.0", "24.0"):
        (tmp_path / "pick_and_place.yaml").write_text(text.replace("time_limit_s: 25.0", f"time_limit_s: {limit}"))
        hashes.add(plan(tasks=[{"task": str(tmp_path / "pick_and_place.yaml")}]).hash)
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("scenes", "expected"),
    [
        (["all"], {"seen", "unseen_object", "unseen_background", "unseen_both"}),
        (["seen"], {"seen"}),
        (["unseen"], {"unseen_object", "unseen_background", "unseen_both"}),
        (["unseen_both", "seen"], {"seen", "unseen_both"}),
    ],
)
def test_scenes_are_named_or_meant_by_a_word(scenes, expected) -> None:
    loaded = plan(tasks=[{"task": "pick_and_place", "scenes": scenes}])
    assert {trial.scene for trial in loaded.trials} == expected


def test_every_scene_of_an_unseen_task_is_unseen() -> None:
    task = load_task("type_c")
    assert {split_of(task, scene.name) for scene in task.scenes} == {Split.UNSEEN}
    loaded = plan(tasks=[{"task": "type_c", "scenes": ["unseen"]}])
    assert {trial.scene for trial in loaded.trials} == {scene.name for scene in task.scenes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trials": 0}, r"trials: .*>= 1, got 0"),
        ({"trials": "many"}, "trials: "),
        ({"polices": []}, "unknown field `polices`; allowed: name, policies"),
        ({"policies": []}, "policies: .*length >= 1"),
        ({"policies": [{"name": "a", "type": "scripted"}] * 2}, "policies: names must differ, got a, a"),
        ({"policies": [{"name": "a", "type": "psychic"}]}, "a: type 'psychic' is not installed; there are .*operator"),
        ({"policies": [{"name": "a b", "type": "scripted"}]}, r"policies\[0\].name: "),
        ({"policies": [{"name": "a", "type": "octo", "checkpoint": "nowhere"}]}, "checkpoint nowhere: no such folder"),
        (
            {"policies": [{"name": "a", "type": "octo", "checkpoint": ".", "parameters": {"checkpoint": "."}}]},
            "a: checkpoint is also in parameters",
        ),
        ({"policies": [{"name": "a", "type": "operator", "latency_s": 0.1}]}, "the operator takes no parameters"),
        ({"policies": [{"name": "a", "type": "scripted", "latency_s": -1.0}]}, r"latency_s: .*>= 0.0"),
        ({"tasks": [{"task": "usb"}]}, "tasks: .*usb.yaml: no such file; tasks here: "),
        ({"tasks": [{"task": "usb_insertion"}] * 2}, "'usb_insertion' is there twice"),
        ({"tasks": [{"task": "usb_insertion", "scenes": ["dark"]}]}, "usb_insertion: no scene 'dark'; it has "),
        ({"tasks": [{"task": "usb_insertion", "scenes": []}]}, r"scenes: .*length >= 1"),
        ({"seed": 2**31 - 3}, "seed: is 2147483645, must be at most 21474836.. for the trials of usb_insertion"),
        ({"stop": {"against": 1.0}}, r"stop.against: .*< 1.0"),
        ({"actions_near": {"xyz_m": [0.0, 0.0]}}, r"actions_near.xyz_m: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line_that_names_the_file(changes, words, tmp_path) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(EvaluationError, match=words) as caught:
        load_plan(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))


@pytest.mark.parametrize("text", ["", "- 1", "{", "name: [", "a: &a [*a]", "\x00"])
def test_a_file_that_is_no_plan_is_refused(text, tmp_path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=r"plan\.yaml: "):
        load_plan(path)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(EvaluationError, match=r"no such file; plans here: .*first_look"):
        load_plan("last_look")


def test_a_checkpoint_does_not_depend_on_the_working_directory(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ck").mkdir()
    loaded = plan(policies=[{"name": "a", "type": "octo", "checkpoint": "ck", "parameters": {"seed": 3}}])
    assert loaded.policy("a").all_parameters == {"checkpoint": str(tmp_path / "ck"), "seed": 3}
