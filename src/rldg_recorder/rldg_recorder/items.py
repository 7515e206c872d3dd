"""What the dataset algebra works on: planned episodes together with what their bags say of themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rldg_recorder.episode import Episode, EpisodeInfo
from rldg_recorder.plan import PlannedEpisode
from rldg_recorder.recipe import ObjectKey

Reader = Callable[[Path], Episode]


@dataclass(frozen=True)
class Item:
    """A planned episode and the ``episode.yaml`` of each of its segments."""

    planned: PlannedEpisode
    infos: tuple[EpisodeInfo, ...]

    @property
    def frames(self) -> int:
        return sum(math.ceil(len(segment.rows) / self.planned.stride) for segment in self.planned.segments)

    @property
    def folder(self) -> Path:
        return Path(self.planned.segments[0].bag)

    def about(self, by: ObjectKey) -> str:
        """Name of the object that it is about."""
        info = self.infos[0]
        return info.task.name if by is ObjectKey.TASK else f"{info.task.name}/{info.scene}"

    def replace(self, **changes: object) -> Item:
        """With other values in its planned episode."""
        return Item(msgspec.structs.replace(self.planned, **changes), self.infos)


@dataclass(frozen=True)
class Dropped:
    """An episode that is not in the set."""

    folder: Path
    source: str  # of the recipe, "" where no source came to see it
    reason: str  # short and the same for alike cases, so that it can be counted
    detail: str = ""  # numbers of this case
