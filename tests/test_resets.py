"""A reset in the middle of a motion, and a run that is cancelled."""

from pathlib import Path

import numpy as np
from rldg_interfaces.msg import Episode
from rldg_interfaces.msg import Step as StepMsg
from rldg_interfaces.srv import ResetScene

from rldg_bringup.testing import running_cell
from rldg_core.safety import Envelope
from rldg_core.task import load_task
from rldg_core.types import Outcome, Phase, Source, Step
from rldg_ros import qos
from rldg_ros.conversions import episode_from_msg, step_from_msg


def test_a_reset_while_the_arm_moves_keeps_the_target_inside_and_the_arm_where_it_was_put(tmp_path: Path) -> None:
    envelope = Envelope(load_task("usb_insertion").workspace)
    steps: list[Step] = []
    with running_cell(tmp_path) as (_, runner):
        runner.listen(StepMsg, "step", lambda m: steps.append(step_from_msg(m)), qos.reliable(50))
        runner.start_episodes(count=1)
        runner.spin_until(lambda: sum(s.source is Source.HUMAN for s in steps) > 10, 30.0, "motion")
        client = runner.node.create_client(ResetScene, "reset_scene")
        runner.spin_until(client.service_is_ready, 5.0, "reset_scene")
        future = client.call_async(ResetScene.Request(seed=7, move_arm=True))
        runner.spin_until(future.done, 5.0, "the reset")
        assert future.result().success
        runner.spin(1.0)
    assert all(envelope.contains(step.target, 1e-6) for step in steps)
    assert all(np.isfinite(step.executed.delta).all() for step in steps)


def test_an_unknown_scene_is_refused_and_nothing_moves(tmp_path: Path) -> None:
    with running_cell(tmp_path, lockstep="true", operator="none") as (_, runner):
        client = runner.node.create_client(ResetScene, "reset_scene")
        runner.spin_until(client.service_is_ready, 5.0, "reset_scene")
        future = client.call_async(ResetScene.Request(scene="nowhere"))
        runner.spin_until(future.done, 5.0, "the answer")
        assert not future.result().success and "no scene 'nowhere'" in future.result().message


def test_a_cancelled_run_ends_its_episode_as_aborted(tmp_path: Path) -> None:
    verdicts = []
    with running_cell(tmp_path) as (_, runner):
        runner.listen(Episode, "episode", lambda m: verdicts.append(episode_from_msg(m)), qos.latched())
        handle = runner.start_episodes(count=3)
        runner.spin_until(lambda: any(v.phase is Phase.RUNNING for v in verdicts), 30.0, "an episode")
        future = handle.cancel_goal_async()
        runner.spin_until(lambda: any(v.phase is Phase.ENDED for v in verdicts), 10.0, "its end")
        assert future.done()
    ended = next(v for v in verdicts if v.phase is Phase.ENDED)
    assert ended.outcome is Outcome.ABORTED and ended.reward == 0.0
