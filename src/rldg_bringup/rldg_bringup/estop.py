"""``estop``: latches the e-stop of a running cell, at once or by a key, or releases it.

It stops commands, not motors: the e-stop of the robot itself must be within reach all the same.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rldg_bringup.domain import DomainError, cell_domain

_ARBITER_TIMEOUT_S = 10.0
_KEYS = {" ": True, "r": False}  # what is latched
_END_KEYS = {"q", "\x03", "\x04", ""}  # Ctrl-C, Ctrl-D, end of input


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rldg estop", description="Latch the e-stop of a running cell.")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--release", action="store_true", help="release it")
    either.add_argument("--keys", action="store_true", help="wait for keys: space latches, r releases, q ends")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run the verb; returns 0 when it was done, 1 where no arbiter answered, 2 for a wrong call."""
    options = _arguments(argv)
    try:
        domain = cell_domain()
        if options.keys and not sys.stdin.isatty():
            raise LookupError("--keys needs a terminal")
    except (LookupError, DomainError) as error:
        print(f"rldg estop: {error.args[0]}", file=sys.stderr)
        return 2
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    from rldg_bringup.episode_runner_node import EpisodeRunner

    with EpisodeRunner(domain, follow=False) as runner:

        def latch(wanted: bool) -> None:
            print(f"e-stop {runner.set_estop(wanted, _ARBITER_TIMEOUT_S)}\r", flush=True)

        try:
            if options.keys:
                print("space: stop, r: release, q: end")
                with _key_by_key() as keys:
                    follow_keys(keys, latch, lambda: runner.spin(0.05))
            else:
                latch(not options.release)
        except TimeoutError as error:
            print(f"rldg estop: {error}", file=sys.stderr)
            return 1
    return 0


def follow_keys(keys: Callable[[], str | None], latch: Callable[[bool], None], idle: Callable[[], None]) -> None:
    """Do what keys ask for until one ends it; ``keys`` gives None while none is pressed."""
    while (key := keys()) not in _END_KEYS:
        if key is None:
            idle()
        elif key in _KEYS:
            latch(_KEYS[key])


@contextmanager
def _key_by_key() -> Iterator[Callable[[], str | None]]:
    """The terminal gives every key at once."""
    before = termios.tcgetattr(sys.stdin)

    def pressed() -> str | None:
        ready, _, _ = select.select([sys.stdin], [], [], 0.0)
        return os.read(sys.stdin.fileno(), 1).decode(errors="replace") if ready else None

    try:
        tty.setcbreak(sys.stdin, termios.TCSANOW)  # a key that was pressed too early counts
        yield pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
