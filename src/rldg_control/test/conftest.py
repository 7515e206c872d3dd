"""Makes the support modules of this folder importable, whatever pytest's import mode."""

import sys
from pathlib import Path

import rclpy  # noqa: F401  before pyrealsense2: with the two the other way round, the process ends with a fault

sys.path.insert(0, str(Path(__file__).parent))
