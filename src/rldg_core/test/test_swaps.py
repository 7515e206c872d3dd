"""A swap hands the door over between two ticks, and a new policy that fails gives it back in time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest

from rldg_core.bridge import Bridging, LateRule
from rldg_core.door import Door
from rldg_core.events import Event, EventKind, parse_event
from rldg_core.frames import rotation_angle
from rldg_core.swap import PROBATION_TICKS, Authority
from rldg_core.teleop import HumanCommand
from rldg_core.testing import TICK_NS, make_observation, make_task, running, tool_down
from rldg_core.types import Action, ActionChunk, EpisodeStatus, Phase, Source, Step

LEAD_NS, IMAGE_NS = 50_000_000, 17_000_000  # an observation is assembled before its tick, of an image that is older
WITHIN_S = 0.3
OLD, NEW = np.array([0.0, 1.0, 0.0, 0, 0, 0]), np.array([0.0, -1.0, 0.0, 0, 0, 0])

Answer = tuple[float, ActionChunk]  # latency in s from the arrival of the observation
Policy = Callable[[int, int], Iterable[Answer]]  # of tick and observation stamp


def chunk(policy_id: str, stamp_ns: int, deltas: object, frame: str = "tcp", period_s: float = 0.1) -> ActionChunk:
    rows = np.atleast_2d(np.asarray(deltas, dtype=np.float64))
    return ActionChunk(stamp_ns, policy_id, rows, np.ones(len(rows), bool), period_s, frame)


def steady(policy_id: str, delta: object, latency_s: float = 0.01) -> Policy:
    return lambda n, stamp_ns: [(latency_s, chunk(policy_id, stamp_ns, delta))]


class Cell:
    """Ticks at multiples of 100 ms; answers arrive when they are ready, also between ticks."""

    def __init__(self, *policies: Policy, door: Door | None = None) -> None:
        self.door = door or Door(make_task(), "tcp")
        self.door.select("old", 0, require_fresh=False)
        self.policies = list(policies) or [steady("old", OLD), steady("new", NEW)]
        self.n = 0
        self.pose = tool_down()
        self.steps: list[Step] = []
        self.events: list[Event] = []
        self._under_way: list[tuple[int, ActionChunk]] = []

    @property
    def now_ns(self) -> int:
        return self.n * TICK_NS

    def tick(self, human: HumanCommand | None = None, phase: Phase = Phase.RUNNING, episode: str = "s/0001") -> Step:
        self.n += 1
        seen_ns = self.now_ns - LEAD_NS
        stamp_ns = seen_ns - IMAGE_NS
        for policy in self.policies:
            self._under_way += [(seen_ns + round(s * 1e9), answer) for s, answer in policy(self.n, stamp_ns)]
        for arrival_ns, answer in sorted(self._under_way, key=lambda entry: entry[0]):
            if arrival_ns <= self.now_ns:
                self.door.offer(answer, arrival_ns)
        self._under_way = [entry for entry in self._under_way if entry[0] > self.now_ns]
        observation = make_observation(stamp_ns, self.pose, index=self.n, episode_id=episode)
        status = running(stamp_ns, phase=phase, episode_id=episode)
        step = self.door.tick(self.now_ns, observation, status, human, measured=self.pose)
        assert step is not None
        self.pose = step.target
        self.steps.append(step)
        self.events += self.door.take_events()
        return step

    def swap(self, policy_id: str = "new") -> None:
        assert self.door.select(policy_id, self.now_ns + 1) == ""

    def kinds(self) -> list[str]:
        return [event.kind.removeprefix("swap_") for event in self.events]


def test_a_warm_policy_drives_at_the_first_tick_after_the_request_and_no_tick_is_missed() -> None:
    cell = Cell()
    before = [cell.tick() for _ in range(5)]
    cell.swap()
    after = [cell.tick() for _ in range(PROBATION_TICKS + 2)]
    assert {step.policy_id for step in before} == {"old"} and {step.policy_id for step in after} == {"new"}
    assert all(step.source is Source.POLICY for step in cell.steps)
    assert np.diff([step.stamp_ns for step in cell.steps]).tolist() == [TICK_NS] * (len(cell.steps) - 1)
    assert cell.kinds() == ["requested", "handed_over", "completed"]
    handed = cell.events[1]
    assert handed.stamp_ns == after[0].stamp_ns and (handed.previous, handed.policy_id) == ("old", "new")
    assert (handed.episode_id, handed.index) == ("s/0001", 6)
    assert cell.door.proven == "new"


def test_the_first_target_of_the_new_policy_moves_no_further_than_any_target_may() -> None:
    # the fastest turn-round there is: from full speed one way to full speed the other, with a low limit
    task = make_task(safety={"max_linear_speed_m_s": 0.02, "max_angular_speed_rad_s": 0.1})
    ways = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    cell = Cell(steady("old", ways), steady("new", -ways), door=Door(task, "tcp"))
    for _ in range(4):
        cell.tick()
    cell.swap()
    for _ in range(4):
        cell.tick()
    for last, step in zip(cell.steps, cell.steps[1:], strict=False):
        assert np.linalg.norm(step.target.position - last.target.position) <= 0.02 * 0.1 + 1e-9
        assert rotation_angle(step.target, last.target) <= 0.1 * 0.1 + 1e-9


def fails_after(tick: int, fault: Policy) -> Policy:
    healthy = steady("new", NEW)
    return lambda n, stamp_ns: healthy(n, stamp_ns) if n < tick else fault(n, stamp_ns)


FAULTS: dict[str, tuple[Policy, str]] = {
    "crash": (lambda n, stamp_ns: [], "silent|stale"),
    "hang on one observation": (lambda n, stamp_ns: [(0.01, chunk("new", 0, NEW))], "silent|stale"),
    "nan": (steady("new", np.full(6, np.nan)), "not finite"),
    "infinite": (steady("new", np.full(6, np.inf)), "not finite"),
    "wrong shape": (steady("new", np.zeros((1, 7))), "shape"),
    "empty": (steady("new", np.zeros((0, 6))), "shape"),
    "wrong frame": (lambda n, stamp_ns: [(0.01, chunk("new", stamp_ns, NEW, "fr3_link0"))], "frame"),
    "wild": (steady("new", 40.0 * NEW), "must be within"),
    "from the future": (lambda n, stamp_ns: [(0.01, chunk("new", stamp_ns + 10**10, NEW))], "future"),
    **{f"{s} s late": (steady("new", NEW, s), "silent|stale") for s in (0.4, 0.7, 1.0, 1.5, 2.0)},
    "one row short of gripper states": (
        lambda n, stamp_ns: [(0.01, ActionChunk(stamp_ns, "new", NEW[None], np.zeros(2, bool), 0.1, "tcp"))],
        "gripper states",
    ),
}


@pytest.mark.parametrize("begins", [6, 7, 11])  # before the hand-over, at it, in the middle of the probation
@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_of_the_new_policy_gives_the_door_back_in_time(kind: str, begins: int) -> None:
    fault, says = FAULTS[kind]
    cell = Cell(steady("old", OLD), fails_after(begins, fault))
    for _ in range(5):
        cell.tick()
    cell.swap()
    for _ in range(30):
        cell.tick()
    # it could have answered the observation of that tick as soon as that was there
    failed_ns = begins * TICK_NS - LEAD_NS
    back = next(step for step in cell.steps[5:] if step.policy_id == "old")
    assert (back.stamp_ns - failed_ns) * 1e-9 <= WITHIN_S
    assert back.source is Source.POLICY and back.executed.delta[1] > 0.0  # at the same tick, not a hold in between
    assert "rolled back" in back.reason
    assert any(word in back.reason for word in says.split("|")), back.reason
    assert all(step.policy_id == "old" and not step.reason for step in cell.steps[cell.steps.index(back) + 1 :])
    assert cell.kinds()[-1] == "rolled_back" and "completed" not in cell.kinds()
    assert all(np.isfinite(step.executed.delta).all() for step in cell.steps)


@pytest.mark.parametrize("kind", FAULTS)
def test_where_the_old_policy_is_gone_the_arm_holds_in_time(kind: str) -> None:
    fault, _ = FAULTS[kind]
    retired = lambda n, stamp_ns: steady("old", OLD)(n, stamp_ns) if n < 4 else []  # noqa: E731
    cell = Cell(retired, fails_after(12, fault))
    for _ in range(5):
        cell.tick()
    cell.swap()
    for _ in range(30):
        cell.tick()
    failed_ns = 12 * TICK_NS - LEAD_NS
    late = [step for step in cell.steps if (step.stamp_ns - failed_ns) * 1e-9 > WITHIN_S]
    assert late and all(step.source is Source.HOLD and "'old'" in step.reason for step in late)


@pytest.mark.parametrize(
    ("latency_s", "accepted"), [(0.0, True), (0.1, True), (0.5, False), (1.0, False), (2.0, False)]
)
def test_a_policy_that_answers_too_late_to_drive_is_not_let_in(latency_s: float, accepted: bool) -> None:
    cell = Cell(steady("old", OLD), steady("new", NEW, latency_s))
    for _ in range(40):
        cell.tick()
    refusal = cell.door.select("new", cell.now_ns)
    assert (refusal == "") is accepted and ("stale" in refusal) is not accepted
    assert cell.tick().policy_id == ("new" if accepted else "old")


def test_a_policy_that_is_still_cold_is_not_let_in_and_does_not_disturb_the_old_one() -> None:
    cell = Cell(steady("old", OLD), lambda n, stamp_ns: [])
    for _ in range(5):
        cell.tick()
        assert "has sent no action; policies heard: old" in cell.door.select("new", cell.now_ns)
    cell.tick()
    assert all(step.policy_id == "old" and step.source is Source.POLICY for step in cell.steps)
    (told,) = cell.events  # once, however often it is asked for
    assert (told.kind, told.policy_id, told.previous) == (EventKind.SWAP_REFUSED, "new", "old")
    assert "has sent no action" in told.reason
    cell.n += 20
    assert cell.door.select("new", cell.now_ns)
    assert [event.kind for event in cell.door.take_events()] == [EventKind.SWAP_REFUSED]  # somebody asks anew


def test_a_policy_that_says_itself_why_it_has_no_answer_is_not_waited_for() -> None:
    cell = Cell(steady("old", OLD), fails_after(8, FAULTS["crash"][0]))
    for _ in range(5):
        cell.tick()
    cell.swap()
    for _ in range(2):
        assert cell.tick().policy_id == "new"
    cell.door.complain("new", "policy 'new' returned an action that is not finite")
    cell.door.complain("nobody", "is not known")
    back = cell.tick()
    assert (back.policy_id, back.source) == ("old", Source.POLICY) and "not finite" in back.reason
    assert cell.events[-1].kind is EventKind.SWAP_ROLLED_BACK and "not finite" in cell.events[-1].reason
    assert "not finite" in cell.door.select("new", cell.now_ns)
    cell.policies[1] = steady("new", NEW)
    cell.tick()
    assert cell.door.select("new", cell.now_ns) == ""  # its next answer is sound: forgiven


def slow(policy_id: str, every: int, length: int, latency_s: float, until: int = 10**6) -> Policy:
    """A generalist that answers every few observations with a chunk."""
    row = NEW if policy_id == "new" else OLD
    return lambda n, stamp_ns: (
        [(latency_s, chunk(policy_id, stamp_ns, np.tile(row, (length, 1))))] if n % every == 0 and n < until else []
    )


@pytest.mark.parametrize(("every", "length", "latency_s"), [(2, 4, 0.1), (5, 10, 0.5), (10, 19, 0.9)])
def test_a_slow_policy_with_chunks_passes_its_probation(every: int, length: int, latency_s: float) -> None:
    cell = Cell(steady("old", OLD), slow("new", every, length, latency_s))
    for _ in range(4 * every):
        cell.tick()
    cell.swap()
    for _ in range(4 * every + PROBATION_TICKS):
        cell.tick()
    assert cell.kinds() == ["requested", "handed_over", "completed"]
    assert all(step.source is Source.POLICY for step in cell.steps)


def test_a_slow_policy_that_dies_gives_back_soon_after_its_answer_was_due() -> None:
    cell = Cell(steady("old", OLD), slow("new", 5, 10, 0.2, until=31))
    for _ in range(31):
        cell.tick()
    cell.swap()
    for _ in range(30):
        cell.tick()
    back = next(step for step in cell.steps[31:] if step.policy_id == "old")
    due_ns = 35 * TICK_NS + 150_000_000  # the next answer, had it lived
    assert 0.0 < (back.stamp_ns - due_ns) * 1e-9 <= WITHIN_S


def test_a_swap_while_a_human_drives_leaves_the_arm_to_the_human_and_counts() -> None:
    cell = Cell()
    human = HumanCommand(active=True, action=Action(np.array([0.0, 0, 0.3, 0, 0, 0])))
    for _ in range(3):
        cell.tick(human)
    cell.swap()
    driven = [cell.tick(human) for _ in range(PROBATION_TICKS)]
    assert all(step.source is Source.HUMAN and step.policy_id == "new" for step in driven)
    assert cell.kinds() == ["requested", "handed_over", "completed"]
    assert cell.tick().source is Source.POLICY


def test_a_policy_that_fails_while_a_human_drives_is_rolled_back_too() -> None:
    cell = Cell(steady("old", OLD), fails_after(6, FAULTS["crash"][0]))
    human = HumanCommand(active=True, action=Action(np.array([0.0, 0, 0.3, 0, 0, 0])))
    for _ in range(4):
        cell.tick(human)
    cell.swap()
    steps = [cell.tick(human) for _ in range(6)]
    assert all(step.source is Source.HUMAN for step in steps) and steps[-1].policy_id == "old"
    assert cell.kinds()[-1] == "rolled_back"


def test_between_episodes_nobody_is_blamed_for_silence_and_an_answer_counts() -> None:
    talks = lambda n, stamp_ns: steady("new", NEW)(n, stamp_ns) if n < 6 or n > 30 else []  # noqa: E731
    cell = Cell(steady("old", OLD), talks)
    for _ in range(4):
        cell.tick()
    cell.swap()
    cell.tick()
    for phase in (Phase.ENDED, Phase.RESETTING, Phase.IDLE):
        for _ in range(8):
            cell.tick(phase=phase, episode="")
    assert cell.kinds() == ["requested", "handed_over"] and cell.door.selected == "new"
    for _ in range(3):
        cell.tick(episode="s/0002")  # it speaks again at once
    assert cell.door.selected == "new"
    for _ in range(PROBATION_TICKS):
        cell.tick(episode="s/0002")
    assert cell.kinds()[-1] == "completed"


def test_a_policy_that_died_between_episodes_gives_back_soon_after_the_next_begins() -> None:
    cell = Cell(steady("old", OLD), fails_after(6, FAULTS["crash"][0]))
    for _ in range(4):
        cell.tick()
    cell.swap()
    cell.tick()
    for _ in range(8):
        cell.tick(phase=Phase.RESETTING, episode="")
    steps = [cell.tick(episode="s/0002") for _ in range(5)]
    assert all(step.source is Source.HOLD for step in steps if step.policy_id == "new")
    assert [step.policy_id for step in steps].index("old") <= 2


def test_what_blocks_everybody_does_not_count_against_the_new_policy() -> None:
    cell = Cell()
    for _ in range(4):
        cell.tick()
    cell.swap()
    cell.tick()
    cell.door.set_estop("button")
    silent, cell.policies = cell.policies, []
    for _ in range(10):
        assert cell.tick().source is Source.HOLD
    cell.policies = silent
    cell.door.set_estop("")
    assert cell.tick().policy_id == "new"


def test_a_second_swap_during_probation_falls_back_on_the_one_that_was_proven() -> None:
    def third(n: int, stamp_ns: int) -> list[Answer]:
        return [(0.01, chunk("third", stamp_ns, NEW if n < 9 else np.full(6, np.nan)))]

    cell = Cell(steady("old", OLD), steady("new", NEW), third)
    for _ in range(4):
        cell.tick()
    cell.swap()
    cell.tick()
    cell.swap("third")
    for _ in range(6):
        cell.tick()
    assert cell.kinds() == ["requested", "handed_over", "superseded", "requested", "handed_over", "rolled_back"]
    assert cell.steps[-1].policy_id == "old"


def test_going_back_by_request_needs_no_probation() -> None:
    cell = Cell()
    for _ in range(4):
        cell.tick()
    cell.swap()
    cell.tick()
    cell.swap("old")
    assert cell.tick().policy_id == "old"
    assert cell.kinds() == ["requested", "handed_over", "rolled_back"] and cell.events[-1].reason == "requested"


def test_nobody_is_a_choice_that_needs_no_probation() -> None:
    cell = Cell()
    for _ in range(4):
        cell.tick()
    cell.swap("")
    assert cell.tick().source is Source.HOLD and cell.door.proven == ""
    assert cell.kinds() == ["requested", "handed_over", "completed"]


def test_while_everybody_is_late_the_new_policy_is_not_blamed() -> None:
    both = [
        lambda n, s, name=name, row=row: [] if n in (8, 9) else steady(name, row)(n, s)
        for name, row in (("old", OLD), ("new", NEW))
    ]
    cell = Cell(*both)
    for _ in range(6):
        cell.tick()
    cell.swap()
    for _ in range(12):
        cell.tick()
    assert cell.kinds() == ["requested", "handed_over", "completed"]


def test_where_nobody_had_the_door_a_policy_that_fails_keeps_it_and_drives_again() -> None:
    ill = lambda n, stamp_ns: [] if 8 <= n < 15 else steady("new", NEW)(n, stamp_ns)  # noqa: E731
    cell = Cell(ill)
    cell.door.select("", 0, require_fresh=False)
    for _ in range(5):
        cell.tick()
    cell.swap()
    steps = [cell.tick() for _ in range(15)]
    assert {step.policy_id for step in steps} == {"new"} and cell.kinds() == ["requested", "handed_over", "completed"]
    assert any(step.source is Source.HOLD for step in steps) and steps[-1].source is Source.POLICY


def test_swaps_among_warm_policies_at_every_tick_never_stop_the_arm() -> None:
    names = ["old", "new", "third"]
    cell = Cell(*(steady(name, delta) for name, delta in zip(names, (OLD, NEW, 0.5 * OLD), strict=True)))
    cell.tick()
    for i in range(60):
        cell.swap(names[i % 3])
        assert cell.tick().policy_id == names[i % 3]
    assert all(step.source is Source.POLICY and not step.reason for step in cell.steps)


def test_a_policy_with_another_late_rule_is_swapped_in_alike() -> None:
    for late in LateRule:
        cell = Cell(door=Door(make_task(), "tcp", Bridging(late=late)))
        for _ in range(3):
            cell.tick()
        cell.swap()
        assert cell.tick().policy_id == "new"


def test_an_authority_counts_its_probation() -> None:
    authority = Authority(probation_ticks=3)
    authority.set("a")
    authority.request("b", 0)
    assert authority.selected == "b" and authority.proven == "a" and authority.on_trial
    for answered in (True, False, True):
        authority.judge(1, "", answered)
    assert authority.on_trial
    authority.judge(2, "", True)
    assert not authority.on_trial and authority.proven == "b"


def test_an_event_is_read_as_it_was_written() -> None:
    event = Event(stamp_ns=3, kind=EventKind.SWAP_ROLLED_BACK, policy_id="b", previous="a", reason="policy 'b': yes")
    assert parse_event(event.yaml()) == event
    assert event.line() == "swap rolled back a -> b: policy 'b': yes"


@pytest.mark.parametrize("text", ["", "[]", "kind: swap", "stamp_ns: x\nkind: fault", "\x00", "{" * 9000])
def test_what_is_no_event_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^event: [^\n]*$"):
        parse_event(text)


def test_an_episode_without_a_status_does_not_judge_anybody() -> None:
    cell = Cell()
    cell.tick()
    cell.swap()
    step = cell.door.tick(cell.now_ns + TICK_NS, make_observation(cell.now_ns + TICK_NS), EpisodeStatus(0))
    assert step is not None and cell.door.selected == "new"
