"""The e-stop outlives the arbiter, but not the launch."""

from pathlib import Path

import pytest

from rldg_control.latch import Latch


def test_a_restarted_process_of_the_same_launch_finds_what_was_kept(tmp_path: Path) -> None:
    assert Latch("/arbiter", tmp_path).load() is None
    Latch("/arbiter", tmp_path).save("button", "octo")
    assert Latch("/arbiter", tmp_path).load() == ("button", "octo")
    assert Latch("/left/arbiter", tmp_path).load() is None


def test_two_launches_of_one_process_do_not_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLDG_LAUNCH_ID", "one")
    Latch("/arbiter", tmp_path).save("button", "")
    monkeypatch.setenv("RLDG_LAUNCH_ID", "two")
    assert Latch("/arbiter", tmp_path).load() is None


def test_the_next_launch_starts_afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLDG_LAUNCH_ID", raising=False)
    Latch("/arbiter", tmp_path).save("button", "")
    monkeypatch.setattr("os.getppid", lambda: 1)
    assert Latch("/arbiter", tmp_path).load() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"estop": "x"}', "\x00"])
def test_a_damaged_file_counts_as_an_estop(tmp_path: Path, text: str) -> None:
    latch = Latch("/arbiter", tmp_path)
    latch.save("", "")
    next(tmp_path.iterdir()).write_text(text)
    kept = latch.load()
    assert kept is not None and "cannot be read" in kept[0]
