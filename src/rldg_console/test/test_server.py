"""Who is let in, what is served, and what becomes of what browsers say."""

import contextlib
import http.client
import socket as sockets
import time

import numpy as np
import pytest
from fake_desk import Console, hear, tell
from websockets.exceptions import ConnectionClosed, InvalidStatus

from rldg_console.board import IN_FLIGHT
from rldg_console.messages import Estop, Label
from rldg_console.server import MIN_TOKEN, ConsoleServer, is_loopback, refusal

TOKEN = "correct horse battery staple"


def get(console: Console, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", console.server.port, timeout=10)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


@pytest.fixture
def console():
    with Console() as console:
        yield console


@pytest.mark.parametrize("path", ["/", "/console.js", "/console.css", "/icon.svg"])
def test_the_page_is_served_and_may_load_nothing_from_elsewhere(console: Console, path: str) -> None:
    answer = get(console, path)
    assert answer.status == 200 and len(answer.read()) > 100
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/../state.py", "/%2e%2e/state.py", "/console_node.py", "//etc/passwd", "/socket/x", "/?/.."]
)
def test_nothing_else_is_served(console: Console, path: str) -> None:
    assert get(console, path).status == (200 if path == "/?/.." else 404)


def test_another_name_that_points_at_the_console_is_refused(console: Console) -> None:
    assert get(console, "/", Host="evil.example").status == 403
    assert get(console, "/", Host="127.0.0.1.evil.example:80").status == 403
    assert get(console, "/", Host="localhost:9000").status == 200  # through a tunnel


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null", None])
def test_a_page_of_somebody_else_cannot_open_the_socket(console: Console, origin: str | None) -> None:
    with pytest.raises(InvalidStatus) as refused, console.open(origin=origin):
        pass
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    ("path", "host", "origin", "token", "served"),
    [
        ("/", "localhost", None, False, True),
        ("/", "[::1]:8088", None, False, True),
        ("/", "192.168.1.5:8088", None, False, False),
        ("/", "192.168.1.5:8088", None, True, True),
        ("/", "", None, True, False),
        ("/", "[", None, True, False),
        ("/socket", "rig:8088", "http://rig:8088", True, True),
        ("/socket", "rig", "https://rig", True, True),
        ("/socket", "rig:8088", "http://rig", True, False),
        ("/socket", "rig:8088", "http://evil,http://rig:8088", True, False),
    ],
)
def test_requests_are_judged_by_host_and_origin(
    path: str, host: str, origin: str | None, token: bool, served: bool
) -> None:
    assert (refusal(path, host, origin, token) == "") is served


def test_beyond_this_machine_a_token_is_demanded() -> None:
    for address in ("0.0.0.0", "::", "192.168.1.5", "rig.local"):
        assert not is_loopback(address)
    with pytest.raises(ValueError, match="token is demanded"):
        Console(address="0.0.0.0")
    with pytest.raises(ValueError, match=f"must have {MIN_TOKEN}"):
        Console(token="short")


def test_with_a_token_only_those_who_know_it_are_let_in() -> None:
    with Console(token=TOKEN) as console:
        for wrong in ("", "Correct horse battery staple", TOKEN + "x"):
            with console.open() as socket:
                tell(socket, type="hello", token=wrong)
                with pytest.raises(ConnectionClosed) as closed:
                    socket.recv(timeout=10)
                assert closed.value.rcvd.code == 4401
        with console.join(TOKEN):
            assert console.server.viewers == 1


def test_nothing_is_done_before_hello(console: Console) -> None:
    with console.open() as socket:
        tell(socket, type="estop", id=1, latched=False)
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)
    assert console.asked == []


def test_a_command_is_done_and_answered(console: Console) -> None:
    with console.join() as socket:
        tell(socket, type="estop", id=7, latched=True)
        assert hear(socket) == {"type": "answer", "id": 7, "done": True, "message": "as you wish"}
        tell(socket, type="label", id=8, label="success")
        hear(socket)
    assert console.asked == [Estop(id=7, latched=True), Label(id=8, label="success")]
    assert console.threads == {"console"}


def test_a_cell_that_does_not_answer_is_told_to_whoever_asked() -> None:
    with Console(answers=False) as console, console.join() as socket:
        for number in range(5):
            tell(socket, type="stop", id=number)
        assert hear(socket) == {"type": "answer", "id": 4, "done": False, "message": "too much is asked for at once"}
        assert "no answer within" in hear(socket)["message"]


