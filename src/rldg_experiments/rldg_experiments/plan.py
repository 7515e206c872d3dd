"""Experiments as data: stages whose products feed each other, and figures. Read from ``config/experiments``.

A stage refers to what another one makes as ``@name``. Equal stages of different experiments are one: a stage is known
by the hash of what it says, of the files that it names, and of the stages that it refers to (`keys`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import msgspec

from rldg_core.task import Name, TaskError, config_directory, load_task, read_yaml
from rldg_recorder.plan import digest

REFERENCE = "@"
KINDS = ("bars", "times", "lines", "actions")
OPERATOR = "operator"  # in place of a policy that collects: the scripted operator demonstrates
_KEY = 12  # hexadecimal digits of a key that name a folder
_PARAMETER = re.compile(r"\{(\w+)\}")
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Label = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]


class ExperimentError(ValueError):
    """An experiment or its results are wrong; the message is one line: file, key, what is allowed, remedy."""


class Stage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do"):
    """One step of an experiment, done by one verb."""

    name: Label


class Train(Stage, frozen=True, kw_only=True, tag="train"):
    """A specialist, by ``./rldg train``; makes its checkpoint."""

    task: str
    preset: str = "pixels_sim"
    seed: Annotated[int, msgspec.Meta(ge=0, le=199)] = 0
    segment: str = ""


class Collect(Stage, frozen=True, kw_only=True, tag="collect"):
    """Bags of successful episodes, by ``./rldg collect``; a policy that is trained, or ``operator``."""

    task: str
    policy: str
    successes: Count
    scene: str = ""


class Build(Stage, frozen=True, kw_only=True, tag="build"):
    """A training set, by ``./rldg dataset build``; ``recipe`` is one of ``config/recording`` without name and bags."""

    bags: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    recipe: dict[str, Any]


class Finetune(Stage, frozen=True, kw_only=True, tag="finetune"):
    """A student, by ``./rldg finetune``; makes its checkpoint."""

    config: str
    data: str
    steps: Count | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 0


class Evaluate(Stage, frozen=True, kw_only=True, tag="evaluate"):
    """Trials and their report, by ``./rldg evaluate --fast``; ``plan`` is one of ``config/evaluation`` without name."""

    plan: dict[str, Any]


class Swap(Stage, frozen=True, kw_only=True, tag="swap"):
    """One policy takes over from another while the arm moves, in real time, by ``./rldg show``; makes a film."""

    task: str
    first: str
    second: str
    type: str
    episodes: Count = 3


AnyStage = Train | Collect | Build | Finetune | Evaluate | Swap


class Paper(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the paper tells of a bar, where it does: trials, or words."""

    successes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    trials: Count | None = None
    says: str = ""


