"""Runs of episodes: when to reset, when the arm is ready, what to count. The verdicts are the judge's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rldg_core.frames import Pose, body_delta
from rldg_core.judge import AT_REST_M_S, AT_REST_RAD_S, Judge, at_start
from rldg_core.task import Task
from rldg_core.types import EpisodeStatus, Observation, Outcome, Phase

_SETTLE_S = 1.0  # longest wait for the arm to come to rest before the scene is reset under it


@dataclass
class Run:
    """Progress of one request to run episodes; see ``rldg_interfaces/action/RunEpisodes``."""

    count: int
    first_seed: int
    scene: str
    completed: int = 0
    successes: int = 0
    began_ns: int = 0  # when the current episode began to run
    message: str = ""  # why the run ends early
    finished: bool = False


class EpisodeFlow:
    """Feeds the judge and decides what happens between episodes.

    Args:
        task: the task file.
        judge: verdicts.
        request_reset: called with scene and seed when the scene is to be reset; :meth:`reset_done` must follow.
        start_timeout_s: how long the arm may take to its start pose (control time).
        arm_is_placed: the reset itself puts the arm at the start pose (simulation); else the reset motion is asked to.
    """

    def __init__(
        self,
        task: Task,
        judge: Judge,
        request_reset: Callable[[str, int], None],
        start_timeout_s: float = 20.0,
        arm_is_placed: bool = False,
    ) -> None:
        self._task = task
        self._judge = judge
        self._request_reset = request_reset
        self._start_timeout_s = start_timeout_s
        self._arm_is_placed = arm_is_placed
        self._since_ns: int | None = None  # when the current part of the reset began
        self._resetting = False  # reset_scene was called and has not answered
        self._start: Pose | None = None  # where the arm must be for the episode to run; None until the scene is reset
        self._there = False  # the last observation showed the arm at rest at the start pose
        self._after_ns = 0  # observations up to here were taken before the reset was over
        self._last: Observation | None = None
        self.run: Run | None = None

    def begin_run(self, count: int, first_seed: int, scene: str) -> Run:
        """Accept a run; the first reset begins with the next observation.

        Raises:
            ValueError: a run is under way, or the request is not possible (TaskError for an unknown scene).
        """
        if self.run is not None:
            raise ValueError(f"a run is under way ({self.run.completed} of {self.run.count} episodes); cancel it first")
        if count < 1:
            raise ValueError(f"count: {count}, must be 1 or more")
        self._task.scene(scene)
        self.run = Run(count, first_seed, scene)
        return self.run

    def end_run(self, reason: str) -> None:
        """Stop after the running episode is ended as aborted, which happens with the next observation."""
        if self.run is None:
            return
        self.run.message = reason
        if self._judge.status.phase in (Phase.RUNNING, Phase.RESETTING):
            self._judge.abort(reason)
        else:
            self.run.finished, self.run = True, None

    def observe(
        self, observation: Observation, fixture: Pose | None, free_object: Pose | None = None
    ) -> EpisodeStatus | None:
        """The verdict to publish on an observation; None while the scene is being reset."""
        self._last = observation
        phase = self._judge.status.phase
        if self._resetting:
            return None
        if phase in (Phase.IDLE, Phase.ENDED):
            return self._between(observation)
        if phase is Phase.RESETTING and not self._stopping():
            return self._reset(observation)
        if observation.episode_id == self._judge.status.episode_id and observation.index < self._judge.status.index:
            self._judge.abort("the observer started again and lost count of the episode")
        return self._verdict(observation, fixture, free_object)

    def reset_done(self, start: Pose | None, message: str, now_ns: int) -> EpisodeStatus | None:
        """The scene was reset, or ``start`` is None and ``message`` says why it was not.

        Returns:
            The verdict on the observation that has been waiting, for publication.
        """
        if not self._resetting or self._last is None:
            return None
        self._resetting = False
        self._start, self._since_ns, self._there = start, None, False
        self._after_ns = max(now_ns, self._last.stamp_ns)
        if start is None:
            self._fail(f"reset failed: {message}")
        if self._stopping():
            return self._verdict(self._last, None)
        return self._resetting_status(self._last)

    def cancel_reset(self) -> None:
        """Stop waiting for :meth:`reset_done`."""
        self._resetting = False

    def _between(self, observation: Observation) -> EpisodeStatus:
        run = self.run
        if run is None:
            return self._judge.idle(observation.stamp_ns)
        self._start, self._since_ns = None, None
        self._judge.begin(run.scene, run.first_seed + run.completed)
        return self._judge.judge(observation, None)

    def _reset(self, observation: Observation) -> EpisodeStatus | None:
        if self._since_ns is None:
            self._since_ns = observation.stamp_ns
        waited_s = (observation.stamp_ns - self._since_ns) * 1e-9
        if self._start is None:
            if not _at_rest(observation) and waited_s < _SETTLE_S:
                return self._judge.judge(observation, None)
            self._resetting = True
            self._request_reset(self._judge.status.scene, self._judge.status.seed)
            return None
        there = observation.stamp_ns > self._after_ns and at_start(observation, self._start)
        # twice in a row, so that the door has followed an arm that was put there before anyone may drive
        settled, self._there = there and self._there, there
        if settled:
            status = self._judge.start(observation)
            if self.run is not None:
                self.run.began_ns = observation.stamp_ns
            return status
        if waited_s > self._start_timeout_s:
            off = body_delta(self._start, observation.tcp_pose)
            self._fail(
                f"the arm is not at rest at the start pose after {waited_s:.0f} s: off by "
                f"{np.linalg.norm(off[:3]) * 1000:.1f} mm, {np.linalg.norm(off[3:]):.3f} rad"
            )
            return self._verdict(observation, None)
        return self._resetting_status(observation)

    def _resetting_status(self, observation: Observation) -> EpisodeStatus:
        """While the reset motion is wanted, ``reset_pose`` says where to."""
        status = self._judge.judge(observation, None)
        return status if self._start is None or self._arm_is_placed else replace(status, reset_pose=self._start)

    def _fail(self, reason: str) -> None:
        self._judge.abort(reason)
        if self.run is not None:
            self.run.message = reason

    def _stopping(self) -> bool:
        return self.run is None or bool(self.run.message)

    def _verdict(
        self, observation: Observation, fixture: Pose | None, free_object: Pose | None = None
    ) -> EpisodeStatus:
        status = self._judge.judge(observation, fixture, free_object)
        run = self.run
        if status.phase is Phase.ENDED and run is not None:
            run.completed += 1
            run.successes += status.outcome is Outcome.SUCCESS
            if run.completed >= run.count or run.message:
                run.finished, self.run = True, None
        return status


def _at_rest(observation: Observation) -> bool:
    twist = observation.tcp_twist
    return bool(np.linalg.norm(twist[:3]) < AT_REST_M_S and np.linalg.norm(twist[3:]) < AT_REST_RAD_S)
