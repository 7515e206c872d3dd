"""``./rldg doctor --rig``: what must be right on a machine of the rig before anything moves.

Checks read files below a root (``/``, or a made-up one in tests) or ask one thing of the network; none of them moves
the robot, and none waits longer than a few seconds. Bars without a source named are this project's choice.
"""

from __future__ import annotations

import csv
import ctypes
import ipaddress
import os
import re
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rldg_bringup.doctor import Finding, ProbeError, Status, run

FCI_PORT, HAND_PORT = 1337, 1338
# What the Franka Control Interface documentation has its users set ("Setting up the real-time kernel").
RTPRIO_MIN = 99
MEMLOCK_MIN_KIB = 102400
# Of the 1 ms that the round trip, our 0.1 ms and the robot's own time must fit into (FCI documentation, "Network").
PING_MEAN_MAX_MS, PING_WORST_MAX_MS = 0.3, 0.8
LINK_MIN_MBIT_S = 100  # 100BASE-TX (same page)
CLOCK_ERROR_MAX_S = 0.005  # a twentieth of a control period
BAG_DISK_MIN_GIB = 20
BAG_WRITE_MIN_MIB_S = 100  # twice what two 640x480 cameras at 30 Hz are, unpacked
GPU_MIN_MIB = 16000  # 7 billion parameters in 16 bits are 14 GiB
_WRITE_MIB, _WRITE_MAX_S = 128, 3.0
_CONNECT_TIMEOUT_S = 1.0
_COMMAND_TIMEOUT_S = 5.0

_SPACEMOUSE_LOGITECH = {0xC603, 0xC605, 0xC606, 0xC621, 0xC623, 0xC625, 0xC626, 0xC627, 0xC628, 0xC629, 0xC62B}
_SPACEMOUSE_RULE = 'KERNEL=="hidraw*", ATTRS{idVendor}=="256f", MODE="0660", TAG+="uaccess"'
_CLOCK_DAEMONS = ("chronyd", "systemd-timesyn", "ntpd", "ptp4l", "phc2sys")  # as in /proc/*/comm, 15 characters
_KNOWN_RMW = ("rmw_fastrtps_cpp", "rmw_cyclonedds_cpp", "rmw_zenoh_cpp")
_CAP_IPC_LOCK, _CAP_SYS_NICE = 14, 23
_STA_UNSYNC = 0x40

# What each way to drive the arm, and each camera, needs: Python modules, or packages of a ROS 2 installation.
_ARMS = {
    "robot:=fr3_direct": {"franky": "module"},
    "robot:=franka": {"franka_bringup": "package", "franka_msgs": "package", "crisp_controllers": "package"},
}
_CAMERAS = {
    "camera:=realsense_direct": {"pyrealsense2": "module"},
    "camera:=realsense": {"realsense2_camera": "package"},
}


