"""The simulated cell: the one physics behind the gymnasium environment and the ROS node."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from rldg_core.frames import (
    Array,
    Pose,
    body_delta,
    cross,
    exp_rotation,
    log_rotation,
    quaternion_conjugate,
    quaternion_from_matrix,
    quaternion_multiply,
    rotate,
)
from rldg_core.images import Lens
from rldg_core.scene_spec import SceneSpec
from rldg_core.task import Gains, Robot, Task, TaskError, load_robot
from rldg_core.types import ArmState
from rldg_sim.arm import FINGER_JOINTS, FINGER_TRAVEL_M
from rldg_sim.rendering import Painter
from rldg_sim.scene import DISTRACTORS, LAW_GROUP, MAX_RENDER_PX, PHYSICS_STEP_S, build, to_rgba

# Physics steps between two samples of the wrench, re-alignments of the servo, projections of the posture spring. Each
# is a multiple of the one before.
WRENCH_STEPS, SERVO_STEPS, POSTURE_STEPS = 10, 20, 60
WRENCH_CUTOFF_HZ = 20.0
_WRENCH_KEEP = math.exp(-2.0 * math.pi * WRENCH_CUTOFF_HZ * WRENCH_STEPS * PHYSICS_STEP_S)
_WRENCH_KEEP_A_STEP = math.exp(-2.0 * math.pi * WRENCH_CUTOFF_HZ * PHYSICS_STEP_S)
_SETTLE_S = 0.3  # a free object comes to rest on the table
_ARM_DOF = 7
CAMERAS = ("wrist", "scene")


@dataclass(frozen=True)
class Truth:
    """Where things are, base frame; ``object_pose`` is None where the task has no free object."""

    fixture_pose: Pose
    object_pose: Pose | None


class _Stage:
    """The compiled model of one scene with the indices that the cell needs."""

    def __init__(self, task: Task, scene: SceneSpec) -> None:
        self.scene = scene
        self.model = mujoco.MjSpec.compile(build(task, scene))
        self.data, self.still = mujoco.MjData(self.model), mujoco.MjData(self.model)
        model = self.model
        self.tcp = model.site("fr3_hand_tcp").id
        self.servo = model.site("servo").id
        self.flange = model.site("flange").id
        self.hand = model.body("fr3_hand").id
        self.fixture_body = model.body("fixture").id
        self.fixture = int(model.body("fixture").mocapid[0])
        self.springs = [model.actuator(f"spring_{i}").id for i in range(6)]
        self.dampers = [model.actuator(f"damper_{i}").id for i in range(6)]
        self.postures = [model.actuator(f"posture_{name}").id for name in _joint_names(model)]
        self.held = task.simulation.held if task.simulation is not None else None
        self.filters = [int(model.actuator_actadr[a]) for a in self.springs]
        self.has_object = "object" in [model.body(i).name for i in range(model.nbody)]
        self.object_q = int(model.joint("object").qposadr[0]) if self.has_object else -1
        self.object_v = int(model.joint("object").dofadr[0]) if self.has_object else -1
        self.fingers_q: list[int] = []
        if self.held is None:
            self.gripper = model.actuator("gripper").id
            self.grip_filter = int(model.actuator_actadr[self.gripper])
            self.fingers_q = [int(model.joint(name).qposadr[0]) for name in FINGER_JOINTS]
        self.colours, self.material_colours = model.geom_rgba.copy(), model.mat_rgba.copy()
        tool_bodies = [
            i for i in range(model.nbody) if model.body_rootid[i] == model.body_rootid[self.hand] and i >= self.hand
        ]
        self.tool_bodies = frozenset(tool_bodies)
        # The servo site is turned at run time, so its orientation must not be taken from its body.
        model.site_sameframe[self.servo] = 0
        self.painter: Painter | None = None


def _joint_names(model: mujoco.MjModel) -> list[str]:
    return [model.joint(i).name for i in range(_ARM_DOF)]


class Cell:
    """Arm, gripper, cameras, fixture and object of a task, stepped by whoever owns it; no ROS, no clock of its own.

    Args:
        task: what stands in the cell and how the arm is controlled.
        image_size_px: side of images where none is asked for; default ``camera.image_size_px`` of the task.
        robot: home posture; default ``config/robots/fr3.yaml``.

    Raises:
        TaskError: the task has no ``simulation`` part, or it does not fit together.
    """

    def __init__(self, task: Task, *, image_size_px: int | None = None, robot: Robot | None = None) -> None:
        self.task = task
        self.image_size_px = image_size_px or task.camera.image_size_px
        self._home_rad = np.array((robot or load_robot("fr3")).home_rad)
        self._stages: dict[str, _Stage] = {}
        self._stage = self._enter(task.scene().name)
        self._jacobian = np.zeros((6, self._stage.model.nv))
        self._steps = 0
        self._phase = 0  # physics steps since the posture was last projected
        self._law_is_off = False  # the joints follow torques from outside
        self._sensed = np.zeros(6)  # force sensor of the flange, low-passed
        self.reset(task.scene().name, 0)

    # --- episodes --------------------------------------------------------------------------------------------------

    def reset(self, scene: str, seed: int, *, move_arm: bool = True) -> Pose:
        """Put everything where ``seed`` says.

        The same scene and seed give the same state, bit for bit, whatever happened before.

        Args:
            scene: name of a scene of the task, "" for its first.
            seed: of positions, colours, textures, light and what lies around.
            move_arm: also put the arm at the start pose, at rest, gripper open (or holding the plug), gains
                ``impedance.compliance``. Otherwise only the surroundings change and the arm stays as it is; a tool that
                still sticks in a fixture that is to move is pulled out upwards first.

        Returns:
            The TCP pose, base frame, at which the episode is to start.

        Raises:
            TaskError: no such scene.
        """
        spec = self.task.scene(scene)
        rng = np.random.default_rng(seed)
        fixture = self.task.fixture.sample(rng)
        start = fixture @ self.task.start.sample(rng)
        object_pose = self.task.object.sample(rng) if self.task.object is not None else None
        moved = np.abs(body_delta(self.truth().fixture_pose, fixture)).max() > 1e-9
        if not move_arm and (moved or spec.name != self._stage.scene.name):
            self._withdraw()
        self._switch(spec.name)
        stage = self._stage
        if move_arm:
            mujoco.mj_resetData(stage.model, stage.data)
            self._dress(rng)
            self._place(stage.data.mocap_pos, stage.data.mocap_quat, stage.fixture, fixture)
            self._put_arm(start)
        else:
            self._dress(rng)
            self._place(stage.data.mocap_pos, stage.data.mocap_quat, stage.fixture, fixture)
        if object_pose is not None:
            self._put_object(object_pose)
        if move_arm:
            data = stage.data
            self._phase = 0
            self._project_posture()
            mujoco.mj_forward(stage.model, data)
            if object_pose is not None:
                self._run(round(_SETTLE_S / PHYSICS_STEP_S))
            self._sensed = data.sensordata[:6].copy()
        self._refresh()
        return start

    def _enter(self, name: str) -> _Stage:
        if name not in self._stages:
            self._stages[name] = _Stage(self.task, self.task.scene(name))
        return self._stages[name]

    def _switch(self, name: str) -> None:
        """Change the model, taking the arm along: all scenes of a task have the same joints and actuators."""
        before, after = self._stage, self._enter(name)
        if after is before:
            return
        for field in ("qpos", "qvel", "act", "ctrl", "qacc_warmstart", "mocap_pos", "mocap_quat"):
            getattr(after.data, field)[:] = getattr(before.data, field)
        after.data.time = before.data.time
        for field in ("actuator_gainprm", "actuator_biasprm", "actuator_forcerange", "actuator_dynprm"):
            getattr(after.model, field)[:] = getattr(before.model, field)
        after.model.site_quat[after.servo] = before.model.site_quat[before.servo]
        after.model.opt.disableactuator = before.model.opt.disableactuator
        self._stage = after

    def _put_arm(self, start: Pose) -> None:
        stage, data, task = self._stage, self._stage.data, self.task
        self._use_law()
        self.set_gains(task.impedance.compliance)
        keep = task.impedance.target_filter
        for actuator in stage.springs:
            stage.model.actuator_dynprm[actuator, 0] = -PHYSICS_STEP_S / math.log(keep) if keep > 0.0 else 1e-6
        posture = self._inverse_kinematics(start)
        data.qpos[:_ARM_DOF] = posture
        self._posture_rad = posture
        self._write_posture_gains(task.impedance.nullspace_stiffness_nm_rad)
        if stage.held is None:
            data.qpos[stage.fingers_q] = FINGER_TRAVEL_M
            data.act[stage.grip_filter] = data.ctrl[stage.gripper] = FINGER_TRAVEL_M
        self._reference = start.quaternion
        self._target = start
        data.act[stage.filters] = [*start.position, 0.0, 0.0, 0.0]
        self._align_servo()

    def _write_posture_gains(self, stiffness: float) -> None:
        model = self._stage.model
        for actuator in self._stage.postures:
            model.actuator_gainprm[actuator, 0] = 1.0
            model.actuator_biasprm[actuator, 1] = -stiffness

    def _put_object(self, pose: Pose) -> None:
        stage, data = self._stage, self._stage.data
        x, y, z, w = pose.quaternion
        data.qpos[stage.object_q : stage.object_q + 7] = [*pose.position, w, x, y, z]
        data.qvel[stage.object_v : stage.object_v + 6] = 0.0

    @staticmethod
    def _place(positions: Any, quaternions: Any, index: int, pose: Pose) -> None:
        x, y, z, w = pose.quaternion
        positions[index], quaternions[index] = pose.position, (w, x, y, z)

    def _withdraw(self) -> None:
        """Pull a tool that touches the fixture straight up before the fixture moves."""
        if not self._touches_fixture():
            return
        pose = self.state().tcp_pose
        held = self.task.simulation.held if self.task.simulation is not None else None
        height = self.task.reset_lift_m + (held.length_m if held is not None else 0.0)
        self.set_target(Pose(pose.position + np.array([0.0, 0.0, height]), pose.quaternion))
        for _ in range(200):
            self._run(SERVO_STEPS)
        self.hold()

    def _touches_fixture(self) -> bool:
        model, contacts = self._stage.model, self._stage.data.contact
        for first, second in contacts.geom:
            bodies = (int(model.geom_bodyid[first]), int(model.geom_bodyid[second]))
            if self._stage.fixture_body in bodies and (set(bodies) & self._stage.tool_bodies):
                return True
        return False

    def _inverse_kinematics(self, goal: Pose) -> Array:
        """Joint angles, shape (7,), nearest home that reach ``goal``: damped Gauss-Newton from the home posture."""
        stage, model, data = self._stage, self._stage.model, self._stage.data
        data.qpos[:_ARM_DOF] = self._home_rad
        for _ in range(100):
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            current = self._site_pose(stage.tcp)
            turn = quaternion_multiply(goal.quaternion, quaternion_conjugate(current.quaternion))
            error = np.concatenate([goal.position - current.position, log_rotation(turn)])
            if np.linalg.norm(error) < 1e-9:
                break
            jacobian = self._tcp_jacobian()
            inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + 1e-8 * np.eye(6))
            posture = 0.1 * (np.eye(_ARM_DOF) - inverse @ jacobian) @ (self._home_rad - data.qpos[:_ARM_DOF])
            data.qpos[:_ARM_DOF] += inverse @ np.clip(error, -0.2, 0.2) + posture
        else:
            if np.linalg.norm(error) > 1e-4:
                raise TaskError(
                    f"task {self.task.name}: start: the arm cannot reach {np.round(goal.position, 3)} m, "
                    f"it stays {np.linalg.norm(error[:3]) * 1000:.1f} mm away; move fixture or start closer to the base"
                )
        return np.array(data.qpos[:_ARM_DOF])

    # --- looks -----------------------------------------------------------------------------------------------------

    def _dress(self, rng: np.random.Generator) -> None:
        """Colours, light and what lies around, from the seed alone."""
        stage, model, data = self._stage, self._stage.model, self._stage.data
        scene = stage.scene
        jitter = scene.colour_jitter
        table = model.geom("table").id
        surface = scene.surfaces[rng.integers(len(scene.surfaces))]
        model.geom_matid[table] = model.material(f"surface_{surface}").id
        base = np.array(scene.surface_rgb[rng.integers(len(scene.surface_rgb))])
        model.mat_rgba[:] = stage.material_colours
        model.mat_rgba[model.geom_matid[table]] = to_rgba(np.clip(base + rng.uniform(-jitter, jitter, 3), 0.0, 1.0))
        model.geom_rgba[:] = stage.colours
        changing = [g for g in range(model.ngeom) if model.geom_bodyid[g] == stage.fixture_body]
        shift = rng.uniform(-jitter, jitter, (2, 3)) * 0.6
        model.geom_rgba[changing, :3] = np.clip(stage.colours[changing, :3] + shift[0], 0.0, 1.0)
        carried = [g for g in range(model.ngeom) if model.geom(g).name.startswith(("object_", "held_"))]
        model.geom_rgba[carried, :3] = np.clip(stage.colours[carried, :3] + shift[1], 0.0, 1.0)
        tilt, heading = rng.uniform(0.0, scene.light_tilt_rad), rng.uniform(-np.pi, np.pi)
        model.light_dir[0] = np.sin(tilt) * np.cos(heading), np.sin(tilt) * np.sin(heading), -np.cos(tilt)
        strength, warmth = rng.uniform(*scene.light_intensity), rng.uniform(-1.0, 1.0) * scene.light_warmth
        colour = np.array([1.0 + 0.4 * warmth, 1.0, 1.0 - 0.6 * warmth])
        model.light_diffuse[0] = np.clip(strength * colour, 0.0, 1.0)
        model.light_specular[0] = 0.1 * strength
        model.vis.headlight.ambient[:] = np.clip((0.22 + 0.2 * strength) * colour, 0.0, 1.0)
        model.vis.headlight.diffuse[:] = 0.25
        model.vis.headlight.specular[:] = 0.05
        count = int(rng.integers(scene.distractors + 1)) if scene.distractors else 0
        shown = rng.permutation(DISTRACTORS)[:count]
        for i in range(DISTRACTORS):
            geom, mocap = model.geom(f"distractor_{i}").id, int(model.body(f"distractor_{i}").mocapid[0])
            away = Pose(np.array([0.0, 0.0, -2.0]), np.array([0.0, 0.0, 0.0, 1.0]))
            self._place(data.mocap_pos, data.mocap_quat, mocap, away)
            angle, distance, yaw = rng.uniform(-np.pi, np.pi), rng.uniform(0.0, 0.12), rng.uniform(-np.pi, np.pi)
            model.geom_rgba[geom, :3] = rng.uniform(0.1, 0.9, 3)
            if i in shown:
                self._place(data.mocap_pos, data.mocap_quat, mocap, self._beside_work_area(angle, distance, yaw))

    def _beside_work_area(self, angle: float, distance: float, yaw: float) -> Pose:
        """On the table, ``distance`` outside the workspace box, in the direction ``angle`` from its middle."""
        low, high = np.array(self.task.workspace.min_m[:2]), np.array(self.task.workspace.max_m[:2])
        middle, half = (low + high) / 2.0, (high - low) / 2.0 + 0.05
        direction = np.array([np.cos(angle), np.sin(angle)])
        to_edge = float((half / np.maximum(np.abs(direction), 1e-9)).min())
        return Pose(np.array([*(middle + direction * (to_edge + distance)), 0.0]), exp_rotation([0.0, 0.0, yaw]))

    # --- commands --------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Physics steps since the cell was built."""
        return self._steps

    @property
    def time_s(self) -> float:
        """Simulated time since the cell was built; a reset takes none."""
        return self._steps * PHYSICS_STEP_S

    def set_target(self, target: Pose) -> None:
        """The set-point of the impedance law, base frame; the arm follows it through the filter and the clips."""
        self._target = target
        self._align_servo()

    def hold(self) -> None:
        """Make the measured pose the set-point."""
        self.set_target(self.state().tcp_pose)

    def set_gripper(self, closed: bool) -> None:
        """Close or open the fingers; without effect on a plug that is held from the start."""
        self.set_gripper_width(0.0 if closed else 2.0 * FINGER_TRAVEL_M)

    def set_gripper_width(self, width_m: float) -> None:
        """As :meth:`set_gripper`, to an opening from 0 to 0.08 m."""
        if self._stage.held is None:
            self._stage.data.ctrl[self._stage.gripper] = width_m / 2.0

    def set_gains(self, gains: Gains) -> None:
        """Stiffness, damping and clips of the law, in force from the next physics step."""
        model, stage = self._stage.model, self._stage
        stiffness = np.array([*gains.k_pos_n_m, *gains.k_rot_nm_rad])
        damping = np.array([*gains.d_pos_ns_m, *gains.d_rot_nms_rad])
        limit = stiffness * np.array([*gains.clip_pos_m, *gains.clip_rot_rad])
        model.actuator_gainprm[stage.springs, 0] = stiffness
        model.actuator_biasprm[stage.springs, 1] = -stiffness
        model.actuator_forcerange[stage.springs] = np.stack([-limit, limit], axis=1)
        model.actuator_biasprm[stage.dampers, 2] = -damping

    def advance(self, duration_s: float) -> None:
        """Let simulated time pass; rounded to whole physics steps of 1 ms. The result does not depend on how a span of
        time is cut into calls.

        Raises:
            ValueError: the duration is not a positive, finite time.
            RuntimeError: the physics has diverged.
        """
        steps = round(duration_s / PHYSICS_STEP_S) if math.isfinite(duration_s) else 0
        if steps < 1:
            raise ValueError(f"duration_s: is {duration_s}, must be at least {PHYSICS_STEP_S}")
        self._run(steps)
        self._steps += steps
        self._refresh()
        if not np.isfinite(self._stage.data.qpos).all():
            raise RuntimeError(f"task {self.task.name}: the physics diverged at {self.time_s:.3f} s")

    def _run(self, steps: int) -> None:
        """Physics steps; the servo is re-aligned and the wrench sampled on a grid that starts at the reset."""
        model, data = self._stage.model, self._stage.data
        if self._law_is_off:
            self._use_law()
            self._resume_law()
        while steps > 0:
            if self._phase == 0:
                self._project_posture()
            if self._phase % SERVO_STEPS == 0:
                self._align_servo()
            part = min(steps, WRENCH_STEPS - self._phase % WRENCH_STEPS)
            mujoco.mj_step(model, data, part)
            steps -= part
            self._phase = (self._phase + part) % POSTURE_STEPS
            if self._phase % WRENCH_STEPS == 0:
                self._sensed += (1.0 - _WRENCH_KEEP) * (data.sensordata[:6] - self._sensed)

    def step_under(self, torque_nm: Array) -> None:
        """One physics step, 1 ms, under joint torques from outside instead of the impedance law.

        Args:
            torque_nm: shape (7,), beside what compensates the weight. They are not limited here.
        """
        stage = self._stage
        model, data = stage.model, stage.data
        self._law_is_off = True
        model.opt.disableactuator = 1 << LAW_GROUP
        data.qfrc_applied[:_ARM_DOF] = torque_nm
        mujoco.mj_step(model, data)
        self._steps += 1
        # at every step, so that a blow counts by what it transfers, not by whether a sample met its peak
        self._sensed += (1.0 - _WRENCH_KEEP_A_STEP) * (data.sensordata[:6] - self._sensed)
        self._refresh()

    def _use_law(self) -> None:
        stage = self._stage
        self._law_is_off = False
        stage.model.opt.disableactuator = 0
        stage.data.qfrc_applied[:] = 0.0

    def _resume_law(self) -> None:
        """Start the law anew where the arm is: without a pull towards where it was switched off."""
        stage, data = self._stage, self._stage.data
        pose = self._site_pose(stage.tcp)
        data.act[stage.filters] = [*pose.position, 0.0, 0.0, 0.0]
        self._reference, self._posture_rad = pose.quaternion, np.array(data.qpos[:_ARM_DOF])
        self._phase = 0

    def _align_servo(self) -> None:
        """Express the rotational half of the servo about the present filtered set-point.

        The engine reads the site's pose as a rotation vector relative to the base. With the site turned by the inverse
        of the reference orientation, that is the rotation from the reference to the tool in base axes; the filter's
        activation is the rotation from the reference to the filtered set-point. Along the arc to the target both are
        exact; renewing the reference every few milliseconds keeps the rest (their commutator) below 1e-4 rad.
        """
        stage, data = self._stage, self._stage.data
        turned = data.act[stage.filters[3:]]
        reference = quaternion_multiply(exp_rotation(turned), self._reference)
        self._reference = reference / math.sqrt(float(reference @ reference))
        x, y, z, w = quaternion_conjugate(self._reference)
        stage.model.site_quat[stage.servo] = w, x, y, z
        data.act[stage.filters[3:]] = 0.0
        ahead = log_rotation(quaternion_multiply(self._target.quaternion, quaternion_conjugate(self._reference)))
        data.ctrl[stage.springs] = [*self._target.position, *ahead]

    def _project_posture(self) -> None:
        """Let the posture springs act within the null space only, so that they cannot pull the TCP.

        The null space turns and swings slowly; it is enough to renew it a few times a second.
        """
        stage, data = self._stage, self._stage.data
        self._refresh()
        jacobian, q = self._tcp_jacobian(), data.qpos[:_ARM_DOF]
        stiffness = self.task.impedance.nullspace_stiffness_nm_rad
        torque = stiffness * (self._posture_rad - q) - 2.0 * math.sqrt(stiffness) * data.qvel[:_ARM_DOF]
        torque -= jacobian.T @ np.linalg.solve(jacobian @ jacobian.T, jacobian @ torque)
        data.ctrl[stage.postures] = stiffness * q + torque

    @property
    def engine(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Model and state of the present scene."""
        return self._stage.model, self._stage.data

    # --- what can be measured --------------------------------------------------------------------------------------

    def _refresh(self, of: mujoco.MjData | None = None) -> None:
        """Bring what depends on the joint angles up to them; mj_step leaves it one step behind."""
        model, data = self._stage.model, of or self._stage.data
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)

    def _site_pose(self, site: int) -> Pose:
        data = self._stage.data
        return Pose(data.site_xpos[site], quaternion_from_matrix(data.site_xmat[site].reshape(3, 3)))

    def _tcp_jacobian(self) -> Array:
        stage = self._stage
        mujoco.mj_jacSite(stage.model, stage.data, self._jacobian[:3], self._jacobian[3:], stage.tcp)
        return self._jacobian[:, :_ARM_DOF]

    def _wrench(self) -> Array:
        """Force and torque of the environment on the tool, about the TCP in the TCP frame, shape (6,)."""
        stage, model, data = self._stage, self._stage.model, self._stage.data
        flange = data.site_xmat[stage.flange].reshape(3, 3)
        # The sensor reads what the arm exerts on the hand and all it carries, opposite to weight and outer forces.
        force, torque = flange @ self._sensed[:3], flange @ self._sensed[3:]
        origin = data.site_xpos[stage.flange]
        weight = model.body_subtreemass[stage.hand] * model.opt.gravity
        force = -force - weight
        torque = -torque - cross(data.subtree_com[stage.hand] - origin, weight)
        torque = torque - cross(data.site_xpos[stage.tcp] - origin, force)
        tcp = data.site_xmat[stage.tcp].reshape(3, 3).T
        return np.concatenate([tcp @ force, tcp @ torque])

    def state(self) -> ArmState:
        """The arm now.

        The weight of the hand is taken off the wrench, that of a free object in the fingers is not; it is low-passed at
        20 Hz and, like the robot's own estimate, reacts to the acceleration of the hand. The effort is the torque of
        the law, without what compensates the weight.
        """
        stage, data = self._stage, self._stage.data
        pose = self._site_pose(stage.tcp)
        twist = self._tcp_jacobian() @ data.qvel[:_ARM_DOF]
        back = quaternion_conjugate(pose.quaternion)
        return ArmState(
            tcp_pose=pose,
            tcp_twist=np.concatenate([rotate(back, twist[:3]), rotate(back, twist[3:])]),
            wrench=self._wrench(),
            joint_position_rad=np.array(data.qpos[:_ARM_DOF]),
            joint_velocity_rad_s=np.array(data.qvel[:_ARM_DOF]),
            joint_effort_nm=np.array(data.qfrc_actuator[:_ARM_DOF]),
            gripper_width_m=stage.held.grip_size_m[1] if stage.held else float(data.qpos[stage.fingers_q].sum()),
        )

    def truth(self) -> Truth:
        """Where fixture and object are."""
        stage, data = self._stage, self._stage.data
        w, x, y, z = data.mocap_quat[stage.fixture]
        fixture = Pose(data.mocap_pos[stage.fixture], np.array([x, y, z, w]))
        if not stage.has_object:
            return Truth(fixture, None)
        q = data.qpos[stage.object_q : stage.object_q + 7]
        return Truth(fixture, Pose(q[:3], q[[4, 5, 6, 3]]))

    def keep_still(self) -> None:
        """Note where everything is for the pictures taken with ``still``."""
        still, data = self._stage.still, self._stage.data
        for field in ("qpos", "mocap_pos", "mocap_quat"):
            getattr(still, field)[:] = getattr(data, field)

    def image(self, camera: str = "wrist", size_px: int | None = None, *, still: bool = False) -> npt.NDArray[np.uint8]:
        """A picture, shape (size_px, size_px, 3), RGB.

        Args:
            camera: ``wrist``, without the arm, or ``scene``, for people.
            size_px: side; default that of the cell.
            still: of the moment of the last :meth:`keep_still`, so that another thread may go on stepping meanwhile.

        Raises:
            ValueError: no such camera, or a size out of range.
            RenderingError: OpenGL is missing.
        """
        size = size_px or self.image_size_px
        if camera not in CAMERAS:
            raise ValueError(f"camera: is {camera!r}, must be one of {', '.join(CAMERAS)}")
        for_people = camera == "scene"
        if not 16 <= size <= MAX_RENDER_PX // (2 if for_people else 1):
            raise ValueError(f"size_px: is {size}, must be from 16 to {MAX_RENDER_PX // (2 if for_people else 1)}")
        stage = self._stage
        if stage.painter is None:
            stage.painter = Painter(stage.model)
        data = stage.data
        if still:
            data = stage.still
            self._refresh(data)
        if not for_people:
            return stage.painter.draw(data, camera, size, with_arm=False)
        fine = stage.painter.draw(data, camera, 2 * size, with_arm=True)
        return fine.reshape(size, 2, size, 2, 3).mean(axis=(1, 3)).astype(np.uint8)

    def lens(self, camera: str, size_px: int) -> Lens:
        """The lens of a camera's square image of side ``size_px``: an ideal pinhole."""
        fovy_rad = math.radians(float(self._stage.model.camera(camera).fovy[0]))
        focal = size_px / (2.0 * math.tan(fovy_rad / 2.0))
        return Lens(size_px, size_px, focal, focal, size_px / 2.0, size_px / 2.0)

    def close(self) -> None:
        """Give the OpenGL contexts back; the cell must not be used afterwards."""
        for stage in self._stages.values():
            if stage.painter is not None:
                stage.painter.close()
                stage.painter = None
