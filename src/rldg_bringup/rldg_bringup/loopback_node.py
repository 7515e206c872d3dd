"""A service and its client in two processes: shows that this machine's ROS 2 middleware finds and carries messages.

``loopback_node --serve NAME`` answers until its standard input closes; ``loopback_node --call NAME`` prints what it
measured as JSON.
"""

import argparse
import json
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import rclpy
from rclpy.client import Client
from rclpy.executors import ExternalShutdownException
from std_srvs.srv import Trigger

CALLS_N = 20


def serve(name: str) -> int:
    """Answer calls of the service ``name`` until standard input closes, as it does when its holder ends."""
    node = rclpy.create_node(f"{name}_server")

    def answer(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = True
        return response

    node.create_service(Trigger, name, answer)

    def stop_with_input() -> None:
        sys.stdin.read()
        rclpy.try_shutdown()

    threading.Thread(target=stop_with_input, daemon=True).start()
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
    return 0


def call(name: str, timeout_s: float) -> int:
    """Find the service and call it `CALLS_N` times; prints ``discovery_s`` and the median ``round_trip_ms``.

    Returns 1 where an answer took longer than ``timeout_s``.
    """
    node = rclpy.create_node(f"{name}_client")
    client: Client[Trigger.Request, Trigger.Response] = node.create_client(Trigger, name)
    started = time.monotonic()
    if not client.wait_for_service(timeout_sec=timeout_s):
        print(f"no answer in {timeout_s} s", file=sys.stderr)
        return 1
    discovery_s = time.monotonic() - started
    round_trips_s = []
    for _ in range(CALLS_N):
        started = time.monotonic()
        future = client.call_async(Trigger.Request())
        rclpy.spin_until_future_complete(node, future, timeout_sec=timeout_s)
        if not future.done():
            print(f"a call was not answered in {timeout_s} s", file=sys.stderr)
            return 1
        round_trips_s.append(time.monotonic() - started)
    median_ms = 1e3 * sorted(round_trips_s)[CALLS_N // 2]
    print(json.dumps({"discovery_s": round(discovery_s, 3), "round_trip_ms": round(median_ms, 3)}))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Serve or call, as the command line says."""
    parser = argparse.ArgumentParser(prog="loopback_node", description=__doc__.partition("\n")[0])
    role = parser.add_mutually_exclusive_group(required=True)
    role.add_argument("--serve", metavar="NAME")
    role.add_argument("--call", metavar="NAME")
    parser.add_argument("--timeout-s", type=float, default=10.0)
    arguments = parser.parse_args(argv)
    rclpy.init(args=[])
    try:
        return serve(arguments.serve) if arguments.serve else call(arguments.call, arguments.timeout_s)
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
