"""A running cell for tests and benchmarks: its own ROS domain, its own log, everything gone at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rldg_bringup.domain import lease_domain
from rldg_bringup.episode_runner_node import EpisodeRunner
from rldg_bringup.launch_runner import Launch
from rldg_bringup.up import launch_file

READY_TIMEOUT_S = 90.0


@contextmanager
def running_cell(
    log_dir: Path, /, task: str = "usb_insertion", **arguments: str
) -> Iterator[tuple[Launch, EpisodeRunner]]:
    """Launch a cell in a free domain and wait until all of its nodes are active.

    Args:
        log_dir: where the launch's log goes.
        task: name or path of a task file.
        **arguments: launch arguments of ``cell.launch.xml``.

    Raises:
        TimeoutError: the nodes did not come up; the message ends with the last lines of the log.
    """
    environment = {name: value for name, value in os.environ.items() if name != "ROS_DOMAIN_ID"}
    lease = lease_domain("a test cell", environment)
    assert lease is not None  # None is for a domain that is shared
    with lease:
        environment["ROS_DOMAIN_ID"] = str(lease.domain)
        launch = Launch(launch_file("cell"), {"task": task, **arguments}, environment, log_dir=log_dir)
        with launch, EpisodeRunner(lease.domain) as runner:
            try:
                runner.wait_until_ready(READY_TIMEOUT_S)
            except TimeoutError as error:
                raise TimeoutError(f"{error}; log: {launch.lines[-10:]}") from None
            yield launch, runner
