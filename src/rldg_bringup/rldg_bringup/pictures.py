"""Pictures for people: contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

_CAPTION_PX = 18
_GAP_PX = 4
_PAPER, _INK = (250, 250, 248), (30, 30, 30)


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
