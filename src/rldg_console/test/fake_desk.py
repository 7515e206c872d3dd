"""Test support: a console without a cell behind it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any

from websockets.sync.client import ClientConnection, connect

from rldg_console.board import Board
from rldg_console.keyboard import Report
from rldg_console.messages import Command, Welcome
from rldg_console.server import SOCKET, ConsoleServer

WELCOME = Welcome(
    task="usb_insertion", instruction="insert it", scenes=["bright", "dark"], grasps=True, force_limit_n=40.0
)


class Console:
    """Server, board and a desk that remembers what it was asked. Use as a context manager."""

    def __init__(self, answers: bool = True, **server: Any) -> None:
        self.board, self.asked, self.driven = Board(), list[Command](), list[Report]()
        self.threads: set[str] = set()
        self._answers = answers
        self.server = ConsoleServer(self.board, self, WELCOME, **server)
        self.host = f"127.0.0.1:{self.server.port}"

    def drive(self, keys: Report) -> None:
        self.driven.append(keys)

    def ask(self, command: Command, answer: Callable[[bool, str], None]) -> None:
        self.asked.append(command)
        self.threads.add(threading.current_thread().name)
        if self._answers:
            answer(True, "as you wish")

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.stop()

    def open(self, origin: str | None = "") -> AbstractContextManager[ClientConnection]:
        """A websocket, from a page of the console unless another origin is given."""
        origin = f"http://{self.host}" if origin == "" else origin
        uri = f"ws://{self.host}{SOCKET}"
        return connect(uri, origin=origin, proxy=None, open_timeout=10, close_timeout=2)

    @contextmanager
    def join(self, token: str = "") -> Iterator[ClientConnection]:
        """A websocket that was let in."""
        with self.open() as socket:
            tell(socket, type="hello", token=token)
            assert hear(socket)["type"] == "welcome"
            yield socket

    def wait(self, done: Callable[[], object], timeout_s: float = 10.0) -> bool:
        end_s = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > end_s:
                return False
            time.sleep(0.01)
        return True


def tell(socket: ClientConnection, **message: object) -> None:
    socket.send(json.dumps(message))


def hear(socket: ClientConnection) -> dict[str, Any]:
    return dict(json.loads(socket.recv(timeout=10)))
