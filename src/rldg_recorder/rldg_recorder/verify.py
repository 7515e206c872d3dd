"""The gate: refuse a built training set that would teach nonsense.

Each check looks at what a trainer would read, the set itself, and says which episode is wrong, by how much, and what to
do. Bags are looked into only for what a set does not hold (ages of images); a set whose bags are gone can be verified.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rldg_core.frames import body_delta
from rldg_core.observation import FROZEN_MOTION_M, FROZEN_MOTION_RAD
from rldg_core.task import Family, GripperUse, Task, TaskError, load_task
from rldg_core.types import Outcome, Source
from rldg_recorder.episode import BagError, read_info
from rldg_recorder.episode_reader import read_episode
from rldg_recorder.frames import ACTION_NAMES, STATE_NAMES
from rldg_recorder.items import Reader
from rldg_recorder.plan import DatasetError
from rldg_recorder.recipe import DrivenBy, Recipe, parse_recipe
from rldg_recorder.recipe import Source as RecipeSource
from rldg_recorder.statistics import column_statistics
from rldg_recorder.training_set import BagRecord, EpisodeRecord, TrainingSet

ERROR, WARN = "error", "warn"
MIN_FRAMES = 5
MIN_EPISODES = 10
# Mean rotation of an insertion, in action units, that no chance explains. Scripted insertions of the cell stay below
# 0.005 about axes on which starts are not turned, and below 0.13, without significance, about those on which they are.
# A translation that leaks into rotation through a lever arm of 0.5 m gives 0.06 and more.
ROTATION_LIMIT, ROTATION_LIMIT_RANDOM = 0.05, 0.1
ROTATION_MIN_EPISODES = 5
_PARTS = ("beginning", "middle", "end")  # of an episode: a rotation there and back has no mean over all of it
_VALUES = ("action", "observation.state", "next.reward", "next.done")
_PROVENANCE = ("provenance.bag", "provenance.row", "provenance.source", "provenance.policy")
_UNBALANCED = 1.5  # ratio of episodes of the most and the least frequent object
_INSERTIONS = (Family.CONNECTOR_INSERTION, Family.FMB_INSERTION)
_REBUILD = "build the set anew"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """What a check holds against a set."""

    check: str
    level: str  # error or warn
    episode: int | None  # number in the set, None where it is about all of it
    text: str  # one line: numbers and remedy


def verify(folder: Path, waive: Collection[str] = (), read: Reader = read_episode) -> list[Finding]:
    """Check a built training set.

    Args:
        folder: of the set.
        waive: names of checks that are left out, see :data:`CHECKS`.
        read: reads a bag.

    Returns:
        What was found, errors first; a set may be used if there is no error.

    Raises:
        DatasetError: it is no training set, a file of it is damaged, or no check has a waived name.
    """
    unknown = sorted(set(waive) - set(CHECKS))
    if unknown:
        raise DatasetError(f"waive {', '.join(unknown)}: no such check; there are {', '.join(CHECKS)}")
    material = Material(TrainingSet(folder), read)
    found = [
        Finding(name, level, episode, text)
        for name, check in CHECKS.items()
        if name not in waive
        for level, episode, text in check(material)
    ]
    return sorted(found, key=lambda finding: finding.level != ERROR)


Found = Iterator[tuple[str, int | None, str]]  # level, episode, text


class Material:
    """A set as the checks look at it."""

    def __init__(self, training_set: TrainingSet, read: Reader = read_episode) -> None:
        self.set, self.read = training_set, read
        self.provenance = training_set.provenance
        wanted = [*_VALUES, *(name for name in _PROVENANCE if self.has(name))]
        self._columns: dict[str, npt.NDArray[Any]] = training_set.columns(wanted)
        for name, names in (("action", ACTION_NAMES), ("observation.state", STATE_NAMES)):
            if self._columns[name].shape[1:] != (len(names),):
                raise DatasetError(
                    f"{training_set.folder}: {name} has shape {self._columns[name].shape[1:]}, must hold "
                    f"{', '.join(names)}; only sets of this project can be verified"
                )
        self.ends = np.cumsum([0, *training_set.lengths])

    def column(self, name: str, episode: int | None = None) -> npt.NDArray[Any]:
        """A column of all frames or of an episode's."""
        values = self._columns[name]
        return values if episode is None else values[self.ends[episode] : self.ends[episode + 1]]

    @property
    def episodes(self) -> Iterator[tuple[int, EpisodeRecord]]:
        return enumerate(self.set.episodes)

    def has(self, column: str) -> bool:
        return column in self.set.info["features"]

    def bags(self, record: EpisodeRecord) -> list[BagRecord]:
        """Those that an episode is made of."""
        known = self.provenance.bags
        return [known[s.bag] for s in record.segments if 0 <= s.bag < len(known)]

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """By bag: its task, as it was in force if the bag is there, else as the task file says it now."""
        found = {}
        for bag in self.provenance.bags:
            try:
                found[bag.path] = read_info(Path(bag.path)).task
            except BagError:
                try:
                    found[bag.path] = load_task(bag.task)
                except TaskError:
                    continue
        return found

    def task(self, record: EpisodeRecord) -> Task | None:
        bags = self.bags(record)
        return self.tasks.get(bags[0].path) if bags else None

    def name(self, record: EpisodeRecord) -> str:
        """The bags of an episode, for messages."""
        return " + ".join(bag.path for bag in self.bags(record)) or "no bag"

    @cached_property
    def recipes(self) -> list[Recipe]:
        """Of the set; several where sets were merged, none where it is not of a recipe."""
        try:
            return [parse_recipe(text) for text in self.provenance.recipe.split("---\n") if text.strip()]
        except DatasetError:
            return []

    def sources(self, group: str) -> list[RecipeSource]:
        """The recipe's sources that an episode's group came through: both where it was spliced."""
        found = []
        for recipe in self.recipes:
            names = {group}
            if recipe.splice is not None and group not in {source.name for source in recipe.sources}:
                names = {recipe.splice.prefix, recipe.splice.suffix}
            found += [source for source in recipe.sources if source.name in names]
        return found