def _read(path: Path) -> str:
    """The text of a small file of the kernel, or "" where there is none or it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(1 << 20).decode(errors="replace").strip()
    except OSError:
        return ""


def _line(path: Path) -> str:
    """The same for people: one line of at most 80 printable characters."""
    return "".join(character if character.isprintable() else " " for character in _read(path))[:80].strip()


def check_kernel(root: Path) -> Finding:
    """Whether the kernel is a PREEMPT_RT one."""
    name = _line(root / "proc/version").split(" (")[0] or "kernel unknown"
    if _read(root / "sys/kernel/realtime") == "1" or "PREEMPT_RT" in _read(root / "proc/version"):
        return Finding("rt kernel", Status.OK, f"{name}, PREEMPT_RT")
    remedy = "Ubuntu: sudo pro enable realtime-kernel; Debian: sudo apt-get install linux-image-rt-amd64; then reboot"
    return Finding("rt kernel", Status.FAIL, f"{name}, not PREEMPT_RT", remedy)


def _limit(text: str, name: str) -> float | None:
    match = re.search(rf"^{name} +(\d+|unlimited) ", text + " ", re.MULTILINE)
    if match is None:
        return None
    return float("inf") if match[1] == "unlimited" else float(match[1])


def check_limits(root: Path) -> Finding:
    """Whether this user may run at real-time priority and lock memory: by limits or by capabilities."""
    limits, status = _read(root / "proc/self/limits"), _read(root / "proc/self/status")
    rtprio, memlock = _limit(limits, "Max realtime priority"), _limit(limits, "Max locked memory")
    match = re.search(r"^CapEff:\s*([0-9a-fA-F]{1,16})$", status, re.MULTILINE)
    capable = int(match[1], 16) if match else 0
    remedy = (
        "put '@realtime - rtprio 99' and '@realtime - memlock 102400' into /etc/security/limits.conf, "
        "sudo groupadd -f realtime && sudo usermod -aG realtime $USER, log in again"
    )
    if rtprio is None or memlock is None:
        return Finding("rt limits", Status.FAIL, "/proc/self/limits does not say", remedy)
    detail = f"rtprio {rtprio:g}, memlock {memlock / 1024:g} KiB"
    nice, lock = capable >> _CAP_SYS_NICE & 1, capable >> _CAP_IPC_LOCK & 1
    if nice or lock:
        detail += ", capabilities" + " SYS_NICE" * nice + " IPC_LOCK" * lock
    if (rtprio >= RTPRIO_MIN or nice) and (memlock >= MEMLOCK_MIN_KIB * 1024 or lock):
        return Finding("rt limits", Status.OK, detail)
    return Finding("rt limits", Status.FAIL, f"{detail}; needed: {RTPRIO_MIN}, {MEMLOCK_MIN_KIB} KiB", remedy)


def check_governor(root: Path) -> Finding:
    """Whether every core keeps its frequency."""
    governors = {
        path.parent.parent.name: _line(path)
        for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    }
    if not governors:
        return Finding("cpu governor", Status.OK, "no frequency scaling here")
    slow = sorted({governor or "unreadable" for governor in governors.values()} - {"performance"})
    if not slow:
        return Finding("cpu governor", Status.OK, f"performance on {len(governors)} cores")
    remedy = "sudo cpupower frequency-set -g performance (package linux-tools-generic; Debian: linux-cpupower)"
    return Finding("cpu governor", Status.WARN, f"{', '.join(slow)} on some of {len(governors)} cores", remedy)


def check_isolated_cores(root: Path) -> Finding:
    """Whether the kernel keeps other work off some cores. Worth it once success rates of commands are below 0.99."""
    isolated = _line(root / "sys/devices/system/cpu/isolated")
    if isolated:
        return Finding("isolated cores", Status.OK, isolated)
    remedy = "only if commands get lost: isolcpus=2,3 on the kernel's command line, and pin the arm's process there"
    return Finding("isolated cores", Status.WARN, "none", remedy)


def route_to(table: str, address: str) -> tuple[str, bool] | None:
    """Interface of a table like /proc/net/route to an IPv4 address, and whether without a gateway; None: no route.

    Lines that are not routes are passed over.
    """
    target = int(ipaddress.IPv4Address(address))
    best: tuple[int, str, bool] | None = None
    for line in table.splitlines()[1:]:
        fields = line.split()
        try:
            destination, gateway, mask = (
                struct.unpack(">I", struct.pack("<I", int(fields[i], 16)))[0] for i in (1, 2, 7)
            )
            up = int(fields[3], 16) & 1
        except (IndexError, ValueError, struct.error):
            continue
        if up and target & mask == destination and (best is None or mask > best[0]):
            best = (mask, fields[0], gateway == 0)
    return None if best is None else best[1:]


def check_interface(root: Path, robot_ip: str) -> Finding:
    """Whether the robot is at the end of a cable of this machine."""
    check = "robot network"
    if ipaddress.IPv4Address(robot_ip).is_loopback:
        return Finding(check, Status.WARN, f"{robot_ip} is this machine: a rehearsal, not a robot", "give --robot-ip")
    route = route_to(_read(root / "proc/net/route"), robot_ip)
    own = f"an address in the subnet of {robot_ip}, as {ipaddress.IPv4Address(robot_ip) + 1}/24"
    if route is None:
        return Finding(check, Status.FAIL, f"no route to {robot_ip}", f"give the interface at the robot's cable {own}")
    name, direct = route
    if not direct:
        remedy = f"connect this machine to the LAN port of the robot's Control and give that interface {own}"
        return Finding(check, Status.FAIL, f"{robot_ip} would be reached by a gateway through {name}", remedy)
    device = root / "sys/class/net" / name
    mtu, speed = _line(device / "mtu"), _line(device / "speed")
    detail = f"{robot_ip} through {name}, MTU {mtu or 'unknown'}, {speed or 'unknown'} Mbit/s"
    if (device / "wireless").exists():
        return Finding(check, Status.FAIL, f"{detail}, wireless", "use a cable: 1 kHz does not go over the air")
    if _read(device / "carrier") == "0":
        return Finding(check, Status.FAIL, f"{detail}, no carrier", "plug the cable in, switch the robot on")
    if mtu.isdecimal() and int(mtu) < 1500:
        return Finding(check, Status.FAIL, detail, f"sudo ip link set {name} mtu 1500")
    if speed.isdecimal() and int(speed) < LINK_MIN_MBIT_S:
        return Finding(check, Status.FAIL, detail, f"another cable or network card: at least {LINK_MIN_MBIT_S} Mbit/s")
    return Finding(check, Status.OK, detail)


def check_port(robot_ip: str, port: int, timeout_s: float = _CONNECT_TIMEOUT_S) -> Finding:
    """Whether the robot listens: the arm at 1337, the hand at 1338. Connects once, says nothing, hangs up."""
    arm = port == FCI_PORT
    check, what = ("fci", "the arm's FCI") if arm else ("franka hand", "the hand")
    started = time.perf_counter()
    try:
        with socket.create_connection((robot_ip, port), timeout=timeout_s):
            elapsed_ms = 1e3 * (time.perf_counter() - started)
    except ConnectionRefusedError:
        remedy = "in Desk: unlock the joints, activate FCI; no other program may hold it"
        if not arm:
            remedy = "in Desk: Settings, End effector, Franka Hand; not needed where there is none"
        return Finding(check, Status.FAIL if arm else Status.WARN, f"{robot_ip}:{port} is closed", remedy)
    except OSError as error:
        remedy = f"is it on, at that address (Desk at https://{robot_ip}), and the cable in the LAN port of Control?"
        return Finding(check, Status.FAIL, f"{robot_ip}:{port}: {error.strerror or error}", remedy)
    return Finding(check, Status.OK, f"{what} listens at {robot_ip}:{port}, connected in {elapsed_ms:.2f} ms")


def judge_ping(text: str) -> Finding:
    """What ``ping -q`` printed about the way to the robot."""
    check = "robot latency"
    lost = re.search(r"([\d.]+)% packet loss", text)
    times = re.search(r"= ([\d.]+)/([\d.]+)/([\d.]+)(?:/([\d.]+))? ms", text)
    if lost is None or times is None:
        remedy = "is it on, and do firewalls let ICMP pass? The FCI check above says whether it listens"
        return Finding(check, Status.WARN, "ping got no answer", remedy)
    mean_ms, worst_ms = float(times[2]), float(times[3])
    detail = f"round trip {mean_ms:.2f} ms in the mean, {worst_ms:.2f} ms at worst, {float(lost[1]):g} % lost"
    if float(lost[1]) > 0.0 or mean_ms > PING_MEAN_MAX_MS or worst_ms > PING_WORST_MAX_MS:
        remedy = (
            f"at most {PING_MEAN_MAX_MS} and {PING_WORST_MAX_MS} ms, 0 %: no switch between, CPU governor performance, "
            "sudo ethtool -C <interface> rx-usecs 0"
        )
        return Finding(check, Status.WARN, detail, remedy)
    return Finding(check, Status.OK, detail)


def check_latency(robot_ip: str) -> Finding:
    """Round trips to the robot, by ten pings of the size of a state of the arm."""
    if shutil.which("ping") is None:
        return Finding("robot latency", Status.WARN, "ping is missing", "sudo apt-get install iputils-ping")
    command = ["ping", "-q", "-n", "-c", "10", "-i", "0.2", "-w", "3", "-s", "1200", robot_ip]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return judge_ping("")
    return judge_ping(done.stdout)


def _processes(root: Path) -> set[str]:
    return {_read(path) for path in (root / "proc").glob("[0-9]*/comm")}


def read_clock() -> tuple[bool, float]:
    """Whether the kernel holds its clock for synchronised, and the largest error it reckons with (s); by adjtimex."""
    buffer = ctypes.create_string_buffer(512)  # struct timex with room to spare; all zero: read only
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(buffer) < 0:
        return False, float("inf")
    # modes, offset, freq, maxerror, esterror, status: native alignment puts status behind five longs
    maxerror_us, status = struct.unpack_from("@l", buffer, 24)[0], struct.unpack_from("@i", buffer, 40)[0]
    return not status & _STA_UNSYNC, maxerror_us * 1e-6


def check_clock(root: Path, synchronised: bool, error_s: float) -> Finding:
    """Whether the clock follows another one. Machines of one graph must agree to a fraction of a control period."""
    daemons = sorted(_processes(root) & set(_CLOCK_DAEMONS))
    who = ", ".join(daemons) or "nothing that would set it"
    remedy = "sudo apt-get install chrony; with two machines one serves the other: docs/how-to/two-machines.md"
    if synchronised and error_s <= CLOCK_ERROR_MAX_S:
        return Finding("clock", Status.OK, f"synchronised within {1e3 * error_s:.1f} ms ({who})")
    if {"ptp4l", "phc2sys"} <= set(daemons):
        return Finding("clock", Status.OK, f"{who}; the kernel is not told how well: see pmc 'GET TIME_STATUS_NP'")
    if synchronised:
        detail = f"synchronised, but may be {1e3 * error_s:.0f} ms off ({who})"
        remedy = "chronyc tracking; let one machine serve the other: docs/how-to/two-machines.md"
        return Finding("clock", Status.WARN, detail, remedy)
    return Finding("clock", Status.WARN, f"not synchronised ({who})", remedy)


def check_discovery(environment: Mapping[str, str]) -> Finding:
    """Whether the other machine would find the nodes of this one."""
    check = "discovery"
    rmw = environment.get("RMW_IMPLEMENTATION", "")
    reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    peers = environment.get("ROS_STATIC_PEERS", "")
    profiles = environment.get("FASTDDS_DEFAULT_PROFILES_FILE", "")
    detail = f"{rmw or 'default RMW'}, {reach}" + (f", peers {peers}" if peers else "")
    if profiles and not Path(profiles).is_file():
        remedy = "unset FASTDDS_DEFAULT_PROFILES_FILE: ./rldg names the right one"
        return Finding(check, Status.FAIL, f"{profiles}: no such file", remedy)
    if rmw and rmw not in _KNOWN_RMW:
        return Finding(check, Status.WARN, detail, f"not one of {', '.join(_KNOWN_RMW)}; all machines need the same")
    if environment.get("ROS_LOCALHOST_ONLY", "0") not in ("", "0"):
        remedy = "unset ROS_LOCALHOST_ONLY: it overrules ROS_AUTOMATIC_DISCOVERY_RANGE"
        return Finding(check, Status.WARN, f"{detail}, ROS_LOCALHOST_ONLY", remedy)
    if reach not in ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT"):
        return Finding(check, Status.FAIL, detail, "ROS_AUTOMATIC_DISCOVERY_RANGE: SUBNET, LOCALHOST, OFF")
    if reach != "SUBNET":
        remedy = "for a second machine: export ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET ROS_DOMAIN_ID=<0 to 101> on both"
        return Finding(check, Status.WARN, f"{detail}: this machine only", remedy)
    if not environment.get("ROS_DOMAIN_ID"):
        remedy = "export ROS_DOMAIN_ID=<0 to 101>, the same on all machines of this rig and on no other"
        return Finding(check, Status.WARN, f"{detail}, no ROS_DOMAIN_ID", remedy)
    return Finding(check, Status.OK, f"{detail}, domain {environment['ROS_DOMAIN_ID']}")


def check_firewall(root: Path) -> Finding:
    """Whether a firewall is known to be on, which stops discovery and the robot's UDP unless it is told about them."""
    on = []
    if re.search(r"^ENABLED\s*=\s*yes", _read(root / "etc/ufw/ufw.conf"), re.MULTILINE):
        on.append("ufw")
    if "firewalld" in _processes(root):
        on.append("firewalld")
    if not on:
        return Finding("firewall", Status.OK, "neither ufw nor firewalld is on")
    remedy = "let in all that comes from the robot and from the other machine: sudo ufw allow from <address>"
    if on == ["firewalld"]:
        remedy = "sudo firewall-cmd --zone=trusted --add-source=<address> --permanent && sudo firewall-cmd --reload"
    return Finding("firewall", Status.WARN, f"{' and '.join(on)} on", remedy)


