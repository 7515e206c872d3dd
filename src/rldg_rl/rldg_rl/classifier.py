"""A classifier of success from the wrist image: trained on recorded episodes, judged on others, saved with a card.

A small head reads the cells of the frozen backbone (:meth:`rldg_rl.encoders.PixelsEncoder.cells`). A third of the
episodes is held out, by whole episodes: one half of it stops the training and sets temperature and threshold, the other
half makes the report. A classifier that is not good enough there is not saved.

A folder holds ``classifier.yaml`` (the card), ``head.npz``, ``report.json`` and ``worst.png``: the frames of held-out
episodes that were judged worst.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import numpy.typing as npt
import optax

from rldg_core.judge import Sight
from rldg_core.task import Task
from rldg_recorder.episode_reader import read_episode
from rldg_rl.backbone import WeightsError
from rldg_rl.checkpoint import CheckpointError, into_tree, read_tree, whole_folder, write_tree
from rldg_rl.classifier_data import (
    Candidate,
    ClassifierConfig,
    ClassifierError,
    Frames,
    Part,
    Reader,
    candidates,
    check_enough,
    encode,
    split,
)
from rldg_rl.classifier_scores import Scores, choose_threshold, fit_temperature, log_loss, probabilities, score
from rldg_rl.encoders import PixelsEncoder

CARD, WEIGHTS, REPORT, WORST = "classifier.yaml", "head.npz", "report.json", "worst.png"
_CELLS, _CHANNELS = 80, 112
_BATCH, _STEPS_PER_ROUND, _LEARNING_RATE, _WEIGHT_DECAY = 128, 20, 1e-3, 1e-2
_WORST_FRAMES = 24

Image = npt.NDArray[np.uint8]


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a classifier is and how good it was on held-out episodes."""

    type: str = "reward_classifier"
    version: int = 1
    task: str
    backbone_digest: str
    weights_sha256: str
    temperature: float
    threshold: float
    consecutive_ticks: int
    recall: float
    false_positive_rate: float
    episodes: int  # that it was trained, calibrated and tested on


class WorstFrame(msgspec.Struct, frozen=True, kw_only=True):
    """The frame of a held-out episode that was furthest from its label."""

    bag: str
    row: int
    positive: bool
    probability: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """``report.json``."""

    task: str
    accepted: bool
    problem: str  # why it was not accepted
    config: ClassifierConfig
    episodes: dict[str, dict[str, int]]  # by part: successful, failed, positive and negative frames
    left_out: dict[str, int]  # bags, by reason
    rounds: int  # of training, up to the best
    temperature: float
    threshold: float
    test: Scores
    test_by_scene: dict[str, dict[str, float]]
    false_alarm_episodes: int  # held out, with consecutive frames taken for a success that were none
    missed_episodes: int  # held out and successful, of which no success was seen in any frame
    worst: tuple[WorstFrame, ...]

    def lines(self) -> list[str]:
        """The report for people."""
        test = self.test
        counts = [f"{part} {n['successful']} + {n['failed']}" for part, n in self.episodes.items()]
        precision = "-" if test.precision is None else f"{test.precision:.3f}"
        return [
            f"episodes, successful + failed: {', '.join(counts)}",
            *(f"left out {count}: {reason}" for reason, count in self.left_out.items()),
            f"held out: {test.positives} frames show success, {test.negatives} do not",
            f"threshold {self.threshold:.3f}: accuracy {test.accuracy:.4f}, precision {precision}, recall "
            f"{test.recall:.3f} (95 %: at least {test.recall_at_least:.3f}), false positives "
            f"{test.false_positive_rate:.4f}, area under ROC {test.area_under_roc:.4f}",
            f"calibration error {test.calibration_error_before:.3f}, with temperature {self.temperature:.2f} "
            f"{test.calibration_error:.3f}",
            f"{self.config.consecutive_ticks} ticks in a row: {self.false_alarm_episodes} episodes with a false alarm",
        ]


class Head(nn.Module):
    """From cells, (..., 112 * 80), to the logit of success, (...)."""

    @nn.compact
    def __call__(self, cells: jax.Array, train: bool = False) -> jax.Array:
        x = cells.astype(jnp.float32).reshape(*cells.shape[:-1], _CHANNELS, _CELLS).swapaxes(-1, -2)
        x = nn.relu(nn.Dense(16)(nn.LayerNorm()(x)))
        x = nn.Dropout(0.3, deterministic=not train)(x.reshape(*x.shape[:-2], -1))
        x = nn.relu(nn.LayerNorm()(nn.Dense(64)(x)))
        x = nn.Dropout(0.3, deterministic=not train)(x)
        return nn.Dense(1)(x)[..., 0]


