"""How fast the bag writer is, alone, against a plain file copy of the bag that it wrote."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from rldg_recorder.bag_writer import Topic, open_writer

IMAGE_BYTES, STATE_BYTES = 640 * 480 * 3 + 80, 140
FRAMES = 270  # of two cameras, 500 MB
STATES_PER_FRAME = 33  # 1 kHz at 30 Hz


def writer_vs_copy(repeats: int = 9, clock: Callable[[], float] = time.process_time) -> float:
    """Median over repeats of (time of ``shutil.copyfile`` of the bag) / (time to write it): 1.0 is a copy."""
    return statistics.median(ratios(repeats, clock))


def ratios(repeats: int, clock: Callable[[], float]) -> list[float]:
    """The single figures of :func:`writer_vs_copy`.

    Two topics of 640x480 RGB images and one of small states at 1 kHz, about 500 MB. Payloads and the source of the copy
    are in memory; neither waits until the disk has the data; writer and copy take turns at going first.

    Args:
        clock: in seconds. CPU time by default (a copy in the kernel counts too): both are copies from memory to memory,
            and wall time on a busy machine measures the neighbours.
    """
    images = [os.urandom(IMAGE_BYTES) for _ in range(8)]
    found = []
    with tempfile.TemporaryDirectory(prefix="rldg_writer_") as made, mock.patch("rldg_recorder.bag_writer.os.fsync"):
        bag, copy, reference = Path(made, "bag"), Path(made, "copy"), Path(made, "reference")
        _write(reference, images)
        source = reference / "reference_0.mcap"
        for repeat in range(repeats + 1):
            took_s = {}
            for name in sorted(("copy", "write"), reverse=repeat % 2 == 0):
                os.sync()  # what earlier takes left to the disk is not this one's
                began_s = clock()
                if name == "write":
                    _write(bag, images)
                else:
                    shutil.copyfile(source, copy)
                took_s[name] = clock() - began_s
                shutil.rmtree(bag, ignore_errors=True)
                copy.unlink(missing_ok=True)
            if repeat:  # the first one warms up
                found.append(took_s["copy"] / took_s["write"])
    return found


def _write(folder: Path, images: list[bytes]) -> None:
    state = bytes(STATE_BYTES)
    writer = open_writer(folder, "mcap")
    cameras = [writer.add_topic(Topic(f"/{name}/image", "sensor_msgs/msg/Image", "")) for name in ("left", "right")]
    arm = writer.add_topic(Topic("/joint_states", "sensor_msgs/msg/JointState", ""))
    for frame in range(FRAMES):
        now_ns = frame * 33_333_333
        for camera in cameras:
            writer.write(camera, images[(frame + camera) % len(images)], now_ns, now_ns, frame)
        for index in range(STATES_PER_FRAME):
            writer.write(arm, state, now_ns, now_ns, frame * STATES_PER_FRAME + index)
        if frame % 8 == 0:  # four times a second, as the recorder does
            writer.flush()
    writer.close()
