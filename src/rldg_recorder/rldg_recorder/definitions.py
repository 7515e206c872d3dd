"""What a bag must say about a message type so that a reader needs no ROS: its full definition and its hash."""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path

SEPARATOR = "=" * 80
BUILTIN = frozenset(
    [
        "bool",
        "byte",
        "char",
        "float32",
        "float64",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "string",
        "wstring",
    ]
)


def definition(type_name: str) -> str:
    """The ``ros2msg`` text of a message type, followed by those of all types nested in it.

    Args:
        type_name: ``package/msg/Name``; looked up in ``share`` of the prefixes of ``AMENT_PREFIX_PATH``.

    Raises:
        LookupError: the type, or one nested in it, is not installed, or is no message type.
    """
    return _definition(type_name, os.environ.get("AMENT_PREFIX_PATH", ""))


def type_hash(type_name: str) -> str:
    """The hash of a message type (``RIHS01_`` and 64 hexadecimal digits, REP 2011); raises as :func:`definition`."""
    return _type_hash(type_name, os.environ.get("AMENT_PREFIX_PATH", ""))


@functools.cache
def _definition(type_name: str, prefixes: str) -> str:
    found = {type_name: _find(type_name, ".msg", prefixes).read_text()}
    names = [type_name]
    for name in names:  # grows: breadth first, each type once
        for nested in _nested(name, found[name]):
            if nested not in found:
                found[nested] = _find(nested, ".msg", prefixes).read_text()
                names.append(nested)
    first, *others = names
    blocks = [f"{SEPARATOR}\nMSG: {name.replace('/msg/', '/')}\n{found[name].rstrip()}\n" for name in others]
    return "".join([found[first].rstrip() + "\n", *blocks])


@functools.cache
def _type_hash(type_name: str, prefixes: str) -> str:
    path = _find(type_name, ".json", prefixes)
    try:
        hashes = json.loads(path.read_text())["type_hashes"]
        return next(str(entry["hash_string"]) for entry in hashes if entry["type_name"] == type_name)
    except (ValueError, KeyError, TypeError, StopIteration):
        raise LookupError(f"{path}: holds no hash of {type_name}; build the package anew") from None


def _nested(type_name: str, text: str) -> list[str]:
    """Full names of the types of the fields of one definition."""
    names = []
    for line in text.splitlines():
        word = line.partition("#")[0].split()
        kind = re.split(r"\[|<=", word[0])[0] if word else ""
        if not kind or kind in BUILTIN:
            continue
        package, _, name = kind.rpartition("/")
        names.append(f"{package.removesuffix('/msg') or type_name.partition('/')[0]}/msg/{name}")
    return names


def _find(type_name: str, suffix: str, prefixes: str) -> Path:
    if not re.fullmatch(r"[A-Za-z]\w*/msg/[A-Za-z]\w*", type_name):
        raise LookupError(f"message type {type_name!r}: must be of the form package/msg/Name")
    for prefix in filter(None, prefixes.split(os.pathsep)):
        path = Path(prefix, "share", type_name + suffix)
        if path.is_file():
            return path
    raise LookupError(
        f"message type {type_name}: no share/{type_name}{suffix} in AMENT_PREFIX_PATH={prefixes or '(not set)'}; "
        "install its package or source the workspace"
    )
