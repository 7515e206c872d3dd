"""The thread between stream and disk: whole bags, true descriptions, and faults of the disk that cost one episode."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from recorder_streams import all_arrived, status, step

from rldg_core.task import load_task
from rldg_core.types import Outcome, Phase
from rldg_recorder.audit import audit_bag, read_report
from rldg_recorder.bag_reader import BagReader
from rldg_recorder.bag_writer import BagWriter, McapWriter
from rldg_recorder.episode import EpisodeInfo, PolicyInfo, read_info
from rldg_recorder.recording import Ending, Message
from rldg_recorder.salvage import salvage
from rldg_recorder.testing_bags import TYPES, episode_items, topic
from rldg_recorder.topics import catalogue, find_spec
from rldg_recorder.writing import BagThread, Closed, Settings, folder_of

TASK = load_task("usb_insertion")
TICKS = 5
SUCCESS = Ending(True, "", status(Phase.ENDED, outcome=Outcome.SUCCESS, reason="goal reached"), ())

Start = Callable[..., BagThread]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    threads = []

    def start(**changes: object) -> BagThread:
        settings = Settings(folder=tmp_path / "bags", task=TASK, storage="mcap", software={"rldg": "1"})
        thread = BagThread(dataclasses.replace(settings, **changes))  # type: ignore[arg-type]
        for name in TYPES:
            thread.know(topic(name), find_spec(catalogue(TASK, False), name))
        thread.present = set(TYPES)
        threads.append(thread)
        return thread

    yield start
    for thread in threads:
        assert thread.stop()


def messages(episode_id: str = "s/0001", ticks: int = TICKS) -> list[Message]:
    return all_arrived(episode_items(episode_id, ticks=ticks))


def record(thread: BagThread, episode_id: str = "s/0001", ending: Ending = SUCCESS, ticks: int = TICKS) -> Closed:
    """A whole episode, until it is on the disk."""
    thread.open(status(Phase.RUNNING, episode_id), [])
    for message in messages(episode_id, ticks):
        thread.put(message)
    thread.close(ending)
    return next_closed(thread)


def next_closed(thread: BagThread) -> Closed:
    wait_for(lambda: thread.closed)
    return thread.closed.popleft()


def wait_for(condition: Callable[[], object]) -> None:
    waiting = threading.Event()
    for _ in range(2000):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("did not happen within 20 s")


def test_what_is_put_is_in_the_bag_byte_for_byte_and_in_order(start: Start) -> None:
    closed = record(start())
    sent = messages()
    with BagReader(closed.folder) as bag:
        found = list(bag.messages())
        assert [(m.topic, bytes(m.data), m.log_ns, m.publish_ns, m.sequence) for m in found] == [
            (m.topic, m.data, m.log_ns, m.publish_ns, m.sequence) for m in sent
        ]
        assert bag.topics == {name: topic(name) for name in bag.topics} and set(bag.topics) == set(TYPES)


def test_the_description_says_what_was_recorded(start: Start, tmp_path: Path) -> None:
    thread = start(operator="ada", lockstep=True)
    thread.cards = {"scripted": "abc", "other": "def"}
    closed = record(thread)
    info = read_info(closed.folder)
    assert closed.folder == tmp_path / "bags" / "s" / "0001" and info == closed.info
    assert (info.state, info.outcome, info.reason) == ("complete", Outcome.SUCCESS, "goal reached")
    assert (info.session_id, info.episode_id, info.scene, info.seed) == ("s", "s/0001", "seen", 7)
    assert (info.operator, info.lockstep, info.instruction, info.software) == ("ada", True, "insert", {"rldg": "1"})
    assert (info.steps, info.human_steps, info.duration_s) == (TICKS, 2, 0.4)
    assert info.policies == (PolicyInfo(policy_id="scripted", checkpoint_hash="abc", steps=3),)
    assert info.task == TASK
    counts = {name: entry.messages for name, entry in info.topics.items()}
    assert counts == {"/observation": TICKS, "/step": TICKS, "/episode": TICKS, "/current_pose": TICKS * 100}
    assert info.topics["/step"].expected_hz == 10.0
    assert [path.name for path in sorted(closed.folder.iterdir())] == [
        "0001_0.mcap",
        "audit.yaml",
        "episode.yaml",
        "metadata.yaml",
    ]


def test_the_report_beside_the_bag_is_what_an_audit_of_the_bag_says(start: Start) -> None:
    thread = start()
    thread.open(status(Phase.RUNNING), [])
    for message in messages(ticks=20):
        if message.topic != "/observation" or message.sequence != 7:
            thread.put(message)
    thread.close(SUCCESS)
    closed = next_closed(thread)
    assert closed.info.audit == "fail" and closed.info.topics["/observation"].lost == 1
    assert read_report(closed.folder) == audit_bag(closed.folder) == closed.report


def test_two_publishers_of_a_topic_are_told_apart_in_the_bag(start: Start) -> None:
    thread = start()
    thread.open(status(Phase.RUNNING), [])
    for number in (1, 2, 3):
        thread.put(step(number)._replace(publisher=b"a", sequence=number))
        thread.put(step(number)._replace(publisher=b"b", sequence=number))
    thread.close(SUCCESS)
    closed = next_closed(thread)
    with BagReader(closed.folder) as bag:
        sequences = [message.sequence for message in bag.messages()]
    assert sequences == [1, 1 << 28 | 1, 2, 1 << 28 | 2, 3, 1 << 28 | 3]
    assert closed.info.topics["/step"].lost == 0
    assert any("2 publishers at once" in finding.text for finding in read_report(closed.folder).findings)


def test_while_it_is_recorded_the_description_says_so_and_the_data_is_on_the_disk(start: Start, tmp_path: Path) -> None:
    thread = start()
    thread.open(status(Phase.RUNNING), messages())
    folder = tmp_path / "bags" / "s" / "0001"
    wait_for(lambda: (folder / "0001_0.mcap").exists() and (folder / "0001_0.mcap").stat().st_size > 200_000)
    assert read_info(folder).state == "recording"
    thread.close(SUCCESS)
    next_closed(thread)


def test_an_episode_that_was_recorded_before_gets_another_folder(start: Start) -> None:
    first = record(start())
    kept = (first.folder / "0001_0.mcap").read_bytes()
    second = record(start())
    third = record(start())
    assert [closed.folder.name for closed in (first, second, third)] == ["0001", "0001-2", "0001-3"]
    assert (first.folder / "0001_0.mcap").read_bytes() == kept
    assert read_info(second.folder).episode_id == "s/0001"


def test_two_recorders_of_one_folder_do_not_write_into_each_others_bags(start: Start) -> None:
    threads = [start(), start()]
    for thread in threads:
        thread.open(status(Phase.RUNNING), messages())
        thread.close(SUCCESS)
    closed = [next_closed(thread) for thread in threads]
    assert {one.folder.name for one in closed} == {"0001", "0001-2"}
    for one in closed:
        assert audit_bag(one.folder).steps == TICKS


@pytest.mark.parametrize(
    ("episode_id", "place"),
    [
        ("s/0001", "s/0001"),
        ("../../etc/passwd", "_.._etc/passwd"),
        ("/0001", "unnamed/0001"),
        ("", "unnamed/unnamed"),
        ("../..", "unnamed/unnamed"),
        ("a\x00b/c d", "a_b/c_d"),
        ("a" * 500 + "/1", "a" * 200 + "/1"),
    ],
)
def test_no_episode_id_leads_out_of_the_folder(episode_id: str, place: str, tmp_path: Path) -> None:
    assert folder_of(tmp_path, episode_id) == tmp_path / place


# the queue


class Gate:
    """An opener whose writers wait before each message."""

    def __init__(self) -> None:
        self.free = threading.Event()

    def open(self, folder: Path, storage: str) -> BagWriter:
        gate = self

        class Slow(McapWriter):
            def write(self, *arguments: object, **more: object) -> None:
                gate.free.wait(20.0)
                super().write(*arguments, **more)  # type: ignore[arg-type]

        return Slow(folder)


def test_a_slow_disk_costs_messages_that_are_counted_and_critical_ones_last(start: Start) -> None:
    gate = Gate()
    thread = start(opener=gate.open, max_queue_bytes=40_000)
    thread.open(status(Phase.RUNNING), [])
    small = [message for message in messages(ticks=10) if message.topic in ("/step", "/current_pose")]
    for message in small:
        thread.put(message)
    assert thread.queued_bytes <= 40_000
    dropped = dict(thread.dropped)
    gate.free.set()
    thread.close(SUCCESS)
    closed = next_closed(thread)
    assert dropped.keys() == {"/current_pose"}, "a quarter of the queue is for what an episode cannot do without"
    info = closed.info.topics["/current_pose"]
    assert info.overrun == dropped["/current_pose"] > 0 and info.messages + info.overrun == 1000
    assert thread.queued_bytes == 0


def test_the_stream_does_not_wait_for_a_disk_that_hangs(start: Start) -> None:
    gate = Gate()
    thread = start(opener=gate.open, max_queue_bytes=100_000)
    for number in range(3):
        thread.open(status(Phase.RUNNING, f"s/{number}"), messages())
        thread.close(SUCCESS)
    assert not thread.closed and thread.queued_bytes <= 100_000
    gate.free.set()
    assert [next_closed(thread).info.episode_id for _ in range(3)] == ["s/0", "s/1", "s/2"]


# the disk


def test_without_room_nothing_is_recorded_and_the_next_episode_is_tried_again(start: Start, tmp_path: Path) -> None:
    free = [10]
    thread = start(min_free_bytes=100, free_bytes=lambda _: free[0])
    thread.open(status(Phase.RUNNING), messages())
    thread.close(SUCCESS)
    wait_for(lambda: thread.trouble)
    assert "min_free_mb" in thread.trouble
    free[0] = 1000
    closed = record(thread, "s/0002")
    assert closed.info.state == "complete" and thread.trouble == ""
    assert [path.name for path in (tmp_path / "bags" / "s").iterdir()] == ["0002"]


def test_a_disk_that_fills_ends_the_episode_as_a_readable_partial_one(start: Start) -> None:
    free = [1000]
    thread = start(min_free_bytes=100, free_bytes=lambda _: free[0])
    thread.open(status(Phase.RUNNING), messages())
    wait_for(lambda: thread.queued_bytes == 0)
    free[0] = 10
    closed = next_closed(thread)
    assert closed.info.state == "partial" and "min_free_mb" in closed.info.reason and "min_free_mb" in thread.trouble
    thread.close(SUCCESS)
    with BagReader(closed.folder) as bag:
        assert bag.counts["/step"] == TICKS
    free[0] = 1000
    assert record(thread, "s/0002").info.state == "complete"


class Failing(McapWriter):
    """Fails as a disk does."""

    fails_at = 300_000

    def _append(self, buffers: list[bytes]) -> None:
        if self.bytes_written + sum(map(len, buffers)) > self.fails_at:
            raise self._failure(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        super()._append(buffers)


def test_a_write_that_fails_costs_one_episode_which_can_be_salvaged(start: Start) -> None:
    writers: list[type[McapWriter]] = [McapWriter, Failing]
    thread = start(opener=lambda folder, _: writers.pop()(folder))
    thread.open(status(Phase.RUNNING), messages(ticks=3))
    wait_for(lambda: thread.queued_bytes == 0)
    threading.Event().wait(0.4)  # so that a part of it is written
    for message in messages(ticks=40):
        thread.put(message)
    thread.close(SUCCESS)
    closed = next_closed(thread)
    assert closed.info.state == "partial" and "No space left" in closed.info.reason and closed.report is None
    assert "No space left" in thread.trouble
    saved = salvage(closed.folder)
    assert saved.steps == 3 and saved.salvage is not None and saved.salvage.messages >= 309
    assert record(thread, "s/0002").info.state == "complete" and thread.trouble == ""


def test_a_fault_of_the_recorder_itself_costs_one_episode(start: Start) -> None:
    thread = start()
    thread.open(status(Phase.RUNNING), [])
    thread.put(step(0)._replace(log_ns=-1))
    thread.close(SUCCESS)
    closed = next_closed(thread)
    assert closed.info.state == "partial" and "fault of the recorder" in thread.trouble
    assert record(thread, "s/0002").info.state == "complete"


def test_a_folder_that_cannot_be_made_is_trouble_and_no_crash(start: Start, tmp_path: Path) -> None:
    (tmp_path / "bags").write_text("a file")
    thread = start()
    thread.open(status(Phase.RUNNING), messages())
    thread.close(SUCCESS)
    wait_for(lambda: thread.trouble)
    (tmp_path / "bags").unlink()
    assert record(thread, "s/0002").info.state == "complete"


CHILD = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_writing as t
from rldg_recorder.recording import Ending
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
thread = t.BagThread(t.Settings(folder=Path({folder!r}), task=t.TASK, storage="mcap"))
for name in t.TYPES:
    thread.know(t.topic(name), None)
closed = t.record(thread, ticks=30)
print(closed.info.state, "/", closed.info.reason)
closed = t.record(thread, "s/0002", ticks=2)
print(closed.info.state)
thread.stop()
"""


