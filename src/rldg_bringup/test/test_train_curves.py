"""What a run told is kept line by line, survives being cut off, and becomes a picture."""

from pathlib import Path

import pytest

from rldg_bringup.train_curves import EVENTS, draw, kept, main, read_events
from rldg_core.types import Outcome
from rldg_rl.policy import Evaluation
from rldg_rl.rollout import Episode
from rldg_rl.train import EpisodeEnded, Evaluated, Event


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder, shown = tmp_path / "a run", list[Event]()
    events: list[Event] = [
        EpisodeEnded(number, 30 * number + 30, Episode(Outcome.SUCCESS, 30, 3), {"updates": 4.0}) for number in range(5)
    ]
    events.append(Evaluated("check", 150, Evaluation(successes=0, trials=20, mean_steps=float("nan"))))
    with kept(folder, shown.append) as tell:
        for event in events:
            tell(event)
    assert shown == events
    return folder


def test_events_come_back(run: Path) -> None:
    *episodes, check = read_events(run)
    assert [each["env_steps"] for each in episodes] == [30, 60, 90, 120, 150]
    assert episodes[0]["episode"]["helped_steps"] == 3
    assert check["evaluation"] == {"successes": 0, "trials": 20, "mean_steps": None}


def test_a_run_that_was_killed_goes_on_where_its_last_whole_line_ends(run: Path) -> None:
    whole = (run / EVENTS).read_bytes()
    (run / EVENTS).write_bytes(whole[:-20])
    assert len(read_events(run)) == 5
    with kept(run, lambda event: None) as tell:
        tell(EpisodeEnded(9, 300, Episode(Outcome.TIMEOUT, 100, 0), {}))
    assert [each["env_steps"] for each in read_events(run)] == [30, 60, 90, 120, 150, 300]


def test_the_picture_shows_each_run(run: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    draw([run], one)
    assert main([str(run), str(run), "--out", str(two)]) == 0
    assert one.read_bytes()[:4] == b"\x89PNG" and one.read_bytes() != two.read_bytes()


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert str(tmp_path / EVENTS) in capsys.readouterr().err
