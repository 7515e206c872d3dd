"""Evaluation plans: which policies are tried where, how often and in which order. Read from ``config/evaluation``.

The start states are shared: in a *block* every policy is tried once in one scene with one seed, in an order drawn anew
for each block, so that drift of the rig or of the person beside it meets all policies alike. The id of a trial does not
say whose it is, so that whoever resets the scene and labels the outcome need not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import ascii_lowercase
from typing import Annotated

import msgspec
import numpy as np

from rldg_core.task import Coordinate, Length, Name, Split, Task, TaskError, config_directory, load_task, read_yaml
from rldg_policies.policy import policy_names
from rldg_recorder.plan import digest

OPERATOR = "operator"  # the type of policy that is the scripted operator with his device
FIRST_SEED = 2_100_000_000  # start states from here on belong to no training and to no collecting
_MAX_SEED = 2**31 - 1
_WORDS = ("all", *(split.value for split in Split))


class EvaluationError(ValueError):
    """A plan or its results are wrong; the message is one line: file, key, what is allowed, remedy."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part of a plan: immutable, and an unknown key is an error."""


class TriedPolicy(_Strict, frozen=True, kw_only=True):
    """One policy.

    Attributes:
        name: in the report.
        type: an entry point of group ``rldg.policies``, or ``operator``.
        checkpoint: folder, from the working directory; becomes the parameter of that name.
        latency_s: of its answers, where they are not computed in real time; it answers no other observation meanwhile.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=48)]
    type: str
    checkpoint: str = ""
    parameters: dict[str, str | int | float | bool] = {}
    latency_s: Annotated[float, msgspec.Meta(ge=0.0, le=5.0)] = 0.0

    @property
    def all_parameters(self) -> dict[str, str | int | float | bool]:
        """With the checkpoint, which then does not depend on the working directory."""
        where = {"checkpoint": str(Path(self.checkpoint).absolute())} if self.checkpoint else {}
        return self.parameters | where


class TriedTask(_Strict, frozen=True, kw_only=True):
    """One task: a name of ``config/tasks`` or a YAML file, and names of its scenes, or all, seen, unseen."""

    task: str
    scenes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("all",)


class Stop(_Strict, frozen=True, kw_only=True):
    """End the trials of a policy in a scene as soon as it is clear on which side of a success rate it is."""

    against: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)]
    confidence: Annotated[float, msgspec.Meta(ge=0.5, lt=1.0)] = 0.95


class Near(_Strict, frozen=True, kw_only=True):
    """Where the actions of the policies are compared: a box about a position of the TCP in the fixture frame.

    Its size is that of RLDG's Fig. 8.
    """

    xyz_m: tuple[Coordinate, Coordinate, Coordinate]
    half_m: tuple[Length, Length, Length] = (0.004, 0.004, 0.010)


class EvaluationPlan(_Strict, frozen=True, kw_only=True):
    """One file of ``config/evaluation``."""

    name: Name
    policies: Annotated[tuple[TriedPolicy, ...], msgspec.Meta(min_length=1, max_length=len(ascii_lowercase))]
    tasks: Annotated[tuple[TriedTask, ...], msgspec.Meta(min_length=1)]
    trials: Annotated[int, msgspec.Meta(ge=1, le=100_000)]  # of each policy in each scene
    seed: Annotated[int, msgspec.Meta(ge=0, le=_MAX_SEED)] = FIRST_SEED  # of the first start state, and of the order
    stop: Stop | None = None
    actions_near: Near | None = None


class Trial(_Strict, frozen=True, kw_only=True):
    """One policy at one start state.

    Attributes:
        id: block and place in it; does not tell the policy.
        task: as the plan names it.
    """

    id: str
    task: str
    scene: str
    seed: int
    policy: str


class LoadedPlan(_Strict, frozen=True, kw_only=True):
    """A plan with what it refers to.

    Attributes:
        tasks: by the name that the plan uses.
        trials: in the order in which a rig does them.
    """

    plan: EvaluationPlan
    tasks: dict[str, Task]
    trials: tuple[Trial, ...]

    @property
    def hash(self) -> str:
        """Of everything that says what is tried: the plan and the whole task files."""
        return digest((self.plan, self.tasks))

    def policy(self, name: str) -> TriedPolicy:
        return next(policy for policy in self.plan.policies if policy.name == name)


def load_plan(name_or_path: str | Path) -> LoadedPlan:
    """Read, check and expand a plan.

    Raises:
        EvaluationError: a file is missing, not YAML, breaks the schema or does not fit the others.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        folder = config_directory() / "evaluation"
        path = folder / f"{name_or_path}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
            raise EvaluationError(f"{path}: no such file; plans here: {known}")
    try:
        return prepare(read_yaml(path, EvaluationPlan))
    except EvaluationError as error:
        raise EvaluationError(f"{path}: {error}") from None
    except TaskError as error:
        raise EvaluationError(str(error)) from None


