"""What the documents promise exists."""

import re
import subprocess
from pathlib import Path

import pytest

from rldg_bringup.cli import VERBS
from rldg_core.task import Task
from rldg_recorder.recipe import Recipe, Select
from rldg_recorder.verify import CHECKS

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    ROOT / line
    for line in subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_the_readme_shows_every_verb() -> None:
    text = (ROOT / "README.md").read_text()
    assert [verb for verb in VERBS if f"./rldg {verb}" not in text] == []


def test_the_reference_names_every_key_of_a_task_file() -> None:
    text = (ROOT / "docs/reference/task-file.md").read_text()
    for name in Task.__struct_fields__:
        assert re.search(rf"`{name}[`.]", text), name


def test_the_reference_names_every_key_of_a_recipe_and_every_check_of_the_gate() -> None:
    text = (ROOT / "docs/reference/training-sets.md").read_text()
    keys = [*Recipe.__struct_fields__, *Select.__struct_fields__, *CHECKS]
    assert [name for name in keys if f"`{name}`" not in text] == []
