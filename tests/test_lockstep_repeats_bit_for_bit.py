"""The same seed twice gives the same stream, to the last bit, although every node is a process of its own."""

from pathlib import Path

from rldg_interfaces.msg import Observation, Step

from rldg_bringup.testing import running_cell
from rldg_ros import qos


def _stream(folder: Path, task: str) -> tuple[list[bytes], list[bytes]]:
    """Serialised steps and observations of two episodes, without those before the first."""
    steps: list[bytes] = []
    observations: list[bytes] = []
    with running_cell(folder, task=task, lockstep="true") as (_, runner):
        runner.node.create_subscription(Step, "step", steps.append, qos.reliable(100), raw=True)
        runner.node.create_subscription(Observation, "observation", observations.append, qos.reliable(100), raw=True)
        reports = list(runner.run_episodes(count=2, first_seed=5))
    assert len(reports) == 2 and all(len(report.steps) > 10 for report in reports)
    return _from_first_episode(steps, Step), _from_first_episode(observations, Observation)


def _from_first_episode(messages: list[bytes], kind: type) -> list[bytes]:
    """Without stamps and session, which say when the cell was started: from the first step of the first episode on."""
    from rclpy.serialization import deserialize_message, serialize_message

    kept: list[bytes] = []
    zero = None
    for raw in messages:
        message = deserialize_message(raw, kind)
        if not message.episode_id:
            continue
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        zero = stamp if zero is None else zero
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp - zero, 10**9)
        message.episode_id = message.episode_id.rpartition("/")[2]
        if kind is Step:
            message.observation_stamp = message.header.stamp
        else:
            message.image.header.stamp = message.header.stamp
        kept.append(serialize_message(message))
    return kept


def test_two_runs_of_one_seed_are_identical(tmp_path: Path) -> None:
    first_steps, first_observations = _stream(tmp_path / "a", "usb_insertion")
    second_steps, second_observations = _stream(tmp_path / "b", "usb_insertion")
    assert len(first_steps) == len(second_steps)
    assert first_steps == second_steps
    assert first_observations == second_observations
