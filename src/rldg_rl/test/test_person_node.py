"""The scripted person lets the policy drive between two bursts, in spite of the time that hands keep the door."""

from __future__ import annotations

import numpy as np
import pytest

from rldg_core.frames import Pose
from rldg_core.teleop import Teleop
from rldg_core.types import Observation
from rldg_rl.person_node import PersonNode
from rldg_ros.testing import Bench, overrides
from rldg_sim.operator import OperatorCommand
from rldg_sim.operator_node import Surroundings

TICK_NS = 10**8
PUSH = OperatorCommand(twist=np.full(6, 0.5), close=False, open=False)
TRUTH = Surroundings(Pose.identity(), None)


class Eager:
    """Helps in bursts of two ticks, and then does not the next two times that it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def begin(self, episodes: int) -> None:
        self.asked = 0

    def ask(self, seen: Observation, truth: Surroundings) -> OperatorCommand | None:
        self.asked += 1
        return PUSH if self.asked % 4 in (1, 2) else None


def test_the_policy_drives_between_two_bursts(request: pytest.FixtureRequest) -> None:
    device, human = Teleop(), []
    with Bench(request.node.name) as bench:
        node = PersonNode(
            context=bench.context, parameter_overrides=overrides(task="usb_insertion", robot="fr3", lockstep=True)
        )
        bench.add(node)
        node._person, node._policy_drives = Eager(), True  # type: ignore[assignment]
        for tick in range(14):
            seen = Observation(
                tick * TICK_NS, np.zeros((16, 16, 3), np.uint8), Pose.identity(), np.zeros(6), np.zeros(6), 0.0, True,
                episode_id="s/1", index=tick,
            )  # fmt: skip
            command = node.choose(seen, TRUTH)
            device.update(seen.stamp_ns, command.twist, [0, 0])
            human.append(device.command(seen.stamp_ns, seen.tcp_pose, True).active)
    burst = [True] * 6  # two ticks of it, and four in which the hands are off
    assert human == [*burst, False, *burst, False]
