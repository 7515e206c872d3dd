"""Messages as flat tuples, straight to and from the bytes that DDS carries (CDR, XCDR version 1, little endian).

rclpy builds an object for every nested message and sets every field through a property; that takes ten times as long.
The layout is read from the message class, so it follows the message's definition.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message

_P = ParamSpec("_P")
_R = TypeVar("_R")
Values = tuple[Any, ...]

_CODES = {
    "boolean": "?",
    "octet": "B",
    "uint8": "B",
    "int8": "b",
    "uint16": "H",
    "int16": "h",
    "uint32": "I",
    "int32": "i",
    "uint64": "Q",
    "int64": "q",
    "float": "f",
    "double": "d",
}
_FIELD = re.compile(r"(?:sequence<(?P<sequence>\w+)>|(?P<single>\w+)(?:\[(?P<count>\d+)\])?)")
_ENCAPSULATION = b"\0\1\0\0"  # plain CDR, little endian
_LENGTH = struct.Struct("<I")


class _Text(Enum):
    ONE, MANY = 1, 2


class _Numbers:
    """Numbers in a row. Their padding depends on where they begin: one format for each offset modulo 8."""

    def __init__(self, codes: str) -> None:
        self.count = len(codes)
        self.formats = tuple(struct.Struct(_padded(codes, offset)) for offset in range(8))


def _padded(codes: str, offset: int) -> str:
    text = "<"
    for code in codes:
        size = struct.calcsize(f"<{code}")
        text += "x" * (-offset % size) + code
        offset += -offset % size + size
    return text


class Layout:
    """How the fields of one message type lie in its bytes.

    The fields come flat, in the order of the definition: each number of a nested message or of an array is an entry of
    its own, each sequence is one entry (an array of its type; a list for text).

    Raises:
        TypeError: the message holds sequences of messages, bounded sequences or wide text.
    """

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind
        self._pieces: list[_Numbers | _Text | np.dtype[Any]] = []
        codes = ""
        for piece in _fields(kind()):
            if isinstance(piece, str):
                codes += piece
                continue
            if codes:
                self._pieces.append(_Numbers(codes))
            codes = ""
            self._pieces.append(piece)
        if codes:
            self._pieces.append(_Numbers(codes))

    def pack(self, values: Values) -> bytes:
        """The bytes of a message."""
        parts, at, first = [_ENCAPSULATION], 0, 0
        for piece in self._pieces:
            if isinstance(piece, _Numbers):
                numbers = piece.formats[at & 7]
                parts.append(numbers.pack(*values[first : first + piece.count]))
                at += numbers.size
                first += piece.count
                continue
            value, first = values[first], first + 1
            if piece is _Text.ONE:
                part = _packed_text(value, at)
            elif piece is _Text.MANY:
                part = bytes(-at & 3) + _LENGTH.pack(len(value))
                for text in value:
                    part += _packed_text(text, at + len(part))
            else:
                data = value if isinstance(value, bytes) else np.asarray(value, dtype=piece).tobytes()
                part = bytes(-at & 3) + _LENGTH.pack(len(data) // piece.itemsize)
                if data:
                    part += bytes(-(at + len(part)) % piece.itemsize)
                parts.append(part)
                at += len(part)
                part = data
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    def unpack(self, data: bytes) -> Values:
        """The fields of a message. Sequences of numbers are read-only views of ``data``.

        Raises:
            ValueError: the bytes end early or are not of this type.
        """
        if data[1:2] == b"\0":  # big endian: from another machine
            data = serialize_message(deserialize_message(data, self.kind))
        try:
            return self._unpack(data)
        except (struct.error, UnicodeDecodeError, ValueError) as error:
            raise ValueError(f"not a {self.kind.__name__}: {error}") from None

    def _unpack(self, data: bytes) -> Values:
        values: list[Any] = []
        at = 4  # offsets for padding count from here
        for piece in self._pieces:
            if isinstance(piece, _Numbers):
                numbers = piece.formats[(at - 4) & 7]
                values += numbers.unpack_from(data, at)
                at += numbers.size
            elif piece is _Text.ONE:
                text, at = _text(data, at)
                values.append(text)
            else:
                at += -at & 3
                (count,) = _LENGTH.unpack_from(data, at)
                at += 4
                if piece is _Text.MANY:
                    texts = []
                    for _ in range(count):
                        text, at = _text(data, at)
                        texts.append(text)
                    values.append(texts)
                    continue
                if count:
                    at += -(at - 4) % piece.itemsize
                values.append(np.frombuffer(data, piece, count, at))
                at += count * piece.itemsize
        return tuple(values)


def _fields(message: Any) -> Iterator[str | _Text | np.dtype[Any]]:
    """Codes of single numbers, texts, and the element types of sequences."""
    for name, text in message.get_fields_and_field_types().items():
        nested = getattr(message, name)
        if hasattr(nested, "get_fields_and_field_types"):
            yield from _fields(nested)
            continue
        field = _FIELD.fullmatch(text)
        single, count, sequence = field.group("single", "count", "sequence") if field else (None, None, None)
        if sequence == "string":
            yield _Text.MANY
        elif sequence in _CODES:
            yield np.dtype(f"<{_CODES[sequence]}")
        elif single == "string" and not count:
            yield _Text.ONE
        elif single in _CODES:
            yield from _CODES[single] * int(count or 1)
        else:
            raise TypeError(f"{type(message).__name__}.{name}: {text} has no flat layout")


def _packed_text(text: str, at: int) -> bytes:
    data = text.encode()
    return bytes(-at & 3) + _LENGTH.pack(len(data) + 1) + data + b"\0"


def _text(data: bytes, at: int) -> tuple[str, int]:
    at += -at & 3
    (length,) = _LENGTH.unpack_from(data, at)
    at += 4
    end = at + length
    if end > len(data):
        raise ValueError(f"text of {length} bytes where {len(data) - at} are left")
    return data[at : max(at, end - 1)].decode(), end


class Codec(Generic[_P, _R]):
    """Bytes and messages of one type from a record, and back.

    Args:
        kind: the message class.
        values: fields of the message from what :meth:`pack` is called with.
        record: what :meth:`unpack` gives, from the fields; raises ValueError where a field is wrong.
    """

    def __init__(self, kind: type[Any], values: Callable[_P, Sequence[Any]], record: Callable[[Values], _R]) -> None:
        self.kind = kind
        self._layout = Layout(kind)
        self._values, self._record = values, record

    def pack(self, *args: _P.args, **kwargs: _P.kwargs) -> bytes:
        """To be published as it is."""
        return self._layout.pack(tuple(self._values(*args, **kwargs)))

    def unpack(self, data: bytes) -> _R:
        """From what a raw subscription receives. Raises ValueError with one line."""
        return self._record(self._layout.unpack(data))

    def to_msg(self, *args: _P.args, **kwargs: _P.kwargs) -> Any:
        return deserialize_message(self.pack(*args, **kwargs), self.kind)

    def from_msg(self, msg: Any) -> _R:
        """Raises ValueError with one line."""
        return self.unpack(serialize_message(msg))
