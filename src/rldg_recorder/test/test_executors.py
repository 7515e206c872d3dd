"""Executors: results in order, and an error that names the item."""

import os
import signal
import time
from pathlib import Path

import pytest

from rldg_recorder.executors import TaskError, make_executor
from rldg_recorder.plan import DatasetError


def later_first(item: int) -> tuple[int, int]:
    time.sleep(0.05 if item % 2 == 0 else 0.0)
    return item, os.getpid()


def fails_at_two(item: int) -> int:
    if item == 2:
        raise KeyError("two\nlines")
    return item


def dies_at_two(item: int) -> int:
    if item == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def marks(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize("name", ["serial", "processes"])
def test_results_come_in_the_order_of_the_items_from_as_many_processes_as_jobs(name: str) -> None:
    results = list(make_executor(name, 2).map_in_order(later_first, range(7)))
    assert [item for item, _ in results] == list(range(7))
    pids = {pid for _, pid in results}
    assert pids == {os.getpid()} if name == "serial" else len(pids) == 2 and os.getpid() not in pids


def test_there_may_be_more_jobs_than_items_and_no_item() -> None:
    assert list(make_executor("processes", 3).map_in_order(fails_at_two, [1])) == [1]
    assert list(make_executor("processes", 3).map_in_order(fails_at_two, [])) == []


@pytest.mark.parametrize("name", ["serial", "processes"])
def test_an_exception_names_its_item_in_one_line(name: str) -> None:
    with pytest.raises(TaskError, match=r"^KeyError: 'two\\nlines'$") as caught:
        list(make_executor(name, 2).map_in_order(fails_at_two, range(4)))
    assert caught.value.index == 2


def test_a_process_that_is_killed_names_its_item() -> None:
    with pytest.raises(TaskError, match="killed by signal 9") as caught:
        list(make_executor("processes", 2).map_in_order(dies_at_two, range(4)))
    assert caught.value.index == 2


def test_nothing_more_is_begun_once_the_caller_stops(tmp_path: Path) -> None:
    paths = [tmp_path / str(index) for index in range(5)]
    results = make_executor("serial", 1).map_in_order(marks, paths)
    next(results)
    results.close()
    assert [path.exists() for path in paths] == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("name", "jobs", "text"), [("threads", 1, "serial, processes, ray"), ("processes", 0, "at least 1")]
)
def test_wrong_names_and_numbers_are_refused(name: str, jobs: int, text: str) -> None:
    with pytest.raises(DatasetError, match=text):
        make_executor(name, jobs)


def test_ray_gives_results_in_order_or_says_how_to_install_it() -> None:
    try:
        import ray  # noqa: F401
    except ImportError:
        with pytest.raises(DatasetError, match="pip install ray"):
            make_executor("ray", 2)
        return
    assert list(make_executor("ray", 2).map_in_order(fails_at_two, [0, 1, 3])) == [0, 1, 3]
    with pytest.raises(TaskError, match="KeyError"):
        list(make_executor("ray", 2).map_in_order(fails_at_two, [0, 1, 2]))
