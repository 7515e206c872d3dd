"""A running cell with a recorder: everything that was said is in the bags, and a recorder that dies costs one bag."""

import os
import signal
from pathlib import Path

import pytest
from rldg_interfaces.msg import Observation, Step

from rldg_bringup.testing import running_cell
from rldg_recorder.audit import audit_bag, read_report
from rldg_recorder.bag_reader import BagReader
from rldg_recorder.episode import EpisodeInfo, read_info
from rldg_recorder.episode_reader import find_bags, read_episode
from rldg_recorder.wire import observation_head, step_head
from rldg_ros import qos

TASK = "usb_insertion"


def closed(bags: Path) -> list[tuple[Path, EpisodeInfo]]:
    found = [(folder, read_info(folder)) for folder in find_bags(bags)] if bags.exists() else []
    return [(folder, info) for folder, info in found if info.state != "recording"]


def test_in_lockstep_at_full_speed_every_observation_and_step_is_in_a_bag_byte_for_byte(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    heard: dict[str, list[bytes]] = {"/observation": [], "/step": []}
    arguments = {"lockstep": "true", "policy": "scripted", "record": "true", "bags": str(bags), "operator_name": "ada"}
    with running_cell(tmp_path, task=TASK, **arguments) as (_, runner):
        for kind, name in ((Observation, "/observation"), (Step, "/step")):
            # serialised, as the recorder hears them
            runner.node.create_subscription(kind, name, heard[name].append, qos.reliable(2000), raw=True)
        runner.select_policy_when_fresh("scripted")
        reports = list(runner.run_episodes(count=2, first_seed=5))
        runner.spin_until(lambda: len(closed(bags)) == 2, 20.0, "the bags")
    assert [len(report.steps) > 10 for report in reports] == [True, True]
    for report, (folder, info) in zip(reports, closed(bags), strict=True):
        assert info.episode_id == report.episode_id and info.outcome == report.outcome
        assert (info.state, info.audit, info.operator, info.lockstep) == ("complete", "ok", "ada", True)
        assert info.steps == len(report.steps) == len(read_episode(folder))
        assert [policy.policy_id for policy in info.policies] == ["scripted"]
        with BagReader(folder) as bag:
            recorded = {name: [bytes(m.data) for m in bag.messages({name})] for name in heard}
            assert bag.counts["/policy_card"] == 1
        for name, head in (("/observation", observation_head), ("/step", step_head)):
            mine = [data for data in heard[name] if head(data).episode_id == info.episode_id]
            assert mine and [data for data in recorded[name] if head(data).episode_id == info.episode_id] == mine
        report_ = read_report(folder)
        assert report_ == audit_bag(folder)
        assert {name: figures.lost for name, figures in report_.topics.items() if figures.lost} == {}


@pytest.mark.long
def test_a_recorder_that_is_killed_comes_back_and_overwrites_nothing(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    with running_cell(tmp_path, task=TASK, record="true", bags=str(bags)) as (launch, runner):
        runner.start_episodes(count=20, first_seed=5)
        runner.spin_until(lambda: bags.exists() and len(find_bags(bags)) == 2, 120.0, "the second episode")
        runner.spin(1.0)
        os.kill(launch.pid("recorder"), signal.SIGKILL)
        runner.spin_until(lambda: len(closed(bags)) >= 3, 120.0, "bags of a recorder that came back")
    states = {folder.name: read_info(folder).state for folder in find_bags(bags)}
    assert states["0001"] == "complete" and states["0002"] == "recording"
    assert "complete" in [state for name, state in states.items() if name > "0002-2"]
