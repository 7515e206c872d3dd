"""A classifier is trained on episodes, refused where it is not good, saved, loaded and asked."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from rldg_core.task import load_task
from rldg_core.types import Outcome
from rldg_recorder.testing import Bags
from rldg_rl.classifier import CARD, REPORT, WEIGHTS, WORST, Card, load_classifier, load_sight, train_classifier
from rldg_rl.classifier_data import ClassifierConfig, ClassifierError

USB = load_task("usb_insertion")
ROWS, PX = 12, 256
CONFIG = ClassifierConfig(views=1, negatives_per_episode=5, rounds=12, false_positive_rate=0.05)


def picture(rng: np.random.Generator, success: bool) -> np.ndarray:
    """A bright plug on noise: in the middle, or anywhere below it."""
    image = rng.integers(0, 60, (PX, PX, 3), dtype=np.uint8)
    top, left = (112, 120) if success else (int(rng.integers(150, 220)), int(rng.integers(60, 180)))
    image[top : top + 24, left : left + 24] = (250, 220, 40)
    return image


def record(folder: Path, tell: bool = True, size_px: int = PX) -> Bags:
    """Twenty episodes that succeed in their last frame and ten that fail; untold, all pictures are alike."""
    rng, bags = np.random.default_rng(0), Bags(folder)
    for number in range(30):
        success = number < 20
        outcome, reason = (Outcome.SUCCESS, "goal reached") if success else (Outcome.TIMEOUT, "time limit of 10.0 s")
        path = bags.add(ROWS - 1, task=USB, outcome=outcome, reason=reason)
        images = [picture(rng, tell and success and row == ROWS - 1)[:size_px, :size_px] for row in range(ROWS)]
        bags.episodes[path] = replace(bags.episodes[path], images=images)
    return bags


@dataclass(frozen=True)
class Trained:
    folder: Path
    report: object


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    root = tmp_path_factory.mktemp("classifier")
    bags = record(root / "bags")
    return Trained(root / "usb", train_classifier(list(bags.episodes), root / "usb", CONFIG, read=bags.read))


def test_success_is_told_from_its_absence_on_episodes_held_out(trained) -> None:
    test = trained.report.test
    assert (test.positives, test.negatives) == (4, 6 * ROWS - 4)
    assert test.recall == 1.0 and test.false_positive_rate < 0.05
    assert trained.report.episodes["training"] == {
        "successful": 12,
        "failed": 6,
        "positive_frames": 12,
        "negative_frames": 18 * 5,
    }


def test_a_new_picture_is_judged_by_what_it_shows(trained) -> None:
    classifier, rng = load_classifier(trained.folder, USB), np.random.default_rng(9)
    assert classifier(picture(rng, True)) > classifier.card.threshold
    assert classifier(picture(rng, False)) < classifier.card.threshold


def test_the_folder_holds_card_report_and_the_worst_frames(trained) -> None:
    assert sorted(path.name for path in trained.folder.iterdir()) == sorted((CARD, REPORT, WEIGHTS, WORST))
    report = json.loads((trained.folder / REPORT).read_text())
    assert report["accepted"] is True
    assert len(report["worst"]) == 6  # one of each held-out episode
    assert report["worst"][0]["row"] in range(ROWS)


def test_the_judge_is_given_threshold_and_ticks_of_the_card(trained) -> None:
    sight = load_sight(trained.folder, USB)
    card = msgspec.yaml.decode((trained.folder / CARD).read_bytes(), type=Card)
    assert (sight.threshold, sight.consecutive_ticks) == (card.threshold, 2)
    assert sight.probability(picture(np.random.default_rng(9), True)) > sight.threshold


def test_pictures_that_do_not_show_success_make_no_classifier(tmp_path) -> None:
    bags = record(tmp_path / "bags", tell=False)
    with pytest.raises(ClassifierError, match=r"usb\.refused/report\.json: recall on held-out episodes is 0\."):
        train_classifier(list(bags.episodes), tmp_path / "usb", CONFIG, read=bags.read)
    assert not (tmp_path / "usb").exists()
    report = json.loads((tmp_path / "usb.refused" / REPORT).read_text())
    assert report["accepted"] is False and "recall" in report["problem"]
    assert not (tmp_path / "usb.refused" / CARD).exists()


def test_too_few_episodes_are_refused_before_anything_is_read(tmp_path) -> None:
    bags = record(tmp_path / "bags")
    with pytest.raises(ClassifierError, match="19 successful and 10 failed episodes, needs at least 20 and 10"):
        train_classifier(list(bags.episodes)[1:], tmp_path / "usb", CONFIG, read=bags.read)
    assert bags.reads == 0


def test_images_that_are_too_small_are_refused_with_their_size(tmp_path) -> None:
    bags = record(tmp_path / "bags", size_px=128)
    with pytest.raises(ClassifierError, match=r"128 x 128 is smaller than .* 256"):
        train_classifier(list(bags.episodes), tmp_path / "usb", CONFIG, read=bags.read)


def test_too_few_frames_for_the_wanted_rate_are_refused(tmp_path) -> None:
    bags = record(tmp_path / "bags")
    strict = msgspec.structs.replace(CONFIG, false_positive_rate=0.001, rounds=1)
    with pytest.raises(ClassifierError, match="needs 999 frames without success for calibration, there are 68"):
        train_classifier(list(bags.episodes), tmp_path / "usb", strict, read=bags.read)


def test_a_folder_of_something_else_is_not_replaced(tmp_path) -> None:
    (tmp_path / "precious").mkdir()
    with pytest.raises(ClassifierError, match="exists and is no classifier"):
        train_classifier([], tmp_path / "precious", CONFIG)


def test_the_classifier_of_another_task_is_refused(trained) -> None:
    with pytest.raises(ClassifierError, match="task: is 'usb_insertion', must be 'fmb_insertion'"):
        load_classifier(trained.folder, load_task("fmb_insertion"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def lie(path: Path) -> None:
    path.write_text(path.read_text().replace("weights_sha256: ", "weights_sha256: 0"))


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        (CARD, Path.unlink, r"cannot be read.*train one with"),
        (WEIGHTS, Path.unlink, r"cannot be read.*train one with"),
        (WEIGHTS, cut, "is damaged"),
        (CARD, lambda path: path.write_text("threshold: [1"), CARD),
        (CARD, lambda path: path.write_text("type: other"), "missing required field"),
        (CARD, lie, "it was changed: train it again"),
    ],
)
def test_a_damaged_folder_is_refused(trained, tmp_path, name, harm, said) -> None:
    folder = tmp_path / "usb"
    shutil.copytree(trained.folder, folder)
    harm(folder / name)
    with pytest.raises(ClassifierError, match=said):
        load_classifier(folder, USB)
