"""The MuJoCo model of one scene of a task: arm, impedance law, fixture, object, table and what lies around.

Contact, integrator and rendering settings come from a sweep on this kind of scene: 1 ms steps and a contact time
constant of 4 ms keep a plug within 0.06 mm of a wall at 200 N peaks, where MuJoCo's default (20 ms) lets it sink in by
0.35 mm; friction cones that are elliptic with ``impratio`` 10 keep a grasped part from creeping (0.03 mm in 5 s);
shadows and multisampling cost a factor of 100 in software rendering.
"""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np

from rldg_core.frames import quaternion_from_rpy, rotate
from rldg_core.scene_spec import (
    RGB,
    Bowl,
    Circle,
    FreeObject,
    Held,
    Outline,
    PartShape,
    Port,
    Rectangle,
    SceneSpec,
)
from rldg_core.task import Task, TaskError
from rldg_sim import textures
from rldg_sim.arm import FINGER_JOINTS, GROUP_ARM, GROUP_SEEN, GROUP_SOLID, JOINTS, TCP_OFFSET_M, add_arm
from rldg_sim.outline import contains, edges, polygon

PHYSICS_STEP_S = 0.001
MAX_RENDER_PX = 1024
DISTRACTORS = 8
TABLE_SIZE_M = (0.9, 1.3)
TABLE_CENTRE_M = (0.35, 0.0)
_FLOOR_M = -0.75
LAW_GROUP, GRIPPER_GROUP = 0, 1  # actuator groups, of which the engine can switch off each

_SOLREF = (0.004, 1.0)
_SOLIMP = (0.95, 0.99, 0.0005, 0.5, 2.0)
_FRICTION = (0.3, 0.005, 0.0001)
_PAD_FRICTION = (0.8, 0.005, 0.0001)
_OBJECT_FRICTION = (0.3, 0.005, 0.0005)  # with rolling friction: vegetables do not roll away
_GRIP_STIFFNESS_N_M = 1e4  # at the stock 100 N/m a peg of 80 g falls
_GRIP_FORCE_N = 140.0  # on the tendon of both fingers, so 70 N each, the hand's continuous rating
_GRIP_TIME_CONSTANT_S = 0.08  # the hand closes from 80 mm in about 0.4 s

_BOX, _CYLINDER = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
_SHAPES = {
    PartShape.BOX: mujoco.mjtGeom.mjGEOM_BOX,
    PartShape.SPHERE: mujoco.mjtGeom.mjGEOM_SPHERE,
    PartShape.CAPSULE: mujoco.mjtGeom.mjGEOM_CAPSULE,
    PartShape.CYLINDER: mujoco.mjtGeom.mjGEOM_CYLINDER,
    PartShape.ELLIPSOID: mujoco.mjtGeom.mjGEOM_ELLIPSOID,
}
# Contact bits (contype, conaffinity): the tool meets the world and the object, the object meets the world.
_TOOL, _WORLD, _OBJECT, _NOTHING = (1, 0), (0, 1), (1, 1), (0, 0)


def build(task: Task, scene: SceneSpec) -> mujoco.MjSpec:
    """The model of a scene, not compiled.

    Raises:
        TaskError: the task file has no ``simulation`` part, or one that lacks the object it is about.
    """
    simulation = task.simulation
    if simulation is None:
        raise TaskError(f"task {task.name}: has no simulation part, so it can only run on a robot")
    spec = mujoco.MjSpec()
    _configure(spec)
    _surroundings(spec, scene)
    held = simulation.held
    hand = add_arm(spec, held.grip_size_m[1] if held is not None else None)
    for geom in spec.geoms:
        if geom.name == "palm" or geom.name.endswith(("_pad", "_body")):
            _solid(geom, _TOOL, _PAD_FRICTION if geom.name.endswith("_pad") else _FRICTION)
    if held is not None:
        _hold(spec, hand, held)
    fixture = spec.worldbody.add_body(name="fixture", mocap=True, pos=task.fixture.pose.xyz_m)
    height = task.fixture.pose.xyz_m[2]
    if isinstance(simulation.fixture, Port):
        _port(fixture, simulation.fixture, held, height, task)
    else:
        _bowl(fixture, simulation.fixture)
    free = scene.object or simulation.object
    if task.object is not None:
        if free is None:
            raise TaskError(f"task {task.name}: scene {scene.name!r}: simulation.object: missing, the task places one")
        _free_object(spec, free)
    for i in range(DISTRACTORS):
        _distractor(spec, i)
    _servo(spec)
    if held is None:
        _gripper(spec)
    return spec


