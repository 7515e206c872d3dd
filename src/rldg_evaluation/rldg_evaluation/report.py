"""The report of a run: one HTML page that needs nothing beside it, the same as JSON, and its figures as PNG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from rldg_evaluation.analysis import Analysis, Cell, Comparison, analyse, show_p
from rldg_evaluation.films import FILMS, KEPT, poster
from rldg_evaluation.learning import Curve, read_curve
from rldg_evaluation.page import document, facts, grid, half_done, picture, put, share, table, verdicts
from rldg_evaluation.plan import LoadedPlan, Near
from rldg_evaluation.running import TRACES, Result, read_plan, read_results
from rldg_evaluation.trace import Trace

PAGE, DATA = "report.html", "report.json"
MOST_FILMS = 40  # of at most 150 kB each: a page that a phone opens
_FILMS_NOTE = (
    f"The wrist camera in robot time: of each policy in each scene the first successes (up to {KEPT[True]}) and the "
    f"first failures (up to {KEPT[False]}), chosen by nobody. Each film shows how it ends until it is started."
)


def write_report(folder: Path, runs: Sequence[Path] = ()) -> Analysis:
    """Write ``report.html``, ``report.json`` and the figures into the folder of a run.

    Args:
        runs: folders of the training runs whose learning curves belong to it.

    Raises:
        EvaluationError: there is no run, or it is damaged.
        ValueError: a folder of a training run is none.
    """
    from rldg_evaluation import figures

    curves = [read_curve(run) for run in runs]
    loaded, results = read_plan(folder), read_results(folder)
    analysis = analyse(loaded, results)
    actions, unread = actions_near(folder, results, loaded.plan.actions_near)
    pictures = []
    for name, caption, figure in figures.draw(analysis, actions, curves):
        figure.savefig(folder / f"{name}.png", dpi=150)
        pictures.append((name, caption, figures.svg(figure)))
        figures.plt.close(figure)
    put(folder / DATA, msgspec.json.format(msgspec.json.encode(analysis)))
    films = _films(folder, loaded, results)
    put(folder / PAGE, page(loaded, analysis, pictures, unread, films, curves).encode())
    return analysis


def actions_near(
    folder: Path, results: Iterable[Result], near: Near | None
) -> tuple[dict[str, npt.NDArray[np.float64]], list[str]]:
    """Actions executed while the TCP was in a box in the fixture frame, (n, 6) by policy; and traces not readable."""
    if near is None:
        return {}, []
    gathered: dict[str, list[npt.NDArray[np.float64]]] = {}
    unread = []
    for result in results:
        try:
            trace = Trace.load(folder / TRACES / f"{result.trial}.npz")
        except ValueError as error:
            unread.append(str(error))
            continue
        inside = (np.abs(trace.tcp_m[:-1] - near.xyz_m) <= near.half_m).all(axis=1)
        gathered.setdefault(result.policy, []).append(trace.executed[inside])
    return {name: np.concatenate(parts) for name, parts in gathered.items()}, unread


def _films(folder: Path, loaded: LoadedPlan, results: Iterable[Result]) -> list[tuple[str, bytes, bytes]]:
    """Caption, film and poster of the first trials of each policy in each scene; without those that are damaged."""
    order = [policy.name for policy in loaded.plan.policies]
    shown: Counter[tuple[tuple[str, str, str], bool]] = Counter()
    films = []
    for result in sorted(results, key=lambda r: (r.task, r.scene, order.index(r.policy), not r.success, r.trial)):
        path = folder / FILMS / f"{result.trial}.mp4"
        which = result.cell, result.success
        if not path.is_file() or shown[which] >= KEPT[result.success] or len(films) >= MOST_FILMS:
            continue
        film = path.read_bytes()
        try:
            still = poster(film)
        except ValueError:
            continue
        shown[which] += 1
        what = "success" if result.success else result.failure.value
        films.append(
            (f"{result.policy}, {result.scene}, seed {result.seed}: {what}, {result.robot_s:.1f} s", film, still)
        )
    return films


def page(
    loaded: LoadedPlan,
    analysis: Analysis,
    pictures: Sequence[tuple[str, str, bytes]],
    unread: Sequence[str] = (),
    films: Sequence[tuple[str, bytes, bytes]] = (),
    curves: Sequence[Curve] = (),
) -> str:
    """The HTML page, which is well-formed XML too.

    Args:
        pictures: name, caption and SVG of each.
        unread: what could not be shown, one line each.
        films: caption, MP4 and JPEG of each.
        curves: of training runs; their picture is called ``learning``.
    """
    shown = {name: picture(caption, image) for name, caption, image in pictures}
    times = "".join(figure for name, figure in shown.items() if name.startswith("cycle_times_"))
    sections = [
        ("In short", verdicts(analysis.sentences)),
        ("Success", shown.get("success", "") + _success_table(analysis)),
        ("Compared by scene", _comparison_table(analysis.by_scene)),
        ("Cycle times", times + _time_tables(analysis)),
        ("Failures", shown.get("failures", "") + _failure_table(analysis)),
        ("Actions near the reference pose", shown.get("actions", "") + _near(loaded, unread, "actions" in shown)),
        ("Films", grid(films, _FILMS_NOTE)),
        ("Learning curves", shown.get("learning", "")),
        ("Where the numbers come from", _provenance(loaded, analysis, curves)),
    ]
    about = ", ".join(f"{task.name}: “{task.instruction}”" for task in loaded.tasks.values())
    name = loaded.plan.name
    return document(f"Evaluation {name}", f"Evaluation “{name}”", escape(about), sections)


def _success_table(analysis: Analysis) -> str:
    stopped = any(cell.sequence is not None for cell in analysis.cells)
    head = ["policy", "where", "successes", "95 % (Wilson)", "95 % (exact)", "split"]
    rows = []
    for cell in analysis.cells:
        successes, trials = cell.count
        intervals = [cell.wilson, cell.exact, *([cell.sequence] if stopped else [])]
        row = [
            cell.policy,
            _where(analysis, cell),
            f"{successes} of {trials}",
            *(share(interval) if interval is not None else "" for interval in intervals),
            cell.split,
        ]
        rows.append(row)
    note = ""
    if stopped:
        head.insert(5, "95 % with stopping")
        note = (
            '<p class="note">Trials were stopped as soon as it was clear on which side of the wanted rate a policy is: '
            "only the interval with stopping holds then.</p>"
        )
    return table(head, rows) + note


def _where(analysis: Analysis, cell: Cell) -> str:
    """The scene; with the task where there are several."""
    alone = len({each.task for each in analysis.cells}) == 1
    return cell.scene if alone else f"{cell.task}, {cell.scene}"


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    head = ("first", "second", "points apart", "p", "p (Holm)", "both", "only first", "only second", "neither", "where")
    rows = [
        (
            each.first,
            each.second,
            f"{100 * each.difference:+.0f} ({100 * each.interval.low:+.0f} to {100 * each.interval.high:+.0f})",
            show_p(each.p),
            show_p(each.p_holm),
            *(str(number) for number in each.pairs),
            each.where,
        )
        for each in comparisons
    ]
    if not rows:
        return ""
    return table(head, rows) + (
        '<p class="note">Pairs of trials on the same start state; exact McNemar test, corrected by Holm for all rows '
        "of this table. Points apart: first minus second, with a 95 % interval (Newcombe).</p>"
    )


def _time_tables(analysis: Analysis) -> str:
    rows = []
    for curve in analysis.cycle_times:
        known = half_done(curve.median_s, curve.low_s, curve.high_s)
        rows.append((curve.policy, f"{curve.count.successes} of {curve.count.trials}", known, curve.task))
    medians = table(("policy", "successes", "half are done by (95 %)", "task"), rows)
    tests = table(
        ("first", "second", "p (log-rank)", "p (Holm)", "task"),
        (
            (each.first, each.second, show_p(each.p), show_p(each.p_holm), each.task)
            for each in analysis.time_comparisons
        ),
    )
    if not medians:
        return ""
    return f'{medians}<p class="note">A trial that failed counts as not done by the time limit.</p>{tests}'


def _failure_table(analysis: Analysis) -> str:
    head = ("policy", "where", "failed", "how", "steps limited", "guarded", "refused", "mean force", "answer")
    rows = []
    for cell in analysis.cells:
        how = ", ".join(f"{mode} {number}" for mode, number in cell.failures.items())
        limits = (f"{value} of {cell.steps}" for value in (cell.limited_steps, cell.guarded_steps, cell.refused_steps))
        failed = str(sum(cell.failures.values()))
        measured = f"{cell.mean_force_n:.1f} N", f"{cell.answer_ms:.1f} ms" if cell.answer_ms else "no answers"
        rows.append((cell.policy, _where(analysis, cell), failed, how or "none", *limits, *measured))
    return table(head, rows)


def _near(loaded: LoadedPlan, unread: Sequence[str], drawn: bool) -> str:
    near = loaded.plan.actions_near
    if near is None:
        return ""
    where, size = (", ".join(f"{1e3 * value:g}" for value in values) for values in (near.xyz_m, near.half_m))
    said = (
        f"Steps with the TCP within {size} mm of ({where}) mm in the fixture frame; first two dimensions of the action."
    )
    if not drawn:
        said += " No trial came there."
    lost = f" {len(unread)} traces could not be read, the first: {unread[0]}" if unread else ""
    return f'<p class="note">{escape(said + lost)}</p>'


def _provenance(loaded: LoadedPlan, analysis: Analysis, curves: Sequence[Curve]) -> str:
    origin = analysis.provenance
    told = [
        ("Plan", f"{origin.plan}, sha256 {origin.plan_hash}"),
        ("Trials", f"{origin.trials_run} of {origin.trials_planned}"),
        ("Run in", ", ".join(f"{name}: {number}" for name, number in origin.runners.items()) or "nothing yet"),
        ("Software", ", ".join(origin.software) or "unknown"),
    ]
    told += [(f"Start states of {place}", _ranges(seeds)) for place, seeds in origin.start_states.items()]
    for policy in origin.policies:
        parameters = ", ".join(f"{key} {value}" for key, value in policy.parameters.items())
        where = f"{policy.checkpoint}, sha256 {policy.checkpoint_sha256 or 'not run yet'}" if policy.checkpoint else ""
        told.append(
            (f"Policy {policy.name}", "; ".join(part for part in (f"type {policy.type}", parameters, where) if part))
        )
    told += [(f"Training run {curve.run}", f"{len(curve.counts)} checks") for curve in curves]
    if origin.bags:
        told.append(("Bags", ", ".join(origin.bags)))
    return facts(told) + (
        f'<p class="note">Every trial is a line of <code>trials.jsonl</code>, its steps are in '
        f"<code>{TRACES}/</code>, and all figures of this page are in <code>{DATA}</code>, beside this file.</p>"
    )


def _ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 7 as 1 to 3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in runs)
