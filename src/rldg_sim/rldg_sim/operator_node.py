"""The scripted operator as a node: a person with a SpaceMouse, on the SpaceMouse's own topics.

It looks at the ground truth of the simulation the way a person looks at the table, and drives through the same arbiter,
dead zone and dead-man rule as a person. Each episode it is somebody else: its style comes from the episode's seed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from geometry_msgs.msg import TwistStamped
from sensor_msgs.msg import Joy

from rldg_core.frames import Pose
from rldg_core.task import Subject
from rldg_core.types import EpisodeStatus, Observation, Phase
from rldg_ros import qos
from rldg_ros.base import BaseNode
from rldg_ros.conversions import EPISODE, OBSERVATION, POSE, Stamped, header, twist_to_msg
from rldg_ros.main import run
from rldg_sim.operator import OperatorCommand, ScriptedOperator, is_grasped

HANDS_OFF = OperatorCommand(twist=np.zeros(6), close=False, open=False)
# just beyond the dead zone: it keeps the door and turns the tool by no more than a milliradian a tick
HAND_RESTS = OperatorCommand(twist=np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.06]), close=False, open=False)


class Surroundings(NamedTuple):
    """What a person sees on the table, base frame."""

    fixture_pose: Pose
    object_pose: Pose | None


class OperatorNode(BaseNode):
    """Demonstrates every episode, or keeps its hands off."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__("scripted_operator", **kwargs)
        self.declare("drive", True, "Drive in every episode; false keeps the hands off the device.", read_only=False)
        self.declare("lead_in", False, "Without drive: bring the object into the gripper and let go.")
        self.declare("style_seed", 0, "Added to the episode's seed to draw the style.", low=0, high=2**31 - 1)

    def on_setup(self) -> None:
        self._operator: ScriptedOperator | None = None
        self._episode = EpisodeStatus(stamp_ns=0)
        self._lay: Pose | None = None  # the object when the episode began, until it is grasped
        self._lead_in = bool(self.get_parameter("lead_in").value)
        if self._lead_in and self.task.object is None:
            raise ValueError(f"lead_in: true, but task {self.task.name!r} has no object to grasp; leave it out")
        self._fixture: Stamped[Pose] | None = None
        self._object: Stamped[Pose] | None = None
        self._waiting: Observation | None = None
        self._answered_ns = -1
        self._answer_given: tuple[TwistStamped, Joy] | None = None
        self._twist_out = self.create_publisher(TwistStamped, "spacenav/twist_stamped", qos.reliable(10))
        self._joy_out = self.create_publisher(Joy, "spacenav/joy", qos.reliable(10))
        self.listen(POSE, "fixture_pose", self._on_fixture, qos.reliable(10))
        if self.task.object is not None or self.task.success.subject is Subject.OBJECT:
            self.listen(POSE, "object_pose", self._on_object, qos.reliable(10))
        self.listen(EPISODE, "episode", self._on_episode, qos.latched())
        self.listen(OBSERVATION, "observation", self._on_observation, qos.reliable())

    def _on_fixture(self, fixture: Stamped[Pose]) -> None:
        self._fixture = fixture
        self._answer()

    def _on_object(self, thing: Stamped[Pose]) -> None:
        self._object = thing
        self._answer()

    def _on_episode(self, status: EpisodeStatus) -> None:
        if status.phase is Phase.RUNNING and status.episode_id != self._episode.episode_id:
            style_seed = status.seed + int(self.get_parameter("style_seed").value)
            self._operator = ScriptedOperator(self.task, style_seed)
        elif status.phase in (Phase.IDLE, Phase.RESETTING):
            self._operator = None
        # the verdict that ends an episode may overtake its last observation, which is to be answered all the same
        in_episode = status.phase in (Phase.RUNNING, Phase.ENDED)
        self._episode = status if in_episode else EpisodeStatus(stamp_ns=0)
        self._answer()

    def _on_observation(self, observation: Observation) -> None:
        self._waiting = observation
        self._answer()

    def _answer(self) -> None:
        """Answer the waiting observation once everything a person would see at that moment is known."""
        observation = self._waiting
        if observation is None:
            return
        if observation.stamp_ns == self._answered_ns and self._answer_given is not None:
            self._waiting = None
            self._publish(*self._answer_given)  # asked again: the answer was lost
            return
        in_episode = bool(observation.episode_id)
        if in_episode and not self._sees_all(observation):
            return
        self._waiting, self._answered_ns = None, observation.stamp_ns
        command = HANDS_OFF
        if in_episode and self._fixture:
            truth = Surroundings(self._fixture.value, self._object.value if self._object else None)
            leads_in = self._leads_in(observation, truth.object_pose)
            if leads_in or self.get_parameter("drive").value:
                command = self.choose(observation, truth)
            if leads_in and not (command.twist.any() or command.close or command.open):
                command = HAND_RESTS
        stamped = header(observation.stamp_ns if self.lockstep else self.now_ns())
        buttons = [int(command.close), int(command.open)]
        self._publish(
            TwistStamped(header=stamped, twist=twist_to_msg(command.twist)),
            Joy(header=stamped, axes=command.twist.tolist(), buttons=buttons),
        )

    def _leads_in(self, observation: Observation, thing: Pose | None) -> bool:
        """Whether the object has yet to be brought into the gripper in this episode; once it was, never again."""
        if not self._lead_in or thing is None:
            return False
        if observation.index == 0:
            self._lay = thing
        if self._lay is not None and is_grasped(self._lay, thing, observation.gripper_closed):
            self._lay = None
        return self._lay is not None

    def choose(self, observation: Observation, truth: Surroundings) -> OperatorCommand:
        """What the hands do at an observation of an episode; a subclass may help instead of showing all of it."""
        if self._operator is None:
            return HANDS_OFF
        return self._operator.act(
            tcp_pose=observation.tcp_pose,
            fixture_pose=truth.fixture_pose,
            object_pose=truth.object_pose,
            gripper_width_m=observation.gripper_width_m,
            wrench=observation.wrench,
        )

    def _publish(self, twist: TwistStamped, joy: Joy) -> None:
        self._answer_given = (twist, joy)
        self._twist_out.publish(twist)
        self._joy_out.publish(joy)

    def _sees_all(self, observation: Observation) -> bool:
        """In lockstep, whether truth and episode are as new as the observation; in real time the newest will do."""
        if self._episode.episode_id != observation.episode_id:
            return False
        seen = [self._fixture] if self.task.object is None else [self._fixture, self._object]
        if any(s is None for s in seen):
            return False
        return not self.lockstep or all(s is not None and s.stamp_ns >= observation.stamp_ns for s in seen)


def main(args: list[str] | None = None) -> int:
    return run(OperatorNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
