"""What an experiment came to, on one page, as JSON and as pictures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from rldg_evaluation.page import document, facts, half_done, picture, put, share, table, verdicts
from rldg_evaluation.statistics import Count, wilson
from rldg_experiments.measures import HELD, OPEN, REVERSED, Finding, Measured, actions
from rldg_experiments.plan import Evaluate, Experiment, Swap
from rldg_experiments.running import Record

PAGE, DATA = "index.html", "results.json"
FILM = "film.mp4"
_HERE = {HELD: "As in the paper", REVERSED: "The reverse of the paper", OPEN: "Open"}


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON: everything that the page says, and where it comes from."""

    experiment: str
    title: str
    about: str
    differs: str
    parameters: dict[str, Any]
    sentences: list[str]
    findings: list[Finding]
    stages: list[Record]
    hours: float  # of all stages, each counted once, however many ran side by side
    machine: dict[str, Any]
    versions: dict[str, str]


def write_report(
    experiment: Experiment,
    records: Mapping[str, Record],
    findings: Sequence[Finding],
    products: Mapping[str, Path],
    out: Path,
    machine: Mapping[str, Any],
    versions: Mapping[str, str],
) -> Results:
    """Write ``index.html``, ``results.json`` and the figures, and put the evaluations' own reports beside them.

    Args:
        records, products: of the stages, by name.
        machine, versions: for the record.
    """
    from rldg_evaluation import figures
    from rldg_experiments import drawing

    out.mkdir(parents=True, exist_ok=True)
    sections = []
    by_name = {figure.name: figure for figure in experiment.figures}
    for finding in findings:
        figure = by_name[finding.name]
        near = actions(figure, products[figure.evaluation]) if finding.kind == "actions" else {}
        if finding.kind == "actions" and not near:
            continue
        drawn = drawing.draw(finding, near)
        drawn.savefig(out / f"{finding.name}.png", dpi=150)
        note = f'<p class="note">{escape(finding.note)}</p>' if finding.note else ""
        content = picture(finding.title, figures.svg(drawn)) + note + _bars(finding)
        figures.plt.close(drawn)
        sections.append((finding.title, content))
    results = Results(
        experiment=experiment.name,
        title=experiment.title,
        about=experiment.about,
        differs=experiment.differs,
        parameters=experiment.parameters,
        sentences=sentences(records, findings),
        findings=list(findings),
        stages=[records[stage.name] for stage in experiment.stages],
        hours=sum({record.key: record.wall_s for record in records.values()}.values()) / 3600.0,
        machine=dict(machine),
        versions=dict(versions),
    )
    put(out / DATA, msgspec.json.format(msgspec.json.encode(results), indent=1))
    linked = _beside(experiment, products, out)
    notes = escape(experiment.about) + (
        f" <b>Differs from the paper:</b> {escape(experiment.differs)}" if experiment.differs else ""
    )
    page = document(
        experiment.title,
        experiment.title,
        notes,
        [
            ("In short", verdicts(results.sentences)),
            *sections,
            ("Swapped in live", linked.get("film", "")),
            ("Trial by trial", linked.get("reports", "")),
            ("Stages", _stages(results.stages)),
            ("Where the numbers come from", _origin(results)),
        ],
    )
    put(out / PAGE, page.encode())
    return results


def sentences(records: Mapping[str, Record], findings: Sequence[Finding]) -> list[str]:
    """What is to be said first: how good the specialists are, and which claims held."""
    said = [_specialist(record) for record in records.values() if "success_rate" in record.told]
    for finding in findings:
        for claim in finding.claims:
            said.append(f"{_HERE[claim.here]}: {claim.comparison.sentence}")
    return said


def _specialist(record: Record) -> str:
    told = record.told
    count = Count(round(told["success_rate"] * told["trials"]), told["trials"])
    ended = "" if told["stopped"] == "converged" else " It had not passed its stop rule when its steps were used up."
    return (
        f"The specialist of {told['task']} (encoder {told['encoder']}, seed {told['seed']}) succeeds in "
        f"{count.successes} of {count.trials} episodes (95 % interval {share(wilson(count))}), "
        f"{told['mean_steps']:.1f} steps each, demonstrations {told['demo_steps']:.1f}; "
        f"trained for {told['env_steps']} steps.{ended}"
    )


def _bars(finding: Finding) -> str:
    if finding.kind == "actions":
        return ""
    rows = [
        (
            bar.label,
            f"{bar.count.successes} of {bar.count.trials}",
            share(bar.interval),
            half_done(bar.median_s, bar.low_s, bar.high_s),
            _paper(bar),
            "; ".join(f"{name} {other.successes} of {other.trials}" for name, other in bar.others.items()),
        )
        for bar in finding.bars
    ]
    head = ["what", "successes", "95 % (Wilson)", "half are done by (95 %)", "paper", "the others"]
    used = [i for i in range(len(head)) if i < 4 or any(row[i] for row in rows)]
    return table([head[i] for i in used], [[row[i] for i in used] for row in rows])


def _paper(bar: Measured) -> str:
    paper = bar.paper
    if paper is None:
        return ""
    counted = f"{paper.successes} of {paper.trials}" if paper.successes is not None else ""
    return ", ".join(filter(None, (counted, paper.says)))


def _beside(experiment: Experiment, products: Mapping[str, Path], out: Path) -> dict[str, str]:
    """Put reports and films beside the page; returns XHTML that shows them."""
    made: dict[str, str] = {}
    links = []
    for stage in experiment.stages:
        if isinstance(stage, Evaluate):
            file = f"{stage.name}.html"
            shutil.copyfile(products[stage.name] / "report.html", out / file)
            links.append(f'<li><a href="{file}">{escape(stage.name)}</a>: films, failures, pairs, intervals</li>')
        elif isinstance(stage, Swap):
            shutil.copyfile(products[stage.name] / FILM, out / FILM)
            made["film"] = (
                f'<video controls="controls" playsinline="playsinline" muted="muted" preload="metadata" src="{FILM}" '
                f'style="width: 100%; max-width: 34rem"></video>'
                f'<p class="note">{escape(_swap_line(products[stage.name]))}. The strip under the film is blue '
                f"while the old policy drives and orange while the new one does.</p>"
            )
    if links:
        made["reports"] = f"<ul>{''.join(links)}</ul>"
    return made


def _swap_line(folder: Path) -> str:
    try:
        told = msgspec.json.decode((folder / "show.json").read_bytes())
    except (OSError, msgspec.DecodeError):
        return ""
    return str(told.get("swap", ""))


def _stages(records: Sequence[Record]) -> str:
    told = [
        (f"{record.name}: {record.about}", f"./rldg {' '.join(record.command)}   # {record.wall_s:.0f} s")
        for record in records
    ]
    return facts(told) + (
        '<p class="note">Each stage is one command, which does the same by itself. What it made is kept under the hash '
        "of what it was told and of all that came before it.</p>"
    )


def _origin(results: Results) -> str:
    told = [(f"Parameter {name}", str(value)) for name, value in results.parameters.items()]
    told += [
        (f"Start states of {place}", f"{low} to {high}")
        for place, (low, high) in {k: v for f in results.findings for k, v in f.start_states.items()}.items()
    ]
    told += [(name, str(value)) for name, value in {**results.machine, **results.versions}.items()]
    told.append(("Hours of all stages", f"{results.hours:.2f}"))
    return facts(told)