def _configure(spec: mujoco.MjSpec) -> None:
    spec.compiler.degree = False
    option, visual = spec.option, spec.visual
    option.timestep = PHYSICS_STEP_S
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10.0
    visual.quality.shadowsize = 0
    visual.quality.offsamples = 0
    # drawing costs by the corner
    visual.quality.numslices, visual.quality.numstacks, visual.quality.numquads = 16, 8, 1
    visual.global_.offwidth = visual.global_.offheight = MAX_RENDER_PX
    visual.map.znear, visual.map.zfar = 0.005, 10.0
    spec.stat.extent, spec.stat.center = 1.0, (0.4, 0.0, 0.2)


def _surroundings(spec: mujoco.MjSpec, scene: SceneSpec) -> None:
    """Table, floor, sky, one light, a camera for people."""
    world = spec.worldbody
    world.add_site(name="base", group=5)
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=(0.82, 0.86, 0.9),
        rgb2=(0.5, 0.54, 0.6),
        width=64,
        height=64,
    )
    for surface in dict.fromkeys(scene.surfaces):
        pixels = textures.surface(surface)
        texture = spec.add_texture(name=f"texture_{surface}", type=mujoco.mjtTexture.mjTEXTURE_2D)
        texture.height, texture.width, texture.nchannel = pixels.shape
        texture.data = pixels.tobytes()
        material = spec.add_material(name=f"surface_{surface}", texuniform=True, texrepeat=(3.0, 3.0))
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = f"texture_{surface}"
        material.specular, material.shininess = 0.1, 0.2
    table = world.add_geom(name="table", type=_BOX, material=f"surface_{scene.surfaces[0]}", group=GROUP_SEEN)
    table.size, table.pos = (TABLE_SIZE_M[0] / 2, TABLE_SIZE_M[1] / 2, 0.02), (*TABLE_CENTRE_M, -0.02)
    _solid(table, _WORLD)
    for x in (-1, 1):
        for y in (-1, 1):
            leg = world.add_geom(type=_BOX, size=(0.025, 0.025, -_FLOOR_M / 2), rgba=(0.3, 0.3, 0.32, 1.0))
            leg.pos = (
                TABLE_CENTRE_M[0] + x * (TABLE_SIZE_M[0] / 2 - 0.04),
                y * (TABLE_SIZE_M[1] / 2 - 0.04),
                _FLOOR_M / 2 - 0.02,
            )
            _ghost(leg)
            leg.group = GROUP_ARM
    floor = world.add_geom(name="floor", type=_BOX, size=(4.0, 4.0, 0.01), pos=(0.0, 0.0, _FLOOR_M - 0.01))
    floor.rgba = (0.42, 0.43, 0.45, 1.0)
    _ghost(floor)
    floor.group = GROUP_ARM
    world.add_light(
        name="lamp",
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=(0.5, 0.0, 1.5),
        dir=(0.0, 0.0, -1.0),
        castshadow=False,
    )
    position, looked_at = np.array([1.2, -0.78, 0.68]), np.array([0.33, 0.0, 0.3])
    back = (position - looked_at) / np.linalg.norm(position - looked_at)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    world.add_camera(name="scene", pos=position, xyaxes=(*right, *np.cross(back, right)), fovy=42.0)


