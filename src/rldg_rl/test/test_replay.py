"""What goes into the replay comes out as it was, whatever the order, and demonstrations are half of every batch."""

import numpy as np
import pytest

from rldg_rl.networks import Spec
from rldg_rl.replay import Replay, ReplayError, Transition, checked
from rldg_rl.views import image_views, random_crop

SPEC = Spec(features=3)


def tag(episode: str, t: int, view: int = 0) -> np.ndarray:
    """Features that say which observation they belong to."""
    return np.array([int(episode), t, view], np.float32)


def transition(
    episode: str, t: int, *, demo: bool = False, intervention: bool = False, end: str = "", views: int = 1
) -> Transition:
    return Transition(
        episode_id=episode,
        t=t,
        features=np.stack([tag(episode, t, view) for view in range(views)]),
        next_features=np.stack([tag(episode, t + 1, view) for view in range(views)]),
        action=np.full(6, (t % 10) / 10, np.float32),
        reward=float(end == "success"),
        terminated=end in ("success", "failure"),
        truncated=end == "timeout",
        intervention=intervention,
        demo=demo,
    )


def filled(transitions, capacity: int = 1000, views: int = 1) -> Replay:
    replay = Replay(SPEC, capacity, views)
    for each in transitions:
        replay.add(checked(each, SPEC, views))
    return replay


def draw(replay: Replay, groups: int = 4, size: int = 256):
    return replay.sample(np.random.default_rng(0), groups, size)


def assert_frames_match(batch) -> None:
    """Observation, next observation and action of every sample are of one transition."""
    np.testing.assert_array_equal(batch.features[..., 0], batch.next_features[..., 0])
    np.testing.assert_array_equal(batch.features[..., 1] + 1, batch.next_features[..., 1])
    np.testing.assert_allclose(batch.action[..., 0], (batch.features[..., 1] % 10) / 10, atol=1e-6)


@pytest.mark.parametrize("burst", range(1, 9))
def test_bursts_of_interventions_keep_their_own_frames(burst) -> None:
    steps = [
        transition(str(episode), t, intervention=(t // burst) % 3 == 1, end="timeout" if t == 39 else "")
        for episode in range(5)
        for t in range(40)
    ]
    assert_frames_match(draw(filled(steps)))


def test_transitions_in_any_order_and_with_gaps_keep_their_own_frames() -> None:
    steps = [transition(str(episode), t) for episode in range(10) for t in range(20) if (t + episode) % 4]
    np.random.default_rng(1).shuffle(steps)
    assert_frames_match(draw(filled(steps)))


def test_frames_still_match_when_both_lists_have_wrapped() -> None:
    steps = [
        transition(str(episode), t, demo=episode % 3 == 0, intervention=t % 5 == 0)
        for episode in range(60)
        for t in range(23)
    ]
    replay = filled(steps, capacity=100)
    assert (replay.online, replay.demos) == (100, 100)
    assert_frames_match(draw(replay))


def test_an_observation_is_stored_once() -> None:
    replay = filled(transition("0", t, intervention=True) for t in range(100))
    frames = (draw(replay, 1, 4096).features[0, :, 1]).max() + 2
    assert replay._frames._used == frames == 101


def test_a_neighbour_with_other_values_does_not_lend_its_frame() -> None:
    odd = transition("0", 1)._replace(features=np.array([[0, 1, 0.5]]))
    replay = filled([transition("0", 0), odd])
    batch = draw(replay)
    assert set(batch.features[batch.features[..., 1] == 1][:, 2]) == {0.5}
    assert set(batch.next_features[batch.next_features[..., 1] == 1][:, 2]) == {0.0}


def test_memory_of_what_is_gone_is_used_again() -> None:
    replay = filled((transition(str(e), t) for e in range(200) for t in range(10)), capacity=50)
    assert replay._rows._used <= 51
    assert replay._frames._used <= 60


@pytest.mark.parametrize("online", [1, 30, 900])
def test_half_of_every_batch_is_demonstrations(online) -> None:
    steps = [transition("1", t) for t in range(online)] + [transition("2", t, demo=True) for t in range(7)]
    batch = draw(filled(steps))
    assert ((batch.features[..., 0] == 2).sum(axis=1) == 128).all()


def test_interventions_are_in_both_lists_and_demonstrations_in_one() -> None:
    replay = filled([transition("1", 0), transition("1", 1, intervention=True), transition("2", 0, demo=True)])
    assert (replay.online, replay.demos, replay.env_steps) == (2, 2, 2)


def test_a_transition_that_is_sent_again_is_left_out() -> None:
    replay = filled([transition("1", 0)])
    assert not replay.add(checked(transition("1", 0), SPEC, 1))
    assert replay.online == 1


def test_a_transition_that_is_sent_again_after_it_had_to_go_is_left_out() -> None:
    replay = filled((transition("1", t) for t in range(20)), capacity=5)
    assert not replay.add(checked(transition("1", 0), SPEC, 1))
    assert replay.env_steps == 20


def test_running_out_of_time_is_no_termination() -> None:
    batch = draw(filled([transition("1", 0, end="timeout"), transition("2", 0, end="failure")]))
    np.testing.assert_array_equal(batch.terminated, batch.features[..., 0] == 2)


def test_a_late_verdict_changes_what_was_earned() -> None:
    replay = filled([transition("1", 0), transition("1", 1, end="success")])
    assert replay.relabel("1", 1, 0.0, True)
    batch = draw(replay)
    assert batch.reward.max() == 0.0
    assert not replay.relabel("1", 7, 1.0, True)


def test_an_empty_replay_says_so() -> None:
    with pytest.raises(ReplayError, match="nothing to draw from"):
        draw(Replay(SPEC, 10))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": np.zeros((1, 2))}, "features has shape"),
        ({"next_features": np.full((1, 3), np.nan)}, "next_features holds a value that is not finite"),
        ({"action": np.zeros(7)}, "action has shape"),
        ({"action": np.full(6, 1.01)}, r"leaves \[-1, 1\]"),
        ({"action": np.full(6, np.nan)}, r"leaves \[-1, 1\]"),
        ({"reward": float("inf")}, "reward is inf"),
        ({"terminated": True, "truncated": True}, "both terminated and truncated"),
        ({"episode_id": ""}, "needs an episode id"),
        ({"t": -1}, "needs an episode id"),
    ],
)
def test_a_malformed_transition_is_refused(change, words) -> None:
    with pytest.raises(ReplayError, match=words) as refused:
        checked(transition("1", 0)._replace(**change), SPEC, 1)
    assert "\n" not in str(refused.value)


