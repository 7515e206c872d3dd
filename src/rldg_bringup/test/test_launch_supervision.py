"""Launched processes are watched, restarted, stopped in steps, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rldg_bringup.launch_runner import Launch, LaunchFileError, supervisor

PATIENCE_S = 20.0

PROGRAMS = {
    "sleeper": "import time\nprint('ready', flush=True)\ntime.sleep(600)",
    "polite": (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: (print('goodbye', flush=True), sys.exit(0)))\n"
        "print('ready', flush=True)\ntime.sleep(600)"
    ),
    "deaf": (
        "import signal, time\n"
        "for number in (signal.SIGINT, signal.SIGTERM):\n    signal.signal(number, signal.SIG_IGN)\n"
        "print('ready', flush=True)\ntime.sleep(600)"
    ),
    "slow": (
        "import time\n"
        "try:\n    print('ready', flush=True)\n    time.sleep(600)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.5)\n    print('finished in peace', flush=True)"
    ),
    "failing": "import sys\nprint('oh no', file=sys.stderr)\nsys.exit(3)",
    "ending": "print('done', end='')",
    "sharing": (
        "import fcntl, os, time\n"
        "name = f'/dev/shm/fastdds_{os.getpid():016x}'\n"
        "open(name, 'w').close()\nlock = open(name + '_el', 'w')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\nos.utime(name + '_el', (0, 0))\n"
        "print('ready', flush=True)\ntime.sleep(600)"
    ),
    "parent": (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('child', child.pid, flush=True)\ntime.sleep(600)"
    ),
}


class Cell:
    """A directory with programs to launch."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {**os.environ, "AMENT_PREFIX_PATH": str(directory), "ROS_LOG_DIR": str(directory / "log")}
        programs = directory / "lib" / "programs"
        programs.mkdir(parents=True)
        for name, source in PROGRAMS.items():
            (programs / name).write_text(f"#!{sys.executable} -S\n{source}\n")
            (programs / name).chmod(0o755)

    def file(self, *nodes: str) -> Path:
        file = self.directory / "a.launch.xml"
        lines = "\n".join(f'<node pkg="programs" {node}/>' for node in nodes)
        file.write_text(f"<launch>{lines}</launch>")
        return file

    def launch(self, *nodes: str, echo: Callable[[str], None] | None = None) -> Launch:
        return Launch(self.file(*nodes), {}, self.environment, echo=echo)


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return Cell(tmp_path)