# --- the checks ------------------------------------------------------------------------------------------------------


def _check_provenance(material: Material) -> Found:
    bags, policies = material.provenance.bags, material.provenance.policies
    columns = {"provenance.bag": len(bags), "provenance.policy": len(policies)}
    missing = [name for name in _PROVENANCE if not material.has(name)]
    if missing or not bags:
        yield (
            ERROR,
            None,
            f"nothing says where frames come from ({', '.join(missing) or 'no bag is listed'}); {_REBUILD}",
        )
        return
    if not material.recipes:
        yield WARN, None, "its recipe is not known: what episodes were to be is not checked; build it from a recipe"
    elif hashlib.sha256(material.provenance.recipe.encode()).hexdigest() != material.provenance.recipe_sha256:
        yield ERROR, None, f"the recipe in provenance.json is not the one that its hash names; {_REBUILD}"
    for number, record in material.episodes:
        for name, count in columns.items():
            index = material.column(name, number)
            if ((index < 0) | (index >= count)).any():
                yield ERROR, number, f"{name} goes from {index.min()} to {index.max()}, {count} are listed; {_REBUILD}"
        planned = {(segment.bag, row) for segment in record.segments for row in segment.rows}
        pairs = zip(material.column("provenance.bag", number), material.column("provenance.row", number), strict=True)
        stray = sum((int(bag), int(row)) not in planned for bag, row in pairs)
        if stray:
            yield ERROR, number, f"{stray} frames are of rows that its plan does not name; {_REBUILD}"


