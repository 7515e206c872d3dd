"""A report says what the results say, stands on its own, and can be read on a phone."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

from rldg_core.types import Outcome
from rldg_evaluation.analysis import analyse
from rldg_evaluation.browser import CHROMIUM, Browser
from rldg_evaluation.plan import EvaluationError, EvaluationPlan, LoadedPlan, Trial, prepare
from rldg_evaluation.report import DATA, PAGE, actions_near, write_report
from rldg_evaluation.running import TRACES, Result, Store
from rldg_evaluation.statistics import mcnemar, wilson
from rldg_evaluation.testing import result
from rldg_evaluation.trace import Trace

PHONE_PX = (500, 900)

PLAN = {
    "name": "told",
    "tasks": [{"task": "usb_insertion"}],
    "policies": [{"name": "better", "type": "scripted"}, {"name": "worse", "type": "scripted"}],
    "trials": 20,
    "actions_near": {"xyz_m": [0.0, 0.0, 0.03]},
}
Decide = Callable[[Trial, int], Outcome]


def plan(**changes: object) -> LoadedPlan:
    return prepare(msgspec.convert(PLAN | changes, EvaluationPlan, strict=False))


def results(loaded: LoadedPlan, decide: Decide) -> list[Result]:
    numbers = {start: i for i, start in enumerate(sorted({(t.task, t.scene, t.seed) for t in loaded.trials}))}
    return [
        result(loaded, trial, decide(trial, numbers[trial.task, trial.scene, trial.seed])) for trial in loaded.trials
    ]


def clear(trial: Trial, number: int) -> Outcome:
    """The one fails at one start state in 20, the other at half of them."""
    fails = number % 20 == 0 if trial.policy == "better" else number % 2 == 0
    return Outcome.TIMEOUT if fails else Outcome.SUCCESS


def close(trial: Trial, number: int) -> Outcome:
    fails = number % 10 == 0 if trial.policy == "better" else number % 7 == 0
    return Outcome.TIMEOUT if fails else Outcome.SUCCESS


def test_what_is_clear_is_said_with_how_clear_it_is() -> None:
    loaded = plan()
    analysis = analyse(loaded, results(loaded, clear))
    (comparison,) = analysis.overall
    assert comparison.pairs == (20, 18, 0, 2) and comparison.p == mcnemar(comparison.pairs)
    assert analysis.sentences == [
        "better succeeds more often than worse: 38 of 40 against 20 of 40 on the same start states, +45 points "
        f"(95 % interval {100 * comparison.interval.low:+.0f} to {100 * comparison.interval.high:+.0f}; p < 0.001)."
    ]


def test_the_better_one_is_named_first_whatever_the_order_of_the_plan() -> None:
    loaded = plan(policies=PLAN["policies"][::-1])
    analysis = analyse(loaded, results(loaded, clear))
    assert analysis.sentences[0].startswith("better succeeds more often than worse: 38 of 40 against 20 of 40")
    assert analysis.overall[0].difference < 0.0


def test_what_is_not_shown_is_said_so_with_the_trials_it_would_take() -> None:
    loaded = plan()
    (sentence,) = analyse(loaded, results(loaded, close)).sentences
    assert sentence.startswith("Whether better or worse is better is not shown: 36 of 40 against 34 of 40")
    assert re.search(r"would show in about \d+ trials of each, four times out of five\.$", sentence)


def test_equal_policies_may_still_differ() -> None:
    loaded = plan()
    (sentence,) = analyse(loaded, results(loaded, lambda trial, number: Outcome.SUCCESS)).sentences
    assert "succeeded equally often" in sentence and re.search(r"better by up to \d+ points", sentence)


def test_several_comparisons_are_corrected_and_say_so() -> None:
    loaded = plan(policies=[*PLAN["policies"], {"name": "third", "type": "scripted"}])
    analysis = analyse(loaded, results(loaded, lambda t, n: clear(t, n) if t.policy != "third" else close(t, n)))
    assert len(analysis.overall) == 3 and len(analysis.by_scene) == 6
    assert all(each.p_holm >= each.p for each in (*analysis.overall, *analysis.by_scene))
    assert any(each.p_holm > each.p for each in analysis.overall)
    assert all("corrected for 3 comparisons" in each.sentence for each in analysis.overall)


def test_cells_hold_counts_intervals_and_failures() -> None:
    loaded = plan()
    cells = {(cell.policy, cell.scene): cell for cell in analyse(loaded, results(loaded, clear)).cells}
    cell = cells["worse", "seen"]
    assert cell.count == (10, 20) and cell.wilson == wilson(cell.count) and cell.failures == {"stuck in contact": 10}
    assert cell.sequence is None and (cell.steps, cell.limited_steps, cell.aborted) == (1000, 20, 0)
    assert cells["better", "unseen_background"].split == "unseen"


def test_aborted_trials_count_for_nothing_and_are_told() -> None:
    loaded = plan()
    played = results(loaded, lambda t, n: Outcome.ABORTED if n == 3 else clear(t, n))
    analysis = analyse(loaded, played)
    assert sum(cell.count.trials for cell in analysis.cells) == 78
    assert analysis.overall[0].pairs.trials == 39
    assert analysis.sentences[-1] == "2 trials were aborted and count for nothing."


def test_a_trial_that_failed_early_is_not_done_by_the_time_limit() -> None:
    loaded = plan()
    early = [
        result(loaded, t, Outcome.FAILURE if t.policy == "worse" else Outcome.SUCCESS, robot_s=1.0)
        for t in loaded.trials
    ]
    better, worse = analyse(loaded, early).cycle_times
    assert (better.median_s, worse.median_s, worse.count) == (1.0, None, (0, 40))
    assert better.limit_s == loaded.tasks["usb_insertion"].time_limit_s


def test_half_a_run_is_reported_as_half_a_run() -> None:
    loaded = plan()
    analysis = analyse(loaded, results(loaded, clear)[:11])
    assert analysis.sentences[-1] == "69 of 80 trials have not been run yet."
    assert analysis.provenance.trials_run == 11
    nothing = analyse(loaded, [])
    assert nothing.cells == [] and nothing.sentences == ["80 of 80 trials have not been run yet."]


def test_stopped_trials_are_shown_with_the_interval_that_allows_for_it() -> None:
    loaded = plan(stop={"against": 0.8})
    analysis = analyse(loaded, results(loaded, clear)[:40])
    assert all(cell.sequence is not None for cell in analysis.cells)
    assert "were not needed to see who is above 80%" in analysis.sentences[-1]


def trace(near: bool) -> Trace:
    n = 10
    tcp = np.tile([0.001, 0.0, 0.03 if near else 0.2], (n + 1, 1))
    executed = np.tile([-0.8, -0.7, 0.5, 0.0, 0.0, 0.0], (n, 1))
    zeros = np.zeros
    return Trace(
        tcp,
        zeros((0, 3)),
        zeros((n + 1, 3)),
        zeros((n + 1, 6)),
        zeros(n + 1, bool),
        zeros(n, np.uint8),
        zeros(n, np.uint32),
        executed,
    )


def keep(folder: Path, loaded: LoadedPlan, played: list[Result]) -> None:
    with Store(folder, loaded) as store:
        for each in played:
            store.append(each)
            trace(near=each.policy == "better").save(folder / TRACES / f"{each.trial}.npz")


def test_actions_near_the_reference_pose_are_gathered_by_policy(tmp_path: Path) -> None:
    loaded = plan(trials=2)
    played = results(loaded, clear)
    keep(tmp_path, loaded, played)
    (tmp_path / TRACES / f"{played[0].trial}.npz").write_bytes(b"damaged")
    actions, unread = actions_near(tmp_path, played, loaded.plan.actions_near)
    assert len(actions["better"]) in (30, 40) and len(actions.get("worse", ())) == 0
    assert len(unread) == 1 and "cannot be read" in unread[0]
    assert actions_near(tmp_path, played, None) == ({}, [])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    loaded = plan(policies=[*PLAN["policies"], {"name": "third", "type": "operator"}])
    played = results(loaded, lambda t, n: clear(t, n) if t.policy != "third" else close(t, n))
    played[0] = msgspec.structs.replace(played[0], software='<script>alert("x")</script> & more')
    keep(folder, loaded, played)
    write_report(folder)
    return folder


def test_the_page_is_well_formed_and_asks_nothing_of_the_network(report: Path) -> None:
    text = (report / PAGE).read_text()
    root = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    assert [child.tag for child in root] == ["head", "body"]
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?\s*(?:https?:)?//", text)
    assert not list(root.iter("script")) and not list(root.iter("link"))
    for image in root.iter("img"):
        assert image.attrib["alt"]
        kind, _, data = image.attrib["src"].partition(";base64,")
        assert kind == "data:image/svg+xml"
        picture = base64.b64decode(data, validate=True)
        assert ElementTree.fromstring(picture).tag.endswith("svg")
        outside = set(re.findall(rb"https?://[^\"'\s<]+", picture))
        assert outside <= {b"http://www.w3.org/2000/svg", b"http://www.w3.org/1999/xlink"}


def test_every_figure_is_on_the_page_and_beside_it(report: Path) -> None:
    root = ElementTree.fromstring((report / PAGE).read_text().removeprefix("<!DOCTYPE html>\n"))
    captions = ["".join(caption.itertext()) for caption in root.iter("figcaption")]
    assert len(captions) == len(list(root.iter("img"))) == 4
    pictures = {path.stem for path in report.glob("*.png")}
    assert pictures == {"success", "cycle_times_usb_insertion", "failures", "actions"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in report.glob("*.png"))


def test_the_page_is_made_for_a_phone_too(report: Path) -> None:
    root = ElementTree.fromstring((report / PAGE).read_text().removeprefix("<!DOCTYPE html>\n"))
    metas = {meta.attrib.get("name"): meta.attrib.get("content") for meta in root.iter("meta")}
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    parents = {child: parent for parent in root.iter() for child in parent}
    assert all(parents[table].attrib.get("class") == "wide" for table in root.iter("table"))


def test_every_number_has_its_origin(report: Path) -> None:
    text = (report / PAGE).read_text()
    data = msgspec.json.decode((report / DATA).read_bytes())
    origin = data["provenance"]
    assert origin["plan_hash"] in text and origin["trials_run"] == 120
    assert "abc1234" in text and "&lt;script&gt;" in text
    assert [policy["name"] for policy in origin["policies"]] == ["better", "worse", "third"]
    assert origin["start_states"]["usb_insertion, seen"] == list(range(2_100_000_000, 2_100_000_020))
    assert "2100000000 to 2100000019" in text
    for sentence in data["sentences"]:
        assert escape(sentence) in text


def test_the_same_run_gives_the_same_report(report: Path) -> None:
    before = [(report / name).read_bytes() for name in (PAGE, DATA)]
    write_report(report)
    assert [(report / name).read_bytes() for name in (PAGE, DATA)] == before


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"plan\.json: cannot be read"):
        write_report(tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_the_page_without_scrolling_sideways(report: Path, tmp_path: Path) -> None:
    with Browser((report / PAGE).as_uri(), tmp_path / "profile", PHONE_PX) as browser:
        assert browser.js("document.documentElement.scrollWidth <= innerWidth")
        assert browser.js("[...document.images].map(image => image.naturalWidth > 0)") == [True] * 4
