"""Task files: everything that is special about a task, read by every package through :func:`load_task`.

A task file is YAML. Lengths are metres, angles radians, times seconds, forces newtons; the unit is in the name. A
file may say ``extends: other.yaml`` (relative to itself): its own keys are laid over that file's, mapping by
mapping. Unknown keys, values out of range and missing files are refused with one line that names the file, the key
and what is allowed.
"""

from __future__ import annotations

import enum
import math
import os
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from rldg_core.frames import Array, Pose
from rldg_core.scene_spec import SceneSpec, Simulation
from rldg_core.yaml_text import decode_yaml

Age = Annotated[float, msgspec.Meta(gt=0.0, le=5.0)]  # s
Stiffness = Annotated[float, msgspec.Meta(ge=0.0, le=6000.0)]  # N/m
Damping = Annotated[float, msgspec.Meta(ge=0.0, le=1000.0)]  # N s/m
RotationalStiffness = Annotated[float, msgspec.Meta(ge=0.0, le=300.0)]  # N m/rad
RotationalDamping = Annotated[float, msgspec.Meta(ge=0.0, le=100.0)]  # N m s/rad
Tolerance = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]  # m
Length = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]  # m
Coordinate = Annotated[float, msgspec.Meta(ge=-2.0, le=2.0)]  # m
Angle = Annotated[float, msgspec.Meta(ge=-2.0 * math.pi, le=2.0 * math.pi)]  # rad
HalfAngle = Annotated[float, msgspec.Meta(ge=0.0, le=math.pi)]  # rad
DeviceScale = Annotated[float, msgspec.Meta(ge=-4.0, le=4.0)]
Name = Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]*$", max_length=64)]
Sentence = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]  # one line

XYZ = tuple[Coordinate, Coordinate, Coordinate]
RPY = tuple[Angle, Angle, Angle]


class TaskError(ValueError):
    """A task or robot file is missing or wrong; the message is one line: file, key, what is allowed."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part of a task file: immutable, and an unknown key is an error."""


class Family(enum.StrEnum):
    CONNECTOR_INSERTION = "connector_insertion"
    PICK_AND_PLACE = "pick_and_place"
    FMB_INSERTION = "fmb_insertion"
    FMB_ASSEMBLY = "fmb_assembly"


class Split(enum.StrEnum):
    """Whether specialists and generalists may train on this, or only be evaluated on it."""

    SEEN = "seen"
    UNSEEN = "unseen"


class GripperUse(enum.StrEnum):
    FIXED = "fixed"  # the object is grasped before the episode; actions have no gripper
    BINARY = "binary"  # held open/closed state


class SetPoint(enum.StrEnum):
    MEASURED = "measured"  # target = measured pose composed with the delta
    LEASHED = "leashed"  # target = last target composed with the delta, kept within leash of the measured pose


class Subject(enum.StrEnum):
    TCP = "tcp"
    OBJECT = "object"


class GripperState(enum.StrEnum):
    ANY = "any"
    OPEN = "open"
    CLOSED = "closed"


class PoseSpec(_Strict, frozen=True, kw_only=True):
    xyz_m: XYZ = (0.0, 0.0, 0.0)
    rpy_rad: RPY = (0.0, 0.0, 0.0)  # fixed-axis roll, pitch, yaw

    def pose(self) -> Pose:
        return Pose.from_rpy(self.xyz_m, self.rpy_rad)


class Range(_Strict, frozen=True, kw_only=True):
    """Half widths of a uniform randomisation."""

    xyz_m: tuple[Length, Length, Length] = (0.0, 0.0, 0.0)
    yaw_rad: HalfAngle = 0.0

    def sample(self, rng: np.random.Generator) -> Pose:
        """A pose to compose from the left with a nominal position and yaw (see :func:`randomized`)."""
        half = np.array(self.xyz_m)
        return Pose.from_rpy(rng.uniform(-half, half), (0.0, 0.0, rng.uniform(-self.yaw_rad, self.yaw_rad)))


class Placement(_Strict, frozen=True, kw_only=True):
    """A nominal pose and how far an episode's start may deviate from it."""

    pose: PoseSpec = PoseSpec()
    randomize: Range = Range()

    def sample(self, rng: np.random.Generator) -> Pose:
        """Nominal position plus uniform offsets, orientation turned by a uniform yaw about the outer frame's z."""
        nominal, offset = self.pose.pose(), self.randomize.sample(rng)
        turned = Pose(np.zeros(3), offset.quaternion) @ Pose(np.zeros(3), nominal.quaternion)
        return Pose(nominal.position + offset.position, turned.quaternion)


