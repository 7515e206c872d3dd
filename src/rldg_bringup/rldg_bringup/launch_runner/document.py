"""XML elements that know where they stand, so that every complaint can name file and line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat


class LaunchFileError(ValueError):
    """A launch file, or what it was given, is wrong; the message is one line that starts with file and line."""


@dataclass(frozen=True)
class Element:
    tag: str
    attributes: dict[str, str]
    file: Path
    line: int
    children: list[Element] = field(default_factory=list)

    def error(self, problem: str) -> LaunchFileError:
        return LaunchFileError(f"{self.file.name}:{self.line}: <{self.tag}> {problem}")

    def check(self, allowed: str, required: str = "", children: str = "") -> None:
        """Refuse attributes and child elements other than the space-separated names given."""
        known = [*required.split(), *allowed.split()]
        for name in self.attributes:
            if name not in known:
                raise self.error(f"has no attribute {name!r} here; supported: {', '.join(known) or 'none'}")
        for name in required.split():
            if name not in self.attributes:
                raise self.error(f"lacks the attribute {name!r}")
        for child in self.children:
            if child.tag not in children.split():
                raise child.error(
                    f"is not supported inside <{self.tag}>; supported: {', '.join(children.split()) or 'nothing'}"
                )


def read_document(file: Path) -> Element:
    """The root element of a launch file.

    Raises LaunchFileError where the file is missing, is not well-formed XML, has text between elements, or its root is
    not ``<launch>``.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise LaunchFileError(f"{file}: cannot read this launch file: {error.strerror}") from None
    parser = expat.ParserCreate()
    open_elements: list[Element] = []
    roots: list[Element] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, attributes, file, parser.CurrentLineNumber)
        (open_elements[-1].children if open_elements else roots).append(element)
        open_elements.append(element)

    def text(content: str) -> None:
        if content.strip():
            raise open_elements[-1].error(f"holds text {content.strip()[:40]!r}; a launch file has elements only")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda tag: open_elements.pop()
    parser.CharacterDataHandler = text
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise LaunchFileError(
            f"{file.name}:{error.lineno}: not well-formed XML: {expat.ErrorString(error.code)}"
        ) from None
    if roots[0].tag != "launch":
        raise roots[0].error("cannot be the root; a launch file starts with <launch>")
    return roots[0]
