"""The parts of an HTML page that needs nothing beside it and is well-formed XML too."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from rldg_evaluation.statistics import Interval

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a;
  max-width: 46rem; margin: 0 auto; padding: 0.5rem 1rem 3rem; }
h1 { font-size: 1.5rem; margin: 0.8rem 0 0.2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 0.5rem; }
.verdict { border-left: 4px solid #0072B2; background: #f2f7fb; padding: 0.5rem 0.8rem; margin: 0.6rem 0; }
.note { color: #555; font-size: 0.9rem; }
figure { margin: 0.8rem 0; } figure img { width: 100%; max-width: 34rem; height: auto; display: block; }
figcaption { color: #555; font-size: 0.9rem; }
.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 0.8rem; }
.films figure { margin: 0; } .films video { width: 100%; aspect-ratio: 1; background: #ddd; display: block; }
.films figcaption { font-size: 0.8rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.6rem; text-align: left; vertical-align: top; }
td { white-space: nowrap; }
th { border-bottom: 2px solid #999; white-space: nowrap; } td { border-bottom: 1px solid #ddd; }
td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
code { overflow-wrap: anywhere; font-size: 0.85em; } dt { font-weight: 600; } dd { margin: 0 0 0.5rem 1rem; }
"""


def document(title: str, heading: str, note: str, sections: Iterable[tuple[str, str]]) -> str:
    """A page.

    Args:
        title, heading: plain text.
        note: XHTML under the heading.
        sections: heading and XHTML of each; those without content are left out.
    """
    body = "".join(f"<h2>{escape(name)}</h2>{content}" for name, content in sections if content)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f'<h1>{escape(heading)}</h1><p class="note">{note}</p>{body}</body></html>\n'
    )


def verdicts(sentences: Iterable[str]) -> str:
    """Sentences that stand out."""
    return "".join(f'<p class="verdict">{escape(said)}</p>' for said in sentences)


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and what belongs to them."""
    listed = "".join(f"<dt>{escape(name)}</dt><dd><code>{escape(text)}</code></dd>" for name, text in pairs)
    return f"<dl>{listed}</dl>"


def picture(caption: str, image: bytes, kind: str = "svg+xml") -> str:
    """A picture with its caption, in the page itself.

    Args:
        kind: of the image: svg+xml, png or jpeg.
    """
    data = base64.b64encode(image).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/{kind};base64,{data}"/><figcaption>{text}</figcaption></figure>'


def grid(films: Sequence[tuple[str, bytes, bytes]], note: str) -> str:
    """Films that begin when they are touched; until then each shows how it ends.

    Args:
        films: caption, MP4 and JPEG of each.
        note: under all of them.
    """
    if not films:
        return ""
    cells = []
    for caption, film, still in films:
        text, video, image = escape(caption), base64.b64encode(film).decode(), base64.b64encode(still).decode()
        cells.append(
            f'<figure><video controls="controls" playsinline="playsinline" muted="muted" preload="none" '
            f'poster="data:image/jpeg;base64,{image}" src="data:video/mp4;base64,{video}" title="{text}"></video>'
            f"<figcaption>{text}</figcaption></figure>"
        )
    return f'<div class="films">{"".join(cells)}</div><p class="note">{escape(note)}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls by itself where the screen is narrow; cells that begin with a digit or sign are numbers."""
    lines = []
    for row in rows:
        cells = (
            f'<td class="number">{escape(cell)}</td>'
            if cell[:1].isdigit() or cell[:1] in "+-<"
            else f"<td>{escape(cell)}</td>"
            for cell in row
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    if not lines:
        return ""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def share(interval: Interval) -> str:
    """An interval of a probability."""
    return f"{100 * interval.low:.0f} to {100 * interval.high:.0f} %"


def half_done(median_s: float | None, low_s: float | None, high_s: float | None) -> str:
    """By when half of the trials were done, with its interval; None is what is not known."""
    if median_s is None:
        return "fewer than half succeeded"
    low, high = (f"{end:.1f}" if end is not None else "unknown" for end in (low_s, high_s))
    return f"{median_s:.1f} s ({low} to {high})"


def put(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the old one or the new one, never half of one."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
