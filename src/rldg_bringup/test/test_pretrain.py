"""From nothing to weights that a fine-tuning can begin with: a tiny run of the whole verb."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from rldg_bringup import cli
from rldg_bringup.broad_episodes import BroadRecipe, broad_frames, load_recipe
from rldg_core.task import TaskError, task_names
from rldg_policies.finetuning import FinetuneConfig
from rldg_recorder.plan import DatasetError

RECIPE = BroadRecipe(episodes={"usb_insertion": 2, "fmb_insertion": 1}, image_size_px=32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broad")
    broad_frames(RECIPE, folder, 0, 1)
    return folder


def test_the_shipped_recipe_covers_every_family_that_is_seen() -> None:
    assert set(load_recipe().episodes) <= set(task_names())
    families = {"connector_insertion", "fmb_insertion", "pick_and_place", "fmb_assembly"}
    from rldg_core.task import load_task

    assert {load_task(name).family.value for name in load_recipe().episodes} == families


def test_episodes_are_whole_and_are_made_once(data: Path) -> None:
    made = {path: path.stat().st_mtime_ns for path in data.iterdir()}
    assert len(made) == 3
    (first := sorted(made)[0]).unlink()
    told: list[tuple[int, int]] = []
    frames = broad_frames(RECIPE, data, 0, 1, lambda done, count: told.append((done, count)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    again = {path: path.stat().st_mtime_ns for path in data.iterdir()}
    assert again.keys() == made.keys() and [path for path in made if again[path] != made[path]] == [first]
    for episode in (*frames.train, *frames.held_out):
        assert episode.images[0].shape == (32, 32, 3) and len(episode.images) == len(episode) > 20
        assert episode.action.shape[1] == 7 and np.abs(episode.action[:, :6]).max() <= 1.0
        assert episode.action[:, 6].max() == 0.0  # the gripper is closed throughout
    assert len({episode.instruction for episode in (*frames.train, *frames.held_out)}) == 3


def test_a_damaged_episode_is_named(data: Path, tmp_path: Path) -> None:
    for path in data.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = sorted(tmp_path.iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:500])
    with pytest.raises(DatasetError, match=r"cannot be read: .*; remove it, it will be made again"):
        broad_frames(RECIPE, tmp_path, 0, 1)


@pytest.fixture
def compile_quickly() -> Iterator[None]:
    """The model is so small that optimising it takes longer than running it."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("compile_quickly")
def test_weights_come_out_that_a_fine_tuning_takes(data: Path, tmp_path: Path, capsys) -> None:
    from rldg_policies.octo.checkpoint import load
    from rldg_policies.octo.presets import preset

    config = FinetuneConfig(
        type="octo", base="octo-test", steps=2, batch=2, evaluate_every=2, evaluation_frames=8, window=2
    )
    (tmp_path / "tiny.yaml").write_bytes(msgspec.yaml.encode(config))
    (tmp_path / "recipe.yaml").write_bytes(msgspec.yaml.encode(RECIPE))
    out = tmp_path / "weights"
    argv = ["pretrain", str(tmp_path / "tiny.yaml"), "--recipe", str(tmp_path / "recipe.yaml"), "--data", str(data)]
    assert cli.main([*argv, "--out", str(out), "--jobs", "1"]) == 0
    assert "next: ./rldg finetune" in capsys.readouterr().out
    assert load(out).config == preset("octo-test")
    assert not (out / "policy.yaml").exists()  # many tasks, many scales: no task can be served


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["octo_big"], "no such file; there are: octo_nano, openvla_nano"),
        (["octo_nano", "--recipe", "{}/none.yaml"], "none.yaml"),
    ],
)
def test_a_wrong_call_is_refused_in_a_line(argv: list[str], message: str, tmp_path: Path, capsys) -> None:
    assert cli.main(["pretrain", *(word.format(tmp_path) for word in argv)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_an_unknown_task_in_a_recipe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("episodes: {folding: 3}\n")
    with pytest.raises(TaskError, match=r"folding\.yaml: no such file"):
        load_recipe(path)