def _range(material: Material) -> Found:
    for number, record in material.episodes:
        action = material.column("action", number).astype(np.float64)
        state = material.column("observation.state", number)
        outside = ~(np.abs(action) <= 1.0 + 1e-6)  # also what is not a number
        if outside.any():
            frame, axis = np.argwhere(outside)[0]
            yield (
                ERROR,
                number,
                f"{outside.sum()} action values are outside [-1, 1], first {ACTION_NAMES[axis]} = "
                f"{action[frame, axis]:.3f} in frame {frame}; delete it or record {material.name(record)} again",
            )
        elif not np.isin(action[:, 6], (0.0, 1.0)).all():
            yield ERROR, number, f"gripper_open is neither 0 nor 1 in some frames; {_REBUILD}"
        if not np.isfinite(state).all():
            frame, axis = np.argwhere(~np.isfinite(state))[0]
            yield ERROR, number, f"state {STATE_NAMES[axis]} of frame {frame} is not finite; delete it"


def _rotation(material: Material) -> Found:
    by_task: dict[str, list[tuple[Floats, Task]]] = defaultdict(list)
    driven: set[str] = set()  # tasks that a person drove, at times
    for number, record in material.episodes:
        task = material.task(record)
        if task is not None and material.has("provenance.source"):
            sources = material.column("provenance.source", number)
            driven |= {task.name} if (sources != Source.POLICY).any() else set()
        turns = material.column("action", number)[:, 3:6].astype(np.float64)
        if task is not None and task.family in _INSERTIONS and len(turns) >= len(_PARTS):
            means = np.array([part.mean(axis=0) for part in np.array_split(turns, len(_PARTS))])
            by_task[task.name].append((means, task))
    for name, of_task in by_task.items():
        if len(of_task) < ROTATION_MIN_EPISODES:
            continue
        task = of_task[0][1]
        # what the task asks for anyway, TCP frame
        needed_rad = np.abs(body_delta(task.start.pose.pose(), task.success.goal.pose())[3:])
        limits = (
            ROTATION_LIMIT,
            ROTATION_LIMIT,
            ROTATION_LIMIT_RANDOM if task.start.randomize.yaw_rad else ROTATION_LIMIT,
        )
        means = np.array([m for m, _ in of_task])
        errors = 4.0 if len(means) >= 10 else 6.0  # standard errors: few episodes have wide tails
        for part, axis in np.ndindex(len(_PARTS), 3):
            values = means[:, part, axis]
            centre, spread = float(np.median(values)), float(values.std(ddof=1)) / len(values) ** 0.5
            if needed_rad[axis] < 0.01 and abs(centre) > limits[axis] and abs(values.mean()) > errors * spread:
                learned = material.has("provenance.source") and name not in driven
                yield (
                    WARN if learned else ERROR,  # a policy may have learned to lean the tool, which costs it nothing
                    None,
                    f"{name}: {ACTION_NAMES[3 + axis]} is {centre:+.3f} at the {_PARTS[part]} of most of {len(values)} "
                    f"episodes (limit {limits[axis]}), although the task asks for none there: check the frame of the "
                    "recorded actions, a translation must not become a rotation",
                )


def _mixed(material: Material) -> Found:
    fps = float(material.set.info["fps"])
    scales = Counter(record.scale for record in material.set.episodes)
    usual = scales.most_common(1)[0][0] if scales else ()
    rules = {number: task.control.setpoint for number, record in material.episodes if (task := material.task(record))}
    rule = Counter(rules.values()).most_common(1)[0][0] if rules else None
    for number, record in material.episodes:
        if abs(record.rate_hz - fps) > 1e-6:
            yield ERROR, number, f"rate is {record.rate_hz:g} Hz, the set's is {fps:g} Hz; set rate_hz in the recipe"
        if rules.get(number, rule) is not rule:
            yield (
                ERROR,
                number,
                f"its actions start from the {rules[number]} pose, most from the {rule} one (control.setpoint): one "
                "action would mean two motions; build a set for each",
            )
        if len(record.scale) != len(usual) or not np.allclose(record.scale, usual, rtol=1e-6):
            yield (
                ERROR,
                number,
                f"action scale is {_numbers(record.scale)}, most have {_numbers(usual)}: one action would "
                "mean two motions; build a set for each scale",
            )


