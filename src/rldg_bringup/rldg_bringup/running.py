"""A launch file that is up, in a ROS domain of its own, and everything gone at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rldg_bringup.domain import lease_domain
from rldg_bringup.episode_runner_node import EpisodeRunner
from rldg_bringup.launch_runner import Launch
from rldg_bringup.up import launch_file

LAST_LINES = 10


@contextmanager
def running(
    name: str,
    arguments: Mapping[str, str],
    log_dir: Path,
    ready_timeout_s: float,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[tuple[Launch, EpisodeRunner]]:
    """Launch a file, wait until all of its nodes are active, and connect to it.

    Args:
        name: of the launch file, without ``.launch.xml``.
        arguments: of the launch file.
        log_dir: where the launch's log goes.
        environment: of the nodes; a ROS_DOMAIN_ID in it is used, else a free domain.

    Raises:
        DomainError: the domain is not free.
        TimeoutError: the nodes did not come up; the message ends with the last lines of the log.
    """
    lease = lease_domain(name, environment)
    assert lease is not None  # None is for a domain that is shared
    with lease:
        own = {**environment, "ROS_DOMAIN_ID": str(lease.domain)}
        launch = Launch(launch_file(name), arguments, own, log_dir=log_dir)
        with launch, EpisodeRunner(lease.domain) as runner:
            try:
                runner.wait_until_ready(ready_timeout_s)
            except TimeoutError as error:
                raise TimeoutError(f"{error}; log: {launch.lines[-LAST_LINES:]}") from None
            yield launch, runner