def check_spacemouse(root: Path) -> Finding:
    """Whether a SpaceMouse is plugged in and may be read."""
    check = "spacemouse device"
    for uevent in sorted((root / "sys/class/hidraw").glob("hidraw*/device/uevent")):
        text = _read(uevent)
        ids = re.search(r"^HID_ID=[0-9A-Fa-f]{4}:([0-9A-Fa-f]{8}):([0-9A-Fa-f]{8})$", text, re.MULTILINE)
        if ids is None:
            continue
        vendor, product = int(ids[1], 16), int(ids[2], 16)
        if not (vendor == 0x256F or (vendor == 0x046D and product in _SPACEMOUSE_LOGITECH)):
            continue
        name = re.search(r"^HID_NAME=([ -~]{1,80})", text, re.MULTILINE)
        device = root / "dev" / uevent.parent.parent.name
        detail = f"{name[1] if name else 'SpaceMouse'} at /dev/{device.name}"
        if os.access(device, os.R_OK | os.W_OK):
            return Finding(check, Status.OK, detail)
        remedy = f"put '{_SPACEMOUSE_RULE}' into /etc/udev/rules.d/70-spacemouse.rules and plug it in again"
        return Finding(check, Status.FAIL, f"{detail}, no access", remedy)
    return Finding(check, Status.WARN, "none found", "plug it in; operator:=gamepad and the console do without")


