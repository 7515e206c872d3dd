"""What a scene of a task looks like in simulation; the part of the task file that only ``rldg_sim`` interprets."""

from __future__ import annotations

import msgspec


class SceneSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A variant of a task: seen or unseen objects, poses and background."""

    name: str
    split: str = "seen"
