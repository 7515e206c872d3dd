"""Ticks lie on multiples of the period of the node clock, and ticks that were missed are counted."""

from __future__ import annotations

import time

from rldg_ros.base import BaseNode
from rldg_ros.grid import GridTimer
from rldg_ros.testing import Bench

PERIOD_NS = 50_000_000


def test_ticks_follow_grid_points_in_order_and_never_come_early() -> None:
    with Bench("grid") as bench:
        node = BaseNode("grid", context=bench.context)
        bench.add(node, activate=False)
        ticks: list[int] = []
        timer = GridTimer(node, PERIOD_NS * 1e-9, ticks.append, lead_s=0.02)
        assert bench.spin(lambda: len(ticks) >= 20)
        timer.stop()
    numbers = [(tick + 20_000_000) // PERIOD_NS for tick in ticks]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] - numbers[0] == len(numbers) - 1 + timer.missed
    lateness = sorted((tick + 20_000_000) % PERIOD_NS for tick in ticks)
    assert lateness[len(lateness) // 2] < PERIOD_NS // 2  # drift would spread them evenly


def test_a_callback_longer_than_the_period_costs_ticks_which_are_counted() -> None:
    with Bench("missed") as bench:
        node = BaseNode("missed", context=bench.context)
        bench.add(node, activate=False)
        ticks: list[int] = []

        def tick(now_ns: int) -> None:
            ticks.append(now_ns)
            if len(ticks) == 3:
                time.sleep(0.12)

        timer = GridTimer(node, PERIOD_NS * 1e-9, tick)
        assert bench.spin(lambda: len(ticks) >= 8)
        numbers = [tick // PERIOD_NS for tick in ticks]
        assert numbers[3] - numbers[2] >= 3
        assert timer.missed >= 2
        assert numbers[-1] - numbers[0] == len(numbers) - 1 + timer.missed
        timer.stop()
