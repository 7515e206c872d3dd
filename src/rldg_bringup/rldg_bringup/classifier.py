"""``classifier``: train a classifier of success from the wrist images of recorded episodes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec
from rich.console import Console

from rldg_recorder.episode import BagError


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rldg classifier", description=__doc__.partition(": ")[2])
    parser.add_argument("bags", type=Path, nargs="+", help="folders of bags of one task, at any depth")
    parser.add_argument("--out", type=Path, required=True, help="folder of the classifier")
    parser.add_argument("--false-positive-rate", type=float, default=0.01, help="wanted (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of split and training (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run the verb; returns 0, 1 where no classifier could be made, 2 for a wrong call."""
    options = _arguments(argv)
    console = Console(highlight=False, stderr=options.json)
    from rldg_recorder.episode_reader import find_bags
    from rldg_rl.classifier import train_classifier
    from rldg_rl.classifier_data import ClassifierConfig, ClassifierError

    try:
        config = msgspec.convert(
            {"false_positive_rate": options.false_positive_rate, "seed": options.seed}, ClassifierConfig
        )
        bags = [bag for folder in options.bags for bag in find_bags(folder)]
        report = train_classifier(bags, options.out, config, on_event=console.print)
    except msgspec.ValidationError as error:
        print(f"rldg classifier: {error}", file=sys.stderr)
        return 2
    except (BagError, ClassifierError, OSError) as error:
        print(f"rldg classifier: {error}", file=sys.stderr)
        return 1
    for text in report.lines():
        console.print(text, soft_wrap=True)
    console.print(f"{options.out}: look at worst.png before you trust it", soft_wrap=True)
    if options.json:
        print(msgspec.json.encode(report).decode())
    return 0
