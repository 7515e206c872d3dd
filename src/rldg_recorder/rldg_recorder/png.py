"""Lossless images: PNG, written some ten times as fast as by the usual libraries at their fastest.

Rows are filtered by numpy and deflated by ISA-L; the bytes depend on the image alone. Format: ISO/IEC 15948.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from isal import isal_zlib

from rldg_recorder.episode import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SUB = 1  # filter: each pixel minus its left neighbour


def encode(image: Image) -> bytes:
    """PNG of an RGB image of shape (h, w, 3).

    Raises:
        ValueError: another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image of shape {image.shape} and type {image.dtype}: must be (h, w, 3) and uint8")
    height, width, _ = image.shape
    pixels = image.reshape(height, width * 3)
    rows = np.empty((height, 1 + width * 3), np.uint8)
    rows[:, 0] = _SUB
    rows[:, 1:4] = pixels[:, :3]
    np.subtract(pixels[:, 3:], pixels[:, :-3], out=rows[:, 4:])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    data = isal_zlib.compress(rows, 1)
    return b"".join((_SIGNATURE, *_chunk(b"IHDR", header), *_chunk(b"IDAT", data), *_chunk(b"IEND", b"")))


def decode(data: bytes) -> Image:
    """Image of shape (h, w, 3) from any PNG or JPEG.

    Raises:
        ValueError: it is neither, or is cut off.
    """
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(data), formats=("PNG", "JPEG")) as opened:
            return np.asarray(opened.convert("RGB") if opened.mode != "RGB" else opened)
    except (OSError, SyntaxError, Pillow.DecompressionBombError) as error:
        raise ValueError(f"image of {len(data)} bytes cannot be decoded: {error}") from None


def _chunk(kind: bytes, data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    return struct.pack(">I", len(data)), kind, data, struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind)))
