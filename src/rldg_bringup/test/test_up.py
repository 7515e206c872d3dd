"""``up`` lists, explains, launches with what is there, and keeps launches apart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rldg_bringup import up
from rldg_bringup.domain import lease_domain

TELL = f"""#!{sys.executable} -S
import os
print("DOMAIN", os.environ.get("ROS_DOMAIN_ID"), os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE"), flush=True)
"""


FILE = """<launch>
  <arg name="seed" default="0" description="Seed."/>
  <node pkg="nodes" exec="tell" output="screen"/>
</launch>"""


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An install prefix with two tasks and one part, whose only node tells its domain."""
    share = tmp_path / "share" / "rldg_bringup"
    (share / "launch").mkdir(parents=True)
    (share / "config" / "tasks").mkdir(parents=True)
    for name in ("peg", "plug", "part"):
        (share / "launch" / f"{name}.launch.xml").write_text(FILE)
        if name != "part":
            (share / "config" / "tasks" / f"{name}.yaml").touch()
    program = tmp_path / "lib" / "nodes" / "tell"
    program.parent.mkdir(parents=True)
    program.write_text(TELL)
    program.chmod(0o755)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "log"))
    return tmp_path


def run_up(*words: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    merged = {**os.environ, **environment}
    variables = {name: value for name, value in merged.items() if value is not None}
    command = [sys.executable, "-m", "rldg_bringup.up", *words]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)


def test_without_a_task_the_tasks_are_listed(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert up.main([]) == 0
    assert capsys.readouterr().out.endswith("tasks:\n  peg\n  plug\n")


def test_arguments_are_shown(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert up.main(["peg", "--show-args"]) == 0
    assert "seed  (default: 0)\n        Seed." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plugg"], "there is no task 'plugg'; did you mean 'plug'? tasks: peg, plug"),
        (["moon"], "there is no task 'moon'; tasks: peg, plug"),
        (["peg", "plug"], "'plug' is not of the form argument:=value"),
        (["peg", "--fast"], "there is no option --fast; options: --show-args, --share-domain, --with-cell, --runner"),
        (["peg", "robot:=fr3_direct"], "robot_ip: is not given, but robot:=fr3_direct needs the address of the robot"),
        (["peg", "--runner", "sed:=1"], "peg.launch.xml: there is no argument 'sed'; did you mean 'seed'?"),
    ],
)
def test_a_wrong_call_is_answered_in_one_line(
    prefix: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "90")
    assert up.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"rldg up: {message}")
    assert error.count("\n") == 1


def test_a_free_domain_is_chosen_told_and_kept_to_this_machine(prefix: Path) -> None:
    result = run_up("peg", "--runner", ROS_DOMAIN_ID=None, ROS_AUTOMATIC_DISCOVERY_RANGE=None)
    assert result.returncode == 0, result.stderr
    told = next(line for line in result.stdout.splitlines() if "export ROS_DOMAIN_ID=" in line)
    domain = told.partition("ROS_DOMAIN_ID=")[2].split()[0]
    assert f"DOMAIN {domain} LOCALHOST" in result.stdout
    assert told.endswith("ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST")


def test_the_domain_of_the_user_is_taken_as_it_is(prefix: Path) -> None:
    result = run_up("peg", "--runner", ROS_DOMAIN_ID="77", ROS_AUTOMATIC_DISCOVERY_RANGE=None)
    assert "DOMAIN 77 None" in result.stdout
    assert "export ROS_DOMAIN_ID" not in result.stdout


def test_a_second_launch_in_the_same_domain_is_refused_unless_shared(prefix: Path) -> None:
    from rldg_bringup.domain import lease_domain

    lease = lease_domain("plug.launch.xml", {**os.environ, "ROS_DOMAIN_ID": "78"})
    assert lease is not None
    with lease:
        refused = run_up("peg", "--runner", ROS_DOMAIN_ID="78")
        assert refused.returncode == 2
        assert "ROS_DOMAIN_ID=78 is in use on this machine by plug.launch.xml" in refused.stderr
        assert "DOMAIN 78" in run_up("peg", "--runner", "--share-domain", ROS_DOMAIN_ID="78").stdout


def test_ros2_launch_is_used_where_it_is_installed(prefix: Path) -> None:
    tools = prefix / "bin"
    tools.mkdir()
    (tools / "ros2").write_text('#!/bin/sh\necho "ros2 $* in $ROS_DOMAIN_ID"\n')
    (tools / "ros2").chmod(0o755)
    (tools / "ros2launch").mkdir()
    (tools / "ros2launch" / "__init__.py").touch()
    paths = {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{tools}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    result = run_up("peg", "seed:=3", ROS_DOMAIN_ID="79", **paths)
    assert result.stdout == "ros2 launch rldg_bringup peg.launch.xml seed:=3 in 79\n"
    assert "DOMAIN 79" in run_up("peg", "--runner", ROS_DOMAIN_ID="79", **paths).stdout


def test_what_follows_a_cell_ends_with_it(prefix: Path) -> None:
    (prefix / "share" / "rldg_bringup" / "launch" / "part.launch.xml").write_text(FILE.replace("tell", "wait"))
    program = prefix / "lib" / "nodes" / "wait"
    program.write_text(f"#!{sys.executable} -S\nimport time\nprint('WAITS', flush=True)\ntime.sleep(100)\n")
    program.chmod(0o755)
    lease = lease_domain("cell", {name: value for name, value in os.environ.items() if name != "ROS_DOMAIN_ID"})
    assert lease is not None
    command = [sys.executable, "-m", "rldg_bringup.up", "part", "--with-cell"]
    follower = subprocess.Popen(
        command, env={**os.environ, "ROS_DOMAIN_ID": str(lease.domain)}, stdout=subprocess.PIPE, text=True
    )
    assert follower.stdout is not None
    while "WAITS" not in follower.stdout.readline():
        assert follower.poll() is None
    lease.close()
    follower.communicate(timeout=30.0)
    assert follower.returncode is not None
