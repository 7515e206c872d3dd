"""Actions are scaled as the released generalists scale them, and come back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rldg_policies.normalisation import (
    ActionStatistics,
    StatisticsError,
    load_statistics,
    normalise_bounds,
    normalise_gaussian,
    read_statistics,
    unnormalise_bounds,
    unnormalise_gaussian,
)

ACTION: dict[str, Any] = {
    "mean": [0.1, 0.0, 0.5],
    "std": [0.2, 0.0, 0.5],
    "min": [-1.0, 0.25, 0.0],
    "max": [1.0, 0.25, 1.0],
    "q01": [-0.5, 0.25, 0.0],
    "q99": [0.75, 0.25, 1.0],
    "mask": [True, True, False],
}


def statistics(**changes: object) -> ActionStatistics:
    return read_statistics({"usb": {"action": {**ACTION, **changes}}})[1]


def test_the_quantiles_become_the_ends_of_the_range_and_what_lies_outside_is_clipped() -> None:
    actions = [[-0.5, 0.25, 0.3], [0.75, 0.25, 1.0], [9.0, 0.25, 0.0], [0.125, 0.25, 0.5]]
    expected = [[-1.0, 0.0, 0.3], [1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.5]]
    np.testing.assert_allclose(normalise_bounds(actions, statistics()), expected, atol=1e-6)


def test_mean_and_deviation_become_zero_and_one() -> None:
    np.testing.assert_allclose(normalise_gaussian([0.3, 0.0, 0.7], statistics()), [1.0, 0.0, 0.7], atol=1e-6)


@pytest.mark.parametrize(
    ("there", "back"), [(normalise_bounds, unnormalise_bounds), (normalise_gaussian, unnormalise_gaussian)]
)
def test_actions_within_the_quantiles_come_back(there: Any, back: Any) -> None:
    found = statistics(std=[0.2, 0.1, 0.5])
    actions = np.random.default_rng(0).uniform([-0.5, 0.25, 0.0], [0.75, 0.25, 1.0], (50, 3)).astype(np.float32)
    np.testing.assert_allclose(back(there(actions, found), found), actions, atol=1e-6)
    assert there(actions, found).dtype == np.float32


def test_without_a_mask_all_but_the_seventh_dimension_is_normalised() -> None:
    wide = {name: [values[0]] * 7 for name, values in ACTION.items() if name != "mask"}
    assert read_statistics({"usb": {"action": wide}})[1].normalised.tolist() == [True] * 6 + [False]


def test_octo_s_names_of_the_quantiles_are_read() -> None:
    named = {{"q01": "p01", "q99": "p99"}.get(name, name): values for name, values in ACTION.items()}
    found = read_statistics({"usb": {"action": named}})[1]
    np.testing.assert_array_equal(found.low, np.float32(ACTION["q01"]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "holds no statistics"),
        ([1], "holds no statistics"),
        ({"a": {}, "b": {}}, "name one of: a, b"),
        ({"usb": {}}, "usb: action"),
        ({"usb": {"action": {**ACTION, "std": [1.0]}}}, "std has 1 numbers, mean has 3"),
        ({"usb": {"action": {**ACTION, "q99": []}}}, "q01 and q99 are missing"),
        ({"usb": {"action": {**ACTION, "mean": [0.0, float("nan"), 0.0]}}}, "mean is not finite"),
        ({"usb": {"action": {**ACTION, "q01": [1.0, 0.25, 0.0]}}}, "q01 is above q99"),
        ({"usb": {"action": {**ACTION, "mean": "0.1"}}}, "Expected `array`"),
    ],
)
def test_wrong_statistics_are_refused_in_one_line(content: Any, words: str) -> None:
    with pytest.raises(StatisticsError, match=words) as refused:
        read_statistics(content)
    assert "\n" not in str(refused.value)


def test_statistics_of_another_data_set_are_refused() -> None:
    with pytest.raises(StatisticsError, match="has no statistics of 'vga'; there are: usb"):
        read_statistics({"usb": {"action": ACTION}}, "vga")


def test_a_file_that_is_missing_or_cut_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match="cannot be read"):
        load_statistics(tmp_path / "dataset_statistics.json")
    (tmp_path / "half.json").write_text(json.dumps({"usb": {"action": ACTION}})[:40])
    with pytest.raises(StatisticsError, match="is not JSON"):
        load_statistics(tmp_path / "half.json")
