"""Runs processes together: starts them, shows their output, restarts them, and takes every one of them down again.

Linux only: a child asks the kernel to be killed when the thread that started it ends, so that not even SIGKILL of this
process leaves one behind.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from types import FrameType, TracebackType

from rldg_bringup.launch_runner.plan import Process, resolve
from rldg_bringup.packages import find_executable, find_share
from rldg_bringup.shared_memory import remove_abandoned
from rldg_core.processes import tied

_POLL_S = 0.1
_SAME_SIGNAL_S = 0.5

# as in ROS 2 launch: SIGINT, five seconds later SIGTERM, five seconds later SIGKILL
_ESCALATION = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
ESCALATION_S = 5.0


def default_log_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """A new directory name under $ROS_LOG_DIR, $ROS_HOME/log or ~/.ros/log, in this order."""
    home = environment.get("ROS_HOME") or str(Path(environment.get("HOME") or Path.home()) / ".ros")
    root = Path(environment.get("ROS_LOG_DIR") or Path(home) / "log")
    return root / f"{datetime.now():%Y-%m-%d-%H-%M-%S-%f}-rldg-{os.getpid()}"


class _Child:
    """A process of the plan over all its incarnations."""

    def __init__(self, process: Process, number: int) -> None:
        self.process = process
        self.label = f"{process.name}-{number}"
        self.command = [
            *find_executable(process.package, process.executable, process.environment),
            *process.arguments,
        ]
        self.popen: subprocess.Popen[bytes] | None = None
        self.restart_at: float | None = None
        self.partial: dict[int, bytes] = {}  # file descriptor: output after the last newline

    def spawn(self) -> None:
        self.restart_at = None
        self.popen = subprocess.Popen(
            tied(self.command, signal.SIGKILL),
            env={"PYTHONUNBUFFERED": "1", **self.process.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )


class Launch:
    """The processes of one launch file, as a context manager: started on entry, all gone on exit.

    ``environment`` replaces this process's environment. ``echo`` gets every line that a person should see. Everything
    is written to ``launch.log`` in ``log_dir``. Raises LaunchFileError, or LookupError for a missing package or
    executable, before anything is started.

    >>> with Launch(file, {"seed": "3"}) as launch:  # doctest: +SKIP
    ...     launch.wait_for_line("all nodes are active", timeout_s=30.0)
    ...     os.kill(launch.pid("observer"), signal.SIGKILL)
    """

    def __init__(
        self,
        file: Path,
        arguments: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        log_dir: Path | None = None,
        echo: Callable[[str], None] | None = None,
    ) -> None:
        environment = dict(os.environ if environment is None else environment)
        environment["RLDG_LAUNCH_ID"] = uuid.uuid4().hex
        plan = resolve(file, arguments or {}, environment, lambda package: find_share(package, environment))
        self.log_dir = log_dir or default_log_dir(environment)
        self._children = [_Child(process, number) for number, process in enumerate(plan, 1)]
        self._echo = echo
        self._lines: list[str] = []
        self._news = threading.Condition()  # guards _lines and every _Child.popen
        self._stop_requests = 0
        self._failed = False
        self._started = threading.Event()
        # daemon: where a program ends without stop(), the thread's end takes the children with it
        self._thread = threading.Thread(target=self._run, name="launch", daemon=True)

    def __enter__(self) -> Launch:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start every process, in the order of the file; returns when all were started."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        self._started.wait()

    def request_stop(self) -> None:
        """Begin to stop, or hurry: each further call goes to the next signal at once. Safe in signal handlers."""
        self._stop_requests += 1

    def stop(self) -> int:
        """Stop everything (SIGINT, then SIGTERM, then SIGKILL) and return the exit code."""
        if not self._stop_requests:
            self.request_stop()
        return self.wait()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until every process has ended for good and return the exit code.

        It is 1 if a process that is not restarted failed, or had to be killed in the end, else 0. Raises TimeoutError.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self._thread.is_alive():  # in pieces, so that signal handlers run
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"still running after {timeout_s} s: {', '.join(self.running())}")
            self._thread.join(_POLL_S)
        return int(self._failed)

    @property
    def lines(self) -> list[str]:
        """Every line so far, of the processes (as ``[name-N] line``) and of the launch itself."""
        with self._news:
            return list(self._lines)

    def wait_for_line(self, text: str, timeout_s: float, after: int = 0) -> int:
        """Wait for a line that contains ``text``; returns its index in :attr:`lines`, at or behind ``after``.

        Raises TimeoutError, which tells the last lines.
        """
        deadline = time.monotonic() + timeout_s
        index = after
        with self._news:
            while True:
                while index < len(self._lines):
                    if text in self._lines[index]:
                        return index
                    index += 1
                if not self._news.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"no line with {text!r} in {timeout_s} s; the last ones: {self._lines[-5:]}")

    def running(self) -> list[str]:
        """The names of the processes that run now."""
        with self._news:
            return [child.process.name for child in self._children if child.popen is not None]

    def pid(self, name: str) -> int:
        """The process id of a node by its name; raises LookupError where it does not run."""
        with self._news:
            for child in self._children:
                if name in (child.process.name, child.label) and child.popen is not None:
                    return child.popen.pid
            names = ", ".join(child.process.name for child in self._children)
        raise LookupError(f"no process named {name!r} runs now; this launch has: {names}")

    def _run(self) -> None:
        try:
            self._supervise()
        except BaseException:
            self._failed = True
            raise
        finally:
            self._started.set()

    def _supervise(self) -> None:
        with selectors.DefaultSelector() as selector, open(self.log_dir / "launch.log", "w") as log:
            self._selector, self._log = selector, log
            self._say(f"[launch] log: {self.log_dir / 'launch.log'}")
            for child in self._children:
                self._spawn(child)
            self._started.set()
            stage, next_stage_at = 0, 0.0
            while any(child.popen is not None or child.restart_at is not None for child in self._children):
                for key, _ in selector.select(_POLL_S):
                    self._read(key.data, key.fd)
                now = time.monotonic()
                if self._stop_requests:
                    due = now >= next_stage_at or self._stop_requests > stage
                    if due and stage < len(_ESCALATION):
                        self._signal_all(_ESCALATION[stage])
                        stage, next_stage_at = stage + 1, now + ESCALATION_S
                        self._stop_requests = max(self._stop_requests, stage)
                for child in self._children:
                    if child.popen is not None:
                        self._reap(child)
                    elif child.restart_at is not None and now >= child.restart_at:
                        self._spawn(child)

    def _say(self, line: str, shown: bool = True) -> None:
        self._log.write(f"{time.time():.3f} {line}\n")
        self._log.flush()
        if shown and self._echo is not None:
            self._echo(line)
        with self._news:
            self._lines.append(line)
            self._news.notify_all()

    def _spawn(self, child: _Child) -> None:
        try:
            with self._news:
                child.spawn()
        except OSError as error:
            child.restart_at = None
            self._failed = True
            self._say(f"[launch] {child.label} could not be started: {error}")
            return
        assert child.popen is not None and child.popen.stdout is not None and child.popen.stderr is not None
        for stream in (child.popen.stdout, child.popen.stderr):
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ, child)
            child.partial[stream.fileno()] = b""
        self._say(f"[launch] {child.label} started, pid {child.popen.pid}")

    def _read(self, child: _Child, descriptor: int) -> bool:
        """Pass on what can be read now; false where the stream has nothing more to give."""
        try:
            data = os.read(descriptor, 65536)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(descriptor)
            data = b"\n" if child.partial[descriptor] else b""
        *lines, child.partial[descriptor] = (child.partial[descriptor] + data).split(b"\n")
        assert child.popen is not None and child.popen.stderr is not None
        shown = child.process.output != "log" or descriptor == child.popen.stderr.fileno()
        for line in lines:
            self._say(f"[{child.label}] {line.decode(errors='replace')}", shown)
        return bool(data)

    def _reap(self, child: _Child) -> None:
        popen = child.popen
        assert popen is not None and popen.stdout is not None and popen.stderr is not None
        # the group is cleared while the dead leader still holds its number
        if os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        code = popen.wait()
        for stream in (popen.stdout, popen.stderr):
            registered = self._selector.get_map()
            while stream.fileno() in registered and self._read(child, stream.fileno()):
                pass
            if stream.fileno() in registered:
                self._selector.unregister(stream)
            stream.close()
        child.partial.clear()
        with self._news:
            child.popen = None
        if code == -signal.SIGKILL:
            remove_abandoned()  # it could not free its shared memory: a node that dies again and again would fill it
        self._log_end(child, popen.pid, code)

    def _log_end(self, child: _Child, pid: int, code: int) -> None:
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        process = child.process
        if self._stop_requests:
            self._failed |= -code == signal.SIGKILL
            self._say(f"[launch] {child.label} ended, pid {pid}, {cause}")
            return
        if process.respawn:
            child.restart_at = time.monotonic() + process.respawn_delay_s
            after = f"; restarting it in {process.respawn_delay_s:g} s"
        else:
            self._failed |= code != 0
            after = "; stopping the launch" if process.shutdown_on_exit else ""
        self._say(f"[launch] {child.label} {'died' if code else 'ended'}, pid {pid}, {cause}{after}")
        if process.shutdown_on_exit and not process.respawn:
            self.request_stop()

    def _signal_all(self, number: signal.Signals) -> None:
        for child in self._children:
            child.restart_at = None
            if child.popen is not None:
                self._say(f"[launch] {number.name} to {child.label}, pid {child.popen.pid}")
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.popen.pid, number)


def run_in_foreground(launch: Launch) -> int:
    """Run a launch until it ends; SIGINT, SIGTERM and SIGHUP stop it, a later one hurries. Main thread only."""
    heard_at = -math.inf

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal heard_at
        now = time.monotonic()
        # one Ctrl-C often arrives twice: at the process group, and handed on by a parent
        if now - heard_at > _SAME_SIGNAL_S:
            launch.request_stop()
        heard_at = now

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    launch.start()
    return launch.wait()


def print_line(line: str) -> None:
    """An ``echo`` that survives a closed terminal."""
    with contextlib.suppress(BrokenPipeError, OSError):
        print(line, file=sys.stdout, flush=True)
