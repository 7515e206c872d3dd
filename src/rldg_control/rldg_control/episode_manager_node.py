"""The episode manager: owns episodes, asks for resets, judges every observation, takes labels."""

from __future__ import annotations

import secrets
import sys
import time
from functools import partial

import numpy as np
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.client import Client
from rclpy.task import Future
from rldg_interfaces.action import RunEpisodes
from rldg_interfaces.msg import Episode
from rldg_interfaces.srv import LabelEpisode, ResetScene
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from rldg_control.episode_flow import EpisodeFlow, Run
from rldg_control.rendezvous import Rendezvous
from rldg_control.sight import load_sight
from rldg_core.events import Event, EventKind
from rldg_core.frames import Pose
from rldg_core.judge import Judge
from rldg_core.types import EpisodeStatus, Observation, Phase
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.base import ERROR, OK, WARN, BaseNode
from rldg_ros.conversions import Stamped
from rldg_ros.main import run

_SILENCE_S = 1.0  # of wall time without an observation: reported, and a cancelled run is then ended without one
_ABORT_S = 10.0  # of wall time without an observation: a run is ended
_NEEDED = ("observer", "arbiter", "cartesian_impedance_controller")
_HEARTBEAT_TIMEOUT_S = 1.0  # of wall time; heartbeats come every 0.1 s
_FEEDBACK_EVERY = 10  # observations
_RESET_TIMEOUT_S = 30.0  # of wall time
_EVENTS_KEPT = 20  # for late joiners


