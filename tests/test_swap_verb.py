"""``./rldg swap`` in a running cell: the new policy takes over while the arm moves, or gives the door back."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rldg_interfaces.msg import Step
from std_msgs.msg import String

from rldg_bringup.domain import keeper_of
from rldg_bringup.episode_runner_node import EpisodeRunner
from rldg_bringup.launch_runner import Launch
from rldg_bringup.testing import free_environment, running_cell
from rldg_bringup.up import launch_file
from rldg_core.events import Event, EventKind, parse_event
from rldg_core.types import Source
from rldg_core.types import Step as StepRecord
from rldg_ros import qos
from rldg_ros.conversions import step_from_msg

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]
WITHIN_S = 0.3


class Watched:
    """A cell in which the scripted policy drives episode after episode."""

    def __init__(self, runner: EpisodeRunner, log_dir: Path) -> None:
        self.runner = runner
        self.domain = runner.node.context.get_domain_id()
        self.events: list[Event] = []
        self.steps: list[StepRecord] = []
        self._environment = {**free_environment(), "ROS_DOMAIN_ID": str(self.domain), "ROS_LOG_DIR": str(log_dir)}
        runner.listen(String, "event", lambda msg: self.events.append(parse_event(msg.data)), qos.latched(20))
        runner.listen(Step, "step", lambda msg: self.steps.append(step_from_msg(msg)), qos.reliable(50))
        runner.start_episodes(count=1000)
        runner.spin_until(lambda: self._drives("scripted"), 30.0, "the policy")

    def _drives(self, policy_id: str) -> bool:
        return bool(self.steps) and self.steps[-1].source is Source.POLICY and self.steps[-1].policy_id == policy_id

    def drives(self, policy_id: str, timeout_s: float = 30.0) -> None:
        self.runner.spin_until(lambda: self._drives(policy_id), timeout_s, f"a step of {policy_id}")

    def told(self, kind: EventKind, begun: int, timeout_s: float) -> Event:
        """The first event of a kind after so many."""
        self.runner.spin_until(lambda: any(event.kind is kind for event in self.events[begun:]), timeout_s, kind)
        return next(event for event in self.events[begun:] if event.kind is kind)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "rldg_bringup.swap", *words]
        return subprocess.Popen(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def swap(self, *words: str) -> tuple[int, str, str]:
        for _ in range(3):
            verb = self.begin(*words)
            self.runner.spin_until(lambda verb=verb: verb.poll() is not None, 90.0, "the end of the verb")
            out, err = verb.communicate()
            if "fell silent" not in err:  # a busy machine can keep a process waiting for 0.2 s
                break
        return verb.returncode, out, err

    def node_pid(self, name: str) -> int:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                environment = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"__node:={name}".encode() in words and f"ROS_DOMAIN_ID={self.domain}".encode() in environment:
                return int(folder.name)
        raise LookupError(name)


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("swap")
    with running_cell(folder / "cell", operator="none", policy="scripted") as (_, runner):
        yield Watched(runner, folder)


def test_a_new_policy_takes_over_stays_and_is_retired(cell: Watched) -> None:
    status, out, err = cell.swap("scripted", "--id", "second")
    assert status == 0, err
    assert "policy 'second' drives: it took over from 'scripted'" in out
    cell.drives("second")
    stamps = [step.stamp_ns for step in cell.steps]
    gaps = [round((b - a) * 1e-8) for a, b in itertools.pairwise(stamps)]
    assert set(gaps) == {1}
    assert keeper_of(cell.domain, "second") is not None
    status, out, _ = cell.swap("second")
    assert (status, out.splitlines()) == (0, ["policy 'second' drives already"])
    status, out, err = cell.swap("scripted", "--retire")  # it is warm
    assert status == 0 and "policy 'scripted' drives" in out and "policy 'second' is retired" in out, (out, err)
    assert keeper_of(cell.domain, "second") is None
    cell.drives("scripted")


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_policy_that_crashes_or_hangs_on_probation_is_rolled_back(cell: Watched, fault: signal.Signals) -> None:
    cell.drives("scripted")
    begun = len(cell.events)
    verb = cell.begin("scripted", "--id", "weak")
    cell.told(EventKind.SWAP_HANDED_OVER, begun, 60.0)
    pid = cell.node_pid("policy_weak")
    os.kill(pid, fault)
    failed_ns = time.time_ns()
    try:
        back = cell.told(EventKind.SWAP_ROLLED_BACK, begun, 10.0)
        assert (back.stamp_ns - failed_ns) * 1e-9 <= WITHIN_S
    finally:
        if fault is signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
    cell.runner.spin_until(lambda: verb.poll() is not None, 60.0, "the end of the verb")
    _, err = verb.communicate()
    assert verb.returncode == 1 and "was rolled back, 'scripted' has the door again" in err, err
    assert keeper_of(cell.domain, "weak") is None
    cell.drives("scripted")


def test_a_policy_that_cannot_be_loaded_says_why_and_nothing_changes(cell: Watched, tmp_path: Path) -> None:
    status, _, err = cell.swap("octo", "--checkpoint", str(tmp_path))
    assert status == 1 and "configure failed" in err, err
    assert keeper_of(cell.domain, "octo") is None
    cell.drives("scripted")


def test_the_launch_file_swaps_alike(cell: Watched, tmp_path: Path) -> None:
    begun = len(cell.events)
    environment = {**free_environment(), "ROS_DOMAIN_ID": str(cell.domain)}
    arguments = {"policy": "scripted", "policy_id": "launched", "beside": "true", "swap": "true"}
    with Launch(launch_file("policy"), arguments, environment, log_dir=tmp_path) as joined:
        completed = cell.told(EventKind.SWAP_COMPLETED, begun, 60.0)
        assert (completed.previous, completed.policy_id) == ("scripted", "launched")
        joined.wait_for_line("policy 'launched' drives: it took over from 'scripted'", 10.0)
        status, _, err = cell.swap("scripted")
        assert status == 0, err


def test_a_policy_of_the_cell_itself_is_retired_too(cell: Watched) -> None:  # the last test: nobody else drives then
    status, out, err = cell.swap("scripted", "--id", "last", "--retire")
    assert status == 0 and "policy 'scripted' is retired" in out, (out, err)
    cell.runner.spin(1.0)
    with pytest.raises(RuntimeError, match="policy 'scripted' is stale"):
        cell.runner.select_policy("scripted")
    cell.drives("last")
