"""Swaps to a policy as soon as the arbiter has heard it (``swap:=true``), says how that went, and ends."""

from __future__ import annotations

import sys

from rldg_bringup.episode_runner_node import EpisodeRunner
from rldg_bringup.swap import describe

_TIMEOUT_S = 900.0  # a large model takes minutes to load


def main(args: list[str] | None = None) -> int:
    """Returns 0 when the policy drives, 1 where it was not heard in time or was rolled back."""
    with EpisodeRunner(follow=False) as runner:
        policy_id = str(runner.node.declare_parameter("policy_id", "").value)
        log = runner.node.get_logger()
        try:
            events = runner.swap_policy(policy_id, _TIMEOUT_S)
        except (TimeoutError, RuntimeError) as error:
            log.error(str(error))
            return 1
        except KeyboardInterrupt:
            return 0
        drives, line = describe(policy_id, events)
        if drives:
            log.info(line)
        else:
            log.error(line)
    return 0 if drives else 1


if __name__ == "__main__":
    sys.exit(main())