def gone(pid: int) -> bool:
    """The process is no more, or dead and waiting to be collected by someone else."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_output_is_shown_with_the_name_and_kept(cell: Cell) -> None:
    shown: list[str] = []
    with cell.launch('exec="ending" name="quiet"', 'exec="ending" output="screen"', echo=shown.append) as launch:
        assert launch.wait(PATIENCE_S) == 0
    assert "[ending-2] done" in shown
    assert "[quiet-1] done" not in shown  # output="log" shows errors only
    assert {"[quiet-1] done", "[ending-2] done"} <= set(launch.lines)
    log = (launch.log_dir / "launch.log").read_text()
    assert launch.log_dir.parent == cell.directory / "log"
    assert all(line in log for line in launch.lines)


def test_a_failure_is_told_with_name_pid_and_code_and_fails_the_launch(cell: Cell) -> None:
    shown: list[str] = []
    with cell.launch('exec="failing" name="arm"', echo=shown.append) as launch:
        assert launch.wait(PATIENCE_S) == 1
    assert "[arm-1] oh no" in shown
    assert any(line.startswith("[launch] arm-1 died, pid ") and line.endswith("exit code 3") for line in shown)


def test_the_shared_memory_of_a_killed_process_is_freed_while_the_others_run(cell: Cell) -> None:
    with cell.launch('exec="sharing" name="killed" respawn="true"', 'exec="sharing" name="living"') as launch:
        launch.wait_for_line("[killed-1] ready", PATIENCE_S)
        launch.wait_for_line("[living-2] ready", PATIENCE_S)
        killed, living = (Path(f"/dev/shm/fastdds_{launch.pid(name):016x}") for name in ("killed", "living"))
        os.kill(launch.pid("killed"), signal.SIGKILL)
        launch.wait_for_line("killed by SIGKILL", PATIENCE_S)
        assert not killed.exists() and living.exists()
        restarted = Path(f"/dev/shm/fastdds_{launch.pid('killed'):016x}") if "killed" in launch.running() else None
    for left in filter(None, (living, restarted)):
        for path in (left, left.with_name(f"{left.name}_el")):
            path.unlink(missing_ok=True)


def test_a_killed_process_is_restarted_with_another_pid(cell: Cell) -> None:
    with cell.launch('exec="sleeper" name="a" respawn="true" respawn_delay="0.2"') as launch:
        launch.wait_for_line("[a-1] ready", PATIENCE_S)
        first = launch.pid("a")
        os.kill(first, signal.SIGKILL)
        died = launch.wait_for_line(f"a-1 died, pid {first}, killed by SIGKILL; restarting it in 0.2 s", PATIENCE_S)
        launch.wait_for_line("[a-1] ready", PATIENCE_S, after=died)
        assert launch.pid("a") != first
        assert launch.stop() == 0
    assert gone(first)


def test_without_respawn_the_others_go_on_and_the_launch_fails_in_the_end(cell: Cell) -> None:
    with cell.launch('exec="sleeper" name="a"', 'exec="polite" name="b"') as launch:
        launch.wait_for_line("[a-1] ready", PATIENCE_S)
        launch.wait_for_line("[b-2] ready", PATIENCE_S)
        os.kill(launch.pid("a"), signal.SIGKILL)
        launch.wait_for_line("a-1 died", PATIENCE_S)
        assert launch.running() == ["b"]
        with pytest.raises(LookupError, match="no process named 'a' runs now; this launch has: a, b"):
            launch.pid("a")
        assert launch.stop() == 1


def test_an_essential_process_takes_the_launch_with_it(cell: Cell) -> None:
    with cell.launch('exec="polite" name="a"', 'exec="ending" name="b" on_exit="shutdown"') as launch:
        assert launch.wait(PATIENCE_S) == 0


def test_stopping_lets_processes_finish(cell: Cell) -> None:
    with cell.launch('exec="polite" name="a"') as launch:
        launch.wait_for_line("ready", PATIENCE_S)
        assert launch.stop() == 0
    assert "[a-1] goodbye" in launch.lines
    assert launch.running() == []


def test_deaf_processes_are_terminated_then_killed(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "ESCALATION_S", 0.3)
    with cell.launch('exec="deaf" name="a"') as launch:
        launch.wait_for_line("ready", PATIENCE_S)
        pid = launch.pid("a")
        assert launch.stop() == 1
    signals = [line.split()[1] for line in launch.lines if " to a-1, pid" in line]
    assert signals == ["SIGINT", "SIGTERM", "SIGKILL"]
    assert gone(pid)


def test_a_second_request_hurries(cell: Cell) -> None:
    with cell.launch('exec="deaf" name="a"') as launch:
        launch.wait_for_line("ready", PATIENCE_S)
        started = time.monotonic()
        for _ in range(3):
            launch.request_stop()
        launch.wait(PATIENCE_S)
        assert time.monotonic() - started < supervisor.ESCALATION_S


def test_children_of_a_dead_process_are_not_left_behind(cell: Cell) -> None:
    with cell.launch('exec="parent" name="a"') as launch:
        index = launch.wait_for_line("child ", PATIENCE_S)
        child = int(launch.lines[index].split()[-1])
        os.kill(launch.pid("a"), signal.SIGKILL)
        wait_until(lambda: gone(child))


RUNNER = """
import sys
from pathlib import Path
from rldg_bringup.launch_runner.supervisor import Launch, print_line, run_in_foreground
sys.exit(run_in_foreground(Launch(Path(sys.argv[1]), echo=print_line)))
"""


def start_runner(cell: Cell, *nodes: str) -> tuple[subprocess.Popen[str], int]:
    """A runner in a process of its own, and the pid of its first child."""
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(cell.file(*nodes))], env=cell.environment, stdout=subprocess.PIPE, text=True
    )
    assert runner.stdout is not None
    pid = 0
    for line in runner.stdout:
        if "started, pid" in line:
            pid = int(line.split()[-1])
        if "ready" in line:
            break
    assert pid
    return runner, pid


def test_no_process_survives_the_runner_being_killed(cell: Cell) -> None:
    runner, pid = start_runner(cell, 'exec="deaf" output="screen"')
    runner.kill()
    runner.wait(PATIENCE_S)
    wait_until(lambda: gone(pid))


def test_a_signal_that_arrives_twice_counts_once(cell: Cell) -> None:
    runner, _ = start_runner(cell, 'exec="slow" output="screen"')
    runner.send_signal(signal.SIGINT)
    time.sleep(0.05)
    runner.send_signal(signal.SIGINT)
    output, _ = runner.communicate(timeout=PATIENCE_S)
    assert "finished in peace" in output
    assert "SIGTERM" not in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_runner_stops_everything(cell: Cell, number: signal.Signals) -> None:
    runner, pid = start_runner(cell, 'exec="polite" output="screen" respawn="true"')
    runner.send_signal(number)
    output, _ = runner.communicate(timeout=PATIENCE_S)
    assert runner.returncode == 0
    assert "goodbye" in output
    assert gone(pid)


def test_nothing_starts_where_one_executable_is_missing(cell: Cell) -> None:
    with pytest.raises(LookupError, match="executable 'nobody' of package 'programs' is in no lib/programs/"):
        cell.launch('exec="sleeper"', 'exec="nobody"')


def test_a_wrong_file_is_refused_before_anything_starts(cell: Cell) -> None:
    with pytest.raises(LaunchFileError, match="<node> lacks the attribute 'exec'"):
        cell.launch('name="a"')


def test_waiting_for_what_is_never_said_ends(cell: Cell) -> None:
    with cell.launch('exec="polite" name="a"') as launch:
        launch.wait_for_line("ready", PATIENCE_S)
        with pytest.raises(TimeoutError, match=r"no line with 'moon' in 0.1 s; the last ones: .*ready"):
            launch.wait_for_line("moon", 0.1)
        with pytest.raises(TimeoutError, match=r"still running after 0.1 s: a"):
            launch.wait(0.1)
