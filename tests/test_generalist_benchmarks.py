"""The benchmarks of generalists measure what is served, and say so where they cannot."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from rldg_bringup import bench

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))

    def load_module(name: str) -> ModuleType:
        return sys.modules[bench.load(BENCHMARKS / f"{name}.py").__module__]

    return load_module


def test_small_generalists_are_timed_and_drafts_counted_in_processes_of_their_own(
    load, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("generalists")
    monkeypatch.setattr(module, "MODELS", {"openvla_nano": "openvla", "octo_nano": "octo"})
    figures = module.main(["--calls", "2", "--frames", "6"])
    assert set(figures) == {
        *("openvla_nano_hz", "openvla_nano_cpu_ms", "octo_nano_hz", "octo_nano_cpu_ms"),
        *("draft_passes_ratio", "draft_distinct_share"),
    }
    assert 1.0 < figures["draft_passes_ratio"] <= 7.0
    assert capfd.readouterr().out == ""
    assert "torch" not in module.__dict__ and "jax" not in module.__dict__


def test_what_cannot_be_measured_is_left_out_and_said(load, capsys: pytest.CaptureFixture[str]) -> None:
    assert load("generalists").run("openvla_tiny", 1) == {}
    assert capsys.readouterr().err == "openvla_tiny: not measured: KeyError: 'openvla_tiny'\n"


@pytest.mark.parametrize("argument", ["--calls", "--frames"])
def test_a_count_below_one_is_refused(load, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load("generalists").main([argument, "0"])
    assert "must be at least 1" in capsys.readouterr().err
