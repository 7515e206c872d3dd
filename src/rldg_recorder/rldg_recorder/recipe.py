"""The recipe of a training set, ``config/recording/<recipe>.yaml``: which episodes, and what is done with them.

Same rules as task files: strict, ``extends`` allowed, one line of error. Operations apply in the order of the fields of
:class:`Recipe`. Only the order is fixed; whatever a recipe leaves out is not done.
"""

from __future__ import annotations

import datetime
import enum
from pathlib import Path
from typing import Annotated

import msgspec

from rldg_core.task import Name, TaskError, read_yaml
from rldg_core.types import Outcome
from rldg_core.yaml_text import decode_yaml
from rldg_recorder.plan import DatasetError

Count = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
Fraction = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Rate = Annotated[float, msgspec.Meta(ge=0.1, le=50.0)]  # Hz
Gap = Annotated[float, msgspec.Meta(gt=0.0, le=10.0)]
Weight = Annotated[float, msgspec.Meta(gt=0.0, le=1e6)]

SPLICED = "spliced"  # name of the source that splicing makes of two


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part of a recipe: immutable, and an unknown key is an error."""


class DrivenBy(enum.StrEnum):
    ANY = "any"
    POLICY = "policy"  # no intervention
    HUMAN = "human"  # a demonstration: no policy drove a single step
    MIXED = "mixed"  # a policy with interventions


class Verdict(enum.StrEnum):
    """Of the audit; "" stands for an episode that was not judged."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    NONE = ""


class Select(_Strict, frozen=True, kw_only=True):
    """Conditions on ``episode.yaml``, all of which must hold; an empty list allows everything."""

    task: tuple[str, ...] = ()
    scene: tuple[str, ...] = ()
    outcome: tuple[Outcome, ...] = (Outcome.SUCCESS,)
    driven_by: DrivenBy = DrivenBy.ANY
    policy: tuple[str, ...] = ()  # ids; every policy that drove must be among them, and at least one
    operator: tuple[str, ...] = ()
    session: tuple[str, ...] = ()
    after: datetime.datetime | None = None  # beginning of the episode; UTC where no zone is given
    before: datetime.datetime | None = None
    audit: tuple[Verdict, ...] = (Verdict.OK, Verdict.WARN)


class Source(_Strict, frozen=True, kw_only=True):
    """Episodes that are treated alike. An episode belongs to the first source that selects it."""

    name: Name
    select: Select = Select()


class TrimIdle(_Strict, frozen=True, kw_only=True):
    """Drop steps at which nothing was commanded, beyond ``keep`` of them in a row. Thresholds in action units."""

    translation: Fraction = 0.02
    rotation: Fraction = 0.02
    keep: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 1


class Event(enum.StrEnum):
    GRASP = "grasp"  # the gripper is told to close
    RELEASE = "release"  # the gripper is told to open
    CONTACT = "contact"  # the wrench first reaches contact_n: insertion begins
    LIFT = "lift"  # the TCP has risen by lift_m since the last grasp


class Until(_Strict, frozen=True, kw_only=True):
    """Where the prefix may end: from ``after_steps`` after an event, within ``window_steps``."""

    event: Event
    contact_n: Gap = 4.0
    lift_m: Gap = 0.02
    after_steps: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    window_steps: Count = 10


class Splice(_Strict, frozen=True, kw_only=True):
    """One source's beginnings, continued by another from a state nearby. Limits are on the jump between the two."""

    prefix: Name
    suffix: Name
    until: Until
    max_gap_m: Gap = 0.01
    max_gap_rad: Gap = 0.1
    max_speed_gap_m_s: Gap = 0.05
    max_speed_gap_rad_s: Gap = 0.3
    max_gap_width_m: Gap = 0.005  # of the gripper: the same thing in it, or nothing


class Relabel(_Strict, frozen=True, kw_only=True):
    """Replace the actions of sources by those of a policy of the entry point group ``rldg.policies``."""

    sources: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    policy: str
    parameters: dict[str, str | float | int | bool] = {}


class ObjectKey(enum.StrEnum):
    TASK = "task"
    SCENE = "scene"  # of a task


class Balance(_Strict, frozen=True, kw_only=True):
    """Equal numbers of episodes per object, within each source."""

    by: ObjectKey = ObjectKey.TASK
    episodes: Count | None = None  # of each object; None: as many as the rarest one has


class Unit(enum.StrEnum):
    EPISODES = "episodes"
    FRAMES = "frames"


