"""Pictures for people: films and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

_CAPTION_PX = 18
_GAP_PX = 4
_PAPER, _INK = (250, 250, 248), (30, 30, 30)


class Film:
    """An H.264 file written frame by frame; a context manager.

    Args:
        path: where to write; its folder must exist.
        rate_hz: frames per second.
    """

    def __init__(self, path: Path, rate_hz: float) -> None:
        import av

        self._frame_type = av.VideoFrame
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream("h264", rate=Fraction(rate_hz).limit_denominator(1000))
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "23", "preset": "veryfast"}
        self._sized = False

    def add(self, image: Image) -> None:
        """Append a frame, shape (height, width, 3), RGB, even height and width, the same for all frames."""
        if not self._sized:
            self._stream.height, self._stream.width = image.shape[:2]
            self._sized = True
        for packet in self._stream.encode(self._frame_type.from_ndarray(image, format="rgb24")):
            self._container.mux(packet)

    def __enter__(self) -> Film:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._sized:
            for packet in self._stream.encode():
                self._container.mux(packet)
        self._container.close()


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` indices of ``count`` items, the first and the last among them, evenly spaced."""
    return sorted(set(np.linspace(0, count - 1, min(wanted, count)).round().astype(int).tolist())) if count else []


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image]]], path: Path) -> None:
    """Write rows of pictures with a caption above each row as one PNG.

    Args:
        rows: caption and pictures, shape (height, width, 3), RGB, all of one size.
        path: file to write.
    """
    from PIL import Image as PilImage
    from PIL import ImageDraw

    pictures = [picture for _, row in rows for picture in row]
    if not pictures:
        raise ValueError("contact sheet: no pictures")
    height, width = pictures[0].shape[:2]
    columns = max(len(row) for _, row in rows)
    pitch = _CAPTION_PX + height + _GAP_PX
    sheet = PilImage.new("RGB", (columns * (width + _GAP_PX) + _GAP_PX, len(rows) * pitch + _GAP_PX), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (caption, row) in enumerate(rows):
        draw.text((_GAP_PX, i * pitch + 3), caption, fill=_INK)
        for j, picture in enumerate(row):
            sheet.paste(PilImage.fromarray(picture), (_GAP_PX + j * (width + _GAP_PX), i * pitch + _CAPTION_PX))
    sheet.save(path)
