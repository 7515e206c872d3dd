"""The main function of every node's executable."""

from __future__ import annotations

import gc
import signal
import time
import traceback
from collections.abc import Callable
from types import FrameType

import rclpy
from rclpy.context import Context
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from rldg_ros.base import BaseNode

_POLL_S = 0.1  # longest time until a signal is noticed
_LEASE_S = 5.0  # of config/fastdds.xml: whoever is silent for longer is forgotten by the others


def make_executor(context: Context | None = None) -> Executor:
    """The fastest executor that this rclpy has.

    The events executor takes a third of the processor time per message of the single-threaded one. It is only ever to
    be spun with a bound (``spin_once(timeout)``), because its unbounded ``spin()`` does not return on a signal.
    """
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:  # older than Kilted
        return SingleThreadedExecutor(context=context)
    executor: Executor = EventsExecutor(context=context)
    return executor


def stood_still(wall_s: float, cpu_s: float) -> bool:
    """Whether a round that should take 0.1 s took longer than the lease without computing anything."""
    return wall_s > _LEASE_S and cpu_s < 0.1 * wall_s


def run(node_factory: Callable[[], BaseNode], args: list[str] | None = None) -> int:
    """Spin one node until SIGINT or SIGTERM; returns the exit code: 0 after a signal, 1 after a failure.

    Signals are handled here and not by rclpy, so that a node can still publish while it stops. The events executor
    needs a third of the processor time per message of the single-threaded one. It is only ever spun with a bound,
    because its ``spin()`` does not return on a signal, and not with ``spin_once``, which costs a quarter more.

    An active node whose process stood still for longer than its DDS lease ends with a failure, so that the launch
    restarts it (not in lockstep, where it does not): others have forgotten it, and it may wait for them for ever.
    """
    stop = False

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal stop
        stop = True

    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    node: BaseNode | None = None
    executor: Executor | None = None
    code = 0
    try:
        node = node_factory()
        executor = make_executor()
        executor.add_node(node)
        gc.freeze()  # what start-up made stays; the collector need not walk it again and again beside the stream
        while rclpy.ok() and not stop:
            restarted, wall_s, cpu_s = node.active and not node.lockstep, time.monotonic(), time.process_time()
            executor.spin_until_future_complete(Future(executor=executor), _POLL_S)
            wall_s, cpu_s = time.monotonic() - wall_s, time.process_time() - cpu_s
            if restarted and stood_still(wall_s, cpu_s):
                raise RuntimeError(
                    f"the process stood still for {wall_s:.1f} s, longer than its lease of {_LEASE_S:g} s"
                )
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception as error:
        code = 1
        if node is None:
            traceback.print_exc()
        else:
            node.get_logger().fatal(f"stopped by {type(error).__name__}: {error}\n{traceback.format_exc()}")
    finally:
        if node is not None:
            node.close()
            # the events executor holds on to its nodes: only without it does DDS say goodbye and free its shared memory
            if executor is not None:
                executor.shutdown()
            node.destroy_node()
        rclpy.try_shutdown()
    return code
