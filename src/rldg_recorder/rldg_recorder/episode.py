"""An episode as it lies in a bag: what ``episode.yaml`` says, and the columns of the one stream.

Row i of every column belongs to one ``Step`` and to the ``Observation`` that the step names. Action i was executed
after observation i; its reward stands in row i + 1 (rewards arrive with the observation that earned them, see
docs/architecture.md, "An episode"). The last row of a whole episode is the closing step: it has a reward and no action
worth learning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from rldg_core.frames import Pose
from rldg_core.task import Robot, Task
from rldg_core.types import Observation, Outcome, Source
from rldg_core.yaml_text import decode_yaml

FORMAT = 1  # of episode.yaml
INFO_FILE = "episode.yaml"

Floats = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]  # (side, side, 3), RGB
Steps = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]  # a day at 10 Hz: what claims more is damaged


class BagError(ValueError):
    """A bag or an ``episode.yaml`` is missing, cut off or wrong; the message is one line: file, what, remedy."""


class PolicyInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One policy that took part."""

    policy_id: str
    checkpoint_hash: str = ""  # "" where the policy has no checkpoint or did not say
    steps: int = 0  # ticks at which it drove


class LabelInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A verdict that an operator changed after the episode had ended."""

    outcome: Outcome
    reason: str = ""
    stamp_ns: int = 0  # node clock


class TopicInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One recorded topic."""

    type: str
    messages: int = 0
    expected_hz: float | None = None  # None: an event, no rate expected
    lost: int = 0  # by the publishers' sequence numbers
    overrun: int = 0  # arrived here, but the writer's queue was full


class SalvageInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``./rldg bag salvage`` found."""

    messages: int  # recovered
    lost_bytes: int  # at the end of the file, of no whole message
    note: str = ""


class EpisodeInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file ``episode.yaml`` beside each bag. Written when the recording begins, and again when it ends."""

    format: int = FORMAT
    state: str  # recording, complete (has its closing step) or partial
    session_id: str
    episode_id: str
    scene: str = ""
    seed: int = 0
    instruction: str = ""
    outcome: Outcome = Outcome.NONE
    reason: str = ""
    labels: tuple[LabelInfo, ...] = ()  # oldest first; the last one is in force, and ``outcome`` says the same
    operator: str = ""  # who demonstrated and intervened
    policies: tuple[PolicyInfo, ...] = ()
    lockstep: bool = False
    began_ns: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0  # wall clock
    duration_s: float = 0.0  # node clock, first to last step
    steps: Steps = 0
    human_steps: Steps = 0  # ticks at which a human drove
    audit: str = ""  # ok, warn or fail; "" where it was not judged
    topics: dict[str, TopicInfo] = {}
    software: dict[str, str] = {}  # rldg, ros, rmw, python
    salvage: SalvageInfo | None = None
    robot: Robot | None = None  # the whole robot file; None where the recorder was not told
    task: Task  # the whole task file, as it was in force: control rate, action scale, gains, clips, safety


def read_info(folder: Path) -> EpisodeInfo:
    """Read ``episode.yaml`` of a bag folder.

    Raises:
        BagError: it is missing, not YAML, of another format, or breaks the schema.
    """
    path = folder / INFO_FILE
    try:
        data: Any = decode_yaml(path.read_bytes())
    except OSError as error:
        raise BagError(f"{path}: cannot be read: {error.strerror}; a bag folder holds {INFO_FILE}") from None
    except ValueError as error:
        raise BagError(f"{path}: not YAML: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise BagError(f"{path}: format: is {found!r}, must be {FORMAT}; record anew or use the matching release")
    try:
        return msgspec.convert(data, EpisodeInfo, strict=False)
    except msgspec.ValidationError as error:
        raise BagError(f"{path}: {' '.join(str(error).split())[:300]}") from None


def write_info(folder: Path, info: EpisodeInfo) -> None:
    """Write ``episode.yaml`` so that a reader finds the old one or the new one, never half of one."""
    part = folder / f".{INFO_FILE}.part"
    part.write_bytes(msgspec.yaml.encode(msgspec.to_builtins(info)))
    part.replace(folder / INFO_FILE)


@dataclass(frozen=True)
class Episode:
    """The columns of one episode, one row per step; floats are float64. Images are decoded when they are indexed."""

    folder: Path
    info: EpisodeInfo
    images: Sequence[Image]
    stamp_ns: npt.NDArray[np.int64]  # of the steps, node clock
    observation_stamp_ns: npt.NDArray[np.int64]
    is_last: npt.NDArray[np.bool_]  # true in the last row at most
    reward: Floats
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    source: npt.NDArray[np.uint8]  # of rldg_core.types.Source
    policy_id: tuple[str, ...]
    executed: Floats  # (n, 6) in [-1, 1], TCP frame
    executed_gripper_closed: npt.NDArray[np.bool_]
    policy_action: Floats  # (n, 6), NaN where it asked for nothing
    human_action: Floats  # (n, 6), NaN where it asked for nothing
    changed: npt.NDArray[np.uint32]  # of rldg_core.types.Change
    target: Floats  # (n, 7): position (m), quaternion x y z w; base frame
    command_age_s: Floats
    tcp_pose: Floats  # (n, 7), base frame
    reset_pose: Floats  # (7,), base frame
    tcp_twist: Floats  # (n, 6): m/s, rad/s; TCP frame
    wrench: Floats  # (n, 6): N, N m; TCP frame, tared
    gripper_width_m: Floats
    gripper_closed: npt.NDArray[np.bool_]  # last commanded before the observation
    image_age_s: Floats
    state_age_s: Floats
    skew_s: Floats

    def __len__(self) -> int:
        return len(self.stamp_ns)

    @property
    def actions(self) -> int:
        """Number of rows whose action was executed: without the closing step."""
        return len(self) - int(self.is_last[-1]) if len(self) else 0

    def human(self) -> npt.NDArray[np.bool_]:
        """Rows at which a human drove."""
        return self.source == Source.HUMAN

    def observation(self, row: int) -> Observation:
        """The observation of a row, as a policy was given it."""
        return Observation(
            stamp_ns=int(self.observation_stamp_ns[row]),
            image=self.images[row],
            tcp_pose=_pose(self.tcp_pose[row]),
            tcp_twist=self.tcp_twist[row],
            wrench=self.wrench[row],
            gripper_width_m=float(self.gripper_width_m[row]),
            gripper_closed=bool(self.gripper_closed[row]),
            instruction=self.info.instruction,
            episode_id=self.info.episode_id,
            index=row,
            reset_pose=_pose(self.reset_pose),
            image_age_s=float(self.image_age_s[row]),
            state_age_s=float(self.state_age_s[row]),
            skew_s=float(self.skew_s[row]),
        )


def _pose(row: Floats) -> Pose:
    return Pose(np.array(row[:3]), np.array(row[3:]))