class Bar(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Trials of one policy of an evaluation, of all tasks and scenes or of some, taken together.

    Attributes:
        policies: names in the evaluation; the best one of them counts.
        line, x: where the bar is a point of a line.
    """

    label: str
    policies: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    tasks: tuple[str, ...] = ()
    split: str = ""
    line: str = ""
    x: float = 0.0
    paper: Paper | None = None


class Pair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Labels of two bars, of which the paper says that the first one does better."""

    first: str
    second: str


class Figure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One picture.

    Attributes:
        kind: bars (success), times (half are done by), lines (success over x) or actions (density near a pose).
        evaluation: name of the stage.
        x: what the numbers of lines are.
    """

    name: Label
    kind: str
    title: str
    evaluation: str
    bars: tuple[Bar, ...] = ()
    claims: tuple[Pair, ...] = ()
    x: str = ""
    note: str = ""


class Experiment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of ``config/experiments``, with its parameters put in.

    Attributes:
        about: what it asks, one or two sentences.
        differs: from the paper.
    """

    name: Name
    title: str
    about: str
    differs: str = ""
    parameters: dict[str, Any] = {}
    stages: Annotated[tuple[AnyStage, ...], msgspec.Meta(min_length=1)]
    figures: tuple[Figure, ...] = ()

    def stage(self, name: str) -> AnyStage:
        return next(stage for stage in self.stages if stage.name == name)


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An experiment before its parameters are put in. ``shared`` comes before ``stages``: for files that extend."""

    name: Name
    title: str
    about: str
    differs: str = ""
    parameters: dict[str, Any] = {}
    shared: list[Any] = []
    stages: list[Any] = []
    figures: list[Any] = []


def experiment_names() -> list[str]:
    """Names of the experiments that are installed, sorted; files that begin with _ are parts of others."""
    found = (path.stem for path in (config_directory() / "experiments").glob("*.yaml"))
    return sorted(name for name in found if not name.startswith("_"))


def load_experiment(name_or_path: str | Path, changes: Mapping[str, Any] | None = None) -> Experiment:
    """Read and check an experiment; stages that nothing asks for are left out.

    Args:
        name_or_path: a name of ``config/experiments`` or the path of a YAML file.
        changes: of its parameters.

    Raises:
        ExperimentError: one line: file, key, what is allowed.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = config_directory() / "experiments" / f"{name_or_path}.yaml"
        if not path.is_file():
            raise ExperimentError(f"{path}: no such file; experiments here: {', '.join(experiment_names()) or 'none'}")
    try:
        file = read_yaml(path, _File)
    except TaskError as error:
        raise ExperimentError(str(error)) from None
    unknown = sorted(set(changes or {}) - set(file.parameters))
    if unknown:
        raise ExperimentError(
            f"{path}: parameter {unknown[0]!r}: unknown; there are {', '.join(sorted(file.parameters)) or 'none'}"
        )
    parameters = file.parameters | dict(changes or {})
    filled = {
        "name": file.name,
        "title": file.title,
        "about": file.about,
        "differs": file.differs,
        "parameters": parameters,
        "stages": expand([*file.shared, *file.stages], parameters, str(path)),
        "figures": expand(file.figures, parameters, str(path)),
    }
    try:
        experiment = msgspec.convert(filled, Experiment, strict=False)
        _check(experiment)
        return _needed(experiment)
    except (msgspec.ValidationError, ExperimentError) as error:
        raise ExperimentError(f"{path}: {error}") from None


def expand(data: Any, parameters: Mapping[str, Any], where: str) -> Any:
    """Put parameters in the place of ``{name}``; a mapping in a list with ``for`` becomes one for each combination.

    A text that is nothing but ``{name}`` becomes the parameter itself, whatever that is.

    Raises:
        ExperimentError: there is no such parameter, or ``for`` is no mapping of names to lists.
    """
    if isinstance(data, str):
        whole = _PARAMETER.fullmatch(data)
        try:
            return parameters[whole[1]] if whole else _PARAMETER.sub(lambda found: str(parameters[found[1]]), data)
        except KeyError as error:
            known = ", ".join(sorted(parameters)) or "none"
            raise ExperimentError(f"{where}: {data!r}: no parameter {error}; there are {known}") from None
    if isinstance(data, Mapping):
        return {key: expand(value, parameters, where) for key, value in data.items()}
    if isinstance(data, list):
        return [item for entry in data for item in _repeated(entry, parameters, where)]
    return data


def _repeated(entry: Any, parameters: Mapping[str, Any], where: str) -> Iterator[Any]:
    if not (isinstance(entry, Mapping) and "for" in entry):
        yield expand(entry, parameters, where)
        return
    loops = expand(entry["for"], parameters, where)
    if not isinstance(loops, Mapping) or not all(isinstance(values, list) for values in loops.values()):
        raise ExperimentError(f"{where}: for: is {loops!r}, must map names to lists")
    rest = {key: value for key, value in entry.items() if key != "for"}
    for values in itertools.product(*loops.values()):
        yield expand(rest, {**parameters, **dict(zip(loops, values, strict=True))}, where)


def references(value: object) -> list[str]:
    """Names of the stages that a stage refers to, in the order in which it does, each once."""
    return list(dict.fromkeys(_references(msgspec.to_builtins(value))))


def _references(value: object) -> Iterator[str]:
    if isinstance(value, str) and value.startswith(REFERENCE):
        yield value.removeprefix(REFERENCE)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _references(part)


def resolved(value: Any, products: Mapping[str, Path]) -> Any:
    """Plain data with the paths of products in the place of references."""
    if isinstance(value, str) and value.startswith(REFERENCE):
        return str(products[value.removeprefix(REFERENCE)])
    if isinstance(value, dict):
        return {key: resolved(part, products) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [resolved(part, products) for part in value]
    return value


def _check(experiment: Experiment) -> None:
    names: set[str] = set()
    for stage in experiment.stages:
        if stage.name in names:
            raise ExperimentError(f"stages: {stage.name!r} is there twice; give each a name of its own")
        missing = [name for name in references(stage) if name not in names]
        if missing:
            raise ExperimentError(f"stages: {stage.name}: @{missing[0]} is no stage before it")
        names.add(stage.name)
    for figure in experiment.figures:
        if figure.kind not in KINDS:
            raise ExperimentError(f"figures: {figure.name}: kind {figure.kind!r}: must be one of {', '.join(KINDS)}")
        if figure.evaluation not in names or not isinstance(experiment.stage(figure.evaluation), Evaluate):
            raise ExperimentError(
                f"figures: {figure.name}: evaluation {figure.evaluation!r} is no stage that evaluates"
            )
        labels = {bar.label for bar in figure.bars}
        unknown = [label for claim in figure.claims for label in (claim.first, claim.second) if label not in labels]
        if unknown:
            raise ExperimentError(f"figures: {figure.name}: claims: no bar is labelled {unknown[0]!r}")


def _needed(experiment: Experiment) -> Experiment:
    """Without the shared stages that neither a figure, an evaluation nor a swap asks for."""
    wanted = {stage.name for stage in experiment.stages if isinstance(stage, Evaluate | Swap)}
    wanted = wanted or {stage.name for stage in experiment.stages}
    for stage in reversed(experiment.stages):
        if stage.name in wanted:
            wanted |= set(references(stage))
    stages = tuple(stage for stage in experiment.stages if stage.name in wanted)
    return msgspec.structs.replace(experiment, stages=stages)


def keys(stages: Sequence[AnyStage]) -> dict[str, str]:
    """What every stage is known by: two with the same key have the same product.

    Raises:
        ExperimentError: a file that a stage names is missing or wrong.
    """
    found: dict[str, str] = {}
    for stage in stages:
        try:
            files = _files(stage)
        except (ValueError, OSError) as error:
            raise ExperimentError(f"stages: {stage.name}: {error}") from None
        said = {key: value for key, value in msgspec.to_builtins(stage).items() if key != "name"}
        found[stage.name] = digest([resolved(said, {name: Path(key) for name, key in found.items()}), files])
    return found


def folder_name(stage: AnyStage, key: str) -> str:
    """Of the folder of a stage's product."""
    about = {Train: "task", Collect: "task", Finetune: "config", Swap: "task"}.get(type(stage))
    label = (
        re.sub(r"\W+", "_", Path(getattr(stage, about)).stem) if about else "data" if isinstance(stage, Build) else ""
    )
    return "-".join(filter(None, (str(stage.__struct_config__.tag), label, key[:_KEY])))


def _files(stage: AnyStage) -> list[str]:
    """Digests of the files that a stage names."""
    match stage:
        case Train():
            from rldg_rl.config import load_config

            task = load_task(stage.task)
            return [digest(task), digest(load_config(stage.preset, task.family))]
        case Collect() | Swap():
            return [digest(load_task(stage.task))]
        case Evaluate():
            entries = stage.plan.get("tasks", [])
            return [digest(load_task(str(entry["task"]))) for entry in entries if isinstance(entry, dict)]
        case Finetune():
            from rldg_policies.finetuning import base_folder, load_finetune_config

            config = load_finetune_config(stage.config)
            return [digest(config), *_contents(base_folder(config.base))]
    return []


def _contents(folder: Path) -> list[str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [f"{path.relative_to(folder)}: {sha256(path.read_bytes()).hexdigest()}" for path in files]
