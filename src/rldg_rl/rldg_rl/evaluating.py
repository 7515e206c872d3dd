"""Autonomous episodes of a checkpoint in a process of its own, so that training goes on meanwhile."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rldg_core.task import Task
from rldg_rl.config import Segment
from rldg_rl.policy import Evaluation, load_specialist
from rldg_rl.rollout import Episode, play
from rldg_rl.selection import examine
from rldg_sim.cell import Cell
from rldg_sim.loop import Loop


@dataclass(frozen=True)
class Examination:
    """What is to be played.

    Attributes:
        folder: checkpoint; it must stay as it is until the result is there.
        first_seed: of the start states, which are numbered on from it.
        first, total, best: see :func:`rldg_rl.selection.examine`.
    """

    folder: Path
    first_seed: int
    first: int
    total: int
    best: float = 0.0


class Examiner:
    """One process with a cell of its own, which examines one checkpoint after the other.

    Leave with :meth:`close`, or as a context. Like every process that is begun anew it imports the main module: scripts
    need ``if __name__ == "__main__"``.
    """

    def __init__(self, task: Task) -> None:
        fresh = multiprocessing.get_context("spawn")  # a fork would copy locks that threads of XLA hold
        self._pool = ProcessPoolExecutor(1, mp_context=fresh, initializer=_begin, initargs=(task,))
        self._pool.submit(_ready)  # begins at once

    def submit(self, examination: Examination) -> Future[tuple[Evaluation, float]]:
        """What it came to, and the CPU time in seconds that it took, as soon as that is known."""
        return self._pool.submit(_examine, examination)

    def close(self) -> None:
        """End the process; what it has not begun is dropped, what it plays is waited for."""
        self._pool.shutdown(cancel_futures=True)


_task: Task
_loop: Loop | None = None


def _begin(task: Task) -> None:
    global _task
    _task = task


def _ready() -> None:
    """Nothing: the process has come up when this is done."""


def _examine(wanted: Examination) -> tuple[Evaluation, float]:
    global _loop
    began_s = time.process_time()
    specialist, card = load_specialist(wanted.folder, _task)
    if _loop is None:
        _loop = Loop(_task, Cell(_task), with_images=specialist.encoder.image_size_px > 0)
    loop, encoder, segment = _loop, specialist.encoder, Segment(card.segment)

    def some(number: int, count: int) -> list[Episode]:
        seeds = range(wanted.first_seed + number, wanted.first_seed + number + count)
        return [play(loop, encoder, specialist.choose, seed, segment=segment) for seed in seeds]

    evaluation = examine(some, wanted.first, wanted.total, wanted.best)
    return evaluation, time.process_time() - began_s
