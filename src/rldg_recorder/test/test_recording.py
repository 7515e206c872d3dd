"""Which messages go into which bag, and when a bag is over."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from recorder_streams import WALL_NS, plain, status, step

from rldg_core.types import EpisodeStatus, Outcome, Phase
from rldg_recorder import recording
from rldg_recorder.recording import GRACE_S, LINGER_S, Ending, Message, Recording


class Bags:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.bags: list[tuple[str, list[Message]]] = []
        self.endings: list[Ending] = []
        self.relabelled: list[EpisodeStatus] = []

    def open(self, status: EpisodeStatus, first: Sequence[Message]) -> None:
        assert len(self.bags) == len(self.endings), "a bag was opened before the last one was closed"
        self.bags.append((status.episode_id, list(first)))

    def put(self, message: Message) -> None:
        assert len(self.bags) > len(self.endings), "a message without an open bag"
        self.bags[-1][1].append(message)

    def close(self, ending: Ending) -> None:
        self.endings.append(ending)

    def relabel(self, status: EpisodeStatus) -> None:
        self.relabelled.append(status)


class Cell:
    """Speaks to a recording as a cell does; one call is a millisecond unless time is given."""

    def __init__(self, pre_roll_s: float = 0.5) -> None:
        self.sink = Bags()
        self.recording = Recording(self.sink, "/step", {"/episode", "/mode"}, pre_roll_s)
        self.now_ns = 0

    def wait(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)
        self.recording.poll(self.now_ns * 1e-9)

    def hear(self, message: Message) -> Message:
        self.wait(0.001)
        message = message._replace(log_ns=WALL_NS + self.now_ns)
        self.recording.arrive(message, self.now_ns, self.now_ns * 1e-9)
        return message

    def judge(
        self, phase: Phase, episode_id: str = "s/0001", outcome: Outcome = Outcome.NONE, publisher: bytes = b"m"
    ) -> Message:
        self.wait(0.001)
        message = plain("/episode", number=self.now_ns, log_ns=WALL_NS + self.now_ns, publisher=publisher)
        said = status(phase, episode_id, outcome)
        self.recording.on_episode(message, said, self.now_ns, self.now_ns * 1e-9)
        return message

    def end(self, index: int = 2, episode_id: str = "s/0001", outcome: Outcome = Outcome.SUCCESS) -> None:
        self.judge(Phase.ENDED, episode_id, outcome)
        self.hear(step(index, episode_id, last=True))


@pytest.fixture
def cell() -> Cell:
    return Cell()


def test_nothing_is_recorded_between_episodes(cell: Cell) -> None:
    for phase in (Phase.IDLE, Phase.RESETTING, Phase.ENDED):
        cell.judge(phase)
        cell.hear(plain("/observation"))
    assert cell.sink.bags == []


def test_an_episode_is_one_bag_from_its_first_word_to_a_moment_after_its_last(cell: Cell) -> None:
    running = cell.judge(Phase.RUNNING)
    heard = [cell.hear(step(index)) for index in range(2)]
    cell.end()
    late = cell.hear(plain("/observation"))
    cell.wait(LINGER_S)
    cell.hear(plain("/observation", 99))
    ((episode_id, messages),) = cell.sink.bags
    assert episode_id == "s/0001"
    assert messages[:3] == [running, *heard] and messages[-1] == late
    (ending,) = cell.sink.endings
    assert ending.complete and ending.reason == ""
    assert ending.verdict is not None and ending.verdict.outcome is Outcome.SUCCESS


def test_what_overtook_the_word_that_began_the_episode_is_in_the_bag(cell: Cell) -> None:
    observation, first = cell.hear(plain("/observation")), cell.hear(step(0))
    cell.judge(Phase.RUNNING)
    cell.hear(step(1))
    cell.end()
    cell.wait(LINGER_S)
    assert cell.sink.bags[0][1][:2] == [observation, first]
    assert cell.sink.endings[0].complete, "step 0 was seen although it came early"


def test_the_pre_roll_is_bounded_in_time(cell: Cell) -> None:
    cell.hear(plain("/observation", 1))
    cell.wait(0.4)
    kept = cell.hear(plain("/observation", 2))
    cell.wait(0.2)
    running = cell.judge(Phase.RUNNING)
    assert cell.sink.bags[0][1] == [kept, running]


def test_a_clock_that_is_set_back_does_not_keep_the_past(cell: Cell) -> None:
    cell.wait(1000.0)
    cell.hear(plain("/observation", 1))
    cell.now_ns = 0
    kept = cell.hear(plain("/observation", 2))
    running = cell.judge(Phase.RUNNING)
    assert cell.sink.bags[0][1] == [kept, running]


def test_the_pre_roll_is_bounded_in_bytes(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "PRE_ROLL_BYTES", 1000)
    for number in range(100):
        cell.hear(plain("/observation", number, size=200))
    running = cell.judge(Phase.RUNNING)
    messages = cell.sink.bags[0][1]
    assert messages[-1] == running and sum(len(message.data) for message in messages) <= 1000
    assert [int.from_bytes(message.data[:8], "little") for message in messages[:-1]] == [96, 97, 98, 99]


def test_a_message_larger_than_the_pre_roll_does_not_keep_the_bag_from_opening(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "PRE_ROLL_BYTES", 10)
    running = cell.judge(Phase.RUNNING)
    assert cell.sink.bags[0][1] == [running]


def test_the_last_word_of_latched_topics_goes_into_each_bag_with_its_time_of_sending(cell: Cell) -> None:
    cell.hear(plain("/mode", 1))
    mode = cell.hear(plain("/mode", 2))
    other = cell.hear(plain("/mode", 3, publisher=b"q"))
    cell.hear(plain("/other", 4))
    for episode_id in ("s/0001", "s/0002"):
        cell.wait(10.0)
        running = cell.judge(Phase.RUNNING, episode_id)
        first = cell.sink.bags[-1][1]
        assert [message.data for message in first if message.topic == "/mode"] == [mode.data, other.data]
        assert [message.publish_ns for message in first if message.topic == "/mode"] == [mode.publish_ns] * 2
        assert {message.log_ns for message in first} == {running.log_ns}, "a player need not wait for years"
        cell.end(0, episode_id)
        cell.wait(LINGER_S)


def test_what_was_said_to_an_inactive_recorder_on_a_latched_topic_is_remembered(cell: Cell) -> None:
    cell.recording.remember(plain("/mode", 5))
    cell.recording.remember(plain("/other", 6))
    cell.judge(Phase.RUNNING)
    assert [message.topic for message in cell.sink.bags[0][1]] == ["/mode", "/episode"]


def test_the_next_episode_may_begin_at_once(cell: Cell) -> None:
    cell.judge(Phase.RUNNING)
    cell.hear(step(0))
    cell.end(1)
    early = cell.hear(plain("/observation", 7))
    running = cell.judge(Phase.RUNNING, "s/0002")
    assert cell.sink.endings[0].complete
    assert cell.sink.bags[1] == ("s/0002", [early, running]), "and what preceded it is its pre-roll, not all before"
    assert early in cell.sink.bags[0][1], "and still belongs to the end of the last one"


@pytest.mark.parametrize("missing", ["closing step", "verdict"])
def test_an_end_that_is_not_complete_is_given_up_after_a_while(cell: Cell, missing: str) -> None:
    cell.judge(Phase.RUNNING)
    cell.hear(step(0))
    if missing == "closing step":
        cell.judge(Phase.ENDED, outcome=Outcome.ABORTED)
    else:
        cell.hear(step(1, last=True))
    cell.wait(0.9 * GRACE_S)
    assert cell.sink.endings == []
    cell.wait(0.2 * GRACE_S)
    (ending,) = cell.sink.endings
    assert not ending.complete and f"no {missing}" in ending.reason


def test_a_silent_episode_stays_open_until_another_begins(cell: Cell) -> None:
    cell.judge(Phase.RUNNING)
    cell.wait(1000.0)
    assert cell.sink.endings == []
    cell.judge(Phase.RUNNING, "t/0001")
    (ending,) = cell.sink.endings
    assert not ending.complete and "new episode" in ending.reason and ending.verdict is None
    assert [episode_id for episode_id, _ in cell.sink.bags] == ["s/0001", "t/0001"]


def test_an_episode_that_its_manager_forgot_is_given_up(cell: Cell) -> None:
    cell.judge(Phase.RUNNING)
    cell.judge(Phase.IDLE, "")
    cell.wait(1.1 * GRACE_S)
    assert [ending.complete for ending in cell.sink.endings] == [False]


def test_an_episode_whose_beginning_was_missed_is_partial(cell: Cell) -> None:
    cell.judge(Phase.RUNNING)
    cell.hear(step(12))
    cell.end(13)
    cell.wait(LINGER_S)
    (ending,) = cell.sink.endings
    assert not ending.complete and ending.reason == "recorded from step 12 on"
    assert ending.verdict is not None


def test_an_episode_gets_one_bag_even_if_running_is_said_after_its_end(cell: Cell) -> None:
    cell.judge(Phase.RUNNING)
    cell.end()
    cell.wait(LINGER_S)
    cell.judge(Phase.RUNNING)
    assert len(cell.sink.bags) == 1


def test_steps_of_other_episodes_do_not_end_this_one(cell: Cell) -> None:
    cell.judge(Phase.RUNNING, "s/0002")
    cell.hear(step(50, "s/0001", last=True))
    cell.judge(Phase.ENDED, "s/0001", Outcome.SUCCESS)
    cell.judge(Phase.RUNNING, "s/0002")
    cell.wait(0.5 * GRACE_S)
    assert cell.sink.endings == []


def test_a_verdict_changed_while_the_bag_is_open_is_a_label(cell: Cell) -> None:
    cell.judge(Phase.RUNNING)
    cell.hear(step(0))
    cell.end(1, outcome=Outcome.TIMEOUT)
    cell.judge(Phase.ENDED, outcome=Outcome.TIMEOUT)
    cell.judge(Phase.ENDED, outcome=Outcome.SUCCESS)
    cell.wait(LINGER_S)
    (ending,) = cell.sink.endings
    assert ending.verdict is not None and ending.verdict.outcome is Outcome.SUCCESS
    assert [label.outcome for label in ending.labels] == [Outcome.SUCCESS]


def test_a_verdict_changed_afterwards_is_handed_on(cell: Cell) -> None:
    cell.judge(Phase.RUNNING)
    cell.end(0, outcome=Outcome.TIMEOUT)
    cell.wait(LINGER_S)
    cell.judge(Phase.ENDED, outcome=Outcome.FAILURE)
    cell.judge(Phase.RUNNING, "s/0002")
    cell.judge(Phase.ENDED, "s/0001", Outcome.SUCCESS)
    assert [said.outcome for said in cell.sink.relabelled] == [Outcome.FAILURE, Outcome.SUCCESS]
    assert len(cell.sink.endings) == 1


def test_stopping_closes_the_bag_and_an_episode_that_goes_on_gets_another(cell: Cell) -> None:
    cell.hear(plain("/mode"))
    cell.judge(Phase.RUNNING)
    cell.recording.stop("deactivated")
    (ending,) = cell.sink.endings
    assert not ending.complete and ending.reason == "deactivated"
    cell.recording.stop("again")
    assert len(cell.sink.endings) == 1
    cell.wait(100.0)
    cell.judge(Phase.RUNNING)
    assert len(cell.sink.bags) == 2
    assert {message.topic for message in cell.sink.bags[1][1]} == {"/mode", "/episode"}


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x01\x00\x00" + b"\xff" * 200])
def test_a_step_of_nonsense_is_kept_and_changes_nothing(cell: Cell, data: bytes) -> None:
    cell.judge(Phase.RUNNING)
    hostile = cell.hear(Message("/step", data, 0, 0, 1, b"x"))
    assert cell.sink.bags[0][1][-1] == hostile
    cell.wait(10.0)
    assert cell.sink.endings == []
