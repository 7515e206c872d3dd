"""The whole procedure for one specialist in one process: demonstrations, training with help, stop rule, evaluation."""

from __future__ import annotations

import enum
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from rldg_core.task import GripperUse, Task
from rldg_core.types import Outcome
from rldg_policies.board import open_board
from rldg_rl.checkpoint import Weights
from rldg_rl.config import Segment, TrainingConfig
from rldg_rl.encoders import Encoder, PixelsEncoder, PixelsSimEncoder, StateEncoder
from rldg_rl.evaluating import Examination, Examiner
from rldg_rl.interventions import ScriptedPerson
from rldg_rl.learner import Learner
from rldg_rl.networks import Spec
from rldg_rl.policy import Card, Evaluation, save_specialist
from rldg_rl.replay import Transition
from rldg_rl.rollout import Episode, demonstration, play
from rldg_rl.segments import cut
from rldg_rl.selection import expected, passes, standing
from rldg_sim.cell import Cell
from rldg_sim.demonstrate import demonstrate
from rldg_sim.loop import Loop

_SEEDS_PER_RUN, _SEEDS_PER_PURPOSE = 10_000_000, 1_000_000
ATTEMPTS_PER_DEMO = 5
# evaluated is only a policy that succeeded in such a share of the last so many training episodes without help
_PROMISING, _ALONE = 0.7, 10
_MODE_EVERY = 3  # one training episode in so many is played with the mode: what will be served is also practised


class Purpose(enum.IntEnum):
    """What a start state is for."""

    DEMOS = 0
    TRAINING = 1
    CHECKS = 2
    FINAL = 4
    FRAMES = 5


def scene_seed(seed: int, purpose: Purpose, number: int) -> int:
    """Start states of different purposes never coincide, nor do those of runs with different seeds."""
    return seed * _SEEDS_PER_RUN + purpose * _SEEDS_PER_PURPOSE + number


class TrainingError(RuntimeError):
    """A run cannot go on; one line with the reason and the remedy."""


@dataclass(frozen=True)
class Pretraining:
    """An epoch of the encoder is done."""

    epoch: int
    epochs: int
    loss: float


@dataclass(frozen=True)
class EncoderReady:
    """Errors are nan for encoders that regress no pose."""

    name: str
    feature_dim: int
    error_m: tuple[float, float, float]
    error_rad: float
    cpu_s: float


@dataclass(frozen=True)
class DemosReady:
    episodes: int
    attempts: int
    transitions: int


@dataclass(frozen=True)
class EpisodeEnded:
    """A training episode; ``metrics`` are the learner's since the last one."""

    number: int
    env_steps: int
    episode: Episode
    metrics: dict[str, float]


