"""The operator console: shows a running cell on a web page, and asks the cell for what a person wants.

It uses the services and topics that every other tool uses. Nothing of the cell waits for it: it is no part of the
lifecycle manager's list but brings itself up, and the cameras are heard only while a browser has the page open.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from action_msgs.srv import CancelGoal
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import TwistStamped
from rclpy.action import ActionClient
from rclpy.client import Client
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.subscription import Subscription
from rclpy.task import Future
from rldg_interfaces.action import RunEpisodes
from rldg_interfaces.srv import LabelEpisode, SelectPolicy
from sensor_msgs.msg import Joy
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from rldg_console.board import Board
from rldg_console.keyboard import Report
from rldg_console.messages import CAMERAS, Command, Estop, Label, Recover, Start, Stop, Swap, Welcome
from rldg_console.server import ConsoleServer
from rldg_console.state import CellState, Level
from rldg_core.events import parse_event
from rldg_core.task import GripperUse
from rldg_core.types import ActionChunk, EpisodeStatus, Phase, Step
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.base import OK, BaseNode
from rldg_ros.conversions import Stamped
from rldg_ros.main import run

TOKEN = "RLDG_CONSOLE_TOKEN"
_LABELLER = "console"
_SOONEST_S = 0.08  # between two states that are shown
_SILENT_S = 0.2  # without a step, the state is shown all the same
_LEVELS: dict[bytes, Level] = {DiagnosticStatus.OK: "info", DiagnosticStatus.WARN: "warn"}

Answer = Callable[[bool, str], None]


class ConsoleNode(BaseNode):
    """Serves the page. The web server runs in a thread of its own; it publishes and calls services from there."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__("console", **kwargs)
        self._address = self.declare(
            "address",
            "127.0.0.1",
            f"Address to serve the page on; one that other machines can reach needs a token in ${TOKEN}.",
        )
        self._port = self.declare("port", 8088, "Port of it; 0 takes a free one.", low=0, high=65535)
        self._server: ConsoleServer | None = None
        # for as long as the node lives: the events executor may crash over an action client that goes while it spins
        self._goals = ActionClient(self, RunEpisodes, "episode_manager/run_episodes")

    def destroy_node(self) -> None:
        self._goals.destroy()
        super().destroy_node()

    def on_setup(self) -> None:
        self._state, self._board = CellState(self.task), Board()
        self._told = -1  # entries of the log that were shown
        self._showed_s = 0.0
        self._starts: deque[tuple[Start, Answer]] = deque()
        self._cameras: list[Subscription] = []
        self._pictures_before: dict[str, int] = {}
        self._twist = self.create_publisher(TwistStamped, "console/twist_stamped", qos.reliable(10))
        self._joy = self.create_publisher(Joy, "console/joy", qos.reliable(10))
        self._select: Client = self.create_client(SelectPolicy, "arbiter/select_policy")
        self._estop: Client = self.create_client(SetBool, "arbiter/estop")
        self._recover: Client = self.create_client(Trigger, "arbiter/recover")
        self._label: Client = self.create_client(LabelEpisode, "episode_manager/label")
        self._cancel: Client = self.create_client(CancelGoal, "episode_manager/run_episodes/_action/cancel_goal")
        # best effort: whoever publishes these never waits for a browser
        self.listen(convert.STEP, "step", self._on_step, qos.sensor(5))
        self.listen(convert.OBSERVATION, "observation", self._state.on_observation, qos.sensor())
        self.listen(convert.ACTION, "action", self._on_action, qos.sensor(10))
        self.listen(convert.EPISODE, "episode", self._on_episode, qos.latched())
        self.listen(String, "event", self._on_event, qos.latched(20))
        self.listen(String, "policy_card", lambda msg: self._state.on_card(msg.data), qos.latched(20))
        self.listen(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.sensor(20))
        welcome = Welcome(
            task=self.task.name,
            instruction=self.task.instruction,
            scenes=[scene.name for scene in self.task.scenes],
            grasps=self.task.control.gripper is not GripperUse.FIXED,
            force_limit_n=self.task.safety.max_force_n,
            lockstep=self.lockstep,
        )
        token = os.environ.get(TOKEN, "")
        try:
            self._server = ConsoleServer(self._board, self, welcome, self._address, self._port, token)
        except ValueError as error:
            raise ValueError(f"parameter address: {error}; set it in ${TOKEN}") from None
        except OSError as error:
            why = os.strerror(error.errno).lower() if error.errno else str(error)
            raise OSError(
                f"parameter port: {self._port} of {self._address} cannot be had: {why}; "
                "choose another (console_port:=...)"
            ) from None
        self.get_logger().info(
            f"console: http://{self._address}:{self._server.port}/" + ("#token=..." if token else "")
        )

    def on_teardown(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def on_pulse(self) -> None:
        while self._starts:
            self._begin(*self._starts.popleft())
        watched = self._server is not None and self._server.viewers > 0
        if watched and not self._cameras:
            for camera in CAMERAS:
                handler = partial(self._on_image, camera)
                self._cameras.append(self.listen(convert.IMAGE, f"{camera}/color/image_raw", handler, qos.sensor()))
        elif not watched and self._cameras:
            for subscription in self._cameras:
                self.destroy_subscription(subscription)
            self._cameras.clear()
        if time.monotonic() - self._showed_s > _SILENT_S:
            self._show()

    def on_diagnose(self) -> None:
        assert self._server is not None
        shown, before = dict(self._server.shown), self._pictures_before
        scene_hz, wrist_hz = (shown[camera] - before.get(camera, 0) for camera in CAMERAS)
        self._pictures_before = shown
        self.report("viewers", OK, viewers=self._server.viewers, scene_hz=scene_hz, wrist_hz=wrist_hz)

    # what the cell says

    def _on_step(self, step: Step) -> None:
        self._state.on_step(step, time.monotonic())
        self._show()

    def _on_action(self, chunk: ActionChunk) -> None:
        self._state.on_action(chunk, self.now_ns(), time.monotonic())

    def _on_episode(self, episode: EpisodeStatus) -> None:
        self._state.on_episode(episode)
        if episode.phase is Phase.ENDED:
            self._show(at_once=True)

    def _on_event(self, msg: String) -> None:
        self._state.on_event(parse_event(msg.data))
        self._show(at_once=True)

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        own = self.get_namespace().strip("/")
        for status in msg.status:
            namespace, _, name = status.name.rpartition("/")
            if namespace == own:
                self._state.on_check(name, _LEVELS.get(status.level, "bad"), status.message, time.monotonic())

    def _on_image(self, camera: str, image: Stamped[npt.NDArray[np.uint8]]) -> None:
        self._board.put_image(camera, image.value, time.monotonic())

    def _show(self, at_once: bool = False) -> None:
        now_s, server = time.monotonic(), self._server
        if server is None or not server.viewers or (now_s - self._showed_s < _SOONEST_S and not at_once):
            return
        self._showed_s = now_s
        view = self._state.view(self.now_ns(), now_s, server.holder(), server.viewers)
        self._board.put_text("state", msgspec.json.encode(view).decode())
        if self._state.told != self._told:
            self._told = self._state.told
            self._board.put_text("events", msgspec.json.encode(self._state.events).decode())

    # what a person asks for, from the server's thread

    def drive(self, keys: Report) -> None:
        header = convert.header(self.now_ns(), self.robot.base_frame)
        self._twist.publish(TwistStamped(header=header, twist=convert.twist_to_msg(np.array(keys.twist))))
        self._joy.publish(Joy(header=header, buttons=list(keys.buttons)))

    def ask(self, command: Command, answer: Answer) -> None:
        match command:
            case Swap():
                self._call(self._select, SelectPolicy.Request(policy_id=command.policy_id), answer)
            case Label():
                self._call(self._label, LabelEpisode.Request(label=command.label, labeller=_LABELLER), answer)
            case Estop():
                self._call(self._estop, SetBool.Request(data=command.latched), answer)
            case Recover():
                self._call(self._recover, Trigger.Request(), answer)
            case Stop():
                self._call(self._cancel, CancelGoal.Request(), answer)  # an empty request names all goals
            case Start():
                self._starts.append((command, answer))  # an action client is not for several threads

    def _call(self, client: Client, request: object, answer: Answer) -> None:
        if not client.service_is_ready():
            answer(False, f"there is no {client.srv_name}: is the cell up?")
            return
        client.call_async(request).add_done_callback(lambda future: _answer(future, answer))

    def _begin(self, start: Start, answer: Answer) -> None:
        if not self._goals.server_is_ready():
            answer(False, "there is no episode manager: is the cell up?")
            return
        goal = RunEpisodes.Goal(count=start.count, first_seed=start.seed, scene=start.scene)

        def on_goal(future: Future) -> None:
            try:
                goal: Any = future.result()
                accepted = goal.accepted
            except Exception as error:
                answer(False, str(error))
                return
            answer(
                accepted, "" if accepted else "the episode manager refused: a run is under way, or the scene is unknown"
            )

        self._goals.send_goal_async(goal).add_done_callback(on_goal)


def _answer(future: Future, answer: Answer) -> None:
    try:
        response: Any = future.result()
    except Exception as error:
        answer(False, str(error))
        return
    if isinstance(response, CancelGoal.Response):
        stopped = bool(response.goals_canceling)
        answer(stopped, "" if stopped else "no episodes are being run")
    else:
        answer(bool(response.success), str(response.message))


def _up() -> ConsoleNode:
    """The node, active: no manager has to know it."""
    node = ConsoleNode()
    if node.trigger_configure() is not TransitionCallbackReturn.SUCCESS:
        node.destroy_node()
        raise SystemExit(1)  # why is in the log
    node.trigger_activate()
    return node


def main(args: list[str] | None = None) -> int:
    return run(_up, args)


if __name__ == "__main__":
    sys.exit(main())
