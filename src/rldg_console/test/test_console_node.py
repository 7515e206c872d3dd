"""The console's node: what it hears and when, whom it asks, and when it does not come up."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from fake_desk import tell
from geometry_msgs.msg import TwistStamped
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rldg_interfaces.srv import LabelEpisode, SelectPolicy
from sensor_msgs.msg import Image, Joy
from std_msgs.msg import String
from std_srvs.srv import SetBool
from websockets.sync.client import ClientConnection, connect

from rldg_console.console_node import TOKEN, ConsoleNode
from rldg_core.events import Event, EventKind
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.testing import Bench, overrides


class Setup:
    """The node, and a probe that plays the cell."""

    def __init__(self, bench: Bench, **parameters: object) -> None:
        self.bench = bench
        self.node = ConsoleNode(
            context=bench.context, parameter_overrides=overrides(**{"task": "usb_insertion", "port": 0, **parameters})
        )
        self.probe = Node("probe", context=bench.context)
        bench.add(self.probe)
        bench.add(self.node)

    @contextmanager
    def join(self, token: str = "") -> Iterator[ClientConnection]:
        host = f"127.0.0.1:{self.node._server.port}"
        with connect(f"ws://{host}/socket", origin=f"http://{host}", proxy=None) as socket:
            tell(socket, type="hello", token=token)
            assert json.loads(socket.recv(timeout=10))["type"] == "welcome"
            yield socket

    def hear(self, socket: ClientConnection, kind: str) -> Any:
        """The next message of a type, or the next picture, while the nodes spin."""
        heard: list[Any] = []

        def look() -> bool:
            with contextlib.suppress(TimeoutError):
                said = socket.recv(timeout=0.01)
                message = {"type": "picture", "value": said} if isinstance(said, bytes) else json.loads(said)
                if "number" in message:
                    tell(socket, type="shown", sheet=message["type"], number=message["number"])
                if message["type"] == kind:
                    heard.append(message)
            return bool(heard)

        assert self.bench.spin(look, 10.0), kind
        return heard[0]


@pytest.fixture
def setup(request: pytest.FixtureRequest) -> Iterator[Setup]:
    with Bench(request.node.name) as bench:
        yield Setup(bench)


def test_the_cameras_are_heard_only_while_somebody_looks(setup: Setup) -> None:
    scene = setup.probe.create_publisher(Image, "scene/color/image_raw", qos.reliable())
    setup.bench.spin_for(0.5)
    assert scene.get_subscription_count() == 0
    with setup.join() as socket:
        assert setup.bench.spin(lambda: scene.get_subscription_count() == 1)
        scene.publish(convert.image_to_msg(np.full((16, 16, 3), 90, np.uint8), 1, "camera"))
        assert setup.hear(socket, "picture")["value"][0] == 0
    assert setup.bench.spin(lambda: scene.get_subscription_count() == 0)


def test_a_command_goes_to_the_service_that_everyone_uses(setup: Setup) -> None:
    asked: list[object] = []

    def serve(request: Any, response: Any) -> Any:
        asked.append(request)
        response.success, response.message = not isinstance(request, SelectPolicy.Request), "so be it"
        return response

    services = {"arbiter/estop": SetBool, "episode_manager/label": LabelEpisode, "arbiter/select_policy": SelectPolicy}
    for name, kind in services.items():
        setup.probe.create_service(kind, name, serve)
    with setup.join() as socket:
        assert setup.bench.spin(lambda: setup.node._estop.service_is_ready() and setup.node._select.service_is_ready())
        tell(socket, type="estop", id=1, latched=True)
        assert setup.hear(socket, "answer") == {"type": "answer", "id": 1, "done": True, "message": "so be it"}
        tell(socket, type="label", id=2, label="failure")
        assert setup.hear(socket, "answer")["done"]
        tell(socket, type="swap", id=3, policy_id="octo")
        assert setup.hear(socket, "answer") == {"type": "answer", "id": 3, "done": False, "message": "so be it"}
    assert [type(request) for request in asked] == [SetBool.Request, LabelEpisode.Request, SelectPolicy.Request]
    assert (
        asked[0].data and (asked[1].label, asked[1].labeller) == ("failure", "console") and asked[2].policy_id == "octo"
    )


@pytest.mark.parametrize(
    "command",
    [
        {"type": "estop", "latched": True},
        {"type": "label", "label": "success"},
        {"type": "swap", "policy_id": ""},
        {"type": "recover"},
        {"type": "stop"},
        {"type": "start", "count": 1, "seed": 0},
    ],
)
def test_without_a_cell_every_command_is_answered_with_what_is_missing(setup: Setup, command: dict[str, Any]) -> None:
    with setup.join() as socket:
        tell(socket, id=1, **command)
        answer = setup.hear(socket, "answer")
        assert not answer["done"] and answer["message"].endswith("is the cell up?")


def test_keys_are_published_as_those_of_a_device(setup: Setup) -> None:
    twists: list[TwistStamped] = []
    joys: list[Joy] = []
    setup.probe.create_subscription(TwistStamped, "console/twist_stamped", twists.append, qos.reliable(10))
    setup.probe.create_subscription(Joy, "console/joy", joys.append, qos.reliable(10))
    with setup.join() as socket:
        assert setup.bench.spin(
            lambda: setup.node._twist.get_subscription_count() and setup.node._joy.get_subscription_count()
        )
        tell(socket, type="keys", motions=["left", "open"], speed=0.25)
        assert setup.bench.spin(lambda: twists and joys)
    assert (twists[0].twist.linear.y, list(joys[0].buttons)) == (0.25, [0, 1])
    assert twists[0].header.frame_id == setup.node.robot.base_frame


def test_an_event_of_the_cell_is_shown_and_nonsense_is_reported(setup: Setup) -> None:
    events = setup.probe.create_publisher(String, "event", qos.latched(20))
    with setup.join() as socket:
        events.publish(String(data="{kind: party, stamp_ns: 1}"))
        events.publish(String(data=Event(stamp_ns=1, kind=EventKind.FORCE_GUARD, reason="52 N").yaml()))
        while not (entries := setup.hear(socket, "events")["value"]):
            pass  # that sheet was written before the event came
    (entry,) = entries
    assert (entry["level"], entry["text"]) == ("bad", "force guard: 52 N")
    assert "topic event" in setup.node._checks


def refuses(bench: Bench, **parameters: object) -> str:
    node = ConsoleNode(context=bench.context, parameter_overrides=overrides(task="usb_insertion", **parameters))
    bench.add(node, activate=False)
    assert node.trigger_configure() is TransitionCallbackReturn.FAILURE
    return node._checks["lifecycle"][1]


def test_a_port_that_is_taken_is_named_with_what_to_do(setup: Setup) -> None:
    port = setup.node._server.port
    assert f"{port} of 127.0.0.1" in refuses(setup.bench, port=port) and setup.node._server.port == port


def test_the_network_is_not_served_without_a_token(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    with Bench(request.node.name) as bench:
        assert f"set it in ${TOKEN}" in refuses(bench, port=0, address="0.0.0.0")


def test_with_a_token_in_the_environment_it_is_demanded(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, "a token of twenty characters")
    with Bench(request.node.name) as bench:
        setup = Setup(bench)
        with setup.join("a token of twenty characters"):
            assert setup.node._server.viewers == 1


def test_cleaning_up_closes_the_page_and_configuring_opens_it_again(setup: Setup) -> None:
    setup.node.trigger_deactivate()
    setup.node.trigger_cleanup()
    assert setup.node._server is None
    setup.node.trigger_configure()
    setup.node.trigger_activate()
    with setup.join():
        pass