def _stale(material: Material) -> Found:
    for number, record in material.episodes:
        state = material.column("observation.state", number).astype(np.float64)
        encoded = material.set.encoded_images(number)
        images: Any = encoded if encoded is not None else material.set.images(number)
        first = 0
        for frame in range(1, len(state)):
            if not np.array_equal(images[frame], images[first]):
                first = frame
                continue
            moved = np.abs(state[frame, :6] - state[first, :6])
            if np.linalg.norm(moved[:3]) > FROZEN_MOTION_M or np.linalg.norm(moved[3:]) > FROZEN_MOTION_RAD:
                yield (
                    ERROR,
                    number,
                    f"frames {first} to {frame} show the same image although the TCP moved "
                    f"{np.linalg.norm(moved[:3]) * 1000:.1f} mm: the camera was frozen; delete the episode "
                    f"({material.name(record)})",
                )
                break


def _ages(material: Material) -> Found:
    gone = 0
    for number, record in material.episodes:
        for segment in record.segments:
            if not 0 <= segment.bag < len(material.provenance.bags):
                continue
            path = material.provenance.bags[segment.bag].path
            try:
                episode = material.read(Path(path))
            except BagError:
                gone += 1
                continue
            rows = [row for row in segment.rows if 0 <= row < len(episode)]
            limit_s = episode.info.task.safety.max_observation_age_s
            for what, values in (
                ("image", episode.image_age_s),
                ("state", episode.state_age_s),
                ("skew", episode.skew_s),
            ):
                worst_s = float(np.abs(values[rows]).max(initial=0.0))
                if not worst_s <= limit_s:
                    text = (
                        f"image and state are {worst_s:.3f} s apart"
                        if what == "skew"
                        else f"{what} is {worst_s:.3f} s old"
                    )
                    yield ERROR, number, f"{text}, limit {limit_s} s; delete it and look at the audit of {path}"
    if gone:
        yield (
            WARN,
            None,
            f"{gone} bags cannot be read: ages of their images were not checked; waive ages if that is meant",
        )


def _interventions(material: Material) -> Found:
    for number, record in material.episodes:
        sources = material.sources(record.group)
        if record.relabelled or not sources or any(s.select.driven_by is not DrivenBy.POLICY for s in sources):
            continue
        human = int((material.column("provenance.source", number) == Source.HUMAN).sum())
        if human:
            yield (
                ERROR,
                number,
                f"{human} of {record.length} frames are a human's, but source {record.group!r} is to be driven by "
                f"policies alone; delete it or allow them with driven_by: mixed ({material.name(record)})",
            )


def _outcome(material: Material) -> Found:
    for number, record in material.episodes:
        wanted = {outcome for source in material.sources(record.group) for outcome in source.select.outcome}
        for bag in material.bags(record):
            if bag.outcome != Outcome.SUCCESS and bag.outcome not in wanted:
                yield ERROR, number, f"its bag ended in {bag.outcome}, not in success; delete it ({bag.path})"
        if material.column("next.done", number)[:-1].any():
            yield ERROR, number, f"goes on after the end of the task; {_REBUILD}"
        elif all(bag.outcome == Outcome.SUCCESS for bag in material.bags(record)) and not (
            material.column("next.done", number)[-1] and material.column("next.reward", number)[-1] > 0
        ):
            yield WARN, number, "is a success, but its last frame has no reward or end: the label was given afterwards"


def _leakage(material: Material) -> Found:
    seen: dict[tuple[str, ...], tuple[str, int]] = {}
    for number, record in material.episodes:
        told = False
        for bag in material.bags(record):
            ties = (("bag " + bag.path,), (bag.task, bag.scene, str(bag.seed)))
            for tie in ties:
                split, other = seen.setdefault(tie, (record.split, number))
                if split != record.split and not told:
                    told = True
                    what = tie[0] if len(tie) == 1 else f"task {bag.task}, scene {bag.scene!r} and seed {bag.seed}"
                    yield (
                        ERROR,
                        number,
                        f"is in {record.split!r}, episode {other} of the same {what} is in {split!r}: a test on "
                        "it would measure memory; split the set again",
                    )


