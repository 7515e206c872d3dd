"""The verbs of ``./rldg``: ``python -m rldg_bringup.cli <verb> [arguments]``.

A new verb is one line in `VERBS`, naming a function that takes the arguments and returns the exit status. The script
``rldg`` reads the table too, line by line, to print its help without Python: keep each entry on one line.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("rldg_bringup.demo:main", "all of RLDG on one task, from nothing to an evaluated generalist"),
    "reproduce": ("rldg_bringup.reproduce:main", "run an experiment of the paper in simulation"),
    "show": ("rldg_bringup.show:main", "run episodes of a task in simulation and show how they went"),
    "up": ("rldg_bringup.up:main", "launch a task: the cell, its control and a source of actions"),
    "swap": ("rldg_bringup.swap:main", "let another policy take over in a running cell, while the arm moves"),
    "estop": ("rldg_bringup.estop:main", "latch the e-stop of a running cell, by a key if asked, or release it"),
    "train": ("rldg_bringup.train:main", "train a specialist for a task in simulation"),
    "collect": ("rldg_bringup.collect:main", "roll a trained specialist out and record its episodes"),
    "bag": ("rldg_bringup.bag:main", "list, audit, salvage and look at recorded episodes"),
    "dataset": ("rldg_bringup.dataset:main", "build training sets from bags, verify, look at and export them"),
    "pretrain": ("rldg_bringup.pretrain:main", "train a small generalist on simulated episodes of all kinds"),
    "finetune": ("rldg_bringup.finetune:main", "fine-tune a generalist (OpenVLA, Octo) on a training set"),
    "classifier": ("rldg_bringup.classifier:main", "train a classifier of success on recorded episodes"),
    "evaluate": ("rldg_bringup.evaluate:main", "try policies on shared start states and report how sure the result is"),
    "calibrate": ("rldg_bringup.calibrate:main", "find the wrist camera, the tip of a tool or the fixture of a task"),
    "doctor": ("rldg_bringup.doctor:main", "check this machine and say how to mend what is missing"),
    "test": ("rldg_bringup.check:main", "lint, type check and test everything, or just what the arguments select"),
    "bench": ("rldg_bringup.bench:main", "run a benchmark and print its figures as one JSON object"),
}


def main(argv: Sequence[str]) -> int:
    """Run the verb ``argv[0]`` with the other arguments; returns the exit status (2: no verb, 130: interrupted)."""
    verb = argv[0] if argv else ""
    if verb not in VERBS:
        print(f"rldg: there is no verb {verb!r}; allowed: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    module, _, function = VERBS[verb][0].partition(":")
    try:
        return int(getattr(import_module(module), function)(list(argv[1:])))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
