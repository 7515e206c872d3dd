"""The page about the paper's results shows what the statistics say."""

from __future__ import annotations

from pathlib import Path

from rldg_evaluation.paper import CONTRASTS, cell_table, contrast_table
from rldg_evaluation.statistics import fisher

PAGE = Path(__file__).parents[3] / "docs/explanation/how-sure-is-an-evaluation.md"


def test_the_page_has_the_tables_as_they_are_computed() -> None:
    text = PAGE.read_text()
    assert cell_table() in text and contrast_table() in text


def test_of_the_papers_comparisons_three_hold() -> None:
    holding = [line for line in contrast_table().splitlines() if "| yes |" in line]
    assert len(holding) == 3 and len(CONTRASTS) == 8
    assert sum(fisher(each.first.count, each.second.count) < 0.05 for each in CONTRASTS) == 3
