"""Keys to the report of a six-axis device, and whose keys count.

A browser is the device: it says again and again which keys are held, and each time one report goes to the arbiter. So
the dead-man rule is that of every device (``rldg_core.teleop``): silence while a key is held stops the arm, and no
policy takes over until the keys were heard at rest.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

SILENT_S = 1.0  # whoever held the keys and was not heard for longer may be relieved by somebody else


class Motion(enum.StrEnum):
    """What a held key asks for: forward is x of the base, left y, up z."""

    FORWARD = "forward"
    BACK = "back"
    LEFT = "left"
    RIGHT = "right"
    UP = "up"
    DOWN = "down"
    ROLL_RIGHT = "roll_right"
    ROLL_LEFT = "roll_left"
    PITCH_DOWN = "pitch_down"
    PITCH_UP = "pitch_up"
    YAW_LEFT = "yaw_left"
    YAW_RIGHT = "yaw_right"
    CLOSE = "close"
    OPEN = "open"


# in the order of the axes, first the positive direction
_AXES = tuple(zip(list(Motion)[:12:2], list(Motion)[1:12:2], strict=True))


class Report(NamedTuple):
    """What the device says: deflections in base axes, shape (6,), in [-1, 1], and ``[close, open]`` pressed or not."""

    twist: tuple[float, ...]
    buttons: tuple[int, int]


def report(motions: Iterable[Motion], speed: float) -> Report:
    """The report of the keys that are held; opposite ones cancel.

    Args:
        motions: what is held.
        speed: deflection that a held key stands for, in (0, 1].
    """
    held = set(motions)
    twist = tuple(speed * ((ahead in held) - (back in held)) for ahead, back in _AXES)
    return Report(twist, (int(Motion.CLOSE in held), int(Motion.OPEN in held)))


@dataclass
class Hands:
    """Lets one browser at a time drive: whoever presses first has the arm until letting go or falling silent."""

    _holder: int | None = None
    _heard_s: float = 0.0

    def take(self, viewer: int, pressed: bool, now_s: float) -> bool:
        """Whether what a browser says now counts.

        Args:
            viewer: which browser.
            pressed: it holds any key.
            now_s: any steady clock.
        """
        if self._holder not in (None, viewer) and now_s - self._heard_s <= SILENT_S:
            return False
        self._holder = viewer if pressed else None
        self._heard_s = now_s
        return True

    def held(self, now_s: float) -> int | None:
        """Who holds the keys."""
        return self._holder if now_s - self._heard_s <= SILENT_S else None
