"""What the lifecycle manager does next, decided from what it has seen; no ROS in here, time is handed in.

Bring-up configures the nodes in order, then activates them in order, one transition at a time; a node that is not there
yet is waited for, a node that refuses stops the bring-up until it is restarted. A node that was up and falls silent is
*lost*. When it comes back it is brought up again at once, whatever the others do. Shut-down deactivates, then cleans
up, in reverse order.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

_FIRST_BEAT_S = 2.0  # for the first heartbeat to arrive: publisher and subscription find each other in their own time
_OVERTAKEN_S = 1.0  # a question asked this long after a request is answered after it by a node that lives


class State(enum.IntEnum):
    """Primary states, as in lifecycle_msgs/State; UNKNOWN also stands for a node that is not there."""

    UNKNOWN = 0
    UNCONFIGURED = 1
    INACTIVE = 2
    ACTIVE = 3
    FINALIZED = 4


class Transition(enum.IntEnum):
    """As in lifecycle_msgs/Transition."""

    CONFIGURE = 1
    CLEANUP = 2
    ACTIVATE = 3
    DEACTIVATE = 4


_LEADS_TO = {
    Transition.CONFIGURE: State.INACTIVE,
    Transition.CLEANUP: State.UNCONFIGURED,
    Transition.ACTIVATE: State.ACTIVE,
    Transition.DEACTIVATE: State.INACTIVE,
}


class Level(enum.IntEnum):
    """How bad it is, as in diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class Event:
    """Something to log and to report about one node ("" for all of them)."""

    node: str
    level: Level
    text: str


@dataclass(frozen=True)
class Request:
    """A transition to ask a node for."""

    node: str
    transition: Transition


@dataclass
class _Node:
    name: str
    state: State = State.UNKNOWN
    changed_at: float = -math.inf  # when it was last asked for a transition, or answered
    heard_at: float | None = None  # last heartbeat; None where it is not there
    refused: bool = False  # a transition failed; not asked again before it was away
    lost: bool = False  # was up, is or was gone, and has not been brought up again
    was_up: bool = False
    level: Level = Level.WARN
    text: str = "not seen yet"


