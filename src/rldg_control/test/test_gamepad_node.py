"""The gamepad node answers each report of the pad on the operator's topics."""

from __future__ import annotations

from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import Joy

from rldg_control.gamepad_node import GamepadNode
from rldg_ros import qos
from rldg_ros.testing import Bench, overrides


def test_sticks_and_buttons_come_out_in_the_frame_of_the_base() -> None:
    with Bench("gamepad") as bench:
        twists: list[TwistStamped] = []
        joys: list[Joy] = []
        pad = Node("pad", context=bench.context)
        joy = pad.create_publisher(Joy, "joy", qos.reliable(10))
        pad.create_subscription(TwistStamped, "spacenav/twist_stamped", twists.append, qos.reliable(10))
        pad.create_subscription(Joy, "spacenav/joy", joys.append, qos.reliable(10))
        pad.create_timer(0.03, lambda: joy.publish(Joy(axes=[0.25, 0.5, 0.0, 0.0, 1.0, 0.0], buttons=[1, 0, 0, 0, 1])))
        node = GamepadNode(context=bench.context, parameter_overrides=overrides(task="usb_insertion"))
        bench.add(pad)
        bench.add(node)
        assert bench.spin(lambda: twists and joys)
    linear = twists[-1].twist.linear
    assert (linear.x, linear.y, linear.z) == (0.5, 0.25, 1.0)
    assert twists[-1].header.frame_id == node.robot.base_frame
    assert list(joys[-1].buttons) == [1, 0]
