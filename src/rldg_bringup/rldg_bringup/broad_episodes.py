"""What small generalists are trained on before anything else: episodes of the scripted operator in varied tasks."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from rldg_core.task import Task, config_directory, load_task, read_yaml
from rldg_core.types import Outcome
from rldg_policies.training_frames import EncodedImages, FrameEpisode, TrainingFrames, frames_of
from rldg_recorder.executors import make_executor
from rldg_recorder.plan import DatasetError
from rldg_recorder.png import encode_jpeg

NAME = "broad"  # of what they make up, in statistics
RECIPE = "broad_episodes.yaml"
_ATTEMPTS = 4  # at an episode, each in another variant


class BroadRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many episodes of which tasks.

    Attributes:
        episodes: by task, each in a variant of its own (``rldg_sim.variety``).
        image_size_px: side of the wrist image.
    """

    episodes: Annotated[dict[str, Annotated[int, msgspec.Meta(ge=1, le=100_000)]], msgspec.Meta(min_length=1)]
    image_size_px: Annotated[int, msgspec.Meta(ge=32, le=512)] = 128


class _Work(msgspec.Struct, frozen=True):
    task: str
    seed: int
    image_size_px: int
    path: str


def load_recipe(path: Path | None = None) -> BroadRecipe:
    """Read a recipe; by default that of ``config``.

    Raises:
        TaskError: the file or a task of it is missing or wrong.
    """
    recipe = read_yaml(path or config_directory() / RECIPE, BroadRecipe)
    for name in recipe.episodes:
        load_task(name)
    return recipe


def broad_frames(
    recipe: BroadRecipe, folder: Path, seed: int, jobs: int, progress: Callable[[int, int], None] | None = None
) -> TrainingFrames:
    """Make the episodes of a recipe, as files in a folder; those that are there are used again.

    Args:
        jobs: episodes that are made at a time, in processes that are spawned.
        progress: called with the number of finished episodes and of all.

    Raises:
        DatasetError: the operator cannot do a task, or a file is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    work = []
    for name, count in recipe.episodes.items():
        for number in range(count):
            path = folder / f"{name}-{recipe.image_size_px}-{seed}-{number:05d}.npz"
            work.append(_Work(name, seed * 1_000_000 + number, recipe.image_size_px, str(path)))
    for done, _ in enumerate(make_executor("processes", jobs).map_in_order(_make, work), start=1):
        if progress is not None:
            progress(done, len(work))
    return frames_of(NAME, [_read(Path(each.path)) for each in work], seed)


def _make(work: _Work) -> None:
    """In a worker."""
    path = Path(work.path)
    if path.is_file():
        return
    episode = _episode(load_task(work.task), work.seed, work.image_size_px)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, **episode)
    part.replace(path)


def _episode(task: Task, seed: int, image_size_px: int) -> dict[str, np.ndarray]:
    from PIL import Image

    from rldg_sim.cell import Cell
    from rldg_sim.demonstrate import demonstrate
    from rldg_sim.loop import Loop
    from rldg_sim.variety import varied

    task = msgspec.structs.replace(task, camera=msgspec.structs.replace(task.camera, image_size_px=image_size_px))
    for attempt in range(_ATTEMPTS):
        number = _ATTEMPTS * seed + attempt
        variant = varied(task, number)
        cell = Cell(variant)
        try:
            ticks, steps = demonstrate(Loop(variant, cell), number % 2**31)
        finally:
            cell.close()
        if ticks[-1].status.outcome is not Outcome.SUCCESS:
            continue
        encoded = [encode_jpeg(Image.fromarray(tick.observation.image)) for tick in ticks[:-1]]
        action = [np.append(step.executed.delta, not step.executed.gripper_closed) for step in steps]
        return {
            "images": np.frombuffer(b"".join(encoded), np.uint8),
            "ends": np.cumsum([len(each) for each in encoded]),
            "action": np.array(action, np.float32),
            "instruction": np.array(variant.instruction),
        }
    raise DatasetError(f"task {task.name}: the operator failed in {_ATTEMPTS} variants in a row; check the task file")


def _read(path: Path) -> FrameEpisode:
    try:
        with np.load(path, allow_pickle=False) as file:
            data, ends = file["images"].tobytes(), file["ends"].tolist()
            action, instruction = file["action"], str(file["instruction"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: cannot be read: {error}; remove it, it will be made again") from None
    encoded = [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    return FrameEpisode(EncodedImages(encoded, str(path)), action, instruction)
