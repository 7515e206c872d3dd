"""Experiments are data: what they say becomes stages, and equal stages are one."""

from pathlib import Path

import msgspec
import pytest
import yaml

from rldg_experiments.plan import (
    Collect,
    ExperimentError,
    Finetune,
    Train,
    expand,
    experiment_names,
    folder_name,
    keys,
    load_experiment,
    references,
    resolved,
)

SMALL = {
    "name": "small",
    "title": "Small",
    "about": "Does it?",
    "parameters": {"task": "usb_insertion", "n": 5},
    "stages": [
        {"do": "collect", "name": "demos", "task": "{task}", "policy": "operator", "successes": "{n}"},
        {"do": "build", "name": "data", "bags": ["@demos"], "recipe": {"sources": [{"name": "all"}]}},
        {"do": "finetune", "name": "student", "config": "octo_nano", "data": "@data"},
        {
            "do": "evaluate",
            "name": "trials",
            "plan": {
                "tasks": [{"task": "{task}"}],
                "policies": [{"name": "student", "type": "octo", "checkpoint": "@student"}],
                "trials": 2,
            },
        },
    ],
    "figures": [
        {
            "name": "f",
            "kind": "bars",
            "title": "F",
            "evaluation": "trials",
            "bars": [{"label": "a", "policies": ["student"]}],
        }
    ],
}


def written(folder: Path, **changes: object) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes, sort_keys=False))
    return path


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_that_is_shipped_makes_sense(name: str) -> None:
    experiment = load_experiment(name)
    found = keys(experiment.stages)
    assert len(found) == len(experiment.stages) and experiment.figures and experiment.about


def test_experiments_share_the_stages_that_say_the_same() -> None:
    first, second = (keys(load_experiment(name).stages) for name in ("fig5_connectors", "unseen_connectors"))
    assert first["specialist-usb_insertion"] == second["specialist-usb_insertion"]
    assert first["octo-rl"] == second["octo-rl"] != first["octo-human"]
    demo = load_experiment("demo").stages
    assert keys(demo)["specialist"] == first["specialist-usb_insertion"]  # by what it says, not by its name


def test_parameters_are_put_in_and_keep_their_types() -> None:
    data = [{"for": {"x": [1, 2], "y": "{ys}"}, "name": "{x}-{y}", "value": "{x}"}, "{n}"]
    assert expand(data, {"ys": ["a"], "n": 7}, "here") == [
        {"name": "1-a", "value": 1},
        {"name": "2-a", "value": 2},
        7,
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [("{nothing}", "no parameter 'nothing'; there are n"), ([{"for": [1]}], "for: is [1], must map names to lists")],
)
def test_what_cannot_be_put_in_is_refused(data: object, words: str) -> None:
    with pytest.raises(ExperimentError) as refused:
        expand(data, {"n": 1}, "here")
    assert words in str(refused.value)


def test_parameters_can_be_changed_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    demos = load_experiment(path, {"n": 9}).stage("demos")
    assert isinstance(demos, Collect) and demos.successes == 9
    with pytest.raises(ExperimentError, match=r"parameter 'm': unknown; there are n, task"):
        load_experiment(path, {"m": 9})


def test_a_stage_is_known_by_what_it_says_and_by_what_came_before(tmp_path: Path) -> None:
    usual, other = (keys(load_experiment(written(tmp_path), {"n": n}).stages) for n in (5, 6))
    assert all(usual[name] != other[name] for name in usual)
    stages = load_experiment(written(tmp_path)).stages
    changed = [msgspec.structs.replace(s, seed=1) if isinstance(s, Finetune) else s for s in stages]
    assert {name for name, key in keys(changed).items() if key != usual[name]} == {"student", "trials"}


def test_a_stage_depends_on_the_files_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rldg_core.task import config_directory

    task = tmp_path / "my_task.yaml"
    task.write_text(f"extends: {config_directory()}/tasks/usb_insertion.yaml\nname: my_task\n")
    stage = Train(name="a", task=str(task))
    before = keys([stage])
    task.write_text(f"extends: {config_directory()}/tasks/usb_insertion.yaml\nname: my_task\ntime_limit_s: 12.0\n")
    assert keys([stage]) != before and folder_name(stage, "0123456789abcdef") == "train-my_task-0123456789ab"
    task.unlink()
    with pytest.raises(ExperimentError, match=r"stages: a: .*no such file|cannot be read"):
        keys([stage])


def test_references_are_found_at_any_depth_and_resolved() -> None:
    value = {"a": "@x", "b": [{"c": "@y"}, "@x", "plain"]}
    assert references(value) == ["x", "y"]
    assert resolved(value, {"x": Path("/x"), "y": Path("/y")}) == {"a": "/x", "b": [{"c": "/y"}, "/x", "plain"]}


def test_stages_that_nothing_asks_for_are_left_out(tmp_path: Path) -> None:
    extra = {"do": "collect", "name": "extra", "task": "usb_insertion", "policy": "operator", "successes": 1}
    names = [stage.name for stage in load_experiment(written(tmp_path, shared=[extra])).stages]
    assert names == ["demos", "data", "student", "trials"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": []}, "length >= 1"),
        ({"stages": [*SMALL["stages"], SMALL["stages"][0]]}, "'demos' is there twice"),
        ({"stages": SMALL["stages"][1:]}, "data: @demos is no stage before it"),
        ({"stages": [{"do": "dance", "name": "x"}]}, "Invalid value 'dance'"),
        ({"stages": [{**SMALL["stages"][0], "successes": 0}]}, ">= 1"),
        ({"stages": [{**SMALL["stages"][0], "name": "../x"}]}, "regex"),
        (
            {"figures": [{**SMALL["figures"][0], "kind": "pie"}]},
            "kind 'pie': must be one of bars, times, lines, actions",
        ),
        ({"figures": [{**SMALL["figures"][0], "evaluation": "data"}]}, "evaluation 'data' is no stage that evaluates"),
        ({"figures": [{**SMALL["figures"][0], "claims": [{"first": "a", "second": "b"}]}]}, "no bar is labelled 'b'"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError) as refused:
        load_experiment(written(tmp_path, **changes))
    assert words in str(refused.value) and "\n" not in str(refused.value) and "small.yaml" in str(refused.value)


def test_an_experiment_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ExperimentError, match=r"nothing\.yaml: no such file; experiments here: .*demo"):
        load_experiment("nothing")
