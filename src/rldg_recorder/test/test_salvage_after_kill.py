"""A recorder that is killed at a random moment loses at most the last second of the open episode, and no closed one.

Run as a program (``python <this file> <folder> <pace>``) this file is that recorder: it records the same episode again
and again, and says in a file in memory how far it is.
"""

import mmap
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from rldg_core.task import load_task
from rldg_core.types import Outcome
from rldg_recorder.bag_reader import BagReader
from rldg_recorder.bag_writer import open_writer
from rldg_recorder.episode import EpisodeInfo, read_info, write_info
from rldg_recorder.salvage import salvage
from rldg_recorder.testing_bags import Item, episode_items, write_items

TICKS = 30  # an episode lasts three seconds
SECOND_NS = 10**9
# number of the open bag * COUNT + messages that its writer has taken in: one integer, which a kill does not tear
PROGRESS_BYTES, COUNT = 8, 1 << 32


def stream() -> list[Item]:
    return list(episode_items(ticks=TICKS))


def record(root: Path, pace: float) -> None:
    """Record bag after bag, ``pace`` seconds in one second; 0 is as fast as it goes."""
    items = stream()
    info = EpisodeInfo(state="recording", session_id="s", episode_id="s/0001", task=load_task("usb_insertion"))
    with (root / "progress").open("r+b") as file:
        progress = memoryview(mmap.mmap(file.fileno(), PROGRESS_BYTES)).cast("Q")

    def told(number: int) -> Iterator[Item]:
        began_s = time.monotonic()
        for count, item in enumerate(items):
            progress[0] = number * COUNT + count
            if pace:
                time.sleep(max(0.0, began_s + (item.stamp_ns - items[0].stamp_ns) * 1e-9 * pace - time.monotonic()))
            yield item

    number = 0
    while True:
        number += 1
        folder = root / f"{number:04d}"
        writer = open_writer(folder, "mcap")
        write_info(folder, info)
        write_items(writer, told(number))
        writer.close()
        write_info(folder, msgspec.structs.replace(info, state="complete", outcome=Outcome.SUCCESS, steps=TICKS))


def kill_while_recording(root: Path, pace: float, after_s: float) -> tuple[int, int]:
    """Start a recorder, kill it; returns the number of the open bag and of the messages it had taken in."""
    (root / "progress").write_bytes(bytes(PROGRESS_BYTES))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    recorder = subprocess.Popen([sys.executable, __file__, str(root), str(pace)], env=environment)
    try:
        while not any((root / "progress").read_bytes()):
            assert recorder.poll() is None, "the recorder has ended by itself"
            time.sleep(0.005)
        time.sleep(after_s)
    finally:
        recorder.send_signal(signal.SIGKILL)
        recorder.wait()
    return divmod(int.from_bytes((root / "progress").read_bytes(), sys.byteorder), COUNT)


def read(folder: Path) -> list[tuple[str, bytes, int, int]]:
    with BagReader(folder) as reader:
        return [(m.topic, bytes(m.data), m.publish_ns, m.sequence) for m in reader.messages()]


def check(root: Path, pace: float, after_s: float) -> None:
    number, count = kill_while_recording(root, pace, after_s)
    items = stream()
    for closed in range(1, number):
        assert read(root / f"{closed:04d}") == list(items)
        assert read_info(root / f"{closed:04d}").state == "complete"
    still_open = root / f"{number:04d}"
    info = salvage(still_open)
    found = read(still_open)
    assert found == list(items[: len(found)])
    safe_ns = items[max(0, count - 1)].stamp_ns - SECOND_NS
    assert len(found) >= sum(item.stamp_ns <= safe_ns for item in items[:count])
    assert info.steps == sum(entry[0] == "/step" for entry in found)
    assert info.state == ("complete" if info.steps == TICKS else "partial")
    assert salvage(still_open).steps == info.steps


@pytest.mark.parametrize("seed", range(5))
def test_a_kill_at_a_random_moment_costs_at_most_the_last_second_of_the_open_episode(tmp_path: Path, seed: int) -> None:
    check(tmp_path, pace=0.0, after_s=random.Random(seed).uniform(0.0, 0.4))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(50))
def test_the_same_fifty_times_every_second_one_in_real_time(tmp_path: Path, seed: int) -> None:
    in_real_time = seed % 2 == 0
    chance = random.Random(1000 + seed)
    check(tmp_path, pace=float(in_real_time), after_s=chance.uniform(0.0, 6.0 if in_real_time else 1.0))


if __name__ == "__main__":
    record(Path(sys.argv[1]), float(sys.argv[2]))
