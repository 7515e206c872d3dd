"""The soak benchmark tells a leak from what settles, jumps or begins again; and it runs."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rldg_bringup import bench

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
RNG = np.random.default_rng(0)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _processes

    return _processes


def series(module: ModuleType, memory_mb, pid: int = 1, begin_s: float = 0.0, threads=lambda t_s: 8) -> list:
    """Ten minutes, a sample every five seconds, with the noise of an allocator."""
    return [
        module.Sample(t_s, "node", pid, 150.0 + t_s / 60.0, memory_mb(t_s) + RNG.uniform(0.0, 0.5), 30, threads(t_s))
        for t_s in np.arange(begin_s, begin_s + 600.0, 5.0).tolist()
    ]


def leaking(module: ModuleType, samples: list) -> set[str]:
    return {each.resource for each in module.growth(samples, warm_up_s=180.0) if each.leaks}


def test_what_grows_steadily_is_a_leak(processes: ModuleType) -> None:
    assert leaking(processes, series(processes, lambda t_s: 100.0 + t_s * 20.0 / 3600.0)) == {"pss_mb"}
    assert leaking(processes, series(processes, lambda t_s: 100.0, threads=lambda t_s: 8 + int(t_s / 120.0))) == {
        "threads"
    }


@pytest.mark.parametrize(
    "memory_mb",
    [
        lambda t_s: 100.0,
        lambda t_s: 130.0 - 30.0 * math.exp(-t_s / 30.0),  # what start-up takes
        lambda t_s: 100.0 + (20.0 if 400.0 < t_s < 420.0 else 0.0),  # a bag is closed
        lambda t_s: 100.0 + t_s * 2.0 / 3600.0,
    ],
)
def test_what_settles_comes_back_or_grows_by_little_is_none(processes: ModuleType, memory_mb) -> None:
    assert leaking(processes, series(processes, memory_mb)) == set()


def test_a_process_that_is_restarted_begins_anew_and_one_that_lives_shortly_says_nothing(processes: ModuleType) -> None:
    first, second = series(processes, lambda t_s: 100.0), series(processes, lambda t_s: 200.0, pid=2, begin_s=600.0)
    assert leaking(processes, first + second) == set()
    assert processes.growth(first[:40], warm_up_s=180.0) == []


def test_this_process_is_looked_at_and_one_that_is_gone_is_left_out(processes: ModuleType) -> None:
    (sample,) = processes.look(1.0, {"me": os.getpid(), "gone": 2**22 - 1})
    assert sample.process == "me" and sample.rss_mb > sample.pss_mb / 2 > 0.0
    assert sample.descriptors >= 3 and sample.threads >= 1


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_short_soak_runs_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    main = bench.load(BENCHMARKS / "soak.py")
    figures = main(["--minutes", "1.5", "--every", "1", "--out", str(tmp_path / "soak.jsonl")])
    assert figures["hangs"] == 0.0 and figures["episodes"] >= 2.0 and figures["ticks"] > 500.0
    assert figures["swaps"] + figures["faults"] > 3.0 and "rss_mb_per_h_worst" in figures
    lines = [json.loads(line) for line in (tmp_path / "soak.jsonl").read_text().splitlines()]
    assert {"soak", "arbiter", "observer", "recorder", "policy_weak"} <= {line["process"] for line in lines}


@pytest.mark.parametrize("words", [["--policies", "a"], ["--policies", "a", "weak"], ["--minutes", "0"]])
def test_a_wrong_call_is_refused(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit):
        bench.load(BENCHMARKS / "soak.py")(words)
