"""Pictures of a compiled scene, drawn off screen."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from rldg_sim.arm import GROUP_ARM, GROUP_SEEN
from rldg_sim.scene import MAX_RENDER_PX


class RenderingError(RuntimeError):
    """No OpenGL context can be had on this machine."""


class Painter:
    """One OpenGL context for one model; draws square images of any size up to 1024 pixels from any of its cameras.

    Raises:
        RenderingError: OpenGL is missing or unusable; the message names the packages to install.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        try:
            self._gl: Any = mujoco.GLContext(MAX_RENDER_PX, MAX_RENDER_PX)
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        except Exception as error:  # every GL library has its own exceptions
            raise RenderingError(
                f"rendering: no OpenGL context ({' '.join(str(error).split())}); on Debian or Ubuntu install "
                "libegl1 and libgl1-mesa-dri, or libosmesa6 and set MUJOCO_GL=osmesa"
            ) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        self._perturbation = mujoco.MjvPerturb()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._option = mujoco.MjvOption()
        self._option.sitegroup[:] = 0

    def draw(self, data: mujoco.MjData, camera: str, size_px: int, with_arm: bool) -> npt.NDArray[np.uint8]:
        """An image, shape (size_px, size_px, 3), RGB, first row at the top.

        Args:
            data: state with its kinematics, cameras and lights computed.
            camera: name of a camera of the model.
            size_px: side, at most 1024.
            with_arm: draw the arm's shells too; they are most of the cost and a wrist camera does not see them.
        """
        self._gl.make_current()
        self._camera.fixedcamid = self._model.camera(camera).id
        self._option.geomgroup[:] = 0
        self._option.geomgroup[GROUP_SEEN] = 1
        self._option.geomgroup[GROUP_ARM] = with_arm
        mujoco.mjv_updateScene(
            self._model,
            data,
            self._option,
            self._perturbation,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL.value,
            self._scene,
        )
        rectangle = mujoco.MjrRect(0, 0, size_px, size_px)
        mujoco.mjr_render(rectangle, self._scene, self._context)
        image = np.empty((size_px, size_px, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(image, None, rectangle, self._context)
        return image[::-1].copy()

    def close(self) -> None:
        self._gl.make_current()  # another painter's may be, whose objects would be freed
        self._context.free()
        self._gl.free()