def _init(seed: int) -> Any:
    return Head().init(jax.random.key(seed), jnp.zeros((1, _CELLS * _CHANNELS), jnp.float16))


def _optimizer() -> optax.GradientTransformation:
    return optax.adamw(_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)


@partial(jax.jit, donate_argnums=(0, 1))
def _fit_step(
    params: Any, opt: optax.OptState, cells: jax.Array, positive: jax.Array, key: jax.Array
) -> tuple[Any, optax.OptState]:
    def loss(params: Any) -> jax.Array:
        logits: Any = Head().apply(params, cells, train=True, rngs={"dropout": key})
        return optax.sigmoid_binary_cross_entropy(logits, positive).mean()

    step, opt = _optimizer().update(jax.grad(loss)(params), opt, params)
    return optax.apply_updates(params, step), opt


@jax.jit
def _logits(params: Any, cells: jax.Array) -> jax.Array:
    said: Any = Head().apply(params, cells)
    return said


def logits_of(params: Any, frames: Frames) -> npt.NDArray[np.float64]:
    """Logits of the frames as they are, shape (n,)."""
    return np.asarray(_logits(params, frames.cells[:, 0]), np.float64)


def fit(train: Frames, held_out: Frames, config: ClassifierConfig) -> tuple[Any, int]:
    """Train until the held-out frames say that it does not help any more.

    Returns:
        Parameters of the best round, and its number.
    """
    rng = np.random.default_rng([config.seed, 0xF17])
    classes = [np.flatnonzero(train.positive), np.flatnonzero(~train.positive)]
    params, key = _init(config.seed), jax.random.key(config.seed)
    opt = _optimizer().init(params)
    best: tuple[float, Any, int] = (np.inf, params, 0)
    for number in range(1, config.rounds + 1):
        for _ in range(_STEPS_PER_ROUND):
            chosen = np.concatenate([rng.choice(rows, _BATCH // 2) for rows in classes])  # as many of each class
            cells = train.cells[chosen, rng.integers(train.cells.shape[1], size=len(chosen))]
            key, used = jax.random.split(key)
            params, opt = _fit_step(params, opt, cells, train.positive[chosen].astype(np.float32), used)
        logits = logits_of(params, held_out)
        # what calibration will put right is not held against it
        loss = log_loss(logits, held_out.positive, fit_temperature(logits, held_out.positive))
        if loss < best[0]:
            best = (loss, jax.tree.map(np.asarray, params), number)
        elif number - best[2] >= config.patience:
            break
    return best[1], best[2]


def train_classifier(
    bags: Sequence[Path],
    out: Path,
    config: ClassifierConfig = ClassifierConfig(),  # noqa: B008  immutable
    *,
    read: Reader = read_episode,
    on_event: Callable[[str], None] = lambda _: None,
) -> Report:
    """Train a classifier on recorded episodes and save it.

    Args:
        bags: folders of single episodes.
        out: folder of the classifier; a classifier that is there already is replaced. Of one that is not good enough
            only the report is written, to ``<out>.refused``.
        read: the reader of bags.
        on_event: told what is being done.

    Raises:
        ClassifierError: too few episodes or frames, a bag that cannot be read, images that are too small, not good
            enough on held-out episodes, or ``out`` is something else.
    """
    if out.exists() and not (out / CARD).is_file():
        raise ClassifierError(f"{out}: exists and is no classifier; name another folder")
    task, found, left_out = candidates(bags)
    check_enough(found, config, left_out)
    parts = split(found, config)
    numbers = {part: [i for i, of in enumerate(parts) if of is part] for part in Part}
    encoder, training_encoder = _encoder(), _encoder(config.views, config.seed)
    rng = np.random.default_rng([config.seed, 0xE1])
    frames = {}
    for part in Part:
        on_event(f"reading and encoding the episodes for {part.value}")
        trains = part is Part.TRAINING
        eyes, negatives = (training_encoder, config.negatives_per_episode) if trains else (encoder, None)
        frames[part] = encode(found, numbers[part], eyes.cells, read, negatives, rng)
    on_event("training")
    calibration, test = frames[Part.CALIBRATION], frames[Part.TEST]
    params, rounds = fit(frames[Part.TRAINING], calibration, config)
    logits = logits_of(params, calibration)
    temperature = fit_temperature(logits, calibration.positive)
    try:
        p = probabilities(logits, temperature)
        threshold = choose_threshold(p, calibration.positive, config.false_positive_rate)
    except ValueError as error:
        raise ClassifierError(f"bags: {error}; record more, or allow more false positives") from None
    logits = logits_of(params, test)
    scores = score(logits, test.positive, temperature, threshold)
    p = probabilities(logits, temperature)
    problem = _problem(scores, config)
    alarms, missed = _episodes_fooled(p >= threshold, test, config.consecutive_ticks)
    report = Report(
        task=task.name,
        accepted=not problem,
        problem=problem,
        config=config,
        episodes={part.value: _counts(frames[part], found, numbers[part]) for part in Part},
        left_out=dict(left_out),
        rounds=rounds,
        temperature=temperature,
        threshold=threshold,
        test=scores,
        test_by_scene=_by_scene(p >= threshold, test, found),
        false_alarm_episodes=alarms,
        missed_episodes=missed,
        worst=_worst(p, test, found),
    )
    folder = out if report.accepted else out.with_name(f"{out.name}.refused")
    _save(folder, report, params if report.accepted else None, encoder.digest, read)
    if problem:
        raise ClassifierError(f"{folder / REPORT}: {problem}; look at {WORST} beside it, record more of such episodes")
    return report


def _encoder(views: int = 1, seed: int = 0) -> PixelsEncoder:
    try:
        return PixelsEncoder(views, seed)
    except WeightsError as error:
        raise ClassifierError(str(error)) from None


def _problem(scores: Scores, config: ClassifierConfig) -> str:
    """Why a classifier with these figures must not hand out rewards, "" if it may."""
    if scores.recall < config.min_recall:
        return f"recall on held-out episodes is {scores.recall:.3f}, must be {config.min_recall} or more"
    # a sample may do worse than the rate it was chosen for, but not much worse
    if scores.false_positive_rate > 2.0 * config.false_positive_rate:
        return (
            f"false positive rate on held-out episodes is {scores.false_positive_rate:.4f}, must be "
            f"{2.0 * config.false_positive_rate} or less, twice the wanted one"
        )
    return ""


def _counts(frames: Frames, found: Sequence[Candidate], episodes: Sequence[int]) -> dict[str, int]:
    successful = sum(found[i].success for i in episodes)
    positive = int(frames.positive.sum())
    return {
        "successful": successful,
        "failed": len(episodes) - successful,
        "positive_frames": positive,
        "negative_frames": len(frames.positive) - positive,
    }


def _episodes_fooled(taken: npt.NDArray[np.bool_], frames: Frames, ticks: int) -> tuple[int, int]:
    """Episodes with ``ticks`` consecutive negatives taken for successes; episodes none of whose successes was seen."""
    alarms = missed = 0
    for number in np.unique(frames.episode):
        here = frames.episode == number
        false = np.zeros(frames.row[here].max() + 1, bool)
        false[frames.row[here]] = (taken & ~frames.positive)[here]
        alarms += bool((np.convolve(false, np.ones(ticks), "valid") >= ticks).any()) if len(false) >= ticks else 0
        missed += bool(frames.positive[here].any() and not (taken & frames.positive)[here].any())
    return alarms, missed


def _by_scene(taken: npt.NDArray[np.bool_], frames: Frames, found: Sequence[Candidate]) -> dict[str, dict[str, float]]:
    scenes = np.array([found[i].scene for i in frames.episode])
    return {
        str(scene): {
            "frames": int((scenes == scene).sum()),
            "accuracy": float((taken == frames.positive)[scenes == scene].mean()),
        }
        for scene in np.unique(scenes)
    }


def _worst(p: npt.NDArray[np.float64], frames: Frames, found: Sequence[Candidate]) -> tuple[WorstFrame, ...]:
    """Of each episode the frame furthest from its label, the furthest first."""
    wrong = np.abs(frames.positive - p)
    rows = [
        max(np.flatnonzero(frames.episode == number), key=lambda i: wrong[i]) for number in np.unique(frames.episode)
    ]
    return tuple(
        WorstFrame(
            bag=str(found[frames.episode[i]].folder),
            row=int(frames.row[i]),
            positive=bool(frames.positive[i]),
            probability=float(p[i]),
        )
        for i in sorted(rows, key=lambda i: -wrong[i])
    )


def _save(folder: Path, report: Report, params: Any | None, backbone_digest: str, read: Reader) -> None:
    with whole_folder(folder) as draft:
        (draft / REPORT).write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
        _contact_sheet(draft / WORST, report.worst[:_WORST_FRAMES], read)
        if params is None:
            return
        write_tree(draft / WEIGHTS, params, {"kind": "reward_classifier"})
        card = Card(
            task=report.task,
            backbone_digest=backbone_digest,
            weights_sha256=_sha256(draft / WEIGHTS),
            temperature=report.temperature,
            threshold=report.threshold,
            consecutive_ticks=report.config.consecutive_ticks,
            recall=report.test.recall,
            false_positive_rate=report.test.false_positive_rate,
            episodes=sum(n["successful"] + n["failed"] for n in report.episodes.values()),
        )
        (draft / CARD).write_bytes(msgspec.yaml.encode(card))


def _contact_sheet(path: Path, worst: Sequence[WorstFrame], read: Reader) -> None:
    from PIL import Image as Pictures
    from PIL import ImageDraw

    side, line, columns = 160, 28, 6
    rows = -(-len(worst) // columns)
    sheet = Pictures.new("RGB", (columns * side, rows * (side + line)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, frame in enumerate(worst):
        left, top = i % columns * side, i // columns * (side + line)
        picture = Pictures.fromarray(np.asarray(read(Path(frame.bag)).images[frame.row]))
        sheet.paste(picture.resize((side - 2, side - 2)), (left, top + line))
        bag = "/".join(Path(frame.bag).parts[-2:])[-24:]
        label = "success" if frame.positive else "none"
        draw.text((left + 2, top + 1), f"{bag} row {frame.row}\n{label}, p = {frame.probability:.3f}", fill="black")
    sheet.save(path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class RewardClassifier:
    """Says how probable it is that a wrist image shows success; success and its absence are taken as equally likely."""

    def __init__(self, params: Any, card: Card, encoder: PixelsEncoder) -> None:
        self._params, self.card, self._encoder = params, card, encoder

    def __call__(self, image: Image) -> float:
        """Probability of success.

        Args:
            image: RGB, at least 256 pixels a side.
        """
        logit = np.asarray(_logits(self._params, self._encoder.cells(image).astype(np.float16)))[0]
        return float(probabilities(logit, self.card.temperature))


def load_classifier(folder: Path, task: Task) -> RewardClassifier:
    """Load the classifier of a task.

    Raises:
        ClassifierError: missing, damaged, of another task or backbone, or the task's camera is too small.
    """
    path = folder / CARD
    try:
        card = msgspec.yaml.decode(path.read_bytes(), type=Card, strict=False)
        found = _sha256(folder / WEIGHTS)
        arrays, _ = read_tree(folder / WEIGHTS)
        params = into_tree(folder / WEIGHTS, arrays, jax.eval_shape(lambda: _init(0)))
    except OSError as error:
        raise ClassifierError(
            f"{error.filename}: cannot be read: {error.strerror}; train one with ./rldg classifier"
        ) from None
    except CheckpointError as error:
        raise ClassifierError(str(error)) from None
    except ValueError as error:  # of msgspec, and of YAML
        raise ClassifierError(f"{path}: {' '.join(str(error).split())[:300]}") from None
    if card.type != "reward_classifier" or card.version != 1:
        raise ClassifierError(
            f"{path}: is of type {card.type!r}, version {card.version}; must be 'reward_classifier', 1"
        )
    if found != card.weights_sha256:
        raise ClassifierError(f"{folder / WEIGHTS}: is not what {CARD} says; it was changed: train it again")
    if card.task != task.name:
        raise ClassifierError(f"{path}: task: is {card.task!r}, must be {task.name!r}; train one for this task")
    encoder = _encoder()
    if encoder.digest != card.backbone_digest:
        raise ClassifierError(
            f"{path}: backbone_digest: is {card.backbone_digest[:12]}, installed is {encoder.digest[:12]}; "
            "train it again"
        )
    if task.camera.image_size_px < encoder.image_size_px:
        raise ClassifierError(
            f"task {task.name}: camera.image_size_px: is {task.camera.image_size_px}, the classifier needs "
            f"{encoder.image_size_px}"
        )
    return RewardClassifier(params, card, encoder)


def load_sight(folder: str | Path, task: Task) -> Sight:
    """The same as a part of the judge's rule, ready to answer at once; the entry point ``rldg.classifiers: image``.

    Raises:
        ClassifierError: see :func:`load_classifier`.
    """
    classifier = load_classifier(Path(folder), task)
    classifier(np.zeros((task.camera.image_size_px, task.camera.image_size_px, 3), np.uint8))  # compiles
    return Sight(classifier, classifier.card.threshold, classifier.card.consecutive_ticks)
