"""Films of trials are small, chosen by order, and on the page with a still; learning curves are read from runs."""

from __future__ import annotations

import io
from pathlib import Path

import av
import msgspec
import numpy as np
import pytest
from PIL import Image

from rldg_core.types import Outcome
from rldg_evaluation import films, report, testing
from rldg_evaluation.browser import CHROMIUM, Browser
from rldg_evaluation.films import FILMS, MOST_BYTES, SIDE_PX, Camera, Film, poster, small_film
from rldg_evaluation.learning import EVENTS, read_curve
from rldg_evaluation.plan import EvaluationPlan, LoadedPlan, prepare
from rldg_evaluation.report import PAGE, write_report
from rldg_evaluation.running import Result, Store

RNG = np.random.default_rng(0)
DATA = {
    "name": "filmed",
    "tasks": [{"task": "usb_insertion", "scenes": ["seen"]}],
    "policies": [{"name": "p", "type": "scripted"}],
    "trials": 8,
}


def plan() -> LoadedPlan:
    return prepare(msgspec.convert(DATA, EvaluationPlan))


def result(loaded: LoadedPlan, number: int, outcome: Outcome) -> Result:
    trial = sorted(loaded.trials, key=lambda each: each.id)[number]
    return testing.result(loaded, trial, outcome, steps=10, robot_s=1.0)


