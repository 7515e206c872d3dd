"""A config that contradicts itself is refused, and one with two cameras becomes one with one."""

from typing import Any

import msgspec
import pytest

from rldg_policies.octo.config import OctoConfig, OctoError, for_camera
from rldg_policies.octo.presets import preset


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "width: is 384, must be a multiple of heads, 5"),
        ({"window": 11}, "window: is 11, must be at most max_horizon, 10"),
        ({"slots": preset("octo-small").slots * 2}, "slots: primary, wrist, primary, wrist has a slot twice"),
    ],
)
def test_a_contradiction_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OctoError, match=message):
        msgspec.structs.replace(preset("octo-small"), **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"slots": []},
        {"slots": [{"name": "left", "size_px": 128}]},
        {"slots": [{"name": "wrist", "size_px": 100}]},
        {"language": {"type": "clip"}},
        {"layers": 0},
        {"depth": 3},
        {"stem": {"sides": [4, 2], "widths": [8, 8]}},  # patches of 8 pixels
        {"stem": {"sides": [4, 4], "widths": [8, 8, 8]}},
    ],
)
def test_a_file_with_something_else_is_refused(changes: dict[str, Any]) -> None:
    plain = msgspec.to_builtins(preset("octo-test"))
    assert msgspec.convert(plain, OctoConfig) == preset("octo-test")
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**plain, **changes}, OctoConfig)


@pytest.mark.parametrize(("slot", "tokens"), [("primary", 256), ("wrist", 64)])
def test_a_single_camera_goes_to_the_slot_that_is_chosen(slot: str, tokens: int) -> None:
    config = for_camera(preset("octo-base"), slot)
    assert [(found.name, found.tokens) for found in config.slots] == [(slot, tokens)]
    assert msgspec.structs.replace(config, slots=preset("octo-base").slots) == preset("octo-base")


def test_a_slot_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(OctoError, match="camera_slot: 'primary' is not in the model; it has wrist"):
        for_camera(preset("octo-nano"), "primary")
