"""Contact sheets."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rldg_bringup.pictures import contact_sheet, evenly_spaced


@pytest.mark.parametrize(
    ("count", "wanted", "indices"), [(0, 6, []), (1, 6, [0]), (3, 6, [0, 1, 2]), (11, 3, [0, 5, 10])]
)
def test_moments_are_evenly_spaced_with_both_ends(count: int, wanted: int, indices: list[int]) -> None:
    assert evenly_spaced(count, wanted) == indices


def test_a_contact_sheet_shows_every_picture_of_every_row(tmp_path: Path) -> None:
    rows = [
        ("red", [np.full((8, 16, 3), (255, 0, 0), np.uint8)] * 2),
        ("blue", [np.full((8, 16, 3), (0, 0, 255), np.uint8)]),
    ]
    contact_sheet(rows, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert (sheet == (255, 0, 0)).all(axis=2).sum() == 2 * 8 * 16
    assert (sheet == (0, 0, 255)).all(axis=2).sum() == 8 * 16


def test_no_pictures_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pictures"):
        contact_sheet([("empty", [])], tmp_path / "sheet.png")
