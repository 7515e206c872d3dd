"""Tasks that nobody evaluates: the same families with other shapes, colours, words and tables.

A generalist that is to be fine-tuned needs something to come from. It is trained on these, drawn from a seed, so that
it has seen plugs, pegs, bowls and tables of all kinds, but none of the parts and scenes of ``config/tasks``.
"""

from __future__ import annotations

import colorsys
from typing import TypeVar

import msgspec
import numpy as np

from rldg_core.scene_spec import (
    RGB,
    Bowl,
    Circle,
    FreeObject,
    Outline,
    Part,
    PartShape,
    Port,
    Rectangle,
    SceneSpec,
    Simulation,
    Stadium,
    Surface,
)
from rldg_core.task import Family, Task

_COLOURS = {  # hue from, hue to, saturation from, value from
    "red": (0.97, 1.03, 0.6, 0.5),
    "orange": (0.06, 0.1, 0.7, 0.7),
    "yellow": (0.13, 0.17, 0.6, 0.7),
    "green": (0.27, 0.42, 0.5, 0.35),
    "blue": (0.55, 0.66, 0.5, 0.4),
    "purple": (0.74, 0.84, 0.4, 0.4),
    "white": (0.0, 1.0, 0.0, 0.85),
    "gray": (0.0, 1.0, 0.0, 0.4),
    "black": (0.0, 1.0, 0.0, 0.03),
}
_PALE = {"white", "gray", "black"}
T = TypeVar("T")


def varied(task: Task, seed: int) -> Task:
    """A task of the same family with other geometry, looks and words; the same seed gives the same task.

    What the task demands of the arm stays as it is: control, workspace, randomisation, depth of holes, time limit.

    Raises:
        ValueError: the task has no simulation.
    """
    if task.simulation is None:
        raise ValueError(f"task {task.name}: has no simulation section; nothing can be varied")
    rng = np.random.default_rng([seed, 0x7A5])
    changes = {
        Family.PICK_AND_PLACE: _picked,
        Family.FMB_ASSEMBLY: _assembled,
        Family.FMB_INSERTION: _pegged,
        Family.CONNECTOR_INSERTION: _plugged,
    }[task.family](rng, task, task.simulation)
    return msgspec.structs.replace(changes, paraphrases=(), scenes=(_scene(rng),))


def _plugged(rng: np.random.Generator, task: Task, simulation: Simulation) -> Task:
    held, port = simulation.held, simulation.fixture
    assert held is not None and isinstance(port, Port)
    outline = _outline(rng, (0.008, 0.02), (0.004, 0.009))
    x, y = _extent(outline)
    word, colour = _colour(rng)
    port_word, port_colour = _colour(rng)
    _, board = _colour(rng)
    grip_word, grip = _colour(rng)
    held = msgspec.structs.replace(
        held,
        outline=outline,
        grip_size_m=(x + 0.004, max(0.008, y + 0.004), held.grip_size_m[2]),
        rgb=colour,
        grip_rgb=grip,
    )
    port = _holed(rng, port, (x + 0.007, y + 0.007), port_colour)
    port = msgspec.structs.replace(port, board_rgb=board, rim_rgb=_colour(rng)[1])
    noun, where = _one(rng, ["plug", "connector", "cable"]), _one(rng, ["port", "socket", "slot", "opening"])
    adjective = _one(rng, [word, grip_word, _shape_word(outline)])
    verb = _one(
        rng, ["insert the {} {} into the {} {}", "plug the {} {} into the {} {}", "push the {} {} in the {} {}"]
    )
    said = verb.format(adjective, noun, port_word, where)
    return _replaced(task, said, msgspec.structs.replace(simulation, held=held, fixture=port))


def _pegged(rng: np.random.Generator, task: Task, simulation: Simulation) -> Task:
    held, port = simulation.held, simulation.fixture
    assert held is not None and isinstance(port, Port)
    outline = _outline(rng, (0.016, 0.03), (0.012, 0.02))
    word, colour = _colour(rng)
    _, body = _colour(rng)
    x, y = _extent(outline)
    grip = (x, y, held.grip_size_m[2])
    held = msgspec.structs.replace(held, outline=outline, grip_size_m=grip, rgb=colour, grip_rgb=colour)
    return _replaced(
        task,
        _peg_words(rng, word, outline, _one(rng, ["insert", "put", "push"])),
        msgspec.structs.replace(simulation, held=held, fixture=_holed(rng, port, port.body_size_m, body)),
    )


def _assembled(rng: np.random.Generator, task: Task, simulation: Simulation) -> Task:
    port, peg = simulation.fixture, simulation.object
    assert peg is not None and isinstance(port, Port)
    half = (float(rng.uniform(0.009, 0.014)), float(rng.uniform(0.006, 0.011)), peg.parts[0].size_m[2])
    outline = Rectangle(size_m=(2.0 * half[0], 2.0 * half[1]))
    word, colour = _colour(rng)
    _, body = _colour(rng)
    port = msgspec.structs.replace(_holed(rng, port, port.body_size_m, body), outline=outline)
    part = Part(shape=PartShape.BOX, size_m=half, rgb=colour)
    verb = _one(rng, ["grasp", "pick up", "take"]) + " the {0} and " + _one(rng, ["insert", "put", "fit"]) + " it"
    said = _peg_words(rng, word, outline, verb)
    return _replaced(
        task,
        said,
        msgspec.structs.replace(simulation, fixture=port, object=FreeObject(parts=(part,), mass_kg=peg.mass_kg)),
    )


