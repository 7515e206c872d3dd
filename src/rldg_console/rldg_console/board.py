"""What viewers are shown: the newest of each sheet, and never a queue.

The board keeps one of each; a viewer takes what it has not had yet whenever it may. To a browser that is slow less is
sent: the next picture goes out once an earlier one is on its screen, so that nothing waits in between, not even in the
buffers of the network.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rldg_console.messages import SHEETS, picture, text

QUALITY = 80  # of JPEG images
MAX_SIDE_PX = 640  # larger pictures are shrunk before they are sent
IN_FLIGHT = 2  # of a sheet, on their way to a browser: one is shown while the next one travels
LOST_S = 2.0  # what was not shown by then never will be
_FASTEST_S = 1 / 18  # pictures of a camera that come sooner than this after the last one are left out


def encode_jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    """From RGB, shape (height, width, 3)."""
    from PIL import Image

    shrunk = Image.fromarray(np.ascontiguousarray(image))
    if max(shrunk.size) > MAX_SIDE_PX:
        shrunk.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    out = io.BytesIO()
    shrunk.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


@dataclass
class _Sheet:
    number: int
    content: str | npt.NDArray[np.uint8]
    message: str | bytes | None = None  # made when the first viewer takes it


class Board:
    """The newest of each sheet. Written by one thread, read by another.

    Args:
        changed: called from the writer's thread after every change.
    """

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self.changed = changed
        self._lock = threading.Lock()
        self._sheets: dict[str, _Sheet] = {}
        self._put_s: dict[str, float] = {}

    def put_text(self, sheet: str, json: str) -> None:
        """Replace a sheet that is JSON."""
        self._put(sheet, json)

    def put_image(self, camera: str, image: npt.NDArray[np.uint8], now_s: float) -> None:
        """Replace a camera's picture, RGB of shape (height, width, 3), not to be changed any more."""
        if now_s - self._put_s.get(camera, -1.0) >= _FASTEST_S:
            self._put_s[camera] = now_s
            self._put(camera, image)

    def _put(self, sheet: str, content: str | npt.NDArray[np.uint8]) -> None:
        with self._lock:
            before = self._sheets.get(sheet)
            self._sheets[sheet] = _Sheet(before.number + 1 if before else 1, content)
        self.changed()

    def after(self, sheet: str, had: int) -> tuple[int, str | bytes] | None:
        """Number and message of a sheet, None where a viewer has had it or there is none."""
        with self._lock:
            found = self._sheets.get(sheet)
        if found is None or found.number == had:
            return None
        if found.message is None:
            content = found.content
            if isinstance(content, str):
                found.message = text(sheet, found.number, content)
            else:
                found.message = picture(sheet, found.number, encode_jpeg(content))
        return found.number, found.message


class Pace:
    """What one viewer has had and may have next."""

    def __init__(self) -> None:
        self._had = dict.fromkeys(SHEETS, 0)
        self._flying: dict[str, dict[int, float]] = {sheet: {} for sheet in SHEETS}

    def take(self, board: Board, now_s: float) -> Iterator[str | bytes]:
        """The messages that may go out now."""
        for sheet, flying in self._flying.items():
            for number in [number for number, sent_s in flying.items() if now_s - sent_s > LOST_S]:
                del flying[number]
            found = board.after(sheet, self._had[sheet]) if len(flying) < IN_FLIGHT else None
            if found is not None:
                self._had[sheet] = found[0]
                flying[found[0]] = now_s
                yield found[1]

    def on_shown(self, sheet: str, number: int) -> bool:
        """It is on the screen; returns whether it was on its way there."""
        return self._flying[sheet].pop(number, None) is not None
