"""What can be told about the images without Docker. They are not built in CI."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from rldg_bringup.cli import VERBS

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted(ROOT.glob("docker/*.Dockerfile"))
COMPOSE = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
INSTRUCTIONS = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "RUN", "WORKDIR"}
SERVICE_KEYS = {  # of the Compose specification, as far as they are used here
    *("build", "cap_add", "deploy", "device_cgroup_rules", "environment", "image", "init", "ipc", "network_mode"),
    *("profiles", "stdin_open", "tty", "ulimits", "volumes"),
}


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Instructions and their arguments, without comments, continued lines joined."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    pairs = (line.partition(" ")[::2] for line in joined.splitlines() if line.strip())
    return [(name, rest.strip()) for name, rest in pairs]


def ignored(path: str) -> bool:
    return any(path == line or path.startswith(f"{line}/") for line in (ROOT / ".dockerignore").read_text().split())


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_a_dockerfile_has_known_instructions_and_shell_that_parses(dockerfile) -> None:
    found = instructions(dockerfile)
    assert found[0][0] == "FROM"
    assert {name for name, _ in found} <= INSTRUCTIONS
    for name, text in found:
        if name == "RUN":
            subprocess.run(["sh", "-n", "-c", text], check=True)
        if name in ("CMD", "ENTRYPOINT"):
            assert all(isinstance(word, str) for word in json.loads(text))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_everything_copied_exists_and_is_sent_to_the_build(dockerfile) -> None:
    copies = [shlex.split(text)[:-1] for name, text in instructions(dockerfile) if name == "COPY"]
    assert copies
    for source in (word for words in copies for word in words):
        assert (ROOT / source).exists(), source
        assert source == "." or not ignored(source), source


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_the_project_is_set_up_by_its_own_script_and_locks(dockerfile) -> None:
    text = dockerfile.read_text()
    called = re.findall(r"\./rldg[\", ]+([a-z]+)", " ".join(rest for _, rest in instructions(dockerfile)))
    assert len(called) >= 2
    assert set(called) <= set(VERBS)
    for lock in re.findall(r"setup/[a-z]+\.lock", text):
        assert (ROOT / lock).is_file(), lock
    for lock in (*(ROOT / "setup").glob("*.lock"), ROOT / "setup/setup.sh", ROOT / "rldg"):
        assert not ignored(str(lock.relative_to(ROOT)))
    # no second list of Python packages: pip is called for what no lock can hold
    assert len(re.findall(r"pip3? install", text)) <= 1
    assert "requirements" not in text


def test_the_jax_plugin_has_the_version_of_the_lock_and_the_cuda_of_the_image() -> None:
    text = (ROOT / "docker/policy.Dockerfile").read_text()
    command = re.search(r"version=\$\((.*)\) \\$", text, re.MULTILINE)
    assert command is not None
    version = subprocess.run(["sh", "-c", command[1]], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", version)
    assert f"\njaxlib=={version.strip()} " in (ROOT / "setup/distro.lock").read_text()
    image = re.search(r"^FROM nvidia/cuda:(\d+)\.\d+\.\d+-base-ubuntu24\.04$", text, re.MULTILINE)
    assert image is not None
    assert set(re.findall(r"jax-cuda(\d+)-", text)) == {image[1]}


def test_both_images_have_the_same_ros() -> None:
    texts = [path.read_text() for path in (*DOCKERFILES, ROOT / "docker/entrypoint.sh")]
    assert {name for text in texts for name in re.findall(r"(?:/opt/ros/|ros-|ros:)(jazzy|kilted|humble)", text)} == {
        "jazzy"
    }


def test_the_entrypoint_runs_what_it_is_given(tmp_path) -> None:
    script = ROOT / "docker/entrypoint.sh"
    assert os.access(script, os.X_OK)
    fake = tmp_path / "setup.sh"
    fake.write_text("export ROS_DISTRO=jazzy\n")
    text = script.read_text().replace("/opt/ros/jazzy/setup.sh", str(fake))
    done = subprocess.run(
        ["sh", "-c", text, "entrypoint", "sh", "-c", 'echo "$ROS_DISTRO $1"', "x", "a b"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "jazzy a b\n"


@pytest.mark.parametrize("name", ["robot", "policy"])
def test_a_service_is_a_profile_with_its_own_image_on_the_hosts_network(name) -> None:
    service = COMPOSE["services"][name]
    assert set(service) <= SERVICE_KEYS
    assert service["profiles"] == [name]
    assert service["network_mode"] == service["ipc"] == "host"
    assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert service["environment"]["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"
    for volume in service["volumes"]:
        source, _, target = volume.partition(":")
        assert target.startswith("/")
        # what is shared is no part of the image
        assert source == "/dev" or ignored(source.removeprefix("../")), source


def test_only_the_robots_service_is_real_time_and_only_the_other_one_has_a_gpu() -> None:
    robot, policy = COMPOSE["services"]["robot"], COMPOSE["services"]["policy"]
    assert "SYS_NICE" in robot["cap_add"]
    assert robot["ulimits"] == {"rtprio": 99, "memlock": -1}
    assert "deploy" not in robot
    assert not {"cap_add", "ulimits", "device_cgroup_rules"} & set(policy)
    (device,) = policy["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_the_devcontainer_uses_the_same_image() -> None:
    folder = ROOT / ".devcontainer"
    description = json.loads((folder / "devcontainer.json").read_text())
    assert (folder / description["build"]["dockerfile"]).resolve() in [path.resolve() for path in DOCKERFILES]
    assert (folder / description["build"]["context"]).resolve() == ROOT
    verb = re.search(r"\./rldg ([a-z]+)", description["postCreateCommand"])
    assert verb is not None
    assert verb[1] in VERBS


def test_what_git_ignores_is_not_sent_to_the_build_either() -> None:
    lines = (ROOT / ".gitignore").read_text().split()
    folders = [line.strip("/") for line in lines if line.endswith("/") and "*" not in line]
    text = (ROOT / ".dockerignore").read_text()
    kept = [name for name in folders if not ignored(name) and f"**/{name}" not in text]
    assert kept == []


def test_the_drivers_built_from_source_are_those_of_the_table_of_versions() -> None:
    repositories = yaml.safe_load((ROOT / "docker/rig.repos").read_text())["repositories"]
    table = (ROOT / "docs/reference/versions.md").read_text()
    assert set(repositories) == {"franka_ros2", "franka_description", "libfranka", "crisp_controllers"}
    for name, repository in repositories.items():
        assert set(repository) == {"type", "url", "version"}
        version = repository["version"].removeprefix("v")
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}`"))
        assert version[:7] in row if len(version) == 40 else version in row, row
