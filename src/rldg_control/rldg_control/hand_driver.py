"""Drives a real gripper, whose commands take up to a second, beside the arm: binary, the newest wish after the last."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from rldg_control.arm_driver import ArmFault, LinkLost

_PERIOD_S = 0.03
_CONNECT_AGAIN_S = 1.0


class Hand(Protocol):
    """A connected gripper. Every call may raise :class:`LinkLost` or :class:`ArmFault`."""

    def width_m(self) -> float:
        """Opening between the fingers."""

    def drive(self, closed: bool) -> None:
        """Close with force or open wide; waits until that is done."""


class HandDriver:
    """Owns the thread in which :meth:`run` reads the width, and another one for the command that is under way.

    A command is not interrupted: what is wished meanwhile follows, if it is something else.

    Args:
        connect: opens the gripper; raises :class:`LinkLost` where it cannot.
    """

    def __init__(self, connect: Callable[[], Hand]) -> None:
        self._connect = connect
        self._wanted: bool | None = None
        self.width_m = math.nan
        self.trouble = ""

    def set_closed(self, closed: bool) -> None:
        """From any thread."""
        self._wanted = closed

    def run(self, stop: threading.Event) -> None:
        """Until told to stop; connects, and connects again."""
        with ThreadPoolExecutor(1, "gripper command") as pool:
            while not stop.is_set():
                try:
                    self._serve(self._connect(), pool, stop)
                except (LinkLost, ArmFault) as error:
                    self.trouble, self.width_m = str(error), math.nan
                    stop.wait(_CONNECT_AGAIN_S)

    def _serve(self, hand: Hand, pool: ThreadPoolExecutor, stop: threading.Event) -> None:
        self.trouble = ""
        done: bool | None = None  # what the fingers did last; not known at first
        under_way: tuple[bool, Future[None]] | None = None
        while not stop.is_set():
            self.width_m = hand.width_m()
            if under_way is not None and under_way[1].done():
                try:
                    under_way[1].result()
                    self.trouble = ""
                except ArmFault as error:
                    self.trouble = str(error)
                done, under_way = under_way[0], None
            wanted = self._wanted
            if under_way is None and wanted is not None and wanted != done:
                under_way = wanted, pool.submit(hand.drive, wanted)
            stop.wait(_PERIOD_S)
