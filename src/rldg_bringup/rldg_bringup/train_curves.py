"""What a training run told, kept beside it line by line, and drawn.

``python -m rldg_bringup.train_curves runs/a runs/b --out curves.png`` draws several runs into one picture.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rldg_evaluation.learning import EVENTS, checks, read_events

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rldg_rl.train import Event, OnEvent

PICTURE = "curves.png"
WINDOW = 20  # episodes that moving means are over


@contextmanager
def kept(run: Path, show: OnEvent) -> Iterator[OnEvent]:
    """Also append every event to ``events.jsonl`` in the folder of a run, one JSON object a line."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / EVENTS).open("ab", buffering=0) as file:
        if file.tell():
            file.write(b"\n")  # the last line may be half of one

        def tell(event: Event) -> None:
            line = {"event": type(event).__name__} | msgspec.to_builtins(event)
            file.write(msgspec.json.encode(line) + b"\n")
            show(event)

        yield tell


def draw(runs: Sequence[Path], path: Path) -> None:
    """Success alone, help and length of episodes over environment steps, one colour for each run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
    for run in runs:
        events = read_events(run)
        found = checks(events)
        episodes = [each for each in events if each["event"] == "EpisodeEnded"]
        steps = [each["env_steps"] for each in episodes]
        success = [each["evaluation"]["successes"] / each["evaluation"]["trials"] for each in found]
        axes[0].plot([each["env_steps"] for each in found], success, ".-", label=run.name)
        axes[1].plot(steps, _moving(episodes, lambda e: e["helped_steps"], lambda e: e["steps"]))
        axes[2].plot(steps, _moving(episodes, lambda e: e["steps"], lambda e: 1))
    titles = ("success alone, at checks", f"share of help, {WINDOW} episodes", f"steps, mean of {WINDOW} episodes")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel="environment steps")
        axis.grid(alpha=0.3)
    axes[0].set_ylim(-0.02, 1.02)
    axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _moving(
    episodes: Sequence[dict[str, Any]], over: Callable[[dict[str, Any]], float], by: Callable[[dict[str, Any]], float]
) -> list[float]:
    """For every episode the sum of one thing over that of another, of the last episodes."""
    played = [each["episode"] for each in episodes]
    recent = (played[max(0, end - WINDOW) : end] for end in range(1, len(played) + 1))
    return [sum(map(over, few)) / max(sum(map(by, few)), 1) for few in recent]


def main(argv: Iterable[str]) -> int:
    parser = argparse.ArgumentParser(prog="train_curves", description="Draw training runs.")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs")
    parser.add_argument("--out", type=Path, default=Path(PICTURE), help="picture to write (default: %(default)s)")
    options = parser.parse_args(list(argv))
    try:
        draw(options.runs, options.out)
    except OSError as error:
        print(f"train_curves: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