def _hold(spec: mujoco.MjSpec, hand: Any, held: Held) -> None:
    """The plug in the fingers: part of the hand, because the grasp is made before the episode and must not slip."""
    body = hand.add_body(name="held", pos=(0.0, 0.0, TCP_OFFSET_M), gravcomp=1.0)
    grip = body.add_geom(name="held_grip", type=_BOX, size=[s / 2.0 for s in held.grip_size_m], mass=0.02)
    grip.pos, grip.rgba = (0.0, 0.0, held.reach_m - held.grip_size_m[2] / 2.0), (*held.grip_rgb, 1.0)
    _solid(grip, _TOOL)
    middle, half = held.reach_m + held.length_m / 2.0, held.length_m / 2.0
    outline = held.outline
    if isinstance(outline, Rectangle):
        shafts = [
            body.add_geom(type=_BOX, size=(outline.size_m[0] / 2, outline.size_m[1] / 2, half), pos=(0, 0, middle))
        ]
    elif isinstance(outline, Circle):
        shafts = [body.add_geom(type=_CYLINDER, size=(outline.diameter_m / 2, half, 0), pos=(0, 0, middle))]
    else:
        _prism(spec, "held_shaft", outline, held.length_m)
        shafts = [body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="held_shaft", pos=(0, 0, middle))]
    for i, shaft in enumerate(shafts):
        shaft.name, shaft.mass, shaft.rgba = f"held_shaft_{i}", 0.01 / len(shafts), (*held.rgb, 1.0)
        _solid(shaft, _TOOL)


def _prism(spec: mujoco.MjSpec, name: str, outline: Outline, height: float) -> None:
    corners = polygon(outline)
    mesh = spec.add_mesh(name=name)
    mesh.uservert = [c for z in (-height / 2.0, height / 2.0) for x, y in corners for c in (x, y, z)]
    mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX


def _port(body: Any, port: Port, held: Held | None, height: float, task: Task) -> None:
    if port.outline is not None:
        corners = polygon(port.outline)
    elif held is not None:  # given in the TCP frame: as it lies in the port's frame at the goal
        goal = task.success.goal.pose()
        corners = np.array([rotate(goal.quaternion, np.array([x, y, 0.0]))[:2] for x, y in polygon(held.outline)])
        corners = corners if goal.matrix()[2, 2] > 0.0 else corners[::-1]  # counter-clockwise again
    else:
        raise TaskError(
            f"task {task.name}: simulation.fixture.outline: missing, and nothing is held that could give it"
        )
    middles, normals, lengths = edges(corners)
    middles = middles + port.clearance_m * normals
    hole = _offset(corners, port.clearance_m)
    low, high = hole.min(axis=0), hole.max(axis=0)
    body_half = np.maximum(np.array(port.body_size_m) / 2.0, np.maximum(-low, high) + 0.001)
    # Boxes along the edges: the half plane outside an edge of a convex polygon never reaches into it, so boxes of any
    # thickness leave exactly the hole free. They must reach the corners of the hole's bounding rectangle, from where
    # four more boxes go on to the body's outer faces.
    box_corners = np.array([[x, y] for x in (low[0], high[0]) for y in (low[1], high[1])])
    gap = max(float(np.einsum("ij,ij->i", normals, corner - middles).max()) for corner in box_corners)
    thickness = max(port.rim_m, gap + 0.0005)
    depth, step = port.depth_m, 0.0004  # the body's face lies this much below the rim
    turns = np.arccos(np.clip(np.einsum("ij,ij->i", normals, np.roll(normals, -1, axis=0)), -1.0, 1.0))
    reach = np.tan(np.minimum(np.maximum(turns, np.roll(turns, 1)), np.pi / 2) / 2.0) * thickness
    for i, (middle, normal, length) in enumerate(zip(middles, normals, lengths, strict=True)):
        rim = body.add_geom(
            name=f"rim_{i}", type=_BOX, size=(thickness / 2, length / 2 + reach[i] + port.clearance_m, depth / 2)
        )
        rim.pos = (*(middle + normal * thickness / 2), -depth / 2)
        rim.quat = (
            math.cos(math.atan2(normal[1], normal[0]) / 2),
            0.0,
            0.0,
            math.sin(math.atan2(normal[1], normal[0]) / 2),
        )
        rim.rgba = (*port.rim_rgb, 1.0)
        _solid(rim, _WORLD)
    for name, x0, x1, y0, y1 in (
        ("right", high[0], body_half[0], -body_half[1], body_half[1]),
        ("left", -body_half[0], low[0], -body_half[1], body_half[1]),
        ("back", low[0], high[0], high[1], body_half[1]),
        ("front", low[0], high[0], -body_half[1], low[1]),
    ):
        side = body.add_geom(name=f"port_{name}", type=_BOX, rgba=(*port.rgb, 1.0))
        side.size = ((x1 - x0) / 2, (y1 - y0) / 2, (depth - step) / 2)
        side.pos = ((x0 + x1) / 2, (y0 + y1) / 2, -(depth + step) / 2)
        _solid(side, _WORLD)
    inside = body.add_geom(name="port_floor", type=_BOX, rgba=(*port.inside_rgb, 1.0))
    inside.size, inside.pos = (*body_half, 0.001), (0.0, 0.0, -depth - 0.001)
    _solid(inside, _WORLD)
    if port.tongue is not None:
        tongue = body.add_geom(name="port_tongue", type=_BOX, rgba=(*port.tongue_rgb, 1.0))
        tongue.size, tongue.pos = (
            (port.tongue[0] / 2, port.tongue[1] / 2, depth / 2 - 0.001),
            (0.0, 0.0, -depth / 2 - 0.001),
        )
        _ghost(tongue)
    top = -depth - 0.002
    board_half = np.array(port.board_size_m) / 2.0
    is_board = bool((board_half <= body_half + 1e-6).all())
    if not is_board:
        board = body.add_geom(name="board", type=_BOX, rgba=(*port.board_rgb, 1.0))
        board.size, board.pos = (*board_half, 0.001), (0.0, 0.0, top - 0.001)
        _solid(board, _WORLD)
        _components(body, board_half, body_half, top)
        top -= 0.002
    if port.decoys:
        _decoys(body, body_half, hole, step)
    foot = body.add_geom(name="foot", type=_BOX, rgba=(0.25, 0.26, 0.28, 1.0))
    half_height = max((height + top) / 2.0, 0.0005)
    size = board_half if is_board else np.minimum(board_half, body_half + 0.004)
    foot.size, foot.pos = (*size, half_height), (0.0, 0.0, top - half_height)
    _solid(foot, _WORLD)


