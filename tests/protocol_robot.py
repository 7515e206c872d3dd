"""A robot for tests, as a process: the protocol server with a task's cell behind it, and its clock as ``/clock``.

It forgives commands that come late, since a machine that tests is no rig. SIGUSR1 makes it stop as after a collision.
"""

from __future__ import annotations

import signal
import sys
import time

import rclpy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock

from rldg_core.task import load_task
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_sim.cell import Cell
from rldg_sim.protocol_server import ProtocolServer

_JOINT_REFLEX = 6  # place in libfranka's list of errors
_CLOCK_PERIOD_S = 0.004
_START_NS = 1_000_000_000  # the clock must not begin at zero


class Robot(ProtocolServer):
    """Aborts the motion that is under way when it is hit."""

    hit = False

    def _run_self_collision_check(self, sim_state: dict[str, object]) -> None:
        super()._run_self_collision_check(sim_state)
        if self.hit and self.current_motion_id:
            self.hit = False
            self._abort_with_error(_JOINT_REFLEX, "hit by a test", self.motion_limits.motion_id)


def main(task: str, address: str) -> None:
    cell = Cell(load_task(task))
    robot = Robot(cell, address)
    robot.enforce_comm_constraints = robot.comm.enforce = False
    ended = []
    signal.signal(signal.SIGUSR1, lambda *_: setattr(robot, "hit", True))
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("protocol_robot")
    clock = node.create_publisher(Clock, "/clock", qos.reliable(10))
    robot.open()
    while not ended and not robot.failure:
        clock.publish(Clock(clock=convert.stamp_to_msg(_START_NS + round(cell.time_s * 1e9))))
        time.sleep(_CLOCK_PERIOD_S)
    failure = robot.failure
    robot.close()
    sys.exit(failure or 0)


if __name__ == "__main__":
    sys.setswitchinterval(0.0005)  # threads that serve the protocol each millisecond share the interpreter
    main(*sys.argv[1:3])
