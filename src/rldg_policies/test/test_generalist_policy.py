"""A generalist drives only what it was trained for, and its answers become chunks that the door takes."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from rldg_core.frames import Pose
from rldg_core.task import Task, load_robot, load_task
from rldg_core.types import Observation
from rldg_policies.generalist import (
    CARD,
    GeneralistCard,
    GeneralistError,
    GeneralistPolicy,
    check_fits,
    read_card,
    write_card,
)
from rldg_policies.policy import check_chunk, make_policy

USB, ROBOT = load_task("usb_insertion"), load_robot("fr3")


def card(task: Task = USB, **changes: object) -> GeneralistCard:
    made = GeneralistCard(
        type="octo",
        name="set",
        base="octo-nano",
        training_set="set",
        statistics_sha256="c0ffee",
        rate_hz=task.control.rate_hz,
        scale=tuple(task.control.scale.tolist()),
        instructions=("insert",),
        steps=3,
        seed=0,
        held_out={"accuracy": 0.5},
    )
    return msgspec.structs.replace(made, **changes)


class Answers:
    """Says the same whatever it sees."""

    def __init__(self, actions: list[list[float]]) -> None:
        self.actions, self.heard = np.array(actions, np.float32), ""

    def predict(self, image: np.ndarray, instruction: str) -> np.ndarray:
        self.heard = instruction
        return self.actions

    def warm_up(self, image_px: int, instruction: str) -> None:
        self.heard = f"{image_px} px, {instruction}"

    def reset(self) -> None:
        self.heard = "reset"


def observation(instruction: str = "insert the plug") -> Observation:
    image = np.zeros((128, 128, 3), np.uint8)
    return Observation(
        7, image, Pose.identity(), np.zeros(6), np.zeros(6), 0.02, True, instruction=instruction, episode_id="e"
    )


def policy(answers: Answers, task: Task = USB, instruction: str = "") -> GeneralistPolicy:
    return GeneralistPolicy(answers, card(task), task, ROBOT, "octo", instruction)


def test_an_answer_becomes_a_chunk_that_the_door_takes() -> None:
    chunk = policy(Answers([[0.1, -0.2, 0.3, 0.0, 0.0, 3.0, 1.0]] * 4)).act(observation())
    check_chunk(chunk, observation(), "octo", ROBOT.tcp_frame)
    assert chunk.deltas.shape == (4, 6) and chunk.deltas[0, 5] == 1.0
    assert chunk.period_s == pytest.approx(0.1)


def test_where_the_gripper_is_fixed_it_stays_as_it_is_and_where_not_the_seventh_number_says() -> None:
    said = Answers([[0.0] * 6 + [0.9], [0.0] * 6 + [0.2]])
    assert policy(said).act(observation()).gripper_closed.tolist() == [True, True]
    grasping = load_task("pick_and_place")
    assert policy(said, grasping).act(observation()).gripper_closed.tolist() == [False, True]


def test_the_episode_s_instruction_is_given_unless_another_was_set() -> None:
    answers = Answers([[0.0] * 7])
    policy(answers).act(observation("insert the plug"))
    assert answers.heard == "insert the plug"
    policy(answers, instruction="wait").act(observation("insert the plug"))
    assert answers.heard == "wait"
    policy(answers).act(observation(""))  # between episodes
    assert answers.heard == USB.instruction


def test_warming_up_is_for_the_images_and_the_words_that_will_come() -> None:
    answers = Answers([[0.0] * 7])
    policy(answers).warm_up()
    assert answers.heard == f"{USB.camera.image_size_px} px, {USB.instruction}"
    policy(answers, instruction="wait").warm_up()
    assert answers.heard == f"{USB.camera.image_size_px} px, wait"


def test_an_answer_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="policy 'octo': its answer is not finite"):
        policy(Answers([[float("nan")] * 7])).act(observation())


def test_a_card_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_card(tmp_path, card())
    assert read_card(tmp_path, "octo") == card()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, r"policy.yaml: cannot be read.*./rldg finetune"),
        ("type: octo\n", "missing required field"),
        ("- 1\n", "Expected `object`"),
        ("a: [", "policy.yaml"),
    ],
)
def test_a_folder_without_a_good_card_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / CARD).write_text(text)
    with pytest.raises(GeneralistError, match=words) as refused:
        read_card(tmp_path, "octo")
    assert "\n" not in str(refused.value)


def test_a_checkpoint_of_the_other_type_is_refused(tmp_path: Path) -> None:
    write_card(tmp_path, card())
    with pytest.raises(GeneralistError, match="is of type 'octo', version 1; must be 'openvla', 1"):
        read_card(tmp_path, "openvla")


def test_another_scale_or_a_faster_rate_than_the_task_s_is_refused() -> None:
    check_fits(Path("c"), card(rate_hz=5.0), USB)
    with pytest.raises(GeneralistError, match=r"rate_hz 20\.0 is above the 10\.0 of task usb_insertion"):
        check_fits(Path("c"), card(rate_hz=20.0), USB)
    with pytest.raises(GeneralistError, match=r"scale .* differs from .* of task usb_insertion"):
        check_fits(Path("c"), card(load_task("pick_and_place")), USB)


@pytest.mark.parametrize("name", ["octo", "openvla"])
def test_both_are_found_by_name_and_refuse_what_they_do_not_know(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"policy_parameters: .*checkpoint"):
        make_policy(name, USB, ROBOT, name, {})
    with pytest.raises(ValueError, match=r"policy_parameters: .*unknown field `speed`"):
        make_policy(name, USB, ROBOT, name, {"checkpoint": "x", "speed": 3})
    with pytest.raises(GeneralistError, match=r"x/policy.yaml: cannot be read"):
        make_policy(name, USB, ROBOT, name, {"checkpoint": str(tmp_path / "x")})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"mode": "fast"}, r"Invalid enum value 'fast' - at `\$.mode`; must be one of exact, fast_int8, fast_int4$"),
        ({"mode": 8}, r"Expected `str`, got `int` - at `\$.mode`"),
        ({"device": "tpu"}, r"'tpu' - at `\$.device`; must be one of auto, cpu, cuda$"),
        ({"threads": -1}, r"Expected `int` >= 0 - at `\$.threads`$"),
    ],
)
def test_an_option_that_is_not_allowed_is_answered_with_those_that_are(given: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        make_policy("openvla", USB, ROBOT, "openvla", {"checkpoint": "x", **given})
    assert "\n" not in str(refused.value)
