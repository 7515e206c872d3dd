"""How a gamepad's sticks and buttons drive the arm: a mapping file and one function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from rldg_core.frames import Array

Index = Annotated[int, msgspec.Meta(ge=0, le=63)]
Scale = Annotated[float, msgspec.Meta(ge=-1.0, le=1.0)]


class Axis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stick axis and its share of full deflection; a negative scale turns it round."""

    axis: Index
    scale: Scale = 1.0


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which control moves what. Defaults: a two-stick pad as ``joy_node`` reports an Xbox controller.

    Attributes:
        deadman: button that must be held for the sticks to count.
        linear_x, linear_y, linear_z: forward, left, up; None for no control.
        angular_x, angular_y, angular_z: rotation about these; None for no control.
        close, open: buttons for the gripper, heeded with the dead-man button only.
    """

    deadman: Index = 4
    linear_x: Axis | None = Axis(1)
    linear_y: Axis | None = Axis(0)
    linear_z: Axis | None = Axis(4)
    angular_x: Axis | None = None
    angular_y: Axis | None = None
    angular_z: Axis | None = Axis(3)
    close: Index = 0
    open: Index = 1


def load_mapping(path: str) -> Mapping:
    """Read a mapping file; "" gives the default.

    Raises:
        ValueError: the file is missing or wrong; one line with file, key and what is allowed.
    """
    if not path:
        return Mapping()
    try:
        return msgspec.yaml.decode(Path(path).read_bytes(), type=Mapping)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ValueError(
            f"{path}: {' '.join(str(error).split())}; keys: {', '.join(Mapping.__struct_fields__)}"
        ) from None


def gamepad_twist(mapping: Mapping, axes: Sequence[float], buttons: Sequence[int]) -> tuple[Array, list[bool]]:
    """Deflection and gripper buttons for one report of the pad.

    Args:
        axes: stick positions, each in [-1, 1].
        buttons: 0 or 1 each.

    Returns:
        Deflection, shape (6,): forward, left, up and about these; and ``[close, open]``. All zero unless the dead-man
        button is held.

    Raises:
        ValueError: the pad has fewer axes or buttons than the mapping names, or an axis is not finite.
    """
    controls = (
        mapping.linear_x,
        mapping.linear_y,
        mapping.linear_z,
        mapping.angular_x,
        mapping.angular_y,
        mapping.angular_z,
    )
    need_axes = 1 + max((control.axis for control in controls if control is not None), default=-1)
    need_buttons = 1 + max(mapping.deadman, mapping.close, mapping.open)
    if len(axes) < need_axes or len(buttons) < need_buttons:
        raise ValueError(
            f"joy: {len(axes)} axes and {len(buttons)} buttons, the mapping needs {need_axes} and {need_buttons}; "
            "give a mapping file for this gamepad"
        )
    twist = np.zeros(6)
    if not buttons[mapping.deadman]:
        return twist, [False, False]
    for i, control in enumerate(controls):
        if control is not None:
            twist[i] = control.scale * axes[control.axis]
    if not np.isfinite(twist).all():
        raise ValueError(f"joy: axes {list(axes)} must be finite")
    return np.clip(twist, -1.0, 1.0), [buttons[mapping.close] != 0, buttons[mapping.open] != 0]
