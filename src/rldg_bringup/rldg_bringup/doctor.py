"""``./rldg doctor``: checks this machine, and says for each thing that is missing how to mend it."""

import argparse
import ctypes
import glob
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from uuid import uuid4

USAGE = """usage: ./rldg doctor [--json] [--rig | --rig policy] [--robot-ip ADDRESS]

Checks this machine: system, ROS 2, middleware, rendering, configuration, devices.
Exit status 1 where something must be mended.
  --json                print a JSON array of the findings instead of the table
  --rig                 also what the machine at the robot needs: real-time kernel and limits, network to the robot,
                        clock, devices, drivers, disk. Moves nothing: it connects to the robot and hangs up
  --rig policy          also what a machine needs that only serves policies: network, clock, GPU
  --robot-ip ADDRESS    of the robot's Control (default: 172.16.0.2)
"""

# Fast DDS takes a segment of 0.5 MiB for each participant; a graph has about ten, and containers get 64 MiB by default.
SHARED_MEMORY_MIN_MIB = 16
DISK_MIN_GIB = 2
DISCOVERY_MAX_S = 5.0
SUBPROCESS_TIMEOUT_S = 60


class Status(StrEnum):
    """Whether all is well, something may be in the way, or something must be mended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What one check found; ``remedy`` is empty where the status is ok."""

    check: str
    status: Status
    detail: str
    remedy: str = ""


def check_system() -> Finding:
    """Operating system and processor."""
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        name = platform.system()
    detail = f"{name}, {platform.machine()}, {' '.join(platform.libc_ver())}"
    if platform.system() == "Linux":
        return Finding("system", Status.OK, detail)
    return Finding("system", Status.FAIL, detail, "RLDG runs on Linux only")


def check_cores() -> Finding:
    """Processor cores that this process may use."""
    cores_n = len(os.sched_getaffinity(0))
    if cores_n >= 2:
        return Finding("cores", Status.OK, f"{cores_n}")
    remedy = "give it a second core, or run in lockstep: real time will miss ticks"
    return Finding("cores", Status.WARN, f"{cores_n}", remedy)


def check_python() -> Finding:
    """The interpreter."""
    return Finding("python", Status.OK, f"{platform.python_version()} in {sys.prefix}")


def check_ros(environment: Mapping[str, str]) -> Finding:
    """Which ROS 2 this is."""
    if environment.get("ROS_DISTRO"):
        return Finding("ros", Status.OK, f"{environment['ROS_DISTRO']}, as sourced")
    try:
        return Finding("ros", Status.OK, f"wheels, rclpy {importlib.metadata.version('ros-rclpy')}")
    except importlib.metadata.PackageNotFoundError:
        return Finding("ros", Status.FAIL, "not found", "source a ROS 2 installation, or run this as ./rldg doctor")


def check_domain(environment: Mapping[str, str]) -> Finding:
    """``ROS_DOMAIN_ID`` and how far discovery reaches."""
    text = environment.get("ROS_DOMAIN_ID", "")
    reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    detail = f"ROS_DOMAIN_ID={text or 'unset (0)'}, discovery {reach}"
    if text and not (text.isdecimal() and int(text) <= 232):
        return Finding("domain", Status.FAIL, detail, "allowed: 0 to 232")
    if text and 101 < int(text) < 215:
        return Finding(
            "domain", Status.WARN, detail, "its ports may be taken by outgoing connections; 0 to 101 are safe"
        )
    return Finding("domain", Status.OK, detail)


def check_interfaces() -> Finding:
    """Whether the messages, services and actions of rldg_interfaces can be imported."""
    code = "import rldg_interfaces.msg, rldg_interfaces.srv, rldg_interfaces.action"
    try:
        run([sys.executable, "-c", code])
    except ProbeError as error:
        remedy = (
            "build the workspace: remove install/.rldg-complete and run ./rldg doctor, or colcon build and source it"
        )
        return Finding("interfaces", Status.FAIL, str(error), remedy)
    return Finding("interfaces", Status.OK, "rldg_interfaces imports")