def test_a_gripper_state_between_open_and_closed_is_refused() -> None:
    with pytest.raises(ReplayError, match=r"gripper state is 0\.5"):
        checked(transition("1", 0)._replace(action=np.full(7, 0.5)), SPEC._replace(gripper=True), 1)


def test_what_half_precision_cannot_hold_is_refused() -> None:
    spec = Spec(features=3, grid=(2, 1))
    with pytest.raises(ReplayError, match="not finite"):
        checked(transition("1", 0)._replace(features=np.full((1, 3), 1e6)), spec, 1)


def test_views_of_observation_and_next_observation_are_drawn_independently() -> None:
    batch = draw(filled((transition("1", t, views=2) for t in range(50)), views=2))
    assert_frames_match(batch)
    pairs = np.stack([batch.features[..., 2].ravel(), batch.next_features[..., 2].ravel()])
    shares = [np.mean((pairs == np.array(pair)[:, None]).all(0)) for pair in ([0, 0], [0, 1], [1, 0], [1, 1])]
    np.testing.assert_allclose(shares, 0.25, atol=0.06)


def test_fifty_thousand_cached_images_take_less_than_their_pixels() -> None:
    spec = Spec(features=4 * 4 * 320 + 19, grid=(320, 16))
    replay = Replay(spec, 200_000)
    for t in range(2000):
        features = np.zeros((1, spec.features), np.float16)
        features[0, 0] = t
        step = transition("1", t)._replace(features=features, next_features=features + np.float16(1))
        replay.add(step)
    assert replay.bytes_per_transition * 50_000 < 1.5e9


def test_a_crop_is_a_shift_with_repeated_edges() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="edge")
    shifts = [padded[i : i + 16, j : j + 16] for i in range(9) for j in range(9)]
    rng = np.random.default_rng(1)
    found = set()
    for _ in range(200):
        crop = random_crop(image, rng)
        assert crop.dtype == np.uint8
        found |= {k for k, shift in enumerate(shifts) if np.array_equal(shift, crop)}
    assert len(found) > 60


def test_the_first_view_is_the_image_itself() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    views = image_views(image, 3, np.random.default_rng(0))
    np.testing.assert_array_equal(views[0], image)
    assert not np.array_equal(views[1], views[2])


def test_an_image_that_is_not_bytes_is_not_cropped() -> None:
    with pytest.raises(ValueError, match="must be uint8"):
        random_crop(np.zeros((16, 16, 3), np.float32), np.random.default_rng(0))
