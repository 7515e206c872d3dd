"""Autonomous episodes of a checkpoint in a process of its own, so that training goes on meanwhile."""

from __future__ import annotations

import multiprocessing
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from rldg_core.task import Task
from rldg_rl.config import Segment
from rldg_rl.policy import Evaluation, load_specialist
from rldg_rl.rollout import Episode, play
from rldg_rl.selection import examine
from rldg_sim.cell import Cell
from rldg_sim.loop import Loop

_JOIN_S = 10.0


@dataclass(frozen=True)
class Examination:
    """What is to be played.

    Attributes:
        folder: checkpoint; it must stay as it is until the result is there.
        first_seed: of the start states, which are numbered on from it.
        first, total, allowed, best: see :func:`rldg_rl.selection.examine`.
    """

    folder: Path
    first_seed: int
    first: int
    total: int
    allowed: int = 0
    best: float = 0.0


class Examiner:
    """One process with a cell of its own, which examines one checkpoint after the other; it ends when this one does.

    Like every process that is begun anew it imports the main module: scripts need ``if __name__ == "__main__"``.
    """

    def __init__(self, task: Task) -> None:
        fresh = multiprocessing.get_context("spawn")  # a fork would copy locks that threads of XLA hold
        self._pipe, theirs = fresh.Pipe()
        self._process = fresh.Process(target=_serve, args=(task, theirs), name="examiner", daemon=True)
        self._process.start()
        theirs.close()  # the pipe now ends with either of us

    def begin(self, examination: Examination) -> None:
        """Have a checkpoint examined; :meth:`result` is to be asked before the next one.

        Raises:
            RuntimeError: the process has died.
        """
        try:
            self._pipe.send(examination)
        except OSError:
            raise self._died() from None

    @property
    def done(self) -> bool:
        """Whether :meth:`result` would not wait."""
        return self._pipe.poll()

    def result(self) -> tuple[Evaluation, float]:
        """What the examination came to, and the CPU time in seconds that it took.

        Raises:
            CheckpointError: the checkpoint cannot be used.
            RuntimeError: the process has died.
        """
        try:
            answer: tuple[Evaluation, float] | Exception = self._pipe.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process, whatever it does."""
        self._pipe.close()
        self._process.terminate()
        self._process.join(_JOIN_S)

    def _died(self) -> RuntimeError:
        self._process.join(_JOIN_S)
        return RuntimeError(
            f"the process that evaluates policies ended with status {self._process.exitcode}; is there enough memory?"
        )


def _serve(task: Task, pipe: Connection) -> None:
    """In the other process: until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training hears it too, and ends us
    loops: dict[bool, Loop] = {}  # one at most; by whether it renders
    while True:
        try:
            wanted: Examination = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            began_s = time.process_time()
            pipe.send((_examine(task, wanted, loops), time.process_time() - began_s))
        except Exception as error:
            pipe.send(error)


def _examine(task: Task, wanted: Examination, loops: dict[bool, Loop]) -> Evaluation:
    specialist, card = load_specialist(wanted.folder, task)
    encoder, segment = specialist.encoder, Segment(card.segment)
    with_images = encoder.image_size_px > 0
    if with_images not in loops:
        loops[with_images] = Loop(task, Cell(task), with_images=with_images)

    def some(number: int, count: int) -> list[Episode]:
        seeds = range(wanted.first_seed + number, wanted.first_seed + number + count)
        return [play(loops[with_images], encoder, specialist.choose, seed, segment=segment) for seed in seeds]

    return examine(some, wanted.first, wanted.total, wanted.allowed, wanted.best)
