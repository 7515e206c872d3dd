"""What the cameras show."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from rldg_core.frames import Pose
from rldg_core.task import task_names
from rldg_sim.cell import Cell
from rldg_sim.rendering import RenderingError


def pixel_of(cell: Cell, point: np.ndarray, size: int) -> tuple[int, int]:
    """Row and column at which the wrist camera should show a point of the base frame."""
    stage = cell._stage
    camera = stage.model.camera("wrist").id
    local = stage.data.cam_xmat[camera].reshape(3, 3).T @ (point - stage.data.cam_xpos[camera])
    focal = 0.5 * size / np.tan(np.deg2rad(stage.model.cam_fovy[camera]) / 2.0)
    return round(size / 2 + focal * local[1] / local[2] - 0.5), round(size / 2 - focal * local[0] / local[2] - 0.5)


@pytest.mark.parametrize("size", [128, 224, 256])
def test_the_hole_is_seen_where_it_is(make_cell, size: int) -> None:
    cell = make_cell("fmb_insertion")
    for seed in (1, 2, 3):
        cell.reset("", seed)
        fixture = cell.truth().fixture_pose
        cell.set_target(fixture @ Pose.from_rpy([-0.01, 0.0, 0.1], [np.pi, 0.0, 0.0]))
        cell.advance(4.0)
        image = cell.image("wrist", size)
        assert image.shape == (size, size, 3) and image.dtype == np.uint8
        # a little behind the middle, where the peg does not hide the hole
        row, column = pixel_of(cell, fixture.transform([-0.006, 0.0, -0.01]), size)
        face = pixel_of(cell, fixture.transform([-0.02, 0.0, 0.0]), size)
        assert image[row, column].astype(int).sum() < 150, "the hole is dark"
        assert image[face].astype(int).sum() > 2 * image[row, column].astype(int).sum() + 100, "the board is bright"


@pytest.mark.parametrize("name", task_names())
def test_every_scene_renders_something_worth_seeing(make_cell, name: str) -> None:
    cell = make_cell(name)
    for scene in cell.task.scenes:
        cell.reset(scene.name, 1)
        for camera in ("wrist", "scene"):
            image = cell.image(camera, 128)
            assert image.std() > 15.0
            assert 30.0 < image.mean() < 230.0


def test_seeds_and_scenes_look_different_and_repeat(make_cell) -> None:
    cell = make_cell("usb_insertion")
    pictures = {}
    for scene in ("seen", "unseen_background"):
        for seed in range(4):
            cell.reset(scene, seed)
            pictures[scene, seed] = cell.image("wrist", 64).astype(int)
    keys = list(pictures)
    for i, a in enumerate(keys):
        for b in keys[:i]:
            assert np.abs(pictures[a] - pictures[b]).mean() > 3.0, (a, b)
    cell.reset("seen", 2)
    np.testing.assert_array_equal(cell.image("wrist", 64), pictures["seen", 2])


def test_the_image_follows_the_arm(make_cell) -> None:
    cell = make_cell("usb_insertion")
    start = cell.reset("", 1)
    before = cell.image("wrist", 64).astype(int)
    cell.set_target(Pose(start.position + np.array([0.02, 0.0, 0.0]), start.quaternion))
    cell.advance(1.0)
    assert np.abs(cell.image("wrist", 64).astype(int) - before).mean() > 2.0


@pytest.mark.parametrize(("camera", "size"), [("side", 128), ("wrist", 8), ("wrist", 4096), ("scene", 1000)])
def test_a_wrong_camera_or_size_is_refused(make_cell, camera: str, size: int) -> None:
    with pytest.raises(ValueError, match=r"camera: is 'side'|size_px: is"):
        make_cell("usb_insertion").image(camera, size)


def test_missing_opengl_names_the_packages_to_install() -> None:
    code = (
        "from rldg_core.task import load_task; from rldg_sim.cell import Cell\n"
        "cell = Cell(load_task('usb_insertion')); cell.advance(0.1)\n"
        "try: cell.image()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    import os

    environment = {**os.environ, "MUJOCO_GL": "disabled"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(RenderingError.__name__), done.stderr
    assert "libegl1" in done.stdout and "libgl1-mesa-dri" in done.stdout and done.stdout.count("\n") == 1