class Control(_Strict, frozen=True, kw_only=True):
    rate_hz: Annotated[float, msgspec.Meta(ge=1.0, le=50.0)] = 10.0
    translation_scale_m: Annotated[float, msgspec.Meta(gt=0.0, le=0.05)] = 0.015
    rotation_scale_rad: Annotated[float, msgspec.Meta(gt=0.0, le=0.3)] = 0.1
    gripper: GripperUse = GripperUse.FIXED
    setpoint: SetPoint = SetPoint.MEASURED
    leash_m: Annotated[float, msgspec.Meta(gt=0.0, le=0.05)] = 0.02  # LEASHED only
    leash_rad: Annotated[float, msgspec.Meta(gt=0.0, le=0.3)] = 0.12  # LEASHED only
    observation_lead_s: Annotated[float, msgspec.Meta(gt=0.0, le=0.5)] = 0.05  # observation this long before its tick

    @property
    def period_s(self) -> float:
        return 1.0 / self.rate_hz

    @property
    def scale(self) -> Array:
        """What an action of all ones means, shape (6,): m and rad."""
        return np.array([self.translation_scale_m] * 3 + [self.rotation_scale_rad] * 3)


class Gains(_Strict, frozen=True, kw_only=True):
    """Cartesian impedance in the base frame; rotation error is the rotation vector (crisp_controllers' convention)."""

    k_pos_n_m: tuple[Stiffness, Stiffness, Stiffness]
    d_pos_ns_m: tuple[Damping, Damping, Damping]
    k_rot_nm_rad: tuple[RotationalStiffness, RotationalStiffness, RotationalStiffness]
    d_rot_nms_rad: tuple[RotationalDamping, RotationalDamping, RotationalDamping]
    clip_pos_m: tuple[Length, Length, Length]
    clip_rot_rad: tuple[HalfAngle, HalfAngle, HalfAngle]


_COMPLIANCE = Gains(
    k_pos_n_m=(2000.0, 2000.0, 2000.0),
    d_pos_ns_m=(150.0, 150.0, 150.0),
    k_rot_nm_rad=(75.0, 75.0, 75.0),
    d_rot_nms_rad=(7.0, 7.0, 7.0),
    clip_pos_m=(0.01, 0.01, 0.01),
    clip_rot_rad=(0.1, 0.1, 0.1),
)


class Impedance(_Strict, frozen=True, kw_only=True):
    compliance: Gains = _COMPLIANCE  # while an episode runs
    precision: Gains = _COMPLIANCE  # while the arm is being reset
    target_filter: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)] = 0.995  # per ms: new = (1 - f) target + f old
    max_torque_rate_nm_ms: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0  # the robot refuses more
    nullspace_stiffness_nm_rad: Annotated[float, msgspec.Meta(ge=0.0, le=50.0)] = 0.5


class Workspace(_Strict, frozen=True, kw_only=True):
    """Where a commanded target may be: a box in the base frame and a cone and yaw range about the tool-down posture."""

    min_m: XYZ
    max_m: XYZ
    max_tilt_rad: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.3  # tool axis against straight down
    yaw_rad: Angle = 0.0  # of the TCP x axis about base z
    max_yaw_rad: Annotated[float, msgspec.Meta(gt=0.0, le=1.5)] = 0.8


class Safety(_Strict, frozen=True, kw_only=True):
    max_linear_speed_m_s: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.4  # of the commanded target
    max_angular_speed_rad_s: Annotated[float, msgspec.Meta(gt=0.0, le=3.0)] = 2.5
    max_force_n: Annotated[float, msgspec.Meta(gt=0.0, le=100.0)] = 40.0
    max_torque_nm: Annotated[float, msgspec.Meta(gt=0.0, le=30.0)] = 10.0
    force_samples: Annotated[int, msgspec.Meta(ge=1, le=20)] = 3  # consecutive ticks above the limit before holding
    max_action_age_s: Age = 0.3  # of the observation that an action answers
    max_chunk_age_s: Age = 2.0  # the same for the later actions of a chunk
    max_observation_age_s: Age = 0.3
    gripper_dwell_s: Annotated[float, msgspec.Meta(ge=0.0, le=5.0)] = 0.5  # least time between two toggles
    retract_m: Annotated[float, msgspec.Meta(ge=0.0, le=0.02)] = 0.0  # back off after a force limit; 0: only hold


