"""Both generalists learn a small set, are written and drive; a run that was stopped equals one that was not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rldg_core.frames import Pose
from rldg_core.task import load_robot, load_task
from rldg_core.types import Observation
from rldg_policies.finetuning import FinetuneConfig, FinetuningError, Lora, Stepped, Trainer, run_finetuning
from rldg_policies.policy import check_chunk, make_policy
from rldg_policies.training_frames import FrameEpisode, TrainingFrames
from rldg_recorder.statistics import column_statistics

USB, ROBOT = load_task("usb_insertion"), load_robot("fr3")
CONFIGS = {
    "octo": FinetuneConfig(
        type="octo", base="octo-test", steps=6, batch=4, evaluate_every=3, evaluation_frames=8, save_every=2, window=2
    ),
    "openvla": FinetuneConfig(
        type="openvla", base="openvla-test", steps=6, batch=4, evaluate_every=3, evaluation_frames=8, save_every=2
    ),
    "openvla with an adapter": FinetuneConfig(
        type="openvla",
        base="openvla-test",
        steps=6,
        batch=2,
        accumulate=2,
        lora=Lora(rank=4, alpha=4),
        evaluate_every=3,
        evaluation_frames=8,
        save_every=2,
    ),
}


@pytest.fixture(scope="module")
def frames() -> TrainingFrames:
    """The brightness of the image says what to do."""
    rng = np.random.default_rng(0)
    episodes = []
    for number in range(5):
        bright = rng.uniform(0.0, 1.0, 8)
        images = [np.full((32, 32, 3), 255 * value, np.uint8) for value in bright]
        action = np.column_stack([np.outer(2.0 * bright - 1.0, np.ones(6)), np.ones(8)]).astype(np.float32)
        episodes.append(FrameEpisode(images, action, f"insert plug {number % 2}"))
    every = np.concatenate([episode.action for episode in episodes])
    statistics: dict[str, Any] = {"usb": {"action": {**column_statistics(every), "mask": [True] * 6 + [False]}}}
    scale = tuple(USB.control.scale.tolist())
    return TrainingFrames("usb", 10.0, scale, tuple(episodes[1:]), tuple(episodes[:1]), statistics)


def make_trainer(config: FinetuneConfig, frames: TrainingFrames) -> Trainer:
    if config.type == "octo":
        from rldg_policies.octo.finetuning import OctoTrainer

        return OctoTrainer(config, frames, 0)
    from rldg_policies.openvla.finetuning import OpenVLATrainer

    return OpenVLATrainer(config, frames, 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.timeout(300)  # XLA compiles for most of it
@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_makes_a_policy_and_can_be_taken_up(name: str, frames: TrainingFrames, tmp_path: Path) -> None:
    config = CONFIGS[name]
    whole = run_finetuning(make_trainer(config, frames), config, frames, tmp_path / "whole" / "usb", 0)
    assert whole.steps == 6 and abs(whole.served_accuracy - whole.trained_accuracy) < 0.03

    def stop(event: object) -> None:
        if isinstance(event, Stepped):  # after the last step, the last state saved being that of step 4
            raise KeyboardInterrupt

    out = tmp_path / "again" / "usb"
    with pytest.raises(KeyboardInterrupt):
        run_finetuning(make_trainer(config, frames), config, frames, out, 0, stop)
    run_finetuning(make_trainer(config, frames), config, frames, out, 0)
    assert contents(out) == contents(tmp_path / "whole" / "usb")

    policy = make_policy(config.type, USB, ROBOT, "student", {"checkpoint": str(out)})
    policy.warm_up()
    policy.reset()
    image = np.full((128, 128, 3), 90, np.uint8)
    seen = Observation(
        5, image, Pose.identity(), np.zeros(6), np.zeros(6), 0.0, True, instruction="insert plug 1", episode_id="e"
    )
    for _ in range(3):
        check_chunk(policy.act(seen), seen, "student", ROBOT.tcp_frame)


def test_a_set_that_does_not_say_what_its_actions_mean_is_refused(frames: TrainingFrames, tmp_path: Path) -> None:
    from dataclasses import replace

    config = CONFIGS["octo"]
    unknown = replace(frames, scale=())
    with pytest.raises(FinetuningError, match="does not say rate and scale of actions"):
        run_finetuning(make_trainer(config, unknown), config, unknown, tmp_path / "usb", 0)
    assert not (tmp_path / "usb").exists()
