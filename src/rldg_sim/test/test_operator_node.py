"""In lockstep the scripted operator answers every observation, in whatever order truth and verdict reach it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from rldg_core.frames import Pose
from rldg_core.types import EpisodeStatus, Observation, Outcome, Phase
from rldg_ros.conversions import Stamped, stamp_from_msg
from rldg_ros.testing import Bench, overrides
from rldg_sim.operator_node import OperatorNode

STAMP_NS = 10**9
IMAGE = np.zeros((16, 16, 3), np.uint8)


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Iterator[OperatorNode]:
    with Bench(request.node.name) as bench:
        made = OperatorNode(
            context=bench.context, parameter_overrides=overrides(task="usb_insertion", robot="fr3", lockstep=True)
        )
        bench.add(made)
        yield made


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.ENDED])
@pytest.mark.parametrize("order", list(itertools.permutations(("episode", "observation", "truth"))))
def test_the_closing_observation_too(node: OperatorNode, phase: Phase, order: tuple[str, ...]) -> None:
    node._on_episode(EpisodeStatus(STAMP_NS - 10**8, episode_id="s/1", phase=Phase.RUNNING))
    pose = Pose(np.array([0.5, 0.0, 0.3]), np.array([1.0, 0.0, 0.0, 0.0]))
    outcome = Outcome.TIMEOUT if phase is Phase.ENDED else Outcome.NONE
    for what in order:
        if what == "episode":
            node._on_episode(EpisodeStatus(STAMP_NS, episode_id="s/1", phase=phase, outcome=outcome))
        elif what == "truth":
            node._on_fixture(Stamped(STAMP_NS, "base", pose))
        else:
            node._on_observation(
                Observation(STAMP_NS, IMAGE, pose, np.zeros(6), np.zeros(6), 0.0, True, episode_id="s/1", index=1)
            )
    assert node._answer_given is not None
    assert stamp_from_msg(node._answer_given[0].header.stamp) == STAMP_NS
