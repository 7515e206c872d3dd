"""What is recorded by default is what docs/architecture.md says there is."""

import re
from pathlib import Path

import pytest

from rldg_core.task import load_task
from rldg_recorder.topics import catalogue, find_spec

TASK = load_task("usb_insertion")
ARCHITECTURE = Path(__file__).resolve().parents[3] / "docs" / "architecture.md"


def documented() -> dict[str, list[str]]:
    """The table of topics: name, and the cells of its row."""
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", ARCHITECTURE.read_text(), re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


def test_every_recorded_topic_is_documented_with_this_type_and_durability() -> None:
    table = documented()
    for spec in catalogue(TASK, lockstep=False, cameras=True):
        kind, durability = table[spec.name][0], table[spec.name][1]
        assert kind.startswith(spec.type.replace("/msg/", "/")), spec.name
        assert spec.latched == durability.startswith("L"), spec.name


def test_expected_rates_are_those_documented() -> None:
    table = documented()
    for spec in catalogue(TASK, lockstep=False, cameras=True):
        rate = table[spec.name][2]
        if rate == "control rate":
            assert spec.rate_hz == TASK.control.rate_hz, spec.name
        elif rate.endswith("Hz") and spec.rate_hz is not None and not rate.startswith("≥"):
            assert spec.rate_hz == float(rate.removesuffix(" Hz")), spec.name


def test_in_lockstep_everything_has_the_control_rate_or_none() -> None:
    assert {spec.rate_hz for spec in catalogue(TASK, lockstep=True, cameras=True)} == {TASK.control.rate_hz, None}


def test_cameras_are_recorded_on_request_only() -> None:
    names = {spec.name for spec in catalogue(TASK, lockstep=False)}
    assert "wrist/color/image_raw" not in names and {"observation", "step", "episode"} <= names


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("/step", "step"),
        ("/cell/two/step", "step"),
        ("/joint_states", "joint_states"),
        ("/gripper/joint_states", "gripper/joint_states"),
        ("/two/gripper/joint_states", "gripper/joint_states"),
        ("/footstep", None),
        ("/step/more", None),
    ],
)
def test_a_topic_is_known_in_every_namespace(name: str, found: str | None) -> None:
    spec = find_spec(catalogue(TASK, lockstep=False), name)
    assert (spec.name if spec else None) == found
