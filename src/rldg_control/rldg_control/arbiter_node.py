"""The arbiter: the one door to the arm. Only this node publishes ``target_pose``."""

from __future__ import annotations

import sys
import time
from collections import deque
from functools import partial

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped, TwistStamped
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.task import Future
from rldg_interfaces.msg import Step as StepMsg
from rldg_interfaces.srv import LabelEpisode, SelectPolicy
from sensor_msgs.msg import Joy
from std_msgs.msg import Bool, Float64, Header, String, UInt8
from std_srvs.srv import SetBool, Trigger

from rldg_control.latch import Latch
from rldg_control.rendezvous import Rendezvous
from rldg_core.bridge import Bridging, LateRule, is_policy_id
from rldg_core.door import Door
from rldg_core.events import Event, EventKind
from rldg_core.frames import Pose, body_delta
from rldg_core.impedance_parameters import CONTROLLER, impedance_parameters
from rldg_core.judge import AT_START_M
from rldg_core.recovery import REFLEX, Recovery, Stage
from rldg_core.reset_motion import ResetMotion
from rldg_core.swap import PROBATION_TICKS
from rldg_core.task import Gains
from rldg_core.teleop import Teleop, foremost
from rldg_core.types import ActionChunk, EpisodeStatus, Observation, Phase, Step
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.base import ERROR, OK, WARN, BaseNode
from rldg_ros.conversions import Stamped
from rldg_ros.grid import GridTimer
from rldg_ros.main import run

_WATCHED = ("observer", "episode_manager")
_HEARTBEAT_TIMEOUT_S = 0.5  # heartbeats come every 0.1 s
_ARM_TIMEOUT_S = 0.3
_FOREIGN_S = 1.0  # how long a target of somebody else is held against it
_MISSED_PERIODS = 2.2  # an observation later than this many periods after the last one is missing: one may be lost
_WAITABLE = ("operator", "policy")
_TWIST, _JOY = "operator twist", "operator joy"
_DEVICES = ("console", "spacenav")  # a person at the console goes first: the other one may be a script
_AWAITED = "spacenav"  # in lockstep
_JUMP_M = 0.05  # more than the arm can move in a tick: it was put somewhere else
_EVENTS_KEPT = 20  # for late joiners
_BAD_NEWS = (EventKind.SWAP_ROLLED_BACK, EventKind.FORCE_GUARD, EventKind.FAULT, EventKind.RECOVERY_FAILED)
_AFTER_FAULT = ("resume", "abort")


