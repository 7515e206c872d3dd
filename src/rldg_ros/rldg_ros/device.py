"""What every device of an operator publishes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy.typing as npt
from geometry_msgs.msg import TwistStamped
from sensor_msgs.msg import Joy

from rldg_core.teleop import base_axes
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.base import BaseNode


class DeviceTopics:
    """``spacenav/twist_stamped`` and ``spacenav/joy``, in base axes as the robot file says how the device stands."""

    def __init__(self, node: BaseNode) -> None:
        self._node = node
        self._twist = node.create_publisher(TwistStamped, "spacenav/twist_stamped", qos.reliable(10))
        self._joy = node.create_publisher(Joy, "spacenav/joy", qos.reliable(10))

    def publish(self, deflection: npt.ArrayLike, pressed: Sequence[bool]) -> None:
        """One state of the device: shape (6,), forward, left, up and about these; close and open.

        Raises:
            ValueError: a deflection is not finite.
        """
        robot = self._node.robot
        axes = base_axes(deflection, robot.operator)
        header = convert.header(self._node.now_ns(), robot.base_frame)
        self._twist.publish(TwistStamped(header=header, twist=convert.twist_to_msg(axes)))
        self._joy.publish(Joy(header=header, axes=axes.tolist(), buttons=[int(button) for button in pressed]))
