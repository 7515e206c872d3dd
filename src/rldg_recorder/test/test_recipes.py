"""Recipes are strict: what is wrong is said in one line that names file, key and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rldg_recorder.plan import DatasetError
from rldg_recorder.recipe import DrivenBy, Event, load_recipe, parse_recipe

RECIPES = Path(__file__).resolve().parents[3] / "config" / "recording"
SPLICED = """
name: a
sources: [{name: human, select: {driven_by: human}}, {name: rl}]
splice: {prefix: human, suffix: rl, until: {event: grasp}}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_project_is_valid(path) -> None:
    assert load_recipe(path).name == path.stem


def test_a_recipe_says_the_least_and_the_rest_has_defaults(tmp_path) -> None:
    recipe = load_recipe(write(tmp_path, "name: a\nsources: [{name: rl}]\n"))
    assert recipe.bags == ("bags",)
    assert [o.value for o in recipe.sources[0].select.outcome] == ["success"]
    assert recipe.sources[0].select.driven_by is DrivenBy.ANY
    assert recipe.format.image_size_px == 128


def test_a_recipe_may_extend_another(tmp_path) -> None:
    (tmp_path / "base.yaml").write_text("name: base\nsources: [{name: rl}]\nrate_hz: 5\n")
    recipe = load_recipe(write(tmp_path, "extends: base.yaml\nname: mine\n"))
    assert (recipe.name, recipe.rate_hz) == ("mine", 5.0)


def test_times_are_read(tmp_path) -> None:
    text = "name: a\nsources: [{name: rl, select: {after: 2026-01-02T03:04:05Z, before: '2026-02-01T00:00:00'}}]\n"
    select = load_recipe(write(tmp_path, text)).sources[0].select
    assert select.after is not None and select.after.isoformat() == "2026-01-02T03:04:05+00:00"
    assert select.before is not None and select.before.month == 2


def test_splicing_makes_one_source_of_two(tmp_path) -> None:
    recipe = load_recipe(write(tmp_path, SPLICED))
    assert recipe.groups == ("spliced",)
    assert recipe.splice is not None and recipe.splice.until.event is Event.GRASP


def test_the_text_of_a_recipe_reads_back_as_the_same_recipe(tmp_path) -> None:
    text = (
        SPLICED
        + "rate_hz: 5\nmix: {weights: {spliced: 1}}\nrelabel: {sources: [spliced], policy: p, parameters: {a: 1}}\n"
    )
    recipe = load_recipe(write(tmp_path, text))
    assert parse_recipe(recipe.text) == recipe


@pytest.mark.parametrize("text", ["", "1", "name: [", "name: a", "{unknown: 1, name: a, sources: [{name: b}]}"])
def test_a_recorded_text_that_is_no_recipe_is_refused(text) -> None:
    with pytest.raises(DatasetError, match="recipe in the record: "):
        parse_recipe(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nsources: []\n", r"sources: Expected `array` of length >= 1"),
        ("name: a\n", "missing required field `sources`"),
        ("name: A b\nsources: [{name: rl}]\n", "name: Expected `str` matching regex"),
        ("name: a\nsources: [{name: rl, weight: 2}]\n", r"unknown field `weight`; allowed: name, select"),
        ("name: a\nsources: [{name: rl, select: {outcome: [win]}}]\n", "Invalid enum value 'win'"),
        ("name: a\nsources: [{name: rl}]\nrate_hz: 0\n", "rate_hz: Expected `float` >= 0.1, got 0"),
        ("name: a\nsources: [{name: rl}]\nrate_hz: 0.05\n", "rate_hz: Expected `float` >= 0.1, got 0.05"),
        ("name: a\nsources: [{name: rl}]\nsplit: {test: 1.0}\n", r"split\.test: Expected `float` <= 0\.9"),
        ("name: a\nsources: [{name: rl}]\ncap: {}\n", "cap: needs episodes, frames or both"),
        ("name: a\nsources: [{name: rl}, {name: rl}]\n", "sources: names must differ, got rl, rl"),
        ("name: a\nsources: [{name: rl}]\nmix: {weights: {x: 1}}\n", "mix.weights: names x; must name each of rl"),
        ("name: a\nsources: [{name: rl}]\nrelabel: {sources: [x], policy: p}\n", "relabel.sources: no source 'x'"),
        (SPLICED.replace("prefix: human", "prefix: x"), "splice.prefix: no source 'x'; there are human, rl"),
        (SPLICED.replace("prefix: human", "prefix: rl"), "splice.suffix: 'rl' is the prefix too"),
        (SPLICED.replace("name: rl", "name: spliced").replace("suffix: rl", "suffix: spliced"), "choose another"),
        (
            "name: a\nsources: [{name: rl, select: {after: 2026-01-02T00:00:00Z, before: 2026-01-01T00:00:00}}]\n",
            "select.after 2026-01-02 .* must be before",
        ),
        ("- 1\n", "must hold a mapping"),
        ("name: [\n", "not YAML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(text, message, tmp_path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DatasetError, match=message) as error:
        load_recipe(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_missing_recipe_is_named(tmp_path) -> None:
    with pytest.raises(DatasetError, match=r"none\.yaml: cannot be read: No such file"):
        load_recipe(tmp_path / "none.yaml")
