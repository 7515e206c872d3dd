"""The whole procedure, on something tiny; and, with --long, on the real thing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from rldg_core.task import load_task
from rldg_rl import train
from rldg_rl.config import Activation, Encoder, Interventions, TrainingConfig, load_config
from rldg_rl.learner import Learner
from rldg_rl.networks import Spec
from rldg_rl.policy import load_specialist
from rldg_rl.replay import Transition
from rldg_rl.rollout import Choose
from rldg_rl.train import DemosReady, EpisodeEnded, Evaluated, Result, run_training

TASK = load_task("usb_insertion")
TINY = TrainingConfig(
    encoder=Encoder.STATE,
    demos=2,
    batch=16,
    utd=2,
    hidden=(16,),
    warmup_steps=20,
    interventions=Interventions(episode_probability=1.0),
    max_env_steps=120,
    evaluate_every_steps=100,
    evaluation_episodes=1,
    stop_trials=2,
    final_trials=2,
)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[train.Event], Result, Path]:
    events: list[train.Event] = []
    folder = tmp_path_factory.mktemp("run")
    return events, run_training(TASK, TINY, folder, 3, events.append), folder


def test_a_run_tells_what_it_does_in_order(tiny_run) -> None:
    events, result, _ = tiny_run
    kinds = [type(event).__name__ for event in events]
    assert kinds[:2] == ["EncoderReady", "DemosReady"] and kinds[-1] == "Result" and events[-1] == result
    demos = next(event for event in events if isinstance(event, DemosReady))
    assert demos.episodes == 2 and demos.transitions > 20
    purposes = [event.purpose for event in events if isinstance(event, Evaluated)]
    assert set(purposes[:-1]) == {"check"} and purposes[-1] == "final"


def test_the_learner_keeps_pace_with_the_environment(tiny_run) -> None:
    events, _, _ = tiny_run
    last = [event for event in events if isinstance(event, EpisodeEnded)][-1]
    assert last.env_steps == last.metrics["env_steps"] >= TINY.max_env_steps
    # from the end of the warm-up on, utd updates a step; what was missed before is not made up for at once
    assert 0 < last.metrics["updates"] <= TINY.utd * last.env_steps
    assert last.metrics["utd"] <= TINY.utd and np.isfinite(last.metrics["critic_loss"])


def test_help_reaches_the_demonstrations(tiny_run) -> None:
    events, result, _ = tiny_run
    episodes = [event for event in events if isinstance(event, EpisodeEnded)]
    demos = next(event for event in events if isinstance(event, DemosReady))
    assert result.intervention_steps == sum(event.episode.helped_steps for event in episodes) > 0
    helped = episodes[-1].metrics["demo_transitions"] - demos.transitions
    assert 0 < helped <= result.intervention_steps  # hands that rest on the device show nothing


def test_the_checkpoint_says_how_it_did_and_can_be_loaded(tiny_run) -> None:
    _, result, folder = tiny_run
    specialist, card = load_specialist(Path(result.checkpoint), TASK)
    assert Path(result.checkpoint).parent == folder / "checkpoints"
    assert card.evaluation is not None and card.evaluation.trials == result.trials == 2
    assert card.evaluation.successes / 2 == result.success_rate
    assert card.env_steps == result.env_steps and specialist.encoder.name == "state"


def test_the_best_so_far_is_on_disk_when_a_run_is_interrupted(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(train._Run, "_promising", lambda run: True)
    config = msgspec.structs.replace(TINY, evaluate_every_steps=20, max_env_steps=5000)
    checked = False

    def interrupt(event: train.Event) -> None:
        nonlocal checked
        if checked and isinstance(event, EpisodeEnded):
            raise KeyboardInterrupt
        checked |= isinstance(event, Evaluated)

    with pytest.raises(KeyboardInterrupt):
        run_training(TASK, config, tmp_path, 3, interrupt)
    (folder,) = (tmp_path / "checkpoints").iterdir()
    assert load_specialist(folder, TASK)[1].env_steps > 0


def test_figures_go_to_tensorboard(tiny_run) -> None:
    assert list((tiny_run[2] / "tensorboard").glob("events.*"))


def test_the_learner_learns_to_reach_a_point() -> None:
    """A point in the plane, at most 0.2 a step, is to come within 0.25 of the origin; the reward is sparse."""
    config = TrainingConfig(
        encoder=Encoder.STATE, demos=1, batch=64, hidden=(32, 32), activation=Activation.RELU, tau=0.02, warmup_steps=30
    )
    learner, rng = Learner(config, Spec(2), 0), np.random.default_rng(0)

    def episode(name: str, choose: Choose, *, demo: bool = False, learn: bool = True) -> bool:
        point = rng.uniform(-1.0, 1.0, 2).astype(np.float32)
        for t in range(15):
            action = np.clip(np.asarray(choose(point), np.float32), -1.0, 1.0)
            after = point + np.float32(0.2) * action[:2]
            done = bool(np.linalg.norm(after) < 0.25)
            if learn:
                truncated = t == 14 and not done
                learner.add([Transition(name, t, point, after, action, float(done), done, truncated, False, demo)])
                learner.step()
            point = after
            if done:
                return True
        return False

    def shown(point: np.ndarray) -> np.ndarray:
        return np.append(np.clip(-3.0 * point, -0.6, 0.6), np.zeros(4))

    def successes() -> int:
        return sum(episode("", partial(learner.act, deterministic=True), learn=False) for _ in range(20))

    for number in range(8):
        assert episode(f"demo/{number}", shown, demo=True)
    before = successes()
    for number in range(60):
        episode(f"online/{number}", learner.act)
    assert before < 8 and successes() >= 17


def test_a_task_that_the_operator_cannot_do_is_refused(tmp_path: Path) -> None:
    hopeless = msgspec.structs.replace(TASK, time_limit_s=0.3)
    with pytest.raises(train.TrainingError, match=r"succeeded in 0 of 10 attempts; check the task file's goal"):
        run_training(hopeless, TINY, tmp_path, 0)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("preset", ["state", "pixels_sim"])
def test_a_specialist_converges(preset: str, tmp_path: Path) -> None:
    result = run_training(TASK, load_config(preset, TASK.family), tmp_path, 0)
    assert result.stopped == "converged" and result.success_rate >= 0.98
    assert result.mean_steps < 0.7 * result.demo_steps
