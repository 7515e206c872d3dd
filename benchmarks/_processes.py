"""What processes hold over time, and whether it grows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TextIO

import msgspec
import numpy as np
import psutil
from scipy import stats

RESOURCES = ("rss_mb", "pss_mb", "descriptors", "threads")
ENOUGH = 12  # samples of one process, after its warm-up, that a slope is fitted to
# What may grow in an hour without being called a leak: an allocator that has not settled, a socket that is closing.
# What is resident is told only: it counts shared memory of others that came and went for each process that saw it.
ALLOWED_PER_H = {"rss_mb": float("inf"), "pss_mb": 10.0, "descriptors": 4.0, "threads": 1.0}
CERTAINTY = 0.99


@dataclass(frozen=True)
class Sample:
    """One process at one time. ``pss_mb`` counts shared pages by the share of each process that maps them."""

    t_s: float
    process: str
    pid: int
    rss_mb: float
    pss_mb: float
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Growth:
    """Slope of one resource of one process after its warm-up.

    Attributes:
        per_h: Theil-Sen estimate.
        at_least_per_h: low end of its interval.
        over_s: time that it is fitted to.
    """

    process: str
    pid: int
    resource: str
    per_h: float
    at_least_per_h: float
    over_s: float

    @property
    def leaks(self) -> bool:
        """Whether it surely grows, by more than what is allowed."""
        return self.at_least_per_h > ALLOWED_PER_H[self.resource]


def look(t_s: float, processes: Mapping[str, int]) -> list[Sample]:
    """A sample of each process that is still there; from name to process id."""
    samples = []
    for name, pid in processes.items():
        try:
            process = psutil.Process(pid)
            memory = process.memory_full_info()
            mb = [round(value / 2**20, 2) for value in (memory.rss, memory.pss)]
            samples.append(Sample(round(t_s, 1), name, pid, *mb, process.num_fds(), process.num_threads()))
        except psutil.Error:
            continue
    return samples


def write(samples: Iterable[Sample], out: TextIO) -> None:
    """One JSON object a line."""
    for sample in samples:
        out.write(msgspec.json.encode(asdict(sample)).decode() + "\n")
    out.flush()


def growth(samples: Sequence[Sample], warm_up_s: float) -> list[Growth]:
    """The slopes of all processes that lived long enough after their warm-up; a restarted process is another one."""
    lives: defaultdict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        lives[sample.process, sample.pid].append(sample)
    found = []
    for (name, pid), life in lives.items():
        settled = [sample for sample in life if sample.t_s - life[0].t_s >= warm_up_s]
        if len(settled) < ENOUGH:
            continue
        hours = np.array([sample.t_s for sample in settled]) / 3600.0
        for resource in RESOURCES:
            values = np.array([getattr(sample, resource) for sample in settled], dtype=np.float64)
            slope = stats.theilslopes(values, hours, CERTAINTY)
            over_s = settled[-1].t_s - settled[0].t_s
            found.append(Growth(name, pid, resource, float(slope.slope), float(slope.low_slope), over_s))
    return found