def check_middleware() -> Finding:
    """Whether two processes find each other over the middleware, and how fast messages go round."""
    # two doctors at once must not answer each other
    name = f"rldg_doctor_{uuid4().hex[:8]}"
    node = [sys.executable, "-m", "rldg_bringup.loopback_node"]
    rmw = os.environ.get("RMW_IMPLEMENTATION", "default RMW")
    with subprocess.Popen([*node, "--serve", name], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            answer = json.loads(run([*node, "--call", name]).splitlines()[-1])
        except ProbeError as error:
            remedy = (
                "check RMW_IMPLEMENTATION (rmw_fastrtps_cpp), that the interface lo is up, that /dev/shm is writable, "
                "and unset FASTDDS_* and ROS_STATIC_PEERS"
            )
            return Finding("middleware", Status.FAIL, f"{rmw}: {error}", remedy)
        finally:
            server.kill()
    detail = f"{rmw}: discovery {answer['discovery_s']:.2f} s, round trip {answer['round_trip_ms']:.2f} ms"
    if answer["discovery_s"] > DISCOVERY_MAX_S:
        return Finding(
            "middleware", Status.WARN, detail, "discovery is slow: is the machine loaded, or multicast filtered?"
        )
    return Finding("middleware", Status.OK, detail)


def check_rendering() -> Finding:
    """Whether MuJoCo renders a frame without a window."""
    backend = os.environ.get("MUJOCO_GL", "glfw")
    code = "from rldg_bringup.doctor import render_one_frame; print(render_one_frame())"
    try:
        return Finding("rendering", Status.OK, f"MUJOCO_GL={backend}: {run([sys.executable, '-c', code]).strip()}")
    except ProbeError as error:
        remedy = "sudo apt-get install libegl1 libgl1-mesa-dri, then MUJOCO_GL=egl"
        return Finding("rendering", Status.FAIL, f"MUJOCO_GL={backend}: {error}", remedy)


def render_one_frame() -> str:
    """Render a lit ball with MuJoCo and say which MuJoCo it was.

    Raises:
        RuntimeError: the frame is of one colour, so nothing was drawn.
    """
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size=".3"/></worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, height=64, width=64) as renderer:
        renderer.update_scene(data)
        image = renderer.render()
    if image.min() == image.max():
        raise RuntimeError("an empty frame was rendered")
    return f"MuJoCo {mujoco.__version__}"


def check_config() -> Finding:
    """Whether every task and robot file loads."""
    from rldg_core import task

    try:
        directory = task.config_directory()
        tasks = task.task_names()
        robots = sorted(path.stem for path in (directory / "robots").glob("[!_]*.yaml"))
        for name in tasks:
            task.load_task(name)
        for name in robots:
            task.load_robot(name)
    except task.TaskError as error:
        return Finding(
            "config", Status.FAIL, str(error), "correct the file; docs/architecture.md says what it may hold"
        )
    if not tasks:
        return Finding(
            "config", Status.FAIL, f"{directory} has no task files", "unset RLDG_CONFIG, or name another directory"
        )
    return Finding("config", Status.OK, f"{len(tasks)} tasks, {len(robots)} robots in {directory}")


def check_disk() -> Finding:
    """Free disk space where bags and runs are written, the current directory."""
    free_gib = shutil.disk_usage(Path.cwd()).free / 2**30
    detail = f"{free_gib:.0f} GiB free in {Path.cwd()}"
    if free_gib >= DISK_MIN_GIB:
        return Finding("disk", Status.OK, detail)
    return Finding("disk", Status.WARN, detail, f"make room: at least {DISK_MIN_GIB} GiB")


