"""Which frames show success, and which episodes a classifier may learn from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rldg_core.testing import make_task
from rldg_core.types import Outcome
from rldg_recorder.episode import LabelInfo
from rldg_recorder.testing import Bags, make_episode
from rldg_rl.classifier_data import (
    Candidate,
    ClassifierConfig,
    ClassifierError,
    Part,
    candidates,
    check_enough,
    encode,
    label_rows,
    split,
)

DOWN = [0.0, 0.0, 0.5, 0.0, 0.0, 0.0]  # 7.5 mm; the tolerances are 5, 5 and 3 mm
STILL = [0.0] * 6
SLOWLY = [0.0, 0.0, 0.3, 0.0, 0.0, 0.0]  # 4.5 mm
OPERATOR = LabelInfo(outcome=Outcome.SUCCESS, reason="label by ada")
RULE = {"goal": {"xyz_m": [0, 0, 0.1]}, "position_tolerance_m": [0.01] * 3}


def labels(deltas, **changes) -> list[int]:
    return label_rows(make_episode(deltas, reason=changes.pop("reason", "goal reached"), **changes)).tolist()


@pytest.mark.parametrize("outcome", [Outcome.FAILURE, Outcome.TIMEOUT])
def test_a_failed_episode_shows_no_success(outcome) -> None:
    assert labels([DOWN, DOWN, STILL], outcome=outcome) == [0, 0, 0, 0]


def test_the_ticks_that_the_rule_counted_are_successes_and_none_before() -> None:
    assert labels([DOWN, DOWN, STILL]) == [0, 0, 0, 1]
    task = make_task(success={**RULE, "consecutive_ticks": 3})
    assert labels([DOWN, DOWN, STILL], task=task) == [0, 1, 1, 1]


def test_before_a_persons_label_standing_still_is_success_and_nearness_is_left_out() -> None:
    assert labels([DOWN, SLOWLY, STILL, STILL], reason="label by ada") == [0, -1, 1, 1, 1]


def test_a_label_after_the_fact_is_a_persons_too() -> None:
    assert labels([DOWN, SLOWLY, STILL], labels=(OPERATOR,))[1:] == [-1, 1, 1]


def test_passing_the_place_with_an_open_gripper_is_no_success() -> None:
    assert labels([DOWN, STILL, STILL], closed=[False, False, True], reason="label by ada") == [0, 0, 0, 1]


def test_of_an_object_that_was_let_go_only_the_last_frame_is_certain() -> None:
    task = make_task(success={**RULE, "subject": "object"}, object={"pose": {"xyz_m": [0.5, 0.1, 0.0]}})
    closed = [False, True, True, False, False]
    assert labels([STILL] * 5, task=task, closed=closed, reason="label by ada") == [0, 0, 0, 0, -1, 1]


def test_episodes_that_prove_nothing_are_left_out_and_counted(tmp_path) -> None:
    bags = Bags(tmp_path)
    folders = [
        bags.add(),
        bags.add(outcome=Outcome.TIMEOUT, scene="dark"),
        bags.add(outcome=Outcome.ABORTED),
        bags.add(state="partial"),
        bags.add(audit="fail"),
        tmp_path,
    ]
    task, found, left_out = candidates(folders)
    assert (task.name, [(c.success, c.scene) for c in found]) == ("peg", [(True, "seen"), (False, "dark")])
    assert left_out == {
        "outcome aborted": 1,
        "not complete: partial": 1,
        "its audit failed": 1,
        "episode.yaml cannot be read": 1,
    }


def test_bags_of_two_tasks_are_refused_with_their_names(tmp_path) -> None:
    bags = Bags(tmp_path)
    with pytest.raises(ClassifierError, match="of tasks peg, plug; a classifier learns one task"):
        candidates([bags.add(), bags.add(task=make_task(name="plug"))])


def test_no_bags_are_refused() -> None:
    with pytest.raises(ClassifierError, match="of tasks none"):
        candidates([])


def made(successes: int, failures: int) -> list[Candidate]:
    return [Candidate(Path(f"{i}"), i < successes, "seen") for i in range(successes + failures)]


def test_too_few_episodes_are_refused_with_both_counts_and_what_was_left_out() -> None:
    with pytest.raises(ClassifierError) as caught:
        check_enough(made(19, 30), ClassifierConfig(), Counter({"outcome aborted": 4}))
    assert str(caught.value) == (
        "bags: 19 successful and 30 failed episodes, needs at least 20 and 10; left out 4: outcome aborted; record more"
    )
    check_enough(made(20, 10), ClassifierConfig(), Counter())


def test_successes_and_failures_are_split_alike_by_whole_episodes() -> None:
    found = made(40, 10)
    parts = split(found, ClassifierConfig())
    counts = Counter(zip(parts, [c.success for c in found], strict=True))
    assert counts == {
        (Part.TRAINING, True): 24,
        (Part.TRAINING, False): 6,
        (Part.CALIBRATION, True): 8,
        (Part.CALIBRATION, False): 2,
        (Part.TEST, True): 8,
        (Part.TEST, False): 2,
    }
    assert parts == split(found, ClassifierConfig())
    assert parts != split(found, ClassifierConfig(seed=1))


def test_frames_left_out_are_not_encoded_and_the_last_negatives_are_kept(tmp_path) -> None:
    bags = Bags(tmp_path)
    folder = bags.add([DOWN] * 20 + [SLOWLY, STILL], reason="label by ada")
    frames = encode(
        [Candidate(folder, True, "seen")], [0], lambda image: image[:1, :1, 0].astype(np.float32), bags.read, 6
    )
    assert frames.row[frames.positive].tolist() == [21, 22]
    negative = frames.row[~frames.positive]
    assert len(negative) == 6
    assert negative[-3:].tolist() == [17, 18, 19]
    assert 20 not in negative


def test_a_bag_that_cannot_be_read_is_named(tmp_path) -> None:
    with pytest.raises(ClassifierError, match=r"s/0009.*leave this bag out"):
        encode([Candidate(tmp_path / "s" / "0009", True, "")], [0], lambda image: image, Bags(tmp_path).read)
