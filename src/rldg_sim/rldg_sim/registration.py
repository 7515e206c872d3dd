"""Names of the environments in gymnasium's registry."""

from __future__ import annotations

from rldg_core.task import TaskError, task_names


def environment_id(task_name: str) -> str:
    """``usb_insertion`` is ``rldg/UsbInsertion-v0``."""
    return f"rldg/{''.join(part.capitalize() for part in task_name.split('_'))}-v0"


def register_envs() -> None:
    """Register every task of this installation; called by gymnasium through the entry point ``gymnasium.envs``.

    Registers nothing where no task files are installed. May be called again.
    """
    import gymnasium

    try:
        names = task_names()
    except TaskError:
        return
    for name in names:
        if environment_id(name) not in gymnasium.registry:
            gymnasium.register(environment_id(name), entry_point="rldg_sim.env:RldgEnv", kwargs={"task": name})
