"""Bags that are only an ``episode.yaml``, and frames made up for them: what the writers are tested with."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rldg_core.types import Source
from rldg_recorder.episode import Image, PolicyInfo, read_info, write_info
from rldg_recorder.frames import TrainingEpisode
from rldg_recorder.materialize import bag_record
from rldg_recorder.plan import DatasetError, Plan, PlannedEpisode, Segment
from rldg_recorder.testing import make_info

SIDE_PX = 32
CALLS = "calls"  # file that gets a line for each episode that is worked out


def make_plan(root: Path, lengths: Sequence[int] = (5, 9, 3), **changes: object) -> Plan:
    """A plan over new bags, one each; the last episode is of the split "test", every second has another task."""
    episodes = []
    for number, length in enumerate(lengths):
        folder = root / "bags" / f"{number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        policies = (PolicyInfo(policy_id=f"policy{number % 2}", steps=length, checkpoint_hash="c0ffee"),)
        write_info(folder, make_info(episode_id=f"s/{number:04d}", seed=number, steps=length + 1, policies=policies))
        episodes.append(
            PlannedEpisode(
                segments=(Segment(bag=str(folder), rows=tuple(range(length))),),
                instruction=f"insert plug {number % 2}",
                group="all",
                split="test" if number == len(lengths) - 1 > 0 else "train",
            )
        )
    fields = {"name": "set", "episodes": tuple(episodes), "rate_hz": 10.0, "image_size_px": SIDE_PX, **changes}
    return Plan(recipe="name: set\n", **fields)  # type: ignore[arg-type]


def image(seed: int, row: int, side_px: int = SIDE_PX) -> Image:
    """Smooth shapes under the noise of a sensor."""
    y, x = np.mgrid[0:side_px, 0:side_px] / side_px
    base = np.stack([120 + 60 * np.sin(5 * x + row / 5), 110 + 50 * np.cos(4 * y - seed), 90 + 60 * x * y], axis=-1)
    noise = np.random.default_rng((seed, row)).normal(0.0, 3.0, base.shape)
    return np.clip(base + noise, 0, 255).astype(np.uint8)


def made(planned: PlannedEpisode, plan: Plan) -> TrainingEpisode:
    """Stands in for the reader of bags: frames that follow from the bags' names."""
    bags = tuple(segment.bag for segment in planned.segments)
    with (Path(bags[0]).parent.parent / CALLS).open("a") as calls:
        calls.write(f"{Path(bags[0]).name}\n")
    seed = int(Path(bags[0]).name)
    rng = np.random.default_rng(seed)
    rows = [(bag, row) for bag, segment in enumerate(planned.segments) for row in segment.rows]
    n = len(rows)
    source = np.where(np.arange(n) % 3 == 0, int(Source.HUMAN), int(Source.POLICY)).astype(np.int64)
    action = np.column_stack([rng.uniform(-1, 1, (n, 6)), rng.integers(0, 2, n)])
    return TrainingEpisode(
        instruction=planned.instruction,
        split=planned.split,
        rate_hz=plan.rate_hz,
        images=[image(seed + bag, row, plan.image_size_px) for bag, row in rows],
        state=rng.normal(size=(n, 19)).astype(np.float32),
        action=action.astype(np.float32),
        reward=(np.arange(n) == n - 1).astype(np.float32),
        done=np.arange(n) == n - 1,
        source=source,
        bag=np.array([bag for bag, _ in rows], dtype=np.int64),
        row=np.array([row for _, row in rows], dtype=np.int64),
        bags=tuple(bag_record(folder, read_info(Path(folder))) for folder in bags),
        policy_id=tuple(f"policy{seed % 2}" if s == Source.POLICY else "" for s in source),
        scale=(0.01, 0.01, 0.01, 0.05, 0.05, 0.05),
    )


def made_but_second_fails(planned: PlannedEpisode, plan: Plan) -> TrainingEpisode:
    if planned.segments[0].bag.endswith("0001"):
        raise DatasetError("step 3 is\nmissing")
    return made(planned, plan)


def made_but_second_kills(planned: PlannedEpisode, plan: Plan) -> TrainingEpisode:
    if planned.segments[0].bag.endswith("0001"):
        os.kill(os.getpid(), signal.SIGKILL)
    return made(planned, plan)


def calls(root: Path) -> list[str]:
    """Which bags were worked out so far."""
    path = root / CALLS
    return path.read_text().split() if path.exists() else []


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a set."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
