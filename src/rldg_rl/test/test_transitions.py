"""The same transitions come out of an episode whether it is heard live or read from its bag."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rldg_core.frames import Pose
from rldg_core.types import Action, EpisodeStatus, Observation, Outcome, Phase, Source, Step
from rldg_recorder.episode import Episode, LabelInfo
from rldg_recorder.testing import make_episode
from rldg_rl.checkpoint import Label
from rldg_rl.features import scaled_proprioception
from rldg_rl.replay import Transition
from rldg_rl.transitions import Stream, from_bag

N = 6
DELTAS = np.linspace(-0.5, 0.5, 6 * N).reshape(N, 6)
HUMAN, POLICY = int(Source.HUMAN), int(Source.POLICY)


def encode(observation: Observation) -> npt.NDArray[np.float32]:
    return np.append(scaled_proprioception(observation), np.float32(observation.image.sum()))


def helped(**changes: Any) -> Episode:
    """A policy drives, a human helps at steps 1 and 2."""
    source = [POLICY, HUMAN, HUMAN, POLICY, POLICY, POLICY, int(Source.HOLD)]
    closed = [True, True, False, False, True, True]
    return make_episode(DELTAS, policy="p", closed=closed, columns={"source": np.array(source, np.uint8)}, **changes)


def messages(episode: Episode) -> Iterator[Observation | Step | EpisodeStatus]:
    """The episode as it was said."""
    for row in range(len(episode)):
        observation, last = episode.observation(row), bool(episode.is_last[row])
        yield observation
        yield EpisodeStatus(
            observation.stamp_ns, episode_id=observation.episode_id, phase=Phase.ENDED if last else Phase.RUNNING,
            outcome=episode.info.outcome if last else Outcome.NONE, index=row,
        )  # fmt: skip
        yield Step(
            int(episode.stamp_ns[row]), observation.stamp_ns, Source(int(episode.source[row])),
            Action(episode.executed[row], bool(episode.executed_gripper_closed[row])), Pose.identity(),
            observation.episode_id, row, row == 0, last, float(episode.reward[row]), bool(episode.terminated[row]),
            bool(episode.truncated[row]),
        )  # fmt: skip


def heard(said: Iterator[Any] | list[Any], stream: Stream | None = None) -> list[Transition | Label]:
    stream, found = stream or Stream(encode, with_gripper=True), []
    for message in said:
        if isinstance(message, Observation):
            found += stream.observation(message)
        elif isinstance(message, Step):
            found += stream.step(message)
        else:
            found += stream.episode(message)
    return found


def read(episode: Episode) -> list[Transition | Label]:
    return list(from_bag(episode, encode, with_gripper=True))


def plain(found: list[Transition | Label]) -> list[Any]:
    """Comparable with ==."""
    return [
        entry if isinstance(entry, Label) else tuple(v.tobytes() if isinstance(v, np.ndarray) else v for v in entry)
        for entry in found
    ]


CASES = {
    "a demonstration": lambda: make_episode(DELTAS),
    "a policy that is helped": helped,
    "a policy that runs out of time": lambda: helped(outcome=Outcome.TIMEOUT),
    "a failed demonstration": lambda: make_episode(DELTAS, outcome=Outcome.FAILURE),
}


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_stream_and_bag_give_the_same(make) -> None:
    episode = make()
    assert plain(heard(messages(episode))) == plain(read(episode))


def test_every_action_is_a_transition_and_the_closing_step_is_none() -> None:
    found = read(helped())
    assert [(t.episode_id, t.t) for t in found] == [("s/0001", t) for t in range(N)]
    np.testing.assert_array_equal([t.action[:6] for t in found], DELTAS.astype(np.float32))


def test_the_reward_is_that_of_the_next_step() -> None:
    found = read(helped())
    assert [t.reward for t in found] == [0.0] * (N - 1) + [1.0]
    assert [t.terminated for t in found] == [False] * (N - 1) + [True]


def test_an_episode_that_ran_out_of_time_is_truncated_and_not_terminated() -> None:
    last = np.arange(N + 1) == N
    ends = {"source": np.full(N + 1, POLICY, np.uint8), "terminated": ~last & last, "truncated": last}
    found = read(make_episode(DELTAS, policy="p", outcome=Outcome.TIMEOUT, columns=ends))
    assert (found[-1].truncated, found[-1].terminated) == (True, False)


def test_observations_follow_each_other() -> None:
    found = read(helped())
    for before, after in itertools.pairwise(found):
        np.testing.assert_array_equal(before.next_features, after.features)
    assert not np.array_equal(found[0].features, found[0].next_features)


def test_human_steps_are_interventions_and_the_held_gripper_state_is_the_seventh_number() -> None:
    found = read(helped())
    assert [t.intervention for t in found] == [False, True, True, False, False, False]
    assert [t.action[6] for t in found] == [1, 1, 0, 0, 1, 1]
    assert [t.toggled for t in found] == [False, False, True, False, True, False]


def test_a_human_who_has_the_door_but_stands_still_shows_nothing() -> None:
    still = np.where(np.arange(N)[:, None] == 1, 0.0, DELTAS)
    source = np.array([POLICY, HUMAN, HUMAN, POLICY, POLICY, POLICY, int(Source.HOLD)], np.uint8)
    found = read(make_episode(still, policy="p", columns={"source": source}))
    assert [t.intervention for t in found] == [False, False, True, False, False, False]


def test_an_episode_without_a_policy_is_a_demonstration_if_it_succeeded_and_nothing_otherwise() -> None:
    assert [t.demo for t in read(make_episode(DELTAS))] == [True] * N
    assert read(make_episode(DELTAS, outcome=Outcome.FAILURE)) == []


def test_a_human_who_begins_is_no_demonstrator_once_the_policy_drives() -> None:
    source = np.array([HUMAN, HUMAN, POLICY, POLICY, POLICY, POLICY, int(Source.HOLD)], np.uint8)
    found = read(make_episode(DELTAS, policy="p", columns={"source": source}))
    assert [t.t for t in found] == list(range(N))
    assert not any(t.demo for t in found)


@pytest.mark.parametrize("seed", range(5))
def test_messages_that_overtake_each_other_change_nothing(seed: int) -> None:
    said = list(messages(helped()))
    rng = random.Random(seed)
    shuffled = [said[i] for i in sorted(range(len(said)), key=lambda i: i + rng.uniform(0, 8))]
    found = sorted(plain(heard(shuffled)), key=lambda entry: entry[1])
    assert found == plain(read(helped()))


def test_messages_that_are_said_again_change_nothing() -> None:
    said = list(messages(helped()))
    twice = [message for message in said for _ in range(2)]
    assert plain(heard(twice)) == plain(read(helped()))


def test_a_step_that_was_lost_costs_the_two_transitions_that_need_it() -> None:
    said = [message for message in messages(helped()) if not (isinstance(message, Step) and message.index == 3)]
    assert [t.t for t in heard(said)] == [0, 1, 4, 5]


def test_steps_between_episodes_are_nothing() -> None:
    said = [replace(message, episode_id="") if isinstance(message, Step) else message for message in messages(helped())]
    assert heard(said) == []


def test_an_episode_that_was_cut_off_gives_the_transitions_that_are_whole() -> None:
    said = list(messages(helped()))[: 3 * 4]
    assert [t.t for t in heard(said)] == [0, 1, 2]


def relabelled(episode: Episode, outcome: Outcome) -> EpisodeStatus:
    return EpisodeStatus(10**12, episode_id=episode.info.episode_id, phase=Phase.ENDED, outcome=outcome, index=N)


def labelled(make: Any, outcome: Outcome) -> Episode:
    """As the bag is after the verdict was changed: its episode.yaml says so, its messages do not."""
    episode = make()
    label = LabelInfo(outcome=outcome)
    return replace(episode, info=make(outcome=outcome, labels=(label,)).info)


@pytest.mark.parametrize("make", [helped, lambda **c: make_episode(DELTAS, **c)], ids=["online", "demonstration"])
def test_a_verdict_that_is_changed_takes_the_reward_away(make) -> None:
    episode = make()
    found = heard([*messages(episode), relabelled(episode, Outcome.FAILURE)])
    assert found[-1] == Label("s/0001", N - 1, 0.0, True)
    assert plain(found) == plain(read(labelled(make, Outcome.FAILURE)))


def test_a_demonstration_that_is_called_a_success_afterwards_counts() -> None:
    episode = make_episode(DELTAS, outcome=Outcome.FAILURE)
    found = heard([*messages(episode), relabelled(episode, Outcome.SUCCESS)])
    assert [t.demo for t in found[:-1]] == [True] * N
    assert found[-1] == Label("s/0001", N - 1, 1.0, True)
    later = replace(episode, info=make_episode(DELTAS, labels=(LabelInfo(outcome=Outcome.SUCCESS),)).info)
    assert plain(found) == plain(read(later))
