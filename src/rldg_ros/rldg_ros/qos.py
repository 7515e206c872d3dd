"""The three quality-of-service profiles of the graph (docs/architecture.md, "Frames, names, QoS")."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def reliable(depth: int = 1) -> QoSProfile:
    """Profile C: reliable, volatile, keep the last ``depth``. Every publisher that is not latched uses it."""
    return QoSProfile(
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.VOLATILE,
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
    )


def sensor(depth: int = 1) -> QoSProfile:
    """Profile S: best effort, keep the last ``depth``; for subscriptions only, so that any publisher matches."""
    return QoSProfile(
        reliability=ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
    )


def latched(depth: int = 1) -> QoSProfile:
    """Profile L: reliable, a late subscriber receives the last ``depth`` messages."""
    return QoSProfile(
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
    )


def stream(lockstep: bool, depth: int = 10) -> QoSProfile:
    """Subscription to a measured stream: newest only in real time, all in lockstep."""
    return sensor(depth if lockstep else 1)
