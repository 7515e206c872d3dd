"""Busy processes beside what is measured."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def busy(processes: int, longest_s: float) -> Iterator[None]:
    """So many processes compute all the time, for at most so long should this one die."""
    context = multiprocessing.get_context("spawn")
    burners = [context.Process(target=_burn, args=(longest_s,), daemon=True) for _ in range(processes)]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.terminate()


def _burn(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(10_000))
