"""Figures of bags and training sets for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rldg_bringup.pictures import Image, evenly_spaced
from rldg_core.types import Source
from rldg_recorder.episode import Episode
from rldg_recorder.frames import ACTION_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rldg_recorder.training_set import TrainingSet

_COLUMNS = 8
_SOURCE_COLOURS = {Source.HOLD: "0.75", Source.POLICY: "tab:blue", Source.HUMAN: "tab:orange", Source.RESET: "0.5"}
_AXES = ("x", "y", "z")
_RGB = ("tab:red", "tab:green", "tab:blue")


def episode_figure(episode: Episode, path: Path) -> None:
    """Write one page about an episode: images, actions, who drove, contact force, timing."""
    figure, grid = _page(f"{episode.info.episode_id}: {episode.info.task.name}, {episode.info.outcome}", plots=5)
    rows = evenly_spaced(len(episode), _COLUMNS)
    _film_strip(figure, grid[0], [episode.images[row] for row in rows], [f"step {row}" for row in rows])
    time_s = (episode.stamp_ns - episode.stamp_ns[0]) * 1e-9

    axes = _axes(figure, grid[1], "translation\n[action units]")
    _lines(axes, time_s, episode.executed[:, :3], _AXES)
    _who_drove(axes, time_s, episode.source)
    axes = _axes(figure, grid[2], "rotation\n[action units]")
    _lines(axes, time_s, episode.executed[:, 3:], ("rx", "ry", "rz"))
    axes = _axes(figure, grid[3], "force [N]")
    _lines(axes, time_s, episode.wrench[:, :3], _AXES)
    axes = _axes(figure, grid[4], "TCP from\nstart [mm]")
    _lines(axes, time_s, 1e3 * (episode.tcp_pose[:, :3] - episode.tcp_pose[0, :3]), _AXES)
    axes = _axes(figure, grid[5], "timing [ms]")
    axes.plot(time_s[1:], 1e3 * np.diff(time_s), color="black", label="tick period")
    axes.plot(time_s, 1e3 * episode.command_age_s, color="tab:purple", label="observation to command")
    axes.plot(time_s, 1e3 * episode.skew_s, color="tab:brown", label="skew of state against image")
    axes.legend(loc="upper right", fontsize="x-small", ncols=3)
    axes.set_xlabel("time [s]")
    figure.savefig(path, dpi=110)


def training_set_figure(training_set: TrainingSet, path: Path, strips: int = 4) -> None:
    """Write one page about a training set: images of some episodes, histograms of every action dimension, lengths."""
    from matplotlib.figure import Figure

    episodes = evenly_spaced(len(training_set), strips)
    figure = Figure(figsize=(12.0, 1.7 * len(episodes) + 5.2), layout="constrained")
    figure.suptitle(f"{training_set.name}: {len(training_set)} episodes, {training_set.frames} frames")
    grid = figure.add_gridspec(len(episodes) + 2, 1, height_ratios=[1.0] * len(episodes) + [1.4, 1.4])
    for place, index in enumerate(episodes):
        episode = training_set.episode(index)
        rows = evenly_spaced(len(episode), _COLUMNS)
        titles = [f"episode {index}, frame {row}" for row in rows]
        _film_strip(figure, grid[place], [episode.images[row] for row in rows], titles)
    actions = training_set.columns(["action"])["action"]
    panels = grid[len(episodes)].subgridspec(1, len(ACTION_NAMES))
    for dimension, name in enumerate(ACTION_NAMES):
        axes = figure.add_subplot(panels[dimension])
        axes.hist(actions[:, dimension], bins=41, range=(-1.0, 1.0), color="tab:blue")
        axes.set_title(name, fontsize="small")
        axes.set_yticks([])
        axes.tick_params(labelsize="x-small")
    last = grid[len(episodes) + 1].subgridspec(1, 2)
    axes = _axes(figure, last[0], "episodes")
    axes.hist(training_set.lengths, bins=30, color="tab:green")
    axes.set_xlabel("frames of an episode")
    axes = _axes(figure, last[1], "mean |action|")
    width = np.abs(actions[:, :6]).mean(axis=0)
    axes.bar(ACTION_NAMES[:6], width, color="tab:blue")
    figure.savefig(path, dpi=110)


def _page(title: str, plots: int) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 2.0 + 1.5 * plots), layout="constrained")
    figure.suptitle(title)
    return figure, figure.add_gridspec(plots + 1, 1, height_ratios=[1.3] + [1.0] * plots)


def _film_strip(figure: Figure, place: Any, images: Sequence[Image], titles: Sequence[str]) -> None:
    cells = place.subgridspec(1, _COLUMNS)
    for cell, image, title in zip(cells, images, titles, strict=False):
        axes = figure.add_subplot(cell)
        axes.imshow(image)
        axes.set_title(title, fontsize="x-small")
        axes.axis("off")


def _axes(figure: Figure, place: Any, label: str) -> Axes:
    axes = figure.add_subplot(place)
    axes.set_ylabel(label, fontsize="small")
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize="x-small")
    return axes


def _lines(axes: Axes, time_s: npt.NDArray[Any], values: npt.NDArray[Any], names: Sequence[str]) -> None:
    for column, (name, colour) in enumerate(zip(names, _RGB, strict=True)):
        axes.plot(time_s, values[:, column], color=colour, label=name, linewidth=1.0)
    axes.legend(loc="upper right", fontsize="x-small", ncols=3)


def _who_drove(axes: Axes, time_s: npt.NDArray[Any], source: npt.NDArray[Any]) -> None:
    """A coloured band under the curves, with a legend of its own in the title line."""
    for value, colour in _SOURCE_COLOURS.items():
        there = source == value
        if there.any():
            axes.fill_between(
                time_s,
                -1.25,
                -1.08,
                where=there,
                step="post",
                color=colour,
                linewidth=0,
                label=f"{value.name.lower()} drove",
            )
    axes.set_ylim(-1.3, 1.2)
    axes.legend(loc="upper right", fontsize="x-small", ncols=6)
