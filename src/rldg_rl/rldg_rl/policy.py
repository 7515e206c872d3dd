"""A trained specialist: its checkpoint folder, and the policy that serves it.

A checkpoint folder holds ``policy.yaml`` (the card), ``weights.npz``, and ``encoder.npz`` where the encoder has weights
of its own that no installed package provides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
import numpy.typing as npt

from rldg_core.frames import Pose
from rldg_core.task import Robot, Task
from rldg_core.types import ActionChunk, Observation
from rldg_rl import rlpd
from rldg_rl.checkpoint import CheckpointError, Weights, load_weights, save_weights, whole_folder
from rldg_rl.config import TrainingConfig
from rldg_rl.encoders import Encoder, Features, Surroundings, load_encoder
from rldg_rl.networks import Spec

CARD, WEIGHTS = "policy.yaml", "weights.npz"


class Evaluation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Autonomous episodes on start states never seen in training, taking the mode of the policy."""

    successes: int
    trials: int
    mean_steps: float  # of the successful ones, nan if none


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint is."""

    type: str = "specialist"
    version: int = 1
    name: str
    task: str
    encoder: str
    encoder_digest: str
    image_size_px: int  # side that the encoder looks at; larger images are averaged down; 0: it looks at none
    rate_hz: float
    translation_scale_m: float
    rotation_scale_rad: float
    setpoint: str
    gripper: str
    weights_sha256: str = ""
    config_sha256: str = ""
    segment: str = "all"  # of the task that it was trained for
    seed: int
    env_steps: int
    evaluation: Evaluation | None = None


def config_digest(config: TrainingConfig) -> str:
    """Of everything in a preset, in hexadecimal."""
    return hashlib.sha256(msgspec.json.encode(config, order="sorted")).hexdigest()


class Specialist:
    """Frozen weights and the encoder that they were trained on.

    Args:
        sample: draw actions from the policy instead of taking its mode.
        seed: of the draws.
    """

    def __init__(
        self,
        weights: Weights,
        config: TrainingConfig,
        spec: Spec,
        encoder: Encoder,
        *,
        sample: bool = False,
        seed: int = 0,
    ) -> None:
        self._params, self._config, self._spec, self.encoder = weights.params, config, spec, encoder
        self._sample, self._key = sample, jax.random.key(seed)

    def choose(self, features: Features) -> npt.NDArray[np.float32]:
        """The action at one observation, (6,), or (7,) with 1 for a closed and 0 for an open gripper."""
        key = self._key
        if self._sample:
            self._key, key = jax.random.split(key)
        seen = features if features.ndim == 1 else features[0]  # the first view is the image as it is
        return np.asarray(
            rlpd.act(self._params, seen, key, deterministic=not self._sample, config=self._config, spec=self._spec)
        )

    def act(self, observation: Observation, truth: Surroundings | None = None) -> npt.NDArray[np.float32]:
        """The same from the observation."""
        return self.choose(self.encoder.encode(observation, truth))


def save_specialist(
    folder: Path, card: Card, weights: Weights, config: TrainingConfig, spec: Spec, encoder: Encoder
) -> Path:
    """Write a checkpoint folder; one that is there already is replaced by the whole new one.

    Args:
        card: ``weights_sha256`` and ``config_sha256`` are filled in.
    """
    with whole_folder(folder) as draft:
        save_weights(draft / WEIGHTS, weights, config, spec)
        encoder.save(draft)
        digests = {"weights_sha256": _digest(draft / WEIGHTS), "config_sha256": config_digest(config)}
        (draft / CARD).write_bytes(msgspec.yaml.encode(msgspec.structs.replace(card, **digests)))
    return folder


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; use another checkpoint") from None


def load_card(folder: Path) -> Card:
    """Read the card of a checkpoint folder.

    Raises:
        CheckpointError: it is missing or wrong.
    """
    path = folder / CARD
    try:
        card = msgspec.yaml.decode(path.read_bytes(), type=Card, strict=False)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; a checkpoint folder holds {CARD}") from None
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from None
    if card.type != "specialist" or card.version != 1:
        raise CheckpointError(f"{path}: is of type {card.type!r}, version {card.version}; must be 'specialist', 1")
    return card


def load_specialist(folder: Path, task: Task, *, sample: bool = False, seed: int = 0) -> tuple[Specialist, Card]:
    """Load a checkpoint for a task.

    Raises:
        CheckpointError: it is missing or damaged, or was trained on other rates, scales, set-point rule or gripper.
    """
    card = load_card(folder)
    _check_fits(folder, card, task)
    path = folder / WEIGHTS
    found = _digest(path)
    if found != card.weights_sha256:
        raise CheckpointError(f"{path}: sha256 is {found[:12]}, {CARD} says {card.weights_sha256[:12]}; it was changed")
    weights, config, spec = load_weights(path)
    encoder = load_encoder(card.encoder, task, folder)
    if encoder.digest != card.encoder_digest:
        raise CheckpointError(
            f"{folder}: encoder {card.encoder!r} is {encoder.digest[:12]} here, the specialist was trained on "
            f"{card.encoder_digest[:12]}; use the task file and packages of its training, or train again"
        )
    return Specialist(weights, config, spec, encoder, sample=sample, seed=seed), card


def _check_fits(folder: Path, card: Card, task: Task) -> None:
    """An action means something else at another rate, scale or set-point rule."""
    control = task.control
    here = {
        "rate_hz": control.rate_hz,
        "translation_scale_m": control.translation_scale_m,
        "rotation_scale_rad": control.rotation_scale_rad,
        "setpoint": control.setpoint.value,
        "gripper": control.gripper.value,
    }
    for name, value in here.items():
        if getattr(card, name) != value:
            raise CheckpointError(
                f"{folder / CARD}: {name}: is {getattr(card, name)}, task {task.name} has {value}; "
                "train a specialist for this task"
            )


class SpecialistParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may be set.

    Attributes:
        checkpoint: folder of the specialist.
        sample: draw actions instead of taking the most likely one.
        seed: of the draws.
    """

    checkpoint: str
    sample: bool = False
    seed: int = 0


