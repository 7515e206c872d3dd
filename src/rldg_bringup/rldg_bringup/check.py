"""``./rldg test``: lint, type check and tests.

Without arguments everything runs. Arguments go to pytest, and then only pytest runs; ``--long`` alone adds the tests
marked ``long`` to everything.
"""

import subprocess
import sys
import time
from collections.abc import Sequence

from rldg_bringup import workspace

USAGE = """usage: ./rldg test [--long] [pytest arguments]

Runs ruff, mypy and pytest over the whole workspace. With pytest arguments (-k, paths, ...) only pytest runs.
  --long   also run the tests marked `long`
"""

# What runs out of time is tried once more, and listed as a rerun: real processes over DDS on a busy machine miss each
# other once in thousands of tests. A wrong result is never tried again.
_SECOND_TRY = ["--reruns", "1", "--only-rerun", "Timeout", "--only-rerun", r"\bspin\(", "-r", "sR"]
_SECOND_TRY += ["--only-rerun", "died or hangs: no heartbeat"]  # of a node that was not scheduled for half a second
# About once in 500 connections to a rehearsal, franky's client gives up with this; why is not known. Drivers recover.
_SECOND_TRY += ["--only-rerun", "libfranka: incorrect object size"]


def packages() -> list[str]:
    """Names of the workspace's Python packages, which are those of their directories."""
    return sorted(path.parent.name for path in (workspace.root() / "src").glob("*/setup.py"))


def main(argv: Sequence[str]) -> int:
    """Run the checks one after another; returns 0 where all passed, else 1 (pytest alone: its status)."""
    if argv and argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    python = sys.executable
    root = workspace.root()
    if [argument for argument in argv if argument != "--long"]:
        # from where the user is, because paths may be among the arguments
        pytest = [python, "-m", "pytest", "--rootdir", str(root), "-c", str(root / "pyproject.toml")]
        return subprocess.run([*pytest, *argv]).returncode
    checks = {
        "ruff check": [python, "-m", "ruff", "check", "."],
        "ruff format": [python, "-m", "ruff", "format", "--check", "."],
        "mypy": [python, "-m", "mypy", *(word for package in packages() for word in ("-p", package))],
        "pytest": [python, "-m", "pytest", *_SECOND_TRY, *argv],
    }
    results = {}
    for name, command in checks.items():
        print(f"== {name} ==", flush=True)
        started = time.monotonic()
        status = subprocess.run(command, cwd=root).returncode
        results[name] = (status, time.monotonic() - started)
    print("== summary ==")
    for name, (status, seconds) in results.items():
        print(f"{name:<12} {'ok' if status == 0 else f'FAILED (exit {status})':<18} {seconds:6.1f} s")
    return int(any(status for status, _ in results.values()))