class ArbiterNode(BaseNode):
    """Ticks on the grid of the node clock (in lockstep: with the simulation), asks the door, publishes what it decides.

    Every tick publishes ``target_pose``, ``gripper/command`` and ``step``, as long as the arm's pose was ever heard.
    """

    def __init__(self, **kwargs: object) -> None:
        super().__init__("arbiter", **kwargs)
        self._initial_policy = self.declare(
            "initial_policy",
            "",
            "Policy that may drive from the start; empty for none until arbiter/select_policy is called.",
        )
        self._wait_for = list(
            self.declare(
                "lockstep_wait_for",
                [""],
                "Who must answer an observation before the tick, in lockstep: any of operator, policy.",
            )
        )
        self._timeout_s = self.declare(
            "lockstep_timeout_s", 2.0, "Longest wait for anyone in lockstep (s of wall time).", low=0.1, high=60.0
        )
        self._late_rule = self.declare(
            "late_rule",
            str(LateRule.REST_OF_CHUNK),
            "What a chunk is good for once its observation is older than safety.max_action_age_s: hold (nothing), "
            "rest_of_chunk (the actions that are still due), slow_down (the same at half the speed).",
        )
        self._ensemble = self.declare(
            "ensemble",
            0.0,
            "Weight of a chunk one period older than the newest, where several cover a tick; 0: the newest alone.",
            low=0.0,
            high=1.0,
        )
        self._probation_ticks = self.declare(
            "probation_ticks",
            PROBATION_TICKS,
            "At so many ticks a policy that was swapped in must have had an answer before the old one lets go.",
            low=1,
            high=1000,
        )
        self._after_fault = self.declare(
            "after_fault", "resume", "What becomes of a running episode when the arm has a fault: resume or abort."
        )
        self._fault_timeout_s = self.declare(
            "fault_timeout_s", 10.0, "Longest fault that an episode outlives (s).", low=0.0, high=600.0
        )

    def on_setup(self) -> None:
        wait_for = [name for name in self._wait_for if name]
        unknown = [name for name in wait_for if name not in _WAITABLE]
        if unknown:
            raise ValueError(f"parameter lockstep_wait_for: {unknown} unknown, may hold {', '.join(_WAITABLE)}")
        self._names = ["observation", "episode"]
        self._names += [_TWIST, _JOY] if "operator" in wait_for else []
        self._names += ["policy"] if "policy" in wait_for else []
        if self._late_rule not in list(LateRule):
            raise ValueError(f"parameter late_rule: is {self._late_rule!r}, may be {', '.join(LateRule)}")
        if self._after_fault not in _AFTER_FAULT:
            raise ValueError(f"parameter after_fault: is {self._after_fault!r}, may be {', '.join(_AFTER_FAULT)}")
        bridging = Bridging(LateRule(self._late_rule), self._ensemble)
        self._door = Door(self.task, self.robot.tcp_frame, bridging, self._probation_ticks)
        self._recovery = Recovery(self._after_fault == "resume", abort_after_s=self._fault_timeout_s)
        self._latch = Latch(self.get_fully_qualified_name())
        estop, selected = self._latch.load() or ("", self._initial_policy)
        self._door.select(selected, 0, require_fresh=False)
        self._door.set_estop(estop)
        if estop:
            self.get_logger().warning(f"e-stop still latched from before the restart: {estop}")
        self._teleops = {device: Teleop() for device in _DEVICES}
        self._observation: Observation | None = None
        self._episode: EpisodeStatus | None = None
        self._pose: Pose | None = None
        self._heard_s: dict[str, float] = {}  # wall time of the last message of each sender
        self._answered_ns: dict[str, int] = {}  # which observation each policy answered last
        self._rivals = ""
        self._sent: deque[bytes] = deque(maxlen=20)  # stamps of the last targets
        self._foreign_s = -_FOREIGN_S  # wall time of the last target that somebody else sent
        self._observer_trouble = ""
        self._observer_inputs = f"{self.get_namespace().strip('/')}/observer: inputs".lstrip("/")
        self._gripper_closed = False
        self._said: tuple[bytes, Float64, bytes] | None = None  # what the last tick published
        self._motion: tuple[ResetMotion, int] | None = None
        self._gains: Gains | None = None
        self._gains_pending: Future | None = None
        self._gains_asked_s = 0.0
        self._rendezvous = Rendezvous(self._names, self._timeout_s)
        self._pending_ns = self._ticked_ns = -1
        self._grid: GridTimer | None = None

        self._target = self.create_publisher(PoseStamped, "target_pose", qos.reliable())
        self._gripper = self.create_publisher(Float64, "gripper/command", qos.latched())
        self._step = self.create_publisher(StepMsg, "step", qos.reliable(10))
        self._event = self.create_publisher(String, "event", qos.latched(_EVENTS_KEPT))
        self._set_parameters: Client = self.create_client(SetParameters, f"{CONTROLLER}/set_parameters")
        self._recover: Client = self.create_client(Trigger, f"{CONTROLLER}/recover")
        self._label: Client = self.create_client(LabelEpisode, "episode_manager/label")
        self.create_service(SelectPolicy, "arbiter/select_policy", self._on_select)
        self.create_service(SetBool, "arbiter/estop", self._on_estop)
        self.create_service(Trigger, "arbiter/recover", self._on_recover)
        # heard in every state: what is latched before the arbiter is active counts too
        self.create_subscription(Bool, "estop", self._on_estop_button, qos.reliable(10))
        if not self.lockstep:  # there the pose is the observation's, and the graph consists of known nodes
            self.create_subscription(PoseStamped, "target_pose", self._on_any_target, qos.reliable(10), raw=True)
            self.listen(convert.POSE, "current_pose", self._on_pose, qos.sensor())
        self.listen(convert.OBSERVATION, "observation", self._on_observation, qos.reliable())
        self.listen(convert.EPISODE, "episode", self._on_episode, qos.latched())
        self.listen(UInt8, "robot_mode", self._on_mode, qos.latched())
        self.listen(convert.ACTION, "action", self._on_action, qos.reliable(10))
        for device in _DEVICES:
            self.listen(TwistStamped, f"{device}/twist_stamped", partial(self._on_twist, device), qos.reliable(10))
            self.listen(Joy, f"{device}/joy", partial(self._on_joy, device), qos.reliable(10))
        self.listen(Header, "heartbeat", self._on_heartbeat, qos.reliable(50))
        self.listen(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.reliable(10))

    def on_start(self) -> None:
        now_s = time.monotonic()
        self._heard_s = dict.fromkeys((*_WATCHED, "observation"), now_s)
        if not self.lockstep:
            self._grid = GridTimer(self, self.task.control.period_s, self._tick)

    def on_stop(self) -> None:
        if self._grid is not None:
            self._grid.stop()

    def on_pulse(self) -> None:
        self._look_for_rivals()
        late = self._rendezvous.expire() if self.lockstep else []
        if late:
            self.report("lockstep", WARN, f"went on without {', '.join(late)} after {self._timeout_s} s")
        if self._gains_pending is not None and time.monotonic() - self._gains_asked_s > self._timeout_s:
            self._gains_pending = None
            self.report("gains", ERROR, f"{CONTROLLER}/set_parameters did not answer within {self._timeout_s} s")
        if self.lockstep:
            self._tick_if_complete()

    def on_diagnose(self) -> None:
        if self._grid is not None:
            self._grid.report()
        elif not self._rendezvous.absent:
            self.report("lockstep", OK)
        for policy_id in self._door.policies:
            latency = self._door.latency(policy_id)
            if latency is not None:
                p50_ms, p95_ms = round(latency.p50_s * 1e3, 1), round(latency.p95_s * 1e3, 1)
                self.report(f"latency {policy_id}", OK, answers=latency.answers, p50_ms=p50_ms, p95_ms=p95_ms)

    # what comes in

    def _on_observation(self, observation: Observation) -> None:
        self._observation = observation
        self._heard_s["observation"] = time.monotonic()
        if self.lockstep:
            self._pose, self._pending_ns = observation.tcp_pose, observation.stamp_ns
            if self._pending_ns == self._ticked_ns and self._said is not None:
                self._say(*self._said)  # asked again: something of it was lost
        self._arrived("observation", observation.stamp_ns)

    def _on_episode(self, episode: EpisodeStatus) -> None:
        self._episode = episode
        self._request_gains(episode.phase)
        self._arrived("episode", episode.stamp_ns)

    def _on_pose(self, pose: Stamped[Pose]) -> None:
        if pose.frame_id != self.robot.base_frame:
            raise ValueError(f"current_pose: frame_id is {pose.frame_id!r}, must be {self.robot.base_frame!r}")
        self._pose = pose.value
        self._heard_s["arm"] = time.monotonic()

    def _on_mode(self, msg: UInt8) -> None:
        if self._recovery.on_mode(msg.data, self._time_ns()):
            self._door.forget_target()  # the arm may have been pushed away: the next target starts from where it is
        self._tell_events()

    def _on_action(self, chunk: ActionChunk) -> None:
        refusal = self._door.offer(chunk, None if self.lockstep else self.now_ns())
        name = f"policy {chunk.policy_id}" if is_policy_id(chunk.policy_id) else "policy without a proper id"
        self.report(name, WARN if refusal else OK, refusal)
        if chunk.policy_id in self._door.policies:
            self._answered_ns[chunk.policy_id] = chunk.observation_stamp_ns
        if chunk.policy_id == self._door.selected:
            self._arrived("policy", chunk.observation_stamp_ns)

    def _on_twist(self, device: str, msg: TwistStamped) -> None:
        stamp_ns = convert.stamp_from_msg(msg.header.stamp)
        v, w = msg.twist.linear, msg.twist.angular
        self._teleops[device].update(self._device_time(stamp_ns), twist=(v.x, v.y, v.z, w.x, w.y, w.z))
        if device == _AWAITED:
            self._arrived(_TWIST, stamp_ns)

    def _on_joy(self, device: str, msg: Joy) -> None:
        stamp_ns = convert.stamp_from_msg(msg.header.stamp)
        self._teleops[device].update(self._device_time(stamp_ns), buttons=msg.buttons)
        if device == _AWAITED:
            self._arrived(_JOY, stamp_ns)

    def _device_time(self, stamp_ns: int) -> int:
        """Arrival on the node clock; in lockstep the stamp, which does not depend on when ``/clock`` is read."""
        return stamp_ns if self.lockstep else self.now_ns()

    def _on_heartbeat(self, msg: Header) -> None:
        if msg.frame_id in _WATCHED:
            self._heard_s[msg.frame_id] = time.monotonic()

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        """Who falls silent says why here: the observer (the step repeats it), a policy (it is not waited for)."""
        for status in msg.status:
            if status.name == self._observer_inputs:
                self._observer_trouble = status.message if status.level == DiagnosticStatus.ERROR else ""
            elif status.level == DiagnosticStatus.ERROR and not self.lockstep and status.name.endswith(": policy"):
                node = status.name.removesuffix(": policy").removeprefix(f"{self.get_namespace().strip('/')}/")
                self._door.complain(node.removeprefix("policy_"), status.message)

    def _on_any_target(self, raw: bytes) -> None:
        """A target that this node did not send."""
        if self.active and _stamp(raw) not in self._sent:
            self._foreign_s = time.monotonic()
            self._look_for_rivals()

    def _look_for_rivals(self) -> None:
        """Another publisher of commands: the controller would ignore both, or obey either.

        A publisher of the name of this node counts only while it sends: that of a killed predecessor stays in the graph
        for some seconds.
        """
        foreign = time.monotonic() - self._foreign_s < _FOREIGN_S
        if self.count_publishers(self._target.topic_name) <= 1 and not foreign:
            self._rivals = ""
            return
        names = {
            f"{info.node_namespace.rstrip('/')}/{info.node_name}"
            for info in self.get_publishers_info_by_topic(self._target.topic_name)
        }
        names.discard(self.get_fully_qualified_name())
        self._rivals = ", ".join(sorted(names)) or ("a second arbiter" if foreign else "")

    # a tick

    def _arrived(self, name: str, stamp_ns: int) -> None:
        if self.lockstep and name in self._names:
            self._rendezvous.arrive(name, stamp_ns)
            self._tick_if_complete()

    def _tick_if_complete(self) -> None:
        stamp_ns = self._pending_ns
        if stamp_ns == self._ticked_ns:
            return
        selected = self._door.selected
        if "policy" in self._names and (not selected or self._answered_ns.get(selected) == stamp_ns):
            self._rendezvous.arrive("policy", stamp_ns)  # it may have answered before it was selected
        if not self._rendezvous.complete(stamp_ns) or self._gains_pending is not None:
            return
        self._ticked_ns = stamp_ns
        self._tick(stamp_ns)

    def _tick(self, now_ns: int) -> None:
        human = None
        if self._pose is not None:
            devices = self._teleops.values()
            human = foremost([device.command(now_ns, self._pose, self._gripper_closed) for device in devices])
        running = self._episode is not None and self._episode.phase is Phase.RUNNING
        abort = self._recovery.tick(now_ns, running)
        if abort:
            self._abort_episode(abort)
        faults = self._faults()
        step = self._door.tick(
            now_ns,
            self._observation,
            self._episode,
            human,
            faults,
            measured=self._pose,
            reset_target=None if faults else self._reset_target(now_ns),
        )
        self._tell_events()
        if step is None:
            self.report("arm", ERROR, f"nothing is commanded: {self._door.trouble}")
            return
        self._publish(step)
        self._gripper_closed = step.executed.gripper_closed
        self.report("arm", ERROR if step.reason else OK, step.reason, source=step.source.name.lower())

    def _publish(self, step: Step) -> None:
        target = convert.POSE.pack(step.target, step.stamp_ns, self.robot.base_frame)
        self._sent.append(_stamp(target))
        gripper = Float64(data=0.0 if step.executed.gripper_closed else 1.0)
        if self._said is None or self._said[1] != gripper:
            self._gripper.publish(gripper)
        self._said = target, gripper, convert.STEP.pack(step, self.robot.base_frame)
        self._target.publish(target)
        self._step.publish(self._said[2])

    def _say(self, target: bytes, gripper: Float64, step: bytes) -> None:
        self._gripper.publish(gripper)
        self._target.publish(target)
        self._step.publish(step)

    def _faults(self) -> list[str]:
        """Why the arm must hold, as far as the door cannot see it."""
        faults = []
        if self._rivals:
            faults.append(f"second publisher on target_pose: {self._rivals}; stop it")
        if self._recovery.blocked:
            faults.append(self._recovery.blocked)
        if self._observer_trouble:
            faults.append(f"observer: {self._observer_trouble}")
        if self.lockstep:
            return faults + [f"lockstep: {name} is missing" for name in self._rendezvous.absent]
        now_s = time.monotonic()
        silent = {name: now_s - heard_s for name, heard_s in self._heard_s.items()}
        if silent.get("arm", 0.0) > _ARM_TIMEOUT_S:
            faults.append(f"arm: no current_pose for {silent['arm']:.1f} s")
        if self._observation is not None and silent["observation"] > _MISSED_PERIODS * self.task.control.period_s:
            faults.append("observer: observations stopped")
        faults += [f"{name}: no heartbeat" for name in _WATCHED if silent[name] > _HEARTBEAT_TIMEOUT_S]
        return faults

    def _reset_target(self, now_ns: int) -> Pose | None:
        """Where the reset motion wants the arm: it begins when the episode manager says where the start pose is."""
        episode = self._episode
        announced = episode is not None and episode.phase is Phase.RESETTING and episode.reset_pose.position.any()
        if not announced or episode is None or self._pose is None:
            self._motion = None
            return None
        measured, start = self._pose, episode.reset_pose
        target = self._motion[0].target((now_ns - self._motion[1]) * 1e-9) if self._motion is not None else None
        if target is None or _distance_m(measured, target) > _JUMP_M:
            # the first tick, or the arm was pushed or put elsewhere: begin from where it is
            self._motion = (ResetMotion(measured, start, self.task.reset_lift_m), now_ns)
            target = measured
        return start if _distance_m(measured, start) < AT_START_M else target

    # gains

    def _request_gains(self, phase: Phase) -> None:
        """Compliant while an episode runs, precise while the arm is reset. Never waited for, except in lockstep."""
        impedance = self.task.impedance
        if phase is Phase.RUNNING:
            wanted = impedance.compliance
        elif phase is Phase.RESETTING:
            wanted = impedance.precision
        else:
            return
        if wanted == self._gains or self._gains_pending is not None:
            return
        if not self._set_parameters.service_is_ready():
            self.report("gains", WARN, f"no service {CONTROLLER}/set_parameters: the arm keeps the gains it has")
            return
        values = [
            Parameter(name=name, value=ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value))
            for name, value in impedance_parameters(wanted, impedance).items()
        ]
        future = self._set_parameters.call_async(SetParameters.Request(parameters=values))
        self._gains_pending, self._gains_asked_s = future, time.monotonic()
        future.add_done_callback(lambda done: self._on_gains(done, wanted))

    def _on_gains(self, future: Future, wanted: Gains) -> None:
        self._gains_pending = None
        try:
            answer: SetParameters.Response = future.result()
            refused = [result.reason for result in answer.results if not result.successful]
        except Exception as error:
            refused = [str(error)]
        if refused:
            self.report("gains", ERROR, f"{CONTROLLER} refused parameters: {'; '.join(refused)}")
        else:
            self._gains = wanted
            self.report("gains", OK)
        if self.lockstep:
            self._tick_if_complete()

    # events

    def _time_ns(self) -> int:
        """Now, on the clock of the ticks."""
        return max(self._ticked_ns, 0) if self.lockstep else self.now_ns()

    def _tell_events(self) -> None:
        for event in (*self._door.take_events(), *self._recovery.take_events()):
            self._tell(event)

    def _tell(self, event: Event) -> None:
        self._event.publish(String(data=event.yaml()))
        if event.kind in _BAD_NEWS:
            self.get_logger().error(event.line())
        else:
            self.get_logger().info(event.line())
        if event.kind.startswith("swap"):
            self._latch.save(self._door.estop, self._door.proven)

    def _abort_episode(self, reason: str) -> None:
        if self._label.service_is_ready():
            self._label.call_async(LabelEpisode.Request(label="aborted", labeller="arbiter"))
        else:
            self.report("recover", ERROR, f"the episode cannot be aborted ({reason}): no service episode_manager/label")

    # services

    def _on_select(self, request: SelectPolicy.Request, response: SelectPolicy.Response) -> SelectPolicy.Response:
        response.previous = self._door.selected
        response.message = self._door.select(request.policy_id, self._time_ns())
        response.success = not response.message
        self.get_logger().info(f"select policy {request.policy_id!r}: {response.message or 'done'}")
        self._tell_events()
        if self.lockstep:
            self._tick_if_complete()
        return response

    def _on_estop(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._set_estop("requested through arbiter/estop" if request.data else "")
        response.success, response.message = True, "latched" if request.data else "released"
        return response

    def _on_estop_button(self, msg: Bool) -> None:
        """A button latches; only the service releases, so that no publisher can do it by accident."""
        if msg.data and not self._door.estop:
            self._set_estop("requested through topic estop")

    def _set_estop(self, cause: str) -> None:
        self._door.set_estop(cause)
        self._latch.save(self._door.estop, self._door.proven)
        kind = EventKind.ESTOP_LATCHED if cause else EventKind.ESTOP_RELEASED
        self._tell(Event(stamp_ns=self._time_ns(), kind=kind, reason=cause))

    def _on_recover(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._recovery.stage in (Stage.CLEAR, Stage.SETTLING):
            response.success, response.message = True, "the robot has no error to recover from"
        elif self._recovery.mode == REFLEX and not self._recover.service_is_ready():
            response.message = f"robot mode {REFLEX}, but no service {CONTROLLER}/recover; recover at the robot"
        else:
            response.message = self._recovery.ask(self._time_ns())
            response.success = not response.message
        if response.success and not response.message:
            self._recover.call_async(Trigger.Request()).add_done_callback(self._on_recovered)
            response.message = "recovery was asked for; the arm moves again once robot_mode is 1 or 2"
            self._tell_events()
        return response

    def _on_recovered(self, future: Future) -> None:
        try:
            answer: Trigger.Response = future.result()
            failure = "" if answer.success else answer.message or "refused"
        except Exception as error:
            failure = str(error)
        self._recovery.answered(failure, self._time_ns())
        self.report("recover", ERROR if failure else OK, failure)
        self._tell_events()


def _stamp(raw: bytes) -> bytes:
    """Of a stamped message: seconds and nanoseconds, which follow 4 bytes of encapsulation."""
    return raw[4:12]


def _distance_m(a: Pose, b: Pose) -> float:
    x, y, z = body_delta(a, b)[:3].tolist()
    return float((x * x + y * y + z * z) ** 0.5)


def main(args: list[str] | None = None) -> int:
    return run(ArbiterNode, args)


if __name__ == "__main__":
    sys.exit(main())
