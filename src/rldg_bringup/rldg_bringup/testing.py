"""A running cell for tests and benchmarks: its own ROS domain, its own log, everything gone at the end."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from rldg_bringup.episode_runner_node import EpisodeRunner
from rldg_bringup.launch_runner import Launch
from rldg_bringup.running import running

READY_TIMEOUT_S = 90.0


def running_cell(
    log_dir: Path, /, task: str = "usb_insertion", **arguments: str
) -> AbstractContextManager[tuple[Launch, EpisodeRunner]]:
    """Launch a cell in a free domain and wait until all of its nodes are active.

    Args:
        log_dir: where the launch's log goes.
        task: name or path of a task file.
        **arguments: launch arguments of ``cell.launch.xml``.

    Raises:
        TimeoutError: the nodes did not come up; the message ends with the last lines of the log.
    """
    return running("cell", {"task": task, **arguments}, log_dir, READY_TIMEOUT_S, free_environment())


def free_environment() -> dict[str, str]:
    """The environment of this process without its ROS domain."""
    return {name: value for name, value in os.environ.items() if name != "ROS_DOMAIN_ID"}
