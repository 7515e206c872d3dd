"""The scripted operator beside a specialist in training: demonstrates, and later helps in short bursts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rldg_core.teleop import Teleop
from rldg_core.types import Observation, Step
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.main import run
from rldg_sim.operator import OperatorCommand
from rldg_sim.operator_node import HANDS_OFF, OperatorNode, Surroundings

if TYPE_CHECKING:
    from rldg_rl.interventions import ScriptedPerson


class PersonNode(OperatorNode):
    """Where no policy is selected it shows the whole task; where one is, it helps as the preset's schedule says."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._preset = self.declare("preset", "pixels_sim", "Training preset with the schedule: a name or a YAML file.")
        self._person: ScriptedPerson | None = None

    def on_setup(self) -> None:
        from rldg_rl.config import load_config
        from rldg_rl.interventions import ScriptedPerson

        schedule = load_config(self._preset, self.task.family).interventions
        self._person = ScriptedPerson(self.task, schedule, int(self.get_parameter("style_seed").value))
        self._policy_drives = False
        self._helped_in = ""  # id of the episode
        self._episodes = 0
        self._helps, self._away = False, 0  # whether it helped at the last tick, and ticks to keep the hands off
        # hands that are off keep the door for so long: helping again before the policy has driven makes one long burst
        self._ticks_held = round(Teleop.hold_s * self.task.control.rate_hz)
        super().on_setup()
        self.listen(convert.STEP, "step", self._on_step, qos.reliable(10))

    def choose(self, observation: Observation, truth: Surroundings) -> OperatorCommand:
        assert self._person is not None
        if not self._policy_drives:
            return super().choose(observation, truth)
        if observation.episode_id != self._helped_in:
            self._helped_in, self._helps, self._away = observation.episode_id, False, 0
            self._person.begin(self._episodes)
            self._episodes += 1
        if self._away:
            self._away -= 1
            return HANDS_OFF
        command = self._person.ask(observation, truth)
        if command is None and self._helps:
            self._away = self._ticks_held - 1  # this tick is the first of them
        self._helps = command is not None
        return command or HANDS_OFF

    def _on_step(self, step: Step) -> None:
        self._policy_drives = bool(step.policy_id)


def main(args: list[str] | None = None) -> int:
    return run(PersonNode, args)


if __name__ == "__main__":
    sys.exit(main())
