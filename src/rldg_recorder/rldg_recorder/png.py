"""Lossless images: PNG, written some ten times as fast as by the usual libraries at their fastest; and JPEG.

Rows are filtered by numpy and deflated by ISA-L; the bytes depend on the image alone. Format: ISO/IEC 15948.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np
from isal import igzip_lib, isal_zlib

from rldg_recorder.episode import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

JPEG_QUALITY = 95
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KIND = bytes((8, 2, 0, 0, 0))  # 8 bits, RGB, not interlaced
_UP = 2  # filter: each row minus the one above it
_MOST_PIXELS = 1 << 26  # a damaged header must not claim more memory than that


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
    header = struct.pack(">II", width, height) + _KIND
    data = isal_zlib.compress(rows, 1)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"".join((_SIGNATURE, *(part for chunk in chunks for part in _chunk(*chunk))))


def encode_jpeg(picture: Picture) -> bytes:
    """JPEG of quality 95: a quarter of the space of a PNG, in half the time, and with a loss of a few grey levels."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def is_png(data: bytes) -> bool:
    """Whether these are the bytes of a PNG."""
    return data.startswith(_SIGNATURE)


def decode(data: bytes) -> Image:
    """Image of shape (h, w, 3) from any PNG or JPEG; from one of ours in less than half the usual time.

    Raises:
        ValueError: it is neither, or is damaged. Of a PNG every checksum is tested, which most decoders do not do.
    """
    image = _decode_ours(_checked_chunks(data)) if is_png(data) else None
    return _decode_any(data) if image is None else image


def _chunk(kind: bytes, data: bytes | memoryview) -> tuple[bytes, bytes, bytes | memoryview, bytes]:
    crc = isal_zlib.crc32(data, isal_zlib.crc32(kind))
    return struct.pack(">I", len(data)), kind, data, struct.pack(">I", crc)


def _checked_chunks(data: bytes) -> list[tuple[bytes, memoryview]]:
    chunks, at, view = [], len(_SIGNATURE), memoryview(data)
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        kind, body = data[at + 4 : at + 8], view[at + 8 : end]
        if data[end : end + 4] != _chunk(kind, body)[3]:
            raise ValueError(f"image of {len(data)} bytes is damaged or cut off at byte {at}: wrong checksum")
        chunks.append((kind, body))
        at = end + 4
    return chunks


def _decode_ours(chunks: list[tuple[bytes, memoryview]]) -> Image | None:
    """None where it is not as :func:`encode` writes it."""
    if [kind for kind, _ in chunks] != [b"IHDR", b"IDAT", b"IEND"]:
        return None
    header, data, _ = (body for _, body in chunks)
    if len(header) != 8 + len(_KIND) or header[8:] != _KIND:
        return None
    width, height = struct.unpack_from(">II", header)
    size = height * (1 + width * 3)
    if width * height > _MOST_PIXELS:
        return None
    decompressor = isal_zlib.decompressobj()
    try:
        deflated = decompressor.decompress(data, size + 1)
    except igzip_lib.IsalError:  # type: ignore[misc]  # a class, which its stub does not say
        return None
    if not decompressor.eof or len(deflated) != size or size == 0:
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
