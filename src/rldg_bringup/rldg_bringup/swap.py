"""``swap``: another policy takes over in a running cell, while the arm moves.

The policy node starts beside the one that drives, loads and warms up, and answers without authority; then the arbiter
hands the door over between two ticks and watches (``rldg_core.swap``). A policy that answers already is swapped to at
once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rldg_bringup.domain import DomainError, cell_domain, hold_policy, keeper_of
from rldg_bringup.launch_runner.supervisor import default_log_dir
from rldg_core.events import Event, EventKind

if TYPE_CHECKING:
    from rldg_bringup.episode_runner_node import EpisodeRunner

    Stop = Callable[[EpisodeRunner, str], str]

_ARBITER_TIMEOUT_S = 10.0
_READY_TIMEOUT_S = 900.0  # a large model takes minutes to load
_END_S = 15.0
_OWN_LAUNCH_FILES = ("openvla", "octo")  # policies with a launch file, and so arguments, of their own


def describe(policy_id: str, events: Sequence[Event]) -> tuple[bool, str]:
    """Whether the policy drives after a swap with these events, and one line about it."""
    if not events:
        return True, f"policy {policy_id!r} drives already"
    end = events[-1]
    previous = repr(end.previous) if end.previous else "nobody"
    if end.kind is EventKind.SWAP_COMPLETED:
        first, handed = events[0], next(event for event in events if event.kind is EventKind.SWAP_HANDED_OVER)
        waited_ms = (handed.stamp_ns - first.stamp_ns) * 1e-6
        lasted_s = (end.stamp_ns - handed.stamp_ns) * 1e-9
        return True, (
            f"policy {policy_id!r} drives: it took over from {previous} {waited_ms:.0f} ms after the request "
            f"and passed its probation of {lasted_s:.1f} s"
        )
    if end.kind is EventKind.SWAP_ROLLED_BACK:
        return False, f"policy {policy_id!r} was rolled back, {previous} has the door again: {end.reason}"
    return False, f"policy {policy_id!r} lost the door to another swap: {end.reason}"


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rldg swap", description="Let another policy take over in a running cell, while the arm moves."
    )
    parser.add_argument("policy", help="octo, openvla, specialist, ..., or the id of a policy that answers already")
    parser.add_argument("--checkpoint", type=Path, help="folder of its weights")
    parser.add_argument("--id", dest="policy_id", help="what it is called in the cell (default: the policy's name)")
    parser.add_argument("--retire", action="store_true", help="end the policy that drove before, once this one does")
    parser.add_argument(
        "--timeout",
        type=float,
        default=_READY_TIMEOUT_S,
        help="longest wait until it answers, s (default: %(default)s)",
    )
    parser.add_argument("launch", nargs="*", metavar="argument:=value", help="more arguments of its launch file")
    options = parser.parse_args(argv)
    wrong = [word for word in options.launch if ":=" not in word]
    if wrong:
        parser.error(f"{wrong[0]!r} is not of the form argument:=value; one policy at a time is swapped to")
    if options.checkpoint is not None and not options.checkpoint.is_dir():
        parser.error(f"--checkpoint: {options.checkpoint} is no folder")
    options.policy_id = options.policy_id or options.policy
    if not re.fullmatch(r"\w{1,64}", options.policy_id, re.ASCII):  # stricter than the arbiter: it names a node
        parser.error(f"--id: {options.policy_id!r} must be 1 to 64 letters, digits or _")
    if not 0.0 < options.timeout <= 86_400.0:
        parser.error(f"--timeout: is {options.timeout}, must be in (0, 86400]")
    return options


def main(argv: list[str]) -> int:
    """Run the verb; returns 0 when the policy drives, 1 where it was rolled back or never answered, 2: a wrong call."""
    options = _arguments(argv)
    try:
        domain = cell_domain()
    except (LookupError, DomainError) as error:
        print(f"rldg swap: {error.args[0]}", file=sys.stderr)
        return 2
    # sure to be the one in which DDS looks too
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    from rldg_bringup.episode_runner_node import EpisodeRunner
    from rldg_bringup.swapping_node import Watch, cell_parameters, stop_node

    keeper: _Keeper | None = None
    with EpisodeRunner(domain, follow=False) as runner:
        try:
            cell = cell_parameters(runner, _ARBITER_TIMEOUT_S)
            answers = Watch(runner, options.policy_id)
            if answers.node_is_there():
                if options.checkpoint is not None:
                    raise LookupError(
                        f"policy {options.policy_id!r} is there already; give the new one another name with --id"
                    )
            else:
                keeper = _Keeper(domain, options, cell)
            hopeless = lambda: answers.trouble or (keeper.trouble() if keeper is not None else "")  # noqa: E731
            events = runner.swap_policy(options.policy_id, options.timeout, hopeless)
        except LookupError as error:
            print(f"rldg swap: {error.args[0]}", file=sys.stderr)
            return 2
        except (TimeoutError, RuntimeError, KeyboardInterrupt) as error:
            _end(keeper)
            print(f"rldg swap: {error or 'interrupted'}", file=sys.stderr)
            return 1
        drives, line = describe(options.policy_id, events)
        print(line if drives else f"rldg swap: {line}", file=sys.stdout if drives else sys.stderr)
        if not drives:
            _end(keeper)
            return 1
        if keeper is not None:
            print(f"its log: {keeper.log}; it ends with the cell, or with ./rldg swap ... --retire")
        if options.retire and events and events[-1].previous:
            return _retire(runner, domain, events[-1].previous, stop_node)
    return 0


def policy_launch(policy: str, policy_id: str, checkpoint: str) -> tuple[str, dict[str, str]]:
    """Launch file and arguments with which a policy joins a running cell, without authority.

    Args:
        checkpoint: folder of its weights, absolute; "" for none.
    """
    arguments = {"policy_id": policy_id, "swap": "false"}
    if policy in _OWN_LAUNCH_FILES:
        return f"policy_{policy}", arguments | ({"checkpoint": checkpoint} if checkpoint else {})
    arguments |= {"policy": policy, "beside": "true"}
    if checkpoint:
        arguments["policy_parameters"] = json.dumps({"checkpoint": checkpoint})
    return "policy", arguments


class _Keeper:
    """The process that runs the launch of a policy: it outlives this one and ends with the cell."""

    def __init__(self, domain: int, options: argparse.Namespace, cell: dict[str, str]) -> None:
        checkpoint = str(options.checkpoint.absolute()) if options.checkpoint is not None else ""
        file, arguments = policy_launch(options.policy, options.policy_id, checkpoint)
        arguments |= cell | dict(word.split(":=", 1) for word in options.launch)
        folder = default_log_dir()
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "output.log"
        words = [file, *(f"{name}:={value}" for name, value in arguments.items()), "--with-cell"]
        command = [sys.executable, "-m", "rldg_bringup.swap", "--keep", str(domain), options.policy_id, *words]
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def trouble(self) -> str:
        """Why the policy cannot come up any more, "" if it may."""
        if self._process.poll() is None:
            return ""
        lines = self.log.read_text(errors="replace").splitlines()
        last = lines[-1] if lines else "it said nothing"
        return f"its launch ended with {self._process.returncode}: {last}; log: {self.log}"

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()


def _end(keeper: _Keeper | None) -> None:
    if keeper is not None:
        keeper.end()


def _keep(argv: list[str]) -> int:
    """The keeper's own main: ``--keep <domain> <policy_id>`` and what ``up`` takes."""
    from rldg_bringup import up

    domain, policy_id, *words = argv
    holder = hold_policy(int(domain), policy_id)
    if holder:
        print(f"rldg swap: {holder} keeps policy {policy_id!r} already", file=sys.stderr)
        return 2
    return up.main(words)


def _retire(runner: EpisodeRunner, domain: int, policy_id: str, stop_node: Stop) -> int:
    """End the policy that is not needed any more: its launch, if ``swap`` started it, else its node's work."""
    pid = keeper_of(domain, policy_id)
    if pid is not None:
        os.kill(pid, signal.SIGINT)
        end = time.monotonic() + _END_S
        while keeper_of(domain, policy_id) is not None and time.monotonic() < end:
            time.sleep(0.1)
        failure = "" if keeper_of(domain, policy_id) is None else f"its launch (pid {pid}) does not end"
    else:
        failure = stop_node(runner, policy_id)
    print(f"policy {policy_id!r} is retired" if not failure else f"policy {policy_id!r} is not retired: {failure}")
    return int(bool(failure))


if __name__ == "__main__":
    keeping = sys.argv[1:2] == ["--keep"]
    raise SystemExit(_keep(sys.argv[2:]) if keeping else main(sys.argv[1:]))