def check_realsense(root: Path) -> Finding:
    """Whether a RealSense camera is plugged in, as USB 3, and may be read."""
    check = "realsense"
    for product in sorted((root / "sys/bus/usb/devices").glob("*/product")):
        name = _line(product)
        if "RealSense" not in name or _read(product.parent / "idVendor") != "8086":
            continue
        speed, serial = _line(product.parent / "speed"), _line(product.parent / "serial")
        detail = f"{name}, serial {serial or 'unknown'}, {speed or 'unknown'} Mbit/s"
        if not (speed.isdecimal() and int(speed) >= 5000):
            remedy = "use a USB 3 port (blue, or marked SS) and the camera's own cable"
            return Finding(check, Status.FAIL, f"{detail}: not USB 3", remedy)
        bus, number = _read(product.parent / "busnum"), _read(product.parent / "devnum")
        if bus.isdecimal() and number.isdecimal():
            node = root / "dev/bus/usb" / f"{int(bus):03}" / f"{int(number):03}"
            if not os.access(node, os.R_OK | os.W_OK):
                remedy = (
                    "install librealsense's 99-realsense-libusb.rules into /etc/udev/rules.d, sudo udevadm control "
                    "--reload, plug it in again"
                )
                return Finding(check, Status.FAIL, f"{detail}, no access", remedy)
        return Finding(check, Status.OK, detail)
    return Finding(check, Status.WARN, "none found", "plug it in, or it is at another machine")


