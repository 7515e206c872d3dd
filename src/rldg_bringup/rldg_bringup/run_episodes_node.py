"""Runs the episodes that a launch was asked for (``episodes:=N``), says how each went, and ends; the cell stays up."""

from __future__ import annotations

import sys

from rldg_bringup.episode_runner_node import EpisodeRunner
from rldg_core.types import Outcome

_READY_TIMEOUT_S = 90.0


def main(args: list[str] | None = None) -> int:
    """Returns 0 when all episodes have run, whatever their outcome, 1 where the cell refused or broke down."""
    with EpisodeRunner() as runner:
        node = runner.node
        count = int(node.declare_parameter("episodes", 1).value)
        seed = int(node.declare_parameter("seed", 0).value)
        scene = str(node.declare_parameter("scene", "").value)
        log = node.get_logger()
        successes = 0
        try:
            runner.wait_until_ready(_READY_TIMEOUT_S)
            for number, report in enumerate(runner.run_episodes(count, seed, scene), 1):
                successes += report.outcome is Outcome.SUCCESS
                how = f"{report.outcome} ({report.reason})" if report.reason else str(report.outcome)
                log.info(f"episode {number} of {count}, seed {report.seed}: {how} in {report.duration_s:.1f} s")
        except (RuntimeError, TimeoutError, ValueError) as error:
            log.error(f"episodes: {error}")
            return 1
        except KeyboardInterrupt:
            return 0
        log.info(f"episodes: {successes} of {count} succeeded; the cell stays up, Ctrl-C ends it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
