"""Reading a 3Dconnexion SpaceMouse in a thread: opens it, drains its reports, notices when it dies, opens it again."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_AXES = ("x", "y", "z", "roll", "pitch", "yaw")
_POLL_S = 0.004  # a device sends up to 125 pairs of reports a second
_BACK_OFF_S = (0.5, 1.0, 2.0, 5.0)
_GRIPPER_BUTTONS = (("LEFT", "RIGHT"), ("BTN_1", "BTN_2"))  # of small devices; of large ones, which also have a RIGHT
_STUCK_S = 1.0  # a deflected device reports all the time; one that does not has lost its radio link or its cable


@dataclass(frozen=True)
class DeviceState:
    """A snapshot of the device.

    Attributes:
        connected: reports can be trusted; where false, ``trouble`` says why not and what to do ("" before the
            first attempt).
        name: product name, "" before the first connection.
        axes: x forward, y left, z up, then the rotations about them, each about [-1, 1].
        pressed: whether the buttons that close and open the gripper are.
        reports: number of reports read since the device was opened.
        warning: the device works but something is odd; "" if not.
    """

    connected: bool = False
    trouble: str = ""
    name: str = ""
    axes: tuple[float, ...] = (0.0,) * 6
    pressed: tuple[bool, bool] = (False, False)
    reports: int = 0
    warning: str = ""


def open_spacemouse(path: str = "") -> Any:
    """The SpaceMouse at a path, or the first one, without blocking reads, in ROS axes.

    Raises:
        RuntimeError: there is none, or it cannot be opened; says what to do.
    """
    try:
        import pyspacemouse
    except ImportError as error:
        raise RuntimeError(f"cannot import pyspacemouse ({error}); pip install pyspacemouse") from None
    except OSError as error:
        raise RuntimeError(f"no hidapi library ({error}); install libhidapi-hidraw0") from None
    options: dict[str, Any] = {"nonblocking": True, "axis_convention": pyspacemouse.AxisConvention.ROS}
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the name of what it finds
            return pyspacemouse.open_by_path(path, **options) if path else pyspacemouse.open(**options)
    except Exception as error:
        hint = "plug it in; if it is, allow access to /dev/hidraw* with a udev rule"
        raise RuntimeError(f"no SpaceMouse ({error}); {hint}") from None


def rivals() -> list[str]:
    """Paths of all SpaceMice, where there is more than one to choose from; a wireless receiver may have several."""
    import pyspacemouse

    paths = sorted(pyspacemouse.get_connected_devices_by_path())
    return paths if len(paths) > 1 else []


def gripper_buttons(names: Sequence[str], close: str = "", open_: str = "") -> tuple[int | None, int | None]:
    """Which buttons close and open the gripper: those named, or the usual ones of the model; None where it has none.

    Raises:
        ValueError: the device has no button of that name.
    """
    usual = next((pair for pair in _GRIPPER_BUTTONS if set(pair) <= set(names)), ("", ""))
    found: list[int | None] = []
    for wanted, default in zip((close, open_), usual, strict=True):
        if wanted and wanted not in names:
            raise ValueError(f"button {wanted!r}: this SpaceMouse has {', '.join(names) or 'no buttons'}")
        name = wanted or default
        found.append(names.index(name) if name else None)
    return found[0], found[1]


class SpaceMouseReader:
    """Owns the reading thread; :attr:`state` is the newest snapshot.

    Args:
        path: of the device; "" for the first one.
        buttons: names of those that close and open the gripper; "" for the usual ones.
        self_test_s: if no axis ever moved this long after opening, a warning says so: some devices stream zeros over
            a cable but not over their receiver (rail-berkeley/hil-serl issue 40).
        clock: wall time, s.
    """

    def __init__(
        self,
        path: str = "",
        buttons: tuple[str, str] = ("", ""),
        self_test_s: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._buttons = buttons
        self._self_test_s = self_test_s
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spacemouse", daemon=True)
        self.state = DeviceState()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the device; idempotent."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        attempt = 0
        while not self._stop.is_set():
            try:
                device = open_spacemouse(self._path)
                buttons = gripper_buttons(device.info.button_names, *self._buttons)
            except (RuntimeError, ValueError) as error:
                self.state = DeviceState(trouble=str(error))
                self._stop.wait(_BACK_OFF_S[min(attempt, len(_BACK_OFF_S) - 1)])
                attempt += 1
                continue
            attempt = 0
            try:
                self._read_until_lost(device, buttons)
            except Exception as error:  # hidapi says nothing more precise than "read failed"
                name = self.state.name
                self.state = DeviceState(trouble=f"{name or 'SpaceMouse'} lost ({error}); plug it in again", name=name)
            finally:
                with contextlib.suppress(Exception):
                    device.close()
            self._stop.wait(_BACK_OFF_S[0])

    def _read_until_lost(self, device: Any, buttons: tuple[int | None, int | None]) -> None:
        opened_s = heard_s = self._clock()
        name, reports, moved = str(device.product_name), 0, False
        others = [] if self._path else rivals()
        choice = f"reading the first of {', '.join(others)}; name one by the parameter device" if others else ""
        before = device.read().t
        while not self._stop.is_set():
            reading = device.read()  # one report at a time; the time stamp changes with each
            drained = reading.t == before
            if not drained:
                before, heard_s = reading.t, self._clock()
                reports += 1
            axes = tuple(float(getattr(reading, axis)) for axis in _AXES)
            moved = moved or any(axes)
            now_s = self._clock()
            if any(axes) and now_s - heard_s > _STUCK_S:
                raise RuntimeError(f"deflected, but no report for {_STUCK_S} s")
            warning = choice
            if not moved and now_s - opened_s > self._self_test_s:
                warning = (
                    f"no deflection since it was opened {self._self_test_s:.0f} s ago ({reports} reports); push the "
                    "cap; if this stays, use the wireless receiver instead of the cable and stop spacenavd"
                )
            pressed = tuple(button is not None and reading.buttons[button] != 0 for button in buttons)
            self.state = DeviceState(True, "", name, axes, (pressed[0], pressed[1]), reports, warning)
            if drained:
                self._stop.wait(_POLL_S)