def _repeated(material: Material) -> Found:
    seen: dict[tuple[int, int], int] = {}
    for number, record in material.episodes:
        rows = [(segment.bag, row) for segment in record.segments for row in segment.rows]
        twice = [pair for pair in rows if pair in seen]
        if twice:
            yield (
                ERROR,
                number,
                f"{len(twice)} of its rows are in episode {seen[twice[0]]} too; delete one of them",
            )
        seen.update(dict.fromkeys(rows, number))


def _constant(material: Material) -> Found:
    action = material.column("action")
    for axis in np.flatnonzero(np.ptp(action[:, :6], axis=0) < 1e-6) if len(action) else ():
        yield WARN, None, f"{ACTION_NAMES[axis]} is {action[0, axis]:.3f} in every frame: nothing can be learned of it"
    grips: dict[str, list[bool]] = defaultdict(list)
    for number, record in material.episodes:
        task = material.task(record)
        if task is not None and task.control.gripper is GripperUse.BINARY:
            grips[task.name].append(bool(np.ptp(material.column("action", number)[:, 6]) > 0))
    for name, changes in grips.items():
        if not any(changes):
            yield (
                ERROR,
                None,
                f"{name} is a grasping task, but the gripper changes in none of {len(changes)} episodes; check that "
                "the gripper was recorded and that trimming or splicing did not cut it out",
            )


def _length(material: Material) -> Found:
    for number, record in material.episodes:
        if record.length < MIN_FRAMES:
            yield (
                WARN,
                number,
                f"has {record.length} frames, fewer than {MIN_FRAMES}; delete it ({material.name(record)})",
            )
    count = sum(record.split == "train" for record in material.set.episodes)
    if count < MIN_EPISODES:
        yield WARN, None, f"has {count} episodes to train on, fewer than {MIN_EPISODES}; record more"


def _instruction(material: Material) -> Found:
    for number, record in material.episodes:
        if not record.instruction.strip():
            yield ERROR, number, f"has no instruction; delete it or record it again ({material.name(record)})"


def _balance(material: Material) -> Found:
    counts: Counter[str] = Counter()
    for _, record in material.episodes:
        if record.split == "train":
            counts.update({bag.task for bag in material.bags(record)})
    if counts and max(counts.values()) > _UNBALANCED * min(counts.values()):
        named = ", ".join(f"{count} of {name}" for name, count in counts.most_common())
        yield WARN, None, f"objects are unequal: {named}; add balance to the recipe"


def _statistics(material: Material) -> Found:
    train = np.repeat([record.split == "train" for record in material.set.episodes], material.set.lengths)
    try:
        known = material.set.statistics[material.set.name]
        for key, column in (("action", "action"), ("proprio", "observation.state")):
            true = column_statistics(material.column(column)[train])
            for name, values in known[key].items():
                if name in true and not np.allclose(values, true[name], rtol=1e-5, atol=1e-5, equal_nan=True):
                    yield (
                        ERROR,
                        None,
                        f"dataset_statistics.json: {name} of {key} is {_numbers(values)}, of the frames it is "
                        f"{_numbers(true[name])}; policies would be normalised wrongly: {_REBUILD}",
                    )
    except (KeyError, TypeError, ValueError, DatasetError) as error:
        text = str(error) if isinstance(error, DatasetError) else f"dataset_statistics.json: {error!r}"
        yield ERROR, None, f"{text}; {_REBUILD}"


CHECKS: dict[str, Callable[[Material], Found]] = {
    "provenance": _check_provenance,
    "range": _range,
    "rotation": _rotation,
    "mixed": _mixed,
    "stale": _stale,
    "ages": _ages,
    "interventions": _interventions,
    "outcome": _outcome,
    "leakage": _leakage,
    "repeated": _repeated,
    "constant": _constant,
    "length": _length,
    "instruction": _instruction,
    "balance": _balance,
    "statistics": _statistics,
}


def _numbers(values: Any) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"
