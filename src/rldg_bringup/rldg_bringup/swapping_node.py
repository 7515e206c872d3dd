"""What ``swap`` asks of a running cell: its task, whether a policy comes up, and to stop one."""

from __future__ import annotations

from collections.abc import Sequence

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import GetParameters
from rclpy.client import Client

from rldg_bringup.episode_runner_node import EpisodeRunner
from rldg_ros import qos

_ANSWER_S = 10.0
_BUSY_S = 60.0  # while other policies load
_DISCOVERY_S = 1.0


def cell_parameters(runner: EpisodeRunner, timeout_s: float) -> dict[str, str]:
    """The launch arguments that a policy must share with the cell: ``task``, ``robot_file``, ``lockstep``.

    Raises:
        TimeoutError: no arbiter answered.
    """
    client = runner.node.create_client(GetParameters, "arbiter/get_parameters")
    runner.spin_until(client.service_is_ready, timeout_s, "an arbiter in this ROS domain")
    answer = runner.call(client, GetParameters.Request(names=["task", "robot", "lockstep"]), _ANSWER_S)
    task, robot, lockstep = answer.values
    return {
        "task": task.string_value,
        "robot_file": robot.string_value,
        "lockstep": str(lockstep.bool_value).lower(),
    }


class Watch:
    """Whether the node of a policy is there, and why it does not come up."""

    def __init__(self, runner: EpisodeRunner, policy_id: str) -> None:
        self.trouble = ""
        self._node = f"policy_{policy_id}"
        self._runner = runner
        runner.spin(_DISCOVERY_S)
        runner.listen(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.reliable(10))

    def node_is_there(self) -> bool:
        return self._node in self._runner.node.get_node_names()

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            failed = status.level == DiagnosticStatus.ERROR and status.message.startswith(("configure", "activate"))
            if status.name.rpartition("/")[2] == f"{self._node}: lifecycle" and failed:
                self.trouble = status.message


def stop_node(runner: EpisodeRunner, policy_id: str) -> str:
    """Deactivate and clean up the node of a policy, which stays for another time; returns why not, "" if done."""
    client = runner.node.create_client(ChangeState, f"policy_{policy_id}/change_state")
    down = (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
    return _change(runner, client, policy_id, down, _ANSWER_S)


class Switch:
    """Lets the node of a policy answer or not, while it keeps its weights."""

    def __init__(self, runner: EpisodeRunner, policy_id: str) -> None:
        self._runner, self._policy_id = runner, policy_id
        self._client = runner.node.create_client(ChangeState, f"policy_{policy_id}/change_state")

    def set(self, active: bool) -> None:
        """Raises RuntimeError where the node does not do it."""
        transition = Transition.TRANSITION_ACTIVATE if active else Transition.TRANSITION_DEACTIVATE
        failure = _change(self._runner, self._client, self._policy_id, (transition,), _BUSY_S)
        if failure:
            raise RuntimeError(failure)


def _change(runner: EpisodeRunner, client: Client, policy_id: str, transitions: Sequence[int], timeout_s: float) -> str:
    """Ask for transitions one after the other; returns why one was not made, "" if all were."""
    try:
        runner.spin_until(client.service_is_ready, timeout_s, f"policy_{policy_id}")
        for transition in transitions:
            request = ChangeState.Request(transition=Transition(id=transition))
            if not runner.call(client, request, timeout_s).success:
                return f"policy_{policy_id} refused; see its log"
    except TimeoutError as error:
        return str(error)
    return ""
