"""Parts of a task: where a specialist begins, and the person who brings the episode there.

Assembly is grasping, which a person shows well, and inserting, which is worth learning (RLDG, section on FMB assembly:
human demonstrations up to the grasp, reinforcement learning from there).
"""

from __future__ import annotations

from rldg_core.types import Phase, Step
from rldg_rl.config import Segment
from rldg_sim.demonstrate import Demonstrator
from rldg_sim.loop import Loop, Tick
from rldg_sim.operator import Style, is_grasped


def begins(segment: Segment, first: Tick, now: Tick) -> bool:
    """Whether the segment begins at this tick, at the latest, of an episode that began with ``first``.

    Raises:
        ValueError: the task has no object that could be grasped.
    """
    if segment is Segment.ALL:
        return True
    if first.truth.object_pose is None or now.truth.object_pose is None:
        raise ValueError(f"segment {segment.value}: the task has no object to grasp; use segment {Segment.ALL.value}")
    return is_grasped(first.truth.object_pose, now.truth.object_pose, now.observation.gripper_closed)


def lead_in(loop: Loop, segment: Segment, seed: int, scene: str = "") -> Tick:
    """Reset, and let a skilled person drive until the segment begins, or the episode has ended before it did.

    Returns:
        The tick at which the policy takes over.
    """
    first = tick = loop.reset(scene, seed)
    person = Demonstrator(loop.task, seed, Style.flawless())
    while tick.status.phase is Phase.RUNNING and not begins(segment, first, tick):
        _, tick = loop.step(None, person.command(tick))
    return tick


def cut(segment: Segment, ticks: list[Tick], steps: list[Step]) -> tuple[list[Tick], list[Step]]:
    """What of a demonstrated episode lies in the segment; nothing where it never began."""
    for start, tick in enumerate(ticks[:-1]):
        if begins(segment, ticks[0], tick):
            return ticks[start:], steps[start:]
    return [], []
