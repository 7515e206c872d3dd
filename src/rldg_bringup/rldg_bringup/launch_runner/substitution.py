"""The ``$(name argument ...)`` substitutions of launch files: parsing and evaluation.

Supported: ``var NAME [DEFAULT]``, ``env NAME [DEFAULT]``, ``find-pkg-share PACKAGE``, ``dirname``, ``equals A B``,
``not-equals A B``, ``and A B``, ``or A B``, ``not A`` and ``eval EXPRESSION`` with literals, ``==``, ``!=``, ``and``,
``or``, ``not`` and parentheses. Arguments are separated by one space, may be quoted and may hold substitutions; a
backslash takes the next character as it is.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


class SubstitutionError(ValueError):
    """A substitution cannot be parsed or evaluated; the message is one line without file and line."""


@dataclass(frozen=True)
class Call:
    """One ``$(...)``."""

    name: str
    arguments: tuple[Template, ...]


Template = tuple[str | Call, ...]


@dataclass(frozen=True)
class Scope:
    """What substitutions may look at."""

    variables: Mapping[str, str]
    environment: Mapping[str, str]
    directory: Path  # of the launch file
    find_share: Callable[[str], Path]  # raises LookupError


def parse(text: str) -> Template:
    """Split a text into literals and substitutions; raises SubstitutionError."""
    template, end = _template(text, 0, "")
    assert end == len(text)
    return template


def _template(text: str, position: int, stop: str) -> tuple[Template, int]:
    """Parse up to (not including) an unescaped character of ``stop``, or to the end where ``stop`` is empty."""
    parts: list[str | Call] = []
    literal = ""
    while position < len(text) and text[position] not in stop:
        if text.startswith("$(", position):
            if literal:
                parts.append(literal)
                literal = ""
            call, position = _call(text, position)
            parts.append(call)
        elif text[position] == "\\" and position + 1 < len(text):
            literal += text[position + 1]
            position += 2
        else:
            literal += text[position]
            position += 1
    if literal:
        parts.append(literal)
    return tuple(parts), position


def _call(text: str, start: int) -> tuple[Call, int]:
    position = start + 2
    end = position
    while end < len(text) and (text[end].isalnum() or text[end] in "_-"):
        end += 1
    name, position = text[position:end], end
    arguments: list[Template] = []
    while position < len(text) and text[position] == " ":
        position += 1
        quote = text[position : position + 1]
        if quote in ("'", '"'):
            argument, position = _template(text, position + 1, quote)
            position += 1
        else:
            argument, position = _template(text, position, " )")
            if not argument:
                raise SubstitutionError(f"{text[start:]!r} has an empty argument; separate arguments by one space")
        arguments.append(argument)
    if text[position : position + 1] != ")":
        raise SubstitutionError(f"{text[start:]!r} is not closed; write $(name argument ...)")
    return Call(name, tuple(arguments)), position + 1


def evaluate(template: Template, scope: Scope) -> str:
    """The text of a template; raises SubstitutionError."""
    return "".join(part if isinstance(part, str) else _evaluate_call(part, scope) for part in template)


def boolean(text: str) -> bool:
    """Truth as launch files write it: true, 1, false or 0, in any case."""
    word = text.strip().lower()
    if word not in ("true", "1", "false", "0"):
        raise SubstitutionError(f"{text!r} is neither true nor false; allowed: true, 1, false, 0")
    return word in ("true", "1")


_ARGUMENTS = {  # name: fewest and most arguments
    "var": (1, 2),
    "env": (1, 2),
    "find-pkg-share": (1, 1),
    "dirname": (0, 0),
    "equals": (2, 2),
    "not-equals": (2, 2),
    "and": (2, 2),
    "or": (2, 2),
    "not": (1, 1),
    "eval": (1, 1),
}


def _evaluate_call(call: Call, scope: Scope) -> str:
    if call.name not in _ARGUMENTS:
        raise SubstitutionError(f"substitution $({call.name}) is not supported; supported: {', '.join(_ARGUMENTS)}")
    fewest, most = _ARGUMENTS[call.name]
    if not fewest <= len(call.arguments) <= most:
        count = str(fewest) if fewest == most else f"{fewest} or {most}"
        raise SubstitutionError(f"substitution $({call.name}) takes {count} argument(s), got {len(call.arguments)}")
    arguments = [evaluate(argument, scope) for argument in call.arguments]
    match call.name, arguments:
        case "var", [name, *default]:
            return _look_up(scope.variables, name, default, "argument or variable")
        case "env", [name, *default]:
            return _look_up(scope.environment, name, default, "environment variable")
        case "find-pkg-share", [package]:
            try:
                return str(scope.find_share(package))
            except LookupError as error:
                raise SubstitutionError(str(error.args[0])) from None
        case "dirname", []:
            return str(scope.directory)
        case "equals", [left, right]:
            return _truth(_equal(left, right))
        case "not-equals", [left, right]:
            return _truth(not _equal(left, right))
        case "and", [left, right]:
            return _truth(boolean(left) and boolean(right))
        case "or", [left, right]:
            return _truth(boolean(left) or boolean(right))
        case "not", [operand]:
            return _truth(not boolean(operand))
        case _:
            return str(_expression(arguments[0]))


def _look_up(values: Mapping[str, str], name: str, default: list[str], what: str) -> str:
    if name in values:
        return values[name]
    if default:
        return default[0]
    raise SubstitutionError(f"there is no {what} {name!r} and no default is given")


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _equal(left: str, right: str) -> bool:
    """Equality as the launch format defines it: booleans by truth, numbers by value, anything else by text."""
    words = ("true", "false", "1", "0")
    if left.lower() in words and right.lower() in words:
        return boolean(left) == boolean(right)
    try:
        return math.isclose(float(left), float(right))
    except ValueError:
        return left == right


def _expression(text: str) -> object:
    def value(node: ast.expr) -> object:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as constant):
                return constant
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not value(operand)
            case ast.BoolOp(op=ast.And(), values=operands):
                return all(value(operand) for operand in operands)
            case ast.BoolOp(values=operands):
                return any(value(operand) for operand in operands)
            case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
                return value(left) == value(right)
            case ast.Compare(left=left, ops=[ast.NotEq()], comparators=[right]):
                return value(left) != value(right)
        raise SubstitutionError(
            f"$(eval) of {text!r} uses {ast.unparse(node)!r}; supported: literals, ==, !=, and, or, not, parentheses"
        )

    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise SubstitutionError(f"$(eval) of {text!r} is not an expression: {error.msg}") from None
    return value(tree.body)
