"""The web server of the console: the page, and one websocket for each browser that has it open.

It runs in a thread of its own. What goes out is taken from a :class:`~rldg_console.board.Board`; what comes in is
checked and handed to a :class:`Desk`, which must not wait.

Who may use it: on a loopback address anyone on this machine, elsewhere who knows the token. A page of somebody else
that is open in the same browser may not: the websocket is refused unless its ``Origin`` is the server itself, and
without a token the server answers to loopback names only, so that no other name can be pointed at it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from rldg_console.board import Board, Pace
from rldg_console.keyboard import Hands, Report, report
from rldg_console.messages import MAX_BYTES, SHEETS, Answer, Command, Hello, Keys, Shown, parse

MIN_TOKEN = 16  # characters
SOCKET = "/socket"
_PAGES = {
    "/": ("index.html", "text/html"),
    "/console.css": ("console.css", "text/css"),
    "/console.js": ("console.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Connection": "close",
}
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}
_MAX_VIEWERS = 16
_HELLO_S = 3.0
_ANSWER_S = 3.0
_ASKED_AT_ONCE = 4  # commands of one browser that wait for their answers
_MAX_RATE_HZ = 200  # messages of one browser; a page sends fewer than 70
_PING_S = 5.0
_START_S = 20.0
_WRONG_TOKEN, _TOO_MUCH = 4401, 1008  # close codes; the page asks for a token after the first


class Desk(Protocol):
    """Where what browsers ask for is done. Called from the server's thread; must return at once."""

    def drive(self, keys: Report) -> None:
        """The device says this now."""

    def ask(self, command: Command, answer: Callable[[bool, str], None]) -> None:
        """Do it; ``answer`` is to be called once, from any thread, with whether it was done and one line."""


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address to listen on."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def refusal(path: str, host: str, origin: str | None, demands_token: bool) -> str:
    """Why a request is not served, "" if it is.

    Args:
        path: what is asked for.
        host: its header ``Host``, with or without a port.
        origin: its header ``Origin``.
        demands_token: who knows the token may come by any name.
    """
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        name = None
    if not name or not (demands_token or name in _LOOPBACK_NAMES):
        return f"Host {host!r} is not a name of this machine's loopback address"
    if path == SOCKET and origin not in (f"http://{host}", f"https://{host}"):
        return f"Origin {origin!r} is not this console"
    return ""


