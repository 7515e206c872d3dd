"""Episodes in one process, as transitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rldg_core.task import GripperUse
from rldg_core.types import Action, Outcome, Phase, Source, Step
from rldg_rl.config import Segment
from rldg_rl.encoders import Encoder, Features
from rldg_rl.interventions import ScriptedPerson
from rldg_rl.replay import Transition
from rldg_rl.segments import lead_in
from rldg_rl.transitions import Earned, earned, transition
from rldg_sim.loop import Loop, Tick

Choose = Callable[[Features], npt.NDArray[np.floating]]
"""From features to an action: (6,), or (7,) with the gripper, 1 for closed and 0 for open."""


@dataclass(frozen=True)
class Episode:
    """How an episode went.

    Attributes:
        steps: number of actions.
        helped_steps: of them by a person.
    """

    outcome: Outcome
    steps: int
    helped_steps: int

    @property
    def success(self) -> bool:
        return self.outcome is Outcome.SUCCESS

    def figures(self) -> dict[str, float]:
        """What is worth a curve, by the name of the curve."""
        return {
            "episode/success": float(self.success),
            "episode/steps": float(self.steps),
            "episode/intervention_share": self.helped_steps / max(self.steps, 1),
        }


def _transition(
    episode_id: str,
    before: Tick,
    step: Step,
    after: Tick,
    seen: tuple[Features, Features],
    *,
    with_gripper: bool,
    demo: bool = False,
) -> Transition:
    ended = after.status.phase is Phase.ENDED
    return transition(
        episode_id,
        step,
        seen,
        earned(after.status.outcome) if ended else Earned(0.0, False, False),
        gripper_was_closed=before.observation.gripper_closed,
        with_gripper=with_gripper,
        demo=demo,
    )


def play(
    loop: Loop,
    encoder: Encoder,
    choose: Choose,
    seed: int,
    *,
    scene: str = "",
    segment: Segment = Segment.ALL,
    person: ScriptedPerson | None = None,
    episode_id: str = "",
    learn: Callable[[Transition], None] | None = None,
) -> Episode:
    """Play one episode with a policy, and with a person who may help.

    Args:
        loop: where; it is reset.
        choose: the policy.
        seed: of the start state.
        segment: of the task that the policy plays; a person brings the episode to its beginning.
        learn: called with every transition as soon as it has happened.
    """
    with_gripper = loop.task.control.gripper is GripperUse.BINARY
    tick = lead_in(loop, segment, seed, scene)
    features = encoder.encode(tick.observation, tick.truth)
    steps = helped = 0
    while tick.status.phase is Phase.RUNNING:
        chosen = np.asarray(choose(features), dtype=np.float64)
        action = Action(chosen[:6], bool(chosen[6] > 0.5) if with_gripper else True)
        step, after = loop.step(action, person.command(tick) if person else None)
        seen = features, encoder.encode(after.observation, after.truth)
        steps, helped = steps + 1, helped + (step.source is Source.HUMAN)
        if learn is not None:
            learn(_transition(episode_id, tick, step, after, seen, with_gripper=with_gripper))
        tick, features = after, seen[1]
    return Episode(tick.status.outcome, steps, helped)


def demonstration(
    encoder: Encoder, episode_id: str, ticks: list[Tick], steps: list[Step], *, with_gripper: bool
) -> Iterator[Transition]:
    """The transitions of a demonstrated episode (``rldg_sim.demonstrate``)."""
    before = encoder.encode(ticks[0].observation, ticks[0].truth)
    for tick, step, following in zip(ticks, steps, ticks[1:], strict=False):
        after = encoder.encode(following.observation, following.truth)
        yield _transition(episode_id, tick, step, following, (before, after), with_gripper=with_gripper, demo=True)
        before = after