def _picked(rng: np.random.Generator, task: Task, simulation: Simulation) -> Task:
    assert task.object is not None
    word, colour = _colour(rng)
    bowl_word, bowl_colour = _colour(rng)
    shape, half_width_m = _one(rng, list(PartShape)), float(rng.uniform(0.014, 0.026))
    length_m = float(rng.uniform(1.0, 1.8)) * half_width_m
    size, turn, noun = {
        PartShape.BOX: ((length_m, half_width_m, half_width_m), 0.0, "block"),
        PartShape.SPHERE: ((half_width_m,), 0.0, "ball"),
        PartShape.CAPSULE: ((half_width_m, length_m), np.pi / 2.0, "stick"),
        PartShape.CYLINDER: ((half_width_m, length_m), np.pi / 2.0, "can"),
        PartShape.ELLIPSOID: ((1.3 * half_width_m, half_width_m, half_width_m), 0.0, "toy"),
    }[shape]
    part = Part(shape=shape, size_m=size, rpy_rad=(0.0, float(turn), 0.0), rgb=colour)
    bowl = Bowl(radius_m=float(rng.uniform(0.075, 0.095)), height_m=float(rng.uniform(0.04, 0.055)), rgb=bowl_colour)
    pose = msgspec.structs.replace(
        task.object.pose, xyz_m=(*task.object.pose.xyz_m[:2], half_width_m + 0.002), rpy_rad=task.object.pose.rpy_rad
    )
    verb = _one(rng, ["put the {} {} in the {} bowl", "pick up the {} {} and place it in the {} bowl"])
    changed = _replaced(
        task,
        verb.format(word, noun, bowl_word),
        msgspec.structs.replace(simulation, fixture=bowl, object=FreeObject(parts=(part,), mass_kg=0.08)),
    )
    return msgspec.structs.replace(changed, object=msgspec.structs.replace(task.object, pose=pose))


# --- what all of them draw -------------------------------------------------------------------------------------------


def _replaced(task: Task, instruction: str, simulation: Simulation) -> Task:
    return msgspec.structs.replace(task, instruction=instruction, simulation=simulation)


def _holed(rng: np.random.Generator, port: Port, body_size_m: tuple[float, float], rgb: RGB) -> Port:
    low, high = sorted([0.8 * port.clearance_m, 1.6 * port.clearance_m])
    return msgspec.structs.replace(
        port, clearance_m=float(rng.uniform(low, high)), body_size_m=body_size_m, rgb=rgb, tongue=None
    )


def _outline(rng: np.random.Generator, x_m: tuple[float, float], y_m: tuple[float, float]) -> Outline:
    x, y = float(rng.uniform(*x_m)), float(rng.uniform(*y_m))
    kind = int(rng.integers(3))
    if kind == 0:
        return Rectangle(size_m=(x, y))
    if kind == 1:
        return Stadium(size_m=(max(x, 1.2 * y), y))
    return Circle(diameter_m=0.5 * (x + y))


def _extent(outline: Outline) -> tuple[float, float]:
    if isinstance(outline, Circle):
        return outline.diameter_m, outline.diameter_m
    assert isinstance(outline, Rectangle | Stadium)
    return outline.size_m


def _shape_word(outline: Outline) -> str:
    return {Rectangle: "rectangular", Stadium: "flat", Circle: "round"}[type(outline)]


def _peg_words(rng: np.random.Generator, word: str, outline: Outline, verb: str) -> str:
    what = f"{_one(rng, [word, _shape_word(outline)])} {_one(rng, ['peg', 'block', 'piece', 'part'])}"
    where = _one(rng, ["matching hole", "hole of the board", "board", f"{_shape_word(outline)} hole"])
    return f"{verb.format(what) if '{0}' in verb else f'{verb} the {what}'} into the {where}"


def _colour(rng: np.random.Generator) -> tuple[str, RGB]:
    word = _one(rng, list(_COLOURS))
    hue_low, hue_high, saturation, value = _COLOURS[word]
    top = (saturation + 0.05, min(1.0, value + 0.15)) if word in _PALE else (1.0, 1.0)
    hue, *rest = map(float, rng.uniform((hue_low, saturation, value), (hue_high, *top)))
    return word, colorsys.hsv_to_rgb(hue % 1.0, *rest)


def _scene(rng: np.random.Generator) -> SceneSpec:
    """A table, light and clutter."""
    low = float(rng.uniform(0.3, 0.6))
    drawn = rng.uniform((0.0, 0.0, 0.2), (1.0, 0.4, 0.9), (3, 3)).tolist()
    colours = tuple(colorsys.hsv_to_rgb(*hsv) for hsv in drawn)
    return SceneSpec(
        name="varied",
        surfaces=tuple(Surface),
        surface_rgb=colours,
        light_intensity=(low, low + 0.25),
        light_tilt_rad=float(rng.uniform(0.2, 0.9)),
        light_warmth=float(rng.uniform(0.05, 0.35)),
        distractors=int(rng.integers(6)),
    )


def _one(rng: np.random.Generator, choices: list[T]) -> T:
    return choices[int(rng.integers(len(choices)))]