class ConsoleServer:
    """Serves until :meth:`stop`.

    Args:
        board: what is shown.
        desk: where what is asked for is done.
        welcome: the first message to every browser.
        address: to listen on.
        port: of it; 0 takes a free one.
        token: what browsers must know; "" for nothing, on loopback addresses only.

    Raises:
        ValueError: the token is missing or too short.
        OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        board: Board,
        desk: Desk,
        welcome: msgspec.Struct,
        address: str = "127.0.0.1",
        port: int = 0,
        token: str = "",
    ) -> None:
        if not (token or is_loopback(address)):
            raise ValueError(f"address {address!r} can be reached from other machines: a token is demanded there")
        if token and len(token) < MIN_TOKEN:
            raise ValueError(f"the token has {len(token)} characters, must have {MIN_TOKEN} or more")
        self._board, self._desk, self._token = board, desk, token.encode()
        self._welcome = msgspec.json.encode(welcome).decode()
        self._pages = {
            path: (files("rldg_console").joinpath("page", name).read_bytes(), kind)
            for path, (name, kind) in _PAGES.items()
        }
        self._hands = Hands()
        self._wakes: dict[int, asyncio.Event] = {}
        self._connections = 0
        self._next = 1
        self._signalled = False
        self.viewers = 0  # browsers that were let in
        self.shown = dict.fromkeys(SHEETS, 0)  # how many of each sheet browsers have had on their screens
        self.port = 0
        self._started: threading.Event = threading.Event()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._run, args=(address, port), name="console", daemon=True)
        self._thread.start()
        if not self._started.wait(_START_S):
            raise OSError(f"the server did not start within {_START_S:.0f} s")
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def stop(self) -> None:
        """Close all connections and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()

    def holder(self) -> int | None:
        """Which browser holds the keys."""
        return self._hands.held(time.monotonic())

    # the thread

    def _run(self, address: str, port: int) -> None:
        with contextlib.suppress(OSError):  # told by the constructor
            asyncio.run(self._serve(address, port))

    async def _serve(self, address: str, port: int) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = await serve(
                self._converse,
                address,
                port,
                process_request=self._answer_request,
                compression=None,
                max_size=MAX_BYTES,
                max_queue=16,
                ping_interval=_PING_S,
                ping_timeout=_PING_S,
                open_timeout=_HELLO_S,
                close_timeout=1.0,
                server_header=None,
            )
        except OSError as error:
            self._failure = error
            self._started.set()
            raise
        async with server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            self._board.changed = self._signal
            self._started.set()
            await self._end.wait()
            self._board.changed = lambda: None

    def _signal(self) -> None:
        """From any thread: the board has something new."""
        if not self._signalled:
            self._signalled = True
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._wake_all)

    def _wake_all(self) -> None:
        self._signalled = False
        for wake in self._wakes.values():
            wake.set()

    def _answer_request(self, _connection: ServerConnection, request: Request) -> Response | None:
        hosts, origins = request.headers.get_all("Host"), request.headers.get_all("Origin")
        path = request.path.partition("?")[0]
        if request.method != "GET":
            return _respond(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET")
        why = refusal(path, ",".join(hosts), ",".join(origins) or None, bool(self._token))
        if why:
            return _respond(HTTPStatus.FORBIDDEN, why.encode(), "text/plain")
        if path == SOCKET:
            return None if self._connections < _MAX_VIEWERS else _respond(HTTPStatus.SERVICE_UNAVAILABLE, b"too many")
        if path not in self._pages:
            return _respond(HTTPStatus.NOT_FOUND, b"there is nothing here")
        return _respond(HTTPStatus.OK, *self._pages[path])

    async def _converse(self, socket: ServerConnection) -> None:
        self._connections += 1
        try:
            if not await self._is_let_in(socket):
                await asyncio.sleep(1.0)  # whoever guesses, guesses slowly
                await socket.close(_WRONG_TOKEN, "the token is missing or wrong")
                return
            await self._serve_viewer(socket)
        except ConnectionClosed:
            pass
        finally:
            self._connections -= 1

    async def _is_let_in(self, socket: ServerConnection) -> bool:
        try:
            hello = parse(await asyncio.wait_for(socket.recv(), _HELLO_S))
        except (ValueError, TimeoutError):
            return False
        return isinstance(hello, Hello) and hmac.compare_digest(hello.token.encode(), self._token)

    async def _serve_viewer(self, socket: ServerConnection) -> None:
        viewer, self._next = self._next, self._next + 1
        wake = self._wakes[viewer] = asyncio.Event()
        self.viewers += 1
        pace, tasks = Pace(), set[asyncio.Task[None]]()
        try:
            await socket.send(self._welcome)
            async with asyncio.TaskGroup() as group:
                feeding = group.create_task(self._feed(socket, pace, wake))
                await self._hear(socket, viewer, pace, wake, tasks)
                feeding.cancel()
        except* ConnectionClosed:
            pass
        finally:
            self.viewers -= 1
            del self._wakes[viewer]
            for task in tasks:
                task.cancel()

    async def _feed(self, socket: ServerConnection, pace: Pace, wake: asyncio.Event) -> None:
        while True:
            wake.clear()
            for message in pace.take(self._board, time.monotonic()):
                await socket.send(message)
            await wake.wait()

    async def _hear(
        self, socket: ServerConnection, viewer: int, pace: Pace, wake: asyncio.Event, tasks: set[asyncio.Task[None]]
    ) -> None:
        began_s, heard = time.monotonic(), 0
        async for said in socket:
            now_s = time.monotonic()
            began_s, heard = (began_s, heard + 1) if now_s - began_s < 1.0 else (now_s, 1)
            try:
                if heard > _MAX_RATE_HZ:
                    raise ValueError(f"more than {_MAX_RATE_HZ} messages in a second")
                request = parse(said)
                if isinstance(request, Hello):
                    raise ValueError("hello was said already")
            except ValueError as error:
                await socket.close(_TOO_MUCH, str(error)[:100])
                return
            if isinstance(request, Shown):
                self.shown[request.sheet] += pace.on_shown(request.sheet, request.number)
                wake.set()
            elif isinstance(request, Keys):
                if self._hands.take(viewer, bool(request.motions), now_s):
                    self._desk.drive(report(request.motions, request.speed))
            elif len(tasks) >= _ASKED_AT_ONCE:
                await self._say(socket, Answer(id=request.id, done=False, message="too much is asked for at once"))
            else:
                task = asyncio.create_task(self._do(socket, request))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    async def _do(self, socket: ServerConnection, command: Command) -> None:
        done: asyncio.Future[tuple[bool, str]] = self._loop.create_future()

        def settle(success: bool, message: str) -> None:
            if not done.done():
                done.set_result((success, message))

        def answer(success: bool, message: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(settle, success, message)

        self._desk.ask(command, answer)
        try:
            success, message = await asyncio.wait_for(done, _ANSWER_S)
        except TimeoutError:
            success, message = False, f"no answer within {_ANSWER_S:.0f} s"
        await self._say(socket, Answer(id=command.id, done=success, message=message))

    async def _say(self, socket: ServerConnection, answer: Answer) -> None:
        with contextlib.suppress(ConnectionClosed):
            await socket.send(msgspec.json.encode(answer).decode())


def _respond(status: HTTPStatus, body: bytes, kind: str = "text/plain") -> Response:
    headers = Headers(_HEADERS)
    headers["Content-Type"] = f"{kind}; charset=utf-8"
    headers["Content-Length"] = str(len(body))
    return Response(status.value, status.phrase, headers, body)
