"""What ``swap`` says of a swap, whom it talks to, and what it refuses before anything starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rldg_bringup import swap
from rldg_bringup.domain import hold_policy, keeper_of, lease_domain, leased_domains
from rldg_core.events import Event, EventKind

REQUESTED = Event(stamp_ns=10**9, kind=EventKind.SWAP_REQUESTED, policy_id="b", previous="a")
HANDED = Event(stamp_ns=10**9 + 84_000_000, kind=EventKind.SWAP_HANDED_OVER, policy_id="b", previous="a")


def end(kind: EventKind, reason: str = "", previous: str = "a") -> Event:
    return Event(stamp_ns=2 * 10**9, kind=kind, policy_id="b", previous=previous, reason=reason)


@pytest.mark.parametrize(
    ("events", "drives", "line"),
    [
        ([], True, "policy 'b' drives already"),
        (
            [REQUESTED, HANDED, end(EventKind.SWAP_COMPLETED)],
            True,
            "policy 'b' drives: it took over from 'a' 84 ms after the request and passed its probation of 0.9 s",
        ),
        (
            [REQUESTED, HANDED, end(EventKind.SWAP_ROLLED_BACK, "action is not finite")],
            False,
            "policy 'b' was rolled back, 'a' has the door again: action is not finite",
        ),
        (
            [REQUESTED, end(EventKind.SWAP_ROLLED_BACK, "stale", previous="")],
            False,
            "policy 'b' was rolled back, nobody has the door again: stale",
        ),
        ([REQUESTED, end(EventKind.SWAP_SUPERSEDED, "by c")], False, "policy 'b' lost the door to another swap: by c"),
    ],
)
def test_one_line_says_how_it_went(events: list[Event], drives: bool, line: str) -> None:
    assert swap.describe("b", events) == (drives, line)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "policy"),
        (["octo", "openvla"], "'openvla' is not of the form argument:=value"),
        (["octo", "--checkpoint", "/no/such"], "--checkpoint: /no/such is no folder"),
        (["octo", "--id", "a b"], "--id: 'a b' must be 1 to 64"),
        (["octo", "--id", "lab/octo"], "--id: 'lab/octo' must be 1 to 64"),
        (["octo", "--timeout", "0"], "--timeout: is 0.0"),
    ],
)
def test_a_wrong_call_is_refused_at_once(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        swap.main(words)
    assert exit_.value.code == 2 and says in capsys.readouterr().err


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("ROS_DOMAIN_ID")
    return tmp_path


def test_without_a_cell_it_says_how_to_launch_one(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert swap.main(["octo"]) == 2
    assert "no cell runs on this machine; launch one with ./rldg up <task>" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["x", "233", "-1"])
def test_a_domain_that_is_none_is_refused(
    runtime: Path, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", value)
    assert swap.main(["octo"]) == 2
    assert f"ROS_DOMAIN_ID={value} is not a domain" in capsys.readouterr().err


def test_among_several_cells_one_must_be_named(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = lease_domain("usb_insertion"), lease_domain("vga_insertion")
    assert first is not None and second is not None
    with first, second:
        assert set(leased_domains()) == {first.domain, second.domain}
        assert swap.main(["octo"]) == 2
        assert f"{first.domain}: usb_insertion" in capsys.readouterr().err
    assert leased_domains() == {}


def test_whoever_keeps_a_policy_is_known_until_it_ends(runtime: Path) -> None:
    assert keeper_of(7, "lab/octo") is None
    script = "import sys, rldg_bringup.domain as d; d.hold_policy(7, 'lab/octo'); print('held', flush=True); input()"
    keeper = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert keeper.stdout is not None and keeper.stdout.readline() == "held\n"
    assert keeper_of(7, "lab/octo") == keeper.pid and keeper_of(7, "octo") is None
    assert f"(pid {keeper.pid})" in hold_policy(7, "lab/octo")
    keeper.communicate("\n")
    assert keeper_of(7, "lab/octo") is None
