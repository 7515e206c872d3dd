"""A gamepad moves the arm only while the dead-man button is held, as its mapping file says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rldg_control.gamepad import Mapping, gamepad_twist, load_mapping

AXES = [0.25, 0.5, 0.0, -0.75, 1.0, 0.0]
RELEASED, HELD = [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0]


def test_sticks_and_buttons_count_only_with_the_dead_man_button() -> None:
    twist, pressed = gamepad_twist(Mapping(), AXES, RELEASED)
    assert not twist.any() and pressed == [0, 0]
    twist, pressed = gamepad_twist(Mapping(), AXES, HELD)
    assert twist.tolist() == [0.5, 0.25, 1.0, 0.0, 0.0, -0.75]
    assert pressed == [1, 0]


def test_a_mapping_file_turns_axes_round_and_limits_them(tmp_path: Path) -> None:
    path = tmp_path / "pad.yaml"
    path.write_text("{deadman: 0, linear_x: {axis: 4, scale: -0.5}, linear_y: null, close: 1, open: 2}")
    twist, pressed = gamepad_twist(load_mapping(str(path)), AXES, [1, 0, 1])
    assert twist[:3].tolist() == [-0.5, 0.0, 1.0]
    assert pressed == [0, 1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{dead: 1}", "unknown field.*keys: deadman"),
        ("{deadman: -1}", ">= 0"),
        ("{linear_x: {axis: 1, scale: 9}}", "<= 1"),
    ],
)
def test_a_wrong_mapping_file_is_refused_with_its_name(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "pad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=says) as refusal:
        load_mapping(str(path))
    assert str(refusal.value).startswith(str(path)) and "\n" not in str(refusal.value)


def test_a_missing_mapping_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"/nowhere.yaml: cannot be read"):
        load_mapping("/nowhere.yaml")


def test_a_pad_with_too_few_controls_and_a_broken_stick_are_refused() -> None:
    with pytest.raises(ValueError, match="2 axes and 6 buttons, the mapping needs 5 and 5"):
        gamepad_twist(Mapping(), AXES[:2], HELD)
    with pytest.raises(ValueError, match="must be finite"):
        gamepad_twist(Mapping(), [np.nan] * 6, HELD)
