"""What browser and console say to each other, checked here.

A browser sends JSON with a ``type``. So does the console, except for pictures: one byte for the camera (its place in
:data:`SHEETS`), four for its number (big-endian), then a JPEG image. Sheets are numbered, and the browser says which it
has on its screen.
"""

from __future__ import annotations

import struct
from typing import Annotated, Literal

import msgspec

from rldg_console.keyboard import Motion

CAMERAS = ("scene", "wrist")
SHEETS = (*CAMERAS, "state", "events")  # what is shown, and replaced as a whole
MAX_BYTES = 4096  # of a message from a browser

_Text = Annotated[str, msgspec.Meta(max_length=256)]
_Number = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
_PICTURE = struct.Struct(">BI")


class _Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    pass


class Hello(_Said, frozen=True, tag="hello"):
    """The first message of a browser; the token where one is demanded."""

    token: _Text = ""


class Keys(_Said, frozen=True, tag="keys"):
    """The keys that are held now; said again several times a second while any is."""

    motions: Annotated[list[Motion], msgspec.Meta(max_length=len(Motion))]
    speed: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0


class Shown(_Said, frozen=True, tag="shown"):
    """A sheet is on the screen: the next may come."""

    sheet: Literal["scene", "wrist", "state", "events"]
    number: _Number


class _Asked(_Said, frozen=True):
    id: _Number  # names the answer


class Swap(_Asked, frozen=True, tag="swap"):
    """Let a policy drive; "" for none."""

    policy_id: _Text


class Start(_Asked, frozen=True, tag="start"):
    """Run episodes."""

    count: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
    scene: _Text = ""


class Stop(_Asked, frozen=True, tag="stop"):
    """End the running episode and the run, whoever asked for it."""


class Label(_Asked, frozen=True, tag="label"):
    """A verdict on the running episode or on the last one."""

    label: Literal["success", "failure", "aborted", "undo"]


class Estop(_Asked, frozen=True, tag="estop"):
    """Latch the e-stop, or release it."""

    latched: bool


class Recover(_Asked, frozen=True, tag="recover"):
    """Ask the arm's driver to clear its fault."""


Command = Swap | Start | Stop | Label | Estop | Recover
Request = Hello | Keys | Shown | Command


class Answer(_Said, frozen=True, tag="answer"):
    """What became of a command."""

    id: int
    done: bool
    message: str


class Welcome(_Said, frozen=True, tag="welcome"):
    """What does not change while the cell runs."""

    task: str
    instruction: str
    scenes: list[str]
    grasps: bool
    force_limit_n: float
    lockstep: bool = False


_DECODER: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)


def parse(said: str | bytes) -> Request:
    """A message of a browser.

    Raises:
        ValueError: it is none; one line.
    """
    try:
        return _DECODER.decode(said)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"message: {' '.join(str(error).split())}") from None


def picture(camera: str, number: int, jpeg: bytes) -> bytes:
    """The message with a picture."""
    return _PICTURE.pack(SHEETS.index(camera), number) + jpeg


def text(sheet: str, number: int, json: str) -> str:
    """The message with a sheet that is JSON."""
    return f'{{"type":"{sheet}","number":{number},"value":{json}}}'
