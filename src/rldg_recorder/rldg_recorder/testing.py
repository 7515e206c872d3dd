"""Builders of episodes for tests: columns that agree with each other, without a bag."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from rldg_core.frames import Pose, apply_body_delta
from rldg_core.task import Task, load_robot
from rldg_core.testing import TICK_NS, make_task, tool_down
from rldg_core.types import Outcome, Source
from rldg_recorder.episode import BagError, Episode, EpisodeInfo, PolicyInfo, write_info

IMAGE_PX = 64


def make_info(task: Task | None = None, steps: int = 11, policy: str = "", **changes: object) -> EpisodeInfo:
    """A whole, successful episode; driven by a human where no policy is named."""
    info = EpisodeInfo(
        state="complete",
        session_id="s",
        episode_id="s/0001",
        scene="seen",
        instruction=(task or make_task()).instruction,
        outcome=Outcome.SUCCESS,
        operator="scripted",
        policies=(PolicyInfo(policy_id=policy, steps=steps - 1),) if policy else (),
        steps=steps,
        human_steps=0 if policy else steps - 1,
        audit="ok",
        robot=load_robot("fr3"),
        task=task or make_task(),
    )
    return msgspec.structs.replace(info, **changes)


def make_episode(
    deltas: npt.ArrayLike,
    *,
    folder: Path = Path("/bags/s/0001"),
    start: Pose | None = None,
    closed: npt.ArrayLike | None = None,
    task: Task | None = None,
    policy: str = "",
    columns: Mapping[str, npt.ArrayLike] = {},
    **changes: object,
) -> Episode:
    """An arm that does at once what it is told.

    Args:
        deltas: executed actions, shape (n, 6), each in [-1, 1]; the closing step is appended to them.
        folder: of the bag.
        start: first TCP pose and reset pose.
        closed: executed gripper states, shape (n,); all closed where None.
        task: what was done.
        policy: who drove, a human where "".
        columns: instead of those computed, n + 1 rows each.
        changes: fields of the info.
    """
    executed = np.concatenate([np.asarray(deltas, dtype=np.float64).reshape(-1, 6), np.zeros((1, 6))])
    n = len(executed)
    grips = np.ones(n, bool) if closed is None else np.append(np.asarray(closed, bool), np.asarray(closed, bool)[-1:])
    task = task or make_task()
    info = make_info(task, steps=n, policy=policy, **changes)
    poses = [start or tool_down()]
    for delta in executed:
        poses.append(apply_body_delta(poses[-1], delta * task.control.scale))
    flat = np.array([[*pose.position, *pose.quaternion] for pose in poses])
    last = np.arange(n) == n - 1
    stamps = (1 + np.arange(n, dtype=np.int64)) * TICK_NS
    # every image is another one
    images = (np.arange(n)[:, None, None, None] * 2 + np.indices((1, IMAGE_PX, IMAGE_PX, 3))[2]).astype(np.uint8)
    values: dict[str, object] = {
        "stamp_ns": stamps,
        "observation_stamp_ns": stamps,
        "is_last": last,
        "reward": np.where(last & (info.outcome is Outcome.SUCCESS), 1.0, 0.0),
        "terminated": last,
        "truncated": np.zeros(n, bool),
        "source": np.where(last, Source.HOLD, Source.POLICY if policy else Source.HUMAN).astype(np.uint8),
        "executed": executed,
        "executed_gripper_closed": grips,
        "policy_action": executed if policy else np.full((n, 6), np.nan),
        "human_action": np.full((n, 6), np.nan) if policy else executed,
        "changed": np.zeros(n, np.uint32),
        "target": flat[1:],
        "command_age_s": np.full(n, 0.05),
        "tcp_pose": flat[:-1],
        "tcp_twist": np.concatenate([np.zeros((1, 6)), executed[:-1] * task.control.scale * task.control.rate_hz]),
        "wrench": np.zeros((n, 6)),
        "gripper_width_m": np.where(np.concatenate([grips[:1], grips[:-1]]), 0.02, 0.08),
        "gripper_closed": np.concatenate([grips[:1], grips[:-1]]),
        "image_age_s": np.full(n, 0.03),
        "state_age_s": np.full(n, 0.01),
        "skew_s": np.full(n, 0.005),
        **{name: np.asarray(value) for name, value in columns.items()},
    }
    return Episode(
        folder=folder,
        info=info,
        images=list(images),
        policy_id=(policy,) * n,
        reset_pose=flat[0],
        **values,  # type: ignore[arg-type]
    )


class Bags:
    """Episodes in memory, each with its ``episode.yaml`` on disk: :meth:`read` stands in for the reader of bags."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.episodes: dict[Path, Episode] = {}
        self.reads = 0

    def add(self, deltas: npt.ArrayLike | int = 10, session: str = "s", **options: object) -> Path:
        """Record an episode of :func:`make_episode` (a number of steps stands for that many small ones); its folder."""
        number = len(self.episodes) + 1
        folder = (self.root / session / f"{number:04d}").resolve()
        folder.mkdir(parents=True)
        if isinstance(deltas, int):
            deltas = np.tile([0.1, 0.0, 0.2, 0.0, 0.0, 0.0], (deltas, 1))
        names = {"session_id": session, "episode_id": f"{session}/{number:04d}", "seed": number, **options}
        episode = make_episode(deltas, folder=folder, **names)  # type: ignore[arg-type]
        self.episodes[folder] = episode
        write_info(folder, episode.info)
        return folder

    def read(self, folder: Path) -> Episode:
        self.reads += 1
        if folder not in self.episodes:
            raise BagError(f"{folder}: cannot be read: no such bag")
        return self.episodes[folder]
