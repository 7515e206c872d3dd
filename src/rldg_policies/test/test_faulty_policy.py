"""The policy for rehearsals fails as it is told to, and only then."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rldg_core.frames import Pose
from rldg_core.task import load_robot, load_task
from rldg_core.types import Observation
from rldg_policies.policy import Policy, check_chunk, make_policy

TASK, ROBOT = load_task("usb_insertion"), load_robot("fr3")
OBSERVATION = Observation(
    5, np.zeros((8, 8, 3), np.uint8), Pose.identity(), np.zeros(6), np.zeros(6), 0.0, True, episode_id="s/1"
)


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    return tmp_path / "orders"


@pytest.fixture
def policy(orders: Path) -> Policy:
    return make_policy("faulty", TASK, ROBOT, "me", {"orders": str(orders)})


def test_without_orders_it_is_the_scripted_policy(policy: Policy, orders: Path) -> None:
    well = make_policy("scripted", TASK, ROBOT, "me", {}).act(OBSERVATION)
    np.testing.assert_array_equal(policy.act(OBSERVATION).deltas, well.deltas)
    orders.write_text(" \n")
    np.testing.assert_array_equal(policy.act(OBSERVATION).deltas, well.deltas)


@pytest.mark.parametrize(
    ("order", "says"),
    [("nan", "not finite"), ("shape", r"shape \(1, 7\)"), ("raise", "as ordered"), ("sing", "no such order")],
)
def test_it_fails_as_ordered_until_it_is_told_otherwise(policy: Policy, orders: Path, order: str, says: str) -> None:
    orders.write_text(order)
    with pytest.raises((ValueError, RuntimeError), match=says):
        check_chunk(policy.act(OBSERVATION), OBSERVATION, "me", ROBOT.tcp_frame)
    orders.write_text("")
    check_chunk(policy.act(OBSERVATION), OBSERVATION, "me", ROBOT.tcp_frame)


def test_it_is_late_by_what_it_is_told(policy: Policy, orders: Path) -> None:
    orders.write_text("late 0.2")
    began_s = time.monotonic()
    check_chunk(policy.act(OBSERVATION), OBSERVATION, "me", ROBOT.tcp_frame)
    assert time.monotonic() - began_s >= 0.2


def test_a_crash_ends_the_process(orders: Path) -> None:
    orders.write_text("crash")
    script = f"import sys; sys.path[:0] = {sys.path!r}\nfrom test_faulty_policy import *\n"
    script += f"make_policy('faulty', TASK, ROBOT, 'me', {{'orders': {str(orders)!r}}}).act(OBSERVATION)"
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, cwd=Path(__file__).parent, timeout=60.0).returncode == -9


@pytest.mark.parametrize("parameters", [{}, {"orders": "a", "more": 1}])
def test_wrong_parameters_are_refused(parameters: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be orders, the path of a file"):
        make_policy("faulty", TASK, ROBOT, "me", parameters)
