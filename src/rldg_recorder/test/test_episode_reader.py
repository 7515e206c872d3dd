"""From bag to columns: rows in the order of the steps, each with the observation it names; anything else is refused."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from rldg_core.task import load_task
from rldg_core.testing import TICK_NS
from rldg_core.types import Source
from rldg_recorder.bag_writer import McapWriter, Topic
from rldg_recorder.episode import BagError, EpisodeInfo, read_info, write_info
from rldg_recorder.episode_reader import find_bags, read_episode
from rldg_recorder.testing import make_info
from rldg_recorder.testing_bags import POSE, TYPES, Item, episode_items, header, serialise, topic, write_items

TICKS = 6


def step(index: int, stamp_ns: int, **fields: object) -> Item:
    names = {"episode_id": "s/0001", "index": index, "observation_stamp": header(stamp_ns)["stamp"]}
    data = serialise(TYPES["/step"], **{"header": header(stamp_ns), "target": POSE, **names, **fields})
    return Item("/step", data, stamp_ns, index + 1)


def stamp_ns(index: int) -> int:
    return 10**9 + index * TICK_NS


def write_bag(folder: Path, items: Iterable[Item], **changes: object) -> Path:
    writer = McapWriter(folder)
    write_items(writer, iter(items))
    writer.close()
    info = {"state": "complete", "session_id": "s", "episode_id": "s/0001", "steps": TICKS, **changes}
    write_info(folder, EpisodeInfo(task=load_task("usb_insertion"), **info))  # type: ignore[arg-type]
    return folder


def few(items: Iterable[Item]) -> list[Item]:
    return [item for item in items if item.topic != "/current_pose"]


def test_columns_hold_what_the_messages_said(tmp_path: Path) -> None:
    episode = read_episode(write_bag(tmp_path / "0001", few(episode_items(ticks=TICKS))))
    assert len(episode) == TICKS and episode.actions == TICKS - 1
    assert episode.stamp_ns.tolist() == [stamp_ns(i) for i in range(TICKS)]
    assert episode.is_last.tolist() == [False] * (TICKS - 1) + [True]
    assert episode.source.tolist() == [Source.HUMAN if i % 3 == 0 else Source.POLICY for i in range(TICKS)]
    assert episode.policy_id == tuple("" if i % 3 == 0 else "scripted" for i in range(TICKS))
    first = np.arange(128 * 128 * 3, dtype=np.uint32).astype(np.uint8).reshape(128, 128, 3)
    assert np.array_equal(episode.images[2], first + np.uint8(2))
    assert np.array_equal(episode.observation(2).image, episode.images[2])
    assert episode.observation(2).stamp_ns == stamp_ns(2)


def test_messages_may_come_in_any_order_and_twice(tmp_path: Path) -> None:
    items = few(episode_items(ticks=TICKS))
    episode = read_episode(write_bag(tmp_path / "0001", [*reversed(items), *items]))
    assert episode.stamp_ns.tolist() == [stamp_ns(i) for i in range(TICKS)]


def test_messages_of_other_episodes_in_the_bag_are_left_out(tmp_path: Path) -> None:
    other = few(episode_items("s/0000", ticks=3, begin_ns=10**8))
    episode = read_episode(write_bag(tmp_path / "0001", [*other, *few(episode_items(ticks=TICKS))]))
    assert len(episode) == TICKS


def test_a_partial_episode_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    items = few(episode_items(ticks=TICKS, ended=False))
    episode = read_episode(write_bag(tmp_path / "0001", items, state="partial"))
    assert episode.actions == len(episode) == TICKS


def test_a_step_said_again_while_the_next_observation_is_late_is_no_row(tmp_path: Path) -> None:
    late = step(2, stamp_ns(2) + TICK_NS // 2, executed=np.ones(6, np.float32))
    episode = read_episode(write_bag(tmp_path / "0001", [*few(episode_items(ticks=TICKS)), late]))
    assert len(episode) == TICKS
    assert episode.stamp_ns[2] == stamp_ns(2) and not episode.executed[2].any()


def test_a_verdict_that_comes_a_tick_late_closes_the_episode(tmp_path: Path) -> None:
    items = few(episode_items(ticks=TICKS, ended=False))
    late = step(5, stamp_ns(6), is_last=True, reward=1.0, terminated=True)
    episode = read_episode(write_bag(tmp_path / "0001", [*items, late]))
    assert len(episode) == TICKS and episode.actions == TICKS - 1
    assert episode.is_last[-1] and episode.reward[-1] == 1.0 and episode.terminated[-1]
    assert episode.stamp_ns[-1] == stamp_ns(5)


def without(topic_name: str, number: int) -> Callable[[list[Item]], list[Item]]:
    def change(items: list[Item]) -> list[Item]:
        found = [item for item in items if item.topic == topic_name]
        return [item for item in items if item is not found[number]]

    return change


def plus(*new: Item) -> Callable[[list[Item]], list[Item]]:
    return lambda items: [*items, *new]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("/step", 2), "1 of 6 steps are missing, the first is 2"),
        (without("/step", 5), "says complete with 6 steps, the bag holds 5 and no closing step"),
        (without("/observation", 2), "step 2 names the observation of 1200000000 ns, which is not in the bag"),
        (plus(step(6, stamp_ns(6))), r"steps \[5\] close the episode, only the last one \(6\) may"),
        (lambda items: [item for item in items if item.topic != "/step"], "holds no step of episode s/0001"),
    ],
)
def test_a_stream_with_holes_is_refused(
    tmp_path: Path, change: Callable[[list[Item]], list[Item]], message: str
) -> None:
    items = change(few(episode_items(ticks=TICKS)))
    with pytest.raises(BagError, match=message):
        read_episode(write_bag(tmp_path / "0001", items))


@pytest.mark.parametrize("jump_ns", [-3 * TICK_NS, 0, 3_600 * 10**9])
def test_a_clock_that_jumps_is_refused(tmp_path: Path, jump_ns: int) -> None:
    items = [item for item in few(episode_items(ticks=TICKS)) if item.topic != "/step"]
    stamps = [stamp_ns(i) for i in range(TICKS)]
    for index, at_ns in enumerate(stamps):
        moved_ns = (stamps[2] if jump_ns == 0 and index == 3 else at_ns) + (jump_ns if index >= 3 else 0)
        names = {"episode_id": "s/0001", "index": index, "observation_stamp": header(at_ns)["stamp"]}
        data = serialise(TYPES["/step"], header=header(moved_ns), is_last=index == TICKS - 1, target=POSE, **names)
        items.append(Item("/step", data, at_ns, index))
    with pytest.raises(BagError, match=r"the clock jumped by .* between steps 2 and 3"):
        read_episode(write_bag(tmp_path / "0001", items))


def test_a_value_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    items = few(episode_items(ticks=TICKS))
    steps = [n for n, item in enumerate(items) if item.topic == "/step"]
    items[steps[3]] = step(3, stamp_ns(3), executed=np.array([0, np.nan, 0, 0, 0, 0], np.float32))
    with pytest.raises(BagError, match="executed of row 3 is not finite"):
        read_episode(write_bag(tmp_path / "0001", items))


def test_a_quaternion_that_is_none_is_refused(tmp_path: Path) -> None:
    items = few(episode_items(ticks=TICKS))
    steps = [n for n, item in enumerate(items) if item.topic == "/step"]
    items[steps[3]] = step(3, stamp_ns(3), target={})
    with pytest.raises(BagError, match="target of row 3: the quaternion has length 0, must be 1"):
        read_episode(write_bag(tmp_path / "0001", items))


def test_an_image_that_is_not_what_it_says_is_refused_when_it_is_looked_at(tmp_path: Path) -> None:
    items = few(episode_items(ticks=TICKS))
    picture = {"height": 4, "width": 4, "encoding": "rgb8", "step": 12, "data": np.zeros(47, np.uint8)}
    names = {"episode_id": "s/0001", "index": 1}
    data = serialise(
        TYPES["/observation"], header=header(stamp_ns(1)), image=picture, tcp_pose=POSE, reset_pose=POSE, **names
    )
    at = [n for n, item in enumerate(items) if item.topic == "/observation"][1]
    items[at] = Item("/observation", data, stamp_ns(1), 2)
    episode = read_episode(write_bag(tmp_path / "0001", items))
    with pytest.raises(BagError, match="image of row 1: rgb8 4 x 4, step 12, 47 bytes"):
        _ = episode.images[1]


def test_a_bag_that_is_still_being_recorded_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder = write_bag(tmp_path / "0001", few(episode_items(ticks=TICKS)), state="recording")
    with pytest.raises(BagError, match=r"run: \./rldg bag salvage"):
        read_episode(folder)


def test_a_bag_of_older_interfaces_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "0001"
    writer = McapWriter(folder)
    for name in ("/step", "/observation"):
        now = topic(name)
        writer.add_topic(Topic(now.name, now.type, "std_msgs/Header header\n" + now.definition.partition("=" * 80)[2]))
    writer.close()
    write_info(
        folder,
        EpisodeInfo(state="partial", session_id="s", episode_id="s/0001", task=load_task("usb_insertion")),
    )
    with pytest.raises(BagError):
        read_episode(folder)


def test_a_bag_with_two_step_topics_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "0001"
    writer = McapWriter(folder)
    for name in ("/a/step", "/b/step"):
        now = topic("/step")
        writer.add_topic(Topic(name, now.type, now.definition))
    writer.close()
    write_info(
        folder,
        EpisodeInfo(state="partial", session_id="s", episode_id="s/0001", task=load_task("usb_insertion")),
    )
    with pytest.raises(BagError, match="holds 2 topics of type rldg_interfaces/msg/Step, must hold one"):
        read_episode(folder)


def test_episode_yaml_survives_a_round_trip(tmp_path: Path) -> None:
    folder = write_bag(tmp_path / "0001", few(episode_items(ticks=TICKS)), seed=7, operator="somebody")
    info = read_info(folder)
    write_info(folder, info)
    assert read_info(folder) == info
    assert info.task == load_task("usb_insertion")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "format: is 'NoneType', must be 1"),
        ("format: 2\n", "format: is 2, must be 1"),
        ("format: [", "not YAML"),
        ("format: 1\nstate: complete\n", "missing required field"),
        ("a: " * 1000, "not YAML"),
    ],
)
def test_a_wrong_episode_yaml_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "episode.yaml").write_text(text)
    with pytest.raises(BagError, match=message) as caught:
        read_info(tmp_path)
    assert "episode.yaml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("claim", [{"steps": 10**12}, {"steps": -5}, {"began_ns": 10**30}, {"began_ns": -1}])
def test_an_episode_yaml_that_claims_what_cannot_be_is_refused(tmp_path: Path, claim: dict[str, int]) -> None:
    write_info(tmp_path, make_info(**claim))  # type: ignore[arg-type]
    with pytest.raises(BagError, match=rf"{next(iter(claim))}"):
        read_info(tmp_path)


def test_bags_are_found_below_a_folder(tmp_path: Path) -> None:
    folders = [write_bag(tmp_path / "s" / name, []) for name in ("0002", "0001")]
    assert find_bags(tmp_path) == sorted(folders)
    assert find_bags(folders[0]) == [folders[0]]
    with pytest.raises(BagError, match="no such folder"):
        find_bags(tmp_path / "nowhere")
