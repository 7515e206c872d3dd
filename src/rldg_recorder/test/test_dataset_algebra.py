"""A recipe decides which steps of which episodes become a set; whatever it leaves out is counted with its reason."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest

from rldg_core.task import Control, Task
from rldg_core.testing import make_task
from rldg_core.types import Outcome
from rldg_recorder.algebra import (
    balance,
    cap,
    change_rate,
    find,
    make_plan,
    mix,
    proportional,
    refusal,
    split,
    trim,
)
from rldg_recorder.episode import INFO_FILE, PolicyInfo
from rldg_recorder.items import Item
from rldg_recorder.plan import DatasetError, PlannedEpisode, Segment, digest
from rldg_recorder.recipe import Balance, Cap, DrivenBy, Mix, ObjectKey, Recipe, Select, TrimIdle, Unit
from rldg_recorder.testing import Bags, make_episode, make_info

MOVE = [0.1, 0.0, 0.2, 0.0, 0.0, 0.0]
STILL = [0.0] * 6


@pytest.fixture
def bags(tmp_path) -> Bags:
    return Bags(tmp_path / "bags")


def recipe_for(bags: Bags, **changes: object) -> Recipe:
    data = {"name": "a", "bags": [str(bags.root)], "sources": [{"name": "all"}], **changes}
    return msgspec.convert(data, Recipe, strict=False)


def item(number: int, rows: int = 10, group: str = "g", task: str = "peg", scene: str = "seen", seed: int = -1) -> Item:
    segment = Segment(bag=f"/bags/{group}/{task}/{scene}/{number:04d}", rows=tuple(range(rows)))
    planned = PlannedEpisode(segments=(segment,), instruction="a", group=group)
    info = make_info(make_task(name=task), scene=scene, seed=number if seed < 0 else seed)
    return Item(planned, (info,))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def slow_task() -> Task:
    return make_task(name="slow", control=msgspec.to_builtins(Control(rate_hz=20.0)))


# --- finding and selecting


def test_bags_are_found_at_any_depth_in_the_order_of_their_paths(bags) -> None:
    paths = [bags.add(session="b"), bags.add(session="a")]
    found, dropped = find([str(bags.root)])
    assert [folder for folder, _ in found] == sorted(paths)
    assert dropped == []


def test_a_folder_given_twice_counts_once(bags) -> None:
    bags.add()
    found, dropped = find([str(bags.root), str(bags.root / "s")])
    assert len(found) == 1 and dropped == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": "partial"}, "partial"),
        ({"state": "recording"}, "recording; try ./rldg bag salvage"),
        ({"steps": 1}, "has no action"),
    ],
)
def test_episodes_that_are_not_whole_are_left_out_with_a_reason(changes, reason, bags) -> None:
    folder = bags.add()
    bags.add()
    (folder / INFO_FILE).write_bytes(msgspec.yaml.encode(msgspec.to_builtins(make_info(**changes))))
    found, dropped = find([str(bags.root)])
    assert len(found) == 1
    assert [(d.folder, d.reason) for d in dropped] == [(folder, reason)]


def test_an_unreadable_episode_yaml_is_left_out_with_what_is_wrong(bags) -> None:
    folder = bags.add()
    (folder / INFO_FILE).write_text("format: 9\n")
    _, (dropped,) = find([str(bags.root)])
    assert dropped.reason == "episode.yaml cannot be read" and "must be 1" in dropped.detail


def test_a_copy_of_a_bag_is_left_out(bags) -> None:
    folder = bags.add()
    copy = bags.root / "z" / "copy"
    copy.mkdir(parents=True)
    (copy / INFO_FILE).write_bytes((folder / INFO_FILE).read_bytes())
    found, (dropped,) = find([str(bags.root)])
    assert [f for f, _ in found] == [folder]
    assert (dropped.folder, dropped.reason) == (copy, "a copy of another bag")


def test_a_missing_folder_is_refused(tmp_path) -> None:
    with pytest.raises(DatasetError, match=r"bags: .*nowhere: no such folder"):
        find([str(tmp_path / "nowhere")])


def test_excluded_episodes_are_left_out(bags) -> None:
    bags.add(), bags.add()
    plan, report = make_plan(recipe_for(bags, exclude=["s/0001"]), bags.read)
    assert [Path(e.segments[0].bag).name for e in plan.episodes] == ["0002"]
    assert report.counts() == {"excluded": 1} and report.found == 2
    with pytest.raises(DatasetError, match="exclude: no whole episode 's/0009'"):
        make_plan(recipe_for(bags, exclude=["s/0009"]), bags.read)


SUCCESS = make_info(policy="rl")


@pytest.mark.parametrize(
    ("select", "changes", "reason"),
    [
        (Select(), {}, ""),
        (Select(), {"outcome": Outcome.FAILURE}, "outcome failure"),
        (Select(outcome=()), {"outcome": Outcome.FAILURE}, ""),
        (Select(), {"audit": "fail"}, "audit fail"),
        (Select(), {"audit": ""}, "audit missing"),
        (Select(audit=()), {"audit": "fail"}, ""),
        (Select(task=("peg",)), {}, ""),
        (Select(task=("other",)), {}, "task peg"),
        (Select(scene=("other",)), {}, "scene seen"),
        (Select(session=("other",)), {}, "session s"),
        (Select(operator=("scripted",)), {}, ""),
        (Select(operator=("ann",)), {"operator": ""}, "operator unknown"),
        (Select(policy=("rl", "other")), {}, ""),
        (Select(policy=("other",)), {}, "policy rl"),
        (Select(policy=("rl",)), {"policies": ()}, "policy none"),
        (
            Select(policy=("rl",)),
            {"policies": (PolicyInfo(policy_id="rl", steps=1), PolicyInfo(policy_id="vla", steps=1))},
            "policy rl, vla",
        ),
        (
            Select(policy=("rl",)),
            {"policies": (PolicyInfo(policy_id="rl", steps=1), PolicyInfo(policy_id="shadow", steps=0))},
            "",
        ),
        (Select(driven_by=DrivenBy.POLICY), {}, ""),
        (Select(driven_by=DrivenBy.POLICY), {"human_steps": 1}, "driven by mixed"),
        (Select(driven_by=DrivenBy.MIXED), {"human_steps": 1}, ""),
        (Select(driven_by=DrivenBy.HUMAN), {}, "driven by policy"),
        (Select(driven_by=DrivenBy.HUMAN), {"policies": (), "human_steps": 3}, ""),
        (Select(driven_by=DrivenBy.HUMAN), {"policies": ()}, "driven by nobody"),
        (Select(after=datetime(2026, 1, 1, tzinfo=UTC)), {"began_ns": 1_767_225_600_000_000_000}, ""),
        (Select(after=datetime(2026, 1, 1)), {"began_ns": 1_767_225_599_000_000_000}, "too early"),
        (Select(before=datetime(2026, 1, 1)), {"began_ns": 1_767_225_600_000_000_000}, "too late"),
    ],
)  # fmt: skip
def test_an_episode_is_selected_by_what_it_says_of_itself(select, changes, reason) -> None:
    assert refusal(msgspec.structs.replace(SUCCESS, **changes), select) == reason


# --- steps


def kept(deltas, idle: TrimIdle) -> list[int]:
    return list(trim(make_episode(deltas), idle))


def test_idle_steps_beyond_those_kept_are_dropped() -> None:
    deltas = [MOVE, STILL, STILL, STILL, MOVE, STILL, MOVE]
    assert kept(deltas, TrimIdle(keep=1)) == [0, 1, 4, 5, 6]
    assert kept(deltas, TrimIdle(keep=0)) == [0, 4, 6]
    assert kept(deltas, TrimIdle(keep=9)) == list(range(7))


def test_the_last_action_stays_even_if_idle() -> None:
    assert kept([MOVE, STILL, STILL], TrimIdle(keep=0)) == [0, 2]


def test_small_motions_count_by_their_thresholds() -> None:
    turn = [0, 0, 0, 0, 0, 0.05]
    assert kept([turn, turn, MOVE], TrimIdle(keep=0, rotation=0.1)) == [2]
    assert kept([turn, turn, MOVE], TrimIdle(keep=0, rotation=0.01)) == [0, 1, 2]


def test_a_step_that_moves_the_gripper_is_not_idle() -> None:
    closed = [False, False, True, True, True]
    widths = [0.08, 0.08, 0.08, 0.05, 0.02, 0.02]
    episode = make_episode([STILL] * 5, closed=closed, columns={"gripper_width_m": widths})
    # 2 gives the command, during 2 and 3 the fingers move
    assert trim(episode, TrimIdle(keep=0)) == (2, 3, 4)


def test_a_lower_rate_needs_a_whole_stride() -> None:
    rate_hz, (changed,) = change_rate([item(1)], 5.0)
    assert (rate_hz, changed.planned.stride, changed.frames) == (5.0, 2, 5)
    with pytest.raises(DatasetError, match=r"rate_hz: 4 Hz does not divide the 10 Hz of /bags/g/peg/seen/0001"):
        change_rate([item(1)], 4.0)
    with pytest.raises(DatasetError, match="20 Hz does not divide the 10 Hz"):
        change_rate([item(1)], 20.0)


def test_different_control_rates_meet_at_a_common_one() -> None:
    fast = Item(item(2).planned, (make_info(slow_task()),))
    _, changed = change_rate([item(1), fast], 10.0)
    assert [i.planned.stride for i in changed] == [1, 2]
    with pytest.raises(DatasetError, match=r"different control rates: 10 Hz .*, 20 Hz .*; set rate_hz"):
        change_rate([item(1), fast], None)


def test_no_frame_reaches_across_a_splice() -> None:
    head, tail = Segment(bag="/a", rows=(0, 1, 2, 3, 4)), Segment(bag="/b", rows=(5, 6, 7))
    spliced = Item(PlannedEpisode(segments=(head, tail), instruction=""), (make_info(), make_info()))
    _, (changed,) = change_rate([spliced], 5.0)
    assert [segment.rows for segment in changed.planned.segments] == [(1, 2, 3, 4), (5, 6, 7)]
    assert changed.frames == 2 + 2


# --- how many


def test_every_object_has_as_many_episodes_as_the_rarest() -> None:
    items = [item(i, task="usb") for i in range(5)] + [item(i, task="vga") for i in range(3)]
    assert Counter(i.about(ObjectKey.TASK) for i in balance(items, Balance(), rng())) == {"usb": 3, "vga": 3}


def test_scenes_can_be_the_objects() -> None:
    items = [item(i, scene="a") for i in range(4)] + [item(i, scene="b") for i in range(2)]
    assert len(balance(items, Balance(by=ObjectKey.TASK), rng())) == 6
    assert len(balance(items, Balance(by=ObjectKey.SCENE), rng())) == 4


def test_sources_are_balanced_by_themselves() -> None:
    items = [item(i, group="rl", task=t) for t in ("usb", "vga") for i in range(4)]
    items += [item(i, group="human", task=t) for t, n in (("usb", 2), ("vga", 3)) for i in range(n)]
    chosen = Counter((i.planned.group, i.about(ObjectKey.TASK)) for i in balance(items, Balance(), rng()))
    assert chosen == {("rl", "usb"): 4, ("rl", "vga"): 4, ("human", "usb"): 2, ("human", "vga"): 2}


def test_a_balance_that_cannot_be_had_says_how_many_are_missing() -> None:
    items = [item(i, task="usb") for i in range(5)] + [item(i, task="vga") for i in range(3)]
    with pytest.raises(DatasetError, match=r"balance.episodes: 5, but 'g' has 3 of vga; record 2 more"):
        balance(items, Balance(episodes=5), rng())
    assert len(balance(items, Balance(episodes=2), rng())) == 4


def test_which_episodes_stay_depends_on_the_seed_alone() -> None:
    items = [item(i, task="usb") for i in range(20)] + [item(0, task="vga")]
    one, same, other = (balance(items, Balance(), rng(seed)) for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize("weights", [{"rl": 1, "human": 1}, {"rl": 3, "human": 1}, {"rl": 0.1, "human": 0.9}])
def test_a_mix_has_the_shares_asked_for_without_repeating(weights) -> None:
    items = [item(i, group="rl") for i in range(40)] + [item(i, group="human") for i in range(25)]
    chosen = mix(items, Mix(weights=weights), ObjectKey.TASK, rng())
    share = Counter(i.planned.group for i in chosen)
    expected = weights["rl"] / (weights["rl"] + weights["human"])
    assert abs(share["rl"] - expected * len(chosen)) <= 1
    assert len({i.planned.segments[0].bag for i in chosen}) == len(chosen)
    assert share["rl"] == 40 or share["human"] == 25  # the largest such choice


def test_a_mix_by_frames_counts_frames() -> None:
    items = [item(i, rows=20, group="rl") for i in range(30)] + [item(i, rows=60, group="human") for i in range(30)]
    chosen = mix(items, Mix(weights={"rl": 1, "human": 1}, by=Unit.FRAMES), ObjectKey.TASK, rng())
    frames = {g: sum(i.frames for i in chosen if i.planned.group == g) for g in ("rl", "human")}
    assert frames == {"rl": 600, "human": 600}


def test_a_mix_keeps_objects_in_proportion() -> None:
    items = [item(i, group="rl", task=t) for t in ("usb", "vga") for i in range(10)]
    items += [item(i, group="human", task=t) for t in ("usb", "vga") for i in range(3)]
    chosen = mix(items, Mix(weights={"rl": 1, "human": 1}), ObjectKey.TASK, rng())
    counts = Counter((i.planned.group, i.about(ObjectKey.TASK)) for i in chosen)
    assert set(counts.values()) == {3}


def test_a_source_without_episodes_cannot_be_mixed() -> None:
    with pytest.raises(DatasetError, match="mix: no episode of 'human' is left"):
        mix([item(1, group="rl")], Mix(weights={"rl": 1, "human": 1}), ObjectKey.TASK, rng())


def test_a_cap_keeps_sources_and_objects_in_proportion() -> None:
    items = [item(i, group="rl", task=t) for t in ("usb", "vga") for i in range(10)]
    items += [item(i, group="human") for i in range(10)]
    chosen = cap(items, Cap(episodes=6), ObjectKey.TASK, rng())
    assert set(Counter((i.planned.group, i.about(ObjectKey.TASK)) for i in chosen).values()) == {2}


def test_a_cap_of_frames_is_not_exceeded() -> None:
    items = [item(i, rows=30) for i in range(10)]
    assert len(cap(items, Cap(frames=100), ObjectKey.TASK, rng())) == 3
    assert len(cap(items, Cap(frames=100, episodes=2), ObjectKey.TASK, rng())) == 2
    assert len(cap(items, Cap(frames=10_000), ObjectKey.TASK, rng())) == 10
    with pytest.raises(DatasetError, match=r"cap\.frames: 20 is less than one episode of 30 frames"):
        cap(items, Cap(frames=20), ObjectKey.TASK, rng())


def test_every_beginning_of_a_proportional_order_has_the_proportions() -> None:
    keys = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    order = proportional(keys, rng())
    assert sorted(order) == list(range(100))
    for n in range(10, 101, 10):
        assert abs(sum(keys[i] == "a" for i in order[:n]) - 0.6 * n) <= 1


def test_a_split_takes_its_share_of_every_object() -> None:
    items = [item(i, task=t) for t in ("usb", "vga") for i in range(20)]
    chosen = split(items, 0.1, rng())
    assert Counter(i.about(ObjectKey.TASK) for i in chosen if i.planned.split == "test") == {"usb": 2, "vga": 2}


def test_episodes_of_one_start_stay_together() -> None:
    items = [item(i, group=g, seed=i) for g in ("rl", "human") for i in range(10)]
    for seed in range(5):
        sides: dict[int, set[str]] = {}
        for i in split(items, 0.3, rng(seed)):
            sides.setdefault(i.infos[0].seed, set()).add(i.planned.split)
        assert all(len(side) == 1 for side in sides.values())


def test_episodes_that_share_a_bag_stay_together() -> None:
    shared = Segment(bag="/shared", rows=(1,))

    def spliced(i: int) -> Item:
        own = Segment(bag=f"/own/{i}", rows=(0,))
        infos = (make_info(seed=i), make_info(seed=100))
        return Item(PlannedEpisode(segments=(own, shared), instruction=""), infos)

    for seed in range(5):
        chosen = split([spliced(1), spliced(2), *(item(i) for i in range(3, 9))], 0.5, rng(seed))
        assert chosen[0].planned.split == chosen[1].planned.split


def test_a_split_that_would_leave_a_side_empty_is_refused() -> None:
    with pytest.raises(DatasetError, match="2 episodes cannot be split: all of an object share bags, or task, scene"):
        split([item(1, seed=5), item(2, seed=5)], 0.5, rng())


# --- plans


def test_a_plan_holds_all_actions_of_the_selected_episodes(bags) -> None:
    good = bags.add(7)
    bags.add(7, outcome=Outcome.FAILURE)
    plan, report = make_plan(recipe_for(bags), bags.read)
    (planned,) = plan.episodes
    assert planned.segments == (Segment(bag=str(good), rows=tuple(range(7))),)
    assert (planned.instruction, planned.group, planned.split) == ("insert the peg", "all", "train")
    assert (plan.rate_hz, plan.image_size_px) == (10.0, 128)
    assert report.counts() == {"all: outcome failure": 1}
    assert report.chosen == {"all": (1, 7)}
    assert report.lines() == [
        "2 episodes found",
        "all: 1 episodes, 7 frames",
        "left out: 1 (all: outcome failure)",
    ]


def test_the_report_names_a_bag_that_cannot_be_read(bags) -> None:
    bags.add()
    for _ in range(2):
        (bags.add() / INFO_FILE).write_text("format: 9\n")
    _, report = make_plan(recipe_for(bags), bags.read)
    (left,) = [line for line in report.lines() if "left out" in line]
    first = bags.root.resolve() / "s" / "0002" / INFO_FILE
    assert left.startswith(f"left out: 2 (episode.yaml cannot be read), for instance {first}: format: is 9")


def test_a_plan_without_trimming_reads_no_bag(bags) -> None:
    bags.add()
    make_plan(recipe_for(bags), bags.read)
    assert bags.reads == 0


def test_a_bag_that_cannot_be_read_while_trimming_is_left_out(bags) -> None:
    bags.episodes.pop(bags.add())
    bags.add(session="t")
    plan, report = make_plan(recipe_for(bags, trim_idle={}), bags.read)
    assert len(plan.episodes) == 1
    assert report.counts() == {"all: unreadable": 1}


def test_an_episode_belongs_to_the_first_source_that_selects_it(bags) -> None:
    bags.add(policy="rl")
    bags.add()
    sources = [{"name": "rl", "select": {"driven_by": "policy"}}, {"name": "rest"}]
    plan, report = make_plan(recipe_for(bags, sources=sources), bags.read)
    assert [e.group for e in plan.episodes] == ["rl", "rest"]
    assert report.dropped == ()


def test_the_same_bags_and_recipe_give_the_same_plan(bags) -> None:
    for i in range(12):
        bags.add(task=make_task(name=("usb", "vga")[i % 2]))
    recipe = recipe_for(bags, balance={}, cap={"episodes": 8}, split={"test": 0.25}, seed=3)
    plans = [make_plan(recipe, bags.read)[0] for _ in range(2)]
    assert digest(plans[0]) == digest(plans[1])
    other = make_plan(msgspec.structs.replace(recipe, seed=4), bags.read)[0]
    assert digest(other) != digest(plans[0])


def test_train_stands_before_test(bags) -> None:
    for _ in range(10):
        bags.add()
    plan, _ = make_plan(recipe_for(bags, split={"test": 0.3}), bags.read)
    assert [e.split for e in plan.episodes] == ["train"] * 7 + ["test"] * 3


def test_what_mix_and_cap_leave_is_still_balanced(bags) -> None:
    for i in range(20):
        bags.add(task=make_task(name=("usb", "vga")[i % 2]), policy="rl" if i < 11 else "")
    sources = [{"name": "rl", "select": {"driven_by": "policy"}}, {"name": "human"}]
    weights = {"rl": 1, "human": 1}
    recipe = recipe_for(bags, sources=sources, balance={}, mix={"weights": weights}, cap={"episodes": 7})
    plan, report = make_plan(recipe, bags.read)
    tasks = Counter((e.group, bags.episodes[Path(e.segments[0].bag)].info.task.name) for e in plan.episodes)
    assert tasks["rl", "usb"] == tasks["rl", "vga"] > 0
    assert tasks["human", "usb"] == tasks["human", "vga"] > 0
    assert len(plan.episodes) + len(report.dropped) == 20


def test_a_balance_of_tasks_misses_one_that_has_no_episode(bags) -> None:
    bags.add(task=make_task(name="usb"))
    sources = [{"name": "all", "select": {"task": ["usb", "vga"]}}]
    with pytest.raises(DatasetError, match="balance: 'all' has no episode of vga; record some"):
        make_plan(recipe_for(bags, sources=sources, balance={}), bags.read)


def test_every_episode_is_chosen_or_left_out_once(bags) -> None:
    for i in range(15):
        bags.add(outcome=Outcome.SUCCESS if i % 3 else Outcome.TIMEOUT, task=make_task(name=("usb", "vga")[i % 2]))
    plan, report = make_plan(recipe_for(bags, balance={}, cap={"episodes": 5}), bags.read)
    assert len(plan.episodes) + len(report.dropped) == report.found == 15


def test_relabelling_is_planned_with_its_parameters(bags) -> None:
    bags.add()
    relabel = {"sources": ["all"], "policy": "p", "parameters": {"speed_m_s": 0.05, "mode": "fast", "on": True}}
    plan, _ = make_plan(recipe_for(bags, relabel=relabel), bags.read)
    assert plan.episodes[0].relabel == "p"
    values = {k: msgspec.yaml.decode(v) for k, v in plan.relabel_parameters.items()}
    assert values == {"speed_m_s": 0.05, "mode": "fast", "on": True}


def test_a_recipe_that_leaves_nothing_says_why(bags) -> None:
    bags.add(outcome=Outcome.FAILURE)
    bags.add(outcome=Outcome.TIMEOUT)
    with pytest.raises(
        DatasetError, match=r"none of 2 episodes .* is left: 1 all: outcome failure; 1 all: outcome tim"
    ):
        make_plan(recipe_for(bags), bags.read)


def test_an_empty_folder_says_that_there_is_no_bag(tmp_path) -> None:
    (tmp_path / "bags").mkdir()
    with pytest.raises(DatasetError, match=r"none of 0 episodes .* there is no episode\.yaml"):
        make_plan(recipe_for(Bags(tmp_path / "bags")))
