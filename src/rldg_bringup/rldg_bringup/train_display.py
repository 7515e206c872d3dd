"""What a training shows while it runs: one line for each thing that is over, and a live line of figures."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from rldg_rl.config import TrainingConfig
    from rldg_rl.train import EpisodeEnded, Event

WINDOW = 20  # episodes that recent figures are about


@contextmanager
def display(console: Console, config: TrainingConfig) -> Iterator[Callable[[Event], None]]:
    """Shows the events that the yielded function is called with."""
    columns = (TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        yield Display(progress, config).show


class Display:
    """Args: where to show, and the preset that is trained with."""

    def __init__(self, progress: Progress, config: TrainingConfig) -> None:
        self._progress, self._config = progress, config
        self._line = progress.add_task("beginning", total=None)
        self._recent: deque[EpisodeEnded] = deque(maxlen=WINDOW)
        self._known: dict[str, float] = {}  # newest figures; some events carry none
        self._pace: tuple[float, float] | None = None  # updates and time at the first episode

    def show(self, event: Event) -> None:
        from rldg_rl import train

        if isinstance(event, train.Pretraining):
            self._set(f"encoder: loss {event.loss:.4f}", event.epoch, event.epochs)
        elif isinstance(event, train.EncoderReady):
            error = "" if event.error_rad != event.error_rad else f", error {1000 * max(event.error_m):.2f} mm"
            self._say(f"encoder {event.name}: {event.feature_dim} features{error}, {event.cpu_s:.0f} s of CPU")
            self._set("demonstrations", 0, None)
        elif isinstance(event, train.DemosReady):
            self._say(
                f"demonstrations: {event.episodes} of {event.attempts} succeeded, {event.transitions} transitions"
            )
            self._set("training", 0, self._config.max_env_steps)
        elif isinstance(event, train.EpisodeEnded):
            self._recent.append(event)
            self._known |= event.metrics
            self._set(self.figures(time.monotonic()), event.env_steps, self._config.max_env_steps)
        elif isinstance(event, train.Evaluated):
            found = event.evaluation
            self._say(
                f"{event.env_steps} steps: {event.purpose}: {found.successes} of {found.trials} succeeded alone, "
                f"{found.mean_steps:.1f} steps each"
            )

    def figures(self, now_s: float) -> str:
        """The live line."""
        steps = sum(ended.episode.steps for ended in self._recent)
        helped = sum(ended.episode.helped_steps for ended in self._recent)
        successes = sum(ended.episode.success for ended in self._recent)
        updates = self._known.get("updates", 0.0)
        self._pace = self._pace or (updates, now_s)
        pace = (updates - self._pace[0]) / max(now_s - self._pace[1], 1e-9)
        last = self._recent[-1]
        parts = [
            f"{last.env_steps} steps, episode {last.number + 1}",
            f"success {successes}/{len(self._recent)}",
            f"help {helped / max(steps, 1):.0%}",
        ]
        if "q_min" in self._known:
            parts += [
                f"Q [{self._known['q_min']:.2f}, {self._known['q_max']:.2f}]",
                f"entropy {self._known['entropy']:.1f}",
                f"{pace:.0f} updates/s",
            ]
        return ", ".join(parts)

    def _set(self, text: str, done: float, total: float | None) -> None:
        self._progress.update(self._line, description=text, completed=done, total=total)

    def _say(self, text: str) -> None:
        self._progress.console.print(text)
