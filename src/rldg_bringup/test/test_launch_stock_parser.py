"""The launch files are valid for ROS 2's own launch, and mean the same there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rldg_bringup.launch_runner import declared_arguments, resolve

pytest.importorskip("launch_xml", reason="ROS 2's launch_xml is not installed")
pytest.importorskip("launch_ros", reason="ROS 2's launch_ros is not installed")
yaml = pytest.importorskip("yaml")

WORKSPACE = Path(__file__).resolve().parents[3]
FILES = sorted((WORKSPACE / "launch").glob("*.launch.xml"))
EXECUTABLES = {
    "rldg_sim": ("sim_node", "operator_node"),
    "rldg_control": (
        "observer_node",
        "arbiter_node",
        "episode_manager_node",
        "spacemouse_node",
        "gamepad_node",
        "franka_bridge_node",
    ),
    "rldg_recorder": ("recorder_node",),
    "rldg_policies": ("policy_node",),
    "rldg_rl": ("actor_node", "learner_node", "person_node"),
    "rldg_bringup": ("lifecycle_manager_node", "run_episodes_node", "select_policy_node"),
}
TELL = f"""#!{sys.executable}
import json, os, sys
print("TOLD " + json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:]]), flush=True)
"""


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An install prefix with the launch files, and executables that print their arguments."""
    share = tmp_path / "share"
    index = share / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    for package, executables in EXECUTABLES.items():
        (index / package).touch()
        (tmp_path / "lib" / package).mkdir(parents=True)
        for executable in executables:
            file = tmp_path / "lib" / package / executable
            file.write_text(TELL)
            file.chmod(0o755)
    (share / "rldg_bringup").mkdir()
    (share / "rldg_bringup" / "launch").symlink_to(WORKSPACE / "launch")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "log"))
    return tmp_path


def meaning(arguments: list[str]) -> dict[str, object]:
    """Node name, namespace, parameters and remappings of a command line, however they are written."""
    told: dict[str, object] = {}
    words = iter(arguments)
    for word in words:
        if word == "--params-file":
            (content,) = yaml.safe_load(Path(next(words)).read_text()).values()
            told.update(content["ros__parameters"])
        elif word == "-p":
            name, _, value = next(words).partition(":=")
            told[name] = yaml.safe_load(value)
        elif word in ("-r", "--log-level"):
            name, _, value = next(words).rpartition(":=")
            told[name or word] = value
    if told.get("__ns") == "/":
        del told["__ns"]
    return told


# in a process of its own: launch takes over signals and the streams of logging
RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import AnyLaunchDescriptionSource
arguments = [word.split(":=", 1) for word in sys.argv[2:]]
service = LaunchService(noninteractive=True)
source = AnyLaunchDescriptionSource(sys.argv[1])
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)]))
sys.exit(service.run())
"""


def by_ros2_launch(file: Path, arguments: dict[str, str]) -> list[object]:
    words = [f"{name}:={value}" for name, value in arguments.items()]
    output = subprocess.run(
        [sys.executable, "-c", RUN, str(file), *words], check=True, text=True, stdout=subprocess.PIPE, timeout=60
    ).stdout
    told = [json.loads(line.partition("TOLD ")[2]) for line in output.splitlines() if "TOLD " in line]
    return sorted(([name, meaning(words)] for name, words in told), key=str)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_declares_the_same_arguments_there(file: Path, prefix: Path) -> None:
    from launch.launch_description_sources import AnyLaunchDescriptionSource

    import launch

    description = AnyLaunchDescriptionSource(str(file)).get_launch_description(launch.LaunchContext())
    there = {argument.name for argument in description.get_launch_arguments()}
    here = {argument.name for argument in declared_arguments(file, {}, lambda package: prefix / "share" / package)}
    assert here <= there
    set_by_includes = {arg.get("name") for path in FILES for arg in ElementTree.parse(path).iterfind(".//include/arg")}
    assert there - here <= set_by_includes  # listed there although the caller cannot set them


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("usb_insertion", {"policy": "scripted", "seed": "7"}),
        ("xlr", {"operator": "none", "namespace": "a/b"}),
        ("policy_openvla", {"checkpoint": "a b", "instruction": "don't", "namespace": "arm"}),
        ("cell", {"operator": "gamepad", "namespace": "/arm", "scene": "dark", "task": "hdmi"}),
    ],
)
def test_the_same_processes_with_the_same_parameters_are_started(
    name: str, arguments: dict[str, str], prefix: Path
) -> None:
    arguments = {"lockstep": "true", **arguments}  # nothing is restarted then, so that both end
    file = WORKSPACE / "launch" / f"{name}.launch.xml"
    here = resolve(file, arguments, {}, lambda package: prefix / "share" / package)
    expected = sorted(([process.executable, meaning(list(process.arguments))] for process in here), key=str)
    assert by_ros2_launch(file, arguments) == expected
