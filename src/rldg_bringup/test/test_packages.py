"""Packages are found where they are installed, else in the source tree they are imported from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rldg_bringup.packages import find_executable, find_share


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree with one package that is importable and not installed."""
    package = tmp_path / "src" / "made_up_package" / "made_up_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "hello_node.py").write_text("import sys\ndef main():\n    print(sys.argv[1:])\n    return 3\n")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return tmp_path


def install(prefix: Path, executable_mode: int = 0o755) -> dict[str, str]:
    (prefix / "share" / "made_up_package").mkdir(parents=True)
    program = prefix / "lib" / "made_up_package" / "hello_node"
    program.parent.mkdir(parents=True)
    program.touch()
    program.chmod(executable_mode)
    return {"AMENT_PREFIX_PATH": f"/nowhere:{prefix}"}


def test_an_installed_package_comes_first(workspace: Path) -> None:
    prefix = workspace / "install"
    environment = install(prefix)
    assert find_share("made_up_package", environment) == prefix / "share" / "made_up_package"
    assert find_executable("made_up_package", "hello_node", environment) == [
        str(prefix / "lib" / "made_up_package" / "hello_node")
    ]


def test_a_source_tree_stands_in_for_an_installation(workspace: Path) -> None:
    assert find_share("made_up_package", {}) == workspace
    command = find_executable("made_up_package", "hello_node", {})
    result = subprocess.run([*command, "--ros-args"], capture_output=True, text=True)
    assert (result.stdout, result.returncode) == ("['--ros-args']\n", 3)


def test_what_cannot_be_executed_is_passed_over(workspace: Path) -> None:
    environment = install(workspace / "install", executable_mode=0o644)
    assert find_executable("made_up_package", "hello_node", environment)[0] == sys.executable


@pytest.mark.parametrize("package", ["no_such_package", "not-a-package", "json"])
def test_a_missing_package_is_named_with_the_remedy(package: str) -> None:
    with pytest.raises(LookupError, match=f"package '{package}' is neither .* build the workspace or source it"):
        find_share(package, {})


def test_a_missing_executable_is_named(workspace: Path) -> None:
    with pytest.raises(LookupError, match=r"executable 'bye_node' of package 'made_up_package' is in no lib/"):
        find_executable("made_up_package", "bye_node", {})
