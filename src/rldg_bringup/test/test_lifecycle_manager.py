"""The lifecycle manager node over real managed nodes in processes of their own."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rldg_bringup.launch_runner import Launch

pytest.importorskip("rclpy")

PATIENCE_S = 40.0

# A managed node that writes each transition into one file shared by all, which keeps the order over processes.
MANAGED_NODE = f"""#!{sys.executable}
import os, sys, time
import rclpy
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from std_msgs.msg import Header

class Managed(LifecycleNode):
    def __init__(self):
        super().__init__("unnamed")
        self.beat = self.create_publisher(Header, "heartbeat", 50)
        self.create_timer(0.1, lambda: self.beat.publish(Header(frame_id=self.get_name())))

    def note(self, word):
        with open(os.environ["NOTES"], "a") as notes:
            notes.write(f"{{self.get_name()}} {{word}}\\n")
        refused = os.path.exists(os.environ["NOTES"] + f".refuse-{{self.get_name()}}")
        return TransitionCallbackReturn.FAILURE if refused else TransitionCallbackReturn.SUCCESS

    def on_configure(self, state):
        if self.get_name() == "slow":
            time.sleep(3.0)  # longer than the heartbeat may be silent
        return self.note("configure")

    def on_activate(self, state):
        super().on_activate(state)
        return self.note("activate")

    def on_deactivate(self, state):
        super().on_deactivate(state)
        return self.note("deactivate")

    def on_cleanup(self, state):
        return self.note("cleanup")

rclpy.init()
node = Managed()
try:
    rclpy.spin(node)
except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
    pass
"""

LAUNCH = """<launch>
  <arg name="names" default="[a, b, '', c]"/>
  <group><push-ros-namespace namespace="cell"/>
  <node pkg="rldg_bringup" exec="lifecycle_manager_node" name="lifecycle_manager" output="screen">
    <param name="node_names" value="$(var names)"/>
    <param name="heartbeat_timeout_s" value="1.5"/>  <!-- a loaded machine is not to look like a dead node -->
  </node>
  {nodes}
  </group>
