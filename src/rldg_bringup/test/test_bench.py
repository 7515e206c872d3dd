"""``./rldg bench``: listing, running and the form of the result."""

import json

import pytest

from rldg_bringup import bench

QUICK = '''"""Measures nothing much.

More about it.
"""
import sys

from helper_of_quick import NUMBER


def main(argv):
    print("on stdout, which is for the result only")
    print("progress", file=sys.stderr)
    return {"number": NUMBER, "arguments_n": len(argv)}
'''


@pytest.fixture
def benchmarks(tmp_path, monkeypatch):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "quick.py").write_text(QUICK)
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "helper_of_quick.py").write_text("NUMBER = 42\n")
    monkeypatch.syspath_prepend(tmp_path / "helpers")
    monkeypatch.setattr(bench.workspace, "root", lambda: tmp_path)
    monkeypatch.setattr(bench.sys, "path", list(bench.sys.path))
    monkeypatch.setenv("PYTHONPATH", "")


@pytest.mark.usefixtures("benchmarks")
def test_the_last_line_of_stdout_is_the_result_and_all_else_goes_to_stderr(capfd) -> None:
    assert bench.main(["quick", "a", "b"]) == 0
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert list(result) == ["bench", "figures", "machine", "versions"]
    assert result["bench"] == "quick"
    assert result["figures"] == {"number": 42, "arguments_n": 2}
    assert result["machine"]["cores_n"] >= 1
    assert result["versions"]["numpy"]
    assert "progress" in err
    assert "on stdout" in err


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_without_a_name_the_benchmarks_are_listed_with_their_first_line(argv, capsys) -> None:
    assert bench.main(argv) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split(maxsplit=1) == ["quick", "Measures nothing much."]


@pytest.mark.usefixtures("benchmarks")
def test_an_unknown_name_is_answered_with_the_known_ones(capsys) -> None:
    assert bench.main(["quack"]) == 2
    assert "no benchmark 'quack'; allowed: quick" in capsys.readouterr().err
