"""Fine-tuning of any generalist: steps, evaluation on episodes that were held out, early stop, resume, acceptance.

What is special about a model is its :class:`Trainer`; everything that is drawn at a step follows from the seed and the
number of the step, so that a run that was stopped and taken up again equals one that was not.
"""

from __future__ import annotations

import hashlib
import math
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import msgspec
import numpy as np

from rldg_core.task import TaskError, config_directory, read_yaml
from rldg_policies.generalist import GeneralistCard, Kind, write_card
from rldg_policies.training_frames import TrainingFrames
from rldg_recorder.partial import partial_folder, put

Count = Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]
Rate = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]
STATE, PROGRESS = "trainer.npz", "progress.json"
WITHIN = 0.1  # of the range of an action from 0 to 1: close enough to count
ACCEPTED_LOSS = 0.03  # between what the trainer and what is served reach on the same training frames


class FinetuningError(ValueError):
    """A run cannot begin or go on; one line: what, and the remedy."""


class Lora(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An adapter instead of all weights (OpenVLA); the defaults are those of the released fine-tuning."""

    rank: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 32
    alpha: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16
    dropout: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)] = 0.0


class FinetuneConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of ``config/finetuning``.

    Attributes:
        type: which class of model.
        base: a preset (random weights), the folder of a released or of our own checkpoint, or ``pretrained/<name>``,
            which comes with this project (:func:`base_folder`).
        steps: of the optimiser, at most.
        batch: frames of a step; ``accumulate`` such batches make one step.
        warmup_steps: over which the learning rate rises from 0.
        schedule: of the learning rate after that.
        lora: OpenVLA: train an adapter and merge it in the end; without, train everything.
        mode: Octo: what is trained.
        camera_slot: Octo: where the wrist image goes; the other slot is removed from a released model.
        window: Octo: frames that are looked at.
        precision: OpenVLA: "bf16" computes in bfloat16 where the machine can; weights that train stay float32.
        augment: change the images as the released recipe does.
        evaluate_every: steps between two looks at held-out frames, of which ``evaluation_frames`` are drawn once.
        patience: stop after so many looks without a better one, and keep the best; 0: never, and keep the last weights.
            Those act better where actions follow from more than the image shows: held-out figures stand still then,
            long before a model has learned what it can (a nano OpenVLA kept at step 200 of 1000 inserted nothing).
        save_every: steps between two states that a run can be resumed from.
    """

    type: Kind
    base: str
    steps: Count = 5000
    batch: Count = 16
    accumulate: Count = 1
    learning_rate: Rate = 5e-4
    warmup_steps: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.01
    lora: Lora | None = None
    mode: Literal["full", "head_only", "head_mlp_only"] = "full"
    camera_slot: Literal["wrist", "primary"] = "wrist"
    window: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    augment: bool = True
    evaluate_every: Count = 250
    evaluation_frames: Annotated[int, msgspec.Meta(ge=8, le=100_000)] = 256
    patience: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    save_every: Count = 500


def base_folder(base: str) -> Path:
    """The folder that a configuration's ``base`` names; that of shipped weights lies beside the configuration."""
    shipped = config_directory().parent / base
    return shipped if base.startswith("pretrained/") and shipped.is_dir() else Path(base)


def load_finetune_config(name_or_path: str | Path, kind: str = "finetuning") -> FinetuneConfig:
    """Read and check a file of ``config/<kind>``, by name or path.

    Raises:
        TaskError: it is missing or breaks the schema; one line: file, key, what is allowed.
    """
    path = Path(name_or_path)
    folder = config_directory() / kind
    if path.suffix not in (".yaml", ".yml"):
        path = folder / f"{name_or_path}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(each.stem for each in folder.glob("*.yaml")))
            raise TaskError(f"{path}: no such file; there are: {known}")
    config = read_yaml(path, FinetuneConfig)
    if config.warmup_steps >= config.steps:
        raise TaskError(f"{path}: warmup_steps: is {config.warmup_steps}, must be below steps, {config.steps}")
    if config.type == "octo" and config.lora is not None:
        raise TaskError(f"{path}: lora: is for type openvla; use mode for what of an Octo is trained")
    return config


class Pick(msgspec.Struct, frozen=True):
    """A frame of a set: number of its episode, and of the frame in it."""

    episode: int
    frame: int


class Trainer(Protocol):
    """A model that is being trained. Called from one thread."""

    def step(self, picks: list[Pick], number: int) -> dict[str, float]:
        """One step of the optimiser on these training frames; figures, among them ``loss``."""

    def evaluate(self, picks: list[Pick]) -> dict[str, float]:
        """Figures on held-out frames as they are, among them ``accuracy`` in [0, 1] and ``l1``."""

    def acceptance(self, folder: Path, picks: list[Pick]) -> tuple[float, float]:
        """The same share in [0, 1] on the same training frames twice: by the trainer, with the weights it remembers,
        and by what is loaded from the folder that :meth:`write` wrote, through the path that serves.
        """

    def snapshot(self) -> None:
        """Remember the weights as they are now: the best so far."""

    def write(self, draft: Path, steps: int, held_out: dict[str, float]) -> None:
        """Write the remembered weights as a checkpoint folder, with its card."""

    def state(self) -> dict[str, np.ndarray]:
        """Everything that a step changes, and the remembered weights."""

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave; raises FinetuningError where it is of another model."""


@dataclass(frozen=True)
class Stepped:
    """Figures are means since the last one."""

    step: int
    steps: int
    figures: dict[str, float]


@dataclass(frozen=True)
class Looked:
    """On frames that were held out; ``best``: these weights are the ones to keep so far."""

    step: int
    figures: dict[str, float]
    best: bool


@dataclass(frozen=True)
class Finished:
    """What a run came to.

    Attributes:
        step: of the weights that were kept.
        steps: that were made, by this run and those it took up.
        held_out: figures of the weights that were kept.
        served_accuracy, trained_accuracy: on the same training frames, through the serving path and in the trainer.
    """

    checkpoint: str
    step: int
    steps: int
    stopped: str
    held_out: dict[str, float]
    served_accuracy: float
    trained_accuracy: float
    wall_s: float
    cpu_s: float


Event = Stepped | Looked | Finished


class _Progress(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a resumed run needs to know beside the trainer's state."""

    config: str
    step: int = 0
    best_step: int = 0
    best: dict[str, float] = {}
    looks_without: int = 0


def run_finetuning(
    trainer: Trainer,
    config: FinetuneConfig,
    frames: TrainingFrames,
    out: Path,
    seed: int,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Finished:
    """Train, keep the last weights or the best (``patience``), write them as the folder ``out``, and check them there.

    A run that was stopped goes on where it last saved itself, in ``.<name>.partial`` beside ``out``, if it has the same
    configuration, training set and seed.

    Raises:
        FinetuningError: what was left by another run is in the way, the loss is not finite, or what is served is not
            what was trained.
        DatasetError: ``out`` exists, or another run writes it.
    """
    wall_s, cpu_s = time.monotonic(), time.process_time()
    with partial_folder(out) as partial:
        keep = partial / "shards"
        progress = _take_up(keep, trainer, _identity(config, frames, seed))
        held = _draw(frames.held_out, config.evaluation_frames, np.random.default_rng([seed, 1]))
        stopped = "steps"
        if progress.step == 0:
            _look(trainer, held, progress, on_event, config.patience > 0)
        sums: dict[str, list[float]] = {}
        while progress.step < config.steps:
            rng = np.random.default_rng([seed, 2, progress.step])
            figures = trainer.step(_draw(frames.train, config.batch * config.accumulate, rng), progress.step)
            if not math.isfinite(figures["loss"]):
                raise FinetuningError(f"step {progress.step}: the loss is not finite; lower learning_rate")
            progress.step += 1
            for name, value in figures.items():
                sums.setdefault(name, []).append(value)
            if progress.step % 10 == 0 or progress.step == config.steps:
                means = {name: float(np.mean(values)) for name, values in sums.items()}
                on_event(Stepped(progress.step, config.steps, means))
                sums.clear()
            if progress.step % config.evaluate_every == 0 or progress.step == config.steps:
                _look(trainer, held, progress, on_event, config.patience > 0)
                if config.patience and progress.looks_without >= config.patience:
                    stopped = "patience"
                    break
            if progress.step % config.save_every == 0:
                _save(keep, trainer, progress)
        picks = _draw(frames.train, config.evaluation_frames, np.random.default_rng([seed, 3]))
        trainer.write(partial / "set", progress.best_step, progress.best)
        trained, served = trainer.acceptance(partial / "set", picks)
        if abs(served - trained) > ACCEPTED_LOSS:
            raise FinetuningError(
                f"{out}: the serving path reaches {served:.3f} on training frames, the trainer {trained:.3f}, must be "
                f"within {ACCEPTED_LOSS}; what is served is not what was trained"
            )
        put(partial, out)
    finished = Finished(
        checkpoint=str(out),
        step=progress.best_step,
        steps=progress.step,
        stopped=stopped,
        held_out=progress.best,
        served_accuracy=served,
        trained_accuracy=trained,
        wall_s=time.monotonic() - wall_s,
        cpu_s=time.process_time() - cpu_s,
    )
    on_event(finished)
    return finished


def action_figures(predicted: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """How close actions come, over all frames and dimensions.

    Args:
        predicted, wanted: (n, d), in the units of the training set: [-1, 1], the gripper in [0, 1].
    """
    error = np.abs(predicted - wanted)
    return {"accuracy": float((error <= WITHIN).mean()), "l1": float(error.mean())}


def add_card(
    config: FinetuneConfig, frames: TrainingFrames, seed: int, steps: int, held_out: dict[str, float], folder: Path
) -> None:
    """Write the card of a folder that holds everything else already; none where no task can be served from it.

    Raises:
        FinetuningError: the set does not say what its actions mean.
    """
    if frames.many_scales:
        return
    if len(frames.scale) != 6 or not math.isfinite(frames.rate_hz):
        raise FinetuningError(f"{frames.name}: does not say rate and scale of actions; use the LeRobot set")
    card = GeneralistCard(
        type=config.type,
        name=frames.name,
        base=config.base,
        training_set=frames.name,
        statistics_sha256=hashlib.sha256((folder / "dataset_statistics.json").read_bytes()).hexdigest(),
        rate_hz=frames.rate_hz,
        scale=frames.scale,
        instructions=tuple(sorted({episode.instruction for episode in frames.train})),
        steps=steps,
        seed=seed,
        held_out=held_out,
    )
    write_card(folder, card)


def _identity(config: FinetuneConfig, frames: TrainingFrames, seed: int) -> str:
    return msgspec.json.encode([config, frames.name, frames.statistics, seed], order="sorted").decode()


def _draw(episodes: Any, count: int, rng: np.random.Generator) -> list[Pick]:
    """Frames with equal chances, with replacement."""
    ends = np.cumsum([len(episode) for episode in episodes])
    numbers = rng.integers(0, ends[-1], count)
    of = np.searchsorted(ends, numbers, side="right")
    starts = np.concatenate([[0], ends])[of]
    return [Pick(int(e), int(n - s)) for e, n, s in zip(of, numbers, starts, strict=True)]


def _look(
    trainer: Trainer, held: list[Pick], progress: _Progress, on_event: Callable[[Event], None], keep_best: bool
) -> None:
    figures = trainer.evaluate(held)
    standing = (figures["accuracy"], -figures["l1"])
    best = not keep_best or not progress.best or standing > (progress.best["accuracy"], -progress.best["l1"])
    progress.looks_without = 0 if best else progress.looks_without + 1
    if best:
        progress.best, progress.best_step = figures, progress.step
        trainer.snapshot()
    on_event(Looked(progress.step, figures, best))


def _take_up(keep: Path, trainer: Trainer, identity: str) -> _Progress:
    path = keep / PROGRESS
    if not path.is_file():
        return _Progress(config=identity)
    try:
        progress = msgspec.json.decode(path.read_bytes(), type=_Progress)
        with np.load(keep / f"{progress.step}.{STATE}", allow_pickle=False) as file:
            state = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FinetuningError(f"{keep}: what a run left there cannot be read: {error}; remove {keep.parent}") from None
    if progress.config != identity:
        raise FinetuningError(
            f"{keep.parent}: was left by a run with another configuration, training set or seed; remove it, or name "
            "another folder"
        )
    trainer.restore(state)
    return progress


def _save(keep: Path, trainer: Trainer, progress: _Progress) -> None:
    """The state first, then the file that names it: a run that is killed in between goes on from the one before."""
    np.savez(keep / f"{progress.step}.{STATE}", allow_pickle=False, **trainer.state())
    part = keep / f"{PROGRESS}.part"
    part.write_bytes(msgspec.json.encode(progress))
    part.replace(keep / PROGRESS)
    for old in keep.glob(f"*.{STATE}"):
        if old.name != f"{progress.step}.{STATE}":
            old.unlink()
