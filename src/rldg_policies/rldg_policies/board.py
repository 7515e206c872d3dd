"""Curves for TensorBoard."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter


def open_board(folder: Path) -> SummaryWriter:
    """What writes curves into a folder, and takes numbers only.

    tensorboardX imports torch where it is installed, for which it has no use here, and which takes seconds and hundreds
    of megabytes.
    """
    without_torch = "torch" not in sys.modules
    if without_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if without_torch:
            del sys.modules["torch"]
    return SummaryWriter(str(folder))
