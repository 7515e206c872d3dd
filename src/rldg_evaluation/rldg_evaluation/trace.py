"""What happened in a trial, as columns, and how it failed."""

from __future__ import annotations

import enum
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from rldg_core.frames import Pose
from rldg_core.task import GripperUse, Subject, Task
from rldg_core.types import Change, Observation, Outcome, Source, Step

Floats = npt.NDArray[np.float64]

CONTACT_N = 5.0  # more than a carried object weighs, less than any press
STILL_M = 0.003  # an arm that moves less than this within CLOSING_S does not search
CLOSING_S = 1.0  # the end of a trial that its failure is read from
LIFTED_M = 0.02  # an object this far above where it lay was grasped
LOST_M = 0.04  # an object this much further from the TCP than while it was held was dropped
NEAR_M = 0.02


class Failure(enum.StrEnum):
    """How a trial failed."""

    NONE = "none"  # it succeeded
    LABELLED = "labelled failure"  # a person said so
    ABORTED = "aborted"
    SAFETY_STOP = "safety stop"  # the force guard held the arm at the end
    NO_ANSWER = "no answer"  # for most of the time the policy gave nothing that may be executed
    NO_GRASP = "never closed the gripper"
    MISSED_GRASP = "missed grasp"
    EARLY_DROP = "early drop"
    STUCK = "stuck in contact"
    SEARCHED = "searched in vain"  # in contact and moving
    NEAR = "timeout near the goal"
    FAR = "timeout far from the goal"


@dataclass(frozen=True)
class Trace:
    """One trial; n + 1 observations and the n steps between them. Positions in the fixture frame.

    Attributes:
        tcp_m: (n + 1, 3).
        object_m: (n + 1, 3), of the free object; (0, 3) where there is none.
        to_goal_m: (n + 1, 3), what the task's subject lacks to the goal.
        wrench: (n + 1, 6), N and N m, tared, TCP frame.
        gripper_closed: (n + 1,), as commanded before.
        source: (n,), of rldg_core.types.Source.
        changed: (n,), of rldg_core.types.Change.
        executed: (n, 6), in [-1, 1], TCP frame.
    """

    tcp_m: Floats
    object_m: Floats
    to_goal_m: Floats
    wrench: Floats
    gripper_closed: npt.NDArray[np.bool_]
    source: npt.NDArray[np.uint8]
    changed: npt.NDArray[np.uint32]
    executed: Floats

    @property
    def distance_m(self) -> Floats:
        """Of the subject to the goal, (n + 1,)."""
        return np.linalg.norm(self.to_goal_m, axis=1)

    @property
    def force_n(self) -> Floats:
        """(n + 1,)."""
        return np.linalg.norm(self.wrench[:, :3], axis=1)

    @property
    def refused(self) -> npt.NDArray[np.bool_]:
        """Steps at which the arm held because the policy gave nothing that may be executed, (n,)."""
        return (self.source == Source.HOLD) & (self.changed & Change.REFUSED > 0)

    def save(self, path: Path) -> None:
        """Write all columns, whole or not at all."""
        part = path.with_name(f".{path.name}.part")
        with part.open("wb") as file:
            np.savez_compressed(file, **{field.name: getattr(self, field.name) for field in fields(self)})
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Read what `save` wrote.

        Raises:
            ValueError: it is missing or damaged; one line.
        """
        try:
            with np.load(path, allow_pickle=False) as columns:
                trace = cls(**{field.name: columns[field.name] for field in fields(cls)})
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
        n = len(trace.source)
        shapes = {"tcp_m": (n + 1, 3), "wrench": (n + 1, 6), "changed": (n,), "executed": (n, 6)}
        for name, shape in shapes.items():
            if getattr(trace, name).shape != shape:
                raise ValueError(f"{path}: {name}: has shape {getattr(trace, name).shape}, must be {shape}")
        return trace


class Tracer:
    """Gathers a trace tick by tick."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._goal_m = np.array(task.success.goal.xyz_m)
        self._seen: list[tuple[Floats, Floats, Floats, Floats, bool]] = []
        self._done: list[Step] = []

    def see(self, observation: Observation, fixture: Pose, free_object: Pose | None) -> None:
        """Take in an observation and where things were then, base frame."""
        into = fixture.inverse()
        tcp_m = (into @ observation.tcp_pose).position
        object_m = (into @ free_object).position if free_object is not None else np.zeros(0)
        subject_m = tcp_m if self._task.success.subject is Subject.TCP else object_m
        self._seen.append((tcp_m, object_m, self._goal_m - subject_m, observation.wrench, observation.gripper_closed))

    def do(self, step: Step) -> None:
        """Take in what was done after the last observation."""
        self._done.append(step)

    def trace(self) -> Trace:
        tcp_m, object_m, to_goal_m, wrench, closed = zip(*self._seen, strict=True)
        return Trace(
            tcp_m=np.array(tcp_m),
            object_m=np.array(object_m) if object_m[0].size else np.zeros((0, 3)),
            to_goal_m=np.array(to_goal_m),
            wrench=np.array(wrench),
            gripper_closed=np.array(closed),
            source=np.array([int(step.source) for step in self._done], dtype=np.uint8),
            changed=np.array([int(step.changed) for step in self._done], dtype=np.uint32),
            executed=np.array([step.executed.delta for step in self._done]).reshape(-1, 6),
        )


def failure_mode(task: Task, trace: Trace, outcome: Outcome) -> Failure:
    """How a trial failed, from what was measured and where things were.

    The first that applies, from what ends a trial to what it lacked; thresholds are the constants of this module.
    """
    if outcome is Outcome.SUCCESS:
        return Failure.NONE
    closing = max(1, round(CLOSING_S * task.control.rate_hz))
    if (trace.changed[-closing:] & Change.FORCE_GUARD).any():
        return Failure.SAFETY_STOP
    if outcome is Outcome.FAILURE:
        return Failure.LABELLED
    if outcome is Outcome.ABORTED:
        return Failure.ABORTED
    if trace.refused.mean() > 0.5:
        return Failure.NO_ANSWER
    if task.control.gripper is GripperUse.BINARY and len(trace.object_m):
        grasp = _grasp_failure(trace)
        if grasp is not None:
            return grasp
    if trace.force_n[-closing:].mean() > CONTACT_N:
        reach_m = np.ptp(trace.tcp_m[-closing:], axis=0).max()
        return Failure.STUCK if reach_m < STILL_M else Failure.SEARCHED
    return Failure.NEAR if trace.distance_m[-closing:].min() < NEAR_M else Failure.FAR


def _grasp_failure(trace: Trace) -> Failure | None:
    """What went wrong with the object; None where it is held at the end."""
    if not trace.gripper_closed.any():
        return Failure.NO_GRASP
    lifted = np.flatnonzero(trace.object_m[:, 2] > trace.object_m[0, 2] + LIFTED_M)
    if not len(lifted):
        return Failure.MISSED_GRASP
    apart_m = np.linalg.norm(trace.object_m - trace.tcp_m, axis=1)
    return Failure.EARLY_DROP if apart_m[-1] > apart_m[lifted[0]] + LOST_M else None