def test_a_file_that_may_not_grow_ends_the_episode_and_not_the_process(tmp_path: Path) -> None:
    code = CHILD.format(tests=str(Path(__file__).parent), folder=str(tmp_path), limit=400_000)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("partial / ") and "File too large" in first
    assert second == "complete"
    assert salvage(tmp_path / "s" / "0001").salvage is not None


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_writing as t
thread = t.BagThread(t.Settings(folder=Path({folder!r}), task=t.TASK, storage="mcap"))
for name in t.TYPES:
    thread.know(t.topic(name), None)
t.record(thread)
thread.open(t.status(t.Phase.RUNNING, "s/0002"), t.messages("s/0002", 8))
time.sleep(1.0)
print("recording", flush=True)
time.sleep(60)
"""


def test_a_recorder_that_is_killed_leaves_whole_bags_and_one_that_can_be_salvaged(tmp_path: Path, start: Start) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "bags"))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "recording\n"
        child.kill()
    bags = tmp_path / "bags" / "s"
    assert read_info(bags / "0001").state == "complete" and audit_bag(bags / "0001").steps == TICKS
    assert read_info(bags / "0002").state == "recording"
    again = record(start(), "s/0002")
    assert again.folder == bags / "0002-2", "a restarted recorder overwrites nothing"
    saved = salvage(bags / "0002")
    assert saved.steps == 8 and saved.salvage is not None and saved.salvage.messages == 824


# verdicts that change


def relabelled(thread: BagThread, folder: Path, outcome: Outcome, episode_id: str = "s/0001") -> EpisodeInfo:
    thread.relabel(status(Phase.ENDED, episode_id, outcome, "operator label", 99))
    record(thread, "s/0009")  # what was asked before is done
    return read_info(folder)


def test_a_verdict_that_changes_later_changes_the_description(start: Start) -> None:
    thread = start()
    closed = record(thread)
    info = relabelled(thread, closed.folder, Outcome.FAILURE)
    assert info.outcome is Outcome.FAILURE
    assert [(label.outcome, label.reason, label.stamp_ns) for label in info.labels] == [
        (Outcome.FAILURE, "operator label", 99)
    ]
    assert relabelled(thread, closed.folder, Outcome.FAILURE) == info, "said again it changes nothing"
    assert len(relabelled(thread, closed.folder, Outcome.SUCCESS).labels) == 2


def test_a_verdict_reaches_the_bag_of_a_recorder_that_was_restarted(start: Start) -> None:
    closed = record(start())
    assert relabelled(start(), closed.folder, Outcome.TIMEOUT).outcome is Outcome.TIMEOUT


def test_a_verdict_on_an_unknown_episode_changes_nothing(start: Start) -> None:
    thread = start()
    closed = record(thread)
    info = read_info(closed.folder)
    assert relabelled(thread, closed.folder, Outcome.TIMEOUT, "s/0077") == info
    assert relabelled(thread, closed.folder, Outcome.TIMEOUT, "../s/0001") == info
