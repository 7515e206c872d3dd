"""The script ``rldg`` and its set-up, run with stand-ins for Python, uv and colcon that only leave traces."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rldg_bringup.cli import VERBS

ROOT = Path(__file__).resolve().parents[1]
WAIT_S = 30

# One stand-in for everything that set-up starts. $TRACES gets a line for each stage; a file $TRACES.fail-<tool> makes
# that tool fail, and $TRACES.hang-<tool> makes it wait until that file goes.
STAND_IN = r"""#!/bin/sh
trace() {
    echo "$1" >>"$TRACES"
    if [ -e "$TRACES.fail-$1" ]; then echo "$1 has failed on purpose"; exit 3; fi
    if [ -e "$TRACES.hang-$1" ]; then while [ -e "$TRACES.hang-$1" ]; do sleep 0.05; done; fi
}
case "${0##*/} $*" in
    'python -') echo "ok $0" ;;
    'python -V') echo 'Python 3.11.0' ;;
    'python -m venv '*)
        for target; do :; done
        mkdir -p "$target/bin" "$target/lib/python3.11/site-packages" "$target/share/std_msgs/cmake"
        for tool in python colcon; do cp "$0" "$target/bin/$tool"; done
        built_in=/opt/python/cp311-cp311
        echo "$built_in/include/python3.11;$built_in/lib/python3.11/site-packages/numpy/_core/include" \
            >"$target/share/std_msgs/cmake/a.cmake"
        trace venv
        ;;
    'python -m pip install '*) cp "$0" "${0%/*}/uv"; trace pip ;;
    'python -c import numpy'*) printf '/include of python\n/include of numpy\n' ;;
    'uv pip install '*) trace uv ;;
    'colcon '*) mkdir -p "$PWD/install/lib/python3.11/site-packages"; trace colcon ;;
    'python -m rldg_bringup.cli '*) shift 2; echo "verb: $*" ;;
