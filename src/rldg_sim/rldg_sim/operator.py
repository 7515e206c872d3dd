"""A scripted person with a SpaceMouse, who sees the table, misjudges it a little, and feels their way in.

The person works through the same device, dead zone, set-point rule and impedance as anybody. What makes one differ from
another, and all of them slower than an optimal policy, is their *style*: reaction time, speed, pauses, tremor, a habit
of moving one axis at a time, and how wrong they judge where the port is before they touch it. The style comes from the
seed.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

import numpy as np

from rldg_core.frames import Array, Pose, exp_rotation, log_rotation, quaternion_conjugate, quaternion_multiply, rotate
from rldg_core.scene_spec import Port
from rldg_core.task import Family, Subject, Task


@dataclass(frozen=True)
class OperatorCommand:
    """State of the device: deflection, shape (6,), each in [-1, 1], in base axes, and its two buttons."""

    twist: Array
    close: bool
    open: bool


@dataclass(frozen=True)
class Style:
    """How a person drives.

    Attributes:
        delay_ticks: between seeing and moving.
        speed: largest deflection used on the way.
        pause_probability: per tick, of letting go for a moment.
        pause_ticks: longest such pause.
        misjudged_m: standard deviation of the lateral error with which the goal is seen from above.
        misjudged_rad: same, of its yaw.
        one_axis: probability per tick of moving only the axis that is most off.
        tremor: standard deviation of the noise on the deflection.
        eagerness: overshoot: how much a motion is carried on beyond what is seen.
        push: deflection when pressing down in contact.
        search_speed: how fast the lateral search goes, in turns a second.
        raster: search along lines instead of a spiral.
    """

    delay_ticks: int
    speed: float
    pause_probability: float
    pause_ticks: int
    misjudged_m: float
    misjudged_rad: float
    one_axis: float
    tremor: float
    eagerness: float
    push: float
    search_speed: float
    raster: bool

    @staticmethod
    def draw(rng: np.random.Generator) -> Style:
        """Somebody."""
        return Style(
            delay_ticks=int(rng.integers(1, 4)),
            speed=float(rng.uniform(0.4, 0.9)),
            pause_probability=float(rng.uniform(0.01, 0.04)),
            pause_ticks=int(rng.integers(2, 6)),
            misjudged_m=float(rng.uniform(0.0004, 0.0014)),
            misjudged_rad=float(rng.uniform(0.0, 0.02)),
            one_axis=float(rng.uniform(0.0, 0.6)),
            tremor=float(rng.uniform(0.01, 0.04)),
            eagerness=float(rng.uniform(0.0, 0.3)),
            push=float(rng.uniform(0.3, 0.5)),
            search_speed=float(rng.uniform(0.25, 0.5)),
            raster=bool(rng.random() < 0.35),
        )

    @staticmethod
    def flawless() -> Style:
        """Nobody: sees exactly, reacts at once, never pauses. For tests and quick data."""
        return Style(0, 1.0, 0.0, 1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.6, 1.0, False)


class _Stage(enum.Enum):
    REACH = enum.auto()  # above the object
    GRASP = enum.auto()  # down to it
    CLOSE = enum.auto()
    LIFT = enum.auto()
    CARRY = enum.auto()  # above the goal
    LOWER = enum.auto()  # down until something is felt
    SEARCH = enum.auto()  # slide about while pressing
    PRESS = enum.auto()  # it is in: push it home
    BACK_OFF = enum.auto()  # start again from a little higher
    RELEASE = enum.auto()


_FELT_N = 3.0
_DEAD_ZONE = 0.06
_FULL_AT, _FULL_AT_RAD = 1.5, 0.25  # error at which the device is fully deflected, in action scales and in rad
_HOVER_M = 0.012  # between the lowest point of what is carried and the mouth of the port
_SEARCH_LIMIT_S = 3.0
_SEARCH_DEFLECTION = 0.08  # at most, sideways
_SEARCH_FULL_AT_M = 0.005
_LOST_M = 0.004  # this far aside the part is not on the port any more
_LOOK_CLOSER_S = 0.5  # while searching, the error of judgement fades with this time constant
_IN_HAND_M = 0.05  # a closed gripper this close to the middle of the object holds it
_LIFTED_M = 0.03
_IN_M = 0.0016  # this far below the first contact the part has found the hole


def is_grasped(lay: Pose, now: Pose, gripper_closed: bool) -> bool:
    """Whether an object hangs in the gripper.

    Args:
        lay: its pose when the episode began, base frame.
        now: its pose.
        gripper_closed: the held gripper state.
    """
    return gripper_closed and bool(now.position[2] - lay.position[2] > _LIFTED_M)


class ScriptedOperator:
    """One person for one episode.

    Args:
        task: what is to be done.
        seed: of the style and of everything the person does.
        style: instead of the style drawn from the seed.
    """

    def __init__(self, task: Task, seed: int, *, style: Style | None = None) -> None:
        self._task = task
        self._rng = np.random.default_rng([seed, 0x0FFE])
        self.style = style or Style.draw(self._rng)
        self._grasps = task.object is not None
        self._stage = _Stage.REACH if self._grasps else _Stage.CARRY
        self._ticks = 0  # in this stage
        self._seen: deque[Array] = deque(maxlen=self.style.delay_ticks + 1)
        self._pause = 0
        self._bias = self._misjudge(1.0)
        self._touched_m: float | None = None
        self._search_centre = np.zeros(2)
        self._fixture = task.simulation.fixture if task.simulation is not None else None

    def act(
        self,
        *,
        tcp_pose: Pose,
        fixture_pose: Pose,
        object_pose: Pose | None,
        gripper_width_m: float,
        wrench: Array,
    ) -> OperatorCommand:
        """What the hands do at this control tick.

        Args:
            tcp_pose: measured, base frame.
            fixture_pose: base frame.
            object_pose: of the free object, base frame, None where there is none.
            gripper_width_m: measured opening.
            wrench: on the tool, tared, TCP frame, shape (6,), N and N m.
        """
        self._ticks += 1
        goal, down = self._goal(tcp_pose, fixture_pose, object_pose)
        lift = float(rotate(tcp_pose.quaternion, wrench[:3])[2])  # base frame: positive when something pushes up
        self._decide(tcp_pose, goal, down, lift, object_pose, gripper_width_m)
        twist = self._steer(tcp_pose, goal, down, object_pose)
        close = self._stage is _Stage.CLOSE and self._ticks >= 2
        release = self._stage is _Stage.RELEASE and self._ticks >= 2
        return OperatorCommand(self._hand(twist, lift), close, release)

    def take_over(self, *, tcp_pose: Pose, object_pose: Pose | None, gripper_closed: bool) -> None:
        """Begin in the middle of an episode: with what is in the hand already, if anything is.

        Args:
            tcp_pose: measured, base frame.
            object_pose: of the free object, base frame.
            gripper_closed: the held gripper state.
        """
        if object_pose is not None and gripper_closed:
            in_hand = np.linalg.norm(object_pose.position - tcp_pose.position) < _IN_HAND_M
            self._go(_Stage.LIFT if in_hand else _Stage.REACH)

    # --- where to --------------------------------------------------------------------------------------------------

    def _goal(self, tcp: Pose, fixture: Pose, free: Pose | None) -> tuple[Pose, float]:
        """TCP pose at which the task is done, and how far above it the part is free of the fixture (m)."""
        goal = fixture @ self._task.success.goal.pose()
        if self._task.success.subject is Subject.OBJECT and free is not None:
            goal = self._upright(goal, free) @ free.inverse() @ tcp
        if isinstance(self._fixture, Port):
            return goal, self._fixture.depth_m
        return goal, 0.06 if self._fixture is None else self._fixture.height_m + 0.03

    def _upright(self, goal: Pose, free: Pose) -> Pose:
        """Where the rule leaves the rotation open, the object keeps the one it has."""
        if self._task.success.rotation_tolerance_rad < 1.0:
            return goal
        return Pose(goal.position, free.quaternion)

    def _grasp_pose(self, tcp: Pose, free: Pose) -> Pose:
        """Tool down over the object, fingers across its x axis, turned the shorter way."""
        x_axis = rotate(free.quaternion, np.array([1.0, 0.0, 0.0]))
        heading = float(np.arctan2(x_axis[1], x_axis[0]))
        now = rotate(tcp.quaternion, np.array([1.0, 0.0, 0.0]))
        yaw = float(np.arctan2(now[1], now[0]))
        turn = (heading - yaw + np.pi / 2.0) % np.pi - np.pi / 2.0
        down = quaternion_multiply(exp_rotation([0.0, 0.0, yaw + turn]), np.array([1.0, 0.0, 0.0, 0.0]))
        return Pose(free.position, down)

    # --- what next -------------------------------------------------------------------------------------------------

    def _go(self, stage: _Stage) -> None:
        self._stage, self._ticks = stage, 0

    def _decide(self, tcp: Pose, goal: Pose, down: float, lift: float, free: Pose | None, width: float) -> None:
        stage, period = self._stage, self._task.control.period_s
        height = float(tcp.position[2] - goal.position[2])
        aside = float(np.linalg.norm((goal.position - tcp.position)[:2] + self._bias[:2]))
        if stage is _Stage.REACH and free is not None:
            grasp = self._grasp_pose(tcp, free)
            off = np.linalg.norm((grasp.position - tcp.position)[:2])
            if off < 0.006 and self._turn(tcp, grasp)[2] < 0.08 and self._ticks > 3:
                self._go(_Stage.GRASP)
        elif stage is _Stage.GRASP and free is not None:
            if abs(tcp.position[2] - self._grasp_height(free)) < 0.004 or self._ticks > 40:
                self._go(_Stage.CLOSE)
        elif stage is _Stage.CLOSE:
            if self._ticks * period >= 0.8:
                self._go(_Stage.LIFT if width > 0.003 else _Stage.REACH)
        elif stage is _Stage.LIFT:
            if free is not None and np.linalg.norm(free.position - tcp.position) > 0.08:
                self._go(_Stage.REACH)  # it slipped out
            elif height > down + 0.6 * _HOVER_M or self._ticks > 40:
                self._bias = self._misjudge(1.0)
                self._go(_Stage.CARRY)
        elif stage is _Stage.CARRY:
            if (
                aside < (0.0012 if self._inserts else 0.015)
                and self._turned(tcp, goal) < 0.03
                and height < down + 2.5 * _HOVER_M
            ):
                self._touched_m = None
                self._go(_Stage.LOWER)
        elif stage is _Stage.LOWER:
            if not self._inserts:
                if height < 0.02 or self._ticks > 25:
                    self._go(_Stage.RELEASE)
            elif height < down - _IN_M:
                self._go(_Stage.PRESS)
            elif lift > _FELT_N and height < down + 0.004:
                self._touched_m = float(tcp.position[2])
                self._search_centre = tcp.position[:2] - goal.position[:2]
                self._go(_Stage.SEARCH)
            elif self._ticks * period > 4.0:
                self._go(_Stage.BACK_OFF)
        elif stage is _Stage.SEARCH:
            if height < down - _IN_M:
                self._go(_Stage.PRESS)
            elif self._ticks * period > _SEARCH_LIMIT_S or aside > _LOST_M:
                self._go(_Stage.BACK_OFF)
        elif stage is _Stage.PRESS:
            if self._ticks * period > 2.5 or aside > _LOST_M:
                self._go(_Stage.BACK_OFF)
        elif stage is _Stage.BACK_OFF:
            if height > down + 0.5 * _HOVER_M or self._ticks * period > 1.0:
                self._bias = self._misjudge(0.5)  # a closer look
                self._go(_Stage.CARRY)
        elif stage is _Stage.RELEASE and self._ticks * period > 2.0:
            self._go(_Stage.REACH)

    @property
    def _inserts(self) -> bool:
        return self._task.family is not Family.PICK_AND_PLACE

    def _misjudge(self, scale: float) -> Array:
        """Lateral (m, 2) and yaw (rad) error of what the person sees, shape (3,)."""
        spread = np.array([self.style.misjudged_m, self.style.misjudged_m, self.style.misjudged_rad])
        return np.clip(self._rng.normal(0.0, 1.0, 3), -2.0, 2.0) * spread * scale

    def _grasp_height(self, free: Pose) -> float:
        return max(float(free.position[2]), self._task.workspace.min_m[2] + 0.002)

    # --- the hand --------------------------------------------------------------------------------------------------

    @staticmethod
    def _turn(tcp: Pose, goal: Pose) -> Array:
        """Rotation vector (rad, base frame) from the tool to the goal, shape (3,)."""
        return log_rotation(quaternion_multiply(goal.quaternion, quaternion_conjugate(tcp.quaternion)))

    def _turned(self, tcp: Pose, goal: Pose) -> float:
        turn = self._turn(tcp, goal)
        turn[2] += self._bias[2]
        return float(np.linalg.norm(turn))

    def _steer(self, tcp: Pose, goal: Pose, down: float, free: Pose | None) -> Array:
        """Deflection that would be right now, shape (6,)."""
        stage, style = self._stage, self.style
        error = np.zeros(6)
        if stage in (_Stage.REACH, _Stage.GRASP, _Stage.CLOSE) and free is not None:
            grasp = self._grasp_pose(tcp, free)
            error[:3] = grasp.position - tcp.position
            error[3:] = self._turn(tcp, grasp)
            if stage is _Stage.REACH:
                error[2] = self._grasp_height(free) + 0.06 - tcp.position[2]
            elif stage is _Stage.GRASP:
                error[2] = self._grasp_height(free) - tcp.position[2]
            else:
                return np.zeros(6)
        elif stage is _Stage.RELEASE:
            if self._ticks * self._task.control.period_s > 1.0:
                error[2] = 0.02
        else:
            error[:3] = goal.position - tcp.position
            error[:2] += self._bias[:2]
            error[3:] = self._turn(tcp, goal)
            error[5] += self._bias[2]
            if stage is _Stage.LIFT:
                error[:2] = 0.0
                error[2] += down + _HOVER_M
            elif stage is _Stage.CARRY:
                error[2] += down + _HOVER_M
                if np.linalg.norm(error[:2]) > 0.02:
                    error[2] = max(error[2], -0.01)
            elif stage is _Stage.BACK_OFF:
                error[:2] = 0.0
                error[2] = 0.02
            elif stage is _Stage.SEARCH:
                seen = np.exp(-self._ticks * self._task.control.period_s / _LOOK_CLOSER_S)
                error[:2] = (goal.position - tcp.position)[:2] + seen * self._search_centre + self._search_offset()
        full_at_m = _FULL_AT * self._task.control.translation_scale_m
        deflection = np.concatenate([error[:3] / full_at_m, error[3:] / _FULL_AT_RAD]) * (1.0 + style.eagerness)
        deflection = np.clip(deflection, -style.speed, style.speed)
        if stage is _Stage.LOWER and self._inserts:
            deflection[2] = -min(style.speed, 0.45)
        elif stage is _Stage.SEARCH:  # lightly, or it would not slide; firmly enough aside to overcome friction
            aside = error[:2] / _SEARCH_FULL_AT_M
            deflection[:2] = np.clip(aside, -_SEARCH_DEFLECTION, _SEARCH_DEFLECTION)
            deflection[2] = -0.3 * style.push
        elif stage is _Stage.PRESS:
            deflection[2] = -style.push
        return deflection

    def _search_offset(self) -> Array:
        """Where around the first contact to feel next (m), shape (2,)."""
        elapsed = self._ticks * self._task.control.period_s
        radius = min(0.0002 + 0.0004 * elapsed, 0.0012)
        phase = 2.0 * np.pi * self.style.search_speed * elapsed
        if self.style.raster:
            return radius * np.array([2.0 * np.abs((phase / np.pi) % 2.0 - 1.0) - 1.0, np.sin(phase * 0.37)])
        return radius * np.array([np.cos(phase), np.sin(phase)])

    def _hand(self, wanted: Array, lift: float) -> Array:
        """Reaction time, pauses, habits and tremor laid over what would be right."""
        style, rng = self.style, self._rng
        self._seen.append(wanted)
        deflection = self._seen[0].copy()
        if self._pause > 0:
            self._pause -= 1
            return np.zeros(6)
        if rng.random() < style.pause_probability:
            self._pause = int(rng.integers(1, style.pause_ticks + 1))
            return np.zeros(6)
        if rng.random() < style.one_axis and lift < _FELT_N:
            keep = int(np.argmax(np.abs(deflection)))
            deflection[np.arange(6) != keep] *= 0.15
        moving = np.abs(deflection) > 0.01
        deflection = np.where(moving, np.sign(deflection) * (_DEAD_ZONE + (1.0 - _DEAD_ZONE) * np.abs(deflection)), 0.0)
        deflection += style.tremor * rng.normal(0.0, 1.0, 6) * moving
        return np.round(np.clip(deflection, -1.0, 1.0) / 0.02) * 0.02  # the device counts in steps
