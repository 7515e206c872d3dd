"""From bags and a recipe to a plan: which steps of which episodes, in which split.

Every operation is a function from items to items and to what it dropped. All are deterministic for a seed, and none
repeats an episode: shares are met by leaving episodes out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from rldg_recorder.episode import BagError, Episode, EpisodeInfo, read_info
from rldg_recorder.episode_reader import find_bags, read_episode
from rldg_recorder.items import Dropped, Item, Reader
from rldg_recorder.plan import DatasetError, Plan, PlannedEpisode, Segment
from rldg_recorder.recipe import (
    Balance,
    Cap,
    DrivenBy,
    Images,
    Mix,
    ObjectKey,
    Recipe,
    Select,
    TrimIdle,
    Unit,
    utc,
)
from rldg_recorder.splice import splice_items

_MOVING_M = 0.0005  # a gripper that moves by more in a tick is still on its way

T = TypeVar("T")
K = TypeVar("K")


@dataclass(frozen=True)
class PlanReport:
    """What became of the episodes that were found."""

    found: int
    dropped: tuple[Dropped, ...]
    chosen: dict[str, tuple[int, int]]  # by source: episodes, frames

    def counts(self) -> dict[str, int]:
        """How many were dropped for each ``source: reason``, most frequent first."""
        return dict(Counter(map(_named, self.dropped)).most_common())

    def lines(self) -> list[str]:
        """For people."""
        taken = [f"{name}: {episodes} episodes, {frames} frames" for name, (episodes, frames) in self.chosen.items()]
        examples = {_named(d): f", for instance {_example(d)}" for d in reversed(self.dropped) if d.detail}
        counts = self.counts().items()
        left = [f"left out: {count} ({reason}){examples.get(reason, '')}" for reason, count in counts]
        return [f"{self.found} episodes found", *taken, *left]


def _named(dropped: Dropped) -> str:
    return f"{dropped.source}: {dropped.reason}" if dropped.source else dropped.reason


def _example(dropped: Dropped) -> str:
    named = dropped.detail.startswith(str(dropped.folder))
    return dropped.detail if named else f"{dropped.folder}: {dropped.detail}"


def make_plan(recipe: Recipe, read: Reader = read_episode) -> tuple[Plan, PlanReport]:
    """Carry out a recipe up to, not including, the reading of images.

    Args:
        recipe: its bag folders are relative to the working directory.
        read: reads a bag; only called where steps are trimmed or spliced.

    Returns:
        The plan, train before test, and what was left out and why.

    Raises:
        DatasetError: a bag folder is missing, nothing is left, rates differ, or an operation cannot be done.
    """
    found, dropped = find(recipe.bags)
    count = len(found) + len(dropped)
    found = _exclude(found, recipe, dropped)
    items: list[Item] = []
    for source, chosen in select_sources(found, recipe, dropped):
        for folder, info in chosen:
            try:
                rows = range(info.steps - 1) if recipe.trim_idle is None else trim(read(folder), recipe.trim_idle)
            except BagError as error:
                dropped.append(Dropped(folder, source, "unreadable", str(error)))
                continue
            segment = Segment(bag=str(folder), rows=tuple(rows))
            planned = PlannedEpisode(segments=(segment,), instruction=info.instruction, group=source)
            items.append(Item(planned, (info,)))
    if recipe.splice is not None:
        prefixes = [item for item in items if item.planned.group == recipe.splice.prefix]
        suffixes = [item for item in items if item.planned.group == recipe.splice.suffix]
        spliced, lost = splice_items(prefixes, suffixes, recipe.splice, read)
        items = [item for item in items if item.planned.group in recipe.groups] + spliced
        dropped += lost
    if not items:
        raise DatasetError(_nothing_left(recipe, PlanReport(count, tuple(dropped), {})))
    rate_hz, items = change_rate(items, recipe.rate_hz)
    if recipe.relabel is not None:
        names, policy = recipe.relabel.sources, recipe.relabel.policy
        items = [item.replace(relabel=policy) if item.planned.group in names else item for item in items]
    items = _choose(items, recipe, dropped)
    items = [
        item
        for group in recipe.groups
        for item in sorted((i for i in items if i.planned.group == group), key=lambda i: str(i.folder))
    ]
    if recipe.split is not None:
        items = split(items, recipe.split.test, np.random.default_rng([recipe.seed, 9]))
    items.sort(key=lambda item: item.planned.split != "train")
    plan = Plan(
        name=recipe.name,
        episodes=tuple(item.planned for item in items),
        rate_hz=rate_hz,
        image_size_px=recipe.format.image_size_px,
        video=recipe.format.images is Images.VIDEO,
        jpeg=recipe.format.images is Images.JPEG,
        relabel_parameters=_texts(recipe.relabel.parameters if recipe.relabel is not None else {}),
        recipe=recipe.text,
    )
    shares = {group: [item for item in items if item.planned.group == group] for group in recipe.groups}
    chosen_counts = {group: (len(of), sum(item.frames for item in of)) for group, of in shares.items()}
    return plan, PlanReport(count, tuple(dropped), chosen_counts)


# --- finding and selecting -------------------------------------------------------------------------------------------


def find(folders: Sequence[str]) -> tuple[list[tuple[Path, EpisodeInfo]], list[Dropped]]:
    """All whole episodes below some folders, sorted, each recording once; and those that cannot be used.

    Raises:
        DatasetError: a folder does not exist.
    """
    found: list[tuple[Path, EpisodeInfo]] = []
    dropped: list[Dropped] = []
    recordings: dict[tuple[str, str, int], Path] = {}
    for folder in sorted({path.resolve() for name in folders for path in _bags_in(Path(name))}):
        try:
            info = read_info(folder)
        except BagError as error:
            dropped.append(Dropped(folder, "", "episode.yaml cannot be read", str(error)))
            continue
        first = recordings.setdefault((info.session_id, info.episode_id, info.began_ns), folder)
        if first != folder:
            dropped.append(Dropped(folder, "", "a copy of another bag", str(first)))
        elif info.state != "complete":
            remedy = "; try ./rldg bag salvage" if info.state == "recording" else ""
            dropped.append(Dropped(folder, "", f"{info.state}{remedy}"))
        elif info.steps < 2:
            dropped.append(Dropped(folder, "", "has no action"))
        else:
            found.append((folder, info))
    return found, dropped


def _bags_in(folder: Path) -> list[Path]:
    try:
        return find_bags(folder)
    except BagError as error:
        raise DatasetError(f"recipe: bags: {error}") from None


def _exclude(
    found: list[tuple[Path, EpisodeInfo]], recipe: Recipe, dropped: list[Dropped]
) -> list[tuple[Path, EpisodeInfo]]:
    unknown = sorted(set(recipe.exclude) - {info.episode_id for _, info in found})
    if unknown:
        raise DatasetError(f"recipe: exclude: no whole episode {unknown[0]!r} in {', '.join(recipe.bags)}")
    dropped += [Dropped(folder, "", "excluded") for folder, info in found if info.episode_id in recipe.exclude]
    return [(folder, info) for folder, info in found if info.episode_id not in recipe.exclude]


def refusal(info: EpisodeInfo, select: Select) -> str:
    """Why a source does not take an episode, "" if it does."""
    drove = {policy.policy_id for policy in info.policies if policy.steps > 0}
    began = datetime.fromtimestamp(info.began_ns * 1e-9, UTC)
    drivers = {(True, True): "mixed", (True, False): "policy", (False, True): "human", (False, False): "nobody"}
    driven_by = drivers[bool(drove), info.human_steps > 0]
    checks = (
        (not select.task or info.task.name in select.task, f"task {info.task.name}"),
        (not select.scene or info.scene in select.scene, f"scene {info.scene}"),
        (not select.outcome or info.outcome in select.outcome, f"outcome {info.outcome.value}"),
        (select.driven_by in (DrivenBy.ANY, driven_by), f"driven by {driven_by}"),
        (not select.policy or (drove and drove <= set(select.policy)), f"policy {', '.join(sorted(drove)) or 'none'}"),
        (not select.operator or info.operator in select.operator, f"operator {info.operator or 'unknown'}"),
        (not select.session or info.session_id in select.session, f"session {info.session_id}"),
        (select.after is None or began >= utc(select.after), "too early"),
        (select.before is None or began < utc(select.before), "too late"),
        (not select.audit or info.audit in select.audit, f"audit {info.audit or 'missing'}"),
    )
    return next((reason for holds, reason in checks if not holds), "")


def select_sources(
    found: Iterable[tuple[Path, EpisodeInfo]], recipe: Recipe, dropped: list[Dropped]
) -> list[tuple[str, list[tuple[Path, EpisodeInfo]]]]:
    """The episodes of each source; those that none takes are added to ``dropped``, once for each source."""
    chosen: dict[str, list[tuple[Path, EpisodeInfo]]] = {source.name: [] for source in recipe.sources}
    for folder, info in found:
        reasons = {source.name: refusal(info, source.select) for source in recipe.sources}
        taker = next((name for name, reason in reasons.items() if not reason), None)
        if taker is not None:
            chosen[taker].append((folder, info))
        else:
            dropped += [Dropped(folder, name, reason) for name, reason in reasons.items()]
    return list(chosen.items())


# --- steps -----------------------------------------------------------------------------------------------------------


def trim(episode: Episode, idle: TrimIdle) -> tuple[int, ...]:
    """Rows that remain when nothing happens at the others.

    Idle is a step that commands nothing while the gripper stands still; of each run of them ``keep`` stay. The last
    action always stays: it earned the outcome.
    """
    n = episode.actions
    executed, closed, width_m = episode.executed[:n], episode.executed_gripper_closed[:n], episode.gripper_width_m[:n]
    still = np.linalg.norm(executed[:, :3], axis=1) <= idle.translation
    still &= np.linalg.norm(executed[:, 3:], axis=1) <= idle.rotation
    still &= closed == np.concatenate([episode.gripper_closed[:1], closed[:-1]])
    still &= np.abs(np.diff(width_m, append=width_m[-1:])) <= _MOVING_M
    still[-1:] = False
    kept, run = [], 0
    for row in range(n):
        run = run + 1 if still[row] else 0
        if run <= idle.keep:
            kept.append(row)
    return tuple(kept)


def change_rate(items: Sequence[Item], rate_hz: float | None) -> tuple[float, list[Item]]:
    """Set the strides that bring every episode to one rate; None keeps the control rate, which must then be one.

    The head of a segment that another follows loses the rows that do not fill a frame: a frame across a splice would be
    of two bags.

    Raises:
        DatasetError: a control rate is no whole multiple of the rate, or the control rates differ.
    """
    rates = {item.infos[0].task.control.rate_hz: item for item in items}
    if rate_hz is None and len(rates) > 1:
        named = ", ".join(f"{rate:g} Hz ({item.folder})" for rate, item in sorted(rates.items(), key=lambda r: r[0]))
        raise DatasetError(f"recipe: episodes have different control rates: {named}; set rate_hz or select one")
    goal_hz = next(iter(rates)) if rate_hz is None else rate_hz
    changed = []
    for item in items:
        control_hz = item.infos[0].task.control.rate_hz
        stride = round(control_hz / goal_hz)
        if stride < 1 or abs(control_hz / goal_hz - stride) > 1e-6:
            raise DatasetError(
                f"recipe: rate_hz: {goal_hz:g} Hz does not divide the {control_hz:g} Hz of {item.folder}; use "
                f"{control_hz:g} Hz divided by a whole number"
            )
        *heads, last = item.planned.segments
        cut = [Segment(bag=head.bag, rows=head.rows[len(head.rows) % stride :]) for head in heads]
        segments = (*(segment for segment in cut if segment.rows), last)
        changed.append(item.replace(segments=segments, stride=stride))
    return goal_hz, changed


# --- how many --------------------------------------------------------------------------------------------------------


def _choose(items: list[Item], recipe: Recipe, dropped: list[Dropped]) -> list[Item]:
    """Balance, mix and cap; what mix and cap leave uneven is balanced again."""
    by = recipe.balance.by if recipe.balance is not None else ObjectKey.SCENE
    operations: list[tuple[str, Callable[[list[Item], np.random.Generator], list[Item]]]] = []
    if (wanted := recipe.balance) is not None:
        _check_objects(items, recipe)
        operations.append(("balance", lambda of, rng: balance(of, wanted, rng)))
    if (shares := recipe.mix) is not None:
        operations.append(("mix", lambda of, rng: mix(of, shares, by, rng)))
    if (limit := recipe.cap) is not None:
        operations.append(("cap", lambda of, rng: cap(of, limit, by, rng)))
    if recipe.balance is not None and len(operations) > 1:
        operations.append(("balance", lambda of, rng: balance(of, Balance(by=by), rng)))
    for number, (name, operation) in enumerate(operations):
        remaining = operation(items, np.random.default_rng([recipe.seed, number]))
        kept = {id(item) for item in remaining}
        dropped += [Dropped(i.folder, i.planned.group, f"over the {name}") for i in items if id(i) not in kept]
        items = remaining
    return items


def _check_objects(items: list[Item], recipe: Recipe) -> None:
    """A task that a source names and has no episode of is not balanced, it is missing."""
    for source in recipe.sources:
        there = {item.infos[0].task.name for item in items if item.planned.group == source.name}
        missing = sorted(set(source.select.task) - there)
        if there and missing:
            raise DatasetError(
                f"recipe: balance: {source.name!r} has no episode of {', '.join(missing)}; record some or leave them "
                "out of select.task"
            )


def balance(items: Sequence[Item], wanted: Balance, rng: np.random.Generator) -> list[Item]:
    """Within each source, the same number of episodes of each object, drawn at random.

    Raises:
        DatasetError: an object has fewer episodes than ``wanted.episodes``.
    """
    kept: list[Item] = []
    for group, of_group in _grouped(items, lambda item: item.planned.group).items():
        objects = _grouped(of_group, lambda item: item.about(wanted.by))
        rarest = min(objects, key=lambda name: len(objects[name]))
        count = wanted.episodes if wanted.episodes is not None else len(objects[rarest])
        if len(objects[rarest]) < count:
            raise DatasetError(
                f"recipe: balance.episodes: {count}, but {group!r} has {len(objects[rarest])} of {rarest}; record "
                f"{count - len(objects[rarest])} more or ask for fewer"
            )
        for of_object in objects.values():
            order = rng.permutation(len(of_object))[:count]
            kept += [of_object[i] for i in sorted(order)]
    return kept


def mix(items: Sequence[Item], wanted: Mix, by: ObjectKey, rng: np.random.Generator) -> list[Item]:
    """The largest choice in which sources have their shares, up to one episode each; objects stay in proportion.

    Raises:
        DatasetError: a source that has a weight has no episode.
    """
    groups = _grouped(items, lambda item: item.planned.group)
    for name in wanted.weights:
        if name not in groups:
            raise DatasetError(f"recipe: mix: no episode of {name!r} is left; loosen its selection or drop its weight")
    sizes = {name: [_size(item, wanted.by) for item in of] for name, of in groups.items()}
    total = min(sum(sizes[name]) / weight for name, weight in wanted.weights.items())
    kept: list[Item] = []
    for name, weight in wanted.weights.items():
        order = proportional([item.about(by) for item in groups[name]], rng)
        reached = np.cumsum([sizes[name][i] for i in order])
        count = int(np.argmin(np.abs(reached - weight * total))) + 1
        kept += [groups[name][i] for i in sorted(order[:count])]
    return kept


def cap(items: Sequence[Item], limit: Cap, by: ObjectKey, rng: np.random.Generator) -> list[Item]:
    """As many episodes as the limits allow, in the proportions of sources and objects.

    Raises:
        DatasetError: not even one episode fits.
    """
    order = proportional([f"{item.planned.group}/{item.about(by)}" for item in items], rng)
    frames = np.cumsum([items[i].frames for i in order])
    count = len(order) if limit.frames is None else int(np.searchsorted(frames, limit.frames, side="right"))
    count = min(count, limit.episodes if limit.episodes is not None else count)
    if count == 0:
        raise DatasetError(f"recipe: cap.frames: {limit.frames} is less than one episode of {frames[0]} frames")
    return [items[i] for i in sorted(order[:count])]


def proportional(keys: Sequence[str], rng: np.random.Generator) -> list[int]:
    """An order of indices in which every beginning holds the keys in about their proportions; random within a key."""
    places: list[tuple[float, str, int]] = []
    for key, of_key in _grouped(range(len(keys)), lambda i: keys[i]).items():
        for place, i in enumerate(rng.permutation(len(of_key))):
            places.append(((place + 0.5) / len(of_key), key, of_key[i]))
    return [index for _, _, index in sorted(places)]


def split(items: Sequence[Item], test: float, rng: np.random.Generator) -> list[Item]:
    """Put whole episodes aside for testing: about that share of each object's, at least one where it has several.

    Episodes that share a bag, or task, scene and seed (the same start), go to the same side.

    Raises:
        DatasetError: everything hangs together, so that one side would be empty.
    """
    objects = [item.about(ObjectKey.SCENE) for item in items]
    aside = split_off(objects, [_ties(item) for item in items], test, rng)
    return [item.replace(split="test" if i in aside else "train") for i, item in enumerate(items)]


def split_off(
    objects: Sequence[str], ties: Sequence[Iterable[Hashable]], test: float, rng: np.random.Generator
) -> set[int]:
    """Which episodes to put aside, by number; see :func:`split`.

    Args:
        objects: what each episode is about.
        ties: of each episode; those that have one in common stay together.
    """
    aside: set[int] = set()
    for of_object in _grouped(_bundles(ties), lambda bundle: objects[bundle[0]]).values():
        wanted = max(1.0, test * sum(len(bundle) for bundle in of_object))
        taken = 0
        for i in rng.permutation(len(of_object))[:-1]:  # one always stays
            if taken >= wanted or (taken and taken + len(of_object[i]) / 2 > wanted):
                break
            taken += len(of_object[i])
            aside.update(of_object[i])
    if not aside:
        raise DatasetError(
            f"split: {len(objects)} episodes cannot be split: all of an object share bags, or task, scene and seed; "
            "record with other seeds or leave split out"
        )
    return aside


# --- parts -----------------------------------------------------------------------------------------------------------


def _ties(item: Item) -> list[Hashable]:
    starts = [(info.task.name, info.scene, info.seed) for info in item.infos]
    return [*starts, *(segment.bag for segment in item.planned.segments)]


def _bundles(ties: Sequence[Iterable[Hashable]]) -> list[list[int]]:
    """Numbers of the episodes that must stay together."""
    owner: dict[Hashable, int] = {}
    root = list(range(len(ties)))

    def top(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    for i, of_episode in enumerate(ties):
        for key in of_episode:
            root[top(i)] = top(owner.setdefault(key, i))
    return list(_grouped(range(len(ties)), top).values())


def _grouped(values: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    groups: dict[K, list[T]] = defaultdict(list)
    for value in values:
        groups[key(value)].append(value)
    return dict(groups)


def _size(item: Item, unit: Unit) -> int:
    return item.frames if unit is Unit.FRAMES else 1


def _texts(parameters: dict[str, str | float | int | bool]) -> dict[str, str]:
    """Parameters as a plan holds them: each as JSON, which YAML readers read too."""
    return {key: msgspec.json.encode(value).decode() for key, value in parameters.items()}


def _nothing_left(recipe: Recipe, report: PlanReport) -> str:
    reasons = "; ".join(f"{count} {reason}" for reason, count in report.counts().items()) or "there is no episode.yaml"
    return f"recipe {recipe.name}: none of {report.found} episodes in {', '.join(recipe.bags)} is left: {reasons}"
