"""The procedure of a training through the graph, with a cell that does as it is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from rldg_core.task import load_task
from rldg_core.types import Outcome
from rldg_rl import rlpd
from rldg_rl.broadcast import pack_weights, unpack_weights
from rldg_rl.checkpoint import CheckpointError, Weights, load_weights
from rldg_rl.config import Encoder, TrainingConfig
from rldg_rl.encoders import EncoderError, StateEncoder
from rldg_rl.graph import GraphTraining, begin
from rldg_rl.learner import DivergenceError
from rldg_rl.networks import Spec
from rldg_rl.policy import WEIGHTS, load_card, save_specialist
from rldg_rl.rollout import Episode
from rldg_rl.train import Evaluated, Event, Purpose, Result, TrainingError, make_card, scene_seed
from rldg_rl.worker import START

TASK = load_task("usb_insertion")
CONFIG = TrainingConfig(
    encoder=Encoder.STATE,
    hidden=(8,),
    utd=2,
    demos=2,
    warmup_steps=50,
    max_env_steps=2000,
    evaluate_every_steps=100,
    evaluation_episodes=4,
    stop_trials=4,
    final_trials=4,
)
ENCODER = StateEncoder(TASK)
SPEC = Spec(ENCODER.feature_dim)
STEPS = 50  # of every episode


def weights(version: int) -> Weights:
    return Weights(version, jax.tree.map(np.array, rlpd.policy_params(rlpd.make_state(CONFIG, SPEC, version))))


class FakeCell:
    """The policy succeeds alone in the share of the episodes that ``skill`` says for the version that it serves."""

    def __init__(self, skill: Callable[[int], float] = lambda version: 1.0) -> None:
        self._skill = skill
        self.metrics: dict[str, float] = {"env_steps": 0.0, "updates": 0.0}
        self.trouble = ""
        self.weights = pack_weights(weights(1), CONFIG)
        self.served: Path | None = None
        self.policy = False
        self.operator_succeeds = True
        self.lag = 0.0  # updates that the learner is behind after each episode, until it is waited for
        self.seeds: list[int] = []
        self.waits: list[str] = []

    def select(self, *, policy: bool) -> None:
        self.policy = policy

    def serve(self, folder: Path | None) -> None:
        self.served = folder

    def play(self, first_seed: int, count: int) -> list[Episode]:
        self.seeds += range(first_seed, first_seed + count)
        share = float(self.operator_succeeds)
        if self.policy:
            self.metrics["env_steps"] += count * STEPS
            self.metrics["updates"] = 2 * self.metrics["env_steps"] - self.lag
            version = int(self.metrics["env_steps"])
            if self.served is None:
                self.weights = pack_weights(weights(version), CONFIG)
            else:
                share = self._skill(load_weights(self.served / WEIGHTS)[0].version)
        good = round(share * count)
        success, timeout = Episode(Outcome.SUCCESS, STEPS, 0), Episode(Outcome.TIMEOUT, STEPS, 0)
        return [success] * good + [timeout] * (count - good)

    def wait(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        if not done():
            self.waits.append(what)
            self.metrics["updates"] = 2 * self.metrics["env_steps"]
        assert done()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has begun. A real cell would refuse its encoder."""
    card = make_card(TASK, ENCODER, 0, 0, None)
    save_specialist(tmp_path / START, card, weights(0), CONFIG, SPEC, ENCODER)
    return tmp_path


def train(cell: FakeCell, run: Path) -> tuple[Result, list[Event]]:
    events: list[Event] = []
    return GraphTraining(TASK, CONFIG, run, 0, cell, events.append).run(), events


def test_a_policy_that_passes_its_stop_rule_ends_the_training_and_becomes_the_checkpoint(run: Path) -> None:
    cell = FakeCell(lambda version: float(version >= 300))
    result, _ = train(cell, run)
    assert (result.stopped, result.success_rate, result.trials) == ("converged", 1.0, 4)
    kept, _, _ = load_weights(Path(result.checkpoint) / WEIGHTS)
    assert kept.version >= 300
    card = load_card(Path(result.checkpoint))
    assert card.evaluation is not None and card.evaluation.successes == 4
    assert cell.served is None
    assert list((run / "tensorboard").iterdir())


