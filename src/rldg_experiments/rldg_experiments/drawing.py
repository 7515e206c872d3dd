"""Draws the figures of an experiment beside what the paper tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt

from rldg_evaluation.figures import COLOURS, MARKERS, STYLE, WIDTH_IN, actions_near, legend
from rldg_evaluation.statistics import Count, wilson
from rldg_experiments.measures import Finding, Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAPER = "0.45"
_TALL = 0.3


def draw(finding: Finding, actions: Mapping[str, npt.NDArray[np.float64]]) -> Figure:
    """The picture; the caller closes it.

    Args:
        actions: executed near the reference pose, (n, 6), by label; for the kind ``actions``.
    """
    with plt.rc_context(STYLE):
        if finding.kind == "lines":
            return _lines(finding)
        if finding.kind == "actions":
            return actions_near(actions, [bar.label for bar in finding.bars])
        return _bars(finding)


def _bars(finding: Finding) -> Figure:
    """Success or times, one row a bar; below each the paper's, where it tells them."""
    figure, axes = plt.subplots(figsize=(WIDTH_IN, 0.9 + 0.42 * len(finding.bars)), layout="constrained")
    times = finding.kind == "times"
    told = False
    for row, bar in enumerate(finding.bars):
        colour = COLOURS[row % len(COLOURS)]
        value, low, high = _time(bar) if times else _share(bar.count)
        if value is not None:
            axes.barh(row - _TALL / 2, value, _TALL, color=colour, alpha=0.8)
            axes.plot([low, high], [row - _TALL / 2] * 2, color="black", linewidth=1.2)
        else:
            axes.text(0.0, row - _TALL / 2, " fewer than half succeeded", va="center", fontsize=7.5)
        paper = bar.paper
        if paper is not None and paper.successes is not None and paper.trials and not times:
            value, low, high = _share(Count(paper.successes, paper.trials))
            axes.barh(row + _TALL / 2, value, _TALL, color="white", edgecolor=_PAPER, hatch="////", linewidth=0.8)
            axes.plot([low, high], [row + _TALL / 2] * 2, color=_PAPER, linewidth=1.2)
            told = True
        elif paper is not None and paper.says:
            axes.text(0.0, row + _TALL / 2, f" paper: {paper.says}", va="center", fontsize=7.5, color=_PAPER)
    axes.set_yticks(range(len(finding.bars)), [bar.label for bar in finding.bars])
    axes.set_ylim(len(finding.bars) - 0.5, -0.5)
    axes.set_xlabel("half are done by [s]" if times else "success [%], with 95 % intervals (Wilson)")
    if times:
        axes.set_xlim(left=0.0)
    else:
        axes.set_xlim(0, 101)
    axes.grid(axis="x", alpha=0.3)
    if told:
        axes.barh([0], [0], color="0.6", label="here")
        axes.barh([0], [0], color="white", edgecolor=_PAPER, hatch="////", label="paper")
        legend(figure, 2)
    return figure


def _share(count: Count) -> tuple[float, float, float]:
    low, high = wilson(count)
    return 100.0 * count.rate, 100.0 * low, 100.0 * high


def _time(bar: Measured) -> tuple[float | None, float, float]:
    value = bar.median_s
    if value is None:
        return None, 0.0, 0.0
    return value, bar.low_s if bar.low_s is not None else value, bar.high_s if bar.high_s is not None else value


def _lines(finding: Finding) -> Figure:
    figure, axes = plt.subplots(figsize=(WIDTH_IN, 3.0), layout="constrained")
    lines: dict[str, list[Measured]] = {}
    for bar in finding.bars:
        lines.setdefault(bar.line, []).append(bar)
    for i, (name, bars) in enumerate(lines.items()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        if name == "":  # bars that belong to no line are levels
            for bar in bars:
                axes.axhline(100.0 * bar.count.rate, color="0.6", linewidth=0.8, linestyle=":")
                axes.annotate(
                    bar.label, (1.0, 100.0 * bar.count.rate), xycoords=("axes fraction", "data"), fontsize=7.5
                )
            continue
        bars.sort(key=lambda bar: bar.x)
        xs = [bar.x for bar in bars]
        shares = np.array([_share(bar.count) for bar in bars])
        axes.plot(xs, shares[:, 0], f"{marker}-", color=colour, markersize=4, label=name)
        axes.fill_between(xs, shares[:, 1], shares[:, 2], color=colour, alpha=0.12, linewidth=0)
    xs = sorted({bar.x for bar in finding.bars if bar.line})
    axes.set_xscale("log", base=2)
    axes.set_xticks(xs, [f"{x:g}" for x in xs])
    axes.set_xticks([], minor=True)
    axes.set(xlabel=finding.x, ylabel="success [%]", ylim=(-2, 102))
    axes.grid(alpha=0.3)
    legend(figure, len(lines))
    return figure
