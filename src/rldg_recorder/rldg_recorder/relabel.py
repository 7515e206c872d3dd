"""Human states, a policy's actions: what a specialist would have done where a human was (RLDG's ablation).

Policies are found by name in the entry point group ``rldg.policies``; this package imports none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

import msgspec
import numpy as np

from rldg_core.types import ACTION_SIZE
from rldg_recorder.episode import Episode, Floats
from rldg_recorder.plan import DatasetError

GROUP = "rldg.policies"


def relabelled(
    episode: Episode, rows: tuple[int, ...], policy: str, parameters: Mapping[str, str]
) -> tuple[Floats, np.ndarray[Any, np.dtype[np.bool_]]]:
    """What a policy does at the observations of some rows.

    It is given every observation up to the last of them, in order, as it would be live: it may remember. Of each answer
    the first action counts, the one that is due at the observation, clipped as the door would.

    Args:
        episode: whose observations.
        rows: of the episode, rising.
        policy: name in the entry point group.
        parameters: of the policy, each the YAML text of a value.

    Returns:
        Deltas, shape (len(rows), 6), each in [-1, 1], and gripper states (closed), shape (len(rows),).

    Raises:
        DatasetError: not installed, refuses its parameters or an observation, or returns what is no action.
    """
    wanted = set(rows)
    deltas, closed = [], []
    with _blamed(policy):
        made = _make(policy, episode, parameters)
        made.warm_up()
        made.reset()
    for row in range(rows[-1] + 1) if rows else ():
        with _blamed(policy, f"{episode.folder}: row {row}: "):
            chunk = made.act(episode.observation(row))
            delta, gripper = np.asarray(chunk.deltas, dtype=np.float64), np.asarray(chunk.gripper_closed)
        if delta.ndim != 2 or delta.shape[1] != ACTION_SIZE or len(delta) < 1 or gripper.shape != delta.shape[:1]:
            raise DatasetError(
                f"{episode.folder}: row {row}: policy {policy!r} returned deltas of shape {delta.shape} and gripper "
                f"states of shape {gripper.shape}, must be (length, {ACTION_SIZE}) and (length,)"
            )
        if not np.isfinite(delta[0]).all():
            raise DatasetError(f"{episode.folder}: row {row}: policy {policy!r} returned an action that is not finite")
        if row in wanted:
            deltas.append(np.clip(delta[0], -1.0, 1.0))
            closed.append(bool(gripper[0]))
    return np.array(deltas).reshape(len(deltas), ACTION_SIZE), np.array(closed, dtype=np.bool_)


def _make(policy: str, episode: Episode, parameters: Mapping[str, str]) -> Any:
    points = {point.name: point for point in entry_points(group=GROUP)}
    if policy not in points:
        raise DatasetError(f"policy {policy!r}: not installed; there are {', '.join(sorted(points)) or 'none'}")
    values = {key: msgspec.yaml.decode(value) for key, value in parameters.items()}
    if episode.info.robot is None:
        raise DatasetError(f"{episode.folder}: episode.yaml names no robot, which policy {policy!r} must know")
    return points[policy].load()(episode.info.task, episode.info.robot, policy, values)


@contextmanager
def _blamed(policy: str, where: str = "") -> Iterator[None]:
    """Whatever a policy raises becomes one line that names it."""
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:
        raise DatasetError(
            f"{where}policy {policy!r}: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
