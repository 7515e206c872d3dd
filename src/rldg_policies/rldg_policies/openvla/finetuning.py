"""OpenVLA as :mod:`rldg_policies.finetuning` trains it: the released recipe (AdamW, cross entropy of action tokens)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator

from rldg_policies.finetuning import (
    FinetuneConfig,
    FinetuningError,
    Pick,
    action_figures,
    add_card,
    base_folder,
)
from rldg_policies.openvla import checkpoint, images, lora
from rldg_policies.openvla.model import OpenVLAModel, make_random_model
from rldg_policies.openvla.nano_vocabulary import nano_tokenizer
from rldg_policies.openvla.policy import OpenVLA
from rldg_policies.openvla.predictor import OpenVLAPredictor
from rldg_policies.openvla.presets import PRESETS, preset
from rldg_policies.openvla.prompt import PromptEncoder
from rldg_policies.training_frames import FrameEpisode, TrainingFrames

Ids = npt.NDArray[np.int64]

_CHUNK = 32  # frames that are evaluated at a time


class OpenVLATrainer:
    """See :class:`rldg_policies.finetuning.Trainer`.

    Args:
        seed: of random weights and adapters.

    Raises:
        FinetuningError, CheckpointError, StatisticsError: base, set or configuration cannot be used.
    """

    def __init__(self, config: FinetuneConfig, frames: TrainingFrames, seed: int) -> None:
        self._config, self._frames, self._seed = config, frames, seed
        torch.set_num_threads(len(os.sched_getaffinity(0)))  # OMP_NUM_THREADS is 1, for nodes
        self._accelerator = Accelerator(mixed_precision="bf16" if config.precision == "bf16" else "no")
        base = _load_base(config, frames, seed)
        self._prompts, self._spec = base.prompts, base.model.spec
        if config.augment and not self._spec.center_crop:
            # training crops at random: what is served is the middle of the same size (Kim et al., appendix)
            self._spec = msgspec.structs.replace(self._spec, center_crop=True)
            base.model.spec = self._spec
        self._answers = base
        torch.manual_seed(seed)
        model: Any = base.model
        if config.lora is not None:
            model = lora.add_adapter(model, rank=config.lora.rank, alpha=config.lora.alpha, dropout=config.lora.dropout)
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(self._trained, lr=config.learning_rate, weight_decay=config.weight_decay)
        self._model, self._optimizer = self._accelerator.prepare(model, optimizer)
        self._best = [parameter.detach().clone() for parameter in self._trained]

    def step(self, picks: list[Pick], number: int) -> dict[str, float]:
        """One step; with several processes each takes its share of the frames."""
        config, accelerator = self._config, self._accelerator
        self._model.train()
        for group in self._optimizer.param_groups:
            group["lr"] = _learning_rate(config, number)
        generator = torch.Generator(accelerator.device).manual_seed(self._seed * 1_000_003 + number)
        mine = picks[accelerator.process_index :: accelerator.num_processes]
        losses, right, tokens = [], 0, 0
        for begin in range(0, len(mine), config.batch):
            part = mine[begin : begin + config.batch]
            with accelerator.autocast():
                output = self._forward(self._frames.train, part, generator if config.augment else None)
            accelerator.backward(output.loss * len(part) / len(mine))
            chosen = output.logits.argmax(-1)
            actions = output.targets < self._spec.action_base_id
            right += int((chosen == output.targets)[actions].sum())
            tokens += int(actions.sum())
            losses.append(float(output.loss.detach()))
        accelerator.clip_grad_norm_(self._trained, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return {"loss": float(np.mean(losses)), "token_accuracy": right / max(tokens, 1)}

    def evaluate(self, picks: list[Pick]) -> dict[str, float]:
        """``token_accuracy``: share of action tokens that are right, given the right ones before them; ``accuracy`` and
        ``l1`` of the actions that those tokens stand for.
        """
        chosen, wanted = self._answer(self._frames.held_out, picks)
        figures = action_figures(self._answers.actions(chosen), self._answers.actions(wanted))
        return {**figures, "token_accuracy": float((chosen == wanted).mean())}

    def acceptance(self, folder: Path, picks: list[Pick]) -> tuple[float, float]:
        """How often the first token of an action is right: those after it depend on those before, which differ."""
        self._remember()
        chosen, wanted = self._answer(self._frames.train, picks)
        served = OpenVLAPredictor(folder, self._frames.name, self._accelerator.device.type, False, _threads())
        first = []
        for pick in picks:
            episode = self._frames.train[pick.episode]
            first.append(served.tokens(episode.images[pick.frame], episode.instruction)[0])
        right = chosen[:, 0] == wanted[:, 0], np.array(first) == wanted[:, 0]
        return float(right[0].mean()), float(right[1].mean())

    def _answer(self, episodes: Sequence[FrameEpisode], picks: list[Pick]) -> tuple[Ids, Ids]:
        """Tokens of the actions, chosen given the right ones before them, and the right ones; both (n, action_dim)."""
        self._model.eval()
        chosen, wanted = [], []
        with torch.no_grad():
            for begin in range(0, len(picks), _CHUNK):
                with self._accelerator.autocast():
                    output = self._forward(episodes, picks[begin : begin + _CHUNK], None)
                rows = (-1, self._answers.action_dim + 1)  # the last is </s>
                chosen.append(self._actions_only(output.logits).reshape(rows)[:, :-1].cpu().numpy())
                wanted.append(output.targets.reshape(rows)[:, :-1].cpu().numpy())
        return np.concatenate(chosen), np.concatenate(wanted)

    def snapshot(self) -> None:
        for kept, parameter in zip(self._best, self._trained, strict=True):
            kept.copy_(parameter.detach())

    def write(self, draft: Path, steps: int, held_out: dict[str, float]) -> None:
        self._remember()
        model: Any = self._accelerator.unwrap_model(self._model)
        if self._config.lora is not None:
            model = lora.merged_copy(model)
        policy = OpenVLA(model, self._prompts, self._frames.statistics, self._frames.name)
        checkpoint.write(draft, policy)
        add_card(self._config, self._frames, self._seed, steps, held_out, draft)

    def state(self) -> dict[str, np.ndarray]:
        moments = [self._optimizer.state.get(parameter, {}) for parameter in self._trained]
        found: dict[str, np.ndarray] = {}
        for number, (parameter, kept, moment) in enumerate(zip(self._trained, self._best, moments, strict=True)):
            found[f"{number}.now"], found[f"{number}.best"] = _numpy(parameter), _numpy(kept)
            found |= {f"{number}.{name}": _numpy(torch.as_tensor(value)) for name, value in moment.items()}
        return found

    def restore(self, state: dict[str, np.ndarray]) -> None:
        for number, (parameter, kept) in enumerate(zip(self._trained, self._best, strict=True)):
            for name, place in (("now", parameter), ("best", kept)):
                stored = state.get(f"{number}.{name}")
                if stored is None or stored.shape != tuple(place.shape):
                    raise FinetuningError("what the last run left is of another model; remove it")
                with torch.no_grad():
                    place.copy_(torch.from_numpy(stored))
            moments = {
                name: torch.from_numpy(state[f"{number}.{name}"]).to(parameter.device if name != "step" else "cpu")
                for name in ("exp_avg", "exp_avg_sq", "step")
                if f"{number}.{name}" in state
            }
            if moments:
                self._optimizer.state[parameter] = moments

    def _forward(self, episodes: Sequence[FrameEpisode], picks: list[Pick], generator: torch.Generator | None) -> Any:
        device = self._accelerator.device
        side_px = self._spec.image_px
        stack = np.stack([images.resize(episodes[p.episode].images[p.frame], side_px) for p in picks])
        seen = images.unit_range(stack).to(device)
        if generator is not None:
            seen = images.augment(seen, generator)
        elif self._spec.center_crop:
            seen = images.center_crop(seen)
        examples = [
            self._prompts.example(
                episodes[p.episode].instruction, self._answers.ids(episodes[p.episode].action[p.frame])
            )
            for p in picks
        ]
        batch = self._prompts.batch(examples)
        return self._model(images.normalise(seen, self._spec), batch.input_ids.to(device), batch.labels.to(device))

    def _actions_only(self, logits: torch.Tensor) -> torch.Tensor:
        """The id of the best action token, as the decoder chooses it."""
        end = self._spec.action_base_id
        first = end - self._spec.n_bins
        return logits[:, first:end].argmax(-1) + first

    def _remember(self) -> None:
        """Put the best weights in place of the last ones, which do not come back: the run has ended."""
        with torch.no_grad():
            for kept, parameter in zip(self._best, self._trained, strict=True):
                parameter.copy_(kept)


def _load_base(config: FinetuneConfig, frames: TrainingFrames, seed: int) -> OpenVLA:
    if config.base in PRESETS:
        spec = preset(config.base)
        if config.base == "openvla-7b":
            raise FinetuningError("base: openvla-7b has random weights; name the folder of the released model")
        model: OpenVLAModel = make_random_model(spec, seed)
        return OpenVLA(model, PromptEncoder(nano_tokenizer(), spec), frames.statistics, frames.name)
    folder = base_folder(config.base)
    # weights that train are float32; those beside an adapter stay as they were stored
    loaded = checkpoint.load_model(folder, dtype=torch.float32 if config.lora is None else None)
    prompts = checkpoint.load_prompts(folder)
    return OpenVLA(loaded, prompts, frames.statistics, frames.name)


def _learning_rate(config: FinetuneConfig, step: int) -> float:
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return float(config.learning_rate * 0.5 * (1.0 + np.cos(np.pi * min(done, 1.0))))


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


def _threads() -> int:
    return torch.get_num_threads()
