"""The figures of the report: narrow enough to be read on a phone, as SVG for the page and as PNG beside it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt

from rldg_evaluation.analysis import Analysis, Cell, CycleTime
from rldg_evaluation.learning import Curve
from rldg_evaluation.statistics import wilson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

# Okabe and Ito's colours, which most colour-blind people tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>"
WIDTH_IN = 4.6
_ACTION_BINS = 24
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "rldg",  # the same picture, byte for byte, every time
    "svg.fonttype": "path",
}


def draw(
    analysis: Analysis, actions: Mapping[str, Floats], learning: Sequence[Curve] = ()
) -> Iterator[tuple[str, str, Figure]]:
    """Name, description and figure of each; the caller closes them.

    Args:
        actions: by policy, those executed near the reference pose, (n, 6); may be empty.
        learning: curves of training runs; may be empty.
    """
    names = [policy.name for policy in analysis.provenance.policies]
    with plt.rc_context(STYLE):
        yield "success", "Success rates with 95 % intervals (Wilson)", _success(analysis.cells, names)
        for task in dict.fromkeys(curve.task for curve in analysis.cycle_times):
            curves = [curve for curve in analysis.cycle_times if curve.task == task]
            yield f"cycle_times_{task}", f"{task}: share of trials done by a time (Kaplan-Meier)", _times(curves, names)
        if any(cell.failures for cell in analysis.cells):
            yield "failures", "How trials failed", _failures(analysis.cells, names)
        if any(len(part) for part in actions.values()):
            yield "actions", "Density of executed actions near the reference pose", actions_near(actions, names)
        if any(curve.counts for curve in learning):
            yield (
                "learning",
                "Success at the checks of the training runs, with 95 % intervals (Wilson)",
                _learning(learning),
            )


def colour(names: Sequence[str], name: str) -> str:
    return COLOURS[list(names).index(name) % len(COLOURS)]


def _success(cells: Sequence[Cell], names: Sequence[str]) -> Figure:
    places = list(dict.fromkeys((cell.task, cell.scene) for cell in cells))
    figure, axes = plt.subplots(figsize=(WIDTH_IN, 0.9 + len(places) * (0.25 + 0.2 * len(names))), layout="constrained")
    for cell in cells:
        who = names.index(cell.policy)
        y = places.index((cell.task, cell.scene)) + 0.7 * ((who + 0.5) / len(names) - 0.5)
        if not cell.count.trials:
            continue
        colour_ = COLOURS[who % len(COLOURS)]
        axes.plot([100 * end for end in cell.wilson], [y, y], color=colour_, linewidth=2.0, alpha=0.6)
        marker = MARKERS[who % len(MARKERS)]
        axes.plot(100 * cell.count.rate, y, marker, color=colour_, markersize=5, clip_on=False)
    for who, name in enumerate(names):
        axes.plot([], [], MARKERS[who % len(MARKERS)], color=COLOURS[who % len(COLOURS)], markersize=5, label=name)
    axes.set_yticks(range(len(places)), [f"{task}\n{scene}" for task, scene in places])
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.set(xlim=(-1, 101), xlabel="success [%]")
    axes.grid(axis="x", alpha=0.3)
    legend(figure, len(names))
    return figure


def _times(curves: Sequence[CycleTime], names: Sequence[str]) -> Figure:
    figure, axes = plt.subplots(figsize=(WIDTH_IN, 3.0), layout="constrained")
    for curve in curves:
        colour_ = colour(names, curve.policy)
        times = np.array([0.0, *curve.times_s, curve.limit_s])
        done, low, high = (
            100.0 * (1.0 - np.array([1.0, *column, column[-1] if column else 1.0]))
            for column in (curve.share, curve.high, curve.low)
        )
        axes.step(times, done, where="post", color=colour_, label=curve.policy)
        axes.fill_between(times, low, high, step="post", color=colour_, alpha=0.12, linewidth=0)
        if curve.median_s is not None:
            axes.plot(curve.median_s, 50.0, MARKERS[names.index(curve.policy) % len(MARKERS)], color=colour_)
    axes.axhline(50.0, color="0.7", linewidth=0.8, linestyle=":")
    axes.set(xlabel="time [s]", ylabel="done [%]", ylim=(-2, 102), xlim=(0.0, max(curve.limit_s for curve in curves)))
    axes.grid(alpha=0.3)
    legend(figure, len(curves))
    return figure


def _failures(cells: Sequence[Cell], names: Sequence[str]) -> Figure:
    modes = list(dict.fromkeys(mode for cell in cells for mode in cell.failures))
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    rows = [(task, name) for task in tasks for name in names]
    figure, axes = plt.subplots(figsize=(WIDTH_IN, 1.2 + 0.36 * len(rows)), layout="constrained")
    shades = plt.get_cmap("tab10")
    left = np.zeros(len(rows))
    for i, mode in enumerate(modes):
        share = []
        for task, name in rows:
            mine = [cell for cell in cells if (cell.task, cell.policy) == (task, name)]
            trials = sum(cell.count.trials for cell in mine)
            share.append(100.0 * sum(cell.failures.get(mode, 0) for cell in mine) / trials if trials else 0.0)
        axes.barh(range(len(rows)), share, 0.6, left=left, color=shades(i % 10), label=mode)
        left += np.array(share)
    axes.set_yticks(range(len(rows)), [f"{task}\n{name}" if len(tasks) > 1 else name for task, name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set(xlim=(0, 100), xlabel="failed trials [%]")
    axes.grid(axis="x", alpha=0.3)
    legend(figure, len(modes))
    return figure


def actions_near(actions: Mapping[str, Floats], names: Sequence[str]) -> Figure:
    shown = [name for name in names if len(actions.get(name, ()))]
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(WIDTH_IN, 0.4 + rows * WIDTH_IN / columns), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(shown) :]:
        axes.axis("off")
    for axes, name in zip(grid.flat, shown, strict=False):
        x, y = actions[name][:, 0], actions[name][:, 1]
        axes.hist2d(x, y, _ACTION_BINS, range=((-1, 1), (-1, 1)), cmap="Blues", cmin=1)
        axes.axhline(0.0, color="0.8", linewidth=0.8)
        axes.axvline(0.0, color="0.8", linewidth=0.8)
        axes.set_title(f"{name}\n{len(x)} steps", fontsize=8.5)
        axes.set(xlabel="x", ylabel="y", aspect="equal", xlim=(-1, 1), ylim=(-1, 1))
    return figure


def _learning(curves: Sequence[Curve]) -> Figure:
    figure, axes = plt.subplots(figsize=(WIDTH_IN, 3.0), layout="constrained")
    for i, curve in enumerate(curves):
        colour_, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        rates = [100.0 * count.rate for count in curve.counts]
        low, high = ([100.0 * wilson(count)[end] for count in curve.counts] for end in (0, 1))
        name = curve.run.rstrip("/").rpartition("/")[2]
        axes.plot(curve.env_steps, rates, f"{marker}-", color=colour_, markersize=4, label=name)
        axes.fill_between(curve.env_steps, low, high, color=colour_, alpha=0.12, linewidth=0)
    axes.set(xlabel="environment steps", ylabel="success alone [%]", ylim=(-2, 102))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    legend(figure, len(curves))
    return figure


def legend(figure: Figure, entries: int) -> None:
    figure.legend(loc="outside upper center", ncols=min(entries, 2), fontsize=8.0, frameon=False)


def svg(figure: Figure) -> bytes:
    """As a stand-alone SVG that names no place on the network but the namespaces of the format."""
    buffer = io.BytesIO()
    with plt.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    text = re.sub(r"<!DOCTYPE.*?>\s*", "", buffer.getvalue().decode(), flags=re.DOTALL)
    return re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL).encode()
