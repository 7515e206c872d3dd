"""``./rldg doctor``: what it finds here, and what it says about a machine that lacks something."""

import json
import os
import sys

import pytest

from rldg_bringup import doctor
from rldg_bringup.doctor import Finding, Status


def test_two_processes_reach_each_other_over_the_middleware() -> None:
    finding = doctor.check_middleware()
    assert finding.status in (Status.OK, Status.WARN)
    assert "round trip" in finding.detail


def test_a_middleware_that_is_not_there_fails_with_a_remedy(monkeypatch) -> None:
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_nobody_cpp")
    finding = doctor.check_middleware()
    assert finding.status == Status.FAIL
    assert "rmw_nobody_cpp" in finding.detail
    assert "RMW_IMPLEMENTATION" in finding.remedy


def test_interfaces_that_are_not_built_fail_with_a_remedy(monkeypatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    finding = doctor.check_interfaces()
    assert finding.status == Status.FAIL
    assert "rldg_interfaces" in finding.detail
    assert "colcon build" in finding.remedy


def test_a_frame_is_rendered() -> None:
    assert doctor.check_rendering().status == Status.OK


def test_rendering_without_a_backend_fails_with_the_package_to_install(monkeypatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    finding = doctor.check_rendering()
    assert finding.status == Status.FAIL
    assert "libegl1" in finding.remedy


def test_the_configuration_of_the_checkout_loads() -> None:
    assert doctor.check_config().status == Status.OK


def test_a_wrong_task_file_fails_with_its_name_and_key(tmp_path, monkeypatch) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "wrong.yaml").write_text("no_such_key: 1\n")
    monkeypatch.setenv("RLDG_CONFIG", str(tmp_path))
    finding = doctor.check_config()
    assert finding.status == Status.FAIL
    assert "wrong.yaml" in finding.detail
    assert "no_such_key" in finding.detail


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("", Status.OK),
        ("0", Status.OK),
        ("101", Status.OK),
        ("102", Status.WARN),
        ("232", Status.OK),
        ("233", Status.FAIL),
        ("-1", Status.FAIL),
        ("one", Status.FAIL),
    ],
)
def test_the_domain_id_is_judged_by_its_ports(value, status) -> None:
    finding = doctor.check_domain({"ROS_DOMAIN_ID": value})
    assert finding.status == status
    assert bool(finding.remedy) == (status != Status.OK)


def test_shared_memory_that_is_not_there_fails(tmp_path) -> None:
    finding = doctor.check_shared_memory(tmp_path / "shm")
    assert finding.status == Status.FAIL
    assert str(tmp_path / "shm") in finding.remedy


def test_a_device_without_access_is_a_warning_with_the_rule_that_opens_it(monkeypatch) -> None:
    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(os, "access", lambda path, mode: path != "/dev/hidraw1")
    finding = doctor.check_spacemouse(["/dev/hidraw0", "/dev/hidraw1"])
    assert finding.status == Status.WARN
    assert "/dev/hidraw1" in finding.detail
    assert "/dev/hidraw0" not in finding.detail
    assert "udev" in finding.remedy


def test_a_missing_ros_fails(monkeypatch) -> None:
    def missing(name: str) -> str:
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", missing)
    assert doctor.check_ros({}).status == Status.FAIL
    assert doctor.check_ros({"ROS_DISTRO": "jazzy"}).detail.startswith("jazzy")


def test_a_probe_that_crashes_is_an_error_with_its_last_words() -> None:
    with pytest.raises(doctor.ProbeError, match="ValueError: the cause"):
        doctor.run([sys.executable, "-c", "raise ValueError('the cause')"])
    with pytest.raises(doctor.ProbeError, match="status -9"):
        doctor.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])


FINE = Finding("one", Status.OK, "fine")
ODD = Finding("two", Status.WARN, "odd", "look at it")
BROKEN = Finding("three", Status.FAIL, "broken", "mend it")


@pytest.mark.parametrize(("findings", "status"), [([FINE, ODD], 0), ([FINE, ODD, BROKEN], 1)])
def test_only_a_failure_makes_the_exit_status_1(findings, status, monkeypatch, capsys) -> None:
    monkeypatch.setattr(doctor, "CHECKS", [lambda finding=finding: finding for finding in findings])
    assert doctor.main([]) == status
    table = capsys.readouterr().out
    assert all(finding.detail in table and finding.remedy in table for finding in findings)
    assert doctor.main(["--json"]) == status
    assert [row["status"] for row in json.loads(capsys.readouterr().out)] == [finding.status for finding in findings]


def test_an_unknown_argument_is_refused(capsys) -> None:
    assert doctor.main(["--jsn"]) == 2
    assert "allowed: --json" in capsys.readouterr().err
