"""The import rules of docs/architecture.md, checked on the syntax trees of all sources."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "rldg_core": set[str](),
    "rldg_ros": {"rldg_core", "rldg_interfaces"},
    "rldg_sim": {"rldg_core"},
    "rldg_control": {"rldg_core"},
    "rldg_recorder": {"rldg_core"},
    "rldg_policies": {"rldg_core", "rldg_recorder"},
    "rldg_rl": {"rldg_core", "rldg_recorder", "rldg_policies", "rldg_sim"},
    "rldg_evaluation": {"rldg_core", "rldg_recorder", "rldg_policies", "rldg_sim"},
    "rldg_console": {"rldg_core", "rldg_evaluation"},
    "rldg_experiments": {"rldg_core", "rldg_recorder", "rldg_policies", "rldg_rl", "rldg_evaluation"},
    "rldg_bringup": {
        "rldg_core",
        "rldg_console",
        "rldg_evaluation",
        "rldg_experiments",
        "rldg_ros",
        "rldg_sim",
        "rldg_control",
        "rldg_recorder",
        "rldg_policies",
        "rldg_rl",
        "rldg_interfaces",
    },
}
NODES_MAY_ALSO_IMPORT = {"rldg_ros", "rldg_interfaces"}
ROS = {"rclpy", "rldg_interfaces"}
HEAVY = {"mujoco", "torch", "jax", "flax", "optax", "transformers", "peft"}
RIG_ONLY = {"franka_msgs", "controller_manager_msgs"}  # where franka_ros2 is installed
# Only these have modules that are about one of the heavy packages and are imported late as a whole.
MAY_HOLD_HEAVY_MODULES = {"rldg_sim", "rldg_policies", "rldg_rl", "rldg_evaluation"}


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    # executed when the importing module is imported
    at_import: bool


@dataclass(frozen=True)
class Source:
    module: str
    path: Path
    imports: tuple[Import, ...]

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]

    @property
    def is_node(self) -> bool:
        return self.module.endswith("_node")


def read_imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[Import]:
    """All imports of a module by full name; ``from a import b`` counts as ``a.b``, a module or a name in one."""

    def visit(node: ast.AST, at_import: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, at_import)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package and node.level == 1 else -node.level + is_package]
                base = ".".join([*parents, *([base] if base else [])])
            for alias in node.names:
                yield Import(f"{base}.{alias.name}", node.lineno, at_import)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.body:
                yield from visit(child, False)
            for child in node.orelse:
                yield from visit(child, at_import)
        else:
            inside = at_import and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, inside)

    yield from visit(tree, True)


def read_sources(workspace: Path) -> list[Source]:
    sources = []
    for package in sorted(workspace.glob("*/setup.py")):
        directory = package.parent
        for path in sorted((directory / directory.name).rglob("*.py")):
            parts = path.relative_to(directory).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            module = ".".join(parts[:-1] if is_package else parts)
            tree = ast.parse(path.read_text(), filename=str(path))
            sources.append(Source(module, path, tuple(read_imports(tree, module, is_package))))
    return sources


def forbidden_packages(sources: list[Source]) -> list[str]:
    """Imports of a package of the workspace that the table does not allow."""
    found = []
    for source in sources:
        allowed = MAY_IMPORT[source.package] | {source.package} | (NODES_MAY_ALSO_IMPORT if source.is_node else set())
        for use in source.imports:
            package = use.module.partition(".")[0]
            if package.startswith("rldg_") and package not in allowed:
                found.append(f"{source.path}:{use.line}: {source.module} imports {use.module}")
    return found


def ros_outside_nodes(sources: list[Source]) -> list[str]:
    """Imports of rclpy or the interfaces by files that are not nodes."""
    return [
        f"{source.path}:{use.line}: {source.module} imports {use.module}"
        for source in sources
        if not source.is_node and source.package != "rldg_ros"
        for use in source.imports
        if use.module.partition(".")[0] in ROS
    ]


def heavy_at_import(sources: list[Source]) -> list[str]:
    """Modules that may not, but load mujoco, torch or jax when they are imported, themselves or through another."""
    reasons: dict[str, str] = {}
    by_name = {source.module: source for source in sources}
    changed = True
    while changed:
        changed = False
        for source in sources:
            if source.module in reasons:
                continue
            for use in source.imports:
                # importing a.b.c imports a and a.b too
                parts = use.module.split(".")
                prefixes = [".".join(parts[: n + 1]) for n in range(len(parts))]
                cause = next(
                    (p for p in prefixes if p in HEAVY | RIG_ONLY or (p in reasons and p != source.module)), None
                )
                if use.at_import and cause:
                    reasons[source.module] = f"{source.path}:{use.line}: {source.module} loads {cause} at import"
                    changed = True
                    break
    return [
        reason
        for module, reason in reasons.items()
        if by_name[module].package not in MAY_HOLD_HEAVY_MODULES
        or by_name[module].path.name == "__init__.py"
        or (by_name[module].is_node and by_name[module].package != "rldg_sim")
    ]


RULES = [forbidden_packages, ros_outside_nodes, heavy_at_import]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_workspace_keeps_the_rule(rule) -> None:
    sources = read_sources(ROOT / "src")
    assert {source.package for source in sources} == set(MAY_IMPORT)
    assert rule(sources) == []


def write(workspace: Path, **files: str) -> list[Source]:
    for name, text in files.items():
        package, _, module = name.partition("__")
        path = workspace / package / package / f"{module or '__init__'}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        (workspace / package / "setup.py").touch()
        path.write_text(text)
    return read_sources(workspace)


@pytest.mark.parametrize(
    ("rule", "files"),
    [
        (forbidden_packages, {"rldg_core__a": "from rldg_ros import qos"}),
        (forbidden_packages, {"rldg_control__a": "def f():\n    import rldg_ros.qos"}),
        (forbidden_packages, {"rldg_sim__arm_node": "import rldg_control"}),
        (ros_outside_nodes, {"rldg_bringup__a": "def f():\n    from rclpy.node import Node"}),
        (ros_outside_nodes, {"rldg_control__a": "from rldg_interfaces.msg import Step"}),
        (heavy_at_import, {"rldg_control__a": "import mujoco"}),
        (heavy_at_import, {"rldg_control__rig_node": "from franka_msgs.msg import FrankaRobotState"}),
        (heavy_at_import, {"rldg_control__a": "try:\n    from torch import nn\nexcept ImportError:\n    nn = None"}),
        (heavy_at_import, {"rldg_sim__": "from .cell import Cell", "rldg_sim__cell": "import mujoco"}),
        (heavy_at_import, {"rldg_bringup__a": "from rldg_sim import cell", "rldg_sim__cell": "import mujoco"}),
        (heavy_at_import, {"rldg_policies__policy_node": "from . import octo", "rldg_policies__octo": "import jax"}),
    ],
)
def test_a_breach_of_the_rule_is_found(rule, files, tmp_path) -> None:
    breaches = rule(write(tmp_path, **files))
    assert len(breaches) == 1
    assert " imports " in breaches[0] or " at import" in breaches[0]


@pytest.mark.parametrize(
    "files",
    [
        {"rldg_control__arbiter_node": "import rclpy\nfrom rldg_interfaces.msg import Step\nimport rldg_ros.qos"},
        {"rldg_policies__octo": "import jax", "rldg_policies__policy_node": "def load():\n    from . import octo"},
        {"rldg_sim__cell": "import mujoco", "rldg_sim__cell_node": "from rldg_sim.cell import Cell"},
        {"rldg_bringup__a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mujoco"},
        {"rldg_sim__": "", "rldg_sim__cell": "from rldg_core.frames import Pose\nfrom rldg_sim import arm"},
    ],
)
def test_what_the_rules_allow_is_left_alone(files, tmp_path) -> None:
    sources = write(tmp_path, **files)
    assert [breach for rule in RULES for breach in rule(sources)] == []


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_package_xml_declares_what_is_imported(package: str) -> None:
    def belongs_to_ros(name: str) -> bool:
        return name == "rclpy" or name.startswith("rldg_") or name.endswith(("_msgs", "_interfaces"))

    folder = ROOT / "src" / package
    names = {
        found.module.partition(".")[0]
        for path in (folder / package).rglob("*.py")
        for found in read_imports(ast.parse(path.read_text()), package, False)
    }
    declared = set(re.findall(r"<(?:exec_)?depend>([^<]+)<", (folder / "package.xml").read_text()))
    assert {name for name in names if belongs_to_ros(name)} - {package} - RIG_ONLY <= declared
