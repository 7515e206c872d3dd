"""The observer names what it waits for, refuses what is in the wrong frame, and crops what a real camera sends."""

from __future__ import annotations

import numpy as np
import pytest
from control_graph import ROBOT, TASK, Probe
from diagnostic_msgs.msg import DiagnosticStatus
from fake_cell import FakeCell

from rldg_control.observer_node import ObserverNode
from rldg_ros import conversions as convert
from rldg_ros.testing import Bench, overrides


class Setup:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.cell = FakeCell(TASK, ROBOT, context=bench.context)
        self.probe = Probe(bench)
        self.observer = ObserverNode(context=bench.context, parameter_overrides=overrides(task="usb_insertion"))
        for node in (self.cell, self.probe, self.observer):
            bench.add(node)

    def says(self, text: str, level: bytes) -> bool:
        statuses = self.probe.statuses
        return self.bench.spin(lambda: any(s.level == level and text in s.message for s in statuses.values()))


@pytest.fixture
def setup(request: pytest.FixtureRequest) -> Setup:
    with Bench(request.node.name) as bench:
        yield Setup(bench)


def test_it_is_silent_and_says_what_is_missing_until_all_inputs_came(setup: Setup) -> None:
    assert setup.says("waiting for pose, twist, wrench, gripper, image", DiagnosticStatus.WARN)
    assert not setup.probe.observations
    setup.cell.run_clock()
    assert setup.bench.spin(lambda: setup.probe.observations)


def test_a_camera_that_stops_is_named_and_no_observation_is_made_up(setup: Setup) -> None:
    setup.cell.run_clock()
    assert setup.bench.spin(lambda: len(setup.probe.observations) > 3)
    setup.cell.destroy_publisher(setup.cell._pub["image"])
    setup.cell._pub["image"] = setup.cell.create_publisher(convert.ImageMsg, "elsewhere", 1)
    assert setup.says("camera: no new image", DiagnosticStatus.ERROR)
    count = len(setup.probe.observations)
    setup.bench.spin_for(0.4)
    assert len(setup.probe.observations) == count
    assert len({o.stamp_ns for o in setup.probe.observations}) == count


def test_a_pose_in_another_frame_is_refused(setup: Setup) -> None:
    setup.cell._robot = type("Elsewhere", (), {"base_frame": "world", "tcp_frame": ROBOT.tcp_frame})
    setup.cell.run_clock()
    assert setup.says("current_pose: frame_id is 'world', must be 'fr3_link0'", DiagnosticStatus.ERROR)
    assert not setup.probe.observations


def test_a_wide_camera_image_is_cropped_to_the_square_of_the_task(setup: Setup) -> None:
    side = TASK.camera.image_size_px
    setup.cell._noise = np.random.default_rng(0).integers(0, 255, (2 * side, 3 * side, 3), dtype=np.uint8)
    setup.cell.run_clock()
    assert setup.bench.spin(lambda: setup.probe.observations)
    assert setup.probe.observations[0].image.shape == (side, side, 3)


def test_observations_come_before_their_tick_by_the_lead_of_the_task(setup: Setup) -> None:
    setup.cell.run_clock()
    assert setup.bench.spin(lambda: len(setup.probe.observations) >= 12)
    period_s, lead_s = TASK.control.period_s, TASK.control.observation_lead_s
    after = [(o.stamp_ns * 1e-9 + o.image_age_s + lead_s) % period_s for o in setup.probe.observations]
    assert sorted(after)[len(after) // 2] < 0.5 * period_s  # just after the grid point, never just before it
