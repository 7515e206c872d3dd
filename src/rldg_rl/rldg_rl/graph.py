"""A training through the graph: the same procedure as in one process, with a cell, an actor and a learner."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from rldg_core.task import GripperUse, Task
from rldg_core.types import Outcome
from rldg_policies.board import open_board
from rldg_recorder.episode import EpisodeInfo, read_info
from rldg_recorder.episode_reader import find_bags
from rldg_rl import rlpd
from rldg_rl.broadcast import pack_weights, unpack_weights
from rldg_rl.checkpoint import Weights, load_weights
from rldg_rl.config import TrainingConfig
from rldg_rl.encoders import EncoderError
from rldg_rl.learner import DivergenceError
from rldg_rl.networks import Spec
from rldg_rl.policy import CARD, WEIGHTS, Evaluation, load_specialist, save_specialist
from rldg_rl.rollout import Episode
from rldg_rl.selection import examine, expected, passes, standing
from rldg_rl.train import (
    ATTEMPTS_PER_DEMO,
    DemosReady,
    EpisodeEnded,
    Evaluated,
    OnEvent,
    Purpose,
    Result,
    TrainingError,
    make_card,
    make_encoder,
    scene_seed,
    specialist_name,
)
from rldg_rl.worker import BOARD, START

_BEHIND_STEPS = 200  # environment steps that the learner may lag behind before the next episode waits for it
_MESSAGES_PER_STEP = 3
_CATCH_UP_S = 600.0
_FIRST_WORD_S = 60.0


class TrainingCell(Protocol):
    """A cell of ``train.launch.xml`` that is up.

    Attributes:
        metrics: the learner's, about once a second, and how many messages it has ``queued``.
        trouble: why the learner has stopped, "" if it has not.
        weights: the newest that it has published (``rldg_rl.broadcast``).
    """

    @property
    def metrics(self) -> dict[str, float]: ...

    @property
    def trouble(self) -> str: ...

    @property
    def weights(self) -> bytes: ...

    def select(self, *, policy: bool) -> None:
        """Let the actor drive, or nobody but the human."""

    def serve(self, folder: Path | None) -> None:
        """Have the actor serve a checkpoint, alone; None: learn again, with help."""

    def play(self, first_seed: int, count: int) -> list[Episode]:
        """Run episodes."""

    def wait(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Listen until something holds; raises TimeoutError."""


def begin(task: Task, config: TrainingConfig, run: Path, seed: int, on_event: OnEvent = lambda event: None) -> Path:
    """The folder of what a run begins with: encoder, preset, and networks that know nothing. One that is there stays.

    Raises:
        EncoderError: the preset's encoder needs what observations do not carry.
        CheckpointError: what is there was made with another preset or for another task.
    """
    folder = run / START
    if (folder / CARD).is_file():
        load_specialist(folder, task)
        found = load_weights(folder / WEIGHTS)[1]
        if found != config:
            raise EncoderError(f"{folder}: was begun with another preset; use that one, or another folder for the run")
        return folder
    if config.encoder == "state":
        raise EncoderError(
            "encoder 'state': reads the simulation's truth, which observations do not carry; train without --graph, or "
            "with a preset that looks at images"
        )
    encoder = make_encoder(task, config, seed, on_event)
    spec = Spec(encoder.feature_dim, task.control.gripper is GripperUse.BINARY, encoder.grid)
    weights = Weights(0, rlpd.policy_params(rlpd.make_state(config, spec, seed)))
    return save_specialist(folder, make_card(task, encoder, seed, 0, None), weights, config, spec, encoder)


def keep(
    task: Task, run: Path, folder: Path, data: bytes, seed: int, env_steps: int, evaluation: Evaluation | None = None
) -> Path:
    """A checkpoint of weights that were broadcast.

    Raises:
        CheckpointError: they are not of this run.
    """
    specialist, _ = load_specialist(run / START, task)
    _, config, spec = load_weights(run / START / WEIGHTS)
    card = make_card(task, specialist.encoder, seed, env_steps, evaluation)
    return save_specialist(folder, card, unpack_weights(data, config, spec), config, spec, specialist.encoder)


