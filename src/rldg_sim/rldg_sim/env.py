"""The cell as a gymnasium environment: the same physics, door and judge as the ROS graph, in one process.

Importing this module registers one environment per task file: after it, or with ``rldg_sim.env:`` in front of the name,
``gymnasium.make("rldg/UsbInsertion-v0")`` works.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from rldg_core.observation import proprioception
from rldg_core.task import GripperUse, Task, TaskError, load_task, task_names
from rldg_core.types import Action, Outcome, Phase
from rldg_sim.cell import Cell
from rldg_sim.loop import Loop, Tick

STATE_SIZE = 19
SCENE_IMAGE_PX = 256


class RldgEnv(gymnasium.Env[dict[str, npt.NDArray[Any]], npt.NDArray[np.float32]]):
    """One task of ``config/tasks``.

    Observations: ``image``, the wrist camera, shape (image_size_px, image_size_px, 3), uint8, RGB (left out where
    ``with_images`` is false); ``state``, shape (19,), float32: :func:`rldg_core.observation.proprioception`.

    Actions: shape (6,), or (7,) where the task uses the gripper, float32 in [-1, 1]: translation and rotation of the
    tool in its own frame, scaled by ``control.*_scale_*`` of the task, then the held gripper state (closed where > 0).
    The door decides what is done: workspace, speed and force limits hold here as on the robot, and an action that is
    not finite holds the arm. ``info["executed_action"]`` is what was done.

    Reward 1 and termination on success, truncation at the time limit, nothing else.

    Args:
        task: name or path of a task file, or the task.
        image_size_px: side of the image.
        scene: name of the scene, "" for the task's first; ``reset(options={"scene": ...})`` overrides it for one
        episode.
        with_images: render the wrist camera.
        render_mode: None, or ``rgb_array`` for the camera that looks at the scene.

    Raises:
        TaskError: the task file is missing or wrong, or has no such scene.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  as gymnasium declares it

    def __init__(
        self,
        task: str | Task,
        *,
        image_size_px: int = 128,
        scene: str = "",
        with_images: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode: is {render_mode!r}, must be None or 'rgb_array'")
        self.task = load_task(task) if isinstance(task, str) else task
        self.task.scene(scene)
        self.render_mode = render_mode
        self._scene = scene
        self._with_images = with_images
        self._cell = Cell(self.task, image_size_px=image_size_px)
        self._loop = Loop(self.task, self._cell, with_images=with_images)
        self._has_gripper = self.task.control.gripper is GripperUse.BINARY
        spaces: dict[str, gymnasium.Space[Any]] = {
            "state": gymnasium.spaces.Box(-np.inf, np.inf, (STATE_SIZE,), np.float32)
        }
        if with_images:
            shape = (image_size_px, image_size_px, 3)
            spaces["image"] = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self.observation_space: gymnasium.Space[Any] = gymnasium.spaces.Dict(spaces)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (7 if self._has_gripper else 6,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: start the sequence of episodes anew; each episode draws its own seed from it, told in
            ``info["seed"]``.
            options: ``scene``: name of a scene; ``seed``: the seed of just this episode.

        Raises:
            TaskError: no such scene.
            ValueError: an unknown option.
        """
        super().reset(seed=seed)
        options = options or {}
        unknown = set(options) - {"scene", "seed"}
        if unknown:
            raise ValueError(f"options: {', '.join(sorted(unknown))} not known; allowed: scene, seed")
        episode_seed = int(options.get("seed", self.np_random.integers(2**31)))
        tick = self._loop.reset(options.get("scene", self._scene), episode_seed)
        status = tick.status
        return self._observation(tick), {
            "seed": episode_seed,
            "scene": status.scene,
            "instruction": status.instruction,
        }

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[dict[str, npt.NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """One control period.

        Raises:
            ValueError: the action has the wrong shape.
            RuntimeError: no episode is running.
        """
        wanted = np.asarray(action, dtype=np.float64)
        if wanted.shape != self.action_space.shape:
            raise ValueError(f"action: has shape {wanted.shape}, must be {self.action_space.shape}")
        closed = bool(wanted[6] > 0.0) if self._has_gripper else True
        step, tick = self._loop.step(Action(wanted[:6], closed))
        status = tick.status
        ended = status.phase is Phase.ENDED
        truncated = ended and status.outcome in (Outcome.TIMEOUT, Outcome.ABORTED)
        executed = step.executed.delta
        if self._has_gripper:
            executed = np.append(executed, 1.0 if step.executed.gripper_closed else -1.0)
        info = {
            "outcome": status.outcome.value,
            "is_success": status.outcome is Outcome.SUCCESS,
            "reason": status.reason or step.reason,
            "executed_action": executed.astype(np.float32),
        }
        return self._observation(tick), float(status.reward), ended and not truncated, truncated, info

    def render(self) -> npt.NDArray[np.uint8] | None:
        """The scene for people, shape (256, 256, 3), RGB; None without a render mode."""
        return self._cell.image("scene", SCENE_IMAGE_PX) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        self._cell.close()

    def _observation(self, tick: Tick) -> dict[str, npt.NDArray[Any]]:
        observation: dict[str, npt.NDArray[Any]] = {"state": proprioception(tick.observation)}
        if self._with_images:
            observation["image"] = tick.observation.image
        return observation


def environment_id(task_name: str) -> str:
    """``usb_insertion`` is ``rldg/UsbInsertion-v0``."""
    return f"rldg/{''.join(part.capitalize() for part in task_name.split('_'))}-v0"


def register_envs() -> None:
    """Enter every task of this installation into gymnasium's registry; none where no task files are found."""
    try:
        names = task_names()
    except TaskError:
        return
    for name in names:
        if environment_id(name) not in gymnasium.registry:
            gymnasium.register(environment_id(name), entry_point="rldg_sim.env:RldgEnv", kwargs={"task": name})


register_envs()
