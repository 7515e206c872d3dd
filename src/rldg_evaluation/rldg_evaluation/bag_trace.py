"""What happened in a trial that was recorded: the same columns, from its bag."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

import numpy as np

from rldg_core.frames import Pose
from rldg_core.task import Subject
from rldg_evaluation.trace import Trace
from rldg_recorder.bag_reader import BagReader
from rldg_recorder.episode import BagError, EpisodeInfo
from rldg_recorder.episode_reader import read_episode

_TOPICS = ("fixture_pose", "object_pose")


def read_trace(folder: Path) -> tuple[EpisodeInfo, Trace]:
    """The trace of a recorded episode, and what ``episode.yaml`` says of it.

    Raises:
        BagError: the bag is damaged, or lacks the poses of fixture or object.
    """
    episode = read_episode(folder)
    task = episode.info.task
    fixtures, objects = (_poses(folder, name) for name in _TOPICS)
    if not fixtures:
        raise BagError(f"{folder}: no fixture_pose: without it, how near the goal was is not known")
    if task.success.subject is Subject.OBJECT and not objects:
        raise BagError(f"{folder}: no object_pose: without it, what became of the object is not known")
    tcp_m, object_m = [], []
    for stamp_ns, row in zip(episode.observation_stamp_ns.tolist(), episode.tcp_pose, strict=True):
        into = _at(fixtures, stamp_ns).inverse()
        tcp_m.append((into @ Pose(row[:3].copy(), row[3:].copy())).position)
        if objects:
            object_m.append((into @ _at(objects, stamp_ns)).position)
    done = episode.actions
    subject_m = np.array(tcp_m if task.success.subject is Subject.TCP else object_m)
    trace = Trace(
        tcp_m=np.array(tcp_m),
        object_m=np.array(object_m).reshape(-1, 3),
        to_goal_m=np.array(task.success.goal.xyz_m) - subject_m,
        wrench=episode.wrench,
        gripper_closed=episode.gripper_closed,
        source=episode.source[:done],
        changed=episode.changed[:done],
        executed=episode.executed[:done],
    )
    return episode.info, trace


def _poses(folder: Path, name: str) -> list[tuple[int, Pose]]:
    """What a topic said, by stamp; empty where it was not recorded."""
    said: dict[int, Pose] = {}
    with BagReader(folder) as reader:
        topics = {topic for topic in reader.topics if f"/{topic}".endswith(f"/{name}")}
        for message in reader.messages(topics) if topics else ():
            decoded = reader.decode(message.topic, message.data)
            p, q = decoded.pose.position, decoded.pose.orientation
            stamp = decoded.header.stamp
            said[int(stamp.sec) * 10**9 + int(stamp.nanosec)] = Pose(
                np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w])
            )
    return sorted(said.items(), key=lambda entry: entry[0])


def _at(poses: list[tuple[int, Pose]], stamp_ns: int) -> Pose:
    """The newest that is not younger, or the first."""
    return poses[max(bisect_right(poses, stamp_ns, key=lambda entry: entry[0]) - 1, 0)][1]