class Success(_Strict, frozen=True, kw_only=True):
    """The subject's pose in the fixture frame lies within the tolerances of ``goal`` for consecutive ticks."""

    subject: Subject = Subject.TCP
    goal: PoseSpec
    position_tolerance_m: tuple[Tolerance, Tolerance, Tolerance]
    rotation_tolerance_rad: Annotated[float, msgspec.Meta(gt=0.0, le=math.pi)] = math.pi
    gripper: GripperState = GripperState.ANY
    consecutive_ticks: Annotated[int, msgspec.Meta(ge=1, le=20)] = 1


class Camera(_Strict, frozen=True, kw_only=True):
    image_size_px: Annotated[int, msgspec.Meta(ge=32, le=512)] = 256  # side of the square wrist image


class Task(_Strict, frozen=True, kw_only=True):
    """One task file. Frames: ``base`` is the robot's base, ``fixture`` the port, board or bowl, z up."""

    name: Name
    family: Family
    split: Split
    instruction: Sentence
    paraphrases: tuple[Sentence, ...] = ()
    time_limit_s: Annotated[float, msgspec.Meta(gt=0.0, le=300.0)] = 10.0
    control: Control = Control()
    impedance: Impedance = Impedance()
    workspace: Workspace
    safety: Safety = Safety()
    camera: Camera = Camera()
    fixture: Placement  # in the base frame
    object: Placement | None = None  # start of a free object in the base frame; None: it is grasped already
    start: Placement  # TCP at the start of an episode, in the fixture frame
    reset_lift_m: Length = 0.05  # the reset motion first rises by this much
    success: Success
    simulation: Simulation | None = None  # geometry of fixture and object; None: for the rig only
    scenes: Annotated[tuple[SceneSpec, ...], msgspec.Meta(min_length=1)]
    sources: tuple[str, ...] = ()  # where outlines, clearances and ranges come from

    @property
    def max_steps(self) -> int:
        """Number of actions after which an episode is cut off."""
        return round(self.time_limit_s * self.control.rate_hz)

    def scene(self, name: str = "") -> SceneSpec:
        """The scene called ``name``, or the first one.

        Raises:
            TaskError: no scene has that name.
        """
        for scene in self.scenes:
            if name in ("", scene.name):
                return scene
        raise TaskError(f"task {self.name}: no scene {name!r}; it has {', '.join(s.name for s in self.scenes)}")


class OperatorDevice(_Strict, frozen=True, kw_only=True):
    """How a six-axis device (SpaceMouse, gamepad) stands to the arm. The dead-man rule comes after it.

    Attributes:
        yaw_rad: of the operator's forward about base z, 0 where they look along base x, pi where they face the arm.
        scale: of each deflection, forward, left, up and about these.
        dead_zone: deflections up to this count as none: for a worn device that does not come back to zero.
    """

    yaw_rad: Angle = 0.0
    scale: tuple[DeviceScale, DeviceScale, DeviceScale, DeviceScale, DeviceScale, DeviceScale] = (1.0,) * 6
    dead_zone: Annotated[float, msgspec.Meta(ge=0.0, le=0.5)] = 0.0


_Torque = Annotated[float, msgspec.Meta(gt=0.0, le=100.0)]  # N m
_Force = Annotated[float, msgspec.Meta(gt=0.0, le=200.0)]  # N


class Collision(_Strict, frozen=True, kw_only=True):
    """External loads at which a real arm stops by itself (reflex). The joints' are those of franka_ros2's examples."""

    torque_nm: tuple[_Torque, ...] = (35.0, 35.0, 32.0, 30.0, 29.0, 27.0, 24.0)  # one a joint
    force_n: _Force = 60.0  # at the TCP, each axis; above safety.max_force_n, at which the arm only holds
    moment_nm: _Torque = 30.0  # at the TCP, each axis


class Grip(_Strict, frozen=True, kw_only=True):
    """How a real hand closes."""

    speed_m_s: Annotated[float, msgspec.Meta(gt=0.0, le=0.2)] = 0.1
    force_n: Annotated[float, msgspec.Meta(gt=0.0, le=70.0)] = 40.0