def judge_gpus(text: str) -> Finding:
    """What ``nvidia-smi --query-gpu=name,memory.total,memory.free --format=csv,noheader,nounits`` printed."""
    check, gpus = "gpu", []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) == 3 and row[1].strip().isdecimal() and row[2].strip().isdecimal():
            gpus.append((row[0].strip()[:80], int(row[1]), int(row[2])))
    if not gpus:
        remedy = "large generalists need one, small ones do not: docs/how-to/serve-a-generalist.md"
        return Finding(check, Status.WARN, "no NVIDIA GPU", remedy)
    name, total, free = max(gpus, key=lambda gpu: gpu[2])
    detail = f"{len(gpus)}: {name}, {free} of {total} MiB free"
    if free < GPU_MIN_MIB:
        remedy = f"OpenVLA-7B needs about {GPU_MIN_MIB} MiB: end what else uses it, or serve a smaller model"
        return Finding(check, Status.WARN, detail, remedy)
    return Finding(check, Status.OK, detail)


def check_gpu() -> Finding:
    """Memory of the GPU that has most of it free."""
    if shutil.which("nvidia-smi") is None:
        return judge_gpus("")
    query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        return judge_gpus(run(query, _COMMAND_TIMEOUT_S))
    except ProbeError as error:
        return Finding("gpu", Status.FAIL, f"nvidia-smi: {error}", "mend the driver: nvidia-smi must run")


