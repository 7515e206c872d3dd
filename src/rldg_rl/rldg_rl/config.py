"""Training presets: everything about a run of the learner that a person may want to change.

A preset is a YAML file of ``config/training`` or any other path; it may say ``extends: other.yaml``, and under
``families`` what is different for a family of tasks. Defaults are
those of HIL-SERL where it gives a number, and the comment says so where it does not or where this differs.
"""

from __future__ import annotations

import enum
import math
from pathlib import Path
from typing import Annotated

import msgspec

from rldg_core.task import TaskError, config_directory, read_yaml

Count = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
Probability = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, msgspec.Meta(gt=0.0, le=1e6)]


class Encoder(enum.StrEnum):
    """What a specialist sees besides what it feels."""

    STATE = "state"  # the simulation's own poses
    PIXELS_SIM = "pixels_sim"  # the wrist image through a small network that was trained in simulation and is frozen
    PIXELS = "pixels"  # the wrist image through a frozen ImageNet backbone


class Activation(enum.StrEnum):
    TANH = "tanh"
    RELU = "relu"


class Segment(enum.StrEnum):
    """Which part of the task is learned; a person brings every episode to its beginning."""

    ALL = "all"
    GRASPED = "grasped"  # from where the object hangs in the gripper


class Interventions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the scripted operator takes over in simulation: short bursts, rarer with every episode."""

    episode_probability: Probability = 0.5  # that an episode gets help at all; falls to 0 over decay_episodes
    step_probability: Probability = 0.15  # of a burst to begin at a step of such an episode
    decay_episodes: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 300
    burst_steps: tuple[Count, Count] = (3, 8)  # shortest and longest


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One preset. Hashable, so that compiled functions may depend on it."""

    encoder: Encoder
    segment: Segment = Segment.ALL
    demos: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 20  # successful demonstrations before training

    gamma: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.97  # 0.98 where success takes longer than 8 s
    batch: Annotated[int, msgspec.Meta(ge=2, le=65536)] = 256  # half of it demonstrations and interventions
    utd: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4  # critic updates per environment step, kept by the governor
    actor_every: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2  # critic updates per update of actor and temperature
    critics: Annotated[int, msgspec.Meta(ge=1, le=32)] = 2
    critic_subset: Annotated[int, msgspec.Meta(ge=1, le=32)] = 2  # of them, drawn for the minimum in every target
    hidden: tuple[Count, ...] = (256, 256)
    activation: Activation = Activation.TANH
    tau: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.005
    learning_rate: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 3e-4
    clip_norm: Positive = 40.0  # of the gradient of each network; not in HIL-SERL
    average_tau: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1e-3  # per actor update, of the policy that is served
    initial_temperature: Positive = 0.01
    target_entropy_per_dim: Annotated[float, msgspec.Meta(ge=-10.0, le=10.0)] = -0.5  # of the continuous dimensions
    imitation: Annotated[float, msgspec.Meta(ge=0.0, le=100.0)] = 0.0  # weight of following demonstrations
    gripper_penalty: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.02  # for every change of the held state
    gripper_temperature: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = (
        0.0  # of its exploration; 0: always the better
    )

    # heads on the grid of a frozen backbone (encoder pixels)
    spatial_embeddings: Count = 8
    bottleneck: Count = 256
    vector_features: Count = 64
    views: Annotated[int, msgspec.Meta(ge=1, le=8)] = 1  # random crops of every image that are encoded and stored

    # the network of encoder pixels_sim, trained before anything else
    pretrain_frames: Annotated[int, msgspec.Meta(ge=128, le=1_000_000)] = 16_000
    pretrain_epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 8

    warmup_steps: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 100  # before the first update
    replay_capacity: Annotated[int, msgspec.Meta(ge=1, le=5_000_000)] = 200_000  # online, and as many demonstrations

    interventions: Interventions = Interventions()
    max_env_steps: Count = 50_000
    evaluate_every_steps: Count = 1000
    evaluation_episodes: Count = 20  # of a policy that may be kept; as many of the best as stop_trials
    checkpoint_every_steps: Count = 1000
    stop_trials: Count = 300  # autonomous episodes that end the training
    stop_failures: Annotated[float, msgspec.Meta(ge=0.0, le=0.5)] = 0.005  # share of them that may fail: 1 of 300
    final_trials: Count = 100

    @property
    def allowed_failures(self) -> int:
        """Of the episodes that end the training."""
        return math.floor(self.stop_failures * self.stop_trials)


def preset_names() -> list[str]:
    """Names of the presets that are installed, sorted."""
    return sorted(path.stem for path in (config_directory() / "training").glob("*.yaml"))


def load_config(name_or_path: str | Path, family: str) -> TrainingConfig:
    """Read and check a preset.

    Args:
        name_or_path: a name of ``config/training`` (``state``) or the path of a YAML file.
        family: of the task that it is for.

    Raises:
        TaskError: the file is missing or breaks the schema; one line: file, key, what is allowed.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = config_directory() / "training" / f"{name_or_path}.yaml"
        if not path.is_file():
            raise TaskError(f"{path}: no such file; presets here: {', '.join(preset_names())}")
    config = read_yaml(path, TrainingConfig, family)
    problem = contradiction(config)
    if problem:
        raise TaskError(f"{path}: {problem}")
    return config


def contradiction(config: TrainingConfig) -> str:
    """What one key alone cannot say: "" or ``key: what is wrong``."""
    if config.critic_subset > config.critics:
        return f"critic_subset: is {config.critic_subset}, must be at most critics, {config.critics}"
    if config.utd % config.actor_every:
        return f"actor_every: is {config.actor_every}, must divide utd, {config.utd}"
    if config.batch % 2:
        return f"batch: is {config.batch}, must be even: half of it are demonstrations"
    shortest, longest = config.interventions.burst_steps
    if shortest > longest:
        return f"interventions.burst_steps: shortest {shortest} is above longest {longest}"
    return ""