@pytest.mark.parametrize(
    "said", ["nonsense", '{"type": "hello"}', b"\x00\xff", '{"type": "keys", "motions": ["sideways"]}']
)
def test_whoever_talks_nonsense_is_cut_off_and_others_are_not(console: Console, said: str | bytes) -> None:
    with console.join() as good, console.join() as bad:
        bad.send(said)
        with pytest.raises(ConnectionClosed) as closed:
            bad.recv(timeout=10)
        assert closed.value.rcvd.code == 1008
        tell(good, type="stop", id=1)
        assert hear(good)["done"]


def test_a_message_that_is_too_large_or_a_flood_is_cut_off(console: Console) -> None:
    with console.join() as socket:
        socket.send("x" * 10_000)
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)
    with console.join() as socket, pytest.raises(ConnectionClosed):
        for _ in range(100_000):
            tell(socket, type="keys", motions=["up"])
    assert len(console.driven) <= 400


def test_raw_bytes_that_are_no_request_do_no_harm(console: Console) -> None:
    for said in (
        b"\x00" * 100,
        b"GET " + b"/" * 100_000,
        b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ):
        with (
            sockets.create_connection(("127.0.0.1", console.server.port), timeout=10) as raw,
            contextlib.suppress(OSError),
        ):
            raw.sendall(said)
            raw.settimeout(5)
            assert b"200 OK" not in raw.recv(100)
    assert get(console, "/").status == 200


def test_held_keys_become_reports_and_hands_off_does_too(console: Console) -> None:
    with console.join() as socket:
        tell(socket, type="keys", motions=["forward", "close"], speed=0.5)
        tell(socket, type="keys", motions=[])
        assert console.wait(lambda: len(console.driven) == 2)
    assert console.driven[0].twist == (0.5, 0, 0, 0, 0, 0) and console.driven[0].buttons == (1, 0)
    assert console.driven[1].twist == (0,) * 6


def test_a_browser_that_is_gone_is_not_spoken_for(console: Console) -> None:
    """The device is silent then, which is what the arbiter stops the arm for."""
    with console.join() as socket:
        tell(socket, type="keys", motions=["up"])
        assert console.wait(lambda: len(console.driven) == 1)
        socket.socket.close()
    assert console.wait(lambda: console.server.viewers == 0)
    time.sleep(0.3)
    assert len(console.driven) == 1


def test_two_browsers_do_not_drive_at_once(console: Console) -> None:
    with console.join() as first, console.join() as second:
        tell(first, type="keys", motions=["up"])
        assert console.wait(lambda: len(console.driven) == 1)
        tell(second, type="keys", motions=["down"])
        tell(second, type="stop", id=1)
        assert hear(second)["done"]
        assert len(console.driven) == 1 and console.server.holder() is not None


def test_a_browser_that_never_reads_gets_little_and_holds_up_nobody(console: Console) -> None:
    with console.join() as quick, console.join() as stuck:
        seen = 0
        for n in range(40):
            console.board.put_image("scene", np.full((32, 32, 3), n, np.uint8), float(n))
            message = quick.recv(timeout=10)
            assert isinstance(message, bytes)
            tell(quick, type="shown", sheet="scene", number=int.from_bytes(message[1:5], "big"))
            seen += 1
        assert seen == 40
        waiting = 0
        with contextlib.suppress(TimeoutError):
            while True:
                stuck.recv(timeout=0.3)
                waiting += 1
        assert waiting == IN_FLIGHT
    assert console.server.shown["scene"] >= 39


def test_a_port_that_is_taken_is_an_error_and_leaves_no_thread(console: Console) -> None:
    with pytest.raises(OSError):
        Console(port=console.server.port)
    assert get(console, "/").status == 200


def test_stopping_closes_every_connection_and_frees_the_port() -> None:
    console = Console()
    with console.join() as socket:
        console.server.stop()
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)
    with Console(port=console.server.port):
        pass


def test_no_more_than_a_few_may_look(console: Console) -> None:
    with contextlib.ExitStack() as stack:
        with pytest.raises(InvalidStatus) as refused:
            for _ in range(40):
                stack.enter_context(console.join())
        assert refused.value.response.status_code == 503
        assert 8 <= console.server.viewers <= 32


def test_the_constructor_says_where_it_listens() -> None:
    with Console() as console:
        assert isinstance(console.server, ConsoleServer) and console.server.port > 0
