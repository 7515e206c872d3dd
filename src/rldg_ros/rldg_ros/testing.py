"""Support for tests: nodes of one test in one process, in a domain of their own, under one executor."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable
from types import TracebackType

import rclpy
from rclpy.context import Context
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from rldg_ros.base import BaseNode


def domain_id(name: str) -> int:
    """A domain in 100 … 219 that depends on the test's name, so that tests which run at once rarely meet."""
    return 100 + zlib.crc32(f"{name}{os.getpid()}".encode()) % 120


def overrides(**values: object) -> list[Parameter]:
    """Parameter values for the ``parameter_overrides`` of a node."""
    return [Parameter(name, value=value) for name, value in values.items()]


class Bench:
    """Spins the nodes of a test in the test's own thread. Use as a context manager.

    Args:
        name: of the test.
        executor: makes the executor. The default is not the events executor, which may crash where nodes go while it
            spins (ros2/rclpy issue 1644); where none do, that one is several times as fast.
    """

    def __init__(self, name: str, executor: Callable[..., Executor] = SingleThreadedExecutor) -> None:
        os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain_id(name))
        self.executor = executor(context=self.context)
        self.nodes: list[Node] = []

    def add(self, node: Node, activate: bool = True) -> None:
        """Spin a node; a managed one is configured and activated first."""
        self.nodes.append(node)
        self.executor.add_node(node)
        if isinstance(node, BaseNode) and activate:
            node.trigger_configure()
            node.trigger_activate()

    def remove(self, node: Node) -> None:
        self.nodes.remove(node)
        self.executor.remove_node(node)
        if isinstance(node, BaseNode):
            node.close()
        node.destroy_node()

    def spin(self, until: Callable[[], object], timeout_s: float = 20.0) -> bool:
        """Spin until a condition holds; returns whether it did."""
        end_s = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() > end_s:
                return False
            self.executor.spin_once(0.02)
        return True

    def spin_for(self, duration_s: float) -> None:
        end_s = time.monotonic() + duration_s
        self.spin(lambda: time.monotonic() > end_s, duration_s + 1.0)

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in list(self.nodes):
            self.remove(node)
        self.executor.shutdown()  # frees what DDS holds for the nodes
        self.context.try_shutdown()
