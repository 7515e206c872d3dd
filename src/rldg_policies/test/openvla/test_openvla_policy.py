"""An image and an instruction become an action in the units of the data set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rldg_policies.normalisation import StatisticsError
from rldg_policies.openvla.actions import action_values
from rldg_policies.openvla.nano_vocabulary import nano_tokenizer
from rldg_policies.openvla.policy import OpenVLA, fixed_draft
from rldg_policies.openvla.prompt import PromptEncoder

IMAGE = np.random.default_rng(0).integers(0, 256, (128, 160, 3), dtype=np.uint8)


def _with(policy: OpenVLA, statistics: dict[str, Any], dataset: str = "") -> OpenVLA:
    return OpenVLA(policy.model, policy.prompts, statistics, dataset)


def _six() -> dict[str, Any]:
    one, low = [1.0] * 6, [-1.0] * 6
    return {"six": {"action": {"mean": one, "std": one, "min": low, "max": one, "q01": low, "q99": one}}}


def test_tokens_become_actions_between_the_quantiles_and_the_gripper_is_taken_as_it_is(policy: OpenVLA) -> None:
    action, decoded = policy.predict(IMAGE, "insert the plug")
    values = action_values(decoded.ids, policy.model.spec)
    assert action.shape == (7,) and action.dtype == np.float32
    high = np.array([1, 2, 3, 1, 1, 1])
    np.testing.assert_allclose(action[:6], (values[:6] + 1) / 2 * (high + 1) - 1, atol=1e-6)
    assert action[6] == np.float32(values[6])
    assert np.array_equal(policy.actions([decoded.ids] * 2), [action, action])


def test_the_number_of_dimensions_follows_from_the_statistics(policy: OpenVLA) -> None:
    action, decoded = _with(policy, _six()).predict(IMAGE, "insert the plug")
    assert action.shape == (6,) and len(decoded.ids) == 6


def test_image_and_instruction_both_matter(policy: OpenVLA) -> None:
    first, _ = policy.predict(IMAGE, "insert the plug")
    assert not np.array_equal(first, policy.predict(255 - IMAGE, "insert the plug")[0])
    assert not np.array_equal(first, policy.predict(IMAGE, "pick up the green pepper")[0])
    assert np.array_equal(first, policy.predict(IMAGE, "insert the plug")[0])


def test_a_good_draft_saves_passes_and_changes_nothing(policy: OpenVLA) -> None:
    action, plain = policy.predict(IMAGE, "insert the plug")
    drafted, decoded = policy.predict(IMAGE, "insert the plug", fixed_draft(plain.ids))
    assert np.array_equal(action, drafted) and (plain.passes, decoded.passes) == (7, 1)


def test_the_tokens_of_an_action_decode_to_it(policy: OpenVLA) -> None:
    action = np.array([0.5, -0.2, 2.5, 0.0, -1.0, 1.0, 1.0])
    values = action_values(policy.ids(action), policy.model.spec)
    back = np.append((values[:6] + 1) / 2 * np.array([2, 3, 4, 2, 2, 2]) - 1, values[6])
    np.testing.assert_allclose(back, action, atol=4 / 255)
    assert policy.ids([9.0] * 7) == [704] * 7 and policy.ids([-9.0] * 7) == [959] * 7  # clipped


def test_warming_up_leaves_nothing_to_be_made(policy: OpenVLA) -> None:
    policy.warm_up("insert the plug")
    made = dict(policy._decoders)
    policy.predict(IMAGE, "insert the usb plug")
    assert policy._decoders == made


def test_a_very_long_instruction_is_answered_and_one_too_long_refused(policy: OpenVLA) -> None:
    longest = policy.model.spec.max_length - policy.model.spec.patches - 8
    words = longest - len(policy.prompts.prompt("plug", 7)) + 1
    assert len(policy.prompts.prompt(" ".join(["plug"] * words), 7)) == longest
    assert policy.predict(IMAGE, " ".join(["plug"] * words))[0].shape == (7,)
    with pytest.raises(ValueError, match="makes a prompt of"):
        policy.predict(IMAGE, " ".join(["plug"] * (words + 1)))


def test_one_of_several_data_sets_must_be_named(policy: OpenVLA) -> None:
    both = policy.statistics | _six()
    with pytest.raises(StatisticsError, match="name one of: pegs, six"):
        _with(policy, both)
    assert _with(policy, both, "six").action_dim == 6


def test_prompts_of_the_policy_are_those_of_its_model(policy: OpenVLA) -> None:
    fresh = PromptEncoder(nano_tokenizer(), policy.model.spec)
    assert policy.prompts.prompt("push", 7) == fresh.prompt("push", 7)
