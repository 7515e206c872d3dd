"""The published results of RLDG (Xu et al. 2024, arXiv 2412.09858), with how sure they are.

``python -m rldg_evaluation.paper`` prints the tables of docs/explanation/how-sure-is-an-evaluation.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from rldg_evaluation.statistics import Count, barnard, difference, fisher, holm, trials_needed, wilson


@dataclass(frozen=True)
class Cell:
    """One policy in one set of scenes."""

    task: str
    policy: str
    count: Count


@dataclass(frozen=True)
class Contrast:
    """Two cells that the paper compares."""

    first: Cell
    second: Cell


def _cell(task: str, policy: str, successes: int, trials: int = 20) -> Cell:
    return Cell(task, policy, Count(successes, trials))


_PICK, _PICK_UNSEEN = "pick and place, seen", "pick and place, unseen"
_UNSEEN, _ASSEMBLY = "four unseen connectors", "FMB assembly"
_SPECIALIST, _BEST = "specialist", "best single specialist"

_PICK_OPENVLA = _cell(_PICK, "OpenVLA, RLDG", 19)
_PICK_OCTO = _cell(_PICK, "Octo, RLDG", 4)
_PICK_UNSEEN_OPENVLA = _cell(_PICK_UNSEEN, "OpenVLA, RLDG", 10)
_UNSEEN_BEST = _cell(_UNSEEN, _BEST, 49, 80)

CONTRASTS = (
    Contrast(_PICK_OPENVLA, _cell(_PICK, "OpenVLA, human data", 16)),
    Contrast(_PICK_OCTO, _cell(_PICK, "Octo, human data", 1)),
    Contrast(_PICK_OPENVLA, _cell(_PICK, _SPECIALIST, 20)),
    Contrast(_PICK_UNSEEN_OPENVLA, _cell(_PICK_UNSEEN, _SPECIALIST, 1)),
    Contrast(_cell(_PICK_UNSEEN, "Octo, RLDG", 4), _cell(_PICK_UNSEEN, "Octo, human data", 0)),
    Contrast(_cell(_UNSEEN, "OpenVLA, RLDG", 73, 80), _UNSEEN_BEST),
    Contrast(_cell(_UNSEEN, "Octo, RLDG", 50, 80), _UNSEEN_BEST),
    Contrast(_cell(_ASSEMBLY, "OpenVLA, RLDG", 20), _cell(_ASSEMBLY, "OpenVLA, human data", 12)),
)
"""Those whose counts are published for both sides."""


def cell_table() -> str:
    """Every count with its interval, as a Markdown table."""
    cells = dict.fromkeys(cell for contrast in CONTRASTS for cell in (contrast.first, contrast.second))
    rows = ["| task | policy | successes | 95 % interval (Wilson) |", "|---|---|---|---|"]
    for cell in sorted(cells, key=lambda cell: [c.first.task for c in CONTRASTS].index(cell.task)):
        low, high = wilson(cell.count)
        successes, trials = cell.count
        rows.append(
            f"| {cell.task} | {cell.policy} | {successes} of {trials} | {100 * low:.0f} to {100 * high:.0f} % |"
        )
    return "\n".join(rows)


def contrast_table() -> str:
    """Every comparison with its tests, as a Markdown table."""
    tests = [fisher(each.first.count, each.second.count) for each in CONTRASTS]
    head = ("task", "compared", "points apart, 95 % interval", "p, Fisher", "p, Barnard", "p, Holm", "holds", "needs")
    rows = [head, ("---",) * len(head)]
    for each, p, corrected in zip(CONTRASTS, tests, holm(tests), strict=True):
        first, second = each.first.count, each.second.count
        low, high = difference(first, second)
        rows.append(
            (
                each.first.task,
                f"{each.first.policy} {first.successes}/{first.trials}, "
                f"{each.second.policy} {second.successes}/{second.trials}",
                f"{_points(first.rate - second.rate)}, {_points(low)} to {_points(high)}",
                _p(p),
                _p(barnard(first, second)),
                _p(corrected),
                "yes" if corrected < 0.05 else "alone, not among eight" if p < 0.05 else "no",
                _needed(first, second),
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _needed(first: Count, second: Count) -> str:
    """How many trials of each would see the difference, were it as large as found."""
    try:
        return str(trials_needed(first.rate, second.rate))
    except ValueError:
        return "over 2000"


def _points(share: float) -> str:
    return f"{round(100.0 * share):+d}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


if __name__ == "__main__":
    print(f"{cell_table()}\n\n{contrast_table()}")
