"""Where the work of a build is done: here, in processes of this machine, or on a Ray cluster.

An executor maps a function over items and gives the results back in the order of the items. Function, items and
results are pickled, so they are small: paths and names, never images.
"""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

from rldg_recorder.plan import DatasetError

T = TypeVar("T")
R = TypeVar("R")

EXECUTORS = ("serial", "processes", "ray")


class TaskError(RuntimeError):
    """The work on one item failed; ``index`` is the item's, the message says why in one line."""

    def __init__(self, index: int, text: str) -> None:
        super().__init__(text)
        self.index = index


class Executor(Protocol):
    def map_in_order(self, function: Callable[[T], R], items: Sequence[T]) -> Generator[R, None, None]:
        """Results in the order of the items.

        Raises:
            TaskError: the function raised, or the process that ran it died. Nothing more is begun then.
        """


def make_executor(name: str, jobs: int) -> Executor:
    """An executor by its name.

    Args:
        name: one of `EXECUTORS`.
        jobs: at most this many items are worked on at a time; at least 1.

    Raises:
        DatasetError: no such executor, or fewer than one job.
    """
    if jobs < 1:
        raise DatasetError(f"jobs: is {jobs}, must be at least 1")
    if name == "serial":
        return Serial()
    if name == "processes":
        return Processes(jobs)
    if name == "ray":
        return Ray(jobs)
    raise DatasetError(f"executor {name!r}: must be one of {', '.join(EXECUTORS)}")


class Serial:
    """In this process, one after the other."""

    def map_in_order(self, function: Callable[[T], R], items: Sequence[T]) -> Generator[R, None, None]:
        for index, item in enumerate(items):
            try:
                yield function(item)
            except Exception as error:
                raise TaskError(index, _one_line(error)) from error


class Processes:
    """In processes that are spawned, not forked: what the caller holds (ROS, threads, OpenGL) stays out of them.

    Every process has a pipe of its own, so that the item of one that died is known, and so that all of them end when
    the caller is killed: their pipes close.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs

    def map_in_order(self, function: Callable[[T], R], items: Sequence[T]) -> Generator[R, None, None]:
        context = multiprocessing.get_context("spawn")
        waiting = iter(enumerate(items))
        working: dict[Connection, tuple[int, Any]] = {}  # the item that a process works on, and the process
        processes: list[Any] = []
        done: dict[int, R] = {}
        try:
            for index, item in itertools.islice(waiting, self._jobs):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(function, theirs), daemon=True)
                process.start()
                theirs.close()
                processes.append(process)
                working[ours] = index, process
                _send(ours, item)
            for next_index in range(len(items)):
                while next_index not in done:
                    for pipe in wait(list(working)):
                        assert isinstance(pipe, Connection)
                        index, process = working[pipe]
                        done[index] = _answer(pipe, index, process)
                        following = next(waiting, None)
                        if following is None:
                            del working[pipe]
                            pipe.close()  # it ends
                        else:
                            working[pipe] = following[0], process
                            _send(pipe, following[1])
                yield done.pop(next_index)
        finally:
            for pipe, (_, process) in working.items():
                process.terminate()
                pipe.close()
            for process in processes:
                process.join()


def _send(pipe: Connection, item: Any) -> None:
    with suppress(ConnectionError):  # the process at the other end has died, which shows at the next recv
        pipe.send(item)


def _answer(pipe: Connection, index: int, process: Any) -> Any:
    try:
        good, value = pipe.recv()
    except (EOFError, ConnectionError):
        process.join()
        code = process.exitcode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
        raise TaskError(index, f"the process that worked on it {how}; is there enough memory?") from None
    if not good:
        raise TaskError(index, value)
    return value


def _work(function: Callable[[Any], Any], pipe: Connection) -> None:
    """In a spawned process: until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller hears it too, and ends us
    while True:
        try:
            item = pipe.recv()
        except (EOFError, ConnectionError):
            return
        try:
            answer = True, function(item)
        except Exception as error:
            answer = False, _one_line(error)
        _send(pipe, answer)


class Ray:
    """On a Ray cluster (``RAY_ADDRESS``), or on a local one that is started. Bags and output lie on a shared disk."""

    def __init__(self, jobs: int) -> None:
        try:
            import ray
        except ImportError:
            raise DatasetError(
                "executor ray: the package is not installed; run pip install ray, or use the executor processes"
            ) from None
        self._ray: Any = ray
        self._jobs = jobs

    def map_in_order(self, function: Callable[[T], R], items: Sequence[T]) -> Generator[R, None, None]:
        ray = self._ray
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        remote = ray.remote(max_retries=0)(function)
        waiting = iter(items)
        running = deque(remote.remote(item) for item in itertools.islice(waiting, self._jobs))
        for index in range(len(items)):
            try:
                result = ray.get(running.popleft())
            except ray.exceptions.RayTaskError as error:
                raise TaskError(index, _one_line(error.cause)) from error
            except ray.exceptions.RayError as error:
                raise TaskError(index, _one_line(error)) from error
            running.extend(remote.remote(item) for item in itertools.islice(waiting, 1))
            yield result


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