def test_without_convergence_the_best_that_was_verified_is_kept_and_not_the_last(run: Path) -> None:
    result, events = train(FakeCell(lambda version: 0.75 if version < 200 else 0.25), run)
    assert (result.stopped, result.success_rate) == ("max_env_steps", 0.75)
    assert load_weights(Path(result.checkpoint) / WEIGHTS)[0].version < 200
    checks = [event for event in events if isinstance(event, Evaluated)]
    assert [check.purpose for check in checks][-1] == "final"
    assert [check.env_steps for check in checks] == sorted(check.env_steps for check in checks)


def test_what_an_earlier_start_has_kept_stays_the_best(run: Path) -> None:
    result, _ = train(FakeCell(lambda version: float(version >= 300)), run)
    before = load_weights(Path(result.checkpoint) / WEIGHTS)[0].version
    again = FakeCell(lambda version: float(version == before))
    again.metrics |= {"env_steps": 2000.0, "updates": 4000.0}
    resumed, _ = train(again, run)
    assert resumed.success_rate == 1.0
    assert load_weights(Path(resumed.checkpoint) / WEIGHTS)[0].version == before


def test_demonstrations_are_without_the_policy_and_on_start_states_of_their_own(run: Path) -> None:
    cell = FakeCell()
    training = GraphTraining(TASK, CONFIG, run, 0, cell, lambda event: None)
    assert training.demonstrate() == STEPS
    assert not cell.policy
    assert cell.seeds == [scene_seed(0, Purpose.DEMOS, n) for n in range(CONFIG.demos)]


def test_an_operator_who_cannot_do_the_task_ends_the_training(run: Path) -> None:
    cell = FakeCell()
    cell.operator_succeeds = False
    with pytest.raises(TrainingError, match="the operator succeeded in 0 of 10 attempts"):
        train(cell, run)


def test_a_cell_that_is_faster_than_the_learner_waits_for_it(run: Path) -> None:
    quick, slow, deaf = FakeCell(), FakeCell(), FakeCell()
    slow.lag = 2 * 201
    deaf.metrics["queued"] = 3 * 201.0
    waits = []
    for cell in (quick, slow, deaf):
        cell.metrics |= {"env_steps": 1000.0, "updates": 2000.0 - cell.lag}
        waits.append(not GraphTraining(TASK, CONFIG, run, 0, cell, lambda event: None)._in_time())
    assert waits == [False, True, True]


def test_a_learner_in_trouble_ends_the_training_with_its_reason(run: Path) -> None:
    cell = FakeCell()
    cell.trouble = "Q lies far outside"
    with pytest.raises(DivergenceError, match="Q lies far outside"):
        train(cell, run)


def test_a_run_is_not_begun_twice_with_different_presets_nor_with_eyes_that_need_the_truth(run: Path) -> None:
    assert begin(TASK, CONFIG, run, 0) == run / START
    with pytest.raises(EncoderError, match="was begun with another preset"):
        begin(TASK, TrainingConfig(encoder=Encoder.STATE), run, 0)
    with pytest.raises(EncoderError, match="train without --graph"):
        begin(TASK, CONFIG, run / "other", 0)


# --- the weights on their way ----------------------------------------------------------------------------------------


def test_weights_arrive_as_they_were_sent() -> None:
    sent = weights(7)
    got = unpack_weights(pack_weights(sent, CONFIG), CONFIG, SPEC)
    assert got.version == 7
    for a, b in zip(jax.tree.leaves(sent.params), jax.tree.leaves(got.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_of_something_else_are_refused() -> None:
    data = pack_weights(weights(1), CONFIG)
    with pytest.raises(CheckpointError, match="of another preset"):
        unpack_weights(data, TrainingConfig(encoder=Encoder.STATE), SPEC)
    with pytest.raises(CheckpointError, match="of other shapes"):
        unpack_weights(data, CONFIG, Spec(ENCODER.feature_dim + 1))
    with pytest.raises(CheckpointError, match="not weights"):
        unpack_weights(data[: len(data) // 2], CONFIG, SPEC)
    broken = Weights(1, jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), weights(1).params))
    with pytest.raises(CheckpointError, match="not finite; the learner has diverged"):
        unpack_weights(pack_weights(broken, CONFIG), CONFIG, SPEC)
