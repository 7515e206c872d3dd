"""YAML that may come from anywhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import yaml

_MAX_DEPTH = 100
_MAX_VALUES = 100_000  # counted as often as aliases repeat them


def decode_yaml(text: bytes | str) -> Any:
    """The plain values that a YAML text stands for.

    The C parser behind msgspec and PyYAML ends the process where nesting is very deep, and an alias can stand for the
    collection it is in or for very many copies of another. The events of the text tell all that without recursion.

    Raises:
        ValueError: it is not YAML, too deeply nested or too large; one line.
    """
    try:
        _check_size(yaml.parse(text, Loader=yaml.CSafeLoader))
        return msgspec.yaml.decode(text)
    except (yaml.YAMLError, msgspec.DecodeError, ValueError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise ValueError(line if len(line) <= 160 else f"{line[:150]}... ({len(line)} characters)") from None


def _check_size(events: Iterable[yaml.Event]) -> None:
    sizes: dict[str, int] = {}  # values in what an anchor names
    opened: list[tuple[str | None, int]] = []  # anchors of the collections around, and how much came before them
    count = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, count))
            if len(opened) > _MAX_DEPTH:
                raise ValueError(f"nested more than {_MAX_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor:
                sizes[anchor] = count - before
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in opened):
                raise ValueError(f"*{event.anchor} stands within what it stands for")
            count += sizes.get(event.anchor or "", 1)
        count += 1
        if count > _MAX_VALUES:
            raise ValueError(f"more than {_MAX_VALUES} values")
