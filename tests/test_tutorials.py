"""The tutorials hold what they show: files that load, commands that exist."""

import contextlib
import re
from pathlib import Path

import pytest
import yaml

from rldg_bringup.cli import VERBS
from rldg_core.task import load_robot, load_task
from rldg_evaluation.plan import load_plan
from rldg_rl.config import load_config

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs/tutorials").glob("*.md")), *sorted((ROOT / "docs/how-to").glob("*.md"))]


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page of docs/."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    """A configuration folder with links to the files of the checkout, into which a reader may save."""
    for folder in ("tasks", "training", "robots"):
        (tmp_path / folder).mkdir()
        for path in (ROOT / "config" / folder).iterdir():
            (tmp_path / folder / path.name).symlink_to(path)
    monkeypatch.setenv("RLDG_CONFIG", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_files_of_the_own_task_tutorial_load(config) -> None:
    task_text, preset, plan = blocks("tutorials/your-own-task-in-simulation.md", "yaml")
    (config / "tasks/audio_jack.yaml").write_text(task_text)
    (config / "training/quick.yaml").write_text(preset)
    (config / "plan.yaml").write_text(plan)
    (config / "checkpoints/audio_jack-pixels_sim-0").mkdir(parents=True)  # what training leaves
    task = load_task("audio_jack")
    assert task.simulation is not None
    assert load_config("quick", task.family).max_env_steps == 3000
    assert [policy.name for policy in load_plan(config / "plan.yaml").plan.policies] == ["operator", "specialist"]


def test_the_scripted_operator_does_the_task_of_the_tutorial(config) -> None:
    from rldg_core.types import Outcome
    from rldg_sim.cell import Cell
    from rldg_sim.demonstrate import demonstrate
    from rldg_sim.loop import Loop
    from rldg_sim.operator import Style

    (config / "tasks/audio_jack.yaml").write_text(blocks("tutorials/your-own-task-in-simulation.md", "yaml")[0])
    task = load_task("audio_jack")
    with contextlib.closing(Cell(task)) as cell:
        ticks, _ = demonstrate(Loop(task, cell, with_images=False), 0, style=Style.flawless())
    assert ticks[-1].status.outcome is Outcome.SUCCESS


def test_the_overlays_of_the_rig_load(config) -> None:
    for page in ("tutorials/from-simulation-to-the-rig.md", "how-to/first-motion.md"):
        for text in blocks(page, "yaml"):
            data = yaml.safe_load(text)
            kind, load = ("robots", load_robot) if "fr3.yaml" in data["extends"] else ("tasks", load_task)
            path = config / kind / f"{data.get('name', 'mine')}_here.yaml"
            extends = config / kind / Path(data["extends"]).name
            if kind == "tasks":
                data["name"] = path.stem
            path.write_text(yaml.safe_dump(data | {"extends": str(extends)}))
            load(path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_guides_use_verbs_that_exist(page) -> None:
    used = re.findall(r"^(?:sudo )?\./rldg ([a-z]+)", page.read_text(), re.MULTILINE)
    assert set(used) <= set(VERBS)
