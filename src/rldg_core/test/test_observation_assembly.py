"""One observation per tick: interpolation to the image stamp, ages, tare, numbering, a frozen camera."""

import numpy as np
import pytest

from rldg_core.observation import ObservationAssembler, Track, proprioception
from rldg_core.testing import running, tool_down
from rldg_core.types import EpisodeStatus, Phase

MS = 1_000_000


def image(value: int) -> np.ndarray:
    return np.full((4, 4, 3), value, np.uint8)


def filled(wrench: float = 0.0) -> ObservationAssembler:
    assembler = ObservationAssembler()
    for t in (0, 10):
        assembler.add_pose(t * MS, tool_down(0.5 + 0.001 * t))
        assembler.add_twist(t * MS, np.full(6, float(t)))
        assembler.add_wrench(t * MS, np.full(6, wrench))
        assembler.add_gripper(t * MS, 0.02)
    return assembler


def test_the_state_is_interpolated_to_the_image_stamp():
    assembler = filled()
    assembler.add_image(4 * MS, image(1))
    observation = assembler.assemble(30 * MS)
    assert observation.stamp_ns == 4 * MS
    assert observation.tcp_pose.position[0] == pytest.approx(0.504)
    assert observation.tcp_twist[0] == pytest.approx(4.0)
    assert observation.image_age_s == pytest.approx(0.026)
    assert observation.state_age_s == pytest.approx(0.020)
    assert observation.skew_s == pytest.approx(0.006)


def test_an_image_after_the_newest_state_gets_that_state_and_says_the_skew():
    assembler = filled()
    assembler.add_image(25 * MS, image(1))
    observation = assembler.assemble(30 * MS)
    assert observation.tcp_pose.position[0] == pytest.approx(0.51)
    assert observation.skew_s == pytest.approx(0.015)


def test_a_stream_that_fell_silent_shows_in_age_and_skew():
    assembler = filled()
    for t in range(20, 500, 10):
        assembler.add_pose(t * MS, tool_down())
    assembler.add_image(490 * MS, image(1))
    observation = assembler.assemble(500 * MS)
    assert observation.state_age_s == pytest.approx(0.49) and observation.skew_s == pytest.approx(0.48)


def test_the_track_reaches_back_a_second_whatever_the_rate():
    track = Track(lambda a, b, f: a + f * (b - a))
    for t in range(5000):
        track.add(t * MS, float(t))
    assert track.at(4100 * MS)[0] == 4100.0 and track.at(0)[0] == 3999.0


def test_nothing_is_assembled_while_an_input_is_missing_and_it_is_named():
    assembler = ObservationAssembler()
    assembler.add_pose(0, tool_down())
    assert assembler.assemble(0) is None
    assert assembler.missing() == ["twist", "wrench", "gripper", "image"]


def test_observations_are_numbered_within_the_episode_and_carry_its_reset_pose():
    assembler = filled()
    numbers = []
    phases = [Phase.IDLE, Phase.RUNNING, Phase.RUNNING, Phase.ENDED, Phase.RUNNING]
    ids = ["", "s/1", "s/1", "s/1", "s/2"]
    for t, (phase, episode_id) in enumerate(zip(phases, ids, strict=True)):
        assembler.set_episode(running(t, phase=phase, episode_id=episode_id, reset_pose=tool_down(0.55)))
        assembler.add_image(t * MS, image(t))
        observation = assembler.assemble(t * MS)
        numbers.append((observation.episode_id, observation.index, observation.reset_pose.position[0]))
    assert numbers == [("", 0, 0.0), ("s/1", 0, 0.55), ("s/1", 1, 0.55), ("", 0, 0.0), ("s/2", 0, 0.55)]


def test_the_tare_is_subtracted_only_within_an_episode():
    assembler = filled(wrench=5.0)
    assembler.add_image(10 * MS, image(1))
    assembler.set_episode(EpisodeStatus(0, phase=Phase.RESETTING))
    np.testing.assert_allclose(assembler.assemble(10 * MS).wrench, 5.0, atol=1e-6)
    assembler.set_episode(running(0, tare=np.full(6, 5.0)))
    np.testing.assert_allclose(assembler.assemble(10 * MS).wrench, 0.0, atol=1e-6)


def test_the_wrench_is_low_passed():
    assembler = filled(wrench=0.0)
    assembler.add_wrench(11 * MS, np.full(6, 100.0))
    assembler.add_image(11 * MS, image(1))
    assert 0.0 < assembler.assemble(11 * MS).wrench[0] < 10.0