@dataclass(frozen=True)
class Evaluated:
    """Autonomous episodes with the mode of the policy; ``purpose`` is check or final."""

    purpose: str
    env_steps: int
    evaluation: Evaluation


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        success_rate: of the final evaluation: ``trials`` start states that nothing else has seen.
        mean_steps: of its successful episodes, nan if none.
        env_steps: of training, until the policy that was kept had been learned.
        stopped: why the training ended: ``converged`` or ``max_env_steps``.
        demo_steps: mean length of the demonstrations.
    """

    task: str
    encoder: str
    seed: int
    success_rate: float
    trials: int
    mean_steps: float
    env_steps: int
    episodes: int
    intervention_steps: int
    demos: int
    demo_steps: float
    stopped: str
    wall_s: float
    cpu_s: float
    checkpoint: str


Event = Pretraining | EncoderReady | DemosReady | EpisodeEnded | Evaluated | Result
OnEvent = Callable[[Event], None]


def run_training(
    task: Task, config: TrainingConfig, run_dir: Path, seed: int, on_event: OnEvent = lambda event: None
) -> Result:
    """Train a specialist in simulation and keep the best one that was confirmed.

    Everything is drawn from ``seed``: the same task, preset, seed and machine give the same specialist. Start the
    process with one thread (``OMP_NUM_THREADS=1``, ``XLA_FLAGS=--xla_cpu_multi_thread_eigen=false``): more cost CPU
    time and gain little.

    Args:
        run_dir: gets ``tensorboard/``, the learner's folder and ``checkpoints/<task>/``.
        on_event: told of everything worth showing.

    Raises:
        TrainingError: the scripted operator cannot do the task.
        DivergenceError: the critics' values left what rewards allow.
    """
    return _Run(task, config, run_dir, seed, on_event).run()


def make_encoder(task: Task, config: TrainingConfig, seed: int, on_event: OnEvent) -> Encoder:
    """The encoder that a preset asks for, trained first where it has to be."""
    unknown = (float("nan"),) * 3
    if config.encoder == "state":
        encoder: Encoder = StateEncoder(task)
        on_event(EncoderReady("state", encoder.feature_dim, unknown, float("nan"), 0.0))
        return encoder
    began_s = time.process_time()
    if config.encoder == "pixels":
        encoder = PixelsEncoder(config.views, seed)
        on_event(EncoderReady(encoder.name, encoder.feature_dim, unknown, float("nan"), time.process_time() - began_s))
        return encoder
    from rldg_rl import pretrain

    jobs = len(os.sched_getaffinity(0))
    frames = pretrain.collect(task, config.pretrain_frames, scene_seed(seed, Purpose.FRAMES, 0), jobs)
    trained = pretrain.fit(
        frames, seed, config.pretrain_epochs, lambda n, x: on_event(Pretraining(n, config.pretrain_epochs, x))
    )
    encoder = PixelsSimEncoder(trained.params, trained.outputs)
    cpu_s = time.process_time() - began_s
    on_event(EncoderReady(encoder.name, encoder.feature_dim, trained.error_m, trained.error_rad, cpu_s))
    return encoder


def specialist_name(task: Task, encoder: str, seed: int, segment: Segment = Segment.ALL) -> str:
    """Of a specialist, and of the folder of its checkpoint."""
    return "-".join([task.name, *([] if segment is Segment.ALL else [segment.value]), encoder, str(seed)])


def make_card(
    task: Task,
    encoder: Encoder,
    seed: int,
    env_steps: int,
    evaluation: Evaluation | None,
    segment: Segment = Segment.ALL,
) -> Card:
    """The card of what a run has come to."""
    control = task.control
    return Card(
        name=specialist_name(task, encoder.name, seed, segment),
        task=task.name,
        encoder=encoder.name,
        encoder_digest=encoder.digest,
        image_size_px=encoder.image_size_px,
        rate_hz=control.rate_hz,
        translation_scale_m=control.translation_scale_m,
        rotation_scale_rad=control.rotation_scale_rad,
        setpoint=control.setpoint.value,
        gripper=control.gripper.value,
        segment=segment.value,
        seed=seed,
        env_steps=env_steps,
        evaluation=evaluation,
    )


@dataclass(frozen=True)
class _Candidate:
    """A policy that is being evaluated, and what the run had come to when it was taken."""

    weights: Weights
    env_steps: int
    episodes: int
    helped_steps: int


class _Run:
    def __init__(self, task: Task, config: TrainingConfig, run_dir: Path, seed: int, on_event: OnEvent) -> None:
        self._task, self._config, self._seed, self._on_event = task, config, seed, on_event
        self._run_dir = run_dir
        run_dir.mkdir(parents=True, exist_ok=True)
        self._wall_s, self._cpu_s = time.monotonic(), time.process_time()
        self._board = open_board(run_dir / "tensorboard")
        self._with_gripper = task.control.gripper is GripperUse.BINARY
        self._cell = Cell(task)
        self._encoder = make_encoder(task, config, seed, self._say)
        self._loop = Loop(task, self._cell, with_images=self._encoder.image_size_px > 0)
        self._spec = Spec(self._encoder.feature_dim, self._with_gripper, self._encoder.grid)
        self._learner = Learner(config, self._spec, seed, run_dir / "learner")
        self._person = ScriptedPerson(task, config.interventions, seed)
        self._env_steps = self._episodes = self._helped = 0
        self._alone: deque[bool] = deque(maxlen=_ALONE)  # whether the last episodes without help succeeded
        self._examiner = Examiner(task)
        self._examined_cpu_s = 0.0
        self._candidate: _Candidate | None = None
        self._kept: tuple[_Candidate, Evaluation] | None = None

    def run(self) -> Result:
        try:
            demo_steps = self._demonstrate()
            stopped = self._train()
            return self._conclude(stopped, demo_steps)
        finally:
            self._examiner.close()
            self._board.close()
            self._cell.close()

    # --- encoder and demonstrations --------------------------------------------------------------------------------

    def _demonstrate(self) -> float:
        """Successful demonstrations into the replay; their mean length."""
        kept = transitions = attempts = 0
        while kept < self._config.demos:
            if attempts >= ATTEMPTS_PER_DEMO * self._config.demos:
                raise TrainingError(
                    f"task {self._task.name}: the scripted operator succeeded in {kept} of {attempts} attempts; "
                    "check the task file's goal and tolerances"
                )
            ticks, steps = demonstrate(self._loop, scene_seed(self._seed, Purpose.DEMOS, attempts))
            attempts += 1
            ticks, steps = cut(self._config.segment, ticks, steps)
            if ticks and ticks[-1].status.outcome is Outcome.SUCCESS:
                name = self._episode_id("demo", kept)
                with_gripper = self._with_gripper
                self._learner.add(demonstration(self._encoder, name, ticks, steps, with_gripper=with_gripper))
                kept, transitions = kept + 1, transitions + len(steps)
        self._say(DemosReady(kept, attempts, transitions))
        return transitions / max(kept, 1)

    def _episode_id(self, kind: str, number: int) -> str:
        return f"{self._task.name}/{self._seed}/{kind}/{number:05d}"

    # --- training --------------------------------------------------------------------------------------------------

    def _train(self) -> str:
        next_check = self._config.evaluate_every_steps
        while self._env_steps < self._config.max_env_steps:
            self._episode()
            due = self._env_steps >= next_check
            next_check += due * self._config.evaluate_every_steps
            # one after the other: what is known of the last candidate decides how long the next is looked at
            if self._candidate and (due or self._examiner.done) and self._judge():
                return "converged"
            if due and self._promising():
                self._examine()
        if self._kept is None and self._candidate is None:
            self._examine()
        return "converged" if self._candidate and self._judge() else "max_env_steps"

    def _episode(self) -> None:
        number = self._episodes
        by_mode = number % _MODE_EVERY == _MODE_EVERY - 1
        self._person.begin(number)
        episode = play(
            self._loop,
            self._encoder,
            partial(self._learner.act, deterministic=by_mode),
            scene_seed(self._seed, Purpose.TRAINING, number),
            segment=self._config.segment,
            person=self._person,
            episode_id=self._episode_id("online", number),
            learn=self._learn,
        )
        self._episodes, self._helped = number + 1, self._helped + episode.helped_steps
        if not episode.helped_steps:
            self._alone.append(episode.success)
        metrics = self._learner.metrics() | episode.figures()
        for name, value in metrics.items():
            self._board.add_scalar(name, value, self._env_steps)
        self._say(EpisodeEnded(number, self._env_steps, episode, metrics))

    def _promising(self) -> bool:
        """Whether the policy lately succeeds alone often enough for a check to be worth its time."""
        return sum(self._alone) >= _PROMISING * _ALONE

    def _learn(self, transition: Transition) -> None:
        self._learner.add([transition])
        self._env_steps += 1
        self._learner.step()

    # --- evaluation ------------------------------------------------------------------------------------------------

    def _examine(self) -> None:
        """Have the present policy evaluated while training goes on."""
        config, weights = self._config, self._learner.weights()
        first = scene_seed(self._seed, Purpose.CHECKS, self._env_steps // config.evaluate_every_steps * 1000)
        best = expected(self._kept[1]) if self._kept else 0.0
        folder = self._save(self._run_dir / "candidate", weights, self._env_steps)
        self._examiner.begin(
            Examination(folder, first, config.evaluation_episodes, config.stop_trials, config.allowed_failures, best)
        )
        self._candidate = _Candidate(weights, self._env_steps, self._episodes, self._helped)

    def _judge(self) -> bool:
        """Wait for the candidate's evaluation and keep it if it is the best so far; whether it passes the stop rule."""
        candidate, self._candidate = self._candidate, None
        assert candidate is not None
        found = self._evaluated("check", candidate.env_steps)
        converged = passes(found, self._config.stop_trials, self._config.allowed_failures)
        if converged or self._kept is None or standing(found) > standing(self._kept[1]):
            self._kept = candidate, found
            self._save(self._folder, candidate.weights, candidate.env_steps)
        return converged

    def _evaluated(self, purpose: str, env_steps: int) -> Evaluation:
        evaluation, cpu_s = self._examiner.result()
        self._examined_cpu_s += cpu_s
        self._board.add_scalar(f"evaluation/{purpose}", evaluation.successes / evaluation.trials, env_steps)
        self._say(Evaluated(purpose, env_steps, evaluation))
        return evaluation

    # --- the end ---------------------------------------------------------------------------------------------------

    def _conclude(self, stopped: str, demo_steps: float) -> Result:
        assert self._kept is not None
        kept, trials = self._kept[0], self._config.final_trials
        first = scene_seed(self._seed, Purpose.FINAL, 0)
        self._examiner.begin(Examination(self._folder, first, trials, trials))
        final = self._evaluated("final", kept.env_steps)
        self._save(self._folder, kept.weights, kept.env_steps, final)
        result = Result(
            task=self._task.name,
            encoder=self._encoder.name,
            seed=self._seed,
            success_rate=final.successes / final.trials,
            trials=final.trials,
            mean_steps=final.mean_steps,
            env_steps=kept.env_steps,
            episodes=kept.episodes,
            intervention_steps=kept.helped_steps,
            demos=self._config.demos,
            demo_steps=demo_steps,
            stopped=stopped,
            wall_s=time.monotonic() - self._wall_s,
            cpu_s=time.process_time() - self._cpu_s + self._examined_cpu_s,
            checkpoint=str(self._folder),
        )
        self._say(result)
        return result

    @property
    def _folder(self) -> Path:
        """Where the policy that is kept lies, from the first one on."""
        name = specialist_name(self._task, self._encoder.name, self._seed, self._config.segment)
        return self._run_dir / "checkpoints" / name

    def _save(self, folder: Path, weights: Weights, env_steps: int, evaluation: Evaluation | None = None) -> Path:
        """Write a policy as a checkpoint folder."""
        card = make_card(self._task, self._encoder, self._seed, env_steps, evaluation, self._config.segment)
        folder.parent.mkdir(exist_ok=True)
        return save_specialist(folder, card, weights, self._config, self._spec, self._encoder)

    def _say(self, event: Event) -> None:
        self._on_event(event)


def as_json(result: Result) -> str:
    """One line."""
    content: dict[str, Any] = msgspec.to_builtins(result)
    return msgspec.json.encode(content).decode()
