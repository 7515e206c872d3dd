"""Test support: SpaceMice that pyspacemouse finds and reads, made of raw HID reports."""

from __future__ import annotations

import struct
import threading
from collections import deque
from pathlib import Path

import pytest

FULL_SCALE = 350
COMPACT = (0x256F, 0xC635)


class FakeHid:
    """A HID device: hands out queued reports, then the repeated ones over and over; fails once unplugged.

    As of easyhid, a report is filled with zeros up to the size that is asked for.
    """

    manufacturer_string, release_number, serial_number = "3Dconnexion", 1, ""

    def __init__(
        self, ids: tuple[int, int] = COMPACT, path: str = "/dev/hidraw0", product: str = "SpaceMouse Compact"
    ) -> None:
        (self.vendor_id, self.product_id), self.path, self.product_string = ids, path, product
        self.reports: deque[bytes] = deque()
        self.repeat: tuple[bytes, ...] = ()
        self.plugged = True
        self.nonblocking = False
        self._turn = 0
        self._lock = threading.Lock()

    def open(self) -> None:
        if not self.plugged:
            raise OSError("gone")

    def close(self) -> None:
        pass

    def set_nonblocking(self, enable: bool) -> None:
        self.nonblocking = enable

    def read(self, size: int) -> bytes:
        if not self.plugged:
            raise OSError("read failed")
        with self._lock:
            if self.reports:
                return self.reports.popleft()[:size].ljust(size, b"\0")
            if not self.repeat:
                return b""
            self._turn = (self._turn + 1) % (len(self.repeat) + 1)  # one empty answer a round: it is drained
            return self.repeat[self._turn - 1][:size].ljust(size, b"\0") if self._turn else b""

    def send(self, *reports: bytes) -> None:
        with self._lock:
            self.reports.extend(reports)


def plug_in(monkeypatch: pytest.MonkeyPatch, *devices: FakeHid) -> None:
    """Let pyspacemouse see these devices and no others, as long as they are plugged."""

    class Enumeration:
        @property
        def device_list(self) -> list[FakeHid]:
            return [device for device in devices if device.plugged]

        def find(self) -> list[FakeHid]:
            return self.device_list

    monkeypatch.setattr("pyspacemouse.api.Enumeration", Enumeration)


def translation(x: int, y: int, z: int) -> bytes:
    """Channel 1 in the device's own axes: x right, y towards the user, z down."""
    return bytes([1]) + struct.pack("<hhh", x, y, z)


def rotation(x: int, y: int, z: int) -> bytes:
    """Channel 2, about the same axes."""
    return bytes([2]) + struct.pack("<hhh", x, y, z)


def motion(*axes: int) -> bytes:
    """All six axes on channel 1, as newer and wireless devices report them."""
    return bytes([1]) + struct.pack("<6h", *axes)


def buttons(mask: int) -> bytes:
    """Channel 3; bit 0 is the lowest bit of the first byte."""
    return bytes([3]) + struct.pack("<I", mask)


def link(path: Path) -> str:
    """A path that exists: pyspacemouse opens no other."""
    path.touch()
    return str(path)
