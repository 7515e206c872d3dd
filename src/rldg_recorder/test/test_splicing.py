"""A prefix goes on as a suffix only where nothing would jump; otherwise the numbers say how far it was."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from rldg_core.frames import Pose
from rldg_core.task import Task
from rldg_core.testing import make_task, tool_down
from rldg_recorder.algebra import make_plan
from rldg_recorder.episode import Episode
from rldg_recorder.items import Item
from rldg_recorder.materialize import materialize
from rldg_recorder.plan import DatasetError, PlannedEpisode, Segment
from rldg_recorder.recipe import Event, Recipe, Splice, Until
from rldg_recorder.splice import Suffixes, event_row, handoff_rows, incompatible, splice_items
from rldg_recorder.testing import Bags, make_episode

DOWN = [0.0, 0.0, 0.5, 0.0, 0.0, 0.0]  # the tool's z axis points down
UP = [0.0, 0.0, -0.5, 0.0, 0.0, 0.0]
STILL = [0.0] * 6
OPEN, CLOSED = False, True
BINARY = {"gripper": "binary"}
GRASP = Splice(prefix="human", suffix="rl", until=Until(event=Event.GRASP))


def gripping_task(**changes: object) -> Task:
    return make_task(control=BINARY, **changes)


def pick(start: Pose | None = None, **options: object) -> Episode:
    """Down for 3 steps, close at step 3, stand for 2, up for 5."""
    return make_episode(
        [DOWN] * 3 + [STILL] * 3 + [UP] * 5,
        closed=[OPEN] * 3 + [CLOSED] * 8,
        start=start,
        **{"task": gripping_task(), **options},  # type: ignore[arg-type]
    )


def suffixes_of(*episodes: Episode, splice: Splice = GRASP) -> Suffixes:
    return Suffixes(episodes, [range(e.actions) for e in episodes], splice)


def until(event: Event, **changes: object) -> Until:
    return Until(event=event, **changes)  # type: ignore[arg-type]


# --- events


def test_the_state_after_the_closing_command_is_the_first_after_a_grasp() -> None:
    assert event_row(pick(), until(Event.GRASP)) == 4


def test_a_release_follows_a_grasp() -> None:
    episode = make_episode([STILL] * 6, closed=[OPEN, CLOSED, CLOSED, OPEN, OPEN, OPEN])
    assert event_row(episode, until(Event.RELEASE)) == 4


def test_a_lift_counts_from_the_grasp() -> None:
    # 7.5 mm a step: 2 cm are passed by the third
    assert event_row(pick(), until(Event.LIFT)) == 6 + 3
    assert event_row(pick(), until(Event.LIFT, lift_m=1.0)) is None


def test_a_contact_is_the_first_force_above_the_limit() -> None:
    wrench = np.zeros((5, 6))
    wrench[2:, 2] = -5.0
    episode = make_episode([DOWN] * 4, columns={"wrench": wrench})
    assert event_row(episode, until(Event.CONTACT, contact_n=4.0)) == 2
    assert event_row(episode, until(Event.CONTACT, contact_n=6.0)) is None


def test_an_episode_that_never_grasps_has_no_hand_off() -> None:
    assert len(handoff_rows(make_episode([DOWN] * 4), until(Event.GRASP))) == 0


def test_the_hand_off_may_be_delayed_and_ends_with_the_episode() -> None:
    assert list(handoff_rows(pick(), until(Event.GRASP, after_steps=2, window_steps=3))) == [6, 7, 8]
    assert list(handoff_rows(pick(), until(Event.GRASP, window_steps=100))) == list(range(4, 11))


# --- the nearest state


def test_the_nearest_state_in_the_same_gripper_state_is_found() -> None:
    suffix = pick(tool_down(x=0.503), folder=Path("/rl"))
    join, _ = suffixes_of(pick(tool_down(x=0.6)), suffix).nearest(pick(), [5])
    assert join is not None
    assert (join.suffix, join.row) == (1, 5)
    assert suffix.gripper_closed[join.suffix_row]
    assert join.gap.position_m == pytest.approx(0.003, abs=1e-9)
    assert join.score == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize(
    ("columns", "start", "which"),
    [
        ({}, tool_down(x=0.52), "position_m"),
        ({}, tool_down(yaw=0.2), "angle_rad"),
        ({"tcp_twist": np.tile([0.1, 0, 0, 0, 0, 0], (12, 1))}, None, "speed_m_s"),
        ({"tcp_twist": np.tile([0, 0, 0, 0.5, 0, 0], (12, 1))}, None, "angular_speed_rad_s"),
        ({"gripper_width_m": np.full(12, 0.04)}, None, "width_m"),
    ],
)  # fmt: skip
def test_each_kind_of_jump_is_out_of_limits(columns, start, which) -> None:
    join, _ = suffixes_of(pick(start, columns=columns)).nearest(pick(), [5])
    assert join is not None and join.score > 1.0
    limits = {
        "position_m": GRASP.max_gap_m,
        "angle_rad": GRASP.max_gap_rad,
        "speed_m_s": GRASP.max_speed_gap_m_s,
        "angular_speed_rad_s": GRASP.max_speed_gap_rad_s,
        "width_m": GRASP.max_gap_width_m,
    }
    assert [name for name, limit in limits.items() if getattr(join.gap, name) > limit] == [which]


def test_the_same_rotation_on_the_other_hemisphere_is_no_jump() -> None:
    flipped = pick()
    poses = flipped.tcp_pose * np.array([1, 1, 1, -1, -1, -1, -1])
    join, _ = suffixes_of(pick(columns={"tcp_pose": poses})).nearest(pick(), [5])
    assert join is not None and join.gap.angle_rad == pytest.approx(0.0, abs=1e-6)


def test_an_open_gripper_is_not_continued_by_a_closed_one() -> None:
    closed = make_episode([STILL] * 5, task=gripping_task())
    opened = make_episode([STILL] * 5, closed=[OPEN] * 5, task=gripping_task())
    assert suffixes_of(closed).nearest(opened, [2])[0] is None


def test_a_taken_suffix_is_not_taken_again() -> None:
    suffixes = suffixes_of(pick())
    suffixes.take(0)
    assert suffixes.nearest(pick(), [5]) == (None, "no free suffix is in the same gripper state and place")


def test_before_its_own_contact_a_suffix_is_in_another_phase() -> None:
    wrench = np.zeros((9, 6))
    wrench[5:, 2] = -9.0
    episode = make_episode([STILL] * 8, columns={"wrench": wrench})
    splice = Splice(prefix="human", suffix="rl", until=until(Event.CONTACT))
    join, _ = suffixes_of(episode, splice=splice).nearest(episode, [5])
    assert join is not None and join.suffix_row == 5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": make_task(name="other")}, "task differs: peg and other"),
        ({"scene": "unseen"}, "scene differs: seen and unseen"),
        ({"instruction": "pick it"}, "instruction differs: insert the peg and pick it"),
        ({"task": make_task(control={"rate_hz": 20})}, r"control rate differs: 10\.0 and 20\.0"),
        ({"task": make_task(control={"translation_scale_m": 0.03})}, r"action scale differs: \[0\.015.* and \[0\.03"),
        ({"task": make_task(control={"setpoint": "leashed"})}, "set-point rule differs: measured and leashed"),
        ({"task": make_task(control=BINARY)}, "gripper differs: fixed and binary"),
        ({"task": make_task(impedance={"target_filter": 0.9})}, "impedance differs"),
        ({"task": make_task(fixture={"pose": {"xyz_m": [0.6, 0, 0]}})}, "the fixture stands elsewhere"),
    ],
)  # fmt: skip
def test_episodes_of_different_kinds_are_never_joined(changes, reason) -> None:
    one, other = make_episode([STILL] * 3), make_episode([STILL] * 3, **changes)
    with pytest.raises(AssertionError, match=reason):
        assert not incompatible(one.info, other.info), incompatible(one.info, other.info)
    join, said = suffixes_of(other).nearest(one, [1])
    assert join is None and said == incompatible(one.info, other.info)


def test_where_the_fixture_moves_only_the_same_seed_continues() -> None:
    task = gripping_task(fixture={"pose": {"xyz_m": [0.5, 0, 0]}, "randomize": {"xyz_m": [0.05, 0.05, 0]}})
    suffixes = suffixes_of(pick(task=task, seed=1), pick(task=task, seed=2))
    join, _ = suffixes.nearest(pick(task=task, seed=2), [5])
    assert join is not None and join.suffix == 1
    nobody = suffixes.nearest(pick(task=task, seed=3), [5])
    assert nobody == (None, "the fixture moves between episodes and no suffix has seed 3")


def test_an_object_that_is_not_held_lies_where_its_seed_put_it() -> None:
    task = gripping_task(object={"pose": {"xyz_m": [0.5, 0, 0]}})
    suffixes = suffixes_of(pick(task=task, seed=1))
    assert suffixes.nearest(pick(task=task, seed=2), [1])[0] is None  # open
    assert suffixes.nearest(pick(task=task, seed=2), [5])[0] is not None  # in the hand
    assert suffixes.nearest(pick(task=task, seed=1), [1])[0] is not None


# --- whole episodes


def items_of(*episodes: Episode, group: str) -> list[Item]:
    return [
        Item(
            PlannedEpisode(
                segments=(Segment(bag=str(e.folder), rows=tuple(range(e.actions))),), instruction="a", group=group
            ),
            (e.info,),
        )
        for e in episodes
    ]


def splice_of(humans: list[Episode], rls: list[Episode], splice: Splice = GRASP):
    read = {e.folder: e for e in (*humans, *rls)}
    return splice_items(items_of(*humans, group="human"), items_of(*rls, group="rl"), splice, lambda f: read[f])


def test_a_spliced_episode_is_the_prefix_then_the_suffix() -> None:
    human = pick(folder=Path("/human"))
    rl = pick(tool_down(x=0.501), folder=Path("/rl"), policy="rl")
    (item,), dropped = splice_of([human], [rl])
    head, tail = item.planned.segments
    assert (head.bag, tail.bag) == ("/human", "/rl")
    assert head.rows == (0, 1, 2, 3) and tail.rows == tuple(range(4, 11))
    assert item.planned.group == "spliced" and dropped == []
    assert [info.policies != () for info in item.infos] == [False, True]


def test_each_suffix_serves_one_prefix() -> None:
    humans = [pick(folder=Path(f"/human/{i}")) for i in range(3)]
    rls = [pick(folder=Path(f"/rl/{i}"), policy="rl") for i in range(2)]
    spliced, dropped = splice_of(humans, rls)
    assert sorted(item.planned.segments[1].bag for item in spliced) == ["/rl/0", "/rl/1"]
    assert [(d.folder, d.reason) for d in dropped] == [(Path("/human/2"), "no suffix near")]


def test_suffixes_that_nobody_took_and_prefixes_without_the_event_are_counted() -> None:
    humans = [pick(folder=Path("/human/0")), make_episode([STILL] * 4, folder=Path("/human/1"), task=gripping_task())]
    rls = [pick(folder=Path("/rl/0")), pick(tool_down(x=0.55), folder=Path("/rl/1"))]
    spliced, dropped = splice_of(humans, rls)
    assert len(spliced) == 1
    assert {(d.folder.name, d.source, d.reason) for d in dropped} == {
        ("1", "human", "no grasp to splice at"),
        ("1", "rl", "no prefix took it"),
    }


def test_a_miss_says_how_far_the_nearest_was() -> None:
    humans = [pick(folder=Path("/human/0")), pick(tool_down(x=0.53), folder=Path("/human/1"))]
    _, dropped = splice_of(humans, [pick(folder=Path("/rl/0")), pick(folder=Path("/rl/1"))])
    (miss,) = [d for d in dropped if d.reason == "no suffix near"]
    assert miss.folder == Path("/human/1")
    assert miss.detail.startswith("nearest: 30.0 mm, 0.000 rad, ") and "/rl/1" in miss.detail


def test_no_join_at_all_is_refused_with_the_numbers_and_the_limits() -> None:
    with pytest.raises(
        DatasetError, match=r"none of 1 episodes of 'human' .* nearest: 20\.0 mm, .* limits: 10\.0 mm, 0\.100 rad"
    ):
        splice_of([pick(folder=Path("/human"))], [pick(tool_down(x=0.52), folder=Path("/rl"))])


def test_no_suffix_at_all_is_refused() -> None:
    with pytest.raises(DatasetError, match="one of 0 of 'rl': there is no suffix"):
        splice_of([pick(folder=Path("/human"))], [])


def test_a_recipe_splices_bags_into_episodes_that_materialize(tmp_path) -> None:
    bags = Bags(tmp_path)
    task = gripping_task()
    moves, grips = [DOWN] * 3 + [STILL] * 3 + [UP] * 5, [OPEN] * 3 + [CLOSED] * 8
    human = bags.add(moves, session="human", closed=grips, task=task)
    rl = bags.add(moves, session="rl", closed=grips, task=task, policy="rl", start=tool_down(x=0.502))
    data = {
        "name": "a",
        "bags": [str(tmp_path)],
        "sources": [
            {"name": "human", "select": {"driven_by": "human"}},
            {"name": "rl", "select": {"driven_by": "policy"}},
        ],
        "splice": {"prefix": "human", "suffix": "rl", "until": {"event": "grasp"}},
        "rate_hz": 5.0,
    }
    plan, report = make_plan(msgspec.convert(data, Recipe, strict=False), bags.read)
    assert report.chosen == {"spliced": (1, 2 + 4)}
    frames = materialize(plan.episodes[0], plan, bags.read)
    assert [bag.path for bag in frames.bags] == [str(human), str(rl)]
    assert frames.bag.tolist() == [0, 0, 1, 1, 1, 1]
    assert frames.policy_id == ("", "", "rl", "rl", "rl", "rl")
    assert frames.reward.sum() == 1.0 and frames.done[-1]
    positions = frames.state[:, :3]
    assert np.linalg.norm(np.diff(positions, axis=0), axis=1).max() < 2 * 0.0075 + 0.003
