"""The launch files of the project resolve, with every argument described, into the cell they promise."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import msgspec
import pytest

from rldg_bringup.launch_runner import LaunchFileError, Process, declared_arguments, resolve
from rldg_policies.generalist import OctoParameters, OpenVLAParameters

WORKSPACE = Path(__file__).resolve().parents[3]
LAUNCH = WORKSPACE / "launch"
FILES = sorted(LAUNCH.glob("*.launch.xml"))
TASKS = [
    "displayport",
    "ethernet_insertion",
    "fmb_assembly",
    "fmb_insertion",
    "hdmi",
    "pick_and_place",
    "type_c",
    "usb_insertion",
    "vga_insertion",
    "xlr",
]
GENERALISTS = {"openvla": OpenVLAParameters, "octo": OctoParameters}
OPERATORS = {"scripted": "scripted_operator", "spacemouse": "spacemouse", "gamepad": "gamepad", "none": None}
CONTROL = ["cartesian_impedance_controller", "observer", "arbiter", "episode_manager", "lifecycle_manager"]


NEEDS_ROS = "robot_franka.launch.xml"  # it includes a launch file of franka_ros2


def find_share(package: str) -> Path:
    if package != "rldg_bringup":
        raise LookupError(f"package {package!r} is not installed")
    return WORKSPACE


def cell(file: str, **arguments: str) -> dict[str, Process]:
    processes = resolve(LAUNCH / f"{file}.launch.xml", arguments, {}, find_share)
    return {process.name: process for process in processes}


def parameters(process: Process) -> dict[str, object]:
    pairs = [value.partition(":=") for flag, value in itertools.pairwise(process.arguments) if flag == "-p"]
    return {name: json.loads(value) for name, _, value in pairs}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_argument_of_every_file_has_a_description_and_a_default(file: Path) -> None:
    arguments = declared_arguments(file, {}, find_share)
    assert arguments
    for argument in arguments:
        assert argument.description, f"{file.name}: argument {argument.name}"
        assert argument.default is not None, f"{file.name}: argument {argument.name}"


@pytest.mark.parametrize("file", [file for file in FILES if file.name != NEEDS_ROS], ids=lambda file: file.name)
def test_every_file_resolves_without_arguments(file: Path) -> None:
    assert resolve(file, {}, {}, find_share)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_launches_its_own_cell(task: str) -> None:
    nodes = cell(task)
    assert set(nodes) == {*CONTROL, "scripted_operator"}
    assert all(parameters(node)["task"] == task for name, node in nodes.items() if name != "lifecycle_manager")
    with pytest.raises(LaunchFileError, match="no argument 'task'"):
        cell(task, task="other")


@pytest.mark.parametrize(("operator", "policy"), list(itertools.product(OPERATORS, ["none", "scripted"])))
def test_operator_and_policy_are_started_and_managed_where_asked_for(operator: str, policy: str) -> None:
    nodes = cell("usb_insertion", operator=operator, policy=policy)
    extra = [name for name in (OPERATORS[operator], "policy_scripted" if policy == "scripted" else None) if name]
    assert set(nodes) == {*CONTROL, *extra}
    managed = [name for name in parameters(nodes["lifecycle_manager"])["node_names"] if name]  # type: ignore[attr-defined]
    assert managed == [*CONTROL[:-1], *extra]


@pytest.mark.parametrize("lockstep", ["true", "false"])
def test_a_recorder_is_started_where_asked_for_and_is_up_first(lockstep: str) -> None:
    arguments = {"record": "true", "bags": "/data/bags", "operator_name": "ada", "lockstep": lockstep}
    nodes = cell("usb_insertion", **arguments)
    assert set(nodes) == {*CONTROL, "scripted_operator", "recorder"}
    given = parameters(nodes["recorder"])
    expected = {"bags": "/data/bags", "operator": "ada", "task": "usb_insertion", "cameras": False}
    assert {name: given[name] for name in expected} == expected
    managed = [name for name in parameters(nodes["lifecycle_manager"])["node_names"] if name]  # type: ignore[attr-defined]
    assert managed[0] == "recorder"


def test_deaths_are_final_in_lockstep_and_its_nodes_take_the_time_from_the_stream() -> None:
    for lockstep in (True, False):
        for name, node in cell("usb_insertion", lockstep=str(lockstep).lower(), policy="scripted").items():
            assert parameters(node).get("use_sim_time", lockstep) is lockstep
            assert name == "recorder" or "use_sim_time" not in parameters(node)
            assert name == "lifecycle_manager" or parameters(node)["lockstep"] is lockstep
            assert node.respawn is not lockstep


def test_in_lockstep_the_arbiter_waits_for_those_that_are_launched() -> None:
    def awaited(**arguments: str) -> list[str]:
        wait_for = parameters(cell("usb_insertion", lockstep="true", **arguments)["arbiter"])["lockstep_wait_for"]
        return [name for name in wait_for if name]  # type: ignore[attr-defined]

    assert awaited() == ["operator"]
    assert awaited(policy="scripted") == ["operator", "policy"]
    assert awaited(operator="none", policy="scripted") == ["policy"]
    assert awaited(operator="none") == []


def test_in_lockstep_the_simulation_comes_up_after_everyone_who_answers_it() -> None:
    manager = cell("usb_insertion", lockstep="true")["lifecycle_manager"]
    names = [name for name in parameters(manager)["node_names"] if name]  # type: ignore[attr-defined]
    assert names[-1] == "cartesian_impedance_controller"


def test_the_namespace_covers_every_node() -> None:
    for node in cell("usb_insertion", namespace="left", policy="scripted").values():
        assert "__ns:=/left" in node.arguments


def test_seed_scene_and_log_level_reach_the_nodes() -> None:
    nodes = cell("usb_insertion", seed="7", scene="dark", log_level="warn")
    assert parameters(nodes["cartesian_impedance_controller"])["seed"] == 7
    assert parameters(nodes["cartesian_impedance_controller"])["scene"] == "dark"
    assert parameters(nodes["scripted_operator"])["style_seed"] == 7
    assert all(("--log-level", "warn") in itertools.pairwise(node.arguments) for node in nodes.values())


def test_a_policy_may_drive_from_the_start_and_the_scripted_operator_then_keeps_its_hands_off() -> None:
    alone, beside = cell("usb_insertion"), cell("usb_insertion", policy="scripted")
    assert parameters(alone["arbiter"])["initial_policy"] == ""
    assert parameters(alone["scripted_operator"])["drive"] is True
    assert parameters(beside["arbiter"])["initial_policy"] == parameters(beside["policy_scripted"])["policy_id"]
    assert parameters(beside["scripted_operator"])["drive"] is False


@pytest.mark.parametrize("lockstep", ["true", "false"])
def test_a_console_is_started_where_asked_for_and_nobody_waits_for_it(lockstep: str) -> None:
    nodes = cell("usb_insertion", console="true", console_port="9000", lockstep=lockstep, namespace="left")
    assert set(nodes) == {*CONTROL, "scripted_operator", "console"}
    given = parameters(nodes["console"])
    assert (given["port"], given["address"], given["task"]) == (9000, "127.0.0.1", "usb_insertion")
    assert "console" not in parameters(nodes["lifecycle_manager"])["node_names"]  # type: ignore[operator]
    assert "__ns:=/left" in nodes["console"].arguments and nodes["console"].respawn


def test_a_console_joins_a_running_cell() -> None:
    assert set(cell("console", namespace="left")) == {"console"}


@pytest.mark.parametrize("kind", ["openvla", "octo"])
def test_a_generalist_joins_a_running_cell_with_its_own_manager_and_is_let_drive(kind: str) -> None:
    nodes = cell(f"policy_{kind}", checkpoint="my checkpoint", policy_id="student", instruction="don't wait")
    assert set(nodes) == {"policy_student", "lifecycle_manager_student", "select_student"}
    assert parameters(nodes["lifecycle_manager_student"])["node_names"] == ["policy_student"]
    assert parameters(nodes["select_student"]) == {"policy_id": "student"}
    given = parameters(nodes["policy_student"])
    assert (given["policy"], given["policy_id"]) == (kind, "student")
    options = msgspec.yaml.decode(str(given["policy_parameters"]), type=GENERALISTS[kind])
    assert (options.checkpoint, options.instruction) == ("my checkpoint", "don't wait")
    assert msgspec.structs.replace(options, instruction="") == GENERALISTS[kind](checkpoint="my checkpoint")
    assert set(cell(f"policy_{kind}", swap="false")) == {f"policy_{kind}", f"lifecycle_manager_{kind}"}


def test_options_of_a_generalist_reach_it() -> None:
    options = {"mode": "fast_int8", "draft": "none", "device": "cuda", "threads": "3"}
    given = str(parameters(cell("policy_openvla", **options)["policy_openvla"])["policy_parameters"])
    assert msgspec.yaml.decode(given).items() >= {**options, "threads": 3}.items()
    given = str(
        parameters(cell("policy_octo", execute="2", seed="7", tokenizer="t5")["policy_octo"])["policy_parameters"]
    )
    assert msgspec.yaml.decode(given).items() >= {"execute": 2, "seed": 7, "tokenizer": "t5"}.items()
    with pytest.raises(LaunchFileError, match="mode"):
        cell("policy_openvla", mode="faster")


@pytest.mark.parametrize("file", ["robot_franka", "usb_insertion"])
def test_the_rig_names_what_is_missing_where_franka_ros2_is(file: str) -> None:
    arguments = {"robot": "franka"} if file != "robot_franka" else {}
    with pytest.raises(
        LaunchFileError, match=r"robot_franka.launch.xml:\d+: <include> package 'franka_bringup' is not"
    ):
        cell(file, **arguments)


def test_the_rig_names_what_is_missing_where_ros2_launch_is(tmp_path: Path) -> None:
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "franka.launch.py").write_text("def generate_launch_description(): ...")
    with pytest.raises(
        LaunchFileError, match=r"franka\.launch\.py is a Python launch file, which only ros2 launch can run"
    ):
        resolve(LAUNCH / NEEDS_ROS, {}, {}, lambda package: WORKSPACE if package == "rldg_bringup" else tmp_path)


def test_the_rig_starts_the_bridge_and_its_controller_inactive(tmp_path: Path) -> None:
    stand_in = tmp_path / "robot_franka.launch.xml"
    text = (LAUNCH / NEEDS_ROS).read_text()
    before, _, rest = text.partition("  <group>")
    stand_in.write_text(before + rest.partition("</group>")[2])  # all but what only ros2 launch can run
    nodes = {process.name: process for process in resolve(stand_in, {"task": "xlr"}, {}, find_share)}
    assert set(nodes) == {"spawn_cartesian_impedance_controller", "franka_bridge"}
    assert parameters(nodes["franka_bridge"])["task"] == "xlr"
    assert "--inactive" in nodes["spawn_cartesian_impedance_controller"].arguments


def test_a_rig_has_no_lockstep() -> None:
    with pytest.raises(LaunchFileError, match="lockstep:=true is not allowed"):
        cell("robot_franka", lockstep="true")
