"""The MuJoCo cell: scenes of every task, the simulated arm, camera and gripper, and the scripted operator."""

import os
import sys

if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")  # read once, when mujoco is first imported: draw without a display
