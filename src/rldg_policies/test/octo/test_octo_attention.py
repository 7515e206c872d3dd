"""Who may look at whom: the closed form against the rules, token by token."""

import jax.numpy as jnp
import numpy as np
import pytest

from rldg_policies.octo.transformer import Group, Kind, attention_mask, attention_rule

GROUPS = [("obs_primary", 3), ("obs_wrist", 2), ("obs_task_language", 2), ("readout_action", 2)]
KINDS = {"task": Kind.TASK, "obs": Kind.OBSERVATION, "readout": Kind.READOUT}
SEES = {"task": ["task"], "obs": ["task", "obs"], "readout": ["task", "obs", "readout"]}


def kind(name: str) -> str:
    return name.partition("_")[0]


def by_hand(task: int, groups: list[tuple[str, int]], window: int, first_belongs_to_the_group_before: bool = False):
    tokens = [("task", -1)] * task
    for t in range(window):
        names = [name for name, count in groups for _ in range(count)]
        if first_belongs_to_the_group_before:
            starts = np.cumsum([count for _, count in groups])[:-1]
            names = [names[i - 1] if i in starts else name for i, name in enumerate(names)]
        tokens += [(kind(name), t) for name in names]
    return np.array([[t_j <= t_i and k_j in SEES[k_i] for k_j, t_j in tokens] for k_i, t_i in tokens])


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("groups", [GROUPS, GROUPS[1:], GROUPS[:1] + GROUPS[3:]])
def test_the_closed_form_equals_the_rules(groups: list[tuple[str, int]], window: int) -> None:
    counts = [(KINDS[kind(name)], count) for name, count in groups]
    np.testing.assert_array_equal(attention_rule(4, counts, window), by_hand(4, groups, window))


def test_models_before_1_5_take_the_first_token_of_a_group_for_one_of_the_group_before() -> None:
    groups = [*GROUPS[:3], ("readout_action", 1)]
    counts = [(KINDS[kind(name)], count) for name, count in groups]
    old = attention_rule(4, counts, 2, correct=False)
    np.testing.assert_array_equal(old, by_hand(4, groups, 2, first_belongs_to_the_group_before=True))
    assert old[4, 4 + 7] and not attention_rule(4, counts, 2)[4, 4 + 7]  # the readout passes for observed


def test_nobody_looks_at_what_is_masked() -> None:
    seen = jnp.array([[False, True], [True, True]])
    task = Group(Kind.TASK, jnp.zeros((2, 3, 0)), jnp.ones((2, 3), bool))
    images = Group(Kind.OBSERVATION, jnp.zeros((2, 2, 4, 0)), jnp.broadcast_to(seen[:, :, None], (2, 2, 4)))
    readout = Group(Kind.READOUT, jnp.zeros((2, 2, 1, 0)), jnp.ones((2, 2, 1), bool))
    mask = np.asarray(attention_mask(task, [images, readout]))[:, 0]
    rule = by_hand(3, [("obs_wrist", 4), ("readout_action", 1)], 2)
    np.testing.assert_array_equal(mask[1], rule)
    rule[:, 3:7] = False
    np.testing.assert_array_equal(mask[0], rule)
