"""Running episodes from a script: what the demo, the benchmarks and the tests use, and anyone else may.

>>> with EpisodeRunner() as runner:  # doctest: +SKIP
...     runner.wait_until_ready(timeout_s=60.0)
...     for report in runner.run_episodes(count=5, first_seed=0):
...         print(report.episode_id, report.outcome, report.duration_s)
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

import rclpy
from rclpy.action import ActionClient
from rclpy.action.client import ClientGoalHandle
from rclpy.client import Client
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.task import Future
from rldg_interfaces.action import RunEpisodes
from rldg_interfaces.msg import Episode
from rldg_interfaces.msg import Observation as ObservationMsg
from rldg_interfaces.msg import Step as StepMsg
from rldg_interfaces.srv import SelectPolicy
from sensor_msgs.msg import Image as ImageMsg
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from rldg_bringup.episode_report import EpisodeReport
from rldg_bringup.pictures import Image
from rldg_core.events import Event, EventKind, parse_event
from rldg_core.types import Observation, Outcome, Step
from rldg_ros import qos
from rldg_ros.conversions import episode_from_msg, image_from_msg, observation_from_msg, step_from_msg
from rldg_ros.main import make_executor

_M = TypeVar("_M")
_SPIN_S = 0.05
_ASK_AGAIN_S = 2.0
_HISTORY_S = 0.5  # until a latched topic has said what it keeps
_SWAP_ENDS = (EventKind.SWAP_COMPLETED, EventKind.SWAP_ROLLED_BACK, EventKind.SWAP_SUPERSEDED)
_SWAP = (EventKind.SWAP_REQUESTED, EventKind.SWAP_HANDED_OVER, *_SWAP_ENDS)


class EpisodeRunner:
    """A client of one running cell. It has its own context, so that several can live in one process.

    Args:
        domain_id: ROS domain of the cell; that of the environment where None.
        follow: listen to steps and episodes, which :meth:`run_episodes` reports; without it only start them.
    """

    def __init__(self, domain_id: int | None = None, *, follow: bool = True) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self.node = Node("episode_runner", context=self._context)
        self._executor = make_executor(self._context)
        self._executor.add_node(self.node)
        self._goals = ActionClient(self.node, RunEpisodes, "episode_manager/run_episodes")
        self._is_active = self.node.create_client(Trigger, "lifecycle_manager/is_active")
        self._select_policy = self.node.create_client(SelectPolicy, "arbiter/select_policy")
        self._estop = self.node.create_client(SetBool, "arbiter/estop")
        self._report = EpisodeReport()
        self._ended: list[EpisodeReport] = []
        if follow:
            self.listen(StepMsg, "step", self._on_step, qos.reliable(50))
            # its end is followed at once by what comes next, which must not push it out
            self.listen(Episode, "episode", self._on_episode, qos.latched(20))

    def __enter__(self) -> EpisodeRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self._goals.destroy()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def listen(self, kind: type[_M], topic: str, handler: Callable[[_M], None], profile: QoSProfile) -> None:
        """Have ``handler`` called with the messages of a topic while this object spins."""
        self.node.create_subscription(kind, topic, handler, profile)

    def watch(
        self,
        on_scene: Callable[[Image], None],
        on_observation: Callable[[Observation], None],
        on_step: Callable[[Step], None],
    ) -> None:
        """Have the scene camera's images, shape (side, side, 3), the observations and the steps handed over."""
        self.listen(StepMsg, "step", lambda msg: on_step(step_from_msg(msg)), qos.reliable(50))
        self.listen(ImageMsg, "scene/color/image_raw", lambda msg: on_scene(image_from_msg(msg)), qos.reliable())
        self.listen(
            ObservationMsg, "observation", lambda msg: on_observation(observation_from_msg(msg)), qos.reliable(5)
        )

    def spin(self, seconds: float) -> None:
        """Serve callbacks for that long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(_SPIN_S)

    def spin_until(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Serve callbacks until ``done()``.

        Raises:
            TimeoutError: it did not come; the message says ``what`` was waited for.
        """
        end = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > end:
                raise TimeoutError(f"{what} did not come within {timeout_s:.0f} s")
            self._executor.spin_once(_SPIN_S)

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until the lifecycle manager says that all nodes are active.

        Raises:
            TimeoutError: they are not; the launch's log says why.
        """
        client, end = self._is_active, time.monotonic() + timeout_s
        self.spin_until(client.service_is_ready, timeout_s, "the lifecycle manager")
        while time.monotonic() < end:
            try:  # an answer can be lost while the two are still discovering each other
                if self._answer(client.call_async(Trigger.Request()), _ASK_AGAIN_S).success:
                    return
            except TimeoutError:
                continue
            self.spin(0.1)
        raise TimeoutError(f"the nodes were not all active within {timeout_s:.0f} s; see the log of the launch")

    def select_policy(self, policy_id: str, timeout_s: float = 5.0) -> str:
        """Let a policy drive; returns the one that had the door before.

        Raises:
            RuntimeError: the arbiter refused, with its reason.
        """
        client = self._select_policy
        self.spin_until(client.service_is_ready, timeout_s, "arbiter/select_policy")
        answer = self._answer(client.call_async(SelectPolicy.Request(policy_id=policy_id)), timeout_s)
        if not answer.success:
            raise RuntimeError(answer.message)
        return str(answer.previous)

    def select_policy_when_fresh(
        self, policy_id: str, timeout_s: float = 30.0, hopeless: Callable[[], str] = lambda: ""
    ) -> str:
        """Let a policy drive as soon as the arbiter is there and has heard it; returns the one that did before.

        Args:
            policy_id: which.
            timeout_s: longest wait.
            hopeless: why it will never be heard, "" while it may be.

        Raises:
            TimeoutError: it was not heard in time.
            RuntimeError: it will not be.
        """
        end = time.monotonic() + timeout_s
        self.spin_until(self._select_policy.service_is_ready, timeout_s, "arbiter/select_policy")
        while True:
            try:
                return self.select_policy(policy_id)
            except (RuntimeError, TimeoutError) as refusal:  # an answer can be lost while the two discover each other
                if hopeless():
                    raise RuntimeError(hopeless()) from None
                if time.monotonic() > end:
                    raise TimeoutError(f"policy {policy_id!r} could not be selected: {refusal}") from None
                self.spin(0.1)

    def swap_policy(
        self,
        policy_id: str,
        timeout_s: float = 30.0,
        hopeless: Callable[[], str] = lambda: "",
        probation_timeout_s: float = 60.0,
    ) -> list[Event]:
        """Swap to a policy as soon as it is heard, and wait for the end of its probation.

        Args:
            policy_id: which.
            timeout_s: longest wait until it is heard.
            hopeless: why it will never be heard, "" while it may be.
            probation_timeout_s: longest wait for the rest.

        Returns:
            The events of the swap, the last of which says how it ended; none where the policy has the door already.

        Raises:
            TimeoutError: the policy was not heard, or nothing told the end.
            RuntimeError: it will not be heard.
        """
        told: list[Event] = []
        self.listen(String, "event", lambda msg: told.append(parse_event(msg.data)), qos.latched(20))
        self.spin_until(lambda: self.node.count_publishers("event") > 0, timeout_s, "the arbiter")
        self.spin(_HISTORY_S)
        old = len(told)
        if self.select_policy_when_fresh(policy_id, timeout_s, hopeless) == policy_id:
            return []

        def swap() -> list[Event]:
            mine = [event for event in told[old:] if event.policy_id == policy_id]
            return [event for event in mine if event.kind in _SWAP]  # a refusal came because it was not ready yet

        self.spin_until(
            lambda: bool(swap()) and swap()[-1].kind in _SWAP_ENDS, probation_timeout_s, "the end of the probation"
        )
        return swap()

    def start_episodes(
        self, count: int, first_seed: int = 0, scene: str = "", timeout_s: float = 10.0
    ) -> ClientGoalHandle:
        """Ask for episodes and return at once; the handle can cancel them.

        Raises:
            RuntimeError: the episode manager refused.
            TimeoutError: it did not answer.
        """
        if not (1 <= count < 2**32 and first_seed >= 0 and first_seed + count <= 2**32):
            raise ValueError(f"count {count} and first_seed {first_seed}: seeds must lie within 0 and {2**32 - 1}")
        self.spin_until(self._goals.server_is_ready, timeout_s, "episode_manager/run_episodes")
        goal = RunEpisodes.Goal(count=count, first_seed=first_seed, scene=scene)
        handle = self._answer(self._goals.send_goal_async(goal), timeout_s)
        if not handle.accepted:
            raise RuntimeError("the episode manager refused the goal; its log says why")
        return handle

    def run_episodes(
        self, count: int, first_seed: int = 0, scene: str = "", timeout_s: float = 120.0
    ) -> Iterator[EpisodeReport]:
        """Run episodes and yield the report of each as it ends.

        Args:
            count: how many.
            first_seed: seed of the first; each further one counts up.
            scene: scene of the task, "" for its first.
            timeout_s: longest wall time of one episode, its reset included.

        Raises:
            RuntimeError: the episode manager refused the goal or ended early, with its reason.
            TimeoutError: an episode took too long.
        """
        self._ended.clear()
        handle = self.start_episodes(count, first_seed, scene)
        result: Future = handle.get_result_async()
        for _ in range(count):
            self.spin_until(lambda: bool(self._ended) or result.done(), timeout_s, "the end of an episode")
            if not self._ended:  # the result may overtake the end of the last episode
                early: Any = result.result()
                known = early.result.message or self._report.outcome is not Outcome.NONE
                with contextlib.suppress(TimeoutError):
                    self.spin_until(lambda: bool(self._ended), 0.5 if known else 5.0, "its end")
            if not self._ended and self._report.outcome is not Outcome.NONE:
                self._deliver()  # it was aborted without a last step
            if not self._ended:
                break
            yield self._ended.pop(0)
        self.spin_until(result.done, timeout_s, "the result")
        answer: Any = result.result()
        message = answer.result.message
        if message:
            raise RuntimeError(message)

    def set_estop(self, latched: bool, timeout_s: float) -> str:
        """Latch or release the e-stop; returns what the arbiter says. Raises TimeoutError."""
        self.spin_until(self._estop.service_is_ready, timeout_s, "an arbiter in this ROS domain")
        return str(self.call(self._estop, SetBool.Request(data=latched), timeout_s).message)

    def call(self, client: Client, request: Any, timeout_s: float) -> Any:
        """The answer of a service that is ready; asked again where an answer is lost. Raises TimeoutError."""
        end = time.monotonic() + timeout_s
        while True:
            try:
                return self._answer(client.call_async(request), min(_ASK_AGAIN_S, timeout_s))
            except TimeoutError:
                if time.monotonic() > end:
                    raise

    def _answer(self, future: Future, timeout_s: float) -> Any:
        self.spin_until(future.done, timeout_s, "an answer")
        return future.result()

    def _on_episode(self, msg: Episode) -> None:
        status = episode_from_msg(msg)
        if self._report.outcome is not Outcome.NONE and status.episode_id != self._report.episode_id:
            self._deliver()
        self._report.judge(status)
        if self._report.complete:
            self._deliver()

    def _on_step(self, msg: StepMsg) -> None:
        self._report.add(step_from_msg(msg))
        if self._report.complete:
            self._deliver()

    def _deliver(self) -> None:
        self._ended.append(self._report)
        self._report = EpisodeReport()
