"""Episodes of the scripted operator in one process."""

from __future__ import annotations

from rldg_core.teleop import Teleop
from rldg_core.types import Phase, Step
from rldg_sim.loop import Loop, Tick
from rldg_sim.operator import ScriptedOperator, Style


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
    operator, device = ScriptedOperator(loop.task, seed, style=style), Teleop()
    ticks, steps = [tick], []
    while tick.status.phase is Phase.RUNNING:
        seen = tick.observation
        command = operator.act(
            tcp_pose=seen.tcp_pose,
            fixture_pose=tick.truth.fixture_pose,
            object_pose=tick.truth.object_pose,
            gripper_width_m=seen.gripper_width_m,
            wrench=seen.wrench,
        )
        device.update(seen.stamp_ns, command.twist, [int(command.close), int(command.open)])
        step, tick = loop.step(None, device.command(seen.stamp_ns, seen.tcp_pose, seen.gripper_closed))
        ticks.append(tick)
        steps.append(step)
    return ticks, steps
