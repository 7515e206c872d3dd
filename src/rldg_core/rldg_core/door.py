"""The one door to the arm: choose who drives at a tick, check what they ask, say what was done.

Pure: the arbiter node feeds it and publishes what it returns; the gymnasium environment calls it directly. So the
rules that a policy meets in training, in simulation and on the robot are the same lines of code.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from rldg_core.bridge import Bridging, Latency, RateBridge
from rldg_core.events import Event, EventKind
from rldg_core.frames import Array, Pose, apply_body_delta, body_delta
from rldg_core.retract import Retract
from rldg_core.safety import Envelope, ForceGuard, limit_speed
from rldg_core.swap import PROBATION_TICKS, Authority
from rldg_core.task import GripperUse, SetPoint, Task
from rldg_core.teleop import HumanCommand
from rldg_core.types import (
    ACTION_SIZE,
    Action,
    ActionChunk,
    Change,
    EpisodeStatus,
    Observation,
    Phase,
    Source,
    Step,
)

MAX_AHEAD_S = 0.05  # capture stamps further in the future come from a clock that is wrong
OUTSIDE_M, OUTSIDE_RAD = 0.02, 0.2  # an arm further outside its workspace is not commanded, except by the reset motion
WILD = (
    2.0  # a policy that asks for more than this on probation, where [-1, 1] is allowed, is not scaled as it should be
)
_FORCE_GUARD = "force guard"
_ASKED_AGAIN_NS = 1_000_000_000  # requests that follow each other this closely come from one that waits


class Door:
    """Arbitration, set-point rule and safety for one arm and one task.

    Args:
        task: scales, workspace, limits.
        tcp_frame: frame id that actions must carry.
        bridging: how chunks of policies become actions.
        probation_ticks: see :class:`rldg_core.swap.Authority`.
    """

    def __init__(
        self,
        task: Task,
        tcp_frame: str,
        bridging: Bridging = Bridging(),  # noqa: B008 (immutable)
        probation_ticks: int = PROBATION_TICKS,
    ) -> None:
        self._task = task
        self._envelope = Envelope(task.workspace)
        self._guard = ForceGuard(task.safety)
        self._retract = Retract(task.safety, task.control.period_s)
        self._bridge = RateBridge(task, tcp_frame, bridging)
        self._authority = Authority(probation_ticks)
        self._events: list[Event] = []
        self._estop = ""
        self._refused = ("", 0)  # whom the last request for a swap was refused, and when (ns)
        self._target: Pose | None = None  # the last target that was sent
        self._holding = False
        self._gripper_closed = task.control.gripper is GripperUse.FIXED
        self._gripper_toggled_ns: int | None = None
        self._judged_ns = -1
        self._closed_episode = ""
        self._began: tuple[str, int] = ("", 0)  # the running episode and the stamp of its first observation
        self._at: tuple[str, int] = ("", 0)  # episode and index of the observation in force
        self.trouble = ""

    # --- what comes in between ticks -------------------------------------------------------------------------------

    @property
    def selected(self) -> str:
        """Id of the policy that may drive when no human does, "" for none."""
        return self._authority.selected

    @property
    def proven(self) -> str:
        """The policy that gets the door back if the selected one fails on probation; else the selected one."""
        return self._authority.proven

    @property
    def estop(self) -> str:
        """Why the latched e-stop is set, "" if it is not."""
        return self._estop

    @property
    def target(self) -> Pose | None:
        """The last target that was sent, base frame."""
        return self._target

    @property
    def policies(self) -> list[str]:
        """Ids of the policies that were heard, sorted."""
        return self._bridge.policies

    def latency(self, policy_id: str) -> Latency | None:
        """How long a policy takes to answer, None where that was not measured."""
        return self._bridge.latency(policy_id)

    def offer(self, chunk: ActionChunk, now_ns: int | None = None) -> str:
        """Take in what a policy asks for; the newest answer of each policy counts.

        Args:
            chunk: the answer.
            now_ns: time of its arrival, to measure the latency.

        Returns:
            "" if it was kept, else why it was refused (also said in the next step if that policy is selected).
        """
        return self._bridge.offer(chunk, now_ns)

    def select(self, policy_id: str, now_ns: int, require_fresh: bool = True) -> str:
        """Let a policy drive from the next tick on, at first on probation; "" lets none.

        Args:
            policy_id: which.
            now_ns: time of the request.
            require_fresh: it must be answering already; without that there is no probation either.

        Returns:
            "" if done, else why not; the selection is then unchanged.
        """
        if not require_fresh:
            self._authority.set(policy_id)
            return ""
        if policy_id:
            trouble = self._unfit(policy_id, now_ns)
            if trouble:
                self._tell_refused(policy_id, now_ns, trouble)
                return trouble
        self._refused = ("", 0)
        self._authority.request(policy_id, now_ns)
        return ""

    def complain(self, policy_id: str, trouble: str) -> None:
        """A policy says itself why it has no answer; on probation it loses the door for that."""
        self._bridge.complain(policy_id, trouble)

    def take_events(self) -> list[Event]:
        """What happened since the last call: swaps and the force guard."""
        events = self._authority.take_events() + self._events
        self._events = []
        return [msgspec.structs.replace(event, episode_id=self._at[0], index=self._at[1]) for event in events]

    def set_estop(self, cause: str) -> None:
        """Latch the e-stop with a cause; "" releases it."""
        self._estop = cause

    def forget_target(self) -> None:
        """Start the next target from the measured pose: the arm was not under control for a while."""
        self._target, self._holding = None, False
        self._retract.forget()

    # --- a tick ----------------------------------------------------------------------------------------------------

    def tick(
        self,
        now_ns: int,
        observation: Observation | None,
        episode: EpisodeStatus | None,
        human: HumanCommand | None = None,
        faults: Sequence[str] = (),
        measured: Pose | None = None,
        reset_target: Pose | None = None,
    ) -> Step | None:
        """Decide what the arm is told now.

        Args:
            now_ns: time of the tick; ticks are ``control.period_s`` apart.
            observation: the newest one, or None if there never was one.
            episode: the newest verdict, or None.
            human: what the operator asks for.
            faults: reasons from outside for which the arm must hold.
            measured: TCP pose now, base frame; the observation's where None.
            reset_target: where the reset motion wants the arm now; only heeded while the episode is resetting.

        Returns:
            The step to publish, or None while nothing may be commanded (``trouble`` says why): the arm's pose is
            unknown, or it would start far outside the workspace. The arm then holds by itself.
        """
        if measured is None:
            measured = observation.tcp_pose if observation is not None else None
        if measured is None:
            self.trouble = "the pose of the arm is unknown"
            return None
        phase = episode.phase if episode is not None else Phase.IDLE
        if phase is Phase.RESETTING and reset_target is None:
            self.forget_target()  # the scene may be moving the arm: follow it instead of pulling it back
        if self._target is None and phase is not Phase.RESETTING:
            outside = np.abs(self._envelope.excess(measured))
            if outside[:3].max() > OUTSIDE_M or outside[3:].max() > OUTSIDE_RAD:
                self.trouble = (
                    f"the TCP is {outside[:3].max():.3f} m and {outside[3:].max():.2f} rad outside the workspace: "
                    "bring it back by hand or by a reset"
                )
                return None
        self.trouble = ""
        repeated = False
        if observation is not None:
            if observation.episode_id and observation.episode_id != self._began[0]:
                self._began = observation.episode_id, observation.stamp_ns
                self._bridge.begin_episode()
            self._at = observation.episode_id, observation.index
            repeated = self._bridge.begin_tick(now_ns, observation.stamp_ns)
            self._watch_force(now_ns, observation)

        blocked = self._blocked(now_ns, observation, episode, human, faults)
        running = phase is Phase.RUNNING
        in_episode = (
            running
            and observation is not None
            and episode is not None
            and bool(episode.episode_id)
            and observation.episode_id == episode.episode_id
        )
        rolled_back = self._try(now_ns, blocked, repeated, phase, in_episode)
        policy_action, policy_trouble = self._due(now_ns)
        human_action = human.action if human is not None and human.active else None
        changed, reason = Change.NONE, blocked
        source, wish = Source.HOLD, None
        retreat = self._retreat(measured, blocked)
        if blocked:
            changed |= Change.FORCE_GUARD if self._guard.tripped else Change.NONE
            source = Source.RESET if retreat is not None else Source.HOLD
        elif phase is Phase.RESETTING:
            source = Source.RESET if reset_target is not None else Source.HOLD
        elif human_action is not None and (phase is Phase.IDLE or (running and not repeated)):
            source, wish = Source.HUMAN, human_action
        elif in_episode and repeated:
            reason = "no new observation since the last tick"
        elif in_episode and self.selected:
            if policy_action is None:
                reason, changed = policy_trouble, changed | Change.REFUSED
            else:
                source, wish = Source.POLICY, policy_action
        if rolled_back:
            reason, changed = "; ".join(filter(None, (rolled_back, reason))), changed | Change.REFUSED
        if wish is not None and not np.isfinite(wish.delta).all():
            source, wish, reason = Source.HOLD, None, "human action is not finite"
            changed |= Change.REFUSED

        if wish is not None:
            target, clipped = self._set_point(wish.delta, measured)
            changed |= clipped
        elif retreat is not None:
            target = retreat
        elif source is Source.RESET and reset_target is not None:
            target = reset_target
        else:
            target = self._target if self._holding and self._target is not None else measured
        self._holding = source is Source.HOLD
        target, limited = self._within_limits(target, measured)
        changed |= limited
        gripper_closed, dwell = self._gripper(now_ns, wish, resetting=phase is Phase.RESETTING)
        changed |= dwell
        first = in_episode and not repeated and observation is not None and observation.stamp_ns == self._began[1]
        executed = Action(self._executed(measured, target, source), gripper_closed)
        self._target = target
        return self._step(
            now_ns,
            observation,
            episode,
            source,
            executed,
            target,
            policy_action,
            human_action,
            changed,
            reason,
            first,
        )

    # --- parts -----------------------------------------------------------------------------------------------------

    def _unfit(self, policy_id: str, now_ns: int) -> str:
        """Why a policy must not be let in, "" if it may be."""
        if policy_id not in self._bridge.policies:
            known = ", ".join(self._bridge.policies) or "none"
            return f"policy {policy_id!r} has sent no action; policies heard: {known}"
        refusal = self._bridge.refusal(policy_id)
        trouble = f"policy {policy_id!r} refused: {refusal}" if refusal else self._bridge.complaint(policy_id)
        return trouble or self._bridge.staleness(policy_id, now_ns)

    def _tell_refused(self, policy_id: str, now_ns: int, trouble: str) -> None:
        """Once for a policy that is asked for again and again until it is ready."""
        last, last_ns = self._refused
        self._refused = (policy_id, now_ns)
        if policy_id != last or now_ns - last_ns > _ASKED_AGAIN_NS:
            kind, previous = EventKind.SWAP_REFUSED, self.selected
            event = Event(stamp_ns=now_ns, kind=kind, policy_id=policy_id, previous=previous, reason=trouble)
            self._events.append(event)

    def _due(self, now_ns: int) -> tuple[Action | None, str]:
        """The selected policy's action for this tick, or why there is none."""
        return self._bridge.due(self.selected, now_ns, self._began[1]) if self.selected else (None, "")

    def _try(self, now_ns: int, blocked: str, repeated: bool, phase: Phase, in_episode: bool) -> str:
        """Judge the policy that is on probation; returns why it has lost the door at this tick, "" if it has not.

        What is refused counts at every tick; a missing answer only where everybody could answer and be obeyed: not
        while something blocks all, an observation repeats, or no episode runs.
        """
        answerable = not blocked and not repeated
        if answerable and (in_episode or phase is Phase.IDLE):
            self._bridge.expect_answers()
        if not self._authority.on_trial:
            return ""
        policy_id = self.selected
        action, missing = self._due(now_ns)
        fault = (self._bridge.refusal(policy_id) or self._bridge.complaint(policy_id)) if policy_id else ""
        if action is not None and np.abs(action.delta).max() > WILD:
            fault = fault or f"asks for {np.abs(action.delta).max():.3g}, must be within [-1, 1]"
        if answerable and in_episode and policy_id:
            # an episode that has just begun is not answered yet
            missing = missing if self._bridge.has_answered(policy_id, self._began[1]) else ""
            fault = fault or missing
            if not fault and self._bridge.is_ahead(
                self.proven, policy_id
            ):  # else the machine is late, and not the policy
                fault = self._bridge.silence(policy_id)
        return self._authority.judge(now_ns, fault, action is not None and answerable)

    def _watch_force(self, now_ns: int, observation: Observation) -> None:
        before = self._guard.tripped
        if self._guard.update(observation.wrench) and not before:
            self._events.append(
                Event(stamp_ns=now_ns, kind=EventKind.FORCE_GUARD, reason=_load(observation), policy_id=self.selected)
            )

    def _retreat(self, measured: Pose, blocked: str) -> Pose | None:
        """Where the arm backs off to, while the force guard and nothing else blocks it."""
        if not self._guard.tripped:
            self._retract.follow(measured)
            return None
        return self._retract.target(measured) if blocked.startswith(_FORCE_GUARD) else None

    def _blocked(
        self,
        now_ns: int,
        observation: Observation | None,
        episode: EpisodeStatus | None,
        human: HumanCommand | None,
        faults: Sequence[str],
    ) -> str:
        """Why nobody may drive at this tick, "" if somebody may."""
        if self._estop:
            return f"e-stop: {self._estop}"
        if faults:
            return "; ".join(faults)
        if human is not None and human.fault:
            return human.fault
        if observation is None:
            return "no observation yet"
        limit_s = self._task.safety.max_observation_age_s
        age_s = (now_ns - observation.stamp_ns) * 1e-9
        if age_s > limit_s:
            return f"observation is {age_s:.2f} s old, limit {limit_s} s"
        if observation.image_age_s < -MAX_AHEAD_S:
            return f"the camera's clock is {-observation.image_age_s:.2f} s ahead; synchronise the clocks"
        if observation.skew_s > limit_s:
            return f"a state stream is {observation.skew_s:.2f} s away from the image, limit {limit_s} s"
        if observation.state_age_s + age_s - observation.image_age_s > limit_s:
            return f"arm state is {observation.state_age_s:.2f} s old, limit {limit_s} s"
        if episode is None:
            return "no episode manager yet"
        lag_s = (observation.stamp_ns - episode.stamp_ns) * 1e-9
        if lag_s > limit_s and episode.phase is not Phase.RESETTING:
            return f"episode verdict is {lag_s:.2f} s behind the observation, limit {limit_s} s"
        if lag_s > 0.0 and episode.phase is Phase.RUNNING and observation.episode_id:
            return "no verdict on this observation yet"  # it may have ended the episode
        if self._guard.tripped:
            return f"{_FORCE_GUARD}: {_load(observation)}"
        return ""

    def _set_point(self, delta: Array, measured: Pose) -> tuple[Pose, Change]:
        """The set-point rule of the task applied to an action."""
        control = self._task.control
        clipped = np.clip(delta, -1.0, 1.0)
        changed = Change.CLIPPED if np.abs(delta).max() > 1.0 else Change.NONE
        if control.setpoint is SetPoint.MEASURED or self._target is None:
            return apply_body_delta(measured, clipped * control.scale), changed
        ahead = body_delta(measured, apply_body_delta(self._target, clipped * control.scale))
        leash = np.array([control.leash_m] * 3 + [control.leash_rad] * 3)
        return apply_body_delta(measured, np.clip(ahead, -leash, leash)), changed

    def _within_limits(self, target: Pose, measured: Pose) -> tuple[Pose, Change]:
        """Workspace, then speed. The very first target counts from where the measured pose enters the workspace."""
        safety, period_s = self._task.safety, self._task.control.period_s
        wanted = self._envelope.coordinates(target)
        allowed = self._envelope.clamp(wanted)
        changed = Change.WORKSPACE if np.abs(allowed - wanted).max() > 1e-9 else Change.NONE
        last = self._target if self._target is not None else measured
        previous = self._envelope.clamp(self._envelope.coordinates(last))
        limited = limit_speed(
            previous, allowed, safety.max_linear_speed_m_s * period_s, safety.max_angular_speed_rad_s * period_s
        )
        if np.abs(limited - allowed).max() > 1e-9:
            changed |= Change.SPEED
        return (self._envelope.pose(limited) if changed else target), changed

    def _gripper(self, now_ns: int, wish: Action | None, resetting: bool) -> tuple[bool, Change]:
        """The held gripper state: open for a reset; a toggle waits until the last one is ``gripper_dwell_s`` old."""
        if self._task.control.gripper is GripperUse.FIXED:
            return True, Change.NONE
        wanted = self._gripper_closed
        if resetting:
            wanted = False
        elif wish is not None:
            wanted = wish.gripper_closed
        if wanted == self._gripper_closed:
            return wanted, Change.NONE
        last = self._gripper_toggled_ns
        if last is not None and now_ns - last < self._task.safety.gripper_dwell_s * 1e9:
            return self._gripper_closed, Change.GRIPPER_DWELL
        self._gripper_closed, self._gripper_toggled_ns = wanted, now_ns
        return wanted, Change.NONE

    def _executed(self, measured: Pose, target: Pose, source: Source) -> Array:
        """The action that was really done, in [-1, 1]: what is stored is what was executed, not what was asked."""
        if source is Source.HOLD:
            return np.zeros(ACTION_SIZE)
        return np.clip(body_delta(measured, target) / self._task.control.scale, -1.0, 1.0)

    def _step(
        self,
        now_ns: int,
        observation: Observation | None,
        episode: EpisodeStatus | None,
        source: Source,
        executed: Action,
        target: Pose,
        policy_action: Action | None,
        human_action: Action | None,
        changed: Change,
        reason: str,
        first: bool,
    ) -> Step:
        """The record of this tick. A verdict counts once: in the first step that knows it."""
        reward, is_last, truncated = 0.0, False, False
        episode_id = observation.episode_id if observation is not None else ""
        index = observation.index if observation is not None else 0
        if episode is not None:
            if episode.stamp_ns > self._judged_ns:
                self._judged_ns, reward = episode.stamp_ns, episode.reward
            if episode.phase is Phase.ENDED and episode.episode_id != self._closed_episode:
                self._closed_episode, is_last = episode.episode_id, True
                # the observation may already belong to nobody; the end belongs to its episode
                episode_id, index = episode.episode_id, episode.index
                truncated = episode.outcome in ("timeout", "aborted")
        return Step(
            stamp_ns=now_ns,
            observation_stamp_ns=observation.stamp_ns if observation is not None else 0,
            source=source,
            executed=executed,
            target=target,
            episode_id=episode_id,
            index=index,
            is_first=first,
            is_last=is_last,
            reward=reward,
            terminated=is_last and not truncated,
            truncated=is_last and truncated,
            policy_id=self.selected,
            policy_action=policy_action,
            human_action=human_action,
            changed=changed,
            reason=reason,
            command_age_s=(now_ns - observation.stamp_ns) * 1e-9 if observation is not None else 0.0,
        )


def _load(observation: Observation) -> str:
    force, torque = np.linalg.norm(observation.wrench[:3]), np.linalg.norm(observation.wrench[3:])
    return f"{force:.1f} N, {torque:.1f} N m"