def test_a_camera_that_repeats_its_image_while_the_arm_moves_is_frozen():
    assembler = filled()
    for t in range(10, 60, 10):
        assembler.add_pose(t * MS, tool_down(0.5 + 0.0005 * t))
        assembler.add_image(t * MS, image(7))
        assembler.assemble(t * MS)
    assert "camera frozen" in assembler.faults()[0]
    assembler.add_image(60 * MS, image(8))
    assembler.assemble(60 * MS)
    assert assembler.faults() == []


def test_a_camera_that_repeats_its_image_while_the_arm_rests_is_fine():
    assembler = filled()
    for t in range(10, 60, 10):
        assembler.add_pose(t * MS, tool_down(0.51))
        assembler.add_image(t * MS, image(7))
        assembler.assemble(t * MS)
    assert assembler.faults() == []


def test_a_simulated_arm_that_is_put_elsewhere_by_a_reset_does_not_make_the_camera_frozen():
    assembler = filled()
    assembler.set_episode(EpisodeStatus(stamp_ns=0, phase=Phase.RESETTING))
    assembler.add_image(15 * MS, image(7))  # after the arm was moved, between two samples of its pose
    assembler.add_pose(20 * MS, tool_down(0.6))
    assembler.assemble(20 * MS)
    assembler.set_episode(running(20 * MS))
    for t in range(30, 60, 10):
        assembler.add_pose(t * MS, tool_down(0.6))
        assembler.add_image(t * MS, image(7))
        assembler.assemble(t * MS)
    assert assembler.faults() == []


def test_a_camera_is_not_called_frozen_while_nobody_knows_where_it_was():
    assembler = filled()
    for t in (100, 200):
        assembler.add_image(t * MS, image(7))  # the poses are late
        assembler.assemble(t * MS)
    for t in (300, 400):
        assembler.add_pose(t * MS, tool_down(0.6))
        assembler.add_image(t * MS, image(7))
        assembler.assemble(t * MS)
    assert assembler.faults() == []


def test_a_clock_that_jumps_back_starts_the_track_again():
    track = Track(lambda a, b, f: a + f * (b - a))
    track.add(100, 1.0)
    track.add(50, 2.0)
    assert track.at(100) == (2.0, 50)


def test_proprioception_does_not_depend_on_where_the_reset_pose_is():
    vectors = []
    for x in (0.45, 0.55):
        assembler = filled()
        assembler.add_pose(20 * MS, tool_down(x, 0.01, 0.15, yaw=0.2))
        assembler.set_episode(running(0, reset_pose=tool_down(x, 0.0, 0.2)))
        assembler.add_image(20 * MS, image(1))
        vectors.append(proprioception(assembler.assemble(20 * MS)))
    assert vectors[0].shape == (19,) and vectors[0].dtype == np.float32
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    np.testing.assert_allclose(vectors[0][:3], [0.0, -0.01, 0.05], atol=1e-6)


def _wrench_after(events: list[str]) -> np.ndarray:
    """What is observed at tick 3 after these events at ticks 1 to 3: a wrench arrives, a verdict, an assembly."""
    assembler = ObservationAssembler()
    for word in events:
        kind, stamp_ns = word[0], int(word[1:]) * 100 * MS
        if kind == "w":
            assembler.add_wrench(stamp_ns, np.full(6, float(word[1:]) ** 2))
        elif kind == "e":
            assembler.set_episode(EpisodeStatus(stamp_ns=stamp_ns, phase=Phase.RESETTING))
        else:
            assembler.add_pose(stamp_ns, tool_down())
            assembler.add_twist(stamp_ns, np.zeros(6))
            assembler.add_gripper(stamp_ns, 0.0)
            assembler.add_image(stamp_ns, np.zeros((4, 4, 3), np.uint8))
            observation = assembler.assemble(stamp_ns)
    assert observation is not None
    return observation.wrench


def test_the_wrench_filter_does_not_care_who_overtakes_whom() -> None:
    expected = _wrench_after(["w1", "a1", "e1", "w2", "a2", "w3", "a3"])
    for events in (["w1", "a1", "w2", "e1", "a2", "w3", "a3"], ["w1", "a1", "e1", "w2", "w2", "a2", "e1", "w3", "a3"]):
        assert np.array_equal(_wrench_after(events), expected), events
