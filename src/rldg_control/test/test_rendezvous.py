"""Waiting for everyone at a stamp, giving up on the silent, and taking them back."""

from __future__ import annotations

from rldg_control.rendezvous import Rendezvous


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_it_is_complete_when_everyone_has_reached_the_stamp() -> None:
    meeting = Rendezvous(("a", "b"), 2.0)
    assert not meeting.complete(10)
    meeting.arrive("a", 10)
    assert not meeting.complete(10)
    meeting.arrive("b", 10)
    assert meeting.complete(10)
    assert not meeting.complete(11)


def test_the_late_are_named_once_and_not_waited_for_again() -> None:
    clock = Clock()
    meeting = Rendezvous(("a", "b"), 2.0, clock)
    meeting.arrive("a", 10)
    assert not meeting.complete(10)
    clock.now_s = 1.9
    assert meeting.expire() == []
    clock.now_s = 2.0
    assert meeting.expire() == ["b"]
    assert meeting.absent == ["b"]
    assert meeting.complete(10)
    meeting.arrive("a", 20)
    assert meeting.complete(20)
    assert meeting.expire() == []


def test_one_who_speaks_again_is_waited_for_again() -> None:
    clock = Clock()
    meeting = Rendezvous(("a",), 1.0, clock)
    meeting.complete(10)
    clock.now_s = 1.0
    assert meeting.expire() == ["a"]
    meeting.arrive("a", 10)
    assert meeting.absent == []
    assert not meeting.complete(20)


def test_every_stamp_has_its_own_time_out() -> None:
    clock = Clock()
    meeting = Rendezvous(("a",), 1.0, clock)
    meeting.complete(10)
    clock.now_s = 0.9
    meeting.arrive("a", 10)
    meeting.complete(20)
    clock.now_s = 1.8
    assert meeting.expire() == []


def test_a_sender_may_be_awaited_at_another_stamp() -> None:
    meeting = Rendezvous(("stream", "answer"), 1.0)
    meeting.require("answer", 10)
    meeting.arrive("stream", 20)
    meeting.arrive("answer", 9)
    assert not meeting.complete(20)
    meeting.arrive("answer", 10)
    assert meeting.complete(20)
