"""A mesh-free Franka arm with its hand, as MuJoCo bodies.

Kinematics, masses, inertias, joint limits and torque limits are facts taken from the MuJoCo Menagerie models
``franka_fr3`` and, for hand and fingers, ``franka_emika_panda`` (Copyright DeepMind Technologies Limited; Apache
License 2.0; derived from franka_description, Copyright Franka Robotics GmbH, Apache License 2.0). The geometry is this
project's: capsules, cylinders and boxes, because the stock meshes make software rendering of a wrist view about 14
times slower.

Joint friction is left out: the robot's own torque controller compensates for most of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

JOINTS = tuple(f"fr3_joint{i}" for i in range(1, 8))
FINGER_JOINTS = ("fr3_finger_joint1", "fr3_finger_joint2")
TCP_OFFSET_M = 0.1034  # hand frame to TCP along z
FINGER_TRAVEL_M = 0.04  # each

GROUP_SEEN, GROUP_ARM, GROUP_SOLID = 1, 2, 3  # geom groups: always seen; seen by the scene camera only; felt, not seen

_TORQUE_LIMIT_NM = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)
_LIMIT_RAD = (
    (-2.9007, 2.9007),
    (-1.8361, 1.8361),
    (-2.9007, 2.9007),
    (-3.0770, -0.1169),
    (-2.8763, 2.8763),
    (0.4398, 4.6216),
    (-3.0508, 3.0508),
)
_ARMATURE_KG_M2 = (0.195, 0.195, 0.195, 0.195, 0.074, 0.074, 0.074)
_JOINT_DAMPING_NMS_RAD = 0.5

_TURN_BACK, _TURN_FORTH = (1.0, -1.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0)  # w x y z: a quarter turn about x

_WHITE = (0.93, 0.94, 0.95, 1.0)
_GREY = (0.62, 0.64, 0.67, 1.0)
_DARK = (0.16, 0.17, 0.19, 1.0)
_PAD = (0.05, 0.05, 0.055, 1.0)


@dataclass(frozen=True)
class _Link:
    position_m: tuple[float, float, float]
    turn: tuple[float, float, float, float]
    mass_kg: float
    centre_m: tuple[float, float, float]
    inertia_turn: tuple[float, float, float, float]
    inertia_kg_m2: tuple[float, float, float]


_LINKS = (
    _Link(
        (0.0, 0.0, 0.333),
        (1.0, 0.0, 0.0, 0.0),
        2.92747,
        (4.128e-07, -0.0181251, -0.0386036),
        (0.998098, -0.0605364, 0.00380499, 0.0110109),
        (0.0239286, 0.0227246, 0.00610634),
    ),
    _Link(
        (0.0, 0.0, 0.0),
        _TURN_BACK,
        2.93554,
        (0.00318289, -0.0743222, 0.00881461),
        (0.502599, 0.584437, -0.465998, 0.434366),
        (0.0629567, 0.0411924, 0.0246371),
    ),
    _Link(
        (0.0, -0.316, 0.0),
        _TURN_FORTH,
        2.2449,
        (0.0407016, -0.00482006, -0.0289731),
        (0.921025, -0.244161, 0.155272, 0.260745),
        (0.0267409, 0.0189869, 0.0171587),
    ),
    _Link(
        (0.0825, 0.0, 0.0),
        _TURN_FORTH,
        2.6156,
        (-0.0459101, 0.0630493, -0.00851879),
        (0.438018, 0.803311, 0.00937812, 0.403414),
        (0.05139, 0.0372717, 0.0160047),
    ),
    _Link(
        (-0.0825, 0.384, 0.0),
        _TURN_BACK,
        2.32712,
        (-0.00160396, 0.0292536, -0.0972966),
        (0.919031, 0.125604, 0.0751531, -0.366003),
        (0.0579335, 0.0449144, 0.0130634),
    ),
    _Link(
        (0.0, 0.0, 0.0),
        _TURN_FORTH,
        1.81704,
        (0.0597131, -0.0410295, -0.0101693),
        (0.621301, 0.552665, 0.510011, 0.220081),
        (0.0175039, 0.0161123, 0.00193529),
    ),
    _Link(
        (0.088, 0.0, 0.0),
        _TURN_FORTH,
        0.627143,
        (0.00452258, 0.00862619, -0.0161633),
        (0.727579, 0.0978688, -0.24906, 0.63168),
        (0.000223836, 0.000223642, 5.64132e-07),
    ),
)


def add_arm(spec: mujoco.MjSpec, grasp_width_m: float | None = None) -> Any:
    """Add the arm with its base at the world's origin and return the hand's body.

    With ``grasp_width_m`` the fingers are rigid at that opening: a grasp made before the episode, without the two
    degrees of freedom and the coupling that cost a third of the physics.

    Adds the bodies ``fr3_link0`` to ``fr3_link7``, ``fr3_hand``, two fingers with pads, the joints of :data:`JOINTS`
    and :data:`FINGER_JOINTS`, the site ``fr3_hand_tcp`` and the camera ``wrist``. Weights are compensated, as the robot
    does.
    """
    body = spec.worldbody.add_body(name="fr3_link0")
    _draw(body, "fr3_link0")
    for i, link in enumerate(_LINKS):
        body = body.add_body(name=f"fr3_link{i + 1}", pos=link.position_m, quat=link.turn, gravcomp=1.0)
        body.mass, body.ipos, body.explicitinertial = link.mass_kg, link.centre_m, True
        body.iquat, body.inertia = link.inertia_turn, link.inertia_kg_m2
        joint = body.add_joint(name=JOINTS[i], type=mujoco.mjtJoint.mjJNT_HINGE, axis=(0.0, 0.0, 1.0))
        joint.limited, joint.range = True, _LIMIT_RAD[i]
        joint.armature, joint.damping = _ARMATURE_KG_M2[i], (_JOINT_DAMPING_NMS_RAD, 0.0, 0.0)
        joint.actfrclimited, joint.actfrcrange = True, (-_TORQUE_LIMIT_NM[i], _TORQUE_LIMIT_NM[i])
        _draw(body, f"fr3_link{i + 1}")
    hand = body.add_body(name="fr3_hand", pos=(0.0, 0.0, 0.107), gravcomp=1.0)
    hand.quat = (np.cos(np.pi / 8.0), 0.0, 0.0, -np.sin(np.pi / 8.0))  # the hand is mounted turned by -45 degrees
    hand.mass, hand.ipos, hand.inertia, hand.explicitinertial = 0.73, (-0.01, 0.0, 0.03), (0.001, 0.0025, 0.0017), True
    _draw(hand, "fr3_hand")
    hand.add_geom(
        name="palm", type=mujoco.mjtGeom.mjGEOM_BOX, size=(0.03, 0.1, 0.03), pos=(0.0, 0.0, 0.033), group=GROUP_SOLID
    )
    hand.add_site(name="fr3_hand_tcp", pos=(0.0, 0.0, TCP_OFFSET_M), group=5)
    # The servo site coincides with the TCP; the cell turns it so that its axes are the base axes at the target.
    hand.add_site(name="servo", pos=(0.0, 0.0, TCP_OFFSET_M), quat=(0.0, 1.0, 0.0, 0.0), group=5)
    hand.add_site(name="flange", pos=(0.0, 0.0, 0.0), group=5)
    # Where a RealSense D405 sits on the rig: beside the hand, looking at the fingertips. 58 degrees is its vertical
    # view.
    hand.add_camera(name="wrist", pos=(0.065, 0.0, 0.045), xyaxes=(0.0, 1.0, 0.0, 0.8, 0.0, 0.6), fovy=58.0)
    for name, joint_name, turn in (
        ("fr3_leftfinger", FINGER_JOINTS[0], (1.0, 0.0, 0.0, 0.0)),
        ("fr3_rightfinger", FINGER_JOINTS[1], (0.0, 0.0, 0.0, 1.0)),
    ):
        _add_finger(hand, name, joint_name, turn, grasp_width_m)
    return hand


def _add_finger(
    hand: Any, name: str, joint_name: str, turn: tuple[float, float, float, float], grasp_width_m: float | None
) -> None:
    outward = 1.0 if turn[0] else -1.0
    opening = outward * grasp_width_m / 2.0 if grasp_width_m is not None else 0.0
    finger = hand.add_body(name=name, pos=(0.0, opening, 0.0584), quat=turn, gravcomp=1.0)
    finger.mass, finger.inertia, finger.explicitinertial = 0.015, (2.375e-6, 2.375e-6, 7.5e-7), True
    if grasp_width_m is None:
        joint = finger.add_joint(name=joint_name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(0.0, 1.0, 0.0))
        joint.limited, joint.range = True, (0.0, FINGER_TRAVEL_M)
        joint.armature, joint.damping = 0.1, (5.0, 0.0, 0.0)
    box = mujoco.mjtGeom.mjGEOM_BOX
    finger.add_geom(
        type=box,
        size=(0.0105, 0.006, 0.012),
        pos=(0.0, 0.0125, 0.012),
        rgba=_GREY,
        group=GROUP_SEEN,
        contype=0,
        conaffinity=0,
    )
    finger.add_geom(
        type=box,
        size=(0.0095, 0.0045, 0.014),
        pos=(0.0, 0.0095, 0.034),
        rgba=_DARK,
        group=GROUP_SEEN,
        contype=0,
        conaffinity=0,
    )
    pad = finger.add_geom(name=f"{name}_pad", type=box, size=(0.0085, 0.004, 0.0085), pos=(0.0, 0.004, 0.0450))
    pad.rgba, pad.group = _PAD, GROUP_SEEN
    body = finger.add_geom(name=f"{name}_body", type=box, size=(0.009, 0.005, 0.018), pos=(0.0, 0.012, 0.02))
    body.group = GROUP_SOLID


def _draw(body: Any, name: str) -> None:
    """The shell of one link, seen by the scene camera only."""
    for kind, size, start, end, rgba in _SHELLS[name]:
        geom = body.add_geom(type=kind, group=GROUP_ARM, contype=0, conaffinity=0, rgba=rgba, density=0.0)
        geom.size = [*size, *[0.0] * (3 - len(size))]
        if kind == mujoco.mjtGeom.mjGEOM_BOX:
            geom.pos = start
        else:
            geom.fromto = [*start, *end]


_CAP, _CYL, _BOX = mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_BOX
_Shell = tuple[
    Any, tuple[float, ...], tuple[float, float, float], tuple[float, float, float], tuple[float, float, float, float]
]
_SHELLS: dict[str, tuple[_Shell, ...]] = {
    "fr3_link0": (
        (_BOX, (0.115, 0.09, 0.012), (-0.04, 0.0, 0.012), (0.0, 0.0, 0.0), _DARK),
        (_CAP, (0.062,), (-0.095, 0.0, 0.06), (0.0, 0.0, 0.06), _WHITE),
        (_CYL, (0.072,), (0.0, 0.0, 0.02), (0.0, 0.0, 0.135), _WHITE),
        (_CYL, (0.066,), (0.0, 0.0, 0.135), (0.0, 0.0, 0.142), _DARK),
    ),
    "fr3_link1": (
        (_CYL, (0.066,), (0.0, 0.0, -0.19), (0.0, 0.0, -0.05), _WHITE),
        (_CAP, (0.064,), (0.0, 0.0, -0.06), (0.0, -0.02, 0.0), _WHITE),
        (_CYL, (0.062,), (0.0, -0.075, 0.0), (0.0, 0.03, 0.0), _GREY),
    ),
    "fr3_link2": (
        (_CYL, (0.064,), (0.0, 0.0, -0.03), (0.0, 0.0, 0.068), _WHITE),
        (_CAP, (0.062,), (0.0, -0.02, 0.005), (0.0, -0.12, 0.0), _WHITE),
        (_CYL, (0.06,), (0.0, -0.12, 0.0), (0.0, -0.19, 0.0), _WHITE),
        (_CYL, (0.0605,), (0.0, -0.19, 0.0), (0.0, -0.196, 0.0), _DARK),
    ),
    "fr3_link3": (
        (_CYL, (0.06,), (0.0, 0.0, -0.115), (0.0, 0.0, -0.05), _WHITE),
        (_CAP, (0.058,), (0.0, 0.0, -0.06), (0.045, 0.0, -0.01), _WHITE),
        (_CAP, (0.054,), (0.05, 0.0, -0.005), (0.0825, 0.0, 0.0), _WHITE),
        (_CYL, (0.052,), (0.0825, -0.062, 0.0), (0.0825, 0.062, 0.0), _GREY),
    ),
    "fr3_link4": (
        (_CYL, (0.056,), (0.0, 0.0, -0.045), (0.0, 0.0, 0.045), _WHITE),
        (_CAP, (0.055,), (0.0, 0.0, 0.0), (-0.0825, 0.075, 0.0), _WHITE),
        (_CYL, (0.058,), (-0.0825, 0.06, 0.0), (-0.0825, 0.122, 0.0), _WHITE),
        (_CYL, (0.0585,), (-0.0825, 0.122, 0.0), (-0.0825, 0.128, 0.0), _DARK),
    ),
    "fr3_link5": (
        (_CAP, (0.056,), (0.0, 0.0, -0.235), (0.0, 0.03, -0.16), _WHITE),
        (_CAP, (0.046,), (0.0, 0.045, -0.18), (0.0, 0.075, -0.06), _WHITE),
        (_CAP, (0.048,), (0.0, 0.06, -0.03), (0.0, 0.02, 0.0), _WHITE),
        (_CYL, (0.05,), (0.0, -0.055, 0.0), (0.0, 0.06, 0.0), _GREY),
    ),
    "fr3_link6": (
        (_CYL, (0.05,), (0.0, 0.0, -0.06), (0.0, 0.0, 0.03), _WHITE),
        (_CAP, (0.048,), (0.0, 0.0, 0.0), (0.088, -0.01, 0.0), _WHITE),
        (_CYL, (0.05,), (0.088, -0.05, 0.0), (0.088, 0.03, 0.0), _WHITE),
        (_CYL, (0.018,), (0.088, -0.056, 0.0), (0.088, -0.048, 0.0), (0.1, 0.45, 0.75, 1.0)),
    ),
    "fr3_link7": (
        (_CYL, (0.046,), (0.0, 0.0, 0.03), (0.0, 0.0, 0.082), _WHITE),
        (_CYL, (0.042,), (0.0, 0.0, 0.082), (0.0, 0.0, 0.107), _DARK),
    ),
    "fr3_hand": (
        (_BOX, (0.031, 0.1, 0.026), (0.0, 0.0, 0.034), (0.0, 0.0, 0.0), _WHITE),
        (_CYL, (0.034,), (0.0, 0.0, 0.0), (0.0, 0.0, 0.012), _GREY),
        (_BOX, (0.02, 0.1, 0.003), (0.0, 0.0, 0.0615), (0.0, 0.0, 0.0), _DARK),
        (_BOX, (0.012, 0.021, 0.021), (0.066, 0.0, 0.04), (0.0, 0.0, 0.0), _GREY),  # the camera
        (_BOX, (0.02, 0.012, 0.004), (0.045, 0.0, 0.022), (0.0, 0.0, 0.0), _DARK),  # its bracket
    ),
}
