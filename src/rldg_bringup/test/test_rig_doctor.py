"""``./rldg doctor --rig``: every verdict, on made-up machines, some of whose files hold what no kernel would write."""

import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldg_bringup import doctor, rig_doctor
from rldg_bringup.doctor import Finding, Status

OK, WARN, FAIL = Status.OK, Status.WARN, Status.FAIL
HOSTILE = ["", "\0\0\0", "\xff" * 5000, "99999999999999999999999", "-1", "yes\nno", "=" * 100_000]


def machine(root: Path, **files: str) -> Path:
    """A root with these files; ``__`` in a name stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
    return root


def check(finding: Finding, status: Status, *words: str) -> None:
    assert finding.status == status, finding
    assert bool(finding.remedy) == (status != OK), finding
    for word in words:
        assert word in finding.detail + finding.remedy, finding


RT = "Linux version 6.8.1-1015-realtime (buildd@x) #16-Ubuntu SMP PREEMPT_RT Mon"
PLAIN = "Linux version 6.8.0-45-generic (buildd@x) #45-Ubuntu SMP PREEMPT_DYNAMIC Fri"


def test_a_real_time_kernel_is_told_from_another(tmp_path) -> None:
    check(rig_doctor.check_kernel(machine(tmp_path, proc__version=RT)), OK, "6.8.1-1015-realtime")
    check(rig_doctor.check_kernel(machine(tmp_path, proc__version=PLAIN)), FAIL, "6.8.0-45-generic", "pro enable")
    check(rig_doctor.check_kernel(machine(tmp_path, sys__kernel__realtime="1\n")), OK)


LIMITS = "Limit   Soft   Hard   Units\nMax locked memory   {}   8388608   bytes\nMax realtime priority   {}   0   \n"


@pytest.mark.parametrize(
    ("memlock", "rtprio", "capabilities", "status"),
    [
        ("unlimited", "99", "0000000000000000", OK),
        ("104857600", "99", "0000000000000000", OK),
        ("104857599", "99", "0000000000000000", FAIL),
        ("unlimited", "98", "0000000000000000", FAIL),
        ("8388608", "0", "0000000000000000", FAIL),
        ("8388608", "0", "000001ffffffffff", OK),
        ("unlimited", "0", "0000000000800000", OK),
        ("8388608", "0", "0000000000800000", FAIL),
        ("8388608", "99", "not a number", FAIL),
    ],
)
def test_limits_or_the_capabilities_that_replace_them(memlock, rtprio, capabilities, status, tmp_path) -> None:
    files = {"proc__self__limits": LIMITS.format(memlock, rtprio), "proc__self__status": f"CapEff:\t{capabilities}\n"}
    check(rig_doctor.check_limits(machine(tmp_path, **files)), status, f"rtprio {rtprio}")


def test_limits_that_cannot_be_read_fail(tmp_path) -> None:
    check(rig_doctor.check_limits(tmp_path), FAIL, "limits.conf")


def test_one_core_that_changes_its_frequency_is_a_warning(tmp_path) -> None:
    check(rig_doctor.check_governor(tmp_path), OK, "no frequency scaling")
    cores = "sys__devices__system__cpu__cpu{}__cpufreq__scaling_governor"
    machine(tmp_path, **{cores.format(0): "performance\n", cores.format(1): "performance\n"})
    check(rig_doctor.check_governor(tmp_path), OK, "2 cores")
    machine(tmp_path, **{cores.format(12): "powersave\n"})
    check(rig_doctor.check_governor(tmp_path), WARN, "powersave", "cpupower")


def test_isolated_cores_are_named(tmp_path) -> None:
    check(rig_doctor.check_isolated_cores(tmp_path), WARN, "isolcpus")
    check(rig_doctor.check_isolated_cores(machine(tmp_path, sys__devices__system__cpu__isolated="2-3\n")), OK, "2-3")


def routes(*lines: tuple[str, str, str, str]) -> str:
    """A table like /proc/net/route of interface, destination, gateway, mask."""

    def little(address: str) -> str:
        return f"{struct.unpack('<I', socket.inet_aton(address))[0]:08X}"

    rows = [f"{name}\t{little(d)}\t{little(g)}\t0003\t0\t0\t0\t{little(m)}\t0\t0\t0" for name, d, g, m in lines]
    return "\n".join(["Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT", *rows])


DEFAULT = ("wlan0", "0.0.0.0", "192.168.1.1", "0.0.0.0")
CABLE = ("eno1", "172.16.0.0", "0.0.0.0", "255.255.255.0")


def test_the_most_specific_route_counts() -> None:
    table = routes(DEFAULT, CABLE, ("vpn0", "172.16.0.0", "0.0.0.0", "255.255.0.0"))
    assert rig_doctor.route_to(table, "172.16.0.2") == ("eno1", True)
    assert rig_doctor.route_to(table, "172.16.1.2") == ("vpn0", True)
    assert rig_doctor.route_to(table, "8.8.8.8") == ("wlan0", False)
    assert rig_doctor.route_to(routes(CABLE), "8.8.8.8") is None


@given(st.text(max_size=400))
def test_a_table_of_routes_that_is_none_has_no_route(text) -> None:
    assert rig_doctor.route_to(f"header\n{text}", "172.16.0.2") is None


def test_lines_that_are_no_routes_are_passed_over() -> None:
    table = routes(CABLE) + "\neno2 zzzz\neno3\t-1\t0\t3\t0\t0\t0\t0\neno4\tFFFFFFFFFF\t0\t3\t0\t0\t0\tFFFFFFFFFF"
    assert rig_doctor.route_to(table, "172.16.0.2") == ("eno1", True)


@pytest.mark.parametrize(
    ("table", "device", "status", "word"),
    [
        (routes(DEFAULT, CABLE), {"mtu": "1500", "speed": "1000", "carrier": "1"}, OK, "eno1, MTU 1500"),
        (routes(DEFAULT, CABLE), {}, OK, "MTU unknown"),
        (routes(DEFAULT), {}, FAIL, "gateway through wlan0"),
        ("", {}, FAIL, "172.16.0.3/24"),
        (routes(CABLE), {"carrier": "0"}, FAIL, "no carrier"),
        (routes(CABLE), {"mtu": "1280"}, FAIL, "mtu 1500"),
        (routes(CABLE), {"speed": "10"}, FAIL, "100 Mbit/s"),
        (routes(CABLE), {"speed": "-1", "mtu": "\xff"}, OK, "-1 Mbit/s"),
        (routes(CABLE), {"wireless__link": ""}, FAIL, "cable"),
    ],
)
def test_the_robot_must_be_at_the_end_of_a_cable(table, device, status, word, tmp_path) -> None:
    files = {"proc__net__route": table} | {f"sys__class__net__eno1__{name}": text for name, text in device.items()}
    check(rig_doctor.check_interface(machine(tmp_path, **files), "172.16.0.2"), status, word)


def test_a_robot_on_this_machine_is_a_rehearsal(tmp_path) -> None:
    check(rig_doctor.check_interface(tmp_path, "127.0.0.3"), WARN, "rehearsal")


@pytest.fixture
def listener() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.41", 0)) as server:
        yield server.getsockname()


def test_a_robot_that_listens_is_connected_to_once(listener) -> None:
    check(rig_doctor.check_port(*listener), OK, "connected in")


def test_a_closed_port_says_what_to_switch_on(monkeypatch, listener) -> None:
    address, _ = listener
    with socket.create_server((address, 0)) as other:
        closed = other.getsockname()[1]
    check(rig_doctor.check_port(address, closed), WARN, "Franka Hand")
    monkeypatch.setattr(rig_doctor, "FCI_PORT", closed)
    check(rig_doctor.check_port(address, closed), FAIL, "activate FCI")


def test_a_robot_that_is_not_there_costs_no_more_than_the_time_given(monkeypatch) -> None:
    def silent(address: object, timeout: float) -> socket.socket:
        asked.append(timeout)
        raise TimeoutError("timed out")

    asked: list[float] = []
    monkeypatch.setattr(rig_doctor.socket, "create_connection", silent)
    check(rig_doctor.check_port("172.16.0.2", 1337), FAIL, "timed out", "cable")
    assert asked == [1.0]


PING = "10 packets transmitted, {} received, {}% packet loss, time 9ms\nrtt min/avg/max/mdev = 0.080/{}/{}/0.020 ms\n"


@pytest.mark.parametrize(
    ("text", "status", "word"),
    [
        (PING.format(10, 0, 0.15, 0.3), OK, "0.15 ms"),
        (PING.format(9, 10, 0.15, 0.3), WARN, "10 % lost"),
        (PING.format(10, 0, 0.4, 0.5), WARN, "0.40 ms"),
        (PING.format(10, 0, 0.15, 1.2), WARN, "governor"),
        ("10 packets transmitted, 0 received, 100% packet loss, time 9000ms\n", WARN, "no answer"),
        ("ping: socket: Operation not permitted", WARN, "no answer"),
        ("rtt = 1/2/3 ms, x% packet loss", WARN, "no answer"),
    ],
)
def test_round_trips_are_judged_by_mean_worst_and_loss(text, status, word) -> None:
    check(rig_doctor.judge_ping(text), status, word)


@pytest.mark.parametrize(
    ("processes", "clock", "status", "word"),
    [
        (["chronyd"], (True, 0.0004), OK, "0.4 ms (chronyd)"),
        (["chronyd"], (True, 0.05), WARN, "50 ms off"),
        (["systemd-timesyn"], (False, 16.0), WARN, "not synchronised (systemd-timesyn)"),
        (["bash"], (False, 16.0), WARN, "nothing that would set it"),
        (["ptp4l", "phc2sys"], (False, 16.0), OK, "ptp4l"),
        (["ptp4l"], (False, 16.0), WARN, "not synchronised"),
    ],
)
def test_the_clock_must_follow_another(processes, clock, status, word, tmp_path) -> None:
    machine(tmp_path, **{f"proc__{100 + i}__comm": f"{name}\n" for i, name in enumerate(processes)})
    check(rig_doctor.check_clock(tmp_path, *clock), status, word)


def test_the_kernel_says_how_well_its_clock_is_set() -> None:
    synchronised, error_s = rig_doctor.read_clock()
    assert isinstance(synchronised, bool)
    assert 0.0 <= error_s <= 16.1  # NTP_PHASE_LIMIT


@pytest.mark.parametrize(
    ("environment", "status", "word"),
    [
        ({"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp", "ROS_DOMAIN_ID": "42"}, OK, "domain 42"),
        ({"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}, WARN, "no ROS_DOMAIN_ID"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_DOMAIN_ID": "42"}, WARN, "this machine only"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "EVERYWHERE"}, FAIL, "SUBNET"),
        ({"ROS_LOCALHOST_ONLY": "1", "ROS_DOMAIN_ID": "42"}, WARN, "unset ROS_LOCALHOST_ONLY"),
        ({"RMW_IMPLEMENTATION": "rmw_connextdds", "ROS_DOMAIN_ID": "42"}, WARN, "rmw_fastrtps_cpp"),
        ({"FASTDDS_DEFAULT_PROFILES_FILE": "/nowhere.xml"}, FAIL, "/nowhere.xml"),
    ],
)
def test_the_other_machine_must_find_this_one(environment, status, word) -> None:
    check(rig_doctor.check_discovery(environment), status, word)


def test_a_firewall_is_told_about_the_robot(tmp_path) -> None:
    check(rig_doctor.check_firewall(machine(tmp_path, etc__ufw__ufw_conf="")), OK)
    (tmp_path / "etc/ufw/ufw.conf").write_text("# firewall\nENABLED=no\n")
    check(rig_doctor.check_firewall(tmp_path), OK)
    check(rig_doctor.check_firewall(machine(tmp_path, proc__7__comm="firewalld\n")), WARN, "firewall-cmd")
    (tmp_path / "etc/ufw/ufw.conf").write_text("ENABLED=yes\n")
    check(rig_doctor.check_firewall(tmp_path), WARN, "ufw allow from")


UEVENT = "DRIVER=hid-generic\nHID_ID=0003:{}:{}\nHID_NAME=3Dconnexion SpaceMouse\n"
HIDRAW = "sys__class__hidraw__hidraw{}__device__uevent"


def test_a_spacemouse_is_found_among_keyboards(tmp_path, monkeypatch) -> None:
    keyboard = UEVENT.format("0000046D", "0000C31C")
    check(rig_doctor.check_spacemouse(machine(tmp_path, **{HIDRAW.format(0): keyboard})), WARN, "none found")
    files = {HIDRAW.format(3): UEVENT.format("0000256F", "0000C635"), "dev__hidraw3": ""}
    check(rig_doctor.check_spacemouse(machine(tmp_path, **files)), OK, "/dev/hidraw3")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    check(rig_doctor.check_spacemouse(tmp_path), FAIL, "no access", "udev")


def test_an_old_spacemouse_by_logitech_is_one_too(tmp_path) -> None:
    files = {HIDRAW.format(1): UEVENT.format("0000046D", "0000C626"), "dev__hidraw1": ""}
    check(rig_doctor.check_spacemouse(machine(tmp_path, **files)), OK)


CAMERA = {
    "product": "Intel(R) RealSense(TM) Depth Camera 405\n",
    "idVendor": "8086\n",
    "serial": "1234\n",
    "busnum": "2",
    "devnum": "5",
}


@pytest.mark.parametrize(
    ("changes", "node", "status", "word"),
    [
        ({"speed": "5000\n"}, "dev__bus__usb__002__005", OK, "serial 1234"),
        ({"speed": "10000\n"}, "dev__bus__usb__002__005", OK, ""),
        ({"speed": "480\n"}, "dev__bus__usb__002__005", FAIL, "not USB 3"),
        ({"speed": ""}, "dev__bus__usb__002__005", FAIL, "unknown Mbit/s"),
        ({"speed": "5000\n"}, "dev__null", FAIL, "udev"),
        ({"speed": "5000\n", "idVendor": "dead"}, "dev__null", WARN, "none found"),
    ],
)
def test_a_realsense_must_be_at_a_usb_3_port_and_readable(changes, node, status, word, tmp_path) -> None:
    files = {f"sys__bus__usb__devices__2-1__{name}": text for name, text in (CAMERA | changes).items()} | {node: ""}
    check(rig_doctor.check_realsense(machine(tmp_path, **files)), status, word)


@pytest.mark.parametrize(
    ("text", "status", "word"),
    [
        ("NVIDIA RTX 4090, 24564, 23000\n", OK, "23000 of 24564 MiB free"),
        ("NVIDIA A, 24564, 100\nNVIDIA B, 24564, 20000\n", OK, "2: NVIDIA B"),
        ("NVIDIA RTX 4090, 24564, 9000\n", WARN, "16000"),
        ("", WARN, "no NVIDIA GPU"),
        ("No devices were found\n", WARN, "no NVIDIA GPU"),
        ("NVIDIA, [N/A], [N/A]\na,b\n,,,,\n", WARN, "no NVIDIA GPU"),
    ],
)
def test_the_gpu_with_most_free_memory_counts(text, status, word) -> None:
    check(rig_doctor.judge_gpus(text), status, word)


@pytest.mark.parametrize(("free", "speed", "status"), [(100, 500, OK), (19, 500, WARN), (100, 99, WARN)])
def test_the_disk_for_bags_must_be_large_and_fast(free, speed, status) -> None:
    check(rig_doctor.judge_disk(free, speed, Path("/bags")), status, "/bags")


def test_measuring_the_disk_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(rig_doctor, "_WRITE_MIB", 8)
    assert "MiB/s" in rig_doctor.check_bag_disk(tmp_path).detail
    assert list(tmp_path.iterdir()) == []
    check(rig_doctor.check_bag_disk(tmp_path / "none"), FAIL, "none")


def test_one_whole_way_to_drive_the_arm_is_enough(tmp_path) -> None:
    ways = {"a": {"rldg_core": "module"}, "b": {"franka_msgs": "package", "crisp_controllers": "package"}}
    check(rig_doctor.check_drivers("arm", ways, {}), OK, "a")
    ways["a"] = {"no_such_module": "module"}
    check(rig_doctor.check_drivers("arm", ways, {}), FAIL, "a lacks no_such_module; b lacks franka_msgs, crisp")
    index = "share__ament_index__resource_index__packages__"
    machine(tmp_path, **{f"{index}franka_msgs": "", f"{index}crisp_controllers": ""})
    check(rig_doctor.check_drivers("arm", ways, {"AMENT_PREFIX_PATH": f"/none::{tmp_path}"}), OK, "b")


FILES = [
    "proc__version",
    "proc__self__limits",
    "proc__self__status",
    "proc__1__comm",
    "proc__net__route",
    "sys__devices__system__cpu__isolated",
    "sys__devices__system__cpu__cpu0__cpufreq__scaling_governor",
    "sys__class__hidraw__hidraw0__device__uevent",
    "sys__bus__usb__devices__1-1__product",
    "sys__bus__usb__devices__1-1__speed",
    "etc__ufw__ufw.conf",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:8]))
def test_whatever_the_files_hold_each_check_answers_on_one_line(text, tmp_path) -> None:
    root = machine(tmp_path, **dict.fromkeys(FILES, text))
    findings = [
        rig_doctor.check_kernel(root),
        rig_doctor.check_limits(root),
        rig_doctor.check_governor(root),
        rig_doctor.check_isolated_cores(root),
        rig_doctor.check_interface(root, "172.16.0.2"),
        rig_doctor.check_clock(root, False, float("inf")),
        rig_doctor.check_firewall(root),
        rig_doctor.check_spacemouse(root),
        rig_doctor.check_realsense(root),
    ]
    for finding in findings:
        assert len(finding.detail.splitlines()) == 1
        assert finding.detail.isprintable()
        assert len(finding.detail) < 500


def test_a_directory_in_place_of_a_file_is_an_empty_file(tmp_path) -> None:
    (tmp_path / "proc/version").mkdir(parents=True)
    check(rig_doctor.check_kernel(tmp_path), FAIL, "kernel unknown")


@pytest.fixture
def only_the_rig(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", ())
    monkeypatch.setattr(rig_doctor, "_WRITE_MIB", 8)


def test_the_verb_checks_a_machine_at_a_robot(only_the_rig, capsys) -> None:
    status = doctor.main(["--rig", "--robot-ip", "127.0.0.42", "--json"])
    rows = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"rt kernel", "fci", "franka hand", "clock", "bag disk"} <= set(rows)
    assert rows["fci"]["status"] == "fail"
    assert status == 1


def test_a_machine_for_policies_is_not_asked_for_a_real_time_kernel(only_the_rig, capsys) -> None:
    doctor.main(["--rig", "policy", "--json"])
    assert [row["check"] for row in json.loads(capsys.readouterr().out)] == ["discovery", "firewall", "clock", "gpu"]


@pytest.mark.parametrize(
    "words", [["--rig", "arm"], ["--rig", "--robot-ip", "fr3.local"], ["--robot-ip"], ["--rig=", "--robot-ip=1.2.3"]]
)
def test_a_wrong_call_is_refused_before_anything_is_checked(words, only_the_rig, capsys) -> None:
    assert doctor.main(words) == 2
    assert capsys.readouterr().out == ""