class SpecialistPolicy:
    """Serves a checkpoint; follows :class:`rldg_policies.policy.Policy`.

    Raises:
        ValueError: the checkpoint cannot be served: missing, damaged, of another control, or blind without the
            simulation's truth.
    """

    def __init__(self, task: Task, robot: Robot, policy_id: str, parameters: SpecialistParameters) -> None:
        self._specialist, self.card = load_specialist(
            Path(parameters.checkpoint), task, sample=parameters.sample, seed=parameters.seed
        )
        if self._specialist.encoder.image_size_px == 0:
            raise CheckpointError(
                f"{parameters.checkpoint}: encoder {self.card.encoder!r} reads the simulation's truth, which "
                "observations do not carry; train with a preset that looks at images"
            )
        self.policy_id, self.rate_hz = policy_id, task.control.rate_hz
        self.checkpoint_hash = self.card.weights_sha256
        self._tcp_frame, self._period_s = robot.tcp_frame, task.control.period_s
        self._image_px = task.camera.image_size_px

    def warm_up(self) -> None:
        blank = np.zeros((self._image_px, self._image_px, 3), np.uint8)
        self._specialist.act(Observation(0, blank, Pose.identity(), np.zeros(6), np.zeros(6), 0.0, True))

    def reset(self) -> None:
        """Nothing is remembered between observations."""

    def act(self, observation: Observation) -> ActionChunk:
        action = self._specialist.act(observation).astype(np.float64)
        closed = bool(action[6] > 0.5) if len(action) > 6 else observation.gripper_closed
        return ActionChunk(
            observation_stamp_ns=observation.stamp_ns,
            policy_id=self.policy_id,
            deltas=action[None, :6],
            gripper_closed=np.array([closed]),
            period_s=self._period_s,
            frame_id=self._tcp_frame,
        )


def make_specialist(task: Task, robot: Robot, policy_id: str, parameters: Mapping[str, Any]) -> SpecialistPolicy:
    """Factory of the entry point ``specialist``.

    Raises:
        ValueError: an unknown parameter, or the checkpoint cannot be served.
    """
    try:
        checked = msgspec.convert(dict(parameters), SpecialistParameters)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"policy {policy_id!r}: parameters: {error}; allowed: {', '.join(SpecialistParameters.__struct_fields__)}"
        ) from None
    return SpecialistPolicy(task, robot, policy_id, checked)
