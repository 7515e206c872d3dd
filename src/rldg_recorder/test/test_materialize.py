"""Frames are what was executed at each observation, at whatever rate, with nothing lost on the way."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rldg_core.frames import Pose, apply_body_delta, rotation_angle
from rldg_core.images import square
from rldg_core.observation import proprioception
from rldg_core.task import Control
from rldg_core.testing import make_task, tool_down
from rldg_core.types import Source
from rldg_recorder.episode import Episode
from rldg_recorder.materialize import compose, materialize
from rldg_recorder.plan import DatasetError, Plan, PlannedEpisode, Segment
from rldg_recorder.testing import Bags, make_episode

DELTAS = arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.just(6)),
    elements=st.floats(-0.1, 0.1, allow_nan=False, width=64),
)


def plan_of(*episodes: Episode, rows: tuple[int, ...] | None = None, rate_hz: float = 10.0, **changes: object):
    segments = tuple(
        Segment(bag=str(e.folder), rows=tuple(range(e.actions)) if rows is None else rows) for e in episodes
    )
    planned = PlannedEpisode(segments=segments, instruction="insert the peg", **changes)  # type: ignore[arg-type]
    plan = Plan(name="a", episodes=(planned,), rate_hz=rate_hz, image_size_px=32)
    by_folder = {episode.folder: episode for episode in episodes}
    return materialize(planned, plan, lambda folder: by_folder[folder])


@settings(max_examples=100, deadline=None)
@given(DELTAS)
def test_composing_equals_the_product_of_the_transforms(deltas) -> None:
    start = Pose.from_rpy([0.4, -0.1, 0.2], [np.pi, 0.1, -0.7])
    product = start
    for delta in deltas:
        product = apply_body_delta(product, delta)
    composed = apply_body_delta(start, compose(deltas))
    np.testing.assert_allclose(composed.position, product.position, atol=1e-12)
    assert rotation_angle(composed, product) < 1e-7


@settings(max_examples=100, deadline=None)
@given(DELTAS)
def test_pure_translations_compose_to_their_sum_without_a_rotation(deltas) -> None:
    deltas[:, 3:] = 0.0
    composed = compose(deltas)
    assert (composed[3:] == 0.0).all()
    np.testing.assert_allclose(composed[:3], deltas[:, :3].sum(axis=0), atol=1e-12)


def test_a_delta_by_itself_is_unchanged() -> None:
    delta = np.array([0.01, -0.02, 0.03, 0.1, -0.05, 0.02])
    np.testing.assert_allclose(compose([delta]), delta, atol=1e-15)


def test_the_order_of_deltas_matters() -> None:
    turn, go = [0, 0, 0, 0, 0, np.pi / 2], [1.0, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(compose([turn, go])[:3], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(compose([go, turn])[:3], [1, 0, 0], atol=1e-12)


def test_the_closing_step_is_no_frame_and_its_reward_goes_to_the_one_before() -> None:
    frames = plan_of(make_episode(np.full((5, 6), 0.1)))
    assert len(frames) == 5
    assert frames.reward.tolist() == [0, 0, 0, 0, 1]
    assert frames.done.tolist() == [False] * 4 + [True]


def test_a_time_out_is_no_end_of_the_task() -> None:
    last = np.arange(6) == 5
    episode = make_episode(np.zeros((5, 6)), columns={"terminated": np.zeros(6, bool), "truncated": last})
    assert not plan_of(episode).done.any()


def test_actions_are_those_executed_with_the_gripper_open_as_one() -> None:
    deltas = np.random.default_rng(0).uniform(-1, 1, (4, 6))
    frames = plan_of(make_episode(deltas, closed=[0, 0, 1, 1]))
    np.testing.assert_allclose(frames.action[:, :6], deltas, atol=1e-7)
    assert frames.action[:, 6].tolist() == [1, 1, 0, 0]
    assert frames.action.dtype == np.float32
    assert frames.scale == pytest.approx((0.015, 0.015, 0.015, 0.1, 0.1, 0.1))


def test_states_are_those_that_a_policy_is_given() -> None:
    episode = make_episode(np.full((4, 6), 0.5), columns={"wrench": np.arange(30).reshape(5, 6)})
    frames = plan_of(episode)
    for row in range(4):
        assert (frames.state[row] == proprioception(episode.observation(row))).all()


def test_images_are_squared_when_they_are_looked_at() -> None:
    class Counted(list):
        looks = 0

        def __getitem__(self, i):
            Counted.looks += 1
            return super().__getitem__(i)

    episode = make_episode(np.zeros((4, 6)))
    object.__setattr__(episode, "images", Counted(episode.images))
    frames = plan_of(episode)
    assert Counted.looks == 0 and len(frames.images) == 4
    assert (frames.images[2] == square(episode.images[2], 32)).all()
    assert [image.shape for image in frames.images[1:3]] == [(32, 32, 3)] * 2


def test_every_frame_names_its_bag_row_source_and_policy() -> None:
    episode = make_episode(np.zeros((4, 6)), policy="rl", columns={"source": [1, 2, 0, 1, 0]})
    frames = plan_of(episode, rows=(0, 1, 2, 3))
    assert [bag.path for bag in frames.bags] == [str(episode.folder)]
    assert frames.row.tolist() == [0, 1, 2, 3] and frames.bag.tolist() == [0] * 4
    assert frames.source.tolist() == [1, 2, 0, 1]
    assert frames.policy_id == ("rl", "", "", "rl")


def test_rows_left_out_lose_no_reward() -> None:
    episode = make_episode(np.zeros((5, 6)), columns={"reward": [9, 1, 2, 3, 4, 5]})
    assert plan_of(episode, rows=(0, 3, 4)).reward.tolist() == [1 + 2 + 3, 4, 5]


def test_half_the_rate_composes_pairs_in_units_of_twice_the_scale() -> None:
    deltas = np.random.default_rng(1).uniform(-0.9, 0.9, (5, 6))
    episode = make_episode(deltas, closed=[0, 1, 1, 0, 1], columns={"reward": [0, 1, 1, 1, 1, 1]})
    frames = plan_of(episode, stride=2, rate_hz=5.0)
    scale = episode.info.task.control.scale
    assert frames.rate_hz == 5.0 and frames.scale == pytest.approx(tuple(2 * scale))
    start = Pose(episode.tcp_pose[0, :3], episode.tcp_pose[0, 3:])
    moved = apply_body_delta(start, frames.action[0, :6] * frames.scale)
    np.testing.assert_allclose(moved.position, episode.tcp_pose[2, :3], atol=1e-8)
    assert frames.row.tolist() == [0, 2, 4]
    assert frames.action[:, 6].tolist() == [0, 1, 0]  # of the last step of each
    assert frames.reward.tolist() == [2, 2, 1]
    assert frames.done.tolist() == [False, False, True]
    assert (frames.images[1] == square(episode.images[2], 32)).all()
    np.testing.assert_allclose(frames.action[2, :6], deltas[4] / 2, atol=1e-7)  # one step of two


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, (6, 6), elements=st.floats(-1, 1, width=64)), st.integers(1, 6))
def test_composed_actions_stay_in_the_box(deltas, stride) -> None:
    frames = plan_of(make_episode(deltas), stride=stride, rate_hz=10.0 / stride)
    assert np.abs(frames.action[:, :6]).max(initial=0.0) <= 1.0


def test_spliced_segments_keep_their_own_bag_and_row_and_one_reference_pose() -> None:
    first = make_episode(np.full((4, 6), 0.1), folder=Path("/bags/human"))
    second = make_episode(np.full((4, 6), 0.1), folder=Path("/bags/rl"), policy="rl", start=tool_down(x=0.51))
    frames = plan_of(first, second, rows=(1, 2))
    assert [bag.path for bag in frames.bags] == ["/bags/human", "/bags/rl"]
    assert frames.bag.tolist() == [0, 0, 1, 1] and frames.row.tolist() == [1, 2, 1, 2]
    assert frames.source.tolist() == [Source.HUMAN] * 2 + [Source.POLICY] * 2
    assert frames.state[2, 0] == pytest.approx(frames.state[0, 0] + 0.01, abs=1e-4)  # relative to one reset pose


def test_a_bag_that_is_gone_is_named() -> None:
    planned = PlannedEpisode(segments=(Segment(bag="/nowhere", rows=(0,)),), instruction="a")
    with pytest.raises(DatasetError, match="/nowhere: cannot be read"):
        materialize(planned, Plan(name="a", episodes=(planned,), rate_hz=10.0), Bags(Path("/")).read)


@pytest.mark.parametrize("rows", [(), (0, 4), (0, 0), (1, 0), (-1, 0)])
def test_rows_that_the_bag_does_not_have_are_refused(rows) -> None:
    with pytest.raises(DatasetError, match="must rise within its 4 actions"):
        plan_of(make_episode(np.zeros((4, 6))), rows=rows)


def test_another_control_rate_than_planned_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"10\.0 Hz with stride 1 is not the 5\.0 Hz of the set"):
        plan_of(make_episode(np.zeros((4, 6))), rate_hz=5.0)


def test_segments_of_different_scale_are_refused() -> None:
    finer = make_task(control=msgspec.to_builtins(Control(translation_scale_m=0.01)))
    with pytest.raises(DatasetError, match=r"/bags/b: action scale .* differs from .* of /bags/a"):
        plan_of(
            make_episode(np.zeros((4, 6)), folder=Path("/bags/a")),
            make_episode(np.zeros((4, 6)), folder=Path("/bags/b"), task=finer),
        )


def test_images_smaller_than_the_set_are_refused() -> None:
    small = np.zeros((16, 16, 3), np.uint8)
    frames = plan_of(make_episode(np.zeros((1, 6)), columns={}))
    object.__setattr__(frames.images, "_images", [([small], 0)])
    with pytest.raises(DatasetError, match=r"images of 16 px are smaller than format\.image_size_px 32"):
        frames.images[0]