def check_shared_memory(directory: Path = Path("/dev/shm")) -> Finding:
    """Shared memory, through which Fast DDS carries messages on one machine."""
    try:
        usage = shutil.disk_usage(directory)
    except OSError as error:
        return Finding("shared memory", Status.FAIL, f"{directory}: {error.strerror}", f"mount a tmpfs on {directory}")
    free_mib = usage.free / 2**20
    detail = f"{free_mib:.0f} of {usage.total / 2**20:.0f} MiB free in {directory}"
    if not os.access(directory, os.W_OK):
        return Finding("shared memory", Status.FAIL, detail, f"make it writable: sudo chmod 1777 {directory}")
    if free_mib < SHARED_MEMORY_MIN_MIB:
        remedy = f"docker run --shm-size=256m, or remove what ended processes left: {directory}/fastdds_*"
        return Finding("shared memory", Status.WARN, detail, remedy)
    return Finding("shared memory", Status.OK, detail)


def check_spacemouse(devices: Sequence[str] | None = None) -> Finding:
    """Whether a SpaceMouse could be read. Optional: a gamepad or the scripted operator does without."""
    try:
        ctypes.CDLL("libhidapi-hidraw.so.0")
    except OSError:
        return Finding(
            "spacemouse", Status.WARN, "optional: libhidapi is missing", "sudo apt-get install libhidapi-hidraw0"
        )
    found = glob.glob("/dev/hidraw*") if devices is None else devices
    closed = [device for device in found if not os.access(device, os.R_OK | os.W_OK)]
    if closed:
        rule = """KERNEL=="hidraw*", ATTRS{idVendor}=="256f", MODE="0660", TAG+="uaccess" """.strip()
        remedy = f"for a SpaceMouse: put '{rule}' into /etc/udev/rules.d/70-spacemouse.rules and plug it in again"
        return Finding("spacemouse", Status.WARN, f"optional: no access to {', '.join(closed)}", remedy)
    return Finding("spacemouse", Status.OK, f"optional: libhidapi is there, {len(found)} HID devices")


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_system,
    check_cores,
    check_python,
    lambda: check_ros(os.environ),
    lambda: check_domain(os.environ),
    check_interfaces,
    check_middleware,
    check_rendering,
    check_config,
    check_disk,
    check_shared_memory,
    check_spacemouse,
)


class ProbeError(Exception):
    """A probe process failed; the message is the last line it wrote to stderr, or how it ended."""


def run(command: Sequence[str], timeout_s: float = SUBPROCESS_TIMEOUT_S) -> str:
    """Run a probe in a process of its own, which it may crash, and return its stdout.

    Raises:
        ProbeError: it failed or did not end.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise ProbeError(f"did not end in {timeout_s:g} s") from None
    if done.returncode:
        raise ProbeError((done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1])
    return done.stdout


def table(findings: Sequence[Finding]) -> str:
    """The findings as text: one line each, and below it the remedy where there is one."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<5} {finding.check:<{width}}  {finding.detail}")
        if finding.remedy:
            lines.append(f"{'':<5} {'':<{width}}  -> {finding.remedy}")
    return "\n".join(lines)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rldg doctor", add_help=False, allow_abbrev=False)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rig", nargs="?", const="robot", choices=("robot", "policy"))
    parser.add_argument("--robot-ip", default="172.16.0.2")
    return parser.parse_args(list(argv))


def main(argv: Sequence[str]) -> int:
    """Run all checks and print what they found; returns 1 where one failed, 2 for a wrong call."""
    if argv and argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    checks = list(CHECKS)
    try:
        options = _arguments(argv)
        if options.rig:
            from rldg_bringup.rig_doctor import rig_checks

            checks += rig_checks(options.rig, options.robot_ip)
    except SystemExit:
        print("rldg doctor: allowed: --json, --rig [policy], --robot-ip ADDRESS", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"rldg doctor: {error}", file=sys.stderr)
        return 2
    findings = [check() for check in checks]
    print(json.dumps([asdict(finding) for finding in findings], indent=2) if options.json else table(findings))
    return int(any(finding.status == Status.FAIL for finding in findings))
