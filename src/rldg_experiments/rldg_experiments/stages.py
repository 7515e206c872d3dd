"""What the stages of an experiment do: the verb that does it, what it leaves, how far it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from rldg_experiments.plan import (
    OPERATOR,
    REFERENCE,
    AnyStage,
    Build,
    Collect,
    Evaluate,
    ExperimentError,
    Finetune,
    Stage,
    Swap,
    Train,
    resolved,
)

TOLD = "told.jsonl"  # standard output of the verb
LOG = "log.txt"  # its standard error
_PLAN, _RECIPE = "plan.yaml", "recipe.yaml"


def command(stage: AnyStage, folder: Path, products: Mapping[str, Path], cores: int) -> list[str]:
    """The words after ``./rldg`` that do a stage; files that they name are written.

    Args:
        folder: of the stage.
        products: of the stages before it.
        cores: that it may use.
    """
    said = resolved(msgspec.to_builtins(stage), products)
    match stage:
        case Train():
            words = ["train", stage.task, "--preset", stage.preset, "--seed", str(stage.seed)]
            words += ["--segment", stage.segment] if stage.segment else []
            return [*words, "--run", f"{folder}/run", "--checkpoints", f"{folder}/checkpoints", "--json"]
        case Collect():
            words = ["collect", stage.task, "--successes", str(stage.successes), "--bags", f"{folder}/bags"]
            words += ["--scene", stage.scene] if stage.scene else []
            if stage.policy == OPERATOR:
                return [*words, "--operator", "scripted"]
            return [*words, "--checkpoint", said["policy"]]
        case Build():
            recipe = {"name": "data", "bags": said["bags"], **said["recipe"]}
            (folder / _RECIPE).write_text(json.dumps(recipe, indent=1))  # which is YAML too
            return ["dataset", "build", f"{folder}/{_RECIPE}", "--out", str(folder), "--jobs", str(cores)]
        case Finetune():
            words = ["finetune", stage.config, "--data", said["data"], "--out", f"{folder}/checkpoint"]
            words += ["--steps", str(stage.steps)] if stage.steps else []
            return [*words, "--seed", str(stage.seed), "--json"]
        case Evaluate():
            (folder / _PLAN).write_text(json.dumps({"name": "evaluation", **said["plan"]}, indent=1))
            words = ["evaluate", f"{folder}/{_PLAN}", "--fast", "--out", f"{folder}/results"]
            return [*words, "--jobs", str(cores)]
        case Swap():
            words = ["show", "--task", stage.task, "--episodes", str(stage.episodes), "--output", f"{folder}/film"]
            words += ["--policy", f"specialist={said['first']}", "--swap-to", f"{stage.type}={said['second']}"]
            return words


def product(stage: AnyStage, folder: Path) -> Path:
    """What a stage that is done has made.

    Raises:
        ExperimentError: it is not there.
    """
    match stage:
        case Train():
            made = next(iter(sorted((folder / "checkpoints").glob("*/"))), folder / "checkpoints")
        case Collect():
            made = folder / "bags"
        case Build():
            made = folder / "data"
        case Finetune():
            made = folder / "checkpoint"
        case Evaluate():
            made = folder / "results"
        case Swap():
            made = folder / "film"
    if not made.is_dir() or not any(made.iterdir()):
        raise ExperimentError(f"{made}: is missing; delete {folder}, and the same command makes it again")
    return made


def succeeded(stage: Stage, status: int, folder: Path) -> bool:
    """Whether the verb did its work; a training that ran out of steps did, and tells how good its best policy is."""
    return status == 0 or (isinstance(stage, Train) and status == 1 and bool(told(folder)))


def takes_up(stage: Stage) -> bool:
    """Whether the verb goes on where it was interrupted; others begin again."""
    return isinstance(stage, Collect | Finetune | Evaluate)


def needs(stage: Stage, cores: int) -> int:
    """How many cores a stage keeps busy: a clock needs a quiet machine, and trials are many."""
    return cores if isinstance(stage, Evaluate | Swap) else 1


def told(folder: Path) -> dict[str, Any]:
    """The object that the verb ended its output with, {} if it did not."""
    try:
        last = json.loads((folder / TOLD).read_text().strip().rpartition("\n")[2])
    except (OSError, ValueError):
        return {}
    return last if isinstance(last, dict) else {}


def last_line(folder: Path) -> str:
    """What the verb said last."""
    for name in (LOG, TOLD):
        try:
            lines = (folder / name).read_bytes()[-4000:].decode(errors="replace").splitlines()
        except OSError:
            continue
        for line in reversed(lines):
            if line.strip():
                return line.strip()
    return ""


def done_of(stage: AnyStage, folder: Path) -> tuple[int, int]:
    """How much is done, of how much; (0, 0) where nobody knows."""
    match stage:
        case Collect():
            infos = (folder / "bags").glob("*/episode.yaml")
            return min(sum(1 for _ in infos), stage.successes), stage.successes
        case Evaluate():
            try:
                lines = (folder / "results" / "trials.jsonl").read_bytes().count(b"\n")
                planned = json.loads((folder / "results" / "plan.json").read_bytes())
            except (OSError, ValueError):
                return 0, 0
            return lines, len(planned.get("trials", ()))
    return 0, 0


def about(stage: AnyStage) -> str:
    """What a stage is, in a few words."""
    match stage:
        case Train():
            return f"trains a specialist for {stage.task}, preset {stage.preset}, seed {stage.seed}"
        case Collect():
            who = "the scripted operator" if stage.policy == OPERATOR else stage.policy.removeprefix(REFERENCE)
            return f"{stage.successes} successful episodes of {stage.task} by {who}, through the ROS graph, as bags"
        case Build():
            return "a training set of them, verified"
        case Finetune():
            return f"fine-tunes {stage.config} on {stage.data.removeprefix(REFERENCE)}, seed {stage.seed}"
        case Evaluate():
            names = ", ".join(str(policy["name"]) for policy in stage.plan["policies"])
            return f"{stage.plan.get('trials')} trials a scene of {names}"
        case Swap():
            first, second = (name.removeprefix(REFERENCE) for name in (stage.first, stage.second))
            return f"{second} takes over from {first} while the arm moves"
