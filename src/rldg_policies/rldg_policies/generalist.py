"""Generalists as policies of the graph: the card of a checkpoint, and what turns their answers into chunks.

A checkpoint folder of OpenVLA or Octo that was fine-tuned here holds ``policy.yaml`` beside the weights. A released
folder has none: it was not trained on this robot, and is to be fine-tuned before it drives one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, get_args, get_type_hints

import msgspec
import numpy as np
import numpy.typing as npt

from rldg_core.task import GripperUse, Robot, Task
from rldg_core.types import ActionChunk, Observation
from rldg_core.yaml_text import decode_yaml
from rldg_policies.openvla.config import Mode

CARD = "policy.yaml"
Kind = Literal["openvla", "octo"]
_SAME_SCALE = 1e-6


class GeneralistError(ValueError):
    """A checkpoint cannot drive this robot at this task; one line: what, what was allowed, the remedy."""


class GeneralistCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint is.

    Attributes:
        base: what it was fine-tuned from: a preset or a folder.
        training_set: name of the set, whose statistics are in the folder.
        statistics_sha256: of ``dataset_statistics.json``.
        rate_hz: of the frames it was trained on: the time between two actions of a chunk.
        scale: what an action of all ones means, (6,), m and rad.
        instructions: that it was trained on.
        steps: of the optimiser.
        held_out: figures on episodes that it was not trained on.
    """

    type: Kind
    version: int = 1
    name: str
    base: str
    training_set: str
    statistics_sha256: str
    rate_hz: Annotated[float, msgspec.Meta(gt=0.0, le=1000.0)]
    scale: tuple[float, float, float, float, float, float]
    instructions: tuple[str, ...]
    steps: int
    seed: int
    held_out: dict[str, float]


def read_card(folder: Path, kind: Kind) -> GeneralistCard:
    """The card of a checkpoint folder.

    Raises:
        GeneralistError: it is missing or wrong, or of another type.
    """
    path = folder / CARD
    try:
        card = msgspec.convert(decode_yaml(path.read_bytes()), GeneralistCard)
    except OSError as error:
        raise GeneralistError(
            f"{path}: cannot be read: {error.strerror}; a folder that can drive is made by ./rldg finetune"
        ) from None
    except (msgspec.ValidationError, ValueError) as error:
        raise GeneralistError(f"{path}: {' '.join(str(error).split())}") from None
    if card.type != kind or card.version != 1:
        raise GeneralistError(f"{path}: is of type {card.type!r}, version {card.version}; must be {kind!r}, 1")
    return card


def write_card(folder: Path, card: GeneralistCard) -> None:
    """Write the card into a folder that is being made."""
    (folder / CARD).write_bytes(msgspec.yaml.encode(msgspec.to_builtins(card)))


def check_fits(folder: Path, card: GeneralistCard, task: Task) -> None:
    """An action means something else at another scale or rate.

    Raises:
        GeneralistError: the checkpoint was trained for other ones.
    """
    control = task.control
    if not np.allclose(card.scale, control.scale, rtol=0.0, atol=_SAME_SCALE):
        raise GeneralistError(
            f"{folder / CARD}: scale {card.scale} differs from {tuple(control.scale.tolist())} of task {task.name}; "
            "fine-tune on episodes of this task"
        )
    if card.rate_hz > control.rate_hz * (1.0 + 1e-6):
        raise GeneralistError(
            f"{folder / CARD}: rate_hz {card.rate_hz} is above the {control.rate_hz} of task {task.name}; "
            "build the training set with a lower rate"
        )


class Predictor(Protocol):
    """A loaded generalist."""

    def predict(self, image: npt.NDArray[np.uint8], instruction: str) -> npt.NDArray[np.float32]:
        """Actions (length, 6 or 7) in the units of its training set, the first due now."""

    def warm_up(self, image_px: int, instruction: str) -> None:
        """Compile, for images of this size and instructions like this one, which is remembered."""

    def reset(self) -> None:
        """A new episode begins."""


