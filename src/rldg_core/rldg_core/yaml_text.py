"""YAML that may come from anywhere."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml

_MAX_DEPTH = 100


def decode_yaml(text: bytes | str) -> Any:
    """The plain values that a YAML text stands for.

    The C parser behind msgspec and PyYAML ends the process where nesting is very deep; its events tell the depth
    without recursion. An alias can stand for the collection it is in, or for very many copies of one.

    Raises:
        ValueError: it is not YAML, is nested too deeply or holds an alias; one line.
    """
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise ValueError(f"nested more than {_MAX_DEPTH} deep")
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"alias *{event.anchor} is not allowed; write the value out")
        return msgspec.yaml.decode(text)
    except (yaml.YAMLError, msgspec.DecodeError, ValueError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise ValueError(line if len(line) <= 160 else f"{line[:150]}... ({len(line)} characters)") from None