def prepare(plan: EvaluationPlan) -> LoadedPlan:
    """Check what one key alone cannot say, and expand.

    Raises:
        EvaluationError: one line: key, what is allowed.
    """
    _check_policies(plan)
    tasks: dict[str, Task] = {}
    for entry in plan.tasks:
        if entry.task in tasks:
            raise EvaluationError(f"tasks: {entry.task!r} is there twice; name its scenes in one entry")
        try:
            tasks[entry.task] = load_task(entry.task)
        except TaskError as error:
            raise EvaluationError(f"tasks: {error}") from None
    names = [task.name for task in tasks.values()]
    if len(set(names)) != len(names):
        raise EvaluationError(f"tasks: names must differ, got {', '.join(names)}")
    return LoadedPlan(plan=plan, tasks=tasks, trials=_expand(plan, tasks))


def _check_policies(plan: EvaluationPlan) -> None:
    names = [policy.name for policy in plan.policies]
    if len(set(names)) != len(names):
        raise EvaluationError(f"policies: names must differ, got {', '.join(names)}")
    for policy in plan.policies:
        known = [*policy_names(), OPERATOR]
        if policy.type not in known:
            raise EvaluationError(
                f"policies: {policy.name}: type {policy.type!r} is not installed; there are {', '.join(known)}"
            )
        if policy.checkpoint and "checkpoint" in policy.parameters:
            raise EvaluationError(f"policies: {policy.name}: checkpoint is also in parameters; say it once")
        if policy.checkpoint and not Path(policy.checkpoint).is_dir():
            raise EvaluationError(f"policies: {policy.name}: checkpoint {policy.checkpoint}: no such folder")
        if policy.type == OPERATOR and (policy.all_parameters or policy.latency_s):
            raise EvaluationError(f"policies: {policy.name}: the operator takes no parameters, checkpoint or latency_s")


def split_of(task: Task, scene: str) -> Split:
    """Whether a scene may have been trained on; all scenes of an unseen task are unseen."""
    return Split.UNSEEN if Split.UNSEEN in (task.split, Split(task.scene(scene).split)) else Split.SEEN


def _scenes(task: Task, wanted: tuple[str, ...]) -> list[str]:
    """Names of the scenes that an entry means, in the order of the task file."""
    known = [scene.name for scene in task.scenes]
    chosen = set()
    for word in wanted:
        found = [word] if word in known else []
        if not found and word in _WORDS:
            found = [name for name in known if word in ("all", split_of(task, name))]
        if not found:
            raise EvaluationError(
                f"tasks: {task.name}: no scene {word!r}; it has {', '.join(known)}; or say {', '.join(_WORDS)}"
            )
        chosen.update(found)
    return [name for name in known if name in chosen]


def _expand(plan: EvaluationPlan, tasks: Mapping[str, Task]) -> tuple[Trial, ...]:
    """Blocks in random order within each task, because changing the task means refitting the rig."""
    rng = np.random.default_rng(plan.seed)
    trials = []
    for entry in plan.tasks:
        task = tasks[entry.task]
        # no start state twice in a task: the same seed in another scene is the same but for looks
        scenes = [scene for scene in _scenes(task, entry.scenes) for _ in range(plan.trials)]
        blocks = [(scene, plan.seed + n) for n, scene in enumerate(scenes)]
        if plan.seed + len(blocks) - 1 > _MAX_SEED:
            raise EvaluationError(
                f"seed: is {plan.seed}, must be at most {_MAX_SEED + 1 - len(blocks)} for the trials of {task.name}"
            )
        for number, index in enumerate(rng.permutation(len(blocks)), 1):
            scene, seed = blocks[index]
            for letter, who in zip(ascii_lowercase, rng.permutation(len(plan.policies)), strict=False):
                name = plan.policies[who].name
                trial_id = f"{task.name}-{number:04d}{letter}"
                trials.append(Trial(id=trial_id, task=entry.task, scene=scene, seed=seed, policy=name))
    return tuple(trials)
