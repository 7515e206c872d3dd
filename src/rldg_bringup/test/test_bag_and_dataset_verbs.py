"""The verbs bag and dataset from end to end, on bags written by the recorder's own writer."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from mcap.reader import make_reader
from PIL import Image

from rldg_bringup import bag, dataset
from rldg_core.task import load_task
from rldg_core.types import Outcome
from rldg_recorder.episode import EpisodeInfo, read_info, write_info
from rldg_recorder.testing_bags import episode_items, write_bag

TICKS = 20


@pytest.fixture
def bags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three recorded episodes below the working directory; the last of them failed."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        folder = tmp_path / "bags" / "s" / f"{number:04}"
        episode_id = f"s/{number:04}"
        # without the 1 kHz state, which only takes time here
        write_bag(folder, (item for item in episode_items(episode_id, TICKS) if item.topic != "/current_pose"))
        info = EpisodeInfo(
            state="complete",
            session_id="s",
            episode_id=episode_id,
            scene="seen",
            seed=number,
            instruction="insert the usb plug",
            outcome=Outcome.SUCCESS if number < 2 else Outcome.FAILURE,
            audit="ok",
            steps=TICKS,
            task=load_task("usb_insertion"),
        )
        write_info(folder, info)
    return tmp_path / "bags"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text("name: small\nsources:\n  - {name: all}\nformat: {image_size_px: 64}\n")
    return path


WAIVED = ["--waive", "length", "--waive", "constant", "--waive", "stale"]  # the episodes are short and stand still


def test_list_says_how_each_episode_ended(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bag.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("success") and lines[2].startswith("failure")
    assert lines[1].endswith(str(Path("bags/s/0001")))


def test_list_names_a_bag_that_cannot_be_read_and_goes_on(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bags / "s/0001/episode.yaml").write_text("format: 9")
    assert bag.main(["list", str(bags)]) == 1
    out = capsys.readouterr().out
    assert "0001/episode.yaml: format: is 9" in out and "s/0002" in out


def test_inspect_draws_a_picture_and_writes_for_foxglove(bags: Path, tmp_path: Path) -> None:
    assert bag.main(["inspect", "bags/s/0000", "--foxglove", "view.mcap"]) == 0
    assert Image.open(bags / "s/0000/inspect.png").width > 500
    with (tmp_path / "view.mcap").open("rb") as file:
        frames = [json.loads(message.data) for _, _, message in make_reader(file).iter_messages(["/wrist"])]
    assert len(frames) == TICKS and frames[0]["format"] == "jpeg"


def test_salvage_leaves_whole_bags_alone(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (bags / "s/0000/0000_0.mcap").read_bytes()
    assert bag.main(["salvage", "bags/s/0000"]) == 0
    assert "whole" in capsys.readouterr().out
    assert (bags / "s/0000/0000_0.mcap").read_bytes() == before


def test_salvage_mends_a_bag_that_was_cut_off(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = bags / "s/0000/0000_0.mcap"
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    (bags / "s/0000/metadata.yaml").unlink()
    assert bag.main(["inspect", "bags/s/0000"]) == 1
    assert "./rldg bag salvage" in capsys.readouterr().err
    assert bag.main(["salvage", "bags/s/0000"]) == 0
    assert bag.main(["inspect", "bags/s/0000"]) == 0


@pytest.mark.parametrize("command", ["list", "audit", "inspect", "salvage"])
def test_a_folder_without_bags_is_named(tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bag.main([command, str(tmp_path / "nowhere")]) == 1
    error = capsys.readouterr().err
    assert "nowhere" in error and error.count("\n") == 1


def test_build_takes_what_the_recipe_wants_and_says_what_it_left(
    bags: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dataset.main(["build", str(recipe), "--jobs", "1", *WAIVED]) == 0
    out = capsys.readouterr().out
    assert "2 episodes, 38 frames" in out and "left out: 1" in out and "verified: datasets/small" in out
    info = json.loads(Path("datasets/small/meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["total_frames"] == 2 * (TICKS - 1)


def test_a_set_is_not_overwritten_unasked(bags: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, status in (([], 0), ([], 1), (["--overwrite"], 0)):
        assert dataset.main(["build", str(recipe), "--executor", "serial", *WAIVED, *options]) == status
    assert "datasets/small" in capsys.readouterr().err


def test_a_plan_alone_writes_nothing(bags: Path, recipe: Path) -> None:
    assert dataset.main(["build", str(recipe), "--plan"]) == 0
    assert not Path("datasets").exists()


def test_a_built_set_can_be_looked_at_exported_and_edited(bags: Path, recipe: Path) -> None:
    assert dataset.main(["build", str(recipe), "--executor", "serial", *WAIVED]) == 0
    assert dataset.main(["inspect", "datasets/small", "--picture", "p.png", "--foxglove", "f.mcap"]) == 0
    assert Image.open("p.png").width > 500 and Path("f.mcap").stat().st_size > 0
    assert dataset.main(["export", "datasets/small", "--rlds", "rlds"]) == 0
    assert list(Path("rlds/small/1.0.0").glob("*.tfrecord*"))
    dataset.main(["delete", "datasets/small", "--episodes", "0", "--to", "datasets/smaller"])
    assert json.loads(Path("datasets/smaller/meta/info.json").read_text())["total_episodes"] == 1


def test_names_that_look_like_markup_are_printed_as_they_are(
    bags: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("0000", "0001", "0002"):
        info = read_info(bags / "s" / name)
        scene = "[/lab]" if name == "0000" else info.scene
        write_info(bags / "s" / name, msgspec.structs.replace(info, instruction="", scene=scene))
    (bags / "s").rename(bags / "[lab]")
    recipe.write_text(recipe.read_text().replace("{name: all}", "{name: all, select: {scene: [seen]}}"))
    assert dataset.main(["build", str(recipe), "--executor", "serial", "--out", "[b]", *WAIVED]) == 1
    out = capsys.readouterr().out
    assert "scene [/lab])" in out and "/[lab]/0001" in out and "refused: [b]/small" in out


def test_a_build_writes_rlds_too_and_says_where(bags: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["build", str(recipe), "--executor", "serial", "--out", "my sets", "--rlds", "my rlds"]
    assert dataset.main([*call, *WAIVED]) == 0
    assert "RLDS: my rlds/small/1.0.0\n" in capsys.readouterr().out
    assert len(list(Path("my rlds/small/1.0.0").glob("*.tfrecord*"))) == 1
    write_info(bags / "s/0000", msgspec.structs.replace(read_info(bags / "s/0000"), instruction=""))
    assert dataset.main([*call, "--overwrite"]) == 1, "the gate refuses it"
    assert "RLDS: my rlds/small/1.0.0 is refused with it\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "call",
    [
        ["build", "nowhere.yaml"],
        ["verify", "nowhere"],
        ["inspect", "nowhere"],
        ["export", "nowhere", "--rlds", "out"],
        ["merge", "nowhere", "--to", "datasets/x"],
    ],
)
def test_a_missing_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dataset.main(call) == 1
    error = capsys.readouterr().err
    assert error.startswith("rldg dataset: ") and "nowhere" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
