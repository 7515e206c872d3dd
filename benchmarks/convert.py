"""How fast bags become training sets, how much memory that takes, and LeRobot's own writer on the same frames.

``lerobot``: bags to a LeRobot set of PNG images. ``rlds``: bags to RLDS of JPEG images, as published sets have them,
and to a LeRobot set of the same images, in one pass; ``rlds_png``: of PNG images. ``rlds_export``: from a LeRobot set.

Bags are written first, by the recorder's writer: episodes at 10 Hz with 128 x 128 images that look rendered and have
the noise of a sensor, and a state at 1 kHz that the reader has to pass over. Each conversion then runs in a Python of
its own, and its start counts. Figures are medians of the repeats; rates are per second of wall time, which on a busy
machine measures the neighbours too: the CPU time of a frame, over all processes, is a figure of its own.

LeRobot is measured where the interpreter in RLDG_PEER_PYTHON, or this one, can import it: from the call of add_frame
for the first frame to the end of finalize, in memory to disk, with its best of several settings.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SIDE_PX = 128
TICK_NS = 100_000_000
STATES_PER_TICK = 100
LEROBOT_EPISODES = 3


class Run(NamedTuple):
    wall_s: float
    cpu_s: float
    peak_mb: float  # resident memory of the process and those that it started, added up


def main(argv: list[str]) -> dict[str, float]:
    """Measure; the figures are those of docs/reference/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="rldg bench convert", description=__doc__)
    parser.add_argument("--episodes", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=100, help="frames of an episode (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="default: %(default)s")
    parser.add_argument("--folder", type=Path, help="where bags and sets are written (default: a temporary one)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="rldg_convert_", dir=options.folder) as made:
        return measure(Path(made), options.episodes, options.steps, options.repeats, options.jobs)


def measure(folder: Path, episodes: int, steps: int, repeats: int, jobs: int) -> dict[str, float]:
    began = time.perf_counter()
    bags = [folder / "bags" / f"{number:04d}" for number in range(episodes)]
    for number, bag in enumerate(bags):
        write_episode(bag, number, steps)
    frames = episodes * steps
    bag_mb = sum(file.stat().st_size for bag in bags for file in bag.iterdir()) / 1e6
    print(f"{frames} frames in {bag_mb:.0f} MB of bags, {time.perf_counter() - began:.0f} s to write", file=sys.stderr)
    plan = folder / "plan.json"
    plan.write_bytes(make_plan(bags, steps))
    runs: dict[str, list[Run]] = {"lerobot": [], "rlds": [], "rlds_png": [], "rlds_export": []}
    for _ in range(repeats):
        for kind, found in runs.items():
            found.append(run_apart([sys.executable, __file__, kind, str(folder), str(jobs)]))
    wall_s = {kind: statistics.median(run.wall_s for run in found) for kind, found in runs.items()}
    cpu_s = {kind: statistics.median(run.cpu_s for run in found) for kind, found in runs.items()}
    figures = {
        **{f"{kind}_frames_per_s": frames / seconds for kind, seconds in wall_s.items()},
        **{f"{kind}_cpu_ms_per_frame": 1e3 * seconds / frames for kind, seconds in cpu_s.items()},
        "lerobot_mb_per_s": bag_mb / wall_s["lerobot"],
        "peak_mb": max(run.peak_mb for found in runs.values() for run in found),
    }
    for kind, found in runs.items():
        walls = " ".join(f"{frames / run.wall_s:.0f}" for run in found)
        peaks = " ".join(f"{run.peak_mb:.0f}" for run in found)
        cpus = " ".join(f"{1e3 * run.cpu_s / frames:.2f}" for run in found)
        print(f"{kind}: {walls} frames/s, {cpus} ms of CPU for a frame, {peaks} MB at most", file=sys.stderr)
    peer = time_lerobot(folder)
    if peer is not None:
        figures["ratio_lerobot_writer"] = figures["lerobot_frames_per_s"] / peer["frames_per_s"]
        figures["ratio_lerobot_writer_cpu"] = peer["cpu_ms_per_frame"] / figures["lerobot_cpu_ms_per_frame"]
        print(
            f"LeRobot's own writer: {peer['frames_per_s']:.0f} frames/s, {peer['cpu_ms_per_frame']:.1f} ms of CPU each",
            file=sys.stderr,
        )
    return figures


# bags


def write_episode(folder: Path, number: int, steps: int) -> None:
    from rldg_recorder.episode import write_info
    from rldg_recorder.testing import make_info
    from rldg_recorder.testing_bags import write_bag

    write_bag(folder, messages(number, steps))
    write_info(folder, make_info(episode_id=f"s/{number:04d}", seed=number, steps=steps + 1, policy="scripted"))


def messages(number: int, steps: int) -> Iterator[Any]:
    from rldg_core.types import Source
    from rldg_recorder.testing_bags import TYPES, Item, header, serialise

    rng = np.random.default_rng(number)
    episode_id = f"s/{number:04d}"
    images = noisy_images(rng, steps + 1)
    state = serialise(TYPES["/current_pose"], header=header(TICK_NS))
    upright = {"orientation": {"w": 1.0}}
    for tick in range(steps + 1):
        stamp_ns = (tick + 1) * TICK_NS
        stamp, last = header(stamp_ns), tick == steps
        names = {"episode_id": episode_id, "index": tick}
        picture = {"height": SIDE_PX, "width": SIDE_PX, "encoding": "rgb8", "step": 3 * SIDE_PX, "data": next(images)}
        observation = serialise(
            TYPES["/observation"],
            header=stamp,
            **names,
            instruction="insert the peg",
            image={"header": stamp, **picture},
            tcp_pose=upright,
            reset_pose=upright,
            gripper_width_m=0.02,
        )
        yield Item("/observation", observation, stamp_ns, tick)
        step = serialise(
            TYPES["/step"],
            header=stamp,
            **names,
            observation_stamp=stamp["stamp"],
            is_last=last,
            terminated=last,
            reward=float(last),
            source=int(Source.HOLD if last else Source.POLICY),
            policy_id="scripted",
            executed=rng.uniform(-1.0, 1.0, 6).astype(np.float32),
            target=upright,
        )
        yield Item("/step", step, stamp_ns, tick)
        for index in range(STATES_PER_TICK):
            yield Item("/current_pose", state, stamp_ns + index * TICK_NS // STATES_PER_TICK, index)


def noisy_images(rng: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """A scene of smooth surfaces and edges that moves, with noise of 3 grey levels; flat arrays."""
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX] / SIDE_PX
    noise = rng.normal(0.0, 3.0, (2 * SIDE_PX, 2 * SIDE_PX, 3)).astype(np.float32)
    for index in range(count):
        shift = index / count
        base = np.stack([120 + 60 * np.sin(5 * x + shift), 110 + 50 * np.cos(4 * y - shift), 90 + 60 * x * y], axis=-1)
        base[np.abs(x - 0.3 - 0.3 * shift) + np.abs(y - 0.5) < 0.2] = (200.0, 60.0, 40.0)
        top, left = rng.integers(0, SIDE_PX, 2)
        noisy = base + noise[top : top + SIDE_PX, left : left + SIDE_PX]
        yield np.clip(noisy, 0, 255).astype(np.uint8).reshape(-1)


def make_plan(bags: list[Path], steps: int) -> bytes:
    import msgspec

    from rldg_recorder.plan import Plan, PlannedEpisode, Segment

    rows = tuple(range(steps))
    episodes = [
        PlannedEpisode(segments=(Segment(bag=str(bag), rows=rows),), instruction="insert the peg") for bag in bags
    ]
    return msgspec.json.encode(Plan(name="set", episodes=tuple(episodes), rate_hz=10.0, image_size_px=SIDE_PX))


# what is measured, each in a process of its own


def convert(kind: str, folder: Path, jobs: int) -> None:
    import msgspec

    from rldg_recorder.build import build
    from rldg_recorder.plan import Plan
    from rldg_recorder.rlds_writer import Rlds, export_rlds
    from rldg_recorder.training_set import TrainingSet

    jpeg = kind == "rlds"
    rlds = Rlds(folder / kind, "set", image_format="jpeg" if jpeg else "png")
    if kind == "rlds_export":
        export_rlds(TrainingSet(folder / "set"), rlds, jobs=jobs, overwrite=True)
    else:
        plan = msgspec.json.decode((folder / "plan.json").read_bytes(), type=Plan)
        plan = msgspec.structs.replace(plan, jpeg=jpeg)
        build(plan, folder, jobs=jobs, overwrite=True, rlds=None if kind == "lerobot" else rlds)


def run_apart(command: list[str]) -> Run:
    before, began = os.times(), time.perf_counter()
    process = subprocess.Popen(command)
    peak_mb, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak_mb
        while not done.wait(0.05):
            peak_mb = max(peak_mb, resident_mb(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        if process.wait() != 0:
            raise RuntimeError(f"{' '.join(command[1:3])} ended with status {process.returncode}")
    finally:
        done.set()
        watcher.join()
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(time.perf_counter() - began, cpu_s, peak_mb)


def resident_mb(pid: int) -> float:
    """Of a process and its descendants; pages that they share count once for each."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError):  # it has just ended
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6 + sum(resident_mb(int(child)) for child in children)


# LeRobot's own writer


def time_lerobot(folder: Path) -> dict[str, float] | None:
    """What LeRobot's own writer reaches, or None with a line on stderr that says why not."""
    from rldg_recorder.training_set import TrainingSet

    training_set = TrainingSet(folder / "set")
    count = min(LEROBOT_EPISODES, len(training_set))
    episodes = [training_set.episode(number) for number in range(count)]
    frames = folder / "frames.npz"
    np.savez(
        frames,
        images=np.concatenate([np.stack(list(episode.images)) for episode in episodes]),
        state=np.concatenate([episode.state for episode in episodes]),
        action=np.concatenate([episode.action for episode in episodes]),
        lengths=[len(episode) for episode in episodes],
    )
    python = os.environ.get("RLDG_PEER_PYTHON", sys.executable)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    command = [python, __file__, "peer", str(frames), str(folder / "peer")]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"LeRobot: not measured: {error}", file=sys.stderr)
        return None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"LeRobot: not measured with {python}: {last}; see RLDG_PEER_PYTHON", file=sys.stderr)
        return None
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def run_lerobot(frames: Path, folder: Path) -> dict[str, float]:
    """In the peer's interpreter."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    with np.load(frames) as file:
        images, state, action, lengths = (file[name] for name in ("images", "state", "action", "lengths"))
    features = {
        "observation.images.wrist": {
            "dtype": "image",
            "shape": images.shape[1:],
            "names": ["height", "width", "channels"],
        },
        "observation.state": {"dtype": "float32", "shape": state.shape[1:], "names": None},
        "action": {"dtype": "float32", "shape": action.shape[1:], "names": None},
    }
    rates, cpu_ms = [], []
    for threads in (0, 4):  # images are written in place, or by threads as its documentation advises
        began, cpu_began = time.perf_counter(), time.process_time()
        dataset = LeRobotDataset.create(
            "rldg/bench", 10, features, root=folder / str(threads), use_videos=False, image_writer_threads=threads
        )
        row = 0
        for length in lengths:
            for _ in range(length):
                values = {
                    "observation.images.wrist": images[row],
                    "observation.state": state[row],
                    "action": action[row],
                }
                dataset.add_frame({**values, "task": "insert the peg"})
                row += 1
            dataset.save_episode()
        dataset.finalize()
        rates.append(row / (time.perf_counter() - began))
        cpu_ms.append(1e3 * (time.process_time() - cpu_began) / row)
    return {"frames_per_s": max(rates), "cpu_ms_per_frame": min(cpu_ms)}


if __name__ == "__main__":
    if sys.argv[1] == "peer":
        print(json.dumps(run_lerobot(Path(sys.argv[2]), Path(sys.argv[3]))))
    else:
        convert(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
