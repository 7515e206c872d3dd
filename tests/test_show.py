"""A look at a task as a person takes it, and what it says when it is called wrongly."""

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

SEEN = ["usb_insertion", "ethernet_insertion", "vga_insertion", "pick_and_place", "fmb_insertion", "fmb_assembly"]


def run_show(*arguments: str, timeout_s: float = 110.0) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "ROS_DOMAIN_ID"}
    command = [sys.executable, "-m", "rldg_bringup.cli", "show", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment)


def test_a_look_succeeds_and_leaves_a_film_and_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    done = run_show("--episodes", "1", "--seed", "0", "--lockstep", "--output", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 succeeded" in done.stdout
    with av.open(str(folder / "film.mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) > 10 and frames[0].std() > 10.0
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 20
    sheet = np.asarray(Image.open(folder / "contact_sheet.png"))
    assert sheet.shape[1] > sheet.shape[0] and sheet.std() > 10.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "usb"], "no such file; tasks here: "),
        (["--scene", "nowhere"], "no scene 'nowhere'; it has seen"),
        (["--episodes", "0"], "must be 1 or more"),
        (["--seed", "-1"], "must be from 0"),
        (["--output", "/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_a_wrong_call_is_refused_in_one_line_before_anything_starts(arguments: list[str], words: str) -> None:
    done = run_show(*arguments)
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("task", SEEN)
def test_the_scripted_operator_does_every_seen_task_through_the_graph(task: str, tmp_path: Path) -> None:
    done = run_show(
        "--task", task, "--episodes", "5", "--seed", "0", "--lockstep", "--output", str(tmp_path), timeout_s=580.0
    )
    assert done.returncode == 0, done.stdout + done.stderr
