"""Runs one policy: newest observation in, action out."""

from __future__ import annotations

import sys
import threading
import time

import msgspec
from rldg_interfaces.msg import Action
from std_msgs.msg import String

from rldg_core.types import ActionChunk, Observation
from rldg_policies.policy import Policy, check_chunk, make_policy
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.base import ERROR, OK, WARN, BaseNode
from rldg_ros.main import run

_JOIN_S = 5.0


class PolicyNode(BaseNode):
    """Configure loads and warms up the policy, activate lets it answer.

    Inference runs in one worker thread, so that the executor goes on receiving: while an answer is being computed only
    the newest observation is kept. A policy that raises or returns nonsense is reported and nothing is published for
    that observation.
    """

    def __init__(self, **kwargs: object) -> None:
        super().__init__("policy", **kwargs)
        self._name = self.declare("policy", "scripted", "Name of the policy (entry point group rldg.policies).")
        self._policy_id = (
            self.declare("policy_id", "", "Id by which the arbiter selects this policy; empty for the policy's name.")
            or self._name
        )
        self._options = self.declare("policy_parameters", "{}", "Parameters of the policy: a YAML mapping.")
        self._worker: threading.Thread | None = None

    def on_setup(self) -> None:
        try:
            parameters = msgspec.yaml.decode(self._options, type=dict[str, object])
        except msgspec.DecodeError as error:
            raise ValueError(
                f"parameter policy_parameters: {' '.join(str(error).split())}; must be a YAML mapping"
            ) from None
        self._policy = self.load_policy(self._policy_id, parameters)
        began_s = time.monotonic()
        self._policy.warm_up()
        self.get_logger().info(f"policy {self._policy_id!r} warm after {time.monotonic() - began_s:.1f} s")
        self._publisher = self.create_publisher(Action, "action", qos.reliable(10))
        card = {
            "policy_id": self._policy_id,
            "name": self._name,
            "checkpoint_hash": str(getattr(self._policy, "checkpoint_hash", "")),
            "parameters": parameters,
        }
        self._card = self.create_publisher(String, "policy_card", qos.latched())
        self._card.publish(String(data=msgspec.yaml.encode(card).decode()))
        self.listen(convert.OBSERVATION, "observation", self._on_observation, qos.reliable())

    def load_policy(self, policy_id: str, parameters: dict[str, object]) -> Policy:
        """The policy that the parameters name; a subclass may know of others. Raises ValueError."""
        return make_policy(self._name, self.task, self.robot, policy_id, parameters)

    def on_start(self) -> None:
        self._wake = threading.Condition()
        self._waiting: Observation | None = None
        self._running = True
        self._answered = self._skipped = 0
        self._trouble = ""
        self._said: tuple[int, bytes] | None = None  # the last answer and what it answers
        self._slowest_s = 0.0
        self._worker = threading.Thread(target=self._work, name="policy", daemon=True)
        self._worker.start()

    def on_stop(self) -> None:
        if self._worker is None:
            return
        with self._wake:
            self._running = False
            self._wake.notify()
        self._worker.join(_JOIN_S)
        if self._worker.is_alive():
            self.get_logger().error(
                f"policy {self._policy_id!r} is still computing after {_JOIN_S} s; its answer is discarded"
            )
        self._worker = None

    def on_teardown(self) -> None:
        self.__dict__.pop("_policy", None)  # the weights of a policy that is retired

    def on_pulse(self) -> None:
        self.report("policy", ERROR if self._trouble else OK, self._trouble)

    def on_diagnose(self) -> None:
        slow = self._slowest_s > 1.0 / self.task.control.rate_hz
        self.report(
            "inference",
            WARN if slow else OK,
            "slower than the control rate" if slow else "",
            answered=self._answered,
            skipped=self._skipped,
            slowest_ms=round(self._slowest_s * 1e3, 2),
        )
        self._slowest_s = 0.0

    def _on_observation(self, observation: Observation) -> None:
        if self.lockstep and self._said is not None and self._said[0] == observation.stamp_ns:
            self._publisher.publish(self._said[1])  # asked again: the answer was lost
            return
        with self._wake:
            self._skipped += self._waiting is not None
            self._waiting = observation
            self._wake.notify()

    def _work(self) -> None:
        worker, episode_id = threading.current_thread(), ""
        while True:
            with self._wake:
                while self._waiting is None and self._running:
                    self._wake.wait()
                if not self._running:
                    return
                observation, self._waiting = self._waiting, None
            assert observation is not None
            if observation.episode_id != episode_id:
                episode_id = observation.episode_id
                self._answer(observation, worker, reset=True)
            else:
                self._answer(observation, worker, reset=False)

    def _answer(self, observation: Observation, worker: threading.Thread, reset: bool) -> None:
        began_s = time.perf_counter()
        try:
            if reset:
                self._policy.reset()
            chunk: ActionChunk = self._policy.act(observation)
            check_chunk(chunk, observation, self._policy_id, self.robot.tcp_frame)
        except Exception as error:
            self._trouble = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            return
        self._slowest_s = max(self._slowest_s, time.perf_counter() - began_s)
        if self._running and worker is self._worker:
            self._trouble = ""
            self._answered += 1
            answer = convert.ACTION.pack(chunk, observation.stamp_ns if self.lockstep else self.now_ns())
            self._publisher.publish(answer)
            self._said = observation.stamp_ns, answer


def main(args: list[str] | None = None) -> int:
    return run(PolicyNode, args)


if __name__ == "__main__":
    sys.exit(main())