class Mix(_Strict, frozen=True, kw_only=True):
    """Shares of the sources: the largest set that has them without repeating an episode.

    They are met up to one episode, with ``balance`` up to one of each object.
    """

    weights: dict[str, Weight]
    by: Unit = Unit.EPISODES


class Cap(_Strict, frozen=True, kw_only=True):
    episodes: Count | None = None
    frames: Count | None = None


class SplitOff(_Strict, frozen=True, kw_only=True):
    """Whole episodes for testing, of every object; what shares a bag, or task, scene and seed, stays together."""

    test: Annotated[float, msgspec.Meta(gt=0.0, le=0.9)] = 0.1


class Images(enum.StrEnum):
    IMAGE = "image"  # PNG, lossless
    JPEG = "jpeg"
    VIDEO = "video"


class Format(_Strict, frozen=True, kw_only=True):
    images: Images = Images.IMAGE
    image_size_px: Annotated[int, msgspec.Meta(ge=32, le=512)] = 128


class Recipe(_Strict, frozen=True, kw_only=True):
    """One file of ``config/recording``."""

    name: Name
    bags: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("bags",)  # folders, from the working directory
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0  # of everything that is drawn
    exclude: tuple[str, ...] = ()  # episode ids, for instance lab/0007: those that a person has looked at and rejected
    sources: Annotated[tuple[Source, ...], msgspec.Meta(min_length=1)]
    trim_idle: TrimIdle | None = None
    splice: Splice | None = None
    rate_hz: Rate | None = None  # a whole fraction of the control rate: deltas are composed
    relabel: Relabel | None = None
    balance: Balance | None = None
    mix: Mix | None = None
    cap: Cap | None = None
    split: SplitOff | None = None
    format: Format = Format()

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the sources after splicing."""
        names = tuple(source.name for source in self.sources)
        if self.splice is None:
            return names
        return (*(name for name in names if name not in (self.splice.prefix, self.splice.suffix)), SPLICED)

    @property
    def text(self) -> str:
        """YAML with every default and extended file in it: says what was done without the file."""
        return msgspec.yaml.encode(msgspec.to_builtins(self)).decode()


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        DatasetError: the file is missing, not YAML, or breaks the schema; one line: file, key, what is allowed.
    """
    try:
        recipe = read_yaml(path, Recipe)
    except TaskError as error:
        raise DatasetError(str(error)) from None
    _check(path, recipe)
    return recipe


def parse_recipe(text: str) -> Recipe:
    """The recipe whose ``text`` this is.

    Raises:
        DatasetError: it is not one.
    """
    try:
        return msgspec.convert(decode_yaml(text), Recipe, strict=False)
    except (msgspec.MsgspecError, ValueError) as error:
        raise DatasetError(f"recipe in the record: {' '.join(str(error).split())[:160]}") from None


def _check(path: Path, recipe: Recipe) -> None:
    """What one key alone cannot say."""
    names = [source.name for source in recipe.sources]
    if len(set(names)) != len(names):
        raise DatasetError(f"{path}: sources: names must differ, got {', '.join(names)}")
    splice = recipe.splice
    if splice is not None:
        for key, name in (("prefix", splice.prefix), ("suffix", splice.suffix)):
            if name not in names:
                raise DatasetError(f"{path}: splice.{key}: no source {name!r}; there are {', '.join(names)}")
        if splice.prefix == splice.suffix:
            raise DatasetError(f"{path}: splice.suffix: {splice.suffix!r} is the prefix too; name another source")
        if SPLICED in names:
            raise DatasetError(f"{path}: sources: {SPLICED!r} is the name of what splicing makes; choose another")
    groups = recipe.groups
    for name in recipe.relabel.sources if recipe.relabel is not None else ():
        if name not in groups:
            raise DatasetError(f"{path}: relabel.sources: no source {name!r}; there are {', '.join(groups)}")
    if recipe.mix is not None and set(recipe.mix.weights) != set(groups):
        raise DatasetError(
            f"{path}: mix.weights: names {', '.join(sorted(recipe.mix.weights))}; must name each of {', '.join(groups)}"
        )
    if recipe.cap is not None and recipe.cap.episodes is None and recipe.cap.frames is None:
        raise DatasetError(f"{path}: cap: needs episodes, frames or both")
    for source in recipe.sources:
        after, before = source.select.after, source.select.before
        if after is not None and before is not None and utc(after) >= utc(before):
            raise DatasetError(f"{path}: sources: {source.name}: select.after {after} must be before {before}")


def utc(moment: datetime.datetime) -> datetime.datetime:
    """With a zone: UTC where it has none."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)
