"""Lets a policy drive as soon as the arbiter has heard it (``drive:=true``), says so, and ends."""

from __future__ import annotations

import sys

from rldg_bringup.episode_runner_node import EpisodeRunner

_TIMEOUT_S = 900.0  # a large model takes minutes to load


def main(args: list[str] | None = None) -> int:
    """Returns 0 when the policy drives, 1 where it or the arbiter was not heard in time."""
    with EpisodeRunner(follow=False) as runner:
        policy_id = str(runner.node.declare_parameter("policy_id", "").value)
        log = runner.node.get_logger()
        try:
            runner.select_policy_when_fresh(policy_id, _TIMEOUT_S)
        except TimeoutError as error:
            log.error(str(error))
            return 1
        except KeyboardInterrupt:
            return 0
        log.info(f"policy {policy_id!r} drives")
    return 0


if __name__ == "__main__":
    sys.exit(main())