def _offset(corners: np.ndarray, distance: float) -> np.ndarray:
    """The polygon with every edge moved outwards by ``distance``."""
    middles, normals, _ = edges(corners)
    moved = middles + distance * normals
    result = []
    for i in range(len(corners)):
        rows = np.stack([normals[i - 1], normals[i]])
        result.append(np.linalg.solve(rows, [normals[i - 1] @ moved[i - 1], normals[i] @ moved[i]]))
    return np.array(result)


def _components(body: Any, board_half: np.ndarray, keep_out: np.ndarray, top: float) -> None:
    """Chips and screws on the board, for the eye."""
    chips = (
        ((0.6, 0.62), (0.011, 0.008, 0.0012), (0.06, 0.06, 0.07)),
        ((-0.62, 0.55), (0.006, 0.006, 0.001), (0.1, 0.1, 0.11)),
        ((-0.55, -0.62), (0.009, 0.004, 0.0012), (0.07, 0.07, 0.08)),
        ((0.66, -0.55), (0.004, 0.004, 0.003), (0.55, 0.5, 0.3)),
    )
    for place, size, rgb in chips:
        centre = np.array(place) * board_half
        if (np.abs(centre) < keep_out + np.array(size[:2])).all():
            continue
        chip = body.add_geom(type=_BOX, size=size, pos=(*centre, top + size[2]), rgba=(*rgb, 1.0))
        _ghost(chip)
    for x in (-1, 1):
        for y in (-1, 1):
            screw = body.add_geom(type=_CYLINDER, size=(0.0025, 0.0006, 0), rgba=(0.75, 0.75, 0.7, 1.0))
            screw.pos = (x * (board_half[0] - 0.005), y * (board_half[1] - 0.005), top + 0.0006)
            _ghost(screw)


def _decoys(body: Any, body_half: np.ndarray, hole: np.ndarray, step: float) -> None:
    """The other shapes of the board: dark outlines that are painted, not cut."""
    radius = 0.16 * float(body_half.min())
    shapes = ((_BOX, (radius, radius * 0.6)), (_CYLINDER, (radius, 0.0)), (_BOX, (radius * 0.75, radius * 0.75)))
    for i, place in enumerate(((0.62, 0.62), (-0.62, 0.62), (-0.62, -0.62), (0.62, -0.62))):
        kind, size = shapes[i % len(shapes)]
        centre = np.array(place) * body_half
        if contains(hole, centre, 2.0 * radius):
            continue
        decoy = body.add_geom(type=kind, pos=(*centre, -step), rgba=(0.22, 0.2, 0.18, 1.0))
        decoy.size = (*size, 0.0002) if kind == _BOX else (size[0], 0.0002, 0.0)
        _ghost(decoy)


