"""The policy node of a specialist in training: acts as any policy does, and takes up what the learner has learned."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter
from std_msgs.msg import UInt8MultiArray

from rldg_policies.policy_node import PolicyNode
from rldg_ros import qos
from rldg_ros.base import OK
from rldg_ros.main import run

if TYPE_CHECKING:
    from rldg_rl.actor import Actor


class ActorNode(PolicyNode):
    """Subscribes to ``learner/weights``. They count from the next episode on; no tick ever waits for them."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.declare(
            "serve",
            "",
            "Folder of a checkpoint of this run to serve as it is, from the next episode on; empty to learn.",
            read_only=False,
        )
        self._actor: Actor | None = None
        self.add_on_set_parameters_callback(self._on_parameters)

    def load_policy(self, policy_id: str, parameters: dict[str, object]) -> Actor:
        from rldg_rl.actor import Actor

        self._actor = Actor(self.task, self.robot, policy_id, parameters, self._log_weights)
        self._set_serve(str(self.get_parameter("serve").value))
        # heard before it is activated too: said only once, they must not be missed by an actor that comes back
        self.create_subscription(UInt8MultiArray, "learner/weights", self._on_weights, qos.latched())
        return self._actor

    def _log_weights(self, what: str) -> None:
        self.get_logger().info(what)

    def on_diagnose(self) -> None:
        super().on_diagnose()
        assert self._actor is not None
        self.report("weights", OK, version=self._actor.version, serves=self.get_parameter("serve").value)

    def _on_weights(self, msg: Any) -> None:
        assert self._actor is not None
        self._actor.offer(bytes(msg.data))

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            for parameter in parameters:
                if parameter.name == "serve":
                    self._set_serve(str(parameter.value))
        except ValueError as error:
            return SetParametersResult(successful=False, reason=f"serve: {error}")
        return SetParametersResult(successful=True)

    def _set_serve(self, folder: str) -> None:
        """Raises ValueError where it cannot be served."""
        if self._actor is not None:
            self._actor.serve(Path(folder) if folder else None)


def main(args: list[str] | None = None) -> int:
    return run(ActorNode, args)


if __name__ == "__main__":
    sys.exit(main())
