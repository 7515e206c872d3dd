"""How fast the bag writer is, alone, against a plain file copy of the bag that it wrote."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

from rldg_recorder.bag_writer import Topic, open_writer

IMAGE_BYTES, STATE_BYTES = 640 * 480 * 3 + 80, 140
FRAMES = 270  # of two cameras, 500 MB
STATES_PER_FRAME = 33  # 1 kHz at 30 Hz


def writer_vs_copy(folder: Path | None = None, repeats: int = 7, sync: bool = False) -> float:
    """Median over repeats of (time of ``shutil.copyfile`` of the bag) / (time to write it): 1.0 is as fast as a copy.

    Two topics of 640x480 RGB images and one of small states at 1 kHz, about 500 MB. Payloads and the source of the copy
    are in memory; writer and copy take turns at going first.

    Args:
        folder: on the disk that is measured; a temporary one where None.
        sync: both wait until the data is on the disk, which then is what is measured; else neither does.
    """
    return statistics.median(ratios(folder, repeats, sync))


def ratios(folder: Path | None, repeats: int, sync: bool) -> list[float]:
    """The single figures of :func:`writer_vs_copy`."""
    images = [os.urandom(IMAGE_BYTES) for _ in range(8)]
    found = []
    with tempfile.TemporaryDirectory(prefix="rldg_writer_", dir=folder) as made:
        bag, copy = Path(made, "bag"), Path(made, "copy")
        reference = Path(made, "reference")
        _write(reference, images, sync)
        source = reference / "reference_0.mcap"
        for repeat in range(repeats + 1):
            write_s, copy_s = 0.0, 0.0
            for writes in (repeat % 2 == 0, repeat % 2 == 1):
                os.sync()  # what earlier takes left to the disk is not this one's
                if writes:
                    write_s = _time_s(lambda: _write(bag, images, sync))
                    shutil.rmtree(bag)
                else:
                    copy_s = _time_s(lambda: _copy(source, copy, sync))
                    copy.unlink()
            if repeat:  # the first warms up
                found.append(copy_s / write_s)
    return found


def _time_s(take: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    take()
    return time.perf_counter() - began_s


def _copy(source: Path, copy: Path, sync: bool) -> None:
    shutil.copyfile(source, copy)
    if sync:
        with copy.open("rb") as file:
            os.fsync(file.fileno())


def _write(folder: Path, images: list[bytes], sync: bool) -> None:
    state = bytes(STATE_BYTES)
    with nullcontext() if sync else mock.patch("rldg_recorder.bag_writer.os.fsync"):
        writer = open_writer(folder, "mcap")
        cameras = [writer.add_topic(Topic(f"/{name}/image", "sensor_msgs/msg/Image", "")) for name in ("left", "right")]
        arm = writer.add_topic(Topic("/joint_states", "sensor_msgs/msg/JointState", ""))
        for frame in range(FRAMES):
            now_ns = frame * 33_333_333
            for camera in cameras:
                writer.write(camera, images[(frame + camera) % len(images)], now_ns, now_ns, frame)
            for index in range(STATES_PER_FRAME):
                writer.write(arm, state, now_ns, now_ns, frame * STATES_PER_FRAME + index)
            if frame % 8 == 0:
                writer.flush()
        writer.close()
