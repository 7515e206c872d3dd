"""Every shipped task loads; every mistake gives one line with file, key and what is allowed."""

import numpy as np
import pytest

from rldg_core.task import Placement, PoseSpec, Range, TaskError, config_directory, load_robot, load_task, task_names

MINIMAL = """
name: peg
family: connector_insertion
split: seen
instruction: insert the peg
workspace: {min_m: [0.4, -0.1, 0.05], max_m: [0.6, 0.1, 0.3]}
fixture: {pose: {xyz_m: [0.5, 0.0, 0.0]}}
start: {pose: {xyz_m: [0.0, 0.0, 0.2]}}
success: {goal: {xyz_m: [0.0, 0.0, 0.1]}, position_tolerance_m: [0.005, 0.005, 0.003]}
scenes: [{name: seen}]
"""


@pytest.fixture
def write(tmp_path):
    def _write(text, name="peg.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return _write


def refusal(path):
    with pytest.raises(TaskError) as caught:
        load_task(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path.parent) in message
    return message


@pytest.mark.parametrize("name", task_names())
def test_every_shipped_task_loads(name):
    assert load_task(name).name == name


@pytest.mark.parametrize("path", sorted((config_directory() / "robots").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_robot_loads(path):
    assert load_robot(path.stem).base_frame


def test_a_minimal_file_gets_the_defaults(write):
    task = load_task(write(MINIMAL))
    assert task.control.rate_hz == 10.0
    np.testing.assert_array_equal(task.control.scale, [0.015] * 3 + [0.1] * 3)
    assert task.max_steps == 100


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        ("control: {rate: 10}", "control", "rate_hz"),
        ("impedance: {compliance: {k: 1}}", "impedance.compliance", "k_pos_n_m"),
        ("control: {rate_hz: 300}", "control.rate_hz", "<= 50"),
        ("control: {translation_scale_m: 15}", "control.translation_scale_m", "<= 0.05"),
        ("time_limit_s: soon", "time_limit_s", "float"),
        ("time_limit_s: .nan", "time_limit_s", "> 0.0"),
        ("camera: {image_size_px: 1000000000}", "camera.image_size_px", "<= 512"),
        ("safety: {max_force_n: -1}", "safety.max_force_n", "> 0.0"),
        ("nonsense: 1", "(top level)", "workspace"),
        ("paraphrases: insert it", "paraphrases", "array"),
        ("object: {pose: {xyz_m: [0, 0]}}", "object.pose.xyz_m", "length 3"),
        ("safety: {max_action_age_s: .inf}", "safety.max_action_age_s", "<= 5.0"),
        ("safety: {max_observation_age_s: 1.0e+300}", "safety.max_observation_age_s", "<= 5.0"),
        ("safety: {gripper_dwell_s: .inf}", "safety.gripper_dwell_s", "<= 5.0"),
        ("impedance: {nullspace_stiffness_nm_rad: .inf}", "impedance.nullspace_stiffness_nm_rad", "<= 50.0"),
        ("time_limit_s: 0.001", "time_limit_s", "less than one period"),
        ('paraphrases: ["a\\x1b[2J"]', "paraphrases[0]", "matching regex"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_is_allowed(write, text, key, allowed):
    message = refusal(write(MINIMAL + text + "\n"))
    assert f": {key}: " in message
    assert allowed in message


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name: peg", "name: plug", "must equal the file name"),
        ("family: connector_insertion", "family: pick_and_place", "control.gripper"),
        ("[0.4, -0.1, 0.05]", "[0.7, -0.1, 0.05]", "below max_m"),
        ("[{name: seen}]", "[]", "length >= 1"),
        ("[{name: seen}]", "[{name: a}, {name: a}]", "must differ"),
        ("success: {", "success: {subject: object, ", "no object"),
        ("workspace:", "#", "workspace"),
    ],
)
def test_what_one_key_alone_cannot_say_is_checked(write, old, new, words):
    assert words in refusal(write(MINIMAL.replace(old, new)))


@pytest.mark.parametrize("text", ["[", "- 1", "", "\x00", "a: &a [*a]", "a: " + "[" * 20_000, "a: " + "9" * 5000])
def test_a_file_that_is_no_mapping_is_refused(write, text):
    refusal(write(text))


def test_a_missing_file_says_which_tasks_exist():
    with pytest.raises(TaskError, match=r"tasks here: .*usb_insertion"):
        load_task("no_such_task")


def test_a_file_overlays_the_one_it_extends(write):
    write(MINIMAL.replace("name: peg", "time_limit_s: 7.0\ncontrol: {rate_hz: 20.0}"), "_base.yaml")
    task = load_task(write("extends: _base.yaml\nname: peg\ncontrol: {rotation_scale_rad: 0.05}\n"))
    assert (task.time_limit_s, task.control.rate_hz, task.control.rotation_scale_rad) == (7.0, 20.0, 0.05)


def test_files_that_extend_each_other_are_refused(write):
    write("extends: peg.yaml", "_base.yaml")
    assert "circle" in refusal(write("extends: _base.yaml\nname: peg\n"))


def test_a_circle_through_another_spelling_of_the_path_is_found(write, tmp_path):
    path = write(f"extends: ../{tmp_path.name}/peg.yaml\n")
    assert "circle" in refusal(path)


def test_a_refusal_stays_readable_whatever_it_refuses(write):
    message = refusal(write(MINIMAL.replace("insert the peg", "x" * 10_000)))
    assert len(message) < 500 and "instruction" in message
    with pytest.raises(TaskError, match="too long"):
        load_task("x" * 5000)


def test_an_unknown_scene_says_which_exist(write):
    with pytest.raises(TaskError, match="it has seen"):
        load_task(write(MINIMAL)).scene("dark")


def test_samples_stay_within_the_range_and_use_it():
    placement = Placement(pose=PoseSpec(xyz_m=(0.5, 0.0, 0.1)), randomize=Range(xyz_m=(0.05, 0.02, 0.0), yaw_rad=0.3))
    rng = np.random.default_rng(0)
    samples = [placement.sample(rng) for _ in range(300)]
    offsets = np.array([s.position for s in samples]) - [0.5, 0.0, 0.1]
    assert (np.abs(offsets) <= [0.05, 0.02, 0.0]).all()
    assert (np.ptp(offsets, axis=0)[:2] > [0.09, 0.036]).all()