class GraphTraining:
    """The procedure.

    Args:
        run: folder of the run, begun with :func:`begin`; the recorder writes to ``bags`` in it. What it holds of an
            earlier start counts.
    """

    def __init__(
        self, task: Task, config: TrainingConfig, run: Path, seed: int, cell: TrainingCell, on_event: OnEvent
    ) -> None:
        self._task, self._config, self._run, self._seed = task, config, run, seed
        self._cell, self._on_event = cell, on_event
        self._best: Evaluation | None = None
        self._kept: tuple[bytes, int] | None = None
        self._episodes = self._helped = 0
        self._began_s = time.monotonic()
        self._board = open_board(run / BOARD)

    def run(self) -> Result:
        """Demonstrations, training, final evaluation.

        Raises:
            TrainingError: the operator cannot do the task.
            DivergenceError: the learner has stopped, and says why.
        """
        try:
            return self._run_all()
        finally:
            self._board.close()

    def _run_all(self) -> Result:
        # what an earlier start has learned
        self._cell.wait(
            lambda: "env_steps" in self._cell.metrics and bool(self._cell.weights), _FIRST_WORD_S, "word of the learner"
        )
        self._find_best()
        demo_steps = self.demonstrate()
        stopped = self._train()
        if self._kept is None:
            self._check()
        assert self._kept is not None
        weights, env_steps = self._kept
        trials = self._config.final_trials
        final = self._evaluate("final", weights, Purpose.FINAL, 0, trials, trials)
        result = Result(
            task=self._task.name,
            encoder=str(self._config.encoder),
            seed=self._seed,
            success_rate=final.successes / final.trials,
            trials=final.trials,
            mean_steps=final.mean_steps,
            env_steps=env_steps,
            episodes=self._episodes,
            intervention_steps=self._helped,
            demos=self._config.demos,
            demo_steps=demo_steps,
            stopped=stopped,
            wall_s=time.monotonic() - self._began_s,
            cpu_s=float("nan"),  # of a dozen processes
            checkpoint=str(self._save(final)),
        )
        self._on_event(result)
        return result

    def demonstrate(self) -> float:
        """Demonstrations until the bags hold as many successful ones as the preset asks for; their mean length."""
        recorded = self._recorded()
        lengths = [info.steps - 1 for info in recorded if not info.policies and info.outcome is Outcome.SUCCESS]
        attempts = len(recorded)
        limit = attempts + ATTEMPTS_PER_DEMO * self._config.demos
        if len(lengths) < self._config.demos:
            self._cell.select(policy=False)
        while len(lengths) < self._config.demos:
            if attempts >= limit:
                raise TrainingError(
                    f"task {self._task.name}: the operator succeeded in {len(lengths)} of {attempts} attempts; "
                    "check the task file's goal and tolerances"
                )
            (episode,) = self._play(Purpose.DEMOS, attempts, 1)
            attempts += 1
            if episode.success:
                lengths.append(episode.steps)
        self._on_event(DemosReady(len(lengths), attempts, sum(lengths)))
        return float(np.mean(lengths)) if lengths else float("nan")

    def _train(self) -> str:
        self._cell.select(policy=True)
        number = len(self._recorded())
        next_check = self._env_steps + self._config.evaluate_every_steps
        while self._env_steps < self._config.max_env_steps:
            (episode,) = self._play(Purpose.TRAINING, number, 1)
            self._cell.wait(self._in_time, _CATCH_UP_S, "the learner's pace")
            self._episodes, self._helped = self._episodes + 1, self._helped + episode.helped_steps
            for name, value in episode.figures().items():
                self._board.add_scalar(name, value, self._env_steps)
            self._on_event(EpisodeEnded(number, self._env_steps, episode, dict(self._cell.metrics)))
            number += 1
            if self._env_steps >= next_check:
                if self._check():
                    return "converged"
                next_check = self._env_steps + self._config.evaluate_every_steps
        return "max_env_steps"

    def _in_time(self) -> bool:
        """In lockstep a cell may be faster than the learner, which then would learn from what an old policy did."""
        metrics = self._cell.metrics
        steps = self._env_steps + metrics.get("queued", 0.0) / _MESSAGES_PER_STEP
        behind = self._config.utd * steps - metrics.get("updates", 0.0)
        allowed = self._config.utd * max(_BEHIND_STEPS, self._config.warmup_steps)
        return bool(self._cell.trouble) or behind <= allowed

    def _check(self) -> bool:
        """Evaluate the present policy, keep it if it is the best so far; whether the stop rule is met."""
        config, weights, env_steps = self._config, self._cell.weights, self._env_steps
        first = 1000 * (env_steps // config.evaluate_every_steps)
        best = expected(self._best) if self._best else 0.0
        found = self._evaluate(
            "check", weights, Purpose.CHECKS, first, config.evaluation_episodes, config.stop_trials, best
        )
        converged = passes(found, config.stop_trials, config.allowed_failures)
        if converged or self._best is None or standing(found) > standing(self._best):
            self._best, self._kept = found, (weights, env_steps)
            self._save(found)
        return converged

    def _evaluate(
        self, name: str, weights: bytes, purpose: Purpose, number: int, first: int, total: int, best: float = 0.0
    ) -> Evaluation:
        """Episodes that a checkpoint plays alone. The learner learns from them too."""
        env_steps = self._env_steps
        self._cell.serve(keep(self._task, self._run, self._run / "candidate", weights, self._seed, env_steps))
        evaluation = examine(
            lambda n, k: self._play(purpose, number + n, k),
            first,
            total,
            self._config.allowed_failures,
            best,
            at_once=first,
        )
        self._cell.serve(None)
        self._board.add_scalar(f"evaluation/{name}", evaluation.successes / evaluation.trials, env_steps)
        self._on_event(Evaluated(name, env_steps, evaluation))
        return evaluation

    def _save(self, evaluation: Evaluation) -> Path:
        assert self._kept is not None
        weights, env_steps = self._kept
        return keep(self._task, self._run, self._folder, weights, self._seed, env_steps, evaluation)

    def _find_best(self) -> None:
        """What an earlier start of this run has kept is still the best until something else proves better."""
        if not (self._folder / CARD).is_file():
            return
        _, card = load_specialist(self._folder, self._task)
        weights, config, _ = load_weights(self._folder / WEIGHTS)
        if card.evaluation is not None:
            self._best = card.evaluation
            self._kept = pack_weights(weights, config), card.env_steps

    @property
    def _folder(self) -> Path:
        return self._run / "checkpoints" / specialist_name(self._task, self._config.encoder, self._seed)

    def _play(self, purpose: Purpose, first: int, count: int) -> list[Episode]:
        played = self._cell.play(scene_seed(self._seed, purpose, first), count)
        if self._cell.trouble:
            raise DivergenceError(self._cell.trouble)
        return played

    @property
    def _env_steps(self) -> int:
        return int(self._cell.metrics.get("env_steps", 0.0))

    def _recorded(self) -> list[EpisodeInfo]:
        """Descriptions of the episodes of this run that are closed."""
        bags = self._run / "bags"
        infos = [read_info(folder) for folder in find_bags(bags)] if bags.is_dir() else []
        return [info for info in infos if info.state != "recording"]
