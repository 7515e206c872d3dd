"""A swap in the middle of an episode is in its bag: as events, in every step, and among the policies of the episode."""

from pathlib import Path

from rclpy.serialization import deserialize_message
from rldg_interfaces.msg import Step
from std_msgs.msg import String

from rldg_bringup.launch_runner import Launch
from rldg_bringup.testing import free_environment, running_cell
from rldg_bringup.up import launch_file
from rldg_core.events import EventKind, parse_event
from rldg_core.types import Source
from rldg_recorder.bag_reader import BagReader
from rldg_recorder.episode import read_info
from rldg_recorder.episode_reader import find_bags, read_episode
from rldg_ros import qos
from rldg_ros.conversions import step_from_msg


def closed(bags: Path) -> list[Path]:
    return [folder for folder in find_bags(bags) if read_info(folder).state != "recording"] if bags.exists() else []


def test_the_bag_tells_who_drove_and_what_changed_hands(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    arguments = {"lockstep": "true", "policy": "scripted", "operator": "none", "record": "true", "bags": str(bags)}
    with running_cell(tmp_path / "cell", **arguments) as (_, runner):
        environment = {**free_environment(), "ROS_DOMAIN_ID": str(runner.node.context.get_domain_id())}
        second = {"policy": "scripted", "policy_id": "second", "beside": "true", "lockstep": "true"}
        with Launch(launch_file("policy"), second, environment, log_dir=tmp_path / "second") as joined:
            joined.wait_for_line("all nodes are active", 60.0)
            driven: list[str] = []

            def on_step(message: Step) -> None:
                step = step_from_msg(message)
                if step.source is Source.POLICY and step.index > 5:
                    driven.append(step.policy_id)

            runner.listen(Step, "step", on_step, qos.reliable(50))
            for attempt in range(
                3
            ):  # in lockstep an episode takes less than a second: the swap may come too late for it
                runner.select_policy_when_fresh("scripted")
                driven.clear()
                runner.start_episodes(count=1, first_seed=5 + attempt)
                runner.spin_until(lambda: bool(driven), 30.0, "the episode")
                runner.select_policy_when_fresh("second")
                runner.spin_until(lambda: len(closed(bags)) > attempt, 60.0, "the bag")  # noqa: B023
                folder = closed(bags)[-1]
                if len(read_info(folder).policies) == 2:
                    break
    info, episode = read_info(folder), read_episode(folder)
    assert (info.state, info.audit) == ("complete", "ok")
    assert {policy.policy_id for policy in info.policies} == {"scripted", "second"}
    with BagReader(folder) as bag:
        events = [
            parse_event(deserialize_message(bytes(message.data), String).data) for message in bag.messages({"/event"})
        ]
    swap = [event for event in events if event.policy_id == "second" and event.episode_id == info.episode_id]
    assert [event.kind for event in swap][:2] == [EventKind.SWAP_REQUESTED, EventKind.SWAP_HANDED_OVER]
    assert swap[1].episode_id == info.episode_id and 5 < swap[1].index < len(episode)
