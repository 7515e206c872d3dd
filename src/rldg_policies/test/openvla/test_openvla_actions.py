"""Actions and tokens are those of the released tokenizer, to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from rldg_policies.openvla.actions import action_ids, action_values
from rldg_policies.openvla.presets import preset

CONFIG = preset("openvla-7b")


@pytest.mark.parametrize(
    ("value", "token"),
    [(1.0, 31744), (-1.0, 31999), (0.0, 31872), (5.0, 31744), (-5.0, 31999), (0.999, 31745), (-0.9999, 31999)],
)
def test_known_values_have_known_ids(value: float, token: int) -> None:
    assert action_ids(value, CONFIG) == token


@pytest.mark.parametrize(
    ("token", "value"),
    [
        (31744, 254 / 255),  # the bin of +1 does not exist: it shares the last one
        (31745, 254 / 255),
        (31999, -254 / 255),
        (32000, -254 / 255),
        (32063, -254 / 255),
        (31743, 254 / 255),
        (5, 254 / 255),
        (31872, 0.0),
    ],
)
def test_known_ids_have_known_values(token: int, value: float) -> None:
    assert action_values(token, CONFIG) == pytest.approx(value, abs=1e-12)


def test_rounding_costs_at_most_half_a_bin() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (1000, 7)).astype(np.float32)
    assert np.abs(action_values(action_ids(actions, CONFIG), CONFIG) - actions).max() <= 1 / 255 + 1e-6


def test_ids_of_values_of_ids_are_the_ids() -> None:
    ids = np.arange(31745, 32000)
    assert (action_ids(action_values(ids, CONFIG), CONFIG) == ids).all()


def test_all_ids_of_actions_lie_below_the_base_which_is_not_the_size_of_the_vocabulary() -> None:
    ids = action_ids(np.linspace(-1.2, 1.2, 5000), CONFIG)
    assert (ids.min(), ids.max()) == (31744, 31999) and len(np.unique(ids)) == 256


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="is not a number that can be a token"):
        action_ids([0.0, bad], CONFIG)
