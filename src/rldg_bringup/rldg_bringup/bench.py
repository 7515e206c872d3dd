"""``./rldg bench <name>``: runs ``benchmarks/<name>.py`` and prints its figures.

A benchmark is a module with ``main(argv) -> dict`` that returns its figures by name and prints progress to stderr.
A figure that could not be measured is left out, with a line on stderr that says why.
"""

import ast
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, cast

from rldg_bringup import workspace

VERSIONED = ("numpy", "mujoco", "gymnasium", "ros-rclpy", "rclpy", "torch", "jax")


def benchmarks(directory: Path) -> dict[str, str]:
    """Name and one-line description (first line of the docstring) of each benchmark in a directory."""
    described = {}
    for path in sorted(directory.glob("[a-z]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        described[path.stem] = docstring.partition("\n")[0]
    return described


def load(path: Path) -> Callable[[Sequence[str]], Mapping[str, float]]:
    """The function ``main`` of the benchmark in this file; processes it spawns can import its directory too."""
    sys.path.insert(0, str(path.parent))
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (str(path.parent), os.environ.get("PYTHONPATH", "")) if p)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return cast(Callable[[Sequence[str]], Mapping[str, float]], module.main)


def machine() -> dict[str, Any]:
    """What the figures were measured on: processor, cores, memory, system, load over the last minute, GPUs if any."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    described: dict[str, Any] = {
        "processor": models[0] if models else platform.machine(),
        "cores_n": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "load_1min": round(os.getloadavg()[0], 2),
    }
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)
        described["gpus"] = answer.stdout.splitlines()
    return described


def versions() -> dict[str, str]:
    """Versions of what the figures depend on; the project's own is its git commit, with ``+`` where files differ."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    describe = ["git", "-C", str(workspace.root()), "describe", "--always", "--dirty=+", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        found["rldg"] = subprocess.run(describe, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return found


def main(argv: Sequence[str]) -> int:
    """Run one benchmark, or list them; returns the exit status."""
    directory = workspace.root() / "benchmarks"
    known = benchmarks(directory)
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: ./rldg bench <name> [arguments]\n\nbenchmarks:")
        for name, description in known.items():
            print(f"  {name:<12} {description}")
        return 0
    name, *arguments = argv
    if name not in known:
        allowed = ", ".join(known) or f"none, {directory} is empty"
        print(f"rldg bench: there is no benchmark {name!r}; allowed: {allowed}", file=sys.stderr)
        return 2
    # Nothing but the result may reach stdout, whatever the benchmark prints.
    with redirect_stdout(sys.stderr):
        figures = dict(load(directory / f"{name}.py")(arguments))
    print(json.dumps({"bench": name, "figures": figures, "machine": machine(), "versions": versions()}))
    return 0
