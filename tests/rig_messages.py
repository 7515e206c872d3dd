"""The messages of franka_ros2 and ros2_control for tests: the installed ones, else of tests/rig_msgs what is needed.

Neither is to be had as a wheel. The definitions in tests/rig_msgs have the same names, and of the fields those that the
bridge reads and writes; they are built once for each checkout, into ``build/rig_msgs``.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "tests" / "rig_msgs"
PACKAGES = ("franka_msgs", "controller_manager_msgs")


def provide_rig_messages() -> None:
    """Make the packages importable in this process and in those that it starts. Raises where they cannot be built."""
    if all(importlib.util.find_spec(package) for package in PACKAGES):
        return
    folder = ROOT / "build" / "rig_msgs"
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(sys.version.encode() + str(folder).encode())
    for file in sorted(SOURCES.rglob("*.*")):
        digest.update(file.name.encode() + file.read_bytes())
    stamp = folder / "complete"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two test runs one builds
        if not stamp.exists() or stamp.read_text() != digest.hexdigest():
            _build(folder)
            stamp.write_text(digest.hexdigest())
    install = folder / "install"
    (packages,) = install.glob("lib/python3*/site-packages")
    sys.path.insert(0, str(packages))
    for library in sorted((install / "lib").glob("*.so")):
        ctypes.CDLL(str(library))  # found by name from now on; LD_LIBRARY_PATH was read when this process started
    for name, path in (("LD_LIBRARY_PATH", install / "lib"), ("PYTHONPATH", packages), ("AMENT_PREFIX_PATH", install)):
        os.environ[name] = f"{path}{os.pathsep}{os.environ.get(name, '')}".rstrip(os.pathsep)
    importlib.invalidate_caches()


def _build(folder: Path) -> None:
    for name in ("build", "install"):
        shutil.rmtree(folder / name, ignore_errors=True)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    venv = Path(sys.prefix)
    environment["PATH"] = f"{venv / 'bin'}{os.pathsep}{environment['PATH']}"
    if (venv / "share" / "rosidl_default_generators").is_dir():  # ROS from wheels
        environment |= {"AMENT_PREFIX_PATH": str(venv), "CMAKE_PREFIX_PATH": str(venv), "CMAKE_GENERATOR": "Ninja"}
    command = ["colcon", "--log-base", str(folder / "log"), "build", "--base-paths", str(SOURCES), "--merge-install"]
    command += ["--build-base", str(folder / "build"), "--install-base", str(folder / "install")]
    command += ["--cmake-args", f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF"]
    command += [f"-DCMAKE_INSTALL_RPATH={folder / 'install' / 'lib'}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the messages of tests/rig_msgs cannot be built: {done.stderr[-2000:]}")
