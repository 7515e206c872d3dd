"""PNG images: any decoder reads them, and damaged ones are refused."""

import io
import zlib

import numpy as np
import pytest
from made_sets import image
from PIL import Image as Pillow

from rldg_recorder import png


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (128, 128), (33, 65)])
def test_an_image_comes_back_unchanged_from_another_decoder_and_from_ours(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    data = png.encode(pixels)
    np.testing.assert_array_equal(np.asarray(Pillow.open(io.BytesIO(data))), pixels)
    np.testing.assert_array_equal(png.decode(data), pixels)


def test_an_image_that_is_a_view_comes_back_unchanged() -> None:
    pixels = image(1, 2, 64)[::2, 3:30]
    np.testing.assert_array_equal(png.decode(png.encode(pixels)), pixels)


def test_images_written_by_others_are_read() -> None:
    pixels = image(1, 2)
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "PNG")
    np.testing.assert_array_equal(png.decode(buffer.getvalue()), pixels)


def test_a_smooth_image_becomes_smaller() -> None:
    y, x = np.mgrid[0:128, 0:128]
    smooth = np.stack([x, y, x + y], axis=-1).astype(np.uint8)
    assert len(png.encode(smooth)) < smooth.nbytes / 20


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), "u1")]
)
def test_what_is_no_rgb_image_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must be \(h, w, 3\) and uint8"):
        png.encode(wrong)


def test_a_damaged_byte_is_always_noticed() -> None:
    data = png.encode(image(1, 2, 8))
    for at in range(len(data)):
        with pytest.raises(ValueError, match=r"cannot be decoded|wrong checksum"):
            png.decode(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])


@pytest.mark.parametrize("length", [0, 1, 8, 30, 60, -13, -1])
def test_a_truncated_image_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"cannot be decoded|cut off"):
        png.decode(png.encode(image(1, 2))[:length])


def test_a_header_that_claims_a_gigantic_image_is_refused() -> None:
    data = bytearray(png.encode(image(1, 2)))
    data[16:24] = b"\x7f\xff\xff\xff" * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    with pytest.raises(ValueError, match="cannot be decoded"):
        png.decode(bytes(data))
