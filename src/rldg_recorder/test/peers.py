"""Runs a script with a peer's package, in the interpreter that RLDG_PEER_PYTHON names or in this one if it has it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_S = 280  # such packages take their time to import


def run_peer(module: str, script: str, *arguments: str | Path) -> Any:
    """What the script prints last, which is JSON. The test is skipped where no interpreter has the module."""
    python = os.environ.get("RLDG_PEER_PYTHON", "")
    if python:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
        # its top level only, as find_spec does: importing it takes long
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        if subprocess.run([python, "-c", code], env=environment).returncode != 0:
            pytest.skip(f"{python} (RLDG_PEER_PYTHON) has no {module}")
    elif importlib.util.find_spec(module) is not None:
        python, environment = sys.executable, dict(os.environ)
    else:
        pytest.skip(f"{module} is not installed; RLDG_PEER_PYTHON may name a Python that has it")
    command = [python, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])
