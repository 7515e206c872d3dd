"""Support for tests and screenshots: a headless Chromium, told what to do over the DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.sync.client import connect

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_START_S, _ANSWER_S = 60.0, 60.0


class Browser:
    """One page in a browser of its own. Use as a context manager.

    Args:
        url: what to open.
        folder: for its profile; must not exist yet.
        size_px: width and height of the window.
    """

    def __init__(self, url: str, folder: Path, size_px: tuple[int, int] = (1400, 1000)) -> None:
        assert CHROMIUM is not None
        width, height = size_px
        self._numbers, self._stack = itertools.count(1), ExitStack()
        self._process = subprocess.Popen(
            [
                *(
                    CHROMIUM,
                    "--headless=new",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-dev-shm-usage",
                    "--no-first-run",
                ),
                *(
                    "--remote-debugging-port=0",
                    f"--user-data-dir={folder}",
                    f"--window-size={width},{height}",
                    "about:blank",
                ),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = int(_when_there(folder / "DevToolsActivePort").split()[0])
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            targets = json.loads(opener.open(f"http://127.0.0.1:{port}/json/list", timeout=_ANSWER_S).read())
            page = next(target for target in targets if target["type"] == "page")
            self._socket = self._stack.enter_context(connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None))
            self.call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=1,
                mobile=width < 600,
            )
            self.open(url)
        except BaseException:
            self._process.kill()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._process.terminate()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def open(self, url: str) -> None:
        """Go to a page and wait until it is there."""
        self.call("Page.navigate", url=url)
        self.wait_for(f"document.readyState === 'complete' && location.href.startsWith({url!r})", _START_S)

    def kill(self) -> None:
        """As a crash or a cut cable would: nobody says goodbye."""
        self._process.kill()
        self._process.wait()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol. Raises RuntimeError where it fails."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=_ANSWER_S))
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return dict(message["result"])

    def js(self, expression: str) -> Any:
        """The value of an expression, awaited where it is a promise. Raises RuntimeError where it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, expression: str, timeout_s: float = 40.0) -> None:
        """Wait until an expression is true. Raises TimeoutError."""
        end_s = time.monotonic() + timeout_s
        while not self.js(f"Boolean({expression})"):
            if time.monotonic() > end_s:
                raise TimeoutError(f"{expression} did not come true within {timeout_s:.0f} s")
            time.sleep(0.05)

    def text(self, element_id: str) -> str:
        return str(self.js(f"document.getElementById({element_id!r}).textContent"))

    def click(self, selector: str) -> None:
        self.js(f"document.querySelector({selector!r}).click()")

    def key(self, code: str, key: str, down: bool = True, up: bool = True) -> None:
        """Press a key of the keyboard, or release it, or both."""
        for kind in (["keyDown"] if down else []) + (["keyUp"] if up else []):
            self.call("Input.dispatchKeyEvent", type=kind, code=code, key=key)

    def screenshot(self, file: Path) -> None:
        """A PNG of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))


def _when_there(file: Path) -> str:
    end_s = time.monotonic() + _START_S
    while not (file.exists() and "\n" in file.read_text()):
        if time.monotonic() > end_s:
            raise TimeoutError(f"the browser did not start within {_START_S:.0f} s")
        time.sleep(0.05)
    return file.read_text()
