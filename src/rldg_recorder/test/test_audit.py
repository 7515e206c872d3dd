"""The audit finds each fault, names it with its numbers, and says nothing about a good recording."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from recorder_streams import WALL_NS

from rldg_core.task import load_task
from rldg_recorder.audit import Auditor, AuditReport, audit_bag, coded_sequence
from rldg_recorder.bag_writer import McapWriter
from rldg_recorder.episode import BagError, EpisodeInfo, TopicInfo, write_info
from rldg_recorder.testing_bags import POSE, TYPES, Item, episode_items, header, serialise, topic

TASK = load_task("usb_insertion")
TICKS = 20
HZ = {"/observation": 10.0, "/step": 10.0, "/episode": 10.0, "/current_pose": 100.0}
EXPECTED = {name: TopicInfo(type=TYPES[name], expected_hz=hz) for name, hz in HZ.items()}

Change = Callable[[list[Item]], list[Item]]


@functools.cache
def _good() -> tuple[Item, ...]:
    number = 0
    found = []
    for item in episode_items(ticks=TICKS):
        if item.topic == "/current_pose":
            if item.stamp_ns % 10_000_000:
                continue
            number += 1
            item = item._replace(sequence=number)
        found.append(item)
    return tuple(found)


def good() -> list[Item]:
    """An episode with its state at 100 Hz."""
    return list(_good())


def feed(auditor: Auditor, items: Iterable[Item]) -> None:
    for name in TYPES:
        auditor.add_topic(topic(name))
    for item in items:
        sent_ns = WALL_NS + item.stamp_ns
        auditor.feed(item.topic, item.data, sent_ns + 10**6, sent_ns, item.sequence)


def audit(items: Iterable[Item], lockstep: bool = False) -> AuditReport:
    auditor = Auditor("s/0001", TASK, lockstep, EXPECTED)
    feed(auditor, items)
    return auditor.report()


def said(report: AuditReport, check: str, topic: str = "") -> list[tuple[str, str]]:
    return [(f.level, f.text) for f in report.findings if f.check == check and f.topic == topic]


def restamped(item: Item, stamp_ns: int) -> Item:
    """With another header stamp, sent when the first one says."""
    data = bytearray(item.data)
    data[4:12] = (stamp_ns // 10**9).to_bytes(4, "little", signed=True) + (stamp_ns % 10**9).to_bytes(4, "little")
    return item._replace(data=bytes(data))


@pytest.mark.parametrize("lockstep", [False, True])
def test_a_good_recording_is_ok_and_its_figures_are_right(lockstep: bool) -> None:
    report = audit(good(), lockstep)
    assert report.findings == () and report.verdict == "ok"
    assert (report.steps, report.observations, report.duration_s) == (TICKS, TICKS, 1.9)
    pose = report.topics["/current_pose"]
    assert pose.messages == TICKS * 10 and pose.publishers == 1 and pose.longest_gap_s == 0.01
    assert pose.rate_hz == pytest.approx(100.0, abs=1.0)


def test_what_lies_around_the_episode_is_not_judged() -> None:
    """The stream stands still during a reset, and another episode is no part of this one."""
    before = [item._replace(sequence=item.sequence) for item in episode_items("s/0000", ticks=2, begin_ns=10**6)]
    later = [item._replace(sequence=item.sequence + 5) for item in good() if item.topic != "/current_pose"]
    states = [item._replace(sequence=item.sequence + 200) for item in good() if item.topic == "/current_pose"]
    items = sorted([*later, *states], key=lambda item: item.stamp_ns)
    report = audit([*before, *items])
    assert [finding.check for finding in report.findings] == ["lost"] * 3, "sequence numbers are judged throughout"
    assert report.steps == TICKS


def test_the_order_in_which_topics_race_does_not_matter() -> None:
    items = good()
    late_observations = sorted(items, key=lambda item: item.stamp_ns + 50_000_000 * (item.topic == "/observation"))
    assert audit(late_observations).verdict == "ok"


def lose(name: str, numbers: Iterable[int]) -> Change:
    lost = set(numbers)
    return lambda items: [item for item in items if item.topic != name or item.sequence not in lost]


def never(name: str) -> Change:
    return lambda items: [item for item in items if item.topic != name]


def seen_from(name: str, change: Callable[[Item], Item | list[Item]]) -> Change:
    def apply(items: list[Item]) -> list[Item]:
        found: list[Item] = []
        for item in items:
            new = change(item) if item.topic == name else item
            found += new if isinstance(new, list) else [new]
        return found

    return apply


def shifted(name: str, after: int, by_ns: int) -> Change:
    """The clock of one publisher jumps."""
    return seen_from(name, lambda item: restamped(item, item.stamp_ns + by_ns) if item.sequence > after else item)


def rival(name: str, at_once: bool) -> Change:
    """Another publisher takes over, or speaks at the same time."""

    def change(item: Item) -> Item:
        other = item.sequence % 2 == 0 if at_once else item.sequence > 5
        return item._replace(sequence=coded_sequence(1, item.sequence)) if other else item

    return seen_from(name, change)


def older(name: str, **fields: float) -> Change:
    """All messages of an observation or step topic say these ages."""

    def change(item: Item) -> Item:
        values = list(fields.values())
        return item._replace(data=item.data[: -4 * len(values)] + struct.pack(f"<{len(values)}f", *values))

    return seen_from(name, change)


@pytest.mark.parametrize(
    ("change", "level", "check", "topic", "text"),
    [
        (lose("/observation", [7]), "fail", "lost", "/observation", "1 of 20 messages are lost"),
        (lose("/observation", [7]), "fail", "pairs", "", "1 steps name an observation that is not there, first step 6"),
        (lose("/observation", [7]), "warn", "gap", "/observation", "1 gaps, the longest 0.200 s at 0.50 s"),
        (lose("/observation", range(7, 15)), "fail", "gap", "/observation", "the longest 0.900 s"),
        (lose("/step", [4, 5]), "fail", "steps", "", "2 of 20 steps are missing, the first is 3"),
        (lose("/step", [20]), "fail", "closing", "", "no closing step; the recording ends with step 18"),
        (lose("/step", [20]), "warn", "pairs", "", "1 observations at the end have no step"),
        (lose("/current_pose", [50]), "warn", "lost", "/current_pose", "1 of 200 messages are lost"),
        (lose("/current_pose", range(50, 60)), "warn", "gap", "/current_pose", "1 gaps, the longest 0.110 s at 0.48 s"),
        (lose("/current_pose", range(50, 200)), "warn", "gap", "/current_pose", "silent for the last 1.420 s"),
        (lose("/current_pose", range(1, 200, 2)), "warn", "rate", "/current_pose", "expected 100 Hz"),
        (never("/current_pose"), "warn", "missing", "/current_pose", "no message, expected 100 Hz"),
        (never("/episode"), "fail", "missing", "/episode", "no message, expected 10 Hz"),
        (never("/step"), "fail", "steps", "", "no step of episode s/0001"),
        (never("/observation"), "fail", "pairs", "", "20 steps name an observation"),
        (
            shifted("/current_pose", 100, 3_600 * 10**9),
            "warn",
            "clock",
            "/current_pose",
            "jumped 1 times, by up to +3600.00",
        ),
        (shifted("/current_pose", 100, -(10**9)), "warn", "clock", "/current_pose", "by up to -1.00 s"),
        (shifted("/current_pose", 100, -(10**9)), "warn", "backwards", "/current_pose", "1 stamps are older"),
        (shifted("/observation", 10, -(10**9)), "fail", "backwards", "/observation", "1 stamps are older"),
        (seen_from("/current_pose", lambda item: [item, item]), "warn", "duplicates", "/current_pose", "200 stamps"),
        (rival("/step", at_once=True), "fail", "publishers", "/step", "2 publishers at once"),
        (rival("/step", at_once=False), "warn", "publishers", "/step", "one after the other"),
        (older("/observation", image=0.5, state=0.01, skew=0.0), "fail", "age", "", "0.500 s old, allowed are 0.3 s"),
        (older("/observation", image=0.15, state=0.01, skew=0.0), "warn", "age", "", "more than a control period"),
        (older("/observation", image=0.01, state=0.01, skew=0.06), "warn", "skew", "", "0.060 s apart"),
        (older("/step", age=0.4), "warn", "age", "", "0.400 s before"),
        (
            seen_from("/step", lambda item: item._replace(data=item.data[:20])),
            "fail",
            "malformed",
            "/step",
            "20 messages are cut off",
        ),
        (
            seen_from("/current_pose", lambda item: item._replace(data=item.data[:8] + b"\xff" * 4 + item.data[12:])),
            "warn",
            "malformed",
            "/current_pose",
            "200 messages",
        ),
    ],
)
def test_a_fault_is_named_with_its_numbers(change: Change, level: str, check: str, topic: str, text: str) -> None:
    report = audit(change(good()))
    found = said(report, check, topic)
    assert any(text in line and of == level for of, line in found), (found, report.findings)
    assert report.verdict == ("fail" if any(f.level == "fail" for f in report.findings) else "warn")


def test_a_tick_without_a_new_observation_is_a_step_with_the_index_of_another() -> None:
    stamp_ns = 10**9 + 50_000_000
    names = {"episode_id": "s/0001", "index": 0, "observation_stamp": header(10**9)["stamp"], "target": POSE}
    again = Item("/step", serialise(TYPES["/step"], header=header(stamp_ns), **names), stamp_ns, 0)
    report = audit(sorted([*good(), again], key=lambda item: item.stamp_ns))
    assert "1 ticks had no new observation" in said(report, "steps")[0][1]


@pytest.mark.parametrize("name", ["/observation", "/step", "/episode", "/current_pose"])
def test_in_lockstep_what_is_said_again_is_normal(name: str) -> None:
    assert audit(seen_from(name, lambda item: [item, item])(good()), lockstep=True).verdict == "ok"


def test_in_lockstep_ages_and_clocks_are_not_judged() -> None:
    items = older("/observation", image=9.0, state=9.0, skew=9.0)(good())
    slow = [item._replace(sequence=item.sequence) for item in items]
    auditor = Auditor("s/0001", TASK, True, EXPECTED)
    for name in TYPES:
        auditor.add_topic(topic(name))
    for item in slow:  # a tenth of real time
        sent_ns = WALL_NS + item.stamp_ns * 10
        auditor.feed(item.topic, item.data, sent_ns, sent_ns, item.sequence)
    assert auditor.report().verdict == "ok"


def test_unknown_sequence_numbers_are_not_judged() -> None:
    assert audit([item._replace(sequence=0) for item in good()]).verdict == "ok"


def test_a_bag_keeps_the_publishers_own_count_where_there_is_one_publisher() -> None:
    assert coded_sequence(0, 12345) == 12345
    assert coded_sequence(15, 1) == 15 << 28 | 1
    assert coded_sequence(16, 1) == 0 and coded_sequence(0, 0) == 0
    assert coded_sequence(3, 2**40 + 5) < 2**32


class TestWhileItIsRecorded:
    """What ``now`` says at a time in the middle of the episode."""

    def begun(self, change: Change, until_s: float, lockstep: bool = False) -> Auditor:
        auditor = Auditor("s/0001", TASK, lockstep, EXPECTED)
        for name in TYPES:
            auditor.add_topic(topic(name))
        asked_ns = 0
        for item in change(good()):
            if item.stamp_ns > 10**9 + until_s * 1e9:
                break
            sent_ns = WALL_NS + item.stamp_ns
            auditor.feed(item.topic, item.data, sent_ns, sent_ns, item.sequence)
            if item.stamp_ns - asked_ns > 250_000_000:
                asked_ns = item.stamp_ns
                auditor.now(WALL_NS + item.stamp_ns)
        return auditor

    def now(self, auditor: Auditor, at_s: float) -> dict[str, str]:
        return {finding.topic: finding.check for finding in auditor.now(WALL_NS + 10**9 + round(at_s * 1e9))}

    def test_nothing_is_said_while_all_is_well(self) -> None:
        assert self.now(self.begun(lambda items: items, 1.0), 1.05) == {}

    def test_a_stream_that_falls_silent_is_named_within_half_a_second(self) -> None:
        auditor = self.begun(lose("/current_pose", range(50, 300)), 1.0)
        assert self.now(auditor, 1.0) == {"/current_pose": "silent"}

    def test_a_stream_that_slows_down_is_named(self) -> None:
        auditor = self.begun(lose("/current_pose", [n for n in range(20, 300) if n % 3]), 1.5)
        found = auditor.now(WALL_NS + 2_500_000_000)
        assert ("/current_pose", "slow") in {(finding.topic, finding.check) for finding in found}

    def test_everything_that_falls_silent_is_named(self) -> None:
        auditor = self.begun(lambda items: items, 0.5)
        assert self.now(auditor, 1.5) == dict.fromkeys(HZ, "silent")

    def test_in_lockstep_a_pause_of_everybody_is_not_silence(self) -> None:
        auditor = self.begun(lambda items: items, 0.5, lockstep=True)
        assert self.now(auditor, 100.0) == {}

    def test_in_lockstep_a_stream_that_stays_behind_the_others_is_silent(self) -> None:
        auditor = self.begun(lose("/current_pose", range(20, 300)), 1.0, lockstep=True)
        assert self.now(auditor, 1.0) == {"/current_pose": "silent"}

    def test_a_topic_that_never_spoke_is_missing_after_a_second(self) -> None:
        auditor = self.begun(never("/current_pose"), 1.2)
        assert self.now(auditor, 1.3) == {"/current_pose": "missing"}

    def test_nothing_is_said_before_the_first_observation_and_after_the_closing_step(self) -> None:
        auditor = Auditor("s/0001", TASK, False, EXPECTED)
        assert auditor.now(WALL_NS) == []
        assert self.now(self.begun(lambda items: items, 10.0), 20.0) == {}


def write_bag(folder: Path, items: Iterable[Item], **changes: object) -> Path:
    writer = McapWriter(folder)
    numbers = {name: writer.add_topic(topic(name)) for name in TYPES}
    for item in items:
        sent_ns = WALL_NS + item.stamp_ns
        writer.write(numbers[item.topic], item.data, sent_ns + 10**6, sent_ns, item.sequence)
    writer.close()
    info = {"state": "complete", "session_id": "s", "episode_id": "s/0001", "topics": EXPECTED, **changes}
    write_info(folder, EpisodeInfo(task=TASK, **info))  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize("change", [lambda items: items, lose("/observation", [7]), rival("/step", at_once=True)])
def test_a_bag_is_judged_as_its_messages_were(change: Change, tmp_path: Path) -> None:
    items = change(good())
    assert audit_bag(write_bag(tmp_path / "0001", items)) == audit(items)


def test_a_bag_without_its_description_or_without_its_end_is_refused(tmp_path: Path) -> None:
    whole = write_bag(tmp_path / "0001", good())
    (whole / "episode.yaml").unlink()
    with pytest.raises(BagError, match=r"episode\.yaml"):
        audit_bag(whole)
    cut = write_bag(tmp_path / "0002", good())
    file = cut / "0002_0.mcap"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(BagError):
        audit_bag(cut)
