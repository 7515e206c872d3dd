"""Films of trials: small enough that a page holds a grid of them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # it brings scipy along, which a demo can do without
    from rldg_evaluation.running import Result

Image = npt.NDArray[np.uint8]

FILMS = "films"
KEPT = {True: 1, False: 3}  # of each policy in each scene: of the first successes, of the first failures
SIDE_PX = 160
MOST_BYTES = 150_000
_QUALITIES = (28, 34, 40)  # of H.264: the first that is small enough
_POSTER_QUALITY = 70


class Film:
    """An H.264 film (MP4) written frame by frame; a context manager.

    Args:
        where: a path, whose folder must exist, or an open file.
        rate_hz: frames per second.
        quality: H.264's constant rate factor; less is better and larger.
    """

    def __init__(self, where: Path | BinaryIO, rate_hz: float, quality: int = 23) -> None:
        import av

        self._frame_type = av.VideoFrame
        target = str(where) if isinstance(where, Path) else where
        self._container = av.open(target, "w", format="mp4")
        self._stream = self._container.add_stream("h264", rate=Fraction(rate_hz).limit_denominator(1000))
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": str(quality), "preset": "veryfast"}
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


class Camera:
    """Keeps films of the first trials of each policy in each scene, by whether they succeeded.

    The first ones and not the nicest: so nobody chooses what a reader of the report sees.
    """

    def __init__(self) -> None:
        self._kept: Counter[tuple[tuple[str, str, str], bool]] = Counter()

    def wants(self, cell: tuple[str, str, str]) -> bool:
        """Whether a film of a trial of this policy, task and scene may be kept, whatever comes of it."""
        return any(self._kept[cell, success] < most for success, most in KEPT.items())

    def keep(self, folder: Path, result: Result, images: Sequence[Image], rate_hz: float) -> None:
        """Write ``films/<trial>.mp4`` in the folder of a run, if this trial is one of the first.

        Args:
            images: at least one, shape (side, side, 3).
        """
        which = result.cell, result.success
        if not result.counts or self._kept[which] >= KEPT[result.success]:
            return
        film = small_film(images, rate_hz)
        if film is not None:
            self._kept[which] += 1
            (folder / FILMS).mkdir(exist_ok=True)
            part = folder / FILMS / f".{result.trial}.part"
            part.write_bytes(film)
            part.replace(folder / FILMS / f"{result.trial}.mp4")


def small_film(images: Sequence[Image], rate_hz: float) -> bytes | None:
    """An MP4 of at most `MOST_BYTES`, None where that cannot be had."""
    from PIL import Image as PilImage

    frames = []
    for image in images:
        small = PilImage.fromarray(image).resize((SIDE_PX, SIDE_PX), PilImage.Resampling.BOX)
        frames.append(np.asarray(small))
    for quality in _QUALITIES:
        file = io.BytesIO()
        with Film(file, rate_hz, quality) as film:
            for frame in frames:
                film.add(frame)
        if len(file.getvalue()) <= MOST_BYTES:
            return file.getvalue()
    return None


def poster(film: bytes) -> bytes:
    """The last picture of a film as JPEG: how it ended.

    Raises:
        ValueError: it is damaged.
    """
    import av
    from PIL import Image as PilImage

    last = None
    try:
        with av.open(io.BytesIO(film), "r") as container:
            for frame in container.decode(video=0):
                last = frame
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"film cannot be read: {error}") from None
    if last is None:
        raise ValueError("film cannot be read: it has no picture")
    buffer = io.BytesIO()
    PilImage.fromarray(last.to_ndarray(format="rgb24")).save(buffer, "jpeg", quality=_POSTER_QUALITY)
    return buffer.getvalue()