def _bowl(body: Any, bowl: Bowl) -> None:
    """A ring of leaning boxes on a disc."""
    lean, count, wall = 0.35, 20, 0.003
    foot_radius = bowl.radius_m - bowl.height_m * math.tan(lean)
    slant = bowl.height_m / math.cos(lean)
    foot = body.add_geom(name="bowl_foot", type=_CYLINDER, size=(foot_radius + 0.002, wall, 0.0), pos=(0.0, 0.0, wall))
    sides = [foot]
    for i in range(count):
        angle = 2.0 * math.pi * i / count
        mean_radius = (foot_radius + bowl.radius_m) / 2.0
        side = body.add_geom(name=f"bowl_{i}", type=_BOX)
        side.size = (wall, bowl.radius_m * math.tan(math.pi / count), slant / 2.0)
        side.pos = (mean_radius * math.cos(angle), mean_radius * math.sin(angle), bowl.height_m / 2.0)
        x, y, z, w = quaternion_from_rpy((0.0, lean, angle))
        side.quat = (w, x, y, z)
        sides.append(side)
    for side in sides:
        side.rgba = (*bowl.rgb, 1.0)
        _solid(side, _WORLD)


def _free_object(spec: mujoco.MjSpec, free: FreeObject) -> None:
    body = spec.worldbody.add_body(name="object")
    body.add_freejoint(name="object")
    solid = sum(part.solid for part in free.parts)
    for i, part in enumerate(free.parts):
        geom = body.add_geom(name=f"object_{i}", type=_SHAPES[part.shape], pos=part.xyz_m, rgba=(*part.rgb, 1.0))
        geom.size = [*part.size_m, *[0.0] * (3 - len(part.size_m))]
        x, y, z, w = quaternion_from_rpy(part.rpy_rad)
        geom.quat = (w, x, y, z)
        if part.solid:
            geom.mass = free.mass_kg / solid
            _solid(geom, _OBJECT)
            geom.condim, geom.friction = 6, _OBJECT_FRICTION
        else:
            _ghost(geom)


def _distractor(spec: mujoco.MjSpec, index: int) -> None:
    """Something that may lie around: seen, never felt, put away below the floor unless a seed asks for it."""
    body = spec.worldbody.add_body(name=f"distractor_{index}", mocap=True, pos=(0.0, 0.0, _FLOOR_M - 1.0))
    kinds: tuple[tuple[Any, tuple[float, float, float]], ...] = (
        (_BOX, (0.03, 0.02, 0.012)),
        (_CYLINDER, (0.022, 0.04, 0.0)),
        (_BOX, (0.05, 0.012, 0.006)),
        (mujoco.mjtGeom.mjGEOM_SPHERE, (0.02, 0.0, 0.0)),
        (_CYLINDER, (0.035, 0.008, 0.0)),
        (_BOX, (0.015, 0.015, 0.03)),
        (mujoco.mjtGeom.mjGEOM_ELLIPSOID, (0.03, 0.02, 0.018)),
        (_BOX, (0.04, 0.03, 0.004)),
    )
    kind, size = kinds[index % len(kinds)]
    lift = {_BOX: size[2], _CYLINDER: size[1]}.get(kind, size[2] or size[0])
    _ghost(
        body.add_geom(name=f"distractor_{index}", type=kind, size=size, pos=(0.0, 0.0, lift), rgba=(0.5, 0.5, 0.5, 1.0))
    )


