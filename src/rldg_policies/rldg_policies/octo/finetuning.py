"""Octo as :mod:`rldg_policies.finetuning` trains it: the released recipe (AdamW, diffusion loss of chunks)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from rldg_policies.finetuning import (
    FinetuneConfig,
    FinetuningError,
    Pick,
    action_figures,
    add_card,
    base_folder,
)
from rldg_policies.normalisation import normalise_gaussian, unnormalise_gaussian
from rldg_policies.octo import checkpoint, images, training
from rldg_policies.octo.checkpoint import Checkpoint
from rldg_policies.octo.config import OctoConfig
from rldg_policies.octo.data_layout import Batch, Episode, make_batch
from rldg_policies.octo.language import make_language
from rldg_policies.octo.model import OctoModel, Params
from rldg_policies.octo.policy import Octo
from rldg_policies.octo.presets import PRESETS, preset
from rldg_policies.training_frames import FrameEpisode, TrainingFrames

_CHUNK = 64  # frames that are evaluated at a time


class OctoTrainer:
    """See :class:`rldg_policies.finetuning.Trainer`.

    Args:
        seed: of random weights.
        tokenizer: folder of the T5 tokenizer, for released models.

    Raises:
        FinetuningError, OctoError, StatisticsError: base, set or configuration cannot be used.
    """

    def __init__(
        self, config: FinetuneConfig, frames: TrainingFrames, seed: int, tokenizer: Path | None = None
    ) -> None:
        self._config, self._frames, self._seed, self._tokenizer = config, frames, seed, tokenizer
        octo, params = _load_base(config, frames, seed)
        self._model = OctoModel(octo)
        self._language = make_language(self._model, params, tokenizer)
        self._how = training.TrainingConfig(
            mode=training.Mode(config.mode),
            steps=config.steps,
            learning_rate=config.learning_rate,
            schedule=training.Schedule(config.schedule),
            warmup_steps=config.warmup_steps,
            weight_decay=config.weight_decay,
            augment=config.augment,
        )
        self._mesh = training.make_mesh()
        self._state = training.replicate(training.make_state(params, self._how), self._mesh)
        self._best = jax.tree.map(np.array, self._state.trained)
        self._prepared: dict[int, Episode] = {}
        self._sample = jax.jit(self._model.sample, static_argnums=4)

    def step(self, picks: list[Pick], number: int) -> dict[str, float]:
        batch = training.shard(self._batch(self._frames.train, picks), self._mesh)
        key = jax.random.fold_in(jax.random.key(self._seed), number)
        self._state, metrics = training.train_step(self._state, batch, key, self._model, self._how)
        return {name: float(value) for name, value in metrics.items()}

    def evaluate(self, picks: list[Pick]) -> dict[str, float]:
        """``accuracy`` and ``l1`` of the first action of a chunk that is drawn."""
        return action_figures(*self._answer(self._frames.held_out, picks, self._state.params))

    def acceptance(self, folder: Path, picks: list[Pick]) -> tuple[float, float]:
        """``accuracy`` of the first actions of chunks that are drawn with the same noise."""
        served = Octo.load(folder, dataset=self._frames.name, tokenizer=self._tokenizer)
        params, statistics = self._remembered(), self._frames.action_statistics
        answers: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for number, pick in enumerate(picks):
            episode, key = self._frames.train[pick.episode], jax.random.fold_in(jax.random.key(self._seed), number)
            batch = self._batch(self._frames.train, [pick])
            chunk = self._sample(params, batch.observation, batch.language, key, statistics.size)
            answers[0].append(unnormalise_gaussian(np.asarray(chunk)[0, 0, : statistics.size], statistics))
            rows = range(max(0, pick.frame - self._model.config.window + 1), pick.frame + 1)
            frames = [episode.images[row] for row in rows]
            seen = {slot.name: frames for slot in self._model.config.slots}
            answers[1].append(served.predict(seen, episode.instruction, key)[0][0])
        wanted = np.stack([self._frames.train[pick.episode].action[pick.frame] for pick in picks])
        trained, through = (action_figures(np.stack(said), wanted)["accuracy"] for said in answers)
        return trained, through

    def snapshot(self) -> None:
        self._best = jax.tree.map(np.array, self._state.trained)

    def write(self, draft: Path, steps: int, held_out: dict[str, float]) -> None:
        checkpoint.write(draft, Checkpoint(self._model.config, self._remembered(), self._frames.statistics))
        add_card(self._config, self._frames, self._seed, steps, held_out, draft)

    def state(self) -> dict[str, np.ndarray]:
        moving = self._state._replace(frozen={})
        leaves = {f"now.{number}": leaf for number, leaf in enumerate(jax.tree.leaves(moving))}
        leaves |= {f"best.{number}": leaf for number, leaf in enumerate(jax.tree.leaves(self._best))}
        # npz has no bfloat16
        return {
            name: np.asarray(leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf)
            for name, leaf in leaves.items()
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        moving = _filled(self._state._replace(frozen={}), "now", state)
        self._state = training.replicate(moving._replace(frozen=self._state.frozen), self._mesh)
        self._best = jax.tree.map(np.array, _filled(self._best, "best", state))

    def _remembered(self) -> Params:
        params: Params = self._state._replace(trained=self._best).params
        return params

    def _answer(
        self, episodes: tuple[FrameEpisode, ...], picks: list[Pick], params: Params
    ) -> tuple[np.ndarray, np.ndarray]:
        """First actions that are drawn, and the right ones; both (n, d), in the units of the set."""
        statistics = self._frames.action_statistics
        drawn = []
        for begin in range(0, len(picks), _CHUNK):
            part = picks[begin : begin + _CHUNK]
            full = part + [part[-1]] * (_CHUNK - len(part))  # one shape compiles once
            batch = self._batch(episodes, full)
            key = jax.random.fold_in(jax.random.key(self._seed), begin)
            chunks = self._sample(params, batch.observation, batch.language, key, statistics.size)
            drawn.append(np.asarray(chunks)[: len(part), 0, : statistics.size])
        wanted = np.stack([episodes[pick.episode].action[pick.frame] for pick in picks])
        return unnormalise_gaussian(np.concatenate(drawn), statistics), wanted

    def _batch(self, episodes: tuple[FrameEpisode, ...], picks: list[Pick]) -> Batch:
        numbers = {pick.episode: place for place, pick in enumerate({p.episode: p for p in picks}.values())}
        chosen = [self._episode(episodes[number]) for number in numbers]
        return make_batch(chosen, [(numbers[pick.episode], pick.frame) for pick in picks], self._model.config)

    def _episode(self, episode: FrameEpisode) -> Episode:
        """Decoded and resized once: a set of demonstrations fits into memory."""
        if id(episode) not in self._prepared:
            seen = np.stack([episode.images[row] for row in range(len(episode))])
            slots: dict[str, Any] = {
                slot.name: np.asarray(images.served(jnp.asarray(seen), slot.name, slot.size_px))
                for slot in self._model.config.slots
            }
            action = normalise_gaussian(episode.action, self._frames.action_statistics)
            self._prepared[id(episode)] = Episode(slots, action, self._language(episode.instruction))
        return self._prepared[id(episode)]


def _load_base(config: FinetuneConfig, frames: TrainingFrames, seed: int) -> tuple[OctoConfig, Params]:
    if config.base in PRESETS:
        octo = msgspec.structs.replace(preset(config.base), window=config.window)
        if octo.slots[0].name != config.camera_slot or len(octo.slots) > 1:
            raise FinetuningError(
                f"base: {config.base} has the image slots {', '.join(slot.name for slot in octo.slots)}; without "
                f"weights there is to be one, {config.camera_slot}: use octo-nano, or the folder of a released model"
            )
        return octo, OctoModel(octo).init(seed)
    loaded = checkpoint.load(base_folder(config.base))
    slots = tuple(slot for slot in loaded.config.slots if slot.name == config.camera_slot)
    if not slots:
        raise FinetuningError(
            f"base: {config.base} has no image slot {config.camera_slot!r}; there are "
            f"{', '.join(slot.name for slot in loaded.config.slots)}: change camera_slot"
        )
    octo = msgspec.structs.replace(loaded.config, slots=slots, window=config.window)
    if frames.action_dim > octo.action_dim:
        raise FinetuningError(f"{frames.name}: actions have {frames.action_dim} numbers, the model {octo.action_dim}")
    return octo, checkpoint.merge_params(OctoModel(octo).init(seed), loaded.params).params


def _filled(tree: Any, kind: str, state: dict[str, np.ndarray]) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    found = [state.get(f"{kind}.{number}") for number in range(len(leaves))]
    if any(new is None or new.shape != old.shape for new, old in zip(found, leaves, strict=True)):
        raise FinetuningError("what the last run left is of another model; remove it")
    return jax.tree.unflatten(structure, [jnp.asarray(n, o.dtype) for n, o in zip(found, leaves, strict=True)])