FRANKA_HAND = PoseSpec(xyz_m=(0.0, 0.0, 0.1034), rpy_rad=(0.0, 0.0, -math.pi / 4.0))


class Robot(_Strict, frozen=True, kw_only=True):
    """One file of ``config/robots``: what is special about an arm."""

    name: Name
    base_frame: str
    tcp_frame: str
    camera_frame: str
    joint_names: tuple[str, ...]
    home_rad: tuple[Angle, ...]
    gripper_max_width_m: Annotated[float, msgspec.Meta(gt=0.0, le=0.2)]
    operator: OperatorDevice = OperatorDevice()
    flange_to_tcp: PoseSpec = FRANKA_HAND
    tcp_to_camera: PoseSpec | None = None  # the wrist camera's optical frame; None: not calibrated
    collision: Collision = Collision()
    grip: Grip = Grip()


_T = TypeVar("_T", bound=msgspec.Struct)


def config_directory() -> Path:
    """Where ``tasks/`` and ``robots/`` lie: ``$RLDG_CONFIG``, the installed share of rldg_bringup, or the source tree.

    Raises:
        TaskError: none of the three exists.
    """
    candidates = [Path(p) for p in [os.environ.get("RLDG_CONFIG", "")] if p]
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    candidates += [Path(p) / "share" / "rldg_bringup" / "config" for p in prefixes]
    candidates += [parent / "config" for parent in Path(__file__).resolve().parents]
    for candidate in candidates:
        if (candidate / "tasks").is_dir():
            return candidate
    raise TaskError("no config/tasks directory found; set RLDG_CONFIG to the directory that holds tasks/ and robots/")


def task_names() -> list[str]:
    """Names of the task files of this installation, sorted."""
    return sorted(p.stem for p in (config_directory() / "tasks").glob("*.yaml") if not p.stem.startswith("_"))


def load_task(name_or_path: str | Path) -> Task:
    """Read, check and return a task.

    Args:
        name_or_path: a name of ``config/tasks`` (``usb_insertion``) or the path of a YAML file.

    Raises:
        TaskError: the file is missing, not YAML, or breaks the schema.
    """
    path = _resolve(name_or_path, "tasks")
    task = read_yaml(path, Task)
    if task.name != path.stem:
        raise TaskError(f"{path}: name: is {task.name!r}, must equal the file name {path.stem!r}")
    _check_task(path, task)
    return task


def load_robot(name_or_path: str | Path) -> Robot:
    """Read, check and return a robot file; see :func:`load_task`."""
    path = _resolve(name_or_path, "robots")
    robot = read_yaml(path, Robot)
    if len(robot.joint_names) != len(robot.home_rad):
        raise TaskError(f"{path}: home_rad: has {len(robot.home_rad)} values for {len(robot.joint_names)} joint_names")
    if len(robot.joint_names) != len(robot.collision.torque_nm):
        raise TaskError(
            f"{path}: collision.torque_nm: has {len(robot.collision.torque_nm)} values for "
            f"{len(robot.joint_names)} joint_names"
        )
    return robot


def _resolve(name_or_path: str | Path, kind: str) -> Path:
    if len(str(name_or_path)) > 1000:
        raise TaskError(
            f"{str(name_or_path)[:80]}...: a name or path of {len(str(name_or_path))} characters is too long"
        )
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        directory = config_directory() / kind
        path = directory / f"{name_or_path}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in directory.glob("*.yaml") if not p.stem.startswith("_")))
            raise TaskError(f"{path}: no such file; {kind} here: {known}")
    if not path.is_file():
        raise TaskError(f"{path}: no such file")
    return path


def read_yaml(path: Path, kind: type[_T], family: str | None = None) -> _T:
    """Read a YAML file, laid over the one that it ``extends``, as a strict struct: of tasks, robots, recipes.

    Args:
        family: of tasks; what the file says under ``families.<family>`` is laid over the rest. None: the file has no
            such key.

    Raises:
        TaskError: the file is missing, not YAML, or breaks the schema; one line: file, key, what is allowed.
    """
    data = _layered(path, ())
    if family is not None:
        families = data.pop("families", {})
        if not isinstance(families, dict) or not all(isinstance(value, dict) for value in families.values()):
            raise TaskError(f"{path}: families: must map families of tasks to what is different for them")
        data = _overlay(data, families.get(family, {}))
    try:
        return msgspec.convert(data, kind, strict=False)
    except msgspec.ValidationError as error:
        raise TaskError(f"{path}: {_explain(error, data, kind)}") from None


