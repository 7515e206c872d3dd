"""What ``swap`` asks of a running cell: its task, whether a policy comes up, and to stop one."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import GetParameters

from rldg_bringup.episode_runner_node import EpisodeRunner
from rldg_ros import qos

_ANSWER_S = 10.0
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
    try:
        runner.spin_until(client.service_is_ready, _ANSWER_S, f"policy_{policy_id}")
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
            request = ChangeState.Request(transition=Transition(id=transition))
            if not runner.call(client, request, _ANSWER_S).success:
                return f"policy_{policy_id} refused; see its log"
    except TimeoutError as error:
        return str(error)
    return ""
