"""From launch files and arguments to the list of processes they ask for; nothing is started here.

The files are the XML launch files of ROS 2 (see docs.ros.org, "Launch file different formats"); this subset is
executed:

- ``launch``; ``arg`` (name, default, description, if, unless) with ``choice`` (value); ``let`` (name, value, if,
  unless)
- ``include`` (file, if, unless) with ``arg`` (name, value)
- ``group`` (scoped, if, unless); ``push-ros-namespace`` or ``push_ros_namespace`` (namespace, if, unless)
- ``set_env`` (name, value, if, unless); ``unset_env`` (name, if, unless)
- ``node`` (pkg, exec, name, namespace, args, ros_args, output, respawn, respawn_delay, on_exit="shutdown", if, unless)
  with ``param`` (name, value, type), ``param`` (from), ``remap`` (from, to) and ``env`` (name, value)
- the substitutions of :mod:`rldg_bringup.launch_runner.substitution`

As in ROS 2, an ``include`` sets its arguments in the including scope; a ``group`` ends the life of what is set inside
it. Unlike ROS 2, an argument that no file declares is an error, and so is everything outside this subset.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from rldg_bringup.launch_runner import substitution
from rldg_bringup.launch_runner.document import Element, LaunchFileError, read_document
from rldg_bringup.launch_runner.substitution import Scope, SubstitutionError

FindShare = Callable[[str], Path]

_OUTPUTS = ("screen", "log", "both")
_CONDITIONS = "if unless"
_ACTIONS = "arg let include group push-ros-namespace push_ros_namespace set_env unset_env node"


@dataclass(frozen=True)
class Argument:
    """What a launch file lets its caller choose."""

    name: str
    description: str
    default: str | None  # as written, substitutions included; None where a value must be given
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Process:
    """One process to run."""

    name: str  # the node's name, or the executable's where the file gives none
    package: str
    executable: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]  # complete, not additions
    output: str = "log"  # screen, both: everything is shown; log: only stderr is
    respawn: bool = False
    respawn_delay_s: float = 0.0
    shutdown_on_exit: bool = False


@dataclass
class _Context:
    """What changes while a file is walked through."""

    variables: dict[str, str]
    environment: dict[str, str]
    namespace: str = ""
    processes: list[Process] = field(default_factory=list)


def declared_arguments(file: Path, environment: Mapping[str, str], find_share: FindShare) -> list[Argument]:
    """The arguments of a launch file and of the files it includes, without those that an include sets itself.

    The first declaration of a name counts. Includes whose path depends on arguments are not followed.
    """
    found: dict[str, Argument] = {}
    _collect_arguments(file, environment, find_share, frozenset(), found, ())
    return list(found.values())


def _collect_arguments(
    file: Path,
    environment: Mapping[str, str],
    find_share: FindShare,
    given: frozenset[str],
    found: dict[str, Argument],
    including: tuple[Path, ...],
) -> None:
    if file in including:
        return
    scope = Scope({}, environment, file.parent, find_share)

    def walk(element: Element) -> None:
        for child in element.children:
            if child.tag == "arg":
                argument = _argument(child)
                if argument.name not in given:
                    found.setdefault(argument.name, argument)
            elif child.tag == "group":
                walk(child)
            elif child.tag == "include" and "file" in child.attributes:
                try:
                    path = Path(substitution.evaluate(substitution.parse(child.attributes["file"]), scope))
                except SubstitutionError:
                    continue
                if not path.is_file() or path.suffix == ".py":  # told when, and if, it is included
                    continue
                names = frozenset(arg.attributes.get("name", "") for arg in child.children)
                _collect_arguments(path, environment, find_share, given | names, found, (*including, file))

    walk(read_document(file))


def _argument(element: Element) -> Argument:
    element.check(f"default description {_CONDITIONS}", required="name", children="choice")
    for choice in element.children:
        choice.check("", required="value")
    attributes = element.attributes
    choices = tuple(choice.attributes["value"] for choice in element.children)
    return Argument(attributes["name"], attributes.get("description", ""), attributes.get("default"), choices)


def describe_arguments(arguments: list[Argument]) -> str:
    """What ``--show-args`` prints."""
    if not arguments:
        return "No arguments."
    lines = ["Arguments (pass them as name:=value):"]
    for argument in arguments:
        facts = ["required" if argument.default is None else f"default: {argument.default or '(empty)'}"]
        if argument.choices:
            facts.append(f"one of: {', '.join(argument.choices)}")
        lines += [f"\n    {argument.name}  ({'; '.join(facts)})", f"        {argument.description or 'no description'}"]
    return "\n".join(lines)


def resolve(
    file: Path, arguments: Mapping[str, str], environment: Mapping[str, str], find_share: FindShare
) -> tuple[Process, ...]:
    """The processes that a launch file asks for, in the order of the file.

    ``find_share`` gives a package's share directory and raises LookupError (with a message) where there is none. Raises
    LaunchFileError.
    """
    known = [argument.name for argument in declared_arguments(file, environment, find_share)]
    for name in arguments:
        if name not in known:
            raise LaunchFileError(f"{file.name}: {_unknown_argument(name, known)}")
    context = _Context(dict(arguments), dict(environment))
    _File(file, context, find_share, ()).run()
    return tuple(context.processes)


def _unknown_argument(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"there is no argument {name!r}{hint} (declared: {', '.join(known) or 'none'})"


class _File:
    """One launch file being walked through in a context that it shares with the files around it."""

    def __init__(self, path: Path, context: _Context, find_share: FindShare, including: tuple[Path, ...]) -> None:
        self._root = read_document(path)
        self._path = path
        self._context = context
        self._find_share = find_share
        self._including = (*including, path)

    def run(self) -> None:
        self._root.check("", children=_ACTIONS)
        self._visit_children(self._root)

    def _visit_children(self, parent: Element) -> None:
        visitors = {
            "arg": self._arg,
            "let": self._let,
            "include": self._include,
            "group": self._group,
            "push-ros-namespace": self._push_namespace,
            "push_ros_namespace": self._push_namespace,
            "set_env": self._set_env,
            "unset_env": self._unset_env,
            "node": self._node,
        }
        for element in parent.children:
            if self._wanted(element):
                visitors[element.tag](element)

    def _wanted(self, element: Element) -> bool:
        attributes = element.attributes
        if "if" in attributes and "unless" in attributes:
            raise element.error("has both 'if' and 'unless'; use one")
        if "if" in attributes:
            return self._boolean(element, "if")
        return not ("unless" in attributes and self._boolean(element, "unless"))

    def _text(self, element: Element, attribute: str, default: str = "") -> str:
        if attribute not in element.attributes:
            return default
        return self._evaluate(element, element.attributes[attribute])

    def _evaluate(self, element: Element, text: str) -> str:
        return "".join(self._pieces(element, text, str))

    def _pieces(self, element: Element, text: str, guard: Callable[[str], str]) -> list[str]:
        """The literals of a text and what its substitutions give, the latter passed through ``guard``."""
        scope = Scope(self._context.variables, self._context.environment, self._path.parent, self._find_share)
        try:
            return [
                part if isinstance(part, str) else guard(substitution.evaluate((part,), scope))
                for part in substitution.parse(text)
            ]
        except SubstitutionError as error:
            raise element.error(str(error)) from None

    def _boolean(self, element: Element, attribute: str) -> bool:
        try:
            return substitution.boolean(self._text(element, attribute, "false"))
        except SubstitutionError as error:
            raise element.error(f"{attribute}: {error}") from None

    def _arg(self, element: Element) -> None:
        argument = _argument(element)
        variables = self._context.variables
        if argument.name not in variables:
            if argument.default is None:
                raise element.error(f"argument {argument.name!r} has no default; give {argument.name}:=<value>")
            variables[argument.name] = self._evaluate(element, argument.default)
        if argument.choices and variables[argument.name] not in argument.choices:
            raise element.error(
                f"argument {argument.name}:={variables[argument.name]} is not allowed; "
                f"choices: {', '.join(argument.choices)}"
            )

    def _let(self, element: Element) -> None:
        element.check(_CONDITIONS, required="name value")
        self._context.variables[self._text(element, "name")] = self._text(element, "value")

    def _include(self, element: Element) -> None:
        element.check(_CONDITIONS, required="file", children="arg")
        path = Path(self._text(element, "file"))
        if not path.is_absolute():
            raise element.error(f"file {str(path)!r} is not absolute; begin with $(find-pkg-share <pkg>) or $(dirname)")
        if path in self._including:
            raise element.error(f"{path.name} includes itself")
        if not path.is_file():
            raise element.error(f"there is no file {path}")
        if path.suffix == ".py":
            raise element.error(
                f"{path.name} is a Python launch file, which only ros2 launch can run; install it (apt: ros2launch)"
            )
        known = [a.name for a in declared_arguments(path, self._context.environment, self._find_share)]
        for arg in element.children:
            arg.check("", required="name value")
            name = self._text(arg, "name")
            if name not in known:
                raise arg.error(f"{path.name}: {_unknown_argument(name, known)}")
            self._context.variables[name] = self._text(arg, "value")
        _File(path, self._context, self._find_share, self._including).run()

    def _group(self, element: Element) -> None:
        element.check(f"scoped {_CONDITIONS}", children=_ACTIONS)
        context = self._context
        saved = dict(context.variables), dict(context.environment), context.namespace
        scoped = "scoped" not in element.attributes or self._boolean(element, "scoped")
        self._visit_children(element)
        if scoped:
            context.variables, context.environment, context.namespace = saved

    def _push_namespace(self, element: Element) -> None:
        element.check(_CONDITIONS, required="namespace")
        self._context.namespace = _join_namespace(self._context.namespace, self._text(element, "namespace"))

    def _set_env(self, element: Element) -> None:
        element.check(_CONDITIONS, required="name value")
        self._context.environment[self._text(element, "name")] = self._text(element, "value")

    def _unset_env(self, element: Element) -> None:
        element.check(_CONDITIONS, required="name")
        self._context.environment.pop(self._text(element, "name"), None)

    def _node(self, element: Element) -> None:
        element.check(
            f"name namespace args ros_args output respawn respawn_delay on_exit {_CONDITIONS}",
            required="pkg exec",
            children="param remap env",
        )
        executable = self._text(element, "exec")
        output = self._text(element, "output", "log")
        if output not in _OUTPUTS:
            raise element.error(f"output {output!r} is not supported; supported: {', '.join(_OUTPUTS)}")
        if element.attributes.get("on_exit", "shutdown") != "shutdown":
            raise element.error("on_exit: only 'shutdown' is supported")
        environment = dict(self._context.environment)
        for child in (child for child in element.children if child.tag == "env"):
            child.check("", required="name value")
            environment[self._text(child, "name")] = self._text(child, "value")
        name = self._text(element, "name")
        self._context.processes.append(
            Process(
                name=name or executable,
                package=self._text(element, "pkg"),
                executable=executable,
                arguments=(*self._words(element, "args"), *self._ros_arguments(element, name)),
                environment=environment,
                output=output,
                respawn=self._boolean(element, "respawn"),
                respawn_delay_s=self._delay(element),
                shutdown_on_exit="on_exit" in element.attributes,
            )
        )

    def _delay(self, element: Element) -> float:
        text = element.attributes.get("respawn_delay", "0")
        try:
            delay_s = float(text)
        except ValueError:
            delay_s = -1.0
        if not 0.0 <= delay_s < float("inf"):
            raise element.error(f"respawn_delay {text!r} is not a number of seconds, 0 or more, without substitutions")
        return delay_s

    def _words(self, element: Element, attribute: str) -> list[str]:
        """Split like a shell; what a substitution gives stays in one word."""
        text = element.attributes.get(attribute, "")
        line = "".join(self._pieces(element, text, shlex.quote))
        try:
            return shlex.split(line)
        except ValueError as error:
            raise element.error(f"{attribute} {text!r}: {error}") from None

    def _ros_arguments(self, element: Element, name: str) -> list[str]:
        arguments = ["--ros-args", *self._words(element, "ros_args")]
        if name:
            arguments += ["-r", f"__node:={name}"]
        namespace = _join_namespace(self._context.namespace, self._text(element, "namespace"))
        if namespace:
            arguments += ["-r", f"__ns:={namespace}"]
        for child in element.children:
            if child.tag == "remap":
                child.check("", required="from to")
                arguments += ["-r", f"{self._text(child, 'from')}:={self._text(child, 'to')}"]
            elif child.tag == "param" and "from" in child.attributes:
                child.check("", required="from")
                file = self._text(child, "from")
                if not Path(file).is_file():
                    raise child.error(f"there is no parameter file {file}")
                arguments += ["--params-file", file]
            elif child.tag == "param":
                child.check("type", required="name value")
                value = _parameter_value(child, self._text(child, "value"))
                arguments += ["-p", f"{self._text(child, 'name')}:={value}"]
        return arguments


def _join_namespace(base: str, name: str) -> str:
    """``name`` below ``base``; absolute names stand for themselves; "" is the root."""
    joined = name if name.startswith("/") or not name else f"{base}/{name}"
    return "/" + joined.strip("/") if joined.strip("/") else (base if not name else "")


def _parameter_value(element: Element, text: str) -> str:
    """A parameter value as YAML for a command line, typed as in launch: by ``type``, else as YAML reads it."""
    kind = element.attributes.get("type")
    value: object
    try:
        match kind:
            case None:
                value = yaml.safe_load(text) if text else text
            case "str":
                value = text
            case "int":
                value = int(text)
            case "float":
                value = float(text)
            case "bool":
                value = substitution.boolean(text)
            case _:
                raise element.error(f"type {kind!r} is not supported; supported: bool, int, float, str")
        items = value if isinstance(value, list) else [value]
        kinds = {type(item) for item in items}
        if len(kinds) != 1 or not kinds <= {bool, int, float, str}:
            raise ValueError(
                "a parameter is a bool, int, float, str, or a list of one of them; quote it or set type='str'"
            )
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, yaml.YAMLError) as error:
        if isinstance(error, LaunchFileError):
            raise
        reason = str(error).splitlines()[0]
        raise element.error(f"value {text!r} of parameter {element.attributes['name']!r}: {reason}") from None
