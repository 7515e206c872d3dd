"""A SpaceMouse that is unplugged while it drives: the arm holds, and obeys again once it is back and at rest."""

from __future__ import annotations

import pytest
from control_graph import Graph
from fake_hid import FULL_SCALE, FakeHid, plug_in, translation

from rldg_control.spacemouse_node import SpaceMouseNode
from rldg_core.types import Source

pytest.importorskip("pyspacemouse.api")

LOST = "fell silent while held"
GENTLY_FORWARD = translation(0, -FULL_SCALE // 5, 0)


def test_unplugged_while_driving_the_arm_holds_until_it_is_back_and_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    hid = FakeHid()
    plug_in(monkeypatch, hid)
    with Graph("unplugged") as graph:
        graph.start(SpaceMouseNode)
        hid.repeat = (GENTLY_FORWARD,)
        assert graph.bench.spin(lambda: graph.step.source is Source.HUMAN), graph.reasons()[-5:]
        hid.plugged = False
        assert graph.bench.spin(lambda: LOST in graph.step.reason), graph.reasons()[-5:]
        assert graph.step.source is Source.HOLD
        hid.plugged = True  # and still deflected: a stuck cap must not drive on
        deflected = len(graph.probe.twists)
        assert graph.bench.spin(lambda: len(graph.probe.twists) > deflected + 30)
        assert graph.probe.twists[-1].twist.linear.x > 0.1
        assert all(step.source is Source.HOLD for step in graph.next_steps())
        hid.repeat = ()
        hid.send(translation(0, 0, 0))
        assert graph.bench.spin(lambda: not graph.step.reason), graph.reasons()[-5:]
        hid.repeat = (GENTLY_FORWARD,)
        assert graph.bench.spin(lambda: graph.step.source is Source.HUMAN), graph.reasons()[-5:]
