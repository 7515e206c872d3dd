"""Readings of a calibration: a folder with ``readings.yaml`` and the images that it names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from rldg_bringup.board import Intrinsics
from rldg_core.calibration import CalibrationError, mean_pose
from rldg_core.frames import Pose
from rldg_core.yaml_text import decode_yaml

FILE = "readings.yaml"
READINGS_MAX = 500
REST_S, POSES_MIN = 0.5, 5
REST_MAX_M, REST_MAX_RAD = 5e-4, 2e-3

Metre = Annotated[float, msgspec.Meta(ge=-3.0, le=3.0)]
Part = Annotated[float, msgspec.Meta(ge=-1.001, le=1.001)]
Pixels = Annotated[int, msgspec.Meta(ge=16, le=10000)]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-z_]{1,40}\.png$")]


class Reading(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the TCP was, base frame, and what the camera saw."""

    position_m: tuple[Metre, Metre, Metre]
    quaternion: tuple[Part, Part, Part, Part]  # x y z w
    image: FileName | None = None

    def pose(self) -> Pose:
        return Pose(np.array(self.position_m), np.array(self.quaternion))


class Camera(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    width_px: Pixels
    height_px: Pixels
    matrix: Annotated[tuple[float, ...], msgspec.Meta(min_length=9, max_length=9)]
    distortion: Annotated[tuple[float, ...], msgspec.Meta(max_length=14)] = ()

    def intrinsics(self) -> Intrinsics:
        return Intrinsics(
            self.width_px, self.height_px, np.array(self.matrix).reshape(3, 3), np.array(self.distortion, dtype=float)
        )


class Readings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    readings: Annotated[tuple[Reading, ...], msgspec.Meta(max_length=READINGS_MAX)] = ()
    camera: Camera | None = None


def load(folder: Path) -> Readings:
    """The readings of a folder.

    Raises:
        CalibrationError: there are none, or the file is wrong; one line.
    """
    path = folder / FILE
    try:
        readings = msgspec.convert(decode_yaml(path.read_bytes()), Readings)
        for reading in readings.readings:
            reading.pose()  # a quaternion without length is none
    except OSError as error:
        raise CalibrationError(f"{path}: {error.strerror}; take readings first: --take") from None
    except (msgspec.ValidationError, ValueError) as error:
        raise CalibrationError(f"{path}: {error}") from None
    return readings


def save(folder: Path, readings: Readings) -> None:
    """Write them so that an interruption leaves the old or the new ones."""
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f".{FILE}.new"
    new.write_bytes(msgspec.yaml.encode(msgspec.to_builtins(readings)))
    new.replace(folder / FILE)


def load_image(folder: Path, name: str, camera: Camera) -> npt.NDArray[np.uint8]:
    """An image of the camera, RGB; raises CalibrationError."""
    from PIL import Image

    try:
        with Image.open(folder / name) as image:
            if image.size != (camera.width_px, camera.height_px):
                raise CalibrationError(
                    f"{folder / name}: is {image.width} x {image.height} px, the camera gives "
                    f"{camera.width_px} x {camera.height_px}"
                )
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise CalibrationError(f"{folder / name}: cannot be read: {error}") from None


def at_rest(window: list[tuple[float, Pose]], now_s: float) -> Pose | str:
    """The pose at which the arm rests, or why there is none.

    Args:
        window: arrival times (s, of the clock of ``now_s``) and poses, oldest first.
    """
    recent = [pose for at_s, pose in window if now_s - at_s <= REST_S]
    if len(recent) < POSES_MIN:
        return f"{len(recent)} poses in {REST_S} s on current_pose, at least {POSES_MIN}: does the cell run?"
    if now_s - window[0][0] < REST_S:
        return f"the arm has been heard for less than {REST_S} s"
    first = recent[0]
    moved_m = max(float(np.linalg.norm(pose.position - first.position)) for pose in recent)
    cosines = [abs(float(pose.quaternion @ first.quaternion)) for pose in recent]
    turned_rad = 2.0 * math.acos(min(1.0, min(cosines)))
    if moved_m > REST_MAX_M or turned_rad > REST_MAX_RAD:
        return f"the arm moves ({1e3 * moved_m:.1f} mm, {1e3 * turned_rad:.1f} mrad in {REST_S} s): let it come to rest"
    return mean_pose(recent)
