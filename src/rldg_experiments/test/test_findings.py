"""From the trials of an evaluation to bars, claims, pictures and a page."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import msgspec
import numpy as np
import pytest

from rldg_core.types import Outcome
from rldg_evaluation.plan import EvaluationPlan, prepare
from rldg_evaluation.report import write_report as write_evaluation
from rldg_evaluation.running import Store
from rldg_evaluation.statistics import Count
from rldg_evaluation.testing import result
from rldg_experiments import drawing
from rldg_experiments.measures import HELD, OPEN, REVERSED, measure
from rldg_experiments.plan import Experiment, ExperimentError, Figure, experiment_names
from rldg_experiments.report import DATA, PAGE, Results, write_report
from rldg_experiments.running import Record

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results"
TRIALS = 40
PLAN = {
    "name": "told",
    "tasks": [{"task": "usb_insertion"}],
    "policies": [{"name": name, "type": "scripted"} for name in ("rl", "human", "other")],
    "trials": TRIALS,
}
SUCCESSES = {"rl": 36, "human": 12, "other": 34}  # of 40 in each scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that nobody ran."""
    loaded = prepare(msgspec.convert(PLAN, EvaluationPlan))
    out = tmp_path_factory.mktemp("evaluation") / "results"
    tried: dict[tuple[str, str], int] = {}
    with Store(out, loaded) as store:
        for trial in sorted(loaded.trials, key=lambda trial: trial.seed):
            number = tried[trial.policy, trial.scene] = tried.get((trial.policy, trial.scene), 0) + 1
            good = number <= SUCCESSES[trial.policy]
            outcome = Outcome.SUCCESS if good else Outcome.TIMEOUT
            store.append(result(loaded, trial, outcome, steps=20, robot_s=2.0 if good else 10.0))
    write_evaluation(out)
    return out


def figure(**changes: object) -> Figure:
    told = {
        "name": "success",
        "kind": "bars",
        "title": "Success",
        "evaluation": "trials",
        "bars": [
            {"label": "RL", "policies": ["rl"], "split": "seen", "paper": {"successes": 19, "trials": 20}},
            {"label": "human", "policies": ["human"], "split": "seen", "paper": {"says": "16 of 20"}},
            {"label": "best", "policies": ["human", "other"], "split": "seen"},
        ],
        "claims": [
            {"first": "RL", "second": "human"},
            {"first": "human", "second": "RL"},
            {"first": "RL", "second": "best"},
        ],
    }
    return msgspec.convert(told | changes, Figure)


def test_bars_count_the_trials_that_they_are_about(folder: Path) -> None:
    rl, human, best = measure(figure(), folder).bars
    assert (rl.count, human.count) == (Count(36, TRIALS), Count(12, TRIALS))
    assert rl.interval.low < 0.9 < rl.interval.high and rl.median_s == 2.0 and human.median_s is None
    assert best.policy == "other" and best.count == Count(34, TRIALS) and best.others == {"human": Count(12, TRIALS)}


def test_claims_hold_are_reversed_or_not_shown_by_paired_trials(folder: Path) -> None:
    first, second, third = measure(figure(), folder).claims
    assert (first.here, second.here, third.here) == (HELD, REVERSED, OPEN)
    assert first.comparison.p_holm >= first.comparison.p and sum(first.comparison.pairs) == TRIALS


def test_both_splits_count_where_no_split_is_named(folder: Path) -> None:
    bars = [{"label": "RL", "policies": ["rl"]}]
    assert measure(figure(bars=bars, claims=[]), folder).bars[0].count == Count(72, 2 * TRIALS)


@pytest.mark.parametrize(
    "bar", [{"policies": ["nobody"]}, {"policies": ["rl"], "tasks": ["hdmi"]}, {"policies": ["rl"], "split": "far"}]
)
def test_a_bar_of_trials_that_nobody_ran_is_refused(bar: dict[str, object], folder: Path) -> None:
    with pytest.raises(ExperimentError, match=r"figure success: x: no trial of "):
        measure(figure(bars=[{"label": "x", **bar}], claims=[]), folder)


def test_an_evaluation_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"figure success: .*plan\.json"):
        measure(figure(), tmp_path)


def test_every_kind_of_figure_is_drawn(folder: Path) -> None:
    line = [
        {"label": f"{name} {x}", "policies": [name], "line": name, "x": x}
        for name in ("rl", "human")
        for x in (1, 2, 8)
    ]
    for kind, bars in (("bars", None), ("times", None), ("lines", line)):
        changes = {"kind": kind, "claims": []} | ({"bars": bars, "x": "episodes"} if bars else {})
        drawn = drawing.draw(measure(figure(**changes), folder), {})
        drawn.canvas.draw()
        image = np.asarray(drawn.canvas.buffer_rgba())  # type: ignore[attr-defined]
        assert image.std() > 10.0, kind
        drawing.plt.close(drawn)


def test_the_page_says_what_held_and_where_it_comes_from(folder: Path, tmp_path: Path) -> None:
    experiment = msgspec.convert(
        {
            "name": "e",
            "title": "RL < human?",
            "about": "Is it so?",
            "differs": "small",
            "stages": [
                {"do": "train", "name": "specialist", "task": "usb_insertion"},
                {"do": "evaluate", "name": "trials", "plan": PLAN},
            ],
            "figures": [msgspec.to_builtins(figure())],
        },
        Experiment,
    )
    told = {
        "task": "usb_insertion",
        "encoder": "pixels_sim",
        "seed": 0,
        "success_rate": 0.99,
        "trials": 100,
        "stopped": "max_env_steps",
        "mean_steps": 19.0,
        "demo_steps": 48.0,
        "env_steps": 11_000,
    }
    records = {
        name: Record(name=name, key=name, about="", command=(name,), wall_s=1800.0, told=said)
        for name, said in (("specialist", told), ("trials", {}))
    }
    out = tmp_path / "out"
    products = {"specialist": tmp_path, "trials": folder}
    write_report(experiment, records, [measure(figure(), folder)], products, out, {"cores": 2}, {"rldg": "abc"})
    page = (out / PAGE).read_text()
    ElementTree.fromstring(page.partition("\n")[2])  # well-formed
    assert "RL &lt; human?" in page and "As in the paper: RL succeeds more often than human" in page
    assert "99 of 100 episodes" in page and "had not passed its stop rule" in page and 'href="trials.html"' in page
    results = msgspec.json.decode((out / DATA).read_bytes(), type=Results)
    assert results.hours == 1.0 and results.findings[0].claims[1].here == REVERSED
    assert (out / "success.png").is_file() and (out / "trials.html").is_file()


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/results.json")), ids=lambda path: path.parent.name)
def test_results_that_are_kept_with_the_project_can_be_read_and_name_an_experiment_that_is_there(path: Path) -> None:
    results = msgspec.json.decode(path.read_bytes(), type=Results)
    assert results.experiment == path.parent.name in experiment_names() and results.hours > 0.0
    assert all((path.parent / f"{finding.name}.png").is_file() for finding in results.findings)
    assert not re.search(r'"/\w+/', path.read_text())  # no folder of the machine that it was run on
