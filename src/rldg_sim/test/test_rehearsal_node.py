"""The node of the rehearsal shows what stands around the robot that it serves, and resets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rldg_interfaces.srv import ResetScene
from sensor_msgs.msg import CameraInfo, Image

from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.testing import Bench, overrides
from rldg_sim.rehearsal_node import RehearsalNode

franky = pytest.importorskip("franky", reason="no franky: ./rldg test installs it (setup/rig.lock)")
pytest.importorskip("franka_sim", reason="no franka_sim: ./rldg test installs it (setup/rig.lock)")

ADDRESS = "127.0.0.5"


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with Bench(request.node.name) as made:
        yield made


@pytest.fixture
def make(bench: Bench) -> Callable[..., RehearsalNode]:
    def make(**parameters: object) -> RehearsalNode:
        values = {"task": "pick_and_place", "address": ADDRESS} | parameters
        return RehearsalNode(context=bench.context, parameter_overrides=overrides(**values))

    return make


def ask(bench: Bench, client: Node, **request: object) -> ResetScene.Response:
    service = client.create_client(ResetScene, "reset_scene")
    assert bench.spin(service.service_is_ready)
    future = service.call_async(ResetScene.Request(**request))
    assert bench.spin(future.done)
    return future.result()


def test_images_and_truth_are_shown_beside_a_connected_client(bench: Bench, make: Callable[..., RehearsalNode]) -> None:
    node, client = make(), Node("client", context=bench.context)
    seen: dict[str, list[object]] = {}
    for kind, topic in (
        (Image, "wrist/color/image_raw"),
        (CameraInfo, "wrist/color/camera_info"),
        (Image, "scene/color/image_raw"),
        (PoseStamped, "fixture_pose"),
        (PoseStamped, "object_pose"),
    ):
        client.create_subscription(kind, topic, seen.setdefault(topic, []).append, qos.reliable(10))
    bench.add(client)
    bench.add(node)
    robot = franky.Robot(ADDRESS, realtime_config=franky.RealtimeConfig.Ignore)
    assert bench.spin(lambda: all(len(messages) > 2 for messages in seen.values()))
    image = np.array(convert.IMAGE.from_msg(seen["wrist/color/image_raw"][-1]).value)
    assert image.std() > 5.0
    assert not client.get_publishers_info_by_topic("current_pose")
    assert robot.state.robot_mode == franky.RobotMode.Idle


def test_a_reset_moves_the_scene_and_says_where_the_episode_starts(
    bench: Bench, make: Callable[..., RehearsalNode]
) -> None:
    node, client = make(), Node("client", context=bench.context)
    things: list[PoseStamped] = []
    client.create_subscription(PoseStamped, "object_pose", things.append, qos.reliable(10))
    bench.add(client)
    bench.add(node)
    assert bench.spin(lambda: things)
    before = things[-1].pose.position
    answer = ask(bench, client, scene="", seed=9, move_arm=False)
    assert answer.success
    assert answer.start_pose.position.z > 0.1
    things.clear()
    assert bench.spin(lambda: things)
    assert things[-1].pose.position != before


def test_a_reset_that_cannot_be_is_refused_with_a_reason(bench: Bench, make: Callable[..., RehearsalNode]) -> None:
    client = Node("client", context=bench.context)
    bench.add(client)
    bench.add(make())
    assert "only the driver moves this arm" in ask(bench, client, move_arm=True).message
    assert "no scene 'moon'" in ask(bench, client, scene="moon").message


@pytest.mark.parametrize(
    "parameters",
    [{"address": "192.168.0.1"}, {"address": "localhost"}, {"lockstep": True}, {"scene": "moon"}],
    ids=lambda parameters: next(iter(parameters)),
)
def test_wrong_parameters_are_refused(bench: Bench, make: Callable[..., RehearsalNode], parameters: dict) -> None:
    node = make(**parameters)
    bench.add(node, activate=False)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE


def test_a_node_whose_physics_stopped_ends(bench: Bench, make: Callable[..., RehearsalNode]) -> None:
    node = make()
    bench.add(node)
    node._server.arm.failure = "RuntimeError: the physics diverged"
    with pytest.raises(RuntimeError, match="the physics diverged"):
        node.on_pulse()
    node._server.arm.failure = ""
