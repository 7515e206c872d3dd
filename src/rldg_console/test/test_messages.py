"""What a browser says is understood, or refused in one line."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldg_console.messages import Estop, Hello, Keys, Label, Shown, Start, Stop, Swap, parse, picture, text


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"type": "hello"}, Hello()),
        ({"type": "keys", "motions": ["up", "close"], "speed": 0.5}, Keys(motions=["up", "close"], speed=0.5)),
        ({"type": "shown", "sheet": "wrist", "number": 7}, Shown(sheet="wrist", number=7)),
        ({"type": "swap", "id": 1, "policy_id": "octo"}, Swap(id=1, policy_id="octo")),
        ({"type": "start", "id": 2, "count": 3, "seed": 4}, Start(id=2, count=3, seed=4)),
        ({"type": "stop", "id": 3}, Stop(id=3)),
        ({"type": "label", "id": 4, "label": "undo"}, Label(id=4, label="undo")),
        ({"type": "estop", "id": 5, "latched": True}, Estop(id=5, latched=True)),
    ],
)
def test_each_message_is_understood(said: dict[str, object], meant: object) -> None:
    assert parse(json.dumps(said)) == meant


@pytest.mark.parametrize(
    "said",
    [
        "",
        "null",
        "[]",
        "{",
        '{"type": "reboot", "id": 1}',
        '{"type": "keys", "motions": ["sideways"]}',
        '{"type": "keys", "motions": ["up"], "speed": 1.5}',
        '{"type": "keys", "motions": ["up"], "speed": 0}',
        '{"type": "keys", "motions": ["up"], "speed": NaN}',
        '{"type": "keys", "motions": ' + json.dumps(["up"] * 15) + "}",
        '{"type": "estop", "id": 1, "latched": "yes"}',
        '{"type": "estop", "id": 1}',
        '{"type": "label", "id": 1, "label": "perfect"}',
        '{"type": "start", "id": 1, "count": 0, "seed": 0}',
        '{"type": "start", "id": 1, "count": 1, "seed": -1}',
        '{"type": "stop", "id": -1}',
        '{"type": "stop", "id": 1, "more": 2}',
        '{"type": "swap", "id": 1, "policy_id": "' + "x" * 300 + '"}',
        "[" * 4000,
        b"\xff\xfe",
    ],
)
def test_anything_else_is_refused_in_one_line(said: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"^message: ") as refused:
        parse(said)
    assert "\n" not in str(refused.value)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(said: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse(said)


def test_sheets_carry_their_number() -> None:
    assert picture("wrist", 258, b"jpeg") == b"\x01\x00\x00\x01\x02jpeg"
    assert json.loads(text("state", 3, '{"a": 1}')) == {"type": "state", "number": 3, "value": {"a": 1}}
