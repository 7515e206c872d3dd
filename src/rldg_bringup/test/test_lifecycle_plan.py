"""The lifecycle manager's decisions: order, refusals, losses and returns."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from rldg_bringup.lifecycle_plan import Level, LifecyclePlan, Request, State, Transition

C, A, D, U = Transition.CONFIGURE, Transition.ACTIVATE, Transition.DEACTIVATE, Transition.CLEANUP
BEFORE = {C: State.UNCONFIGURED, A: State.INACTIVE, D: State.ACTIVE, U: State.INACTIVE}
AFTER = {C: State.INACTIVE, A: State.ACTIVE, D: State.INACTIVE, U: State.UNCONFIGURED}


class Graph:
    """Nodes that do as they are asked, and a clock."""

    def __init__(self, names: Sequence[str] = ("a", "b", "c"), **options: float | bool) -> None:
        self.plan = LifecyclePlan(names, **options)  # type: ignore[arg-type]
        self.now = 0.0
        self.ticks = 0
        self.alive = dict.fromkeys(names, State.UNCONFIGURED)
        self.refusing: set[str] = set()
        self.asked: list[tuple[str, Transition]] = []

    def see(self, *names: str) -> None:
        for name in names:
            self.plan.on_state(name, self.alive[name], self.now, self.now)

    def run(self, seconds: float = 0.5) -> list[tuple[str, Transition]]:
        """Let time pass with heartbeats of all that live, as the node does; returns what was asked for in it."""
        before = len(self.asked)
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            for name in self.alive:
                self.plan.on_heartbeat(name, self.now)
            self.ticks += 1
            asked = self.alive if self.ticks % 20 == 0 else self.plan.unclear()
            self.see(*(name for name in asked if name in self.alive))
            request = self.plan.next(self.now)
            if request is not None and request.node in self.alive:
                self.asked.append((request.node, request.transition))
                possible = self.alive[request.node] == BEFORE[request.transition]
                success = possible and request.node not in self.refusing
                if success:
                    self.alive[request.node] = AFTER[request.transition]
                self.plan.on_answer(request, success, self.now)
        return self.asked[before:]

    def kill(self, name: str) -> None:
        del self.alive[name]

    def restart(self, name: str) -> None:
        self.alive[name] = State.UNCONFIGURED

    def texts(self, name: str, level: Level = Level.ERROR) -> list[str]:
        return [event.text for event in self.plan.take_events() if event.node == name and event.level == level]


def running(**options: float | bool) -> Graph:
    graph = Graph(**options)
    graph.plan.startup()
    graph.run()
    assert graph.plan.all_active
    graph.plan.take_events()
    return graph


def test_all_are_configured_in_order_then_activated_in_order() -> None:
    graph = Graph()
    graph.plan.startup()
    assert graph.run() == [("a", C), ("b", C), ("c", C), ("a", A), ("b", A), ("c", A)]
    assert graph.plan.all_active
    assert [event.text for event in graph.plan.take_events() if not event.node] == ["all nodes are active"]


def test_nothing_happens_before_startup() -> None:
    graph = Graph()
    assert graph.run() == []


def test_shutdown_goes_in_reverse() -> None:
    graph = running()
    graph.plan.shutdown()
    assert graph.run() == [("c", D), ("b", D), ("a", D), ("c", U), ("b", U), ("a", U)]
    assert graph.plan.all_down


def test_after_a_shutdown_everything_can_come_up_again() -> None:
    graph = running()
    graph.plan.shutdown()
    graph.run()
    graph.plan.startup()
    graph.run()
    assert graph.plan.all_active


def test_a_node_that_is_not_there_is_waited_for() -> None:
    graph = Graph()
    graph.kill("b")
    graph.plan.startup()
    assert graph.run() == [("a", C)]
    graph.restart("b")
    assert graph.run() == [("b", C), ("c", C), ("a", A), ("b", A), ("c", A)]


def test_one_transition_is_asked_for_at_a_time() -> None:
    plan = LifecyclePlan(["a", "b"])
    plan.startup()
    for name in "ab":
        plan.on_state(name, State.UNCONFIGURED, 0.0, 0.0)
    assert plan.next(0.1) == Request("a", C)
    assert plan.next(0.2) is None
    plan.on_answer(Request("a", C), True, 0.3)
    assert plan.next(0.3) == Request("b", C)


def test_a_refusal_names_the_node_and_leaves_the_others_inactive() -> None:
    graph = Graph()
    graph.refusing = {"b"}
    graph.plan.startup()
    assert graph.run() == [("a", C), ("b", C)]
    assert graph.plan.refusals == ["b"]
    assert graph.texts("b") == ["configure failed: it refused; see its log; bring-up stops here"]
    assert (graph.plan.state("a"), graph.plan.state("c")) == (State.INACTIVE, State.UNCONFIGURED)


def test_after_a_refusal_a_restart_of_the_node_resumes_the_bring_up() -> None:
    graph = Graph()
    graph.refusing = {"b"}
    graph.plan.startup()
    graph.run()
    graph.kill("b")
    graph.run(1.0)
    graph.refusing.clear()
    graph.restart("b")
    graph.run()
    assert graph.plan.all_active


def test_after_a_refusal_startup_asks_again() -> None:
    graph = Graph()
    graph.refusing = {"b"}
    graph.plan.startup()
    graph.run()
    graph.refusing.clear()
    graph.plan.startup()
    assert graph.run()[0] == ("b", C)
    assert graph.plan.all_active


def test_a_silent_node_is_reported_within_the_timeout_and_a_tick() -> None:
    graph = running(heartbeat_timeout_s=0.5)
    graph.kill("b")
    graph.run(0.45)
    assert graph.texts("b") == []
    graph.run(0.1)
    (text,) = graph.texts("b")
    assert text.startswith("no heartbeat for 0.5") and text.endswith("its process died or hangs")
    assert [event.level for event in graph.plan.status()] == [Level.OK, Level.ERROR, Level.OK]
    assert not graph.plan.all_active


def test_a_lost_node_is_brought_up_again_and_the_others_are_left_alone() -> None:
    graph = running()
    graph.kill("a")
    graph.kill("c")
    graph.run(1.0)
    graph.restart("c")
    assert graph.run() == [("c", C), ("c", A)]  # although a, before it in order, is still away
    graph.plan.take_events()
    graph.restart("a")
    assert graph.run() == [("a", C), ("a", A)]
    assert [event.text for event in graph.plan.take_events() if not event.node] == ["all nodes are active"]


def test_without_reconnection_a_lost_node_stays_as_it_is() -> None:
    graph = running(reconnect=False)
    graph.kill("b")
    graph.run(1.0)
    graph.restart("b")
    assert graph.run() == []


def test_a_node_that_hung_and_comes_back_active_needs_nothing() -> None:
    graph = running()
    graph.kill("b")
    graph.run(1.0)
    graph.plan.take_events()
    graph.alive["b"] = State.ACTIVE
    assert graph.run() == []
    assert graph.texts("b", Level.OK) == ["is back and still active"]
    assert graph.plan.all_active


def test_a_restart_faster_than_the_heartbeat_timeout_is_noticed_when_asked() -> None:
    graph = running()
    graph.restart("b")
    graph.now += 0.01
    graph.see("b")
    assert "it was restarted" in graph.texts("b")[0]
    assert graph.run() == [("b", C), ("b", A)]


def test_a_node_that_dies_before_its_first_heartbeat_is_noticed_too() -> None:
    plan = LifecyclePlan(["a"], heartbeat_timeout_s=0.5)
    plan.startup()
    plan.on_state("a", State.UNCONFIGURED, 0.0, 0.0)
    plan.on_answer(plan.next(0.1) or Request("", C), False, 0.2)
    for tick in range(3, 40):
        plan.next(tick * 0.1)
    (refused, lost) = (event.text for event in plan.take_events() if event.level == Level.ERROR)
    assert refused.startswith("configure failed") and lost.startswith("no heartbeat")
    plan.on_state("a", State.UNCONFIGURED, 5.0, 5.0)
    assert plan.next(5.1) == Request("a", C)  # restarted, it is asked again


def test_a_node_that_leaves_the_graph_is_lost_at_once() -> None:
    graph = running()
    graph.kill("b")
    graph.plan.on_left("b")
    assert graph.texts("b") == ["left the graph: its process ended"]
    graph.run(1.0)
    assert graph.texts("b") == []  # told once


def test_a_node_is_not_lost_while_its_transition_takes_its_time() -> None:
    plan = LifecyclePlan(["a"], heartbeat_timeout_s=0.5)
    plan.startup()
    plan.on_heartbeat("a", 0.0)
    plan.on_state("a", State.UNCONFIGURED, 0.0, 0.0)
    assert plan.next(0.1) == Request("a", C)
    for tick in range(2, 100):
        plan.next(tick * 0.1)
    plan.on_answer(Request("a", C), True, 10.0)
    assert plan.next(10.1) == Request("a", A)
    assert not [event for event in plan.take_events() if event.level == Level.ERROR]


def test_a_transition_without_an_answer_is_given_up() -> None:
    plan = LifecyclePlan(["a"], transition_timeout_s=2.0)
    plan.startup()
    plan.on_state("a", State.UNCONFIGURED, 0.0, 0.0)
    plan.next(0.1)
    plan.next(2.2)
    assert [event.text for event in plan.take_events() if event.level == Level.ERROR] == [
        "configure failed: no answer in 2 s; bring-up stops here"
    ]
    plan.on_answer(Request("a", C), True, 3.0)  # too late to be believed
    assert plan.state("a") == State.UNKNOWN


def test_a_node_restarted_during_its_transition_is_asked_again() -> None:
    plan = LifecyclePlan(["a"])
    plan.startup()
    plan.on_state("a", State.UNCONFIGURED, 0.0, 0.0)
    assert plan.next(0.1) == Request("a", C)
    plan.on_state("a", State.UNCONFIGURED, 0.2, 0.3)  # may have been answered before the request was seen
    assert plan.next(0.4) is None
    plan.on_state("a", State.UNCONFIGURED, 1.2, 1.3)
    assert plan.next(1.4) == Request("a", C)


def test_a_lost_answer_is_made_up_for_by_the_next_question() -> None:
    plan = LifecyclePlan(["a"])
    plan.startup()
    plan.on_state("a", State.UNCONFIGURED, 0.0, 0.0)
    assert plan.next(0.1) == Request("a", C)
    assert plan.busy == "a"
    plan.on_state("a", State.INACTIVE, 1.2, 1.3)
    assert plan.next(1.4) == Request("a", A)


def test_an_answer_older_than_a_transition_does_not_undo_it() -> None:
    graph = running()
    graph.plan.on_state("c", State.INACTIVE, asked_at=0.1, now=graph.now)
    assert graph.plan.state("c") == State.ACTIVE


def test_a_node_deactivated_by_a_person_is_left_so() -> None:
    graph = running()
    graph.alive["b"] = State.INACTIVE
    graph.now += 0.01
    graph.see("b")
    assert graph.run() == []
    assert not graph.plan.all_active


def test_a_manager_that_was_late_itself_blames_nobody() -> None:
    graph = running()
    graph.now += 3.0  # its own process was stopped; the beats of that time are still in its queue
    graph.plan.next(graph.now)
    assert not [event for event in graph.plan.take_events() if event.level == Level.ERROR]


def test_going_down_passes_over_those_that_are_away_or_refuse() -> None:
    graph = running()
    graph.kill("c")
    graph.refusing = {"b"}
    graph.run(1.0)
    graph.plan.shutdown()
    assert graph.run() == [("b", D), ("a", D), ("a", U)]
    assert graph.plan.all_down


def test_a_manager_started_late_finds_what_is_active() -> None:
    graph = Graph()
    graph.alive = dict.fromkeys("abc", State.ACTIVE)
    graph.plan.startup()
    assert graph.run() == []
    assert graph.plan.all_active


def test_a_node_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="names a node twice"):
        LifecyclePlan(["a", "a"])


class AnyOrderOfFaults(RuleBasedStateMachine):
    """Whatever dies, returns or refuses: in the end, with everyone back and willing, all are active."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = Graph()
        self.graph.plan.startup()

    names = st.sampled_from("abc")

    @rule(name=names)
    def kill(self, name: str) -> None:
        self.graph.alive.pop(name, None)

    @rule(name=names)
    def restart(self, name: str) -> None:
        self.graph.restart(name)
        self.graph.refusing.discard(name)

    @rule(name=names)
    def refuse(self, name: str) -> None:
        self.graph.refusing.add(name)

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0]))
    def wait(self, seconds: float) -> None:
        self.graph.run(seconds)

    @rule(name=names)
    def ask(self, name: str) -> None:
        if name in self.graph.alive:
            self.graph.see(name)

    def teardown(self) -> None:
        for name in "abc":
            self.graph.alive.pop(name, None)
        self.graph.run(1.0)
        self.graph.refusing.clear()
        for name in "abc":
            self.graph.restart(name)
        self.graph.run(5.0)
        assert self.graph.plan.all_active


TestAnyOrderOfFaults = AnyOrderOfFaults.TestCase
TestAnyOrderOfFaults.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