esac
"""


class Checkout:
    """A checkout of the script with as little else as it needs, in an environment without anything of this one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copy(ROOT / "rldg", root)
        shutil.copytree(ROOT / "setup", root / "setup")
        shutil.copytree(ROOT / "src/rldg_interfaces", root / "src/rldg_interfaces")
        package = root / "src/rldg_bringup"
        (package / "rldg_bringup").mkdir(parents=True)
        for name in ("setup.py", "setup.cfg", "package.xml", "rldg_bringup/cli.py"):
            shutil.copy(ROOT / "src/rldg_bringup" / name, package / name)
        (root / "config").mkdir()
        (root / "launch").mkdir()
        self.bin = root / "bin"
        self.bin.mkdir()
        self.python = self.tool("python", STAND_IN)
        self.traces = root / "traces"
        self.env = {
            "HOME": str(root),
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "RLDG_PYTHON": str(self.python),
            "TRACES": str(self.traces),
        }

    def tool(self, name: str, text: str) -> Path:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.root / "rldg", *arguments],
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **env)
        stdout, stderr = process.communicate(timeout=WAIT_S)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def stages(self) -> list[str]:
        """The stages that ran since this was last asked."""
        stages = self.traces.read_text().split() if self.traces.exists() else []
        self.traces.unlink(missing_ok=True)
        return stages

    def make(self, what: str) -> Path:
        path = Path(f"{self.traces}.{what}")
        path.touch()
        return path

    def wait_for_stage(self, name: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not (self.traces.exists() and name in self.traces.read_text().split()):
            assert time.monotonic() < deadline, f"stage {name} was not reached"
            time.sleep(0.02)


ALL_STAGES = ["venv", "pip", "uv", "colcon"]


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    root = tmp_path / "a checkout"
    root.mkdir()
    return Checkout(root)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_help_lists_every_verb_without_set_up(checkout, arguments) -> None:
    done = checkout.run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    listed = dict(re.findall(r"^  ([a-z]+) +(\w.*)$", done.stdout, re.MULTILINE))
    assert listed == {verb: help_ for verb, (_, help_) in VERBS.items()}
    assert not (checkout.root / ".venv").exists()


def test_a_wrong_verb_names_the_right_ones_without_set_up(checkout) -> None:
    done = checkout.run("demp")
    assert done.returncode == 2
    assert "no verb 'demp'" in done.stderr
    assert "doctor" in done.stderr
    assert checkout.stages() == []


def test_the_first_run_sets_up_and_the_second_only_runs_the_verb(checkout) -> None:
    first = checkout.run("doctor", "--json", "two words")
    assert (first.returncode, first.stdout) == (0, "verb: doctor --json two words\n")
    assert checkout.stages() == ALL_STAGES
    second = checkout.run("doctor")
    assert (second.stdout, second.stderr) == ("verb: doctor\n", "")
    assert checkout.stages() == []


def test_cmake_files_of_the_wheels_name_this_machines_directories(checkout) -> None:
    checkout.run("doctor")
    text = (checkout.root / ".venv/share/std_msgs/cmake/a.cmake").read_text()
    assert text == "/include of python;/include of numpy\n"


@pytest.mark.parametrize(
    ("path", "stages"),
    [
        ("setup/wheels.lock", ["uv", "colcon"]),
        ("src/rldg_interfaces/msg/Step.msg", ["colcon"]),
        ("src/rldg_bringup/package.xml", ["colcon"]),
        ("src/rldg_bringup/rldg_bringup/new_node.py", ["colcon"]),
        ("launch/new.launch.xml", ["colcon"]),
        ("src/rldg_bringup/rldg_bringup/new.py", []),
    ],
)
def test_only_the_stages_whose_inputs_changed_run_again(checkout, path, stages) -> None:
    checkout.run("doctor")
    checkout.stages()
    with (checkout.root / path).open("a") as file:
        file.write("\n")
    assert checkout.run("doctor").returncode == 0
    assert checkout.stages() == stages
    checkout.run("doctor")
    assert checkout.stages() == []


def test_a_checkout_that_was_moved_is_set_up_again(checkout, tmp_path_factory) -> None:
    checkout.run("doctor")
    checkout.stages()
    new = tmp_path_factory.mktemp("new") / "place"
    shutil.copytree(checkout.root, new, symlinks=True)
    checkout.root = new
    checkout.run("doctor")
    assert checkout.stages() == ALL_STAGES


@pytest.mark.parametrize("tool", ALL_STAGES)
def test_a_failure_shows_the_end_of_the_log_and_the_next_run_goes_on(checkout, tool) -> None:
    fault = checkout.make(f"fail-{tool}")
    failed = checkout.run("doctor")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert f"{tool} has failed on purpose" in failed.stderr
    assert str(checkout.root / ".rldg/setup.log") in failed.stderr
    fault.unlink()
    checkout.stages()
    assert checkout.run("doctor").stdout.startswith("verb: ")
    assert checkout.stages() == (["colcon"] if tool == "colcon" else ALL_STAGES)


@pytest.mark.parametrize("tool", ALL_STAGES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_what_an_interrupted_stage_left_is_made_again(checkout, tool, number) -> None:
    fault = checkout.make(f"hang-{tool}")
    process = checkout.start("doctor")
    checkout.wait_for_stage(tool)
    half_made = checkout.root / ("build" if tool == "colcon" else ".venv") / "half-made"
    half_made.touch()
    os.killpg(process.pid, number)
    _, stderr = process.communicate(timeout=WAIT_S)
    assert process.returncode != 0
    if number == signal.SIGINT:
        assert "interrupted" in stderr
    fault.unlink()
    checkout.stages()
    assert checkout.run("doctor").stdout.startswith("verb: ")
    assert checkout.stages() == (["colcon"] if tool == "colcon" else ALL_STAGES)
    assert not half_made.exists()


@pytest.mark.parametrize("first_is_killed", [False, True])
def test_of_two_runs_at_once_one_sets_up_and_the_other_waits(checkout, first_is_killed) -> None:
    hang = checkout.make("hang-uv")
    first = checkout.start("doctor")
    checkout.wait_for_stage("uv")
    second = checkout.start("show")
    assert second.stderr is not None
    assert "another ./rldg is setting up" in second.stderr.readline()
    if first_is_killed:
        os.killpg(first.pid, signal.SIGKILL)
    hang.unlink()
    first.communicate(timeout=WAIT_S)
    stdout, _ = second.communicate(timeout=WAIT_S)
    assert stdout == "verb: show\n"
    assert checkout.stages() == (["venv", "pip", "uv"] if first_is_killed else []) + ALL_STAGES


RIG = [
    ("bench", "soak"),
    ("up", "usb_insertion", "robot:=fr3_direct"),
    ("up", "usb_insertion", "robot:=franka", "camera:=realsense_direct"),
    ("up", "rehearsal"),
]


@pytest.mark.parametrize("arguments", RIG, ids=" ".join)
def test_packages_of_the_rig_come_with_the_first_command_that_needs_them(checkout, arguments) -> None:
    checkout.run("up", "usb_insertion", "robot:=sim")
    assert checkout.stages() == ALL_STAGES
    assert checkout.run(*arguments).stdout == f"verb: {' '.join(arguments)}\n"
    assert checkout.stages() == ["uv"]
    checkout.run(*arguments)
    assert checkout.stages() == []


def test_packages_of_the_rig_are_installed_again_after_an_interruption_and_after_a_change(checkout) -> None:
    checkout.run("doctor")
    fault = checkout.make("hang-uv")
    checkout.stages()
    process = checkout.start("bench")
    checkout.wait_for_stage("uv")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=WAIT_S)
    fault.unlink()
    checkout.stages()
    checkout.run("doctor")
    assert checkout.stages() == []
    checkout.run("bench")
    assert checkout.stages() == ["uv"]
    with (checkout.root / "setup/rig.lock").open("a") as file:
        file.write("\n")
    checkout.run("bench")
    assert checkout.stages() == ["uv"]


def test_an_environment_that_somebody_else_made_is_left_alone(checkout) -> None:
    mine = checkout.root / ".venv/mine"
    mine.parent.mkdir()
    mine.touch()
    done = checkout.run("doctor")
    assert done.returncode == 1
    assert "not made by ./rldg" in done.stderr
    assert mine.exists()


def plan(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def verb_environment(checkout: Checkout, **env: str) -> dict[str, str]:
    checkout.tool("python", STAND_IN.replace('echo "verb: $*"', "env"))
    done = checkout.run("doctor", **env)
    assert done.returncode == 0
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@pytest.fixture
def with_ros(checkout) -> Checkout:
    """A checkout beside something that looks like a ROS 2 installation."""
    for name in ("ros2", "colcon", "cmake"):
        checkout.tool(name, f"#!{checkout.python}\n")
    del checkout.env["RLDG_PYTHON"]
    return checkout


@pytest.mark.parametrize("distro", ["jazzy", "kilted", "lyrical", "rolling"])
def test_a_sourced_ros_is_built_on_with_its_own_python(with_ros, distro) -> None:
    chosen = plan(with_ros.run("--plan", ROS_DISTRO=distro))
    assert distro in chosen["ros"]
    assert chosen["packages"] == "setup/distro.lock"
    assert chosen["python"] == str(with_ros.python)


def test_a_sourced_ros_stays_in_the_environment_behind_the_workspace(with_ros) -> None:
    with_ros.tool("colcon", STAND_IN)
    seen = verb_environment(with_ros, ROS_DISTRO="jazzy", PYTHONPATH="/ros/lib", AMENT_PREFIX_PATH="/ros")
    python_path, prefixes = seen["PYTHONPATH"], seen["AMENT_PREFIX_PATH"]
    root = with_ros.root
    assert prefixes == f"{root}/install:/ros"
    assert python_path.split(":")[0] == f"{root}/install/lib/python3.11/site-packages"
    assert python_path.split(":")[-2:] == [f"{root}/.venv/lib/python3.11/site-packages", "/ros/lib"]


@pytest.mark.parametrize("distro", ["humble", "iron", "noetic"])
def test_an_older_ros_is_refused_with_the_way_out(with_ros, distro) -> None:
    done = with_ros.run("doctor", ROS_DISTRO=distro)
    assert done.returncode == 1
    assert f"ROS {distro} is sourced" in done.stderr
    assert "RLDG_ROS=wheels" in done.stderr
    forced = with_ros.run("--plan", ROS_DISTRO=distro, RLDG_ROS="wheels", RLDG_PYTHON=str(with_ros.python))
    assert "wheels" in plan(forced)["ros"]


def test_wheels_are_used_where_only_the_variable_of_a_ros_is_left(checkout) -> None:
    chosen = plan(checkout.run("--plan", ROS_DISTRO="jazzy"))
    assert "wheels" in chosen["ros"]
    assert (chosen[".venv"], chosen["install"]) == ("missing", "missing")


def test_nothing_of_another_ros_reaches_the_wheels(checkout) -> None:
    paths = {"PYTHONPATH": "/ros/py", "AMENT_PREFIX_PATH": "/ros", "LD_LIBRARY_PATH": "/ros/lib"}
    seen = verb_environment(checkout, **paths)
    assert [name for name in paths if "/ros" in seen[name]] == []


DEFAULTS = {
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
    "MUJOCO_GL": "egl",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def test_verbs_get_defaults_for_what_is_unset(checkout) -> None:
    seen = verb_environment(checkout)
    assert DEFAULTS.items() <= seen.items()
    assert seen["RLDG_CONFIG"] == f"{checkout.root}/config"
    assert "ROS_LOG_DIR" not in seen


@pytest.mark.parametrize("name", [*DEFAULTS, "RLDG_CONFIG"])
def test_what_the_user_has_set_stays(checkout, name) -> None:
    assert verb_environment(checkout, **{name: "mine"})[name] == "mine"


def test_a_display_is_used_where_there_is_one(checkout) -> None:
    assert "MUJOCO_GL" not in verb_environment(checkout, DISPLAY=":0")


def test_without_a_home_the_ros_logs_go_into_the_checkout(checkout) -> None:
    del checkout.env["HOME"]
    assert verb_environment(checkout)["ROS_LOG_DIR"] == f"{checkout.root}/.rldg/ros"


def test_a_machine_without_wheels_is_told_to_source_a_ros(checkout) -> None:
    checkout.tool("uname", "#!/bin/sh\necho Linux aarch64\n")
    done = checkout.run("doctor")
    assert done.returncode == 1
    assert "Linux aarch64" in done.stderr
    assert "source it" in done.stderr


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ("sys.version_info = (3, 9, 2)", "python3.11-venv"),
        ("importlib.util.find_spec = lambda name: None if name == 'ensurepip' else name", "-venv"),
        ("os.path.isfile = lambda path: False", "-dev"),
    ],
)
def test_a_python_that_lacks_something_is_named_with_its_package(checkout, change, remedy) -> None:
    wrapper = f"import importlib.util, os, sys; {change}; exec(sys.stdin.read())"
    python = checkout.tool("lacking", f'#!/bin/sh\nexec {sys.executable} -c "{wrapper}"\n')
    done = checkout.run("doctor", RLDG_PYTHON=str(python))
    assert done.returncode == 1
    assert f"{python} " in done.stderr
    assert remedy in done.stderr
    assert not (checkout.root / ".venv").exists()


def test_a_missing_compiler_is_named_with_its_package(checkout) -> None:
    done = checkout.run("doctor", CXX="no-such-c++")
    assert done.returncode == 1
    assert "'no-such-c++' is not on PATH" in done.stderr
    assert "apt-get install gcc g++" in done.stderr


def test_the_locks_have_hashes_and_no_addresses() -> None:
    for path in (ROOT / "setup").glob("*.lock"):
        blocks = re.split(r"\n(?=\S)", path.read_text())
        packages = [block for block in blocks if not block.startswith("#")]
        assert len(packages) > (0 if path.stem == "rig" else 20)
        assert all("--hash=sha256:" in block for block in packages), path
        assert "://" not in path.read_text(), path
