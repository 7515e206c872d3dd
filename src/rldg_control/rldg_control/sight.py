"""Finding the classifier of wrist images that the judge may be given, without knowing who makes it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from rldg_core.judge import Sight
from rldg_core.task import Task

GROUP = "rldg.classifiers"


def load_sight(folder: str, task: Task) -> Sight:
    """Load a classifier with the one entry point of the group ``rldg.classifiers``.

    Raises:
        ValueError: none is installed, or it refuses the folder.
    """
    points = list(entry_points(group=GROUP))
    if len(points) != 1:
        names = ", ".join(sorted(point.name for point in points)) or "none"
        raise ValueError(f"classifier: entry point group {GROUP} must name one loader, has {names}; install rldg_rl")
    load: Callable[[str, Task], Sight] = points[0].load()
    return load(folder, task)
