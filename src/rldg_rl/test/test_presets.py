"""Presets are read strictly."""

import pytest

from rldg_core.task import TaskError
from rldg_rl.config import Encoder, TrainingConfig, load_config, preset_names


def test_there_is_a_preset_for_every_encoder() -> None:
    assert {load_config(name, "connector").encoder for name in preset_names()} == set(Encoder)


def test_defaults_are_the_paper_s_numbers_where_it_gives_them() -> None:
    config = TrainingConfig(encoder=Encoder.PIXELS)
    assert (config.gamma, config.tau, config.learning_rate, config.batch) == (0.97, 0.005, 3e-4, 256)
    assert (config.hidden, config.critics, config.initial_temperature) == ((256, 256), 2, 0.01)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gama: 0.9", "unknown field `gama`"),
        ("gamma: 1.0", "gamma: Expected `float` < 1.0"),
        ("batch: 255", "batch: is 255, must be even"),
        ("actor_every: 3", "actor_every: is 3, must divide utd, 4"),
        ("critic_subset: 3", "critic_subset: is 3, must be at most critics, 2"),
        ("interventions: {burst_steps: [5, 3]}", "shortest 5 is above longest 3"),
        ("encoder: resnet", "encoder: Invalid enum value"),
        ("hidden: [256, 0]", "hidden"),
    ],
)
def test_a_wrong_preset_is_refused_in_one_line(line, words, tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(line if line.startswith("encoder") else f"encoder: state\n{line}\n")
    with pytest.raises(TaskError, match=words) as refused:
        load_config(path, "connector")
    assert "\n" not in str(refused.value)


def test_a_preset_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(TaskError, match="pixels, pixels_sim, state"):
        load_config("fast", "connector")


def test_a_preset_may_extend_another(tmp_path) -> None:
    (tmp_path / "base.yaml").write_text("encoder: state\nutd: 8\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\ngamma: 0.98\n")
    config = load_config(tmp_path / "mine.yaml", "connector")
    assert (config.encoder, config.utd, config.gamma) == (Encoder.STATE, 8, 0.98)


def test_a_preset_says_what_is_different_for_a_family_of_tasks(tmp_path) -> None:
    (tmp_path / "base.yaml").write_text("encoder: state\nfamilies: {pick_and_place: {gamma: 0.99}}\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nfamilies: {pick_and_place: {utd: 8}}\n")
    config = load_config(tmp_path / "mine.yaml", "pick_and_place")
    assert (config.gamma, config.utd) == (0.99, 8)
    assert load_config(tmp_path / "mine.yaml", "connector") == TrainingConfig(encoder=Encoder.STATE)


@pytest.mark.parametrize("families", ["3", "{pick_and_place: 3}", "{pick_and_place: {gama: 1}}"])
def test_what_is_different_for_a_family_is_read_strictly_too(families: str, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(f"encoder: state\nfamilies: {families}\n")
    with pytest.raises(TaskError, match=r"families: must map|gama"):
        load_config(tmp_path / "mine.yaml", "pick_and_place")