def _layered(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The file's mapping over the mapping of the file it extends."""
    path = path.resolve()
    if path in seen:
        raise TaskError(f"{path}: extends: files extend each other in a circle")
    try:
        data = decode_yaml(path.read_bytes())
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise TaskError(f"{path}: not YAML: {error}") from None
    if not isinstance(data, dict):
        raise TaskError(f"{path}: must hold a mapping of keys to values, holds {type(data).__name__}")
    parent = data.pop("extends", None)
    if parent is None:
        return data
    parent_path = path.parent / str(parent)
    if not parent_path.is_file():
        raise TaskError(f"{path}: extends: no such file {parent_path}")
    return _overlay(_layered(parent_path, (*seen, path)), data)


def _overlay(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = _overlay(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _explain(error: msgspec.ValidationError, data: Any, kind: type) -> str:
    """msgspec's message as ``key: what is wrong``, with the allowed keys where a key is unknown."""
    text = str(error)
    message, _, where = text.partition(" - at `$")
    key = where.rstrip("`").lstrip(".") or "(top level)"
    if "unknown field" in message:
        allowed = _fields_at(kind, key)
        if allowed:
            message += f"; allowed: {', '.join(allowed)}"
    else:
        value = _value_at(data, key)
        if value is not None and not isinstance(value, dict):
            message += f", got {_short(repr(value))}"
    return f"{key}: {message}"


def _short(text: object) -> str:
    """On one line, and cut where it would fill the screen."""
    line = " ".join(str(text).split())
    return line if len(line) <= 160 else f"{line[:150]}... ({len(line)} characters)"


def _value_at(data: Any, key: str) -> Any:
    for part in key.replace("[", ".").replace("]", "").split("."):
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and part.isdigit() and int(part) < len(data):
            data = data[int(part)]
        else:
            return None
    return data


def _fields_at(kind: Any, key: str) -> list[str]:
    """Names of the fields that the struct at ``key`` knows."""
    node = msgspec.inspect.type_info(kind)
    parts = [] if key == "(top level)" else key.replace("[", ".[").split(".")
    for part in parts:
        node = _struct_in(node)
        if part.startswith("["):
            continue
        field = next((f for f in getattr(node, "fields", ()) if f.encode_name == part), None)
        if field is None:
            return []
        node = field.type
    return [f.encode_name for f in getattr(_struct_in(node), "fields", ())]


def _struct_in(node: Any) -> Any:
    """The struct inside optional, metadata and sequence types."""
    while True:
        if isinstance(node, msgspec.inspect.UnionType):
            node = next((t for t in node.types if isinstance(t, msgspec.inspect.StructType)), None)
        elif isinstance(node, msgspec.inspect.Metadata):
            node = node.type
        elif isinstance(node, (msgspec.inspect.VarTupleType, msgspec.inspect.ListType)):
            node = node.item_type
        else:
            return node


def _check_task(path: Path, task: Task) -> None:
    """What one key alone cannot say."""
    box = task.workspace
    if any(low >= high for low, high in zip(box.min_m, box.max_m, strict=True)):
        raise TaskError(f"{path}: workspace.min_m: {box.min_m} must be below max_m {box.max_m} in every axis")
    if task.max_steps < 1:
        raise TaskError(
            f"{path}: time_limit_s: {task.time_limit_s} s is less than one period of {task.control.rate_hz} Hz"
        )
    names = [scene.name for scene in task.scenes]
    if len(set(names)) != len(names):
        raise TaskError(f"{path}: scenes: names must differ, got {', '.join(names)}")
    if task.family in (Family.PICK_AND_PLACE, Family.FMB_ASSEMBLY) and task.control.gripper is not GripperUse.BINARY:
        raise TaskError(f"{path}: control.gripper: family {task.family} needs {GripperUse.BINARY.value!r}")
    if task.success.subject is Subject.OBJECT and task.object is None:
        raise TaskError(f"{path}: success.subject: is 'object', but the file has no object")
