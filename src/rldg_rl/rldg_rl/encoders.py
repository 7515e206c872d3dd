"""From an observation to the flat feature vector that actor and critics read.

Every encoder is frozen while a specialist trains: an observation is encoded once, when it is made, and the replay keeps
the features. So learning from images costs what learning from the state costs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rldg_core.frames import Array, Pose, body_delta, log_rotation, quaternion_conjugate, quaternion_multiply, rotate
from rldg_core.images import square
from rldg_core.task import Subject, Task
from rldg_core.types import Observation
from rldg_rl.features import PROPRIOCEPTION_SIZE, RELATION_SIZE, Features, relation, scaled_proprioception
from rldg_rl.views import image_views

WEIGHTS = "encoder.npz"
_MAP_SCALE = 8.0  # brings the backbone's maps to order one
_EMBEDDING_SCALE = 0.3  # the embedding must not drown out the relations


class EncoderError(ValueError):
    """An encoder cannot be made, loaded or used; the message is one line with the remedy."""


class Surroundings(Protocol):
    """Ground truth of the simulation (``rldg_sim.cell.Truth``), base frame."""

    @property
    def fixture_pose(self) -> Pose: ...

    @property
    def object_pose(self) -> Pose | None: ...


class Encoder(Protocol):
    """What every encoder offers.

    Attributes:
        name: as in ``TrainingConfig.encoder``.
        feature_dim: length of what :meth:`encode` returns.
        grid: see ``networks.Spec``.
        image_size_px: side of the images it looks at; larger ones are averaged down; 0 if it looks at none.
        digest: of everything that decides what it returns.
    """

    name: str
    feature_dim: int
    grid: tuple[int, int] | None
    image_size_px: int
    digest: str

    def encode(self, observation: Observation, truth: Surroundings | None = None) -> Features:
        """Features of one observation, shape (feature_dim,), float32."""

    def save(self, folder: Path) -> None:
        """Add to a checkpoint folder what is needed to make this encoder again."""


class StateEncoder:
    """Privileged: where goal and object are, from the simulation, and proprioception."""

    name = "state"
    image_size_px = 0
    grid: tuple[int, int] | None = None

    def __init__(self, task: Task) -> None:
        self._rule, self._goal = task.success, task.success.goal.pose()
        self.relation_count = 1 if task.object is None else 2
        self.feature_dim = PROPRIOCEPTION_SIZE + RELATION_SIZE * self.relation_count
        self.digest = hashlib.sha256(f"state 1 {task.success} {self.relation_count}".encode()).hexdigest()

    def encode(self, observation: Observation, truth: Surroundings | None = None) -> Features:
        """See :class:`Encoder`.

        Raises:
            EncoderError: no ground truth was given.
        """
        if truth is None:
            raise EncoderError("encoder 'state': needs the simulation's truth; use pixels_sim or pixels elsewhere")
        return np.concatenate([scaled_proprioception(observation), self.relations(observation.tcp_pose, truth)])

    def save(self, folder: Path) -> None:
        """The task file says it all."""

    def relations(self, tcp: Pose, truth: Surroundings) -> Features:
        """What is to move where, in TCP axes: the rule's subject to its goal, and the TCP to a free object.

        Shape (12,), or (24,) where the task has a free object, float32.
        """
        offsets = self.offsets(tcp, truth)
        return np.concatenate([relation(offset[:3], offset[3:]) for offset in offsets])

    def offsets(self, tcp: Pose, truth: Surroundings) -> Array:
        """The same in m and rad, shape (1 or 2, 6)."""
        back, goal, free = quaternion_conjugate(tcp.quaternion), truth.fixture_pose @ self._goal, truth.object_pose
        if free is None:
            return body_delta(tcp, goal)[None]
        subject = free if self._rule.subject is Subject.OBJECT else tcp
        turn = rotate(
            back, log_rotation(quaternion_multiply(goal.quaternion, quaternion_conjugate(subject.quaternion)))
        )
        if self._rule.rotation_tolerance_rad > 1.0:
            turn = np.zeros(3)  # the rule leaves it open
        to_goal = np.concatenate([rotate(back, goal.position - subject.position), turn])
        # a parallel gripper grasps the same way when it is turned by half a turn
        along = rotate(back, rotate(free.quaternion, np.array([1.0, 0.0, 0.0])))
        yaw = (np.arctan2(along[1], along[0]) + np.pi / 2.0) % np.pi - np.pi / 2.0
        to_object = np.concatenate([rotate(back, free.position - tcp.position), [0.0, 0.0, yaw]])
        return np.stack([to_goal, to_object])


class PixelsSimEncoder:
    """The wrist image through :class:`rldg_rl.pretrain.PoseNet`, frozen, and proprioception.

    The features are proprioception, the relations that the network reads off the image, and its embedding.

    Args:
        params: of the network.
        outputs: numbers in its relations.
    """

    name = "pixels_sim"
    image_size_px = 128
    grid: tuple[int, int] | None = None

    def __init__(self, params: Any, outputs: int) -> None:
        from rldg_rl import pretrain

        self._params, self._outputs, self._net = params, outputs, pretrain
        self.feature_dim = PROPRIOCEPTION_SIZE + outputs + pretrain.EMBEDDING
        leaves = pretrain.jax.tree.leaves(params)
        self.digest = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()

    def encode(self, observation: Observation, truth: Surroundings | None = None) -> Features:
        """See :class:`Encoder`; the truth is not looked at."""
        seen = self._net.views(observation.image)
        embedding, relations = self._net.apply(self._params, seen, self._outputs)
        return np.concatenate([scaled_proprioception(observation), relations, _EMBEDDING_SCALE * np.asarray(embedding)])

    def save(self, folder: Path) -> None:
        """Write its weights into a checkpoint folder."""
        from rldg_rl.checkpoint import write_tree

        write_tree(folder / WEIGHTS, self._params, {"outputs": self._outputs})


class PixelsEncoder:
    """The wrist image through a frozen ImageNet backbone (:mod:`rldg_rl.backbone`), and proprioception.

    Two images of 128 pixels are looked at: all of what the camera sees, kept as 4 x 4 cells, and the window around the
    tool's tip at full resolution, kept as 8 x 8 cells. The cells are trained on by ``networks.Head``.

    Args:
        views: how many versions of an image to encode: itself, and random crops of it.
        seed: of the crops.
    """

    name = "pixels"
    image_size_px = 256
    grid: tuple[int, int] | None = (112, 80)

    def __init__(self, views: int = 1, seed: int = 0) -> None:
        from rldg_rl import backbone

        self._backbone, self.digest = backbone.load_backbone()
        self._maps, self._views, self._rng = backbone.feature_maps, views, np.random.default_rng([seed, 0xC409])
        self.feature_dim = 80 * 112 + PROPRIOCEPTION_SIZE

    def encode(self, observation: Observation, truth: Surroundings | None = None) -> Features:
        """See :class:`Encoder`; with several views of shape (views, feature_dim)."""
        cells = self.cells(observation.image)
        felt = np.broadcast_to(scaled_proprioception(observation), (self._views, PROPRIOCEPTION_SIZE))
        features = np.concatenate([cells, felt], axis=1)
        return features if self._views > 1 else features[0]

    def cells(self, image: npt.NDArray[np.uint8]) -> Features:
        """The backbone's output for each view of a square image, channel by channel: shape (views, 112 * 80)."""
        images = image_views(square(image, self.image_size_px), self._views, self._rng)
        looked_at = np.stack([[square(view, 128), view[56:184, 64:192]] for view in images])
        maps = np.asarray(self._maps(self._backbone, looked_at.reshape(-1, 128, 128, 3))) / _MAP_SCALE
        maps = maps.reshape(self._views, 2, 8, 8, 112)
        whole = maps[:, 0].reshape(-1, 4, 2, 4, 2, 112).mean(axis=(2, 4)).reshape(self._views, 16, 112)
        cells = np.concatenate([whole, maps[:, 1].reshape(self._views, 64, 112)], axis=1)
        return cells.swapaxes(1, 2).reshape(self._views, -1).astype(np.float32)

    def save(self, folder: Path) -> None:
        """The installed package has the weights; the card has their digest."""


def load_encoder(name: str, task: Task, folder: Path) -> Encoder:
    """The encoder of a checkpoint folder.

    Raises:
        CheckpointError: its weights are missing or damaged.
        EncoderError: no encoder has that name, or its package is not installed.
    """
    if name == "state":
        return StateEncoder(task)
    if name == "pixels_sim":
        from rldg_rl.checkpoint import CheckpointError, into_tree, read_tree
        from rldg_rl.pretrain import empty_params

        arrays, about = read_tree(folder / WEIGHTS)
        outputs = StateEncoder(task).relation_count * RELATION_SIZE
        if about.get("outputs") != outputs:
            raise CheckpointError(f"{folder / WEIGHTS}: has {about.get('outputs')} outputs, task {task.name} {outputs}")
        return PixelsSimEncoder(into_tree(folder / WEIGHTS, arrays, empty_params(outputs)), outputs)
    if name == "pixels":
        return PixelsEncoder()
    raise EncoderError(f"encoder {name!r}: not known; there are pixels, pixels_sim and state")