def moving(frames: int = 20, side: int = 256) -> list[np.ndarray]:
    """A bright square that crosses a noisy picture."""
    images = []
    for i in range(frames):
        image = RNG.integers(90, 110, (side, side, 3), dtype=np.uint8)
        image[:, i * side // (2 * frames) :][:, : side // 4] = 220
        images.append(image)
    return images


def test_a_film_holds_every_frame_at_its_rate(tmp_path: Path) -> None:
    with Film(tmp_path / "film.mp4", 10.0) as film:
        for i in range(12):
            film.add(np.full((32, 64, 3), 20 * i, np.uint8))
    with av.open(str(tmp_path / "film.mp4")) as read:
        frames = [frame.to_ndarray(format="rgb24") for frame in read.decode(video=0)]
        assert float(read.streams.video[0].average_rate) == 10.0
    assert len(frames) == 12
    assert [abs(int(frame.mean()) - 20 * i) < 6 for i, frame in enumerate(frames)] == [True] * 12


def test_a_small_film_keeps_all_moments_and_its_still_is_the_last(tmp_path: Path) -> None:
    images = moving(40)
    film = small_film(images, 10.0)
    assert film is not None and len(film) <= MOST_BYTES
    with av.open(io.BytesIO(film)) as read:
        assert sum(1 for _ in read.decode(video=0)) == 40
    still = np.asarray(Image.open(io.BytesIO(poster(film))))
    assert still.shape == (SIDE_PX, SIDE_PX, 3)
    assert still[:, SIDE_PX // 2 + 10].mean() > 180.0 > 130.0 > still[:, 10].mean()


def test_what_cannot_be_made_small_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(films, "MOST_BYTES", 500)
    assert small_film(moving(), 10.0) is None


@pytest.mark.parametrize("damaged", [b"", b"no film", "cut off"])
def test_a_damaged_film_is_refused_in_one_line(damaged: bytes | str) -> None:
    film = small_film(moving(), 10.0)
    assert film is not None
    with pytest.raises(ValueError, match="film cannot be read"):
        poster(film[:300] if isinstance(damaged, str) else damaged)


def test_the_first_success_and_the_first_failures_are_kept_and_nothing_of_aborted_trials(tmp_path: Path) -> None:
    loaded, camera = plan(), Camera()
    outcomes = [Outcome.ABORTED, *[Outcome.SUCCESS] * 2, *[Outcome.TIMEOUT] * 5]
    for number, outcome in enumerate(outcomes):
        told = result(loaded, number, outcome)
        assert camera.wants(told.cell) is (number < 6)
        camera.keep(tmp_path, told, moving(5), 10.0)
    kept = sorted(int(path.stem.rpartition("-")[2].rstrip("a")) - 1 for path in (tmp_path / FILMS).iterdir())
    assert kept == [1, 3, 4, 5]


def test_films_are_on_the_page_with_what_came_of_them(tmp_path: Path) -> None:
    loaded, camera = plan(), Camera()
    with Store(tmp_path, loaded) as store:
        for number in range(8):
            told = result(loaded, number, Outcome.SUCCESS if number % 2 else Outcome.TIMEOUT)
            store.append(told)
            camera.keep(tmp_path, told, moving(5), 10.0)
    broken = sorted((tmp_path / FILMS).iterdir())[0]
    broken.write_bytes(b"damaged")
    write_report(tmp_path)
    text = (tmp_path / PAGE).read_text()
    assert text.count("<video ") == text.count("</video>") == 3  # of the failures, one cannot be read
    assert text.count('poster="data:image/jpeg;base64,') == 3 and text.count('src="data:video/mp4;base64,') == 3
    assert "p, seen, seed 2100000001: success, 1.0 s" in text or ": success, 1.0 s" in text
    assert ": stuck in contact, 1.0 s" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_plays_the_films_on_a_page_as_narrow_as_a_phone(tmp_path: Path) -> None:
    loaded, camera = plan(), Camera()
    with Store(tmp_path, loaded) as store:
        for number in range(3):
            told = result(loaded, number, Outcome.SUCCESS if number else Outcome.TIMEOUT)
            store.append(told)
            camera.keep(tmp_path, told, moving(5), 10.0)
    write_report(tmp_path)
    with Browser((tmp_path / PAGE).as_uri(), tmp_path / "profile", (500, 900)) as browser:
        assert browser.js("document.documentElement.scrollWidth <= innerWidth")
        widths = """Promise.all([...document.querySelectorAll("video")].map(film => new Promise(done => {
          film.addEventListener("loadeddata", () => done(film.videoWidth));
          film.addEventListener("error", () => done("broken"));
          film.preload = "auto"; film.load();
        })))"""
        assert browser.js(widths) == [160, 160]


def test_no_more_films_than_a_page_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_FILMS", 1)
    loaded, camera = plan(), Camera()
    with Store(tmp_path, loaded) as store:
        for number in range(3):
            told = result(loaded, number, Outcome.TIMEOUT)
            store.append(told)
            camera.keep(tmp_path, told, moving(5), 10.0)
    write_report(tmp_path)
    assert (tmp_path / PAGE).read_text().count("<video ") == 1


def run_folder(folder: Path, *lines: str) -> Path:
    folder.mkdir()
    (folder / EVENTS).write_text("\n".join(lines))
    return folder


CHECK = '{"event":"Evaluated","purpose":"check","env_steps":%d,"evaluation":{"successes":%d,"trials":20}}'


def test_a_learning_curve_is_the_checks_of_a_run_and_on_the_page(tmp_path: Path) -> None:
    final = CHECK.replace("check", "final") % (9000, 20)
    other = '{"event":"Pretraining","epoch":1}'
    run = run_folder(tmp_path / "usb", other, CHECK % (1000, 3), CHECK % (2000, 18), final, '{"event":"Eval')
    curve = read_curve(run)
    assert (curve.env_steps, curve.counts) == ([1000, 2000], [(3, 20), (18, 20)])
    out = tmp_path / "out"
    loaded = plan()
    with Store(out, loaded) as store:
        store.append(result(loaded, 0, Outcome.SUCCESS))
    write_report(out, [run])
    text = (out / PAGE).read_text()
    assert "<h2>Learning curves</h2>" in text and f"Training run {run}" in text and "2 checks" in text
    assert (out / "learning.png").is_file()


@pytest.mark.parametrize("line", ['{"event":"Evaluated","purpose":"check"}', '{"purpose":"check"}', "[1]"])
def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match=r"events\.jsonl: cannot be read"):
        read_curve(tmp_path / "nothing")
    folder = run_folder(tmp_path / "odd", line)
    if line == "[1]":
        assert read_curve(folder).counts == []  # a line that is no event is passed over
        return
    with pytest.raises(ValueError, match="is not what a training run tells") as refusal:
        read_curve(folder)
    assert "\n" not in str(refusal.value)
