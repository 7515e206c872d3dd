"""The learner: networks, replay, and the pace at which one learns from the other."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from rldg_rl import rlpd
from rldg_rl.checkpoint import (
    CheckpointError,
    Label,
    TransitionLog,
    Weights,
    describe,
    into_tree,
    read_tree,
    write_tree,
)
from rldg_rl.config import TrainingConfig
from rldg_rl.networks import Spec
from rldg_rl.replay import Replay, Transition, checked

CHECK_GROUPS = 25  # groups of updates between two looks at the values
Q_LOW, Q_HIGH = -0.5, 1.5  # with one reward of 1 per episode, Q lies in [0, 1]
BAD_CHECKS = 50  # looks in a row outside that range: early training strays, but comes back
LOG_FILE, CHECKPOINT_FILE = "transitions.log", "checkpoint.npz"


class DivergenceError(RuntimeError):
    """Training has gone wrong and will not recover; the message says how it shows."""


class Learner:
    """One learner, to be used from one thread.

    The governor: :meth:`step` makes ``config.utd`` updates for every online transition that has come in, no more, so
    that waiting for the robot never means learning the same few transitions by heart. It begins when
    ``config.warmup_steps`` online transitions and, if there are to be demonstrations, a successful one are there.

    XLA uses a thread per core unless the process starts with ``XLA_FLAGS=--xla_cpu_multi_thread_eigen=false
    intra_op_parallelism_threads=1``, which is faster where actor or simulation need the other cores.

    Args:
        config, spec: what to learn with.
        seed: of the networks, of sampling and of acting.
        folder: for the log of transitions and the checkpoint, made if needed; None keeps nothing.

    Raises:
        CheckpointError: the folder holds a log of another kind, or is another learner's.
    """

    def __init__(self, config: TrainingConfig, spec: Spec, seed: int, folder: Path | None = None) -> None:
        self.config, self.spec = config, spec
        self._folder = folder
        self._log: TransitionLog | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._log = TransitionLog(folder / LOG_FILE, spec, config.views)
            self._log.lock()
        self.replay = Replay(spec, config.replay_capacity, config.views)
        self.updates = 0
        self._state = rlpd.make_state(config, spec, seed)
        self._rng = np.random.default_rng(seed)
        self._acting = (seed, 0)  # seed and how many actions have been drawn
        self._pending: list[rlpd.Metrics] = []
        self._seen: list[dict[str, npt.NDArray[np.float32]]] = []
        self._bad_checks = 0
        # what another run has left here must not be mixed with this one by mistake
        self._foreign = self._log is not None and (self._log.size > self._log.start or self._checkpoint().is_file())

    # --- transitions -------------------------------------------------------------------------------------------------

    def add(self, transitions: Iterable[Transition]) -> int:
        """Take in transitions; those it has seen already are left out. Returns how many were new.

        When it returns, they survive a kill of this process.

        Raises:
            ReplayError: one is malformed; those before it are in.
            CheckpointError: the folder holds the transitions of another run.
        """
        self._refuse_another_run()
        new = 0
        for transition in transitions:
            stored = checked(transition, self.spec, self.config.views)
            if self.replay.knows(stored):
                continue
            if self._log is not None:
                self._log.append(stored)
            new += self.replay.add(stored)
        return new

    def relabel(self, episode_id: str, t: int, reward: float, terminated: bool) -> bool:
        """Change what a transition earned, after an operator's verdict; whether it is held."""
        self._refuse_another_run()
        done = self.replay.relabel(episode_id, t, reward, terminated)
        if done and self._log is not None:
            self._log.append(Label(episode_id, t, reward, terminated))
        return done

    @property
    def restorable(self) -> bool:
        """Whether the folder holds a run that must be restored before anything is added."""
        return self._foreign

    def _refuse_another_run(self) -> None:
        if self._foreign:
            raise CheckpointError(f"{self._folder}: holds the transitions of another run; restore it or name another")

    # --- updates -----------------------------------------------------------------------------------------------------

    @property
    def waiting_for(self) -> str:
        """Why :meth:`step` makes no update now, "" if it would."""
        if self.replay.env_steps < self.config.warmup_steps or not self.replay.env_steps:
            return f"{max(1, self.config.warmup_steps) - self.replay.env_steps} more environment steps"
        if self.config.demos and not self.replay.successes:
            return "a successful demonstration"
        if self.updates >= self.config.utd * self.replay.env_steps:
            return "the next environment step"
        return ""

    def step(self) -> bool:
        """``config.utd`` updates, if the environment steps so far allow them; whether they were made.

        Returns while they are being computed.

        Raises:
            DivergenceError: values are not finite, or were far from what rewards allow for 5000 updates.
        """
        if self.waiting_for:
            return False
        batches = self.replay.sample(self._rng, self.config.utd, self.config.batch)
        if self._pending:
            jax.block_until_ready(self._pending[-1])  # one group in progress, one drawn: no queue that eats memory
        self._state, metrics = rlpd.update_many(self._state, batches, self.config, self.spec)
        self.updates += self.config.utd
        self._pending.append(metrics)
        if len(self._pending) >= CHECK_GROUPS:
            self._look()
        return True

    def _look(self) -> None:
        """Fetch the metrics of the updates since the last look, and judge them."""
        if not self._pending:
            return
        names = self._pending[0].keys()
        values = {name: np.array([metrics[name] for metrics in self._pending]) for name in names}
        self._pending.clear()
        self._seen.append(values)
        for name, series in values.items():
            if not np.isfinite(series).all():
                raise DivergenceError(f"{name} is not finite after {self.updates} updates: lower the learning rate")
        low, high = float(np.median(values["q_min"])), float(np.median(values["q_max"]))
        self._bad_checks = self._bad_checks + 1 if low < Q_LOW or high > Q_HIGH else 0
        if self._bad_checks >= BAD_CHECKS:
            raise DivergenceError(
                f"Q lies in [{low:.2f}, {high:.2f}] after {self.updates} updates, must stay in [{Q_LOW}, {Q_HIGH}]: "
                "look for rewards that are not 0 or 1 once per episode, or raise critics"
            )

    def metrics(self) -> dict[str, float]:
        """Figures since the last call (means; extremes for q_min and q_max), and counters. Waits for the updates.

        Raises:
            DivergenceError: see :meth:`step`.
        """
        self._look()
        reduce: dict[str, Any] = {"q_min": np.min, "q_max": np.max}
        names = self._seen[0].keys() if self._seen else ()
        figures = {
            name: float(reduce.get(name, np.mean)(np.concatenate([values[name] for values in self._seen])))
            for name in names
        }
        self._seen.clear()
        steps = self.replay.env_steps
        return figures | {
            "updates": float(self.updates),
            "env_steps": float(steps),
            "utd": self.updates / steps if steps else 0.0,
            "online_transitions": float(self.replay.online),
            "demo_transitions": float(self.replay.demos),
            "bytes_per_transition": self.replay.bytes_per_transition,
        }

    # --- the policy --------------------------------------------------------------------------------------------------

    def act(self, features: npt.NDArray[np.floating], *, deterministic: bool = False) -> npt.NDArray[np.float32]:
        """The newest policy's action at one observation.

        Args:
            features: (spec.features,).

        Returns:
            (spec.action,): see :func:`rlpd.act`. Waits for the updates in progress.
        """
        seed, drawn = self._acting
        if not deterministic:
            self._acting = seed, drawn + 1
        key = jax.random.fold_in(jax.random.key(seed), drawn)
        action = rlpd.act(
            rlpd.policy_params(self._state),
            np.asarray(features, self.spec.dtype),
            key,
            deterministic=deterministic,
            config=self.config,
            spec=self.spec,
        )
        return np.asarray(action)

    def weights(self) -> Weights:
        """A copy of what is served: the average of the policy over its last updates."""
        return Weights(self.updates, jax.tree.map(np.array, self._state.served))

    # --- survival ----------------------------------------------------------------------------------------------------

    def save(self, extra: dict[str, Any] | None = None) -> Path:
        """Write a checkpoint, atomically.

        Args:
            extra: whatever the caller wants back from :meth:`restore`, as JSON.

        Raises:
            CheckpointError: there is no folder, or it holds another run.
        """
        self._refuse_another_run()
        if self._folder is None or self._log is None:
            raise CheckpointError("this learner keeps nothing; give it a folder to save into")
        self._log.sync()
        about = {
            "log_bytes": self._log.size,
            "updates": self.updates,
            "rng": self._rng.bit_generator.state,
            "acting": self._acting,
            "extra": extra or {},
            **describe(self.config, self.spec),
        }
        write_tree(self._checkpoint(), self._state, about)
        return self._checkpoint()

    def restore(self, *, drop_tail: bool = False) -> dict[str, Any]:
        """Continue from the folder: the checkpoint, and the log of transitions, from which the replay is made again.

        Where there is no checkpoint yet, networks stay fresh.

        Args:
            drop_tail: also forget the transitions that came after the checkpoint. What follows then equals a run that
                was never interrupted, bit for bit. Otherwise they are kept and the governor makes up for them.

        Returns:
            ``extra`` of the checkpoint.

        Raises:
            CheckpointError: there is nothing to restore, or it is damaged or belongs to other networks; this learner
                must then not be used.
        """
        if self._log is None or not self._foreign:
            raise CheckpointError(f"{self._folder}: nothing to restore; train first, or name another folder")
        path, size, extra = self._checkpoint(), self._log.start, {}
        if path.is_file():
            arrays, about = read_tree(path)
            try:
                self.updates, size = int(about["updates"]), int(about["log_bytes"])
                self._rng.bit_generator.state = about["rng"]
                seed, drawn = about["acting"]
                self._acting = int(seed), int(drawn)
                extra = dict(about["extra"])
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(f"{path}: is not a learner's: {error}; use another folder") from None
            if size > self._log.size:
                raise CheckpointError(
                    f"{path.with_name(LOG_FILE)}: has {self._log.size} bytes, the checkpoint needs {size}; "
                    "restore the file from a copy, or delete the checkpoint to learn again from what is left"
                )
            self._state = jax.tree.map(jnp.array, into_tree(path, arrays, self._state))
        if drop_tail:
            self._log.truncate(size)
        for entry in self._log.entries():
            if isinstance(entry, Label):
                self.replay.relabel(entry.episode_id, entry.t, entry.reward, entry.terminated)
            else:
                self.replay.add(entry)
        self._foreign = False
        return extra

    def _checkpoint(self) -> Path:
        return (self._folder or Path()) / CHECKPOINT_FILE

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()
