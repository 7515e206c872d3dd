"""Which policy is kept, and when a training ends."""

from __future__ import annotations

from rldg_core.types import Outcome
from rldg_rl.policy import Evaluation
from rldg_rl.rollout import Episode
from rldg_rl.selection import Play, examine, expected, passes, standing


def episodes(pattern: str) -> Play:
    """Episodes by number: ``S`` succeeds, anything else runs out of time; the pattern repeats."""

    def play(number: int, count: int) -> list[Episode]:
        good = [pattern[i % len(pattern)] == "S" for i in range(number, number + count)]
        return [Episode(Outcome.SUCCESS if each else Outcome.TIMEOUT, 20, 0) for each in good]

    return play


def evaluation(successes: int, trials: int, mean_steps: float = 20.0) -> Evaluation:
    return Evaluation(successes=successes, trials=trials, mean_steps=mean_steps)


def test_a_policy_that_never_fails_is_examined_to_the_end_and_passes() -> None:
    found = examine(episodes("S"), 20, 200, 1, best=0.0)
    assert (found.successes, found.trials) == (200, 200) and passes(found, 200, 1)


def test_a_poor_policy_gets_no_more_than_the_first_episodes() -> None:
    assert examine(episodes("SSS-"), 20, 200, 1, best=0.0).trials == 20


def test_a_good_policy_that_may_be_the_best_is_examined_to_the_end_but_does_not_pass() -> None:
    found = examine(episodes("S" * 19 + "-"), 20, 200, 1, best=0.0)
    assert (found.successes, found.trials) == (190, 200) and not passes(found, 200, 1)


def test_it_ends_as_soon_as_it_cannot_be_the_best() -> None:
    found = examine(episodes("S" * 19 + "-"), 20, 200, 1, best=expected(evaluation(196, 200)))
    assert found.trials == 40  # with the second failure


def test_more_episodes_at_a_time_give_no_other_verdict() -> None:
    found = examine(episodes("S" * 19 + "-"), 20, 200, 1, best=0.99, at_once=20)
    assert found.trials == 40 and not passes(found, 200, 1)


def test_the_total_is_never_exceeded() -> None:
    assert examine(episodes("S"), 20, 2, 0, best=0.0).trials == 2
    assert examine(episodes("S"), 20, 30, 0, best=0.0, at_once=20).trials == 30


def test_as_many_may_fail_as_are_allowed_and_all_must_have_been_played() -> None:
    assert passes(evaluation(298, 300), 300, 2)
    assert not passes(evaluation(297, 300), 300, 2)
    assert not passes(evaluation(299, 299), 300, 2)


def test_few_episodes_prove_less_than_many() -> None:
    assert standing(evaluation(190, 200)) < standing(evaluation(198, 200))
    assert standing(evaluation(19, 20)) < standing(evaluation(190, 200))
    assert standing(evaluation(200, 200, 21.0)) < standing(evaluation(200, 200, 19.0))
    assert standing(evaluation(0, 20, float("nan"))) < standing(evaluation(1, 20))
