"""From a six-axis device to a human action: dead zone, dead-man rule, loss of the device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rldg_core.frames import Array, Pose, quaternion_conjugate, rotate_free
from rldg_core.task import OperatorDevice
from rldg_core.types import Action

CLOSE_BUTTON, OPEN_BUTTON = 0, 1


def base_axes(deflection: npt.ArrayLike, device: OperatorDevice) -> Array:
    """Deflections of a device as the operator holds it, in the axes of the base.

    Args:
        deflection: shape (6,): forward, left, up and about these, each about [-1, 1]; clipped to it.
        device: how the device stands to the arm (robot file).

    Raises:
        ValueError: a deflection is not finite.
    """
    raw = np.asarray(deflection, dtype=np.float64)
    if not np.isfinite(raw).all():
        raise ValueError(f"operator device: deflections {raw.tolist()} must be finite")
    shaped = np.clip(np.where(np.abs(raw) > device.dead_zone, raw, 0.0) * device.scale, -1.0, 1.0)
    return rotate_free(Pose.from_rpy((0.0, 0.0, 0.0), (0.0, 0.0, device.yaw_rad)).quaternion, shaped)


@dataclass(frozen=True)
class HumanCommand:
    """What the human asks for at a tick.

    Attributes:
        active: the dead-man rule holds, so the human drives.
        action: the human's action; None where not active.
        fault: why the arm must hold although nobody let go of it, "" if there is no reason.
    """

    active: bool = False
    action: Action | None = None
    fault: str = ""


def foremost(commands: Iterable[HumanCommand]) -> HumanCommand:
    """What counts where several devices are there: a fault of any, else the first that is held."""
    asked = list(commands)
    return next((c for c in asked if c.fault), None) or next((c for c in asked if c.active), HumanCommand())


@dataclass
class Teleop:
    """Keeps the state of one operator device.

    The human takes over with the first deflection beyond ``dead_zone`` or with a button, and gives back after
    ``hold_s`` below ``release_zone``. A device that falls silent while it is held is a fault until it is back and
    at rest: control never passes to a policy because a cable came loose.
    """

    dead_zone: float = 0.05
    release_zone: float = 0.03
    hold_s: float = 0.4
    timeout_s: float = 0.3

    def __post_init__(self) -> None:
        self._twist = np.zeros(6)
        self._pressed: frozenset[int] = frozenset()
        self._heard_ns: int | None = None
        self._deflected_ns: int | None = None
        self._held = False
        self._fault = ""

    def update(self, now_ns: int, twist: npt.ArrayLike | None = None, buttons: Sequence[int] | None = None) -> None:
        """Take in what the device reports.

        Args:
            now_ns: time of arrival.
            twist: deflections, shape (6,), about [-1, 1], in the base axes; None if the report has none.
            buttons: one number a button, pressed where not 0; may be shorter than the buttons used here.
        """
        if twist is not None:
            deflection = np.asarray(twist, dtype=np.float64)
            if deflection.shape != (6,) or not np.isfinite(deflection).all():
                self._fault = f"operator device sent {deflection.tolist()}, expected 6 finite numbers"
                return
            self._twist = np.clip(deflection, -1.0, 1.0)
        if buttons is not None:
            self._pressed = frozenset(i for i in (CLOSE_BUTTON, OPEN_BUTTON) if i < len(buttons) and buttons[i])
        self._heard_ns = now_ns
        strength = float(np.abs(self._twist).max())
        threshold = self.release_zone if self._held else self.dead_zone
        at_rest = strength <= threshold and not self._pressed
        if self._fault:
            if at_rest:
                self._fault, self._held = "", False
            return
        if not at_rest:
            self._held, self._deflected_ns = True, now_ns

    def command(self, now_ns: int, tcp_pose: Pose, gripper_closed: bool) -> HumanCommand:
        """The human's wish at a tick.

        Args:
            now_ns: time of the tick.
            tcp_pose: measured TCP pose, base frame; the deflection is rotated into its axes.
            gripper_closed: the gripper state in force, kept where no button is pressed.
        """
        silent = self._heard_ns is not None and now_ns - self._heard_ns > self.timeout_s * 1e9
        if silent and self._held and not self._fault:
            self._fault = "operator device fell silent while held; reconnect it and let go of it"
        if self._fault:
            return HumanCommand(fault=self._fault)
        if self._held and self._deflected_ns is not None and now_ns - self._deflected_ns > self.hold_s * 1e9:
            self._held = False
        if not self._held:
            return HumanCommand()
        closed = gripper_closed
        if len(self._pressed) == 1:
            closed = CLOSE_BUTTON in self._pressed
        delta = rotate_free(quaternion_conjugate(tcp_pose.quaternion), self._shaped())
        # scaled and not clipped axis by axis, which would turn the direction of a full deflection
        return HumanCommand(active=True, action=Action(delta / max(1.0, float(np.abs(delta).max())), closed))

    @property
    def held(self) -> bool:
        return self._held

    def _shaped(self) -> Array:
        """Deflection with the dead zone cut out and the rest stretched, so that motion starts from zero."""
        beyond = np.maximum(np.abs(self._twist) - self.dead_zone, 0.0) / (1.0 - self.dead_zone)
        return np.sign(self._twist) * beyond
