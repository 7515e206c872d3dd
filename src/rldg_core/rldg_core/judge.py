"""The life of an episode: reset, run, success rule, time limit, operator labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt

from rldg_core.frames import Pose, body_delta
from rldg_core.task import GripperState, Subject, Success, Task
from rldg_core.types import EpisodeStatus, Observation, Outcome, Phase

GOAL_REACHED = "goal reached"  # the reason of a success that the rule alone decided
LABELS = {"success": Outcome.SUCCESS, "failure": Outcome.FAILURE, "aborted": Outcome.ABORTED}

AT_REST_M_S = 0.02
AT_REST_RAD_S = 0.1
AT_START_M = 0.01
AT_START_RAD = 0.1


def reached(success: Success, subject: Pose, fixture: Pose, gripper_closed: bool) -> bool:
    """The success rule: is the subject at the goal?

    Args:
        success: goal and tolerances in the fixture frame.
        subject: TCP or object, whichever the rule names, base frame.
        fixture: port, board or bowl, base frame.
        gripper_closed: the held gripper state.
    """
    if success.gripper is GripperState.OPEN and gripper_closed:
        return False
    if success.gripper is GripperState.CLOSED and not gripper_closed:
        return False
    goal = fixture @ success.goal.pose()
    # per axis of the fixture, so that the tolerance of the insertion axis means depth whatever the tool's yaw
    offset = (fixture.inverse() @ subject).position - np.array(success.goal.xyz_m)
    if (np.abs(offset) > np.array(success.position_tolerance_m)).any():
        return False
    return float(np.linalg.norm(body_delta(goal, subject)[3:])) <= success.rotation_tolerance_rad


@dataclass(frozen=True)
class Sight:
    """A classifier of wrist images, as a part of the success rule.

    Attributes:
        probability: of success, from an image of shape (side, side, 3).
        threshold: least probability that counts.
        consecutive_ticks: for how long it must be that probable.
        widening: the rule's tolerances are multiplied by this: the classifier decides, geometry forbids the absurd.
    """

    probability: Callable[[npt.NDArray[np.uint8]], float]
    threshold: float
    consecutive_ticks: int = 2
    widening: float = 2.0


class SuccessRule:
    """The task's rule, tick by tick, and with a classifier both of them: for consecutive ticks.

    With a classifier the tolerances are wider and the fixture may be unknown: it is then taken to be where the task
    file has it, give or take its randomisation. A free object that nobody sees must be in a gripper of the state that
    the rule names; a rule that names none is then never met.
    """

    def __init__(self, task: Task, sight: Sight | None = None) -> None:
        self._rule, self._sight = task.success, sight
        self._ticks = self._rule.consecutive_ticks
        self._hits = 0
        if sight is not None:
            self._ticks = max(self._ticks, sight.consecutive_ticks)
            self._rule = _widened(task.success, sight.widening)
            self._fixture = task.fixture.pose.pose()
            spread = task.fixture.randomize
            self._anywhere = _widened(task.success, sight.widening, (*spread.xyz_m, spread.yaw_rad))

    def restart(self) -> None:
        """A new episode begins."""
        self._hits = 0

    def update(self, observation: Observation, fixture: Pose | None, free_object: Pose | None) -> tuple[bool, bool]:
        """Whether the newest observation shows the goal, and whether enough of them in a row did."""
        hit = self._placed(observation, fixture, free_object)
        if hit and self._sight is not None:
            hit = self._sight.probability(observation.image) >= self._sight.threshold
        self._hits = self._hits + 1 if hit else 0
        return hit, self._hits >= self._ticks

    def _placed(self, observation: Observation, fixture: Pose | None, free_object: Pose | None) -> bool:
        subject = observation.tcp_pose if self._rule.subject is Subject.TCP else free_object
        closed = observation.gripper_closed
        if fixture is not None and subject is not None:
            return reached(self._rule, subject, fixture, closed)
        if self._sight is None:
            return False
        if subject is None:
            return self._rule.gripper is (GripperState.CLOSED if closed else GripperState.OPEN)
        return reached(self._anywhere, subject, self._fixture, closed)


def _widened(rule: Success, factor: float, spread: tuple[float, float, float, float] = (0.0,) * 4) -> Success:
    """A rule with its tolerances times ``factor`` plus ``spread`` (m, m, m, rad)."""
    position = [tolerance * factor + more for tolerance, more in zip(rule.position_tolerance_m, spread, strict=False)]
    rotation_rad = min(rule.rotation_tolerance_rad * factor + spread[3], np.pi)
    return msgspec.structs.replace(rule, position_tolerance_m=tuple(position), rotation_tolerance_rad=rotation_rad)


def at_start(observation: Observation, start: Pose) -> bool:
    """Whether the arm has come to rest at the start pose."""
    offset = body_delta(start, observation.tcp_pose)
    return bool(
        np.linalg.norm(offset[:3]) < AT_START_M
        and np.linalg.norm(offset[3:]) < AT_START_RAD
        and np.linalg.norm(observation.tcp_twist[:3]) < AT_REST_M_S
        and np.linalg.norm(observation.tcp_twist[3:]) < AT_REST_RAD_S
    )


class Judge:
    """Turns observations into verdicts, one per observation.

    Args:
        sight: a classifier that must agree to a success; None where geometry alone decides.
    """

    def __init__(self, task: Task, session_id: str, sight: Sight | None = None) -> None:
        self._task = task
        self._rule = SuccessRule(task, sight)
        self._reason = GOAL_REACHED if sight is None else "goal seen"
        self._status = EpisodeStatus(stamp_ns=0, session_id=session_id, task=task.name)
        self._number = 0
        self._label: tuple[Outcome, str] | None = None
        self._ended: EpisodeStatus | None = None
        self._unlabelled: EpisodeStatus | None = None  # the verdict on the last episode without its last label

    @property
    def ended(self) -> EpisodeStatus | None:
        """The verdict that ended the last episode, as it stands after relabelling."""
        return self._ended

    @property
    def status(self) -> EpisodeStatus:
        """The latest verdict."""
        return self._status

    @property
    def awaited(self) -> tuple[str, ...]:
        """Which ground truth the success rule needs beside the observation."""
        return ("fixture", "object") if self._task.success.subject is Subject.OBJECT else ("fixture",)

    def begin(self, scene: str, seed: int, instruction: str = "") -> EpisodeStatus:
        """Start a new episode: it is resetting until :meth:`start` is called.

        Raises:
            TaskError: the task has no such scene.
        """
        self._number += 1
        self._rule.restart()
        self._label = None
        self._status = EpisodeStatus(
            stamp_ns=self._status.stamp_ns,
            session_id=self._status.session_id,
            episode_id=f"{self._status.session_id}/{self._number:04d}",
            task=self._task.name,
            scene=self._task.scene(scene).name,
            seed=seed,
            instruction=instruction or self._task.instruction,
            phase=Phase.RESETTING,
        )
        return self._status

    def start(self, observation: Observation) -> EpisodeStatus:
        """The reset is done: this observation gives reset pose and tare, the next one is number 0 of the episode."""
        self._status = replace(
            self._status,
            stamp_ns=observation.stamp_ns,
            phase=Phase.RUNNING,
            reset_pose=observation.tcp_pose,
            tare=observation.wrench,
        )
        return self._status

    def idle(self, stamp_ns: int) -> EpisodeStatus:
        """No episode is wanted."""
        self._status = EpisodeStatus(stamp_ns=stamp_ns, session_id=self._status.session_id, task=self._task.name)
        return self._status

    def label(self, label: str, labeller: str = "operator") -> str:
        """An operator's verdict: ends the running episode at the next observation, or changes the outcome of the
        last one. ``undo`` takes a label back until the next episode runs; one that has ended an episode is then
        replaced by aborted.

        Returns:
            "" if it was taken, else why not.
        """
        if label == "undo":
            return self._undo()
        if label not in LABELS:
            return f"label {label!r} is not one of {', '.join((*LABELS, 'undo'))}"
        if self._status.phase is Phase.RUNNING:
            self._label = (LABELS[label], f"label by {labeller}")
        elif self._ended is not None:
            now, before = self._status, self._ended
            self._status = before
            self._finish(now.stamp_ns, LABELS[label], f"relabelled by {labeller}")
            self._unlabelled = before
            self._status = self._status if now.phase is Phase.ENDED else now
        else:
            return "no episode to label yet"
        return ""

    def _undo(self) -> str:
        if self._label is not None:
            self._label = None
        elif self._unlabelled is not None and self._status.phase is not Phase.RUNNING:
            self._ended, self._unlabelled = replace(self._unlabelled, stamp_ns=self._status.stamp_ns), None
            self._status = self._ended if self._status.phase is Phase.ENDED else self._status
        else:
            return "nothing to undo"
        return ""

    def abort(self, reason: str) -> None:
        """End the running or resetting episode at the next observation, whatever it shows."""
        self._label = (Outcome.ABORTED, reason)

    def judge(self, observation: Observation, fixture: Pose | None, free_object: Pose | None = None) -> EpisodeStatus:
        """The verdict on one observation.

        Args:
            observation: the newest one.
            fixture: pose of the fixture, base frame; None where it is not known (then only labels give success).
            free_object: pose of the free object, base frame, for rules about the object.
        """
        stamp_ns = observation.stamp_ns
        if self._status.phase not in (Phase.RUNNING, Phase.RESETTING):
            self._status = replace(self._status, stamp_ns=stamp_ns, reward=0.0)
        elif self._label is not None:
            outcome, why = self._label
            self._finish(stamp_ns, outcome, why)
            self._label = None
            if outcome is not Outcome.ABORTED:
                self._unlabelled = replace(self._status, outcome=Outcome.ABORTED, reason="label undone", reward=0.0)
        elif self._status.phase is Phase.RESETTING or observation.episode_id != self._status.episode_id:
            self._status = replace(self._status, stamp_ns=stamp_ns)
        else:
            self._judge_running(observation, fixture, free_object)
        return self._status

    def _judge_running(self, observation: Observation, fixture: Pose | None, free_object: Pose | None) -> None:
        hit, achieved = self._rule.update(observation, fixture, free_object)
        self._status = replace(self._status, stamp_ns=observation.stamp_ns, index=observation.index)
        if hit and observation.index == 0:
            self._finish(observation.stamp_ns, Outcome.ABORTED, "the goal was reached before the first action")
        elif achieved:
            self._finish(observation.stamp_ns, Outcome.SUCCESS, self._reason)
        elif observation.index >= self._task.max_steps:
            self._finish(observation.stamp_ns, Outcome.TIMEOUT, f"time limit of {self._task.time_limit_s} s")

    def _finish(self, stamp_ns: int, outcome: Outcome, reason: str) -> None:
        self._status = replace(
            self._status,
            stamp_ns=stamp_ns,
            phase=Phase.ENDED,
            outcome=outcome,
            reason=reason,
            reward=1.0 if outcome is Outcome.SUCCESS else 0.0,
        )
        self._ended, self._unlabelled = self._status, None