class GeneralistPolicy:
    """Serves a generalist; follows :class:`rldg_policies.policy.Policy`.

    Args:
        predictor: the model.
        card: of its folder; fits the task.
        instruction: instead of that of the episode, where not empty.
    """

    def __init__(
        self, predictor: Predictor, card: GeneralistCard, task: Task, robot: Robot, policy_id: str, instruction: str
    ) -> None:
        self._predictor, self.card = predictor, card
        self._instruction, self._between_episodes = instruction, task.instruction
        self.policy_id, self.rate_hz = policy_id, task.control.rate_hz
        self.checkpoint_hash = card.statistics_sha256
        self._tcp_frame, self._period_s = robot.tcp_frame, 1.0 / card.rate_hz
        self._grasps = task.control.gripper is GripperUse.BINARY
        self._image_px = task.camera.image_size_px

    def warm_up(self) -> None:
        self._predictor.warm_up(self._image_px, self._instruction or self._between_episodes)

    def reset(self) -> None:
        self._predictor.reset()

    def act(self, observation: Observation) -> ActionChunk:
        """Between episodes, where nobody says what to do, the task's own instruction counts: the answers move nothing,
        but show that the policy is there and may be selected.

        Raises:
            ValueError: the instruction is too long, the image is no square, or the answer is not finite.
        """
        instruction = self._instruction or observation.instruction or self._between_episodes
        actions = self._predictor.predict(observation.image, instruction)
        if not np.isfinite(actions).all():
            raise ValueError(f"policy {self.policy_id!r}: its answer is not finite; the checkpoint is damaged")
        if self._grasps and actions.shape[1] > 6:
            closed = actions[:, 6] < 0.5
        else:
            closed = np.full(len(actions), observation.gripper_closed)
        return ActionChunk(
            observation_stamp_ns=observation.stamp_ns,
            policy_id=self.policy_id,
            deltas=np.clip(actions[:, :6], -1.0, 1.0).astype(np.float64),
            gripper_closed=closed,
            period_s=self._period_s,
            frame_id=self._tcp_frame,
        )


# factories: entry points of group rldg.policies


class OpenVLAParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may be set.

    Attributes:
        checkpoint: folder made by ``./rldg finetune``.
        mode: "exact", or "fast_int8" and "fast_int4", which round the weights of the language model as they are read:
            less memory and time, and not quite the same answers (``./rldg bench openvla --checkpoint`` says how often).
        device: "cpu", "cuda" or "auto": cuda where there is one.
        draft: "last" guesses that an action is like the one before, which saves passes and changes nothing; "none".
        threads: of the processor; 0: as many as the process may use.
        instruction: instead of that of the episode.
    """

    checkpoint: str
    mode: Mode = "exact"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    draft: Literal["last", "none"] = "last"
    threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    instruction: str = ""


class OctoParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may be set.

    Attributes:
        checkpoint: folder made by ``./rldg finetune``.
        execute: how many actions of a chunk are offered; the rest is for when the next one is late. 0: all.
        seed: of the noise that actions are drawn from.
        tokenizer: folder of the T5 tokenizer, for released models.
        instruction: instead of that of the episode.
    """

    checkpoint: str
    execute: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    seed: int = 0
    tokenizer: str = ""
    instruction: str = ""


def make_openvla(task: Task, robot: Robot, policy_id: str, parameters: Mapping[str, Any]) -> GeneralistPolicy:
    """The entry point ``openvla`` of group ``rldg.policies``."""
    options = _parameters(parameters, OpenVLAParameters, policy_id)
    folder = Path(options.checkpoint)
    card = read_card(folder, "openvla")
    check_fits(folder, card, task)
    try:
        from rldg_policies.openvla.predictor import OpenVLAPredictor
    except ImportError as error:
        raise _missing(error) from None
    draft_last = options.draft == "last"
    predictor = OpenVLAPredictor(folder, card.training_set, options.device, draft_last, options.threads, options.mode)
    return GeneralistPolicy(predictor, card, task, robot, policy_id, options.instruction)


def make_octo(task: Task, robot: Robot, policy_id: str, parameters: Mapping[str, Any]) -> GeneralistPolicy:
    """The entry point ``octo`` of group ``rldg.policies``."""
    options = _parameters(parameters, OctoParameters, policy_id)
    folder = Path(options.checkpoint)
    card = read_card(folder, "octo")
    check_fits(folder, card, task)
    try:
        from rldg_policies.octo.predictor import OctoPredictor
    except ImportError as error:
        raise _missing(error) from None
    tokenizer = Path(options.tokenizer) if options.tokenizer else None
    predictor = OctoPredictor(folder, card.training_set, options.execute, options.seed, tokenizer)
    return GeneralistPolicy(predictor, card, task, robot, policy_id, options.instruction)


def _parameters(parameters: Mapping[str, Any], kind: type[Any], policy_id: str) -> Any:
    try:
        return msgspec.convert(dict(parameters), kind)
    except msgspec.ValidationError as error:
        field = str(error).rpartition("$.")[2].rstrip("`")
        allowed = get_args(get_type_hints(kind).get(field)) if "enum" in str(error) else ()
        hint = f"; must be one of {', '.join(allowed)}" if allowed else ""
        raise ValueError(f"policy {policy_id!r}: policy_parameters: {error}{hint}") from None


def _missing(error: ImportError) -> GeneralistError:
    return GeneralistError(f"{error}: the packages of the generalists are not installed; run ./rldg finetune --help")