class EpisodeManagerNode(BaseNode):
    """Publishes one ``episode`` per ``observation``; serves ``run_episodes`` and ``label``."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__("episode_manager", **kwargs)
        self._timeout_s = self.declare(
            "lockstep_timeout_s", 2.0, "Longest wait for a stream in lockstep (s of wall time).", low=0.1, high=60.0
        )
        self._move_arm = self.declare(
            "move_arm",
            True,
            "Let reset_scene put the arm at its start pose at once (simulation); false: the reset motion does, and a "
            "person prepares the scene where there is no reset_scene.",
        )
        self._fixture_calibrated = self.declare(
            "fixture_calibrated",
            False,
            "The fixture stands where the task file says: judge by that where nobody publishes fixture_pose.",
        )
        self._session_id = self.declare(
            "session_id", "", "Prefix of episode ids; empty for one made of the time of start and four random digits."
        ) or time.strftime("%Y%m%dT%H%M%SZ-", time.gmtime()) + secrets.token_hex(2)
        self._classifier = self.declare(
            "classifier", "", "Folder of a reward classifier that must agree to a success; empty: geometry alone."
        )
        # for as long as the node lives: the events executor may crash over an action server that goes while it spins
        self._server = ActionServer(
            self,
            RunEpisodes,
            "episode_manager/run_episodes",
            execute_callback=self._execute,
            handle_accepted_callback=self._on_accepted,
            goal_callback=self._on_goal,
            cancel_callback=self._on_cancel,
        )

    def destroy_node(self) -> None:
        self._server.destroy()
        super().destroy_node()

    def on_setup(self) -> None:
        sight = load_sight(self._classifier, self.task) if self._classifier else None
        self._judge = Judge(self.task, self._session_id, sight)
        self._flow = EpisodeFlow(self.task, self._judge, self._request_reset, arm_is_placed=self._move_arm)
        self._truth = {"fixture": self.task.fixture.pose.pose()} if self._fixture_calibrated else {}
        self._said: EpisodeStatus | None = None  # the verdict that was published last
        self._observation: Observation | None = None
        self._heard_s = time.monotonic()
        self._beats_s: dict[str, float] = {}  # of those who were ever heard: a real arm's controller does not beat
        self._judged_ns = -1
        self._rendezvous = Rendezvous(("observation", *self._judge.awaited), self._timeout_s)
        self._reset_sent_s: float | None = None
        self._start: Pose | None = None  # of the episode for which a person prepares the scene
        self._goal: tuple[ServerGoalHandle, Run] | None = None
        self._answering = False
        self._publisher = self.create_publisher(Episode, "episode", qos.latched())
        self._event = self.create_publisher(String, "event", qos.latched(_EVENTS_KEPT))
        self._reset_client: Client = self.create_client(ResetScene, "reset_scene")
        self.create_service(LabelEpisode, "episode_manager/label", self._on_label)
        self.create_service(Trigger, "episode_manager/scene_ready", self._on_scene_ready)
        self.listen(Header, "heartbeat", self._on_heartbeat, qos.reliable(50))
        self.listen(convert.OBSERVATION, "observation", self._on_observation, qos.reliable())
        stream = qos.stream(self.lockstep)
        for name in self._judge.awaited:
            self.listen(convert.POSE, f"{name}_pose", partial(self._on_truth, name), stream)

    def on_stop(self) -> None:
        self._flow.end_run("episode manager was deactivated")
        self._end_without_observation()
        self._wake()

    def on_pulse(self) -> None:
        now_s = time.monotonic()
        silent_s = now_s - self._heard_s
        if silent_s > _SILENCE_S:
            began = self._observation is not None
            self.report("observation", ERROR if began else WARN, f"none for {silent_s:.0f} s" if began else "none yet")
            if silent_s > _ABORT_S and self._flow.run is not None and not self._flow.run.message:
                self._flow.end_run(f"no observation for {silent_s:.0f} s")
            if self._flow.run is not None and self._flow.run.message:
                self._end_without_observation()
            self._wake()
        if self._judge.status.phase is Phase.RUNNING and self._flow.run is not None and not self._flow.run.message:
            dead = [name for name, beat_s in self._beats_s.items() if now_s - beat_s > _HEARTBEAT_TIMEOUT_S]
            if dead:
                self._flow.end_run(f"{dead[0]} died or hangs: no heartbeat")
        if self._reset_sent_s is not None and now_s - self._reset_sent_s > _RESET_TIMEOUT_S:
            self._reset_answered(None, f"service reset_scene did not answer within {_RESET_TIMEOUT_S:.0f} s")
        late = self._rendezvous.expire() if self.lockstep else []
        if late:
            self.report("lockstep", WARN, f"judged without {', '.join(late)} after {self._timeout_s} s")
            self._judge_if_complete()

    def on_diagnose(self) -> None:
        status = self._judge.status
        self.report("episode", OK, status.phase.name.lower(), episode_id=status.episode_id, outcome=str(status.outcome))
        unknown = [f"{name}_pose" for name in self._judge.awaited if name not in self._truth]
        then = "the classifier decides near the task file's poses" if self._classifier else "only labels give success"
        self.report("truth", WARN if unknown else OK, f"no {', '.join(unknown)}: {then}" if unknown else "")
        if self.lockstep and not self._rendezvous.absent:
            self.report("lockstep", OK)

    # the stream

    def _on_observation(self, observation: Observation) -> None:
        self._observation = observation
        self._heard_s = time.monotonic()
        self.report("observation", OK)
        self._rendezvous.arrive("observation", observation.stamp_ns)
        self._judge_if_complete()

    def _on_heartbeat(self, msg: Header) -> None:
        if msg.frame_id in _NEEDED:
            self._beats_s[msg.frame_id] = time.monotonic()

    def _on_truth(self, name: str, pose: Stamped[Pose]) -> None:
        if pose.frame_id != self.robot.base_frame:
            raise ValueError(f"{name}_pose: frame_id is {pose.frame_id!r}, must be {self.robot.base_frame!r}")
        self._truth[name] = pose.value
        if self.lockstep:
            self._rendezvous.arrive(name, pose.stamp_ns)
            self._judge_if_complete()

    def _judge_if_complete(self) -> None:
        observation = self._observation
        if observation is None:
            return
        if observation.stamp_ns == self._judged_ns:
            if self.lockstep and self._said is not None and self._said.stamp_ns == self._judged_ns:
                self._publisher.publish(convert.EPISODE.pack(self._said))  # asked again: it was lost
            return
        if self.lockstep and not self._rendezvous.complete(observation.stamp_ns):
            return
        self._judged_ns = observation.stamp_ns
        self._publish(self._flow.observe(observation, self._truth.get("fixture"), self._truth.get("object")))

    def _publish(self, status: EpisodeStatus | None) -> None:
        if status is None:
            return
        self._said = status
        self._publisher.publish(convert.EPISODE.pack(status))
        if self._goal is not None:
            self._follow(status)
        self._wake()

    def _end_without_observation(self) -> None:
        """Close the episode on the last observation, because no other will come."""
        if self._observation is None or self._judge.status.phase not in (Phase.RUNNING, Phase.RESETTING):
            return
        self._flow.cancel_reset()
        self._publish(self._flow.observe(self._observation, None))

    def _wake(self) -> None:
        """Answer the goal once its run is over."""
        if self._goal is not None and self._goal[1].finished and not self._answering:
            self._answering = True
            self._goal[0].execute()

    # reset

    def _request_reset(self, scene: str, seed: int) -> None:
        if not self._reset_client.service_is_ready():
            # answered from the executor and not from here: the flow is in the middle of an observation
            assert self.executor is not None
            if self._move_arm:
                self.executor.create_task(self._reset_answered, None, "no service reset_scene; is the simulation up?")
            else:
                self.executor.create_task(self._ask_person, scene, seed)
            return
        self._reset_sent_s = time.monotonic()
        request = ResetScene.Request(scene=scene, seed=seed, move_arm=self._move_arm)
        self._reset_client.call_async(request).add_done_callback(self._on_reset_response)

    def _ask_person(self, scene: str, seed: int) -> None:
        """On a rig: a start pose as the simulation would draw it; a free object is put in its place by a person."""
        fixture = self._truth.get("fixture", self.task.fixture.pose.pose())
        start = fixture @ self.task.start.sample(np.random.default_rng(seed))
        if self.task.object is None:
            self._reset_answered(start, "")
        else:
            self._start = start
            name = scene or self.task.scene().name
            self.report("reset", WARN, f"prepare the scene {name!r}, then call episode_manager/scene_ready")

    def _on_scene_ready(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._start is not None
        if self._start is None:
            response.message = "no scene was asked for"
        else:
            self._reset_answered(self._start, "")
        return response

    def _on_reset_response(self, future: Future) -> None:
        try:
            response: ResetScene.Response = future.result()
            if not response.success:
                self._reset_answered(None, response.message)
            else:
                self._reset_answered(convert.pose_from_msg(response.start_pose, "reset_scene.start_pose"), "")
        except Exception as error:
            self._reset_answered(None, str(error))

    def _reset_answered(self, start: Pose | None, message: str) -> None:
        self._reset_sent_s = self._start = None
        if start is None:
            self.report("reset", ERROR, f"reset failed: {message}")
        else:
            self.report("reset", OK)
        self._publish(self._flow.reset_done(start, message, 0 if self.lockstep else self.now_ns()))

    # requests

    def _on_label(self, request: LabelEpisode.Request, response: LabelEpisode.Response) -> LabelEpisode.Response:
        if not self.active:
            response.message = "the episode manager is not active"
            return response
        running, ended = self._judge.status.phase is Phase.RUNNING, self._judge.ended
        refusal = self._judge.label(request.label, request.labeller or "operator")
        status = self._judge.status if running else self._judge.ended
        response.success = not refusal
        response.message = refusal or f"{status.episode_id if status else ''}: {request.label}"
        if response.success and status is not None:
            self._tell_label(request.label, request.labeller or "operator", status)
            if self._judge.ended is not ended:
                self._publisher.publish(convert.EPISODE.pack(status))
        self.get_logger().info(f"label {request.label!r} by {request.labeller!r}: {response.message}")
        return response

    def _tell_label(self, label: str, labeller: str, status: EpisodeStatus) -> None:
        """The verdict itself follows with the next observation; when it was given counts too."""
        now_ns = status.stamp_ns if self.lockstep else self.now_ns()
        event = Event(
            stamp_ns=now_ns,
            kind=EventKind.LABELLED,
            reason=f"{label} by {labeller}",
            episode_id=status.episode_id,
            index=status.index,
        )
        self._event.publish(String(data=event.yaml()))

    def _on_goal(self, request: RunEpisodes.Goal) -> GoalResponse:
        if not self.active:
            self.get_logger().warning("run_episodes refused: the episode manager is not active")
            return GoalResponse.REJECT
        try:
            self._accepted = self._flow.begin_run(request.count, request.first_seed, request.scene)
        except ValueError as error:
            self.get_logger().warning(f"run_episodes refused: {error}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_cancel(self, _goal: ServerGoalHandle) -> CancelResponse:
        self._flow.end_run("cancelled")
        if self._start is not None:  # the person is not waited for any more
            self._reset_answered(None, "cancelled")
        self._wake()
        return CancelResponse.ACCEPT

    def _on_accepted(self, goal: ServerGoalHandle) -> None:
        """Remember the goal. It is executed when its run is over: a waiting coroutine would be polled without pause."""
        self._goal, self._answering = (goal, self._accepted), False
        self._wake()

    def _execute(self, goal: ServerGoalHandle) -> RunEpisodes.Result:
        assert self._goal is not None
        run_ = self._goal[1]
        self._goal = None
        if goal.is_cancel_requested:
            goal.canceled()
        elif run_.message:
            goal.abort()
        else:
            goal.succeed()
        return RunEpisodes.Result(completed=run_.completed, successes=run_.successes, message=run_.message)

    def _follow(self, status: EpisodeStatus) -> None:
        """Feedback now and then and at every end."""
        assert self._goal is not None
        goal, run_ = self._goal
        if status.phase is Phase.ENDED or status.index % _FEEDBACK_EVERY == 0:
            goal.publish_feedback(
                RunEpisodes.Feedback(
                    episode_id=status.episode_id,
                    completed=run_.completed,
                    successes=run_.successes,
                    outcome=str(status.outcome),
                    duration_s=(status.stamp_ns - run_.began_ns) * 1e-9 if run_.began_ns else 0.0,
                )
            )


def main(args: list[str] | None = None) -> int:
    return run(EpisodeManagerNode, args)


if __name__ == "__main__":
    sys.exit(main())
