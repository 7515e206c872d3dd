"""SIGKILL of actor and learner while a specialist is trained: each step of the bags is learned from exactly once."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rldg_interfaces.msg import Step

from rldg_bringup.episode_runner_node import EpisodeRunner
from rldg_bringup.launch_runner import Launch
from rldg_bringup.running import running
from rldg_bringup.testing import free_environment
from rldg_bringup.train_graph import POLICY, READY_TIMEOUT_S, Cell
from rldg_core.task import load_task
from rldg_core.types import Outcome, Source
from rldg_recorder.episode import read_info
from rldg_recorder.episode_reader import find_bags, read_episode
from rldg_rl.checkpoint import Label, TransitionLog, load_weights
from rldg_rl.config import load_config
from rldg_rl.graph import begin
from rldg_rl.learner import LOG_FILE
from rldg_rl.policy import WEIGHTS
from rldg_rl.worker import START
from rldg_ros import qos

TASK = "usb_insertion"
PRESET = """
encoder: pixels_sim
activation: relu
hidden: [16]
batch: 16
utd: 2
warmup_steps: 20
demos: 1
pretrain_frames: 128
pretrain_epochs: 1
checkpoint_every_steps: 50
"""
ACTOR, LEARNER = f"policy_{POLICY}", "learner"


Told = tuple[str, int, bytes, float]  # episode, index, executed action, what it earned


class Training:
    """A training graph that is up, in lockstep."""

    def __init__(self, run: Path, launch: Launch, runner: EpisodeRunner) -> None:
        self.run, self.launch, self.runner, self.cell = run, launch, runner, Cell(runner)
        self._seed = 0
        self._steps = 0  # heard since the last episode was asked for
        runner.listen(Step, "step", self._on_step, qos.reliable(50))

    def _on_step(self, msg: Step) -> None:
        self._steps += bool(msg.episode_id)

    def demonstrate(self) -> None:
        self.cell.select(policy=False)
        assert self.play() is Outcome.SUCCESS
        self.cell.select(policy=True)

    def play(self) -> Outcome:
        """An episode with everyone there."""
        self._seed += 1
        (episode,) = self.cell.play(self._seed, 1)
        return episode.outcome

    def play_and_kill(self, *kills: tuple[int, str]) -> int:
        """An episode, to its end, in which nodes are killed, each after so many steps.

        Who is only just coming back from the last time is not waited for. Returns how many were there to be killed.
        """
        killed = 0
        self._seed += 1
        self._steps = 0
        result = self.runner.start_episodes(1, self._seed).get_result_async()
        for steps, victim in kills:
            self.runner.spin_until(lambda steps=steps: self._steps >= steps or result.done(), 60.0, "a step")
            if victim in self.launch.running():
                os.kill(self.launch.pid(victim), signal.SIGKILL)
                killed += 1
        self.runner.spin_until(result.done, 60.0, "the end of the episode")
        return killed

    def check(self) -> None:
        """The learner has each step of the bags, as it was, exactly once."""
        self.runner.wait_until_ready(READY_TIMEOUT_S)
        bags = self.run / "bags"
        self.runner.spin_until(lambda: len(closed(bags)) == self._seed, 60.0, "the last bag")
        steps = [step for folder in closed(bags) for step in recorded(folder)]
        self.runner.spin_until(lambda: len(learned(self.run)) >= len(steps), 60.0, "the last transition")
        taken = learned(self.run)
        assert [name for name, count in Counter((step[0], step[1]) for step in taken).items() if count > 1] == []
        assert sorted(taken) == sorted(steps)


def closed(bags: Path) -> list[Path]:
    return [folder for folder in find_bags(bags) if read_info(folder).state != "recording"] if bags.is_dir() else []


def recorded(folder: Path) -> list[Told]:
    """What there is to learn from a bag; of an episode that no policy drove, only if it succeeded."""
    episode = read_episode(folder)
    if Source.POLICY not in episode.source[:-1] and episode.info.outcome is not Outcome.SUCCESS:
        return []
    return [
        (episode.info.episode_id, t, episode.executed[t].astype(np.float32).tobytes(), float(episode.reward[t + 1]))
        for t in range(len(episode) - 1)
    ]


def learned(run: Path) -> list[Told]:
    """What the learner says that it has taken in."""
    _, config, spec = load_weights(run / START / WEIGHTS)
    log = TransitionLog(run / LEARNER / LOG_FILE, spec, config.views)
    try:
        entries = [entry for entry in log.entries() if not isinstance(entry, Label)]
    finally:
        log.close()
    return [(entry.episode_id, entry.t, entry.action.tobytes(), entry.reward) for entry in entries]


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    preset, run = tmp_path / "preset.yaml", tmp_path / "run"
    preset.write_text(PRESET)
    task = load_task(TASK)
    begin(task, load_config(preset, task.family), run, 0)
    arguments = {"task": TASK, "preset": str(preset), "run": str(run), "lockstep": "true"}
    with running("train", arguments, tmp_path, READY_TIMEOUT_S, free_environment()) as (launch, runner):
        yield Training(run, launch, runner)


@pytest.mark.timeout(300)  # three starts of JAX, on cores that are shared
def test_steps_that_a_dead_learner_missed_come_from_their_bag_and_none_twice(training: Training) -> None:
    from_bags = [0]

    def on_diagnostics(msg: DiagnosticArray) -> None:
        found = [pair.value for s in msg.status if s.name == "learner: bags" for pair in s.values]
        from_bags[0] = max([from_bags[0], *(int(value) for value in found)])

    training.runner.listen(DiagnosticArray, "/diagnostics", on_diagnostics, qos.reliable(100))
    training.demonstrate()
    training.play()
    training.play_and_kill((10, LEARNER), (20, ACTOR))
    training.play()
    training.check()
    training.runner.spin_until(lambda: from_bags[0] > 0, 30.0, "word of steps from bags")

    before, during, after = (read_episode(folder) for folder in closed(training.run / "bags")[-3:])
    held = during.source[:-1] == int(Source.HOLD)
    assert held.any() and not held[0], "it was not killed while it drove"
    assert not during.executed[:-1][held].any()
    assert during.info.state == "complete"
    for episode in (before, after):
        assert (episode.source[:-1] != int(Source.HOLD)).all()
    assert any("lockstep: policy is missing" in line for line in training.launch.lines)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_thirty_kills_at_random_points_lose_and_repeat_nothing(training: Training) -> None:
    rng = random.Random(0)
    training.demonstrate()
    kills = 0  # of one or of both
    while kills < 30:
        victims = rng.choice([(ACTOR,), (LEARNER,), (ACTOR, LEARNER)])
        if rng.random() < 0.8:
            training.runner.wait_until_ready(READY_TIMEOUT_S)
        kills += training.play_and_kill(*((rng.randint(0, 90), victim) for victim in victims)) > 0
    training.play()
    training.check()
