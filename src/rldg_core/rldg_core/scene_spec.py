"""What a task looks like in simulation; the part of the task file that only ``rldg_sim`` interprets.

Frames: a *port* has its origin in the middle of its mouth, on its upper face, z up; a *bowl* at the middle of its foot;
a *held* part is described in the TCP frame, whose z points out of the hand; a free *object* about its own middle.
"""

from __future__ import annotations

import enum
import math
from typing import Annotated

import msgspec

Size = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]  # m
Offset = Annotated[float, msgspec.Meta(ge=-1.0, le=1.0)]  # m
Fraction = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Rotation = Annotated[float, msgspec.Meta(ge=-2.0 * math.pi, le=2.0 * math.pi)]  # rad
RGB = tuple[Fraction, Fraction, Fraction]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part of the scene description: immutable, and an unknown key is an error."""


class Rectangle(_Strict, frozen=True, tag="rectangle", tag_field="shape", kw_only=True):
    size_m: tuple[Size, Size]  # x, y


class Stadium(_Strict, frozen=True, tag="stadium", tag_field="shape", kw_only=True):
    """A rectangle whose two short sides are half circles (USB-C)."""

    size_m: tuple[Size, Size]  # x, y; x is the longer

    def __post_init__(self) -> None:
        if self.size_m[0] <= self.size_m[1]:
            raise ValueError(f"size_m: x {self.size_m[0]} must be longer than y {self.size_m[1]}")


class Circle(_Strict, frozen=True, tag="circle", tag_field="shape", kw_only=True):
    diameter_m: Size


class Polygon(_Strict, frozen=True, tag="polygon", tag_field="shape", kw_only=True):
    """A convex outline, corners counter-clockwise seen from +z."""

    points_m: Annotated[tuple[tuple[Offset, Offset], ...], msgspec.Meta(min_length=3, max_length=32)]

    def __post_init__(self) -> None:
        points = self.points_m
        for i, (x0, y0) in enumerate(points):
            (x1, y1), (x2, y2) = points[(i + 1) % len(points)], points[(i + 2) % len(points)]
            if (x1 - x0) * (y2 - y1) - (y1 - y0) * (x2 - x1) <= 0.0:
                raise ValueError(f"points_m: corner {(i + 1) % len(points)} is not a convex, counter-clockwise turn")


Outline = Rectangle | Stadium | Circle | Polygon


class Held(_Strict, frozen=True, kw_only=True):
    """What the closed fingers hold from the start: a grip with a shaft of constant outline that goes into the port."""

    outline: Outline  # of the shaft, in the TCP frame's x and y
    length_m: Size  # of the shaft below the shoulder
    reach_m: Size  # from the TCP to the shoulder
    grip_size_m: tuple[Size, Size, Size]  # the box between the fingers: x, y (across the fingers), z
    rgb: RGB = (0.78, 0.78, 0.8)
    grip_rgb: RGB = (0.08, 0.08, 0.09)


class Port(_Strict, frozen=True, tag="port", tag_field="kind", kw_only=True):
    """A block with one straight hole."""

    clearance_m: Annotated[float, msgspec.Meta(gt=0.0, le=0.01)]  # each side
    depth_m: Size
    outline: Outline | None = None  # of what is inserted; default: that of the held part
    body_size_m: tuple[Size, Size]  # x, y of the connector's body around the hole
    board_size_m: tuple[Size, Size]  # x, y of the board that carries it
    rim_m: Annotated[float, msgspec.Meta(gt=0.0, le=0.02)] = 0.0012  # thickness of the metal around the mouth
    rgb: RGB = (0.1, 0.1, 0.11)
    rim_rgb: RGB = (0.72, 0.73, 0.75)
    board_rgb: RGB = (0.05, 0.3, 0.16)
    inside_rgb: RGB = (0.015, 0.015, 0.02)
    tongue: tuple[Size, Size] | None = None  # x, y of what shows inside the mouth; seen, not felt
    tongue_rgb: RGB = (0.9, 0.9, 0.9)
    decoys: bool = False  # other outlines painted on the board, as on the FMB board


class Bowl(_Strict, frozen=True, tag="bowl", tag_field="kind", kw_only=True):
    radius_m: Size  # of the rim
    height_m: Size
    rgb: RGB = (0.75, 0.2, 0.2)


class PartShape(enum.StrEnum):
    BOX = "box"  # size_m: half lengths x, y, z
    SPHERE = "sphere"  # size_m: radius
    CAPSULE = "capsule"  # size_m: radius, half length along z
    CYLINDER = "cylinder"  # size_m: radius, half length along z
    ELLIPSOID = "ellipsoid"  # size_m: radii x, y, z


class Part(_Strict, frozen=True, kw_only=True):
    """One primitive of a free object."""

    shape: PartShape
    size_m: Annotated[tuple[Size, ...], msgspec.Meta(min_length=1, max_length=3)]
    xyz_m: tuple[Offset, Offset, Offset] = (0.0, 0.0, 0.0)
    rpy_rad: tuple[Rotation, Rotation, Rotation] = (0.0, 0.0, 0.0)
    rgb: RGB = (0.5, 0.5, 0.5)
    solid: bool = True  # false: seen, not felt

    def __post_init__(self) -> None:
        needed = {"box": 3, "sphere": 1, "capsule": 2, "cylinder": 2, "ellipsoid": 3}[self.shape.value]
        if len(self.size_m) != needed:
            raise ValueError(f"size_m: a {self.shape.value} needs {needed} values, got {len(self.size_m)}")


class FreeObject(_Strict, frozen=True, kw_only=True):
    parts: Annotated[tuple[Part, ...], msgspec.Meta(min_length=1, max_length=16)]
    mass_kg: Annotated[float, msgspec.Meta(gt=0.0, le=2.0)] = 0.08


class Simulation(_Strict, frozen=True, kw_only=True):
    """Geometry shared by all scenes of a task."""

    fixture: Port | Bowl
    held: Held | None = None
    object: FreeObject | None = None


class Surface(enum.StrEnum):
    PLAIN = "plain"
    SPECKLE = "speckle"
    CLOTH = "cloth"
    TILES = "tiles"
    WOOD = "wood"


_NEUTRAL: tuple[RGB, ...] = ((0.62, 0.62, 0.6), (0.45, 0.47, 0.5), (0.75, 0.72, 0.66), (0.3, 0.32, 0.36))


class SceneSpec(_Strict, frozen=True, kw_only=True):
    """A variant of a task: seen or unseen object, background and light. Drawn anew, from the seed, at every reset."""

    name: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]*$", max_length=64)]
    split: Annotated[str, msgspec.Meta(pattern="^(seen|unseen)$")] = "seen"
    object: FreeObject | None = None  # instead of the task's object
    surfaces: Annotated[tuple[Surface, ...], msgspec.Meta(min_length=1)] = (Surface.PLAIN, Surface.SPECKLE)
    surface_rgb: Annotated[tuple[RGB, ...], msgspec.Meta(min_length=1)] = _NEUTRAL
    colour_jitter: Fraction = 0.08  # half width, of every colour channel
    light_intensity: tuple[Fraction, Fraction] = (0.45, 0.7)
    light_tilt_rad: Annotated[float, msgspec.Meta(ge=0.0, le=1.2)] = 0.5  # at most, from straight down
    light_warmth: Fraction = 0.15  # how far the light's colour may go to yellow or blue
    distractors: Annotated[int, msgspec.Meta(ge=0, le=8)] = 3  # at most, lying around the work area