</launch>"""


class Cell:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.notes_file = directory / "notes"
        self.notes_file.touch()
        program = directory / "lib" / "nodes" / "managed"
        program.parent.mkdir(parents=True)
        program.write_text(MANAGED_NODE)
        program.chmod(0o755)
        self.environment = {
            **os.environ,
            "AMENT_PREFIX_PATH": f"{directory}:{os.environ.get('AMENT_PREFIX_PATH', '')}",
            "NOTES": str(self.notes_file),
            "ROS_LOG_DIR": str(directory / "log"),
        }

    def launch(self, started: str, **arguments: str) -> Launch:
        nodes = "\n".join(
            f'<node pkg="nodes" exec="managed" name="{name}" output="screen" respawn="true" respawn_delay="2.5"/>'
            for name in started.split()
        )
        file = self.directory / "a.launch.xml"
        file.write_text(LAUNCH.format(nodes=nodes))
        return Launch(file, arguments, self.environment)

    def notes(self) -> list[str]:
        return self.notes_file.read_text().splitlines()

    def refuse(self, name: str, refuse: bool = True) -> None:
        flag = Path(f"{self.notes_file}.refuse-{name}")
        flag.touch() if refuse else flag.unlink()


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return Cell(tmp_path)


UP = ["a configure", "b configure", "c configure", "a activate", "b activate", "c activate"]
DOWN = ["c deactivate", "b deactivate", "a deactivate", "c cleanup", "b cleanup", "a cleanup"]


class Observer:
    """What a user sees of the manager: its services and /diagnostics."""

    def __init__(self) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from std_srvs.srv import Trigger

        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=int(os.environ["ROS_DOMAIN_ID"]))
        self.node = rclpy.create_node("watcher", context=self.context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.errors: list[tuple[str, str]] = []
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._trigger = Trigger

    def _on_diagnostics(self, array: object) -> None:
        for status in array.status:  # type: ignore[attr-defined]
            if status.level == b"\x02":
                self.errors.append((status.name, status.message))

    def call(self, service: str) -> tuple[bool, str]:
        client = self.node.create_client(self._trigger, f"/cell/lifecycle_manager/{service}")
        assert client.wait_for_service(PATIENCE_S)
        future = client.call_async(self._trigger.Request())
        self.executor.spin_until_future_complete(future, PATIENCE_S)
        return future.result().success, future.result().message

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline
            self.executor.spin_once(0.05)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def observer() -> Iterator[Observer]:
    observer = Observer()
    yield observer
    observer.close()


def test_nodes_come_up_in_order_and_go_down_in_reverse(cell: Cell, observer: Observer) -> None:
    with cell.launch("c b a") as launch:  # started in another order than they are brought up in
        launch.wait_for_line("all nodes are active", PATIENCE_S)
        assert cell.notes() == UP
        assert observer.call("is_active") == (True, "all nodes are active")
        assert observer.call("shutdown")[0]
        down = launch.wait_for_line("all nodes are down", PATIENCE_S)
        assert cell.notes() == UP + DOWN
        success, message = observer.call("is_active")
        assert not success and "/cell/a: unconfigured" in message
        assert observer.call("startup")[0]
        launch.wait_for_line("all nodes are active", PATIENCE_S, after=down)
        assert cell.notes() == UP + DOWN + UP


def test_the_end_of_the_manager_brings_the_nodes_down(cell: Cell) -> None:
    with cell.launch("a b c") as launch:
        launch.wait_for_line("all nodes are active", PATIENCE_S)
        os.kill(launch.pid("lifecycle_manager"), signal.SIGINT)
        launch.wait_for_line("lifecycle_manager-1 ended", PATIENCE_S)
        assert cell.notes() == UP + DOWN


def test_a_killed_node_is_named_and_brought_up_again_after_its_restart(cell: Cell, observer: Observer) -> None:
    with cell.launch("a b c") as launch:
        start = launch.wait_for_line("all nodes are active", PATIENCE_S)
        killed_at = time.monotonic()
        os.kill(launch.pid("b"), signal.SIGKILL)
        # it shows by silence or by the end of its lease, whichever is noticed first
        lost = launch.wait_for_line("its process ", PATIENCE_S, after=start)
        noticed_s = time.monotonic() - killed_at
        launch.wait_for_line("all nodes are active", PATIENCE_S, after=lost)
        observer.wait_until(
            lambda: any(name == "b: liveness" and "its process" in text for name, text in observer.errors)
        )
        assert {name for name, _ in observer.errors} == {"b: liveness"}
        assert "[ERROR]" in launch.lines[lost] and "b: " in launch.lines[lost]
        assert cell.notes() == [*UP, "b configure", "b activate"]
        assert noticed_s < 10.0


def test_a_hung_node_is_reported_and_welcomed_back(cell: Cell) -> None:
    with cell.launch("a b c") as launch:
        start = launch.wait_for_line("all nodes are active", PATIENCE_S)
        hung = launch.pid("c")
        os.kill(hung, signal.SIGSTOP)
        # it shows by silence or by the end of its lease, whichever is noticed first
        lost = launch.wait_for_line("its process ", PATIENCE_S, after=start)
        assert "[ERROR]" in launch.lines[lost] and "c: " in launch.lines[lost]
        os.kill(hung, signal.SIGCONT)
        launch.wait_for_line("c: is back and still active", PATIENCE_S, after=lost)
        assert cell.notes() == UP


def test_a_refusing_node_is_named_and_the_others_stay_inactive(cell: Cell) -> None:
    cell.refuse("b")
    with cell.launch("a b c") as launch:
        refused = launch.wait_for_line("b: configure failed: it refused", PATIENCE_S)
        assert "[ERROR]" in launch.lines[refused]
        assert cell.notes() == UP[:2]
        cell.refuse("b", False)
        os.kill(launch.pid("b"), signal.SIGKILL)
        launch.wait_for_line("all nodes are active", PATIENCE_S, after=refused)
        assert cell.notes() == [*UP[:2], *UP[1:]]


def test_a_long_configuration_is_not_taken_for_a_death(cell: Cell) -> None:
    with cell.launch("slow", names="[slow]") as launch:
        launch.wait_for_line("all nodes are active", PATIENCE_S)
        assert not [line for line in launch.lines if "[ERROR]" in line]
