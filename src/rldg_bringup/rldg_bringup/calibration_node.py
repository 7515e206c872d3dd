"""Listens to the arm and, if asked, to the wrist camera, and takes readings of them."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType

import numpy as np
import numpy.typing as npt
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from rldg_bringup.readings import Camera, at_rest
from rldg_core.calibration import CalibrationError
from rldg_core.frames import Pose
from rldg_ros import qos
from rldg_ros.conversions import image_from_msg, pose_from_msg
from rldg_ros.main import make_executor

_IMAGE_MAX_AGE_S = 0.5
_SPIN_S = 0.02


class ReadingTaker:
    """Takes readings from a running cell. Use as a context manager.

    Args:
        domain_id: ROS domain of the cell; that of the environment where None.
        with_camera: also images.
    """

    def __init__(self, domain_id: int | None = None, *, with_camera: bool = False) -> None:
        self._with_camera = with_camera
        self._poses: deque[tuple[float, Pose]] = deque(maxlen=2000)
        self._image: tuple[float, Image] | None = None
        self.camera: Camera | None = None
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self._node = Node("calibration", context=self._context)
        self._executor = make_executor(self._context)
        self._executor.add_node(self._node)
        self._node.create_subscription(PoseStamped, "current_pose", self._on_pose, qos.sensor())
        if with_camera:
            self._node.create_subscription(Image, "wrist/color/image_raw", self._on_image, qos.sensor())
            self._node.create_subscription(CameraInfo, "wrist/color/camera_info", self._on_info, qos.sensor())

    def __enter__(self) -> ReadingTaker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def take(self, timeout_s: float = 5.0) -> tuple[Pose, npt.NDArray[np.uint8] | None]:
        """The pose at which the arm rests, and what the camera sees there.

        Raises:
            CalibrationError: the arm does not rest or is not heard, or the camera is not; within ``timeout_s``.
        """
        self._poses.clear()  # what came while nobody asked says nothing about now
        self._image = None
        end_s = time.monotonic() + timeout_s
        why = "no pose"
        while time.monotonic() < end_s:
            self._executor.spin_once(_SPIN_S)
            now_s = time.monotonic()
            pose = at_rest(list(self._poses), now_s)
            if isinstance(pose, str):
                why = pose
                continue
            if not self._with_camera:
                return pose, None
            if self.camera is None:
                why = "no wrist/color/camera_info: is the camera's node up?"
            elif self._image is None or now_s - self._image[0] > _IMAGE_MAX_AGE_S:
                why = "no wrist/color/image_raw: is the camera's node up?"
            else:
                return pose, image_from_msg(self._image[1])
        raise CalibrationError(why)

    def _on_pose(self, message: PoseStamped) -> None:
        try:
            self._poses.append((time.monotonic(), pose_from_msg(message.pose)))
        except ValueError as error:
            self._node.get_logger().warning(f"current_pose: {error}", throttle_duration_sec=5.0)

    def _on_image(self, message: Image) -> None:
        self._image = (time.monotonic(), message)

    def _on_info(self, message: CameraInfo) -> None:
        matrix, distortion = (tuple(float(value) for value in values) for values in (message.k, message.d))
        self.camera = Camera(int(message.width), int(message.height), matrix, distortion)
