"""The benchmarks of generalists measure what is served, and say so where they cannot."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
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


def test_openvla_is_measured_on_what_there_is(load, capsys: pytest.CaptureFixture[str]) -> None:
    figures = load("openvla").main(["--preset", "openvla-test", "--device", "cpu", "--frames", "4"])
    assert figures["token_agreement"] == figures["token_agreement_draft"] == 1.0  # in float32
    assert figures["distinct_share"] > 0.5
    rates = ["exact_hz", "draft_hz", "baseline_hz", "fast_int8_hz", "fast_int4_hz"]
    assert all(figures[name] > 0.0 for name in rates)
    assert 0.0 <= figures["token_agreement_fast_int4"] <= 1.0 and figures["token_agreement_fast_int8"] > 0.3
    told = capsys.readouterr()
    assert told.out == "" and "fast_int8" in told.err and "same tokens" in told.err


def test_without_a_gpu_the_large_model_is_not_measured_and_the_reason_is_said(
    load, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    module = load("openvla")
    assert module.main([]) == {} and module.main(["--device", "cuda"]) == {}
    said = capsys.readouterr().err.splitlines()
    assert all(line.startswith("exact_hz, draft_hz, baseline_hz, token_agreement: not measured: ") for line in said)
    assert len(said) == 2


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--frames", "0"], "--frames: is 0, must be at least 1"),
        (["--checkpoint", "c"], "--checkpoint and --data belong together"),
        (["--checkpoint", "c", "--data", "d", "--preset", "openvla-test"], "without --preset"),
        (["--preset", "openvla-giant"], "preset 'openvla-giant': there is none"),
        (["--device", "cpu", "--checkpoint", "c", "--data", "d"], r"c/policy.yaml: cannot be read"),
    ],
)
def test_a_wrong_call_is_answered_in_one_line(
    load, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    with pytest.raises(SystemExit) as refused:
        load("openvla").main(argv)
    assert says in capsys.readouterr().err + str(refused.value)


def test_a_checkpoint_gets_a_report_on_frames_that_it_was_not_trained_on(
    load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rldg_core.task import load_task
    from rldg_policies import training_frames
    from rldg_policies.openvla import checkpoint
    from rldg_policies.openvla.agreement import Agreement

    helper, module = load("generalists"), load("openvla")
    checkpoint.write(tmp_path, helper.random_openvla("openvla-test"))
    helper.write_card(tmp_path, "openvla", "test", load_task("usb_insertion"))
    images = list(np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8))
    episode = training_frames.FrameEpisode(images, np.zeros((9, 7), np.float32), "insert")
    frames = training_frames.TrainingFrames("random", 10.0, (), (episode,), (episode,), helper.STATISTICS)
    monkeypatch.setattr(training_frames, "load_frames", lambda folder, seed: frames)
    module.main(["--checkpoint", str(tmp_path), "--data", "set", "--device", "cpu", "--frames", "5"])
    found = msgspec.yaml.decode((tmp_path / "agreement.yaml").read_bytes(), type=dict[str, Agreement])
    assert list(found) == ["fast_int8", "fast_int4"] and {said.frames for said in found.values()} == {5}