def _servo(spec: mujoco.MjSpec) -> None:
    """The impedance law as actuators that the engine evaluates at every physics step.

    A spring acts between the base frame and the site ``servo``: its force is K (set-point - pose), clipped by its force
    range, and its set-point is the activation of a first-order filter of the control, which is the set-point filter of
    the law. The cell keeps the site turned so that the pose it reads is the rotation vector from the set-point's frame
    to the tool, in base axes. Dampers act on the same six coordinates unclipped; weak springs hold the posture.
    Gains are written by ``Cell.set_gains``. All are in the engine's default group, :data:`LAW_GROUP`.
    """
    affine, fixed = mujoco.mjtBias.mjBIAS_AFFINE, mujoco.mjtGain.mjGAIN_FIXED
    site, joint = mujoco.mjtTrn.mjTRN_SITE, mujoco.mjtTrn.mjTRN_JOINT
    for i in range(6):
        gear = [float(j == i) for j in range(6)]
        spring = spec.add_actuator(name=f"spring_{i}", target="servo", refsite="base", trntype=site, gear=gear)
        spring.gaintype, spring.biastype, spring.forcelimited = fixed, affine, True
        spring.dyntype, spring.actearly = mujoco.mjtDyn.mjDYN_FILTEREXACT, True
        spring.dynprm[0] = 0.2
        spring.gainprm[0], spring.biasprm[1], spring.forcerange = 1.0, -1.0, (-1.0, 1.0)
    for i in range(6):
        gear = [float(j == i) for j in range(6)]
        damper = spec.add_actuator(name=f"damper_{i}", target="servo", refsite="base", trntype=site, gear=gear)
        damper.gaintype, damper.biastype = fixed, affine
        damper.gainprm[0], damper.biasprm[2] = 0.0, -1.0
    for name in JOINTS:
        posture = spec.add_actuator(name=f"posture_{name}", target=name, trntype=joint)
        posture.gaintype, posture.biastype = fixed, affine
        posture.gainprm[0], posture.biasprm[1] = 1.0, -0.5
    for name, kind in (("force", mujoco.mjtSensor.mjSENS_FORCE), ("torque", mujoco.mjtSensor.mjSENS_TORQUE)):
        spec.add_sensor(name=name, type=kind, objtype=mujoco.mjtObj.mjOBJ_SITE, objname="flange")


def _gripper(spec: mujoco.MjSpec) -> None:
    """Both fingers, coupled, driven by one actuator."""
    affine, fixed = mujoco.mjtBias.mjBIAS_AFFINE, mujoco.mjtGain.mjGAIN_FIXED
    tendon = spec.add_tendon(name="fingers")
    for name in FINGER_JOINTS:
        tendon.wrap_joint(name, 0.5)
    spec.add_equality(
        name="fingers",
        type=mujoco.mjtEq.mjEQ_JOINT,
        name1=FINGER_JOINTS[0],
        name2=FINGER_JOINTS[1],
        objtype=mujoco.mjtObj.mjOBJ_JOINT,
        data=[0.0, 1.0, *[0.0] * 10],
        solref=(0.005, 1.0),
        solimp=(0.95, 0.99, 0.001, 0.5, 2.0),
    )
    grip = spec.add_actuator(name="gripper", target="fingers", trntype=mujoco.mjtTrn.mjTRN_TENDON)
    grip.gaintype, grip.biastype, grip.dyntype = fixed, affine, mujoco.mjtDyn.mjDYN_FILTEREXACT
    grip.dynprm[0] = _GRIP_TIME_CONSTANT_S
    grip.gainprm[0], grip.biasprm[1], grip.biasprm[2] = (
        _GRIP_STIFFNESS_N_M,
        -_GRIP_STIFFNESS_N_M,
        -_GRIP_STIFFNESS_N_M / 100.0,
    )
    grip.forcelimited, grip.forcerange = True, (-_GRIP_FORCE_N, _GRIP_FORCE_N)
    grip.group = GRIPPER_GROUP


def _solid(geom: Any, bits: tuple[int, int], friction: tuple[float, float, float] = _FRICTION) -> None:
    geom.contype, geom.conaffinity = bits
    geom.solref, geom.solimp, geom.friction, geom.condim = _SOLREF, _SOLIMP, friction, 4
    if geom.group != GROUP_SOLID:
        geom.group = GROUP_SEEN


def _ghost(geom: Any) -> None:
    """Seen, not felt, without mass."""
    geom.contype, geom.conaffinity = _NOTHING
    geom.mass, geom.group = 0.0, GROUP_SEEN


def to_rgba(rgb: RGB | np.ndarray) -> np.ndarray:
    return np.array([*rgb, 1.0], dtype=np.float32)
