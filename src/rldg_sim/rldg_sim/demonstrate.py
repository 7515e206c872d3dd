"""Episodes of the scripted operator in one process."""

from __future__ import annotations

from rldg_core.task import Task
from rldg_core.teleop import HumanCommand, Teleop
from rldg_core.types import Phase, Step
from rldg_sim.loop import Loop, Tick
from rldg_sim.operator import ScriptedOperator, Style


class Demonstrator:
    """The scripted operator with a device in its hands, for one episode.

    Args:
        seed: of the operator.
        style: of the operator, instead of the one drawn from the seed.
    """

    def __init__(self, task: Task, seed: int, style: Style | None = None) -> None:
        self._operator, self._device = ScriptedOperator(task, seed, style=style), Teleop()

    def command(self, tick: Tick) -> HumanCommand:
        """What reaches the door at this tick."""
        seen = tick.observation
        asked = self._operator.act(
            tcp_pose=seen.tcp_pose,
            fixture_pose=tick.truth.fixture_pose,
            object_pose=tick.truth.object_pose,
            gripper_width_m=seen.gripper_width_m,
            wrench=seen.wrench,
        )
        self._device.update(seen.stamp_ns, asked.twist, [int(asked.close), int(asked.open)])
        return self._device.command(seen.stamp_ns, seen.tcp_pose, seen.gripper_closed)


def demonstrate(loop: Loop, seed: int, *, scene: str = "", style: Style | None = None) -> tuple[list[Tick], list[Step]]:
    """One episode, through device, dead zone and door.

    Args:
        loop: where; it is reset.
        seed: of the start state and of the operator.
        scene: name of a scene, "" for the task's first.
        style: of the operator, instead of the one drawn from the seed.

    Returns:
        The n + 1 ticks of the episode, the last of them with the final verdict, and the n steps between them.
    """
    tick = loop.reset(scene, seed)
    demonstrator = Demonstrator(loop.task, seed, style)
    ticks, steps = [tick], []
    while tick.status.phase is Phase.RUNNING:
        step, tick = loop.step(None, demonstrator.command(tick))
        ticks.append(tick)
        steps.append(step)
    return ticks, steps