class LifecyclePlan:
    """The decisions of the manager. Times are seconds of one steady clock.

    Every node has to send heartbeats; ``heartbeat_timeout_s`` 0 switches the watch off. ``transition_timeout_s``
    bounds a transition; with ``reconnect`` false, lost nodes are reported but not brought up again.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        heartbeat_timeout_s: float = 0.5,
        transition_timeout_s: float = 60.0,
        reconnect: bool = True,
    ) -> None:
        if len(set(names)) != len(names):
            raise ValueError(f"node_names: {list(names)} names a node twice; every node once")
        self._nodes = {name: _Node(name) for name in names}
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._transition_timeout_s = transition_timeout_s
        self._reconnect = reconnect
        self._up_wanted: bool | None = None  # None: nothing was asked for yet
        self._pending: tuple[Request, float] | None = None
        self._events: list[Event] = []
        self._announced = False
        self._watched_at = -math.inf

    def startup(self) -> None:
        """Bring every node up; also asks those again that refused."""
        self._up_wanted, self._announced = True, False
        for node in self._nodes.values():
            node.refused = node.lost = False
            node.was_up = node.state == State.ACTIVE

    def shutdown(self, transition_timeout_s: float | None = None) -> None:
        """Bring every node down; from now on with another bound for one transition, where given."""
        self._transition_timeout_s = transition_timeout_s or self._transition_timeout_s
        self._up_wanted, self._announced = False, False
        for node in self._nodes.values():
            node.refused = node.was_up = node.lost = False

    @property
    def all_active(self) -> bool:
        return all(node.state == State.ACTIVE for node in self._nodes.values())

    @property
    def all_down(self) -> bool:
        """Nothing is left to bring down, and no answer is awaited."""
        return self._pending is None and self._next_down() is None

    @property
    def refusals(self) -> list[str]:
        """The nodes that refused a transition and were not away since."""
        return [node.name for node in self._nodes.values() if node.refused]

    def state(self, name: str) -> State:
        return self._nodes[name].state

    def status(self) -> list[Event]:
        """The present condition of every node, in order."""
        return [Event(node.name, node.level, node.text) for node in self._nodes.values()]

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    @property
    def busy(self) -> str | None:
        """The node whose answer to a request is awaited."""
        return self._pending[0].node if self._pending is not None else None

    def unclear(self) -> list[str]:
        """Nodes whose state should be asked for: those not known to be there."""
        return [node.name for node in self._nodes.values() if node.state == State.UNKNOWN]

    def on_heartbeat(self, name: str, now: float) -> None:
        node = self._nodes[name]
        if node.state != State.UNKNOWN:
            node.heard_at = now

    def on_state(self, name: str, state: State, asked_at: float, now: float) -> None:
        """A node's answer to a question for its primary state."""
        node, before = self._nodes[name], self._nodes[name].state
        if asked_at <= node.changed_at:
            return  # what it says may be older than what is known
        if self._pending is not None and self._pending[0].node == name:
            if asked_at < self._pending[1] + _OVERTAKEN_S:
                return
            # it answers a later question: the request before it, or its answer, was lost with a process or on the way
            self._pending = None
        node.state = state
        if before == State.UNKNOWN:
            node.heard_at = now + _FIRST_BEAT_S
            node.refused = False
            still = " and still active" if state == State.ACTIVE else f", {_word(state)}"
            self._tell(node, Level.OK, f"is back{still}" if node.lost else _word(state))
        elif state == State.UNCONFIGURED and before in (State.INACTIVE, State.ACTIVE):
            node.lost, node.refused = node.was_up and self._up_wanted is True, False
            self._tell(
                node, Level.ERROR, f"was {_word(before)} and is unconfigured: it was restarted, or cleaned up by others"
            )
        elif state != before:
            self._tell(node, Level.OK, _word(state))
        self._finish_if_active(node)

    def on_left(self, name: str) -> None:
        """The node's services are gone from the graph."""
        node = self._nodes[name]
        if node.state != State.UNKNOWN:
            self._lose(node, "left the graph: its process ended")

    def on_answer(self, request: Request, success: bool, now: float, reason: str = "it refused; see its log") -> None:
        """A node answered a request (or, with a ``reason``, cannot answer any more)."""
        if self._pending is None or self._pending[0] != request:
            return  # given up on meanwhile
        self._pending = None
        self._nodes[request.node].changed_at = now
        node, verb = self._nodes[request.node], request.transition.name.lower()
        if node.heard_at is not None:
            node.heard_at = max(node.heard_at, now)  # it may have been too busy to beat
        if success:
            node.state = _LEADS_TO[request.transition]
            self._tell(node, Level.OK, _word(node.state))
            self._finish_if_active(node)
        else:
            node.refused = True
            stopped = "; bring-up stops here" if self._up_wanted and not node.lost else ""
            self._tell(node, Level.ERROR if self._up_wanted else Level.WARN, f"{verb} failed: {reason}{stopped}")

    def next(self, now: float) -> Request | None:
        """Look at the clock, then give the next transition to ask for, if there is one to ask for now."""
        self._watch(now)
        if self._pending is not None or self._up_wanted is None:
            return None
        request = self._next_up() if self._up_wanted else self._next_down()
        if request is not None:
            self._pending = request, now
            self._nodes[request.node].changed_at = now
        elif not self._announced and (self.all_active if self._up_wanted else True):
            self._announced = True
            self._events.append(
                Event("", Level.OK, "all nodes are active" if self._up_wanted else "all nodes are down")
            )
        return request

    def _watch(self, now: float) -> None:
        if self._pending is not None and now - self._pending[1] > self._transition_timeout_s:
            request = self._pending[0]
            self.on_answer(request, False, now, f"no answer in {self._transition_timeout_s:g} s")
            self._nodes[request.node].state = State.UNKNOWN
        late = now - self._watched_at > self._heartbeat_timeout_s / 2.0
        self._watched_at = now
        for node in self._nodes.values():
            if node.heard_at is None or self._heartbeat_timeout_s <= 0.0:
                continue
            # a transition may take the node's time; and where this manager came late itself, beats wait in its queue
            if node.name == self.busy or late:
                node.heard_at = max(node.heard_at, now)
            silent_s = now - node.heard_at
            if silent_s > self._heartbeat_timeout_s:
                self._lose(node, f"no heartbeat for {silent_s:.2f} s: its process died or hangs")

    def _lose(self, node: _Node, cause: str) -> None:
        known = node.state != State.UNKNOWN
        node.state, node.heard_at, node.refused = State.UNKNOWN, None, False
        if not known:
            return
        if self._pending is not None and self._pending[0].node == node.name:
            self._pending = None
        node.lost = node.lost or (node.was_up and self._up_wanted is True)
        self._tell(node, Level.OK if self._up_wanted is False else Level.ERROR, cause)

    def _next_up(self) -> Request | None:
        nodes = list(self._nodes.values())
        for node in nodes:
            if node.lost and self._reconnect and not node.refused:
                if node.state == State.UNCONFIGURED:
                    return Request(node.name, Transition.CONFIGURE)
                if node.state == State.INACTIVE:
                    return Request(node.name, Transition.ACTIVATE)
        first_time = [node for node in nodes if not node.was_up]
        for node in first_time:
            if node.state < State.INACTIVE or node.state == State.FINALIZED:
                ready = node.state == State.UNCONFIGURED and not node.refused
                return Request(node.name, Transition.CONFIGURE) if ready else None
        for node in first_time:
            if node.state == State.INACTIVE:
                return None if node.refused else Request(node.name, Transition.ACTIVATE)
        return None

    def _next_down(self) -> Request | None:
        for state, transition in ((State.ACTIVE, Transition.DEACTIVATE), (State.INACTIVE, Transition.CLEANUP)):
            for node in reversed(self._nodes.values()):
                if node.state == state and not node.refused:
                    return Request(node.name, transition)
        return None

    def _finish_if_active(self, node: _Node) -> None:
        if node.state == State.ACTIVE and self._up_wanted:
            if node.lost:
                self._announced = False
            node.was_up, node.lost = True, False

    def _tell(self, node: _Node, level: Level, text: str) -> None:
        node.level, node.text = level, text
        self._events.append(Event(node.name, level, text))


def _word(state: State) -> str:
    return state.name.lower()
