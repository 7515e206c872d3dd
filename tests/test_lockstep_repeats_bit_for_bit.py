"""The same seed twice gives the same stream, to the last bit, although every node is a process of its own."""

from pathlib import Path
from typing import Any

from rldg_interfaces.msg import Observation, Step

from rldg_bringup.testing import running_cell
from rldg_ros import qos


def _stream(folder: Path, task: str) -> tuple[list[Any], list[Any]]:
    """Steps and observations of two episodes."""
    steps: list[Any] = []
    observations: list[Any] = []
    with running_cell(folder, task=task, lockstep="true") as (_, runner):
        runner.listen(Step, "step", steps.append, qos.reliable(100))
        runner.listen(Observation, "observation", observations.append, qos.reliable(100))
        reports = list(runner.run_episodes(count=2, first_seed=5))
    assert len(reports) == 2 and all(len(report.steps) > 10 for report in reports)
    return _in_episodes(steps), _in_episodes(observations)


def _in_episodes(messages: list[Any]) -> list[Any]:
    """Without stamps and session, which say when the cell was started, and without what lies between episodes.

    A cycle that stands still is said again (docs/architecture.md, "Time"): what repeats, to the bit, counts once.
    """
    kept: list[Any] = []
    for message in messages:
        if not message.episode_id:
            continue
        if kept and kept[-1].header.stamp == message.header.stamp:
            assert _bits(kept[-1]) == _bits(message), "a repeated message differs from the first"
        else:
            kept.append(message)
    zero = None
    for message in kept:
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        zero = stamp if zero is None else zero
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp - zero, 10**9)
        message.episode_id = message.episode_id.rpartition("/")[2]
        if isinstance(message, Step):
            message.observation_stamp = message.header.stamp
        else:
            message.image.header.stamp = message.header.stamp
    return [_bits(message) for message in kept]


def _bits(value: Any) -> Any:
    """A message as nested lists in which floats are compared by their bits (the wire has undefined padding)."""
    if hasattr(value, "get_fields_and_field_types"):
        return [_bits(getattr(value, name)) for name in value.get_fields_and_field_types()]
    if isinstance(value, float):
        return value.hex()
    return value.tobytes() if hasattr(value, "tobytes") else value


def test_two_runs_of_one_seed_are_identical(tmp_path: Path) -> None:
    first_steps, first_observations = _stream(tmp_path / "a", "usb_insertion")
    second_steps, second_observations = _stream(tmp_path / "b", "usb_insertion")
    assert _first_difference(first_steps, second_steps) == ""
    assert _first_difference(first_observations, second_observations) == ""


def _first_difference(first: list[Any], second: list[Any]) -> str:
    """Where two streams part, "" for nowhere; pytest's own comparison of two films takes minutes."""
    for number, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            fields = [field for field, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
            return f"message {number} of {len(first)} and {len(second)}: fields {fields} differ"
    return "" if len(first) == len(second) else f"{len(first)} and {len(second)} messages"
