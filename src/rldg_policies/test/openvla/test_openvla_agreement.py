"""The report says how often two models agree, how far they are apart, and what they cost."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from rldg_policies.openvla.agreement import REPORT, Agreement, Frame, agreement, write_report
from rldg_policies.openvla.policy import OpenVLA
from rldg_policies.openvla.rounding import rounded_copy


@pytest.fixture
def frames() -> list[Frame]:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    return [(image, "insert the plug") for image in images]


def _with(policy: OpenVLA, mode: str) -> OpenVLA:
    return OpenVLA(rounded_copy(policy.model, mode), policy.prompts, policy.statistics)  # type: ignore[arg-type]


def test_a_model_agrees_with_itself(policy: OpenVLA, frames: list[Frame]) -> None:
    found = agreement(policy, OpenVLA(policy.model, policy.prompts, policy.statistics), frames)
    assert (found.frames, found.token_agreement, found.within_one_bin) == (12, 1.0, 1.0)
    assert found.by_dimension == (1.0,) * 7
    assert (found.l1, found.max_difference) == (0.0, 0.0) and found.exact_mb == found.fast_mb
    assert found.exact_hz > 0.0 and found.fast_hz > 0.0 and found.device == "cpu"


class Says(OpenVLA):
    """Answers with fixed tokens."""

    def __init__(self, policy: OpenVLA, ids: list[list[int]]) -> None:
        super().__init__(policy.model, policy.prompts, policy.statistics)
        self._answers = dict(enumerate(ids))

    def predict(self, image, instruction, draft=None):  # type: ignore[no-untyped-def]
        _, decoded = super().predict(image, instruction, draft)
        ids = self._answers[int(image[0, 0, 0])]
        return self.actions(ids), decoded._replace(ids=ids)


def test_shares_and_differences_are_those_of_the_answers(policy: OpenVLA) -> None:
    images = [np.full((8, 8, 3), number, np.uint8) for number in range(2)]
    exact = Says(policy, [[800] * 7, [800] * 7])
    fast = Says(policy, [[800] * 7, [800, 801, 800, 800, 800, 800, 810]])
    found = agreement(exact, fast, [(image, "push") for image in images])
    assert found.distinct_share == 0.5  # the exact one says the same about both
    assert found.token_agreement == pytest.approx(12 / 14)
    assert found.within_one_bin == pytest.approx(13 / 14)
    assert found.by_dimension == (1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.5)
    # the bounds of the second number are -1 and 2, the last is not scaled
    apart = 1.5 * 2 / 255, 10 * 2 / 255
    assert found.l1 == pytest.approx(sum(apart) / 14, rel=1e-4)
    assert found.max_difference == pytest.approx(apart[1], rel=1e-4)


@pytest.mark.parametrize("mode", ["fast_int8", "fast_int4"])
def test_a_fast_mode_agrees_mostly_and_its_report_comes_back(
    policy: OpenVLA, frames: list[Frame], mode: str, tmp_path: Path
) -> None:
    found = agreement(policy, _with(policy, mode), frames)
    assert found.token_agreement > (0.7 if mode == "fast_int8" else 0.1)  # of random weights, near ties everywhere
    assert found.fast_mb < found.exact_mb
    path = write_report(tmp_path, {mode: found})
    assert path == tmp_path / REPORT and [file.name for file in tmp_path.iterdir()] == [REPORT]
    assert msgspec.yaml.decode(path.read_bytes(), type=dict[str, Agreement]) == {mode: found}


def test_nothing_to_ask_and_models_of_other_kinds_are_refused(policy: OpenVLA, frames: list[Frame]) -> None:
    with pytest.raises(ValueError, match="agreement: there are no frames; give a training set with episodes"):
        agreement(policy, policy, [])
    one, low = [1.0] * 6, [-1.0] * 6
    six = {"six": {"action": {"mean": one, "std": one, "min": low, "max": one, "q01": low, "q99": one}}}
    with pytest.raises(ValueError, match="other sizes or statistics; compare modes of one checkpoint"):
        agreement(policy, OpenVLA(policy.model, policy.prompts, six), frames)
