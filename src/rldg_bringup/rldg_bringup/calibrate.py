"""``calibrate``: finds the wrist camera, the tool's tip or a task's fixture, and writes what the loaders read.

Readings are taken from a running cell, one at each Enter, and kept, so that a result can be computed again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rldg_bringup import readings as store
from rldg_bringup.board import BoardError, draw, find
from rldg_core.calibration import CalibrationError, moved_box, rms, solve_fixture, solve_hand_eye, solve_tip
from rldg_core.frames import Array, Pose
from rldg_core.task import TaskError, config_directory, load_robot, load_task
from rldg_core.yaml_text import decode_yaml

_WHAT = ("board", "hand_eye", "tip", "fixture")
_HOW = {
    "hand_eye": "fix the board where the wrist camera sees it, and tilt the wrist 20 to 40 degrees to different sides",
    "tip": "put the tip of the tool into a dimple, and tilt the tool 20 degrees to different sides",
    "fixture": "drive the plug home by hand; once more from the start for each further reading",
}


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rldg calibrate", description=__doc__.partition("\n")[0][15:])
    parser.add_argument("what", choices=_WHAT, help="board: draw the one to print for hand_eye")
    parser.add_argument("task", nargs="?", help="with fixture: a name of config/tasks or a YAML file")
    parser.add_argument("--take", action="store_true", help="take readings from a running cell first")
    parser.add_argument("--readings", type=Path, help="folder of the readings (default: rig/readings/<what>)")
    parser.add_argument("--leave-out", default="", metavar="I,J", help="numbers of readings that do not count")
    parser.add_argument("--square-mm", type=float, default=25.0, help="side of a square of the board, as printed")
    parser.add_argument("--robot-file", default="fr3", help="the robot file that the cell runs with (default: fr3)")
    parser.add_argument("--out", type=Path, help="file to write (default: in rig/, named like the file laid over)")
    options = parser.parse_args(argv)
    if (options.what == "fixture") != (options.task is not None):
        parser.error("fixture needs a task, and nothing else has one")
    if not 1.0 <= options.square_mm <= 500.0:
        parser.error(f"--square-mm: is {options.square_mm}, must be 1 to 500")
    return options


def main(argv: list[str]) -> int:
    """Run the verb; returns 0 where the result was written, 1 where the readings do not tell it, 2 for a wrong call."""
    options = _arguments(argv)
    try:
        if options.what == "board":
            print(write_board(options.out or Path("board.png"), options.square_mm))
            return 0
        folder = options.readings or Path("rig/readings") / Path(options.task or options.what).stem
        if options.take:
            _take(options.what, folder)
        kept = _kept(store.load(folder), options.leave_out)
        if options.what == "fixture":
            print(write_fixture(kept, options.task, options.out))
        elif options.what == "tip":
            print(write_tip(kept, options.robot_file, options.out))
        else:
            print(write_hand_eye(kept, folder, options.square_mm / 1e3, options.robot_file, options.out))
    except (CalibrationError, BoardError, TaskError) as error:
        print(f"rldg calibrate: {error}", file=sys.stderr)
        return 1
    return 0


def write_board(path: Path, square_mm: float) -> str:
    """Draw the board as PNG, its size in it, so that it prints as large as said; returns what to tell."""
    from PIL import Image

    square_px = 200
    dpi = square_px / square_mm * 25.4
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw(square_px)).save(path, dpi=(dpi, dpi))
    return f"{path}: print at 100 %, glue it flat, measure a square and give --square-mm"


def write_hand_eye(kept: store.Readings, folder: Path, square_m: float, robot: str, out: Path | None) -> str:
    """Find the camera and write ``tcp_to_camera``; returns what to tell."""
    if kept.camera is None:
        raise CalibrationError(f"{folder}: has no camera; take the readings with a camera that runs")
    base_tcp, views = [], []
    unseen = []
    for number, reading in enumerate(kept.readings):
        if reading.image is None:
            raise CalibrationError(f"{folder}: reading {number} has no image")
        try:
            image = store.load_image(folder, reading.image, kept.camera)
            views.append(find(image, kept.camera.intrinsics(), square_m))
            base_tcp.append(reading.pose())
        except BoardError as error:
            if "OpenCV" in str(error):
                raise
            unseen.append(f"{reading.image}: {error}")
    try:
        found = solve_hand_eye(base_tcp, views)
    except CalibrationError as error:
        raise CalibrationError("; ".join([str(error), *unseen])) from None
    path = _overlay(robot, "robots", out, {"tcp_to_camera": _spec(found.tcp_camera)}, load_robot)
    lines = [*(f"not used: {line}" for line in unseen), _errors(found.errors_m, found.errors_rad)]
    return "\n".join([*lines, f"camera in the TCP frame: {_told(found.tcp_camera)}", f"written: {path}"])


def write_tip(kept: store.Readings, robot: str, out: Path | None) -> str:
    """Find the tip and write ``flange_to_tcp``, so that the TCP is there; returns what to tell."""
    found = solve_tip([reading.pose() for reading in kept.readings])
    tcp = load_robot(robot).flange_to_tcp.pose() @ Pose(found.tcp_tip_m, Pose.identity().quaternion)
    path = _overlay(robot, "robots", out, {"flange_to_tcp": _spec(tcp)}, load_robot)
    tip_mm = 1e3 * found.tcp_tip_m
    return (
        f"{_errors(found.errors_m)}\ntip in the TCP frame: {tip_mm[0]:.1f} {tip_mm[1]:.1f} {tip_mm[2]:.1f} mm\n"
        f"TCP in the flange frame: {_told(tcp)}\nwritten: {path}"
    )


def write_fixture(kept: store.Readings, task_name: str, out: Path | None) -> str:
    """Find the fixture and write a task file with it and with the workspace moved along; returns what to tell."""
    task = load_task(task_name)
    found = solve_fixture([reading.pose() for reading in kept.readings], task.success.goal.pose())
    old, new = task.fixture.pose.pose(), found.base_fixture
    low, high = moved_box(task.workspace.min_m, task.workspace.max_m, old, new)
    spec = _spec(new)
    turned_rad = spec["rpy_rad"][2] - _spec(old)["rpy_rad"][2]
    box = {"min_m": _rounded(low), "max_m": _rounded(high), "yaw_rad": round(task.workspace.yaw_rad + turned_rad, 6)}
    path = _overlay(task_name, "tasks", out, {"fixture": {"pose": spec}, "workspace": box}, load_task)
    return "\n".join([_errors(found.errors_m, found.errors_rad), f"fixture: {_told(new)}", f"written: {path}"])


def _take(what: str, folder: Path) -> None:
    """Add readings to a folder, one at each Enter, until a line says q or input ends."""
    from PIL import Image

    from rldg_bringup.calibration_node import ReadingTaker
    from rldg_bringup.domain import cell_domain

    try:
        domain = cell_domain()
    except LookupError as error:
        raise CalibrationError(error.args[0]) from None
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    old = store.load(folder) if (folder / store.FILE).exists() else store.Readings()
    taken = list(old.readings)
    print(f"{_HOW[what]}; keep still and press Enter for each reading, q and Enter to end")
    with ReadingTaker(domain, with_camera=what == "hand_eye") as taker:
        for _ in _enters():
            try:
                pose, image = taker.take()
            except CalibrationError as error:
                print(f"not taken: {error}")
                continue
            name = None
            if image is not None:
                name = f"{len(taken):03}.png"
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(folder / name)
            x, y, z, w = pose.quaternion.tolist()
            px, py, pz = pose.position.tolist()
            taken.append(store.Reading((px, py, pz), (x, y, z, w), name))
            store.save(folder, store.Readings(tuple(taken), taker.camera or old.camera))
            print(f"reading {len(taken) - 1}: {_told(pose)}")


def _enters() -> Iterator[None]:
    while (line := sys.stdin.readline()) and line.strip().lower() != "q":
        yield


def _kept(readings: store.Readings, leave_out: str) -> store.Readings:
    try:
        left = {int(word) for word in leave_out.split(",") if word.strip()}
    except ValueError:
        left = {-1}
    if not left <= set(range(len(readings.readings))):
        raise CalibrationError(f"--leave-out: is {leave_out!r}, must be numbers from 0 to {len(readings.readings) - 1}")
    return msgspec.structs.replace(
        readings, readings=tuple(reading for i, reading in enumerate(readings.readings) if i not in left)
    )


def _overlay(name: str, kind: str, out: Path | None, keys: dict[str, Any], load: Callable[[Path], object]) -> Path:
    """Write a file that says ``keys`` and what it said before, once it loads.

    It is laid over the file ``name``, or is that file.
    """
    base = Path(name) if Path(name).suffix in (".yaml", ".yml") else config_directory() / kind / f"{name}.yaml"
    path = out or Path("rig") / f"{base.stem}.yaml"
    data: Any = {"extends": os.path.relpath(base.resolve(), path.parent.resolve())}
    if kind == "tasks":
        data["name"] = path.stem
    if path.exists():  # calibrated before: the rest of it stays
        try:
            data = decode_yaml(path.read_bytes())
        except ValueError as error:
            raise CalibrationError(f"{path}: not YAML: {error}") from None
        ours = (path, path.parent / str(data.get("extends"))) if isinstance(data, dict) else ()
        if base.resolve() not in [file.resolve() for file in ours]:
            raise CalibrationError(f"{path}: is there and does not extend {base}; give another --out, or move it away")
    data.update(keys)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the same name, since a task is called like its file; in a folder of its own, since it must extend the same file
    trial = path.with_name(f".{path.stem}.new") / path.name
    trial.parent.mkdir(exist_ok=True)
    try:
        below = {"extends": str((path.parent / data["extends"]).resolve())} if "extends" in data else {}
        trial.write_bytes(msgspec.yaml.encode(data | below))
        load(trial)
        trial.write_bytes(msgspec.yaml.encode(data))
        trial.replace(path)
    finally:
        trial.unlink(missing_ok=True)
        trial.parent.rmdir()
    return path


def _spec(pose: Pose) -> dict[str, list[float]]:
    m = pose.matrix()
    # fixed-axis roll, pitch, yaw, as Pose.from_rpy takes them; at a pitch of a quarter turn only their sum is known
    rpy = np.array([np.arctan2(m[2, 1], m[2, 2]), -np.arcsin(np.clip(m[2, 0], -1, 1)), np.arctan2(m[1, 0], m[0, 0])])
    return {"xyz_m": _rounded(pose.position), "rpy_rad": _rounded(rpy)}


def _rounded(values: Array) -> list[float]:
    return [round(float(value), 6) for value in values]


def _told(pose: Pose) -> str:
    spec = _spec(pose)
    x, y, z = 1e3 * np.array(spec["xyz_m"])
    roll, pitch, yaw = np.degrees(spec["rpy_rad"])
    return f"{x:.1f} {y:.1f} {z:.1f} mm, roll {roll:.1f} pitch {pitch:.1f} yaw {yaw:.1f} degrees"


def _errors(errors_m: tuple[float, ...], errors_rad: tuple[float, ...] = ()) -> str:
    worst = int(np.argmax(errors_m))
    text = f"{len(errors_m)} readings agree within {1e3 * rms(errors_m):.2f} mm"
    text += f", {np.degrees(rms(errors_rad)):.2f} degrees" if errors_rad else ""
    return f"{text} (rms); worst: number {worst}, {1e3 * errors_m[worst]:.2f} mm"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
