"""What is executed of the chunks that were predicted."""

import numpy as np
import pytest

from rldg_policies.octo.config import OctoError
from rldg_policies.octo.policy import receding_horizon, temporal_ensemble

CHUNKS = [np.array([[10.0 * n + i] for i in range(4)], np.float32) for n in range(3)]


def test_the_first_actions_of_a_chunk_are_executed() -> None:
    assert receding_horizon(CHUNKS[1], 2).tolist() == [[10.0], [11.0]]


@pytest.mark.parametrize("execute", [0, 5, -1])
def test_more_or_less_than_a_chunk_cannot_be_executed(execute: int) -> None:
    with pytest.raises(OctoError, match=f"execute: is {execute}, must be 1 to the 4 actions of a chunk"):
        receding_horizon(CHUNKS[0], execute)


def test_without_decay_all_chunks_that_reach_now_count_alike() -> None:
    assert temporal_ensemble(CHUNKS, [2, 1, 0]).tolist() == [pytest.approx((2.0 + 11.0 + 20.0) / 3.0)]


def test_with_decay_the_newest_counts_most() -> None:
    weights = np.exp([-1.0, -0.5, 0.0])
    wanted = (weights * [2.0, 11.0, 20.0]).sum() / weights.sum()
    assert temporal_ensemble(CHUNKS, [2, 1, 0], decay=0.5).tolist() == [pytest.approx(wanted)]


def test_chunks_that_have_run_out_do_not_count() -> None:
    assert temporal_ensemble(CHUNKS, [9, 4, 3]).tolist() == [23.0]
    with pytest.raises(OctoError, match="none of 3 chunks reaches now"):
        temporal_ensemble(CHUNKS, [9, 8, 4])
