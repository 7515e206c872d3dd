"""The MuJoCo cell: scenes of every task, the simulated arm, camera and gripper, and the scripted operator."""

import os
import sys

if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")  # read once, when mujoco is first imported: draw without a display
    # Mesa's software renderer draws in the calling thread: its worker threads gain nothing at these image sizes and
    # wait for each other wherever other processes are busy (a third slower).
    os.environ.setdefault("LP_NUM_THREADS", "0")