def judge_disk(free_gib: float, written_mib_s: float, where: Path) -> Finding:
    """Whether bags of a day fit, and are written as fast as they come."""
    detail = f"{free_gib:.0f} GiB free, writes {written_mib_s:.0f} MiB/s in {where}"
    if free_gib < BAG_DISK_MIN_GIB:
        return Finding("bag disk", Status.WARN, detail, f"make room: at least {BAG_DISK_MIN_GIB} GiB")
    if written_mib_s < BAG_WRITE_MIN_MIB_S:
        remedy = f"record to a faster disk (bags:=<folder>): at least {BAG_WRITE_MIN_MIB_S} MiB/s"
        return Finding("bag disk", Status.WARN, detail, remedy)
    return Finding("bag disk", Status.OK, detail)


def check_bag_disk(directory: Path) -> Finding:
    """Writes up to 128 MiB where bags would go, for up to three seconds, and removes them."""
    import tempfile

    block, written_mib = os.urandom(1 << 20), 0
    try:
        free_gib = shutil.disk_usage(directory).free / 2**30
        with tempfile.TemporaryFile(dir=directory) as file:
            started = time.perf_counter()
            while written_mib < _WRITE_MIB and time.perf_counter() - started < _WRITE_MAX_S:
                for _ in range(8):
                    file.write(block)
                os.fsync(file.fileno())
                written_mib += 8
            elapsed_s = time.perf_counter() - started
    except OSError as error:
        remedy = "run this where bags shall go, and may be written"
        return Finding("bag disk", Status.FAIL, f"{directory}: {error.strerror}", remedy)
    return judge_disk(free_gib, written_mib / elapsed_s, directory)


def _is_there(name: str, kind: str, environment: Mapping[str, str]) -> bool:
    if kind == "module":
        import importlib.util

        return importlib.util.find_spec(name) is not None
    prefixes = [prefix for prefix in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    return any((Path(prefix) / "share/ament_index/resource_index/packages" / name).is_file() for prefix in prefixes)


def check_drivers(check: str, ways: Mapping[str, Mapping[str, str]], environment: Mapping[str, str]) -> Finding:
    """Whether one of several ways to drive something has all that it needs."""
    missing = {
        way: [name for name, kind in needs.items() if not _is_there(name, kind, environment)]
        for way, needs in ways.items()
    }
    whole = [way for way, names in missing.items() if not names]
    if whole:
        return Finding(check, Status.OK, " and ".join(whole))
    detail = "; ".join(f"{way} lacks {', '.join(names)}" for way, names in missing.items())
    return Finding(check, Status.FAIL, detail, "docs/reference/versions.md says where each comes from")


def rig_checks(role: str, robot_ip: str) -> list[Callable[[], Finding]]:
    """The checks of a machine's role: ``robot`` (at the arm) or ``policy`` (which only computes).

    Raises:
        ValueError: no such role, or no IPv4 address; one line.
    """
    try:
        ipaddress.IPv4Address(robot_ip)
    except ValueError:
        raise ValueError(f"--robot-ip: is {robot_ip!r}, must be an IPv4 address such as 172.16.0.2") from None
    root = Path("/")
    shared: list[Callable[[], Finding]] = [
        lambda: check_discovery(os.environ),
        lambda: check_firewall(root),
        lambda: check_clock(root, *read_clock()),
    ]
    if role == "policy":
        return [*shared, check_gpu]
    if role != "robot":
        raise ValueError(f"--rig: is {role!r}, must be robot or policy")
    return [
        lambda: check_kernel(root),
        lambda: check_limits(root),
        lambda: check_governor(root),
        lambda: check_isolated_cores(root),
        lambda: check_interface(root, robot_ip),
        lambda: check_port(robot_ip, FCI_PORT),
        lambda: check_port(robot_ip, HAND_PORT),
        lambda: check_latency(robot_ip),
        *shared,
        lambda: check_spacemouse(root),
        lambda: check_realsense(root),
        lambda: check_drivers("arm driver", _ARMS, os.environ),
        lambda: check_drivers("camera driver", _CAMERAS, os.environ),
        lambda: check_bag_disk(Path.cwd()),
    ]
