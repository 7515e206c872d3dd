"""Human states, a policy's actions: from any policy of the entry point group, and only if what it says is an action."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from rldg_core.types import Source
from rldg_recorder.materialize import materialize
from rldg_recorder.plan import DatasetError, Plan, PlannedEpisode, Segment
from rldg_recorder.relabel import relabelled
from rldg_recorder.testing import make_episode

MODULE = '''
import numpy as np
from rldg_core.types import ActionChunk

class Policy:
    """Answers with its count of observations in a tenth, after what the parameters say."""
    def __init__(self, task, robot, policy_id, parameters):
        if set(parameters) - {"mode", "gain"}:
            raise ValueError(f"unknown parameter {min(parameters)}")
        self.policy_id, self.frame, self.seen = policy_id, robot.tcp_frame, None
        self.mode, self.gain = parameters.get("mode", ""), parameters.get("gain", 0.1)
        self.warm = False
    def warm_up(self):
        self.warm = True
    def reset(self):
        assert self.warm
        self.seen = 0
    def act(self, observation):
        assert observation.index == self.seen and observation.image.any()
        self.seen += 1
        if self.mode == "raise":
            raise RuntimeError("no weights\\nat all")
        deltas = np.full((4, 6), self.gain * self.seen)
        deltas[1:] = 9.0
        if self.mode == "nan":
            deltas[0, 2] = np.nan
        if self.mode == "shape":
            deltas = deltas[:, :5]
        grips = np.full(3 if self.mode == "grips" else 4, self.seen % 2 == 0)
        return None if self.mode == "none" else ActionChunk(observation.stamp_ns, "p", deltas, grips, 0.1, self.frame)
'''


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """A package that offers the policy ``counting``, as pip would have installed it."""
    (tmp_path / "counting_policy.py").write_text(MODULE)
    info = tmp_path / "counting_policy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counting-policy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rldg.policies]\ncounting = counting_policy:Policy\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("counting_policy", None)


def human(steps: int = 5):
    return make_episode(np.full((steps, 6), 0.5))


def test_the_actions_are_the_first_of_each_answer() -> None:
    deltas, closed = relabelled(human(), (0, 1, 2), "counting", {})
    np.testing.assert_allclose(deltas, [[0.1] * 6, [0.2] * 6, [0.3] * 6])
    assert closed.tolist() == [False, True, False]


def test_the_policy_sees_every_observation_also_those_left_out() -> None:
    deltas, _ = relabelled(human(), (1, 4), "counting", {})
    np.testing.assert_allclose(deltas[:, 0], [0.2, 0.5])


def test_parameters_reach_the_policy_with_their_types() -> None:
    deltas, _ = relabelled(human(), (0,), "counting", {"gain": "0.25", "mode": '""'})
    assert deltas[0, 0] == 0.25


def test_actions_are_clipped_as_the_door_would() -> None:
    deltas, _ = relabelled(human(), (0, 1), "counting", {"gain": "0.7"})
    np.testing.assert_allclose(deltas[:, 0], [0.7, 1.0])


def test_a_relabelled_episode_has_human_states_and_the_policys_actions() -> None:
    episode = human()
    segment = Segment(bag=str(episode.folder), rows=(0, 1, 2, 3, 4))
    planned = PlannedEpisode(segments=(segment,), instruction="a", relabel="counting")
    plan = Plan(name="a", episodes=(planned,), rate_hz=10.0, image_size_px=32, relabel_parameters={"gain": "0.05"})
    frames = materialize(planned, plan, lambda _: episode)
    plain = PlannedEpisode(segments=(segment,), instruction="a")
    original = materialize(plain, plan, lambda _: episode)
    assert (frames.state == original.state).all()
    np.testing.assert_allclose(frames.action[:, 0], [0.05, 0.1, 0.15, 0.2, 0.25], atol=1e-7)
    assert frames.relabelled and not original.relabelled
    assert set(frames.policy_id) == {"counting"} and set(frames.source.tolist()) == {int(Source.POLICY)}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mode": "nan"}, "row 0: policy 'counting' returned an action that is not finite"),
        ({"mode": "shape"}, r"row 0: policy 'counting' returned deltas of shape \(4, 5\)"),
        ({"mode": "grips"}, r"gripper states of shape \(3,\), must be \(length, 6\) and \(length,\)"),
        ({"mode": "raise"}, "row 0: policy 'counting': RuntimeError: no weights at all$"),
        ({"mode": "none"}, "row 0: policy 'counting': AttributeError"),
        ({"speed": "1"}, "policy 'counting': ValueError: unknown parameter speed"),
    ],
)
def test_what_is_no_action_is_refused(parameters, message) -> None:
    with pytest.raises(DatasetError, match=message):
        relabelled(human(), (0, 1), "counting", parameters)


def test_the_scripted_policy_relabels_with_parameters_of_a_recipe(tmp_path) -> None:
    info = tmp_path / "stand_in-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stand-in\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rldg.policies]\nscripted = rldg_policies.scripted:make_scripted\n")
    deltas, closed = relabelled(human(), (0, 1, 2), "scripted", {"speed_m_s": "0.03"})
    np.testing.assert_allclose(deltas[0], [0.0, 0.0, 0.03 * 0.1 / 0.015, 0.0, 0.0, 0.0], atol=1e-9)
    assert closed.tolist() == [True, True, True]


def test_a_policy_that_is_not_installed_is_named_with_those_that_are() -> None:
    with pytest.raises(DatasetError, match=r"policy 'nobody': not installed; there are .*counting"):
        relabelled(human(), (0,), "nobody", {})
