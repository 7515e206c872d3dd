"""Lossless images: PNG, written some ten times as fast as by the usual libraries at their fastest.

Rows are filtered by numpy and deflated by ISA-L; the bytes depend on the image alone. Format: ISO/IEC 15948.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from isal import igzip_lib, isal_zlib

from rldg_recorder.episode import Image

_UP = 2  # filter: each row minus the one above it
_BEFORE_SIZE = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR"
_KIND = bytes((8, 2, 0, 0, 0))  # 8 bits, RGB, not interlaced
_MOST_PIXELS = 1 << 26  # a damaged header must not claim more memory than that
_DATA_AT = len(_BEFORE_SIZE) + 8 + len(_KIND) + 4 + 8  # of what we write: where the deflated rows begin


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
    rows[:, 0] = _UP
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    header = b"IHDR" + struct.pack(">II", width, height) + _KIND
    data = isal_zlib.compress(rows, 1)
    return b"".join((_BEFORE_SIZE[:8], *_chunk(header), *_chunk(b"IDAT", data), *_chunk(b"IEND")))


def decode(data: bytes) -> Image:
    """Image of shape (h, w, 3) from any PNG or JPEG; from one of ours in less than half the usual time.

    Raises:
        ValueError: it is neither, or is damaged.
    """
    image = _decode_ours(data)
    return _decode_any(data) if image is None else image


def _decode_ours(data: bytes) -> Image | None:
    """None where it is not as :func:`encode` writes it, or is damaged."""
    if len(data) < _DATA_AT or not data.startswith(_BEFORE_SIZE) or data[24:29] != _KIND:
        return None
    width, height, size = (int.from_bytes(data[at : at + 4]) for at in (16, 20, 33))
    end = _DATA_AT + size
    if width * height > _MOST_PIXELS or int.from_bytes(data[29:33]) != isal_zlib.crc32(data[12:29]):
        return None
    if data[37:41] != b"IDAT" or data[end + 4 :] != b"".join(_chunk(b"IEND")):
        return None
    if int.from_bytes(data[end : end + 4]) != isal_zlib.crc32(memoryview(data)[37:end]):
        return None
    try:
        decompressor = isal_zlib.decompressobj()
        deflated = decompressor.decompress(memoryview(data)[_DATA_AT:end], height * (1 + width * 3) + 1)
    except igzip_lib.IsalError:
        return None
    if not decompressor.eof or len(deflated) != height * (1 + width * 3):
        return None
    rows = np.frombuffer(deflated, np.uint8).reshape(height, 1 + width * 3)
    if (rows[:, 0] != _UP).any():
        return None
    pixels = rows[:, 1:].copy()
    step = 1
    while step < height:  # sums over all rows above, in log2(height) additions of the whole
        pixels[step:] += pixels[:-step]
        step *= 2
    return pixels.reshape(height, width, 3)


def _decode_any(data: bytes) -> Image:
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(data), formats=("PNG", "JPEG")) as opened:
            return np.asarray(opened.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise ValueError(f"image of {len(data)} bytes cannot be decoded: {error}") from None


def _chunk(kind: bytes, data: bytes = b"") -> tuple[bytes, bytes, bytes]:
    """Length, type and data, CRC; ``kind`` may hold the first part of the data too."""
    crc = isal_zlib.crc32(data, isal_zlib.crc32(kind))
    return struct.pack(">I", len(kind) - 4 + len(data)), kind + data, struct.pack(">I", crc)
