"""Only what goes into the hole gets down."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from rldg_core.frames import Pose
from rldg_core.judge import reached
from rldg_core.scene_spec import Port
from rldg_core.task import load_task, task_names
from rldg_core.types import Outcome
from rldg_sim.cell import Cell
from rldg_sim.demonstrate import demonstrate
from rldg_sim.loop import Loop
from rldg_sim.operator import Style

HELD = [name for name in task_names() if load_task(name).object is None]


def press(cell: Cell, aside_m: np.ndarray, yaw_rad: float = 0.0) -> Pose:
    """Press the held part down, ``aside_m`` (2,) away from where it fits; the TCP in the fixture frame afterwards."""
    fixture = cell.truth().fixture_pose
    goal = fixture @ cell.task.success.goal.pose()
    above = 0.01 + cell.task.simulation.held.length_m
    offset = Pose(np.zeros(3), fixture.quaternion).transform([*aside_m, 0.0])
    turned = goal @ Pose.from_rpy([0.0, 0.0, 0.0], [0.0, 0.0, yaw_rad])
    for height, seconds in ((above, 3.0), (above * 0.6, 0.5), (above * 0.3, 0.5), (0.0, 0.5), (-0.006, 1.5)):
        cell.set_target(Pose(goal.position + offset + [0.0, 0.0, height], turned.quaternion))
        cell.advance(seconds)
    return fixture.inverse() @ cell.state().tcp_pose


@pytest.mark.parametrize("name", HELD)
def test_the_part_goes_in_where_it_fits(make_cell, name: str) -> None:
    cell = make_cell(name)
    cell.reset("", 3)
    press(cell, np.zeros(2))
    assert reached(cell.task.success, cell.state().tcp_pose, cell.truth().fixture_pose, True)


@pytest.mark.parametrize("name", HELD)
def test_the_part_does_not_go_in_beside_the_hole_or_turned(make_cell, name: str) -> None:
    cell = make_cell(name)
    length = min(cell.task.simulation.held.length_m, cell.task.simulation.fixture.depth_m)
    aside = 2.5 * cell.task.simulation.fixture.clearance_m
    round_part = name == "xlr"
    trials = [(np.array([aside, 0.0]), 0.0), (np.array([0.0, -aside]), 0.0)]
    trials += [] if round_part else [(np.zeros(2), 0.4), (np.zeros(2), -0.4)]
    for offset, yaw in trials:
        cell.reset("", 3)
        pose = press(cell, offset, yaw)
        assert not reached(cell.task.success, cell.state().tcp_pose, cell.truth().fixture_pose, True)
        if yaw == 0.0:
            assert pose.position[2] > cell.task.success.goal.xyz_m[2] + 0.7 * length


@pytest.mark.parametrize("name", ["vga_insertion", "displayport", "hdmi"])
def test_a_shaped_plug_does_not_go_in_upside_down(make_cell, name: str) -> None:
    cell = make_cell(name)
    cell.reset("", 3)
    goal, data = cell.task.success.goal.pose(), cell._stage.data
    fixture = cell.truth().fixture_pose
    half_turn = Pose.from_rpy([0.0, 0.0, 0.0], [0.0, 0.0, np.pi])
    cell._place(data.mocap_pos, data.mocap_quat, cell._stage.fixture, fixture @ half_turn)
    upside_down = fixture @ goal
    for height in (0.03, 0.02, 0.012, 0.005, 0.0, -0.006):
        cell.set_target(Pose(upside_down.position + np.array([0.0, 0.0, height]), upside_down.quaternion))
        cell.advance(1.5)
    inserted = 0.016 + cell.task.simulation.held.length_m - (fixture.inverse() @ cell.state().tcp_pose).position[2]
    assert inserted < 0.3 * cell.task.simulation.held.length_m


@pytest.mark.parametrize("name", ["usb_insertion", "vga_insertion", "fmb_insertion"])
def test_a_plug_hardly_sinks_into_what_it_is_pressed_on(make_cell, name: str) -> None:
    cell = make_cell(name)
    cell.reset("", 3)
    deepest = 0.0
    fixture = cell.truth().fixture_pose
    goal = fixture @ cell.task.success.goal.pose()
    for step in range(100):
        angle = 0.3 * step
        aside = 0.004 * np.array([np.cos(angle), np.sin(angle), 0.0])
        cell.set_target(Pose(goal.position + aside + [0.0, 0.0, 0.02 - 0.0004 * step], goal.quaternion))
        cell.advance(0.05)
        deepest = min([deepest, *cell._stage.data.contact.dist])
    assert -0.0003 < deepest < 0.0, "it must have touched, and not have sunk in by more than 0.3 mm"


@pytest.mark.parametrize("name", ["usb_insertion", "fmb_assembly", "pick_and_place"])
def test_a_flawless_operator_wins(make_cell, name: str) -> None:
    loop = Loop(load_task(name), make_cell(name), with_images=False)
    ticks, _ = demonstrate(loop, 11, style=Style.flawless())
    assert ticks[-1].status.outcome is Outcome.SUCCESS


def test_the_hole_is_the_only_way_down_whatever_the_outline(make_cell) -> None:
    """Rays from above reach the bottom inside the hole and stop at the face outside of it."""
    for name in task_names():
        cell = make_cell(name)
        if not isinstance(cell.task.simulation.fixture, Port):
            continue
        cell.reset("", 0)
        fixture, port = cell.truth().fixture_pose, cell.task.simulation.fixture
        group = np.array([0, 1, 0, 1, 0, 0], dtype=np.uint8)
        hits = []
        for x, y in ((0.0, 0.0), (port.body_size_m[0] / 2 - 0.0008, 0.0), (0.0, port.body_size_m[1] / 2 - 0.0008)):
            origin = fixture.transform([x, y, 0.005])
            geom = np.zeros(1, dtype=np.int32)
            tongue = [g for g in range(cell._stage.model.ngeom) if cell._stage.model.geom(g).name == "port_tongue"]
            for g in tongue:
                cell._stage.model.geom_group[g] = 5
            hits.append(
                mujoco.mj_ray(cell._stage.model, cell._stage.data, origin, [0.0, 0.0, -1.0], group, 1, -1, geom) - 0.005
            )
        assert hits[0] == pytest.approx(port.depth_m, abs=1e-6), name
        assert max(hits[1:]) < 0.001, name
