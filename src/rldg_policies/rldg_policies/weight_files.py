"""Files of weights are for whoever may read the folder; those that safetensors writes are for their owner only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What is written to ``path`` inside gets the mode that any new file there has."""
    path.touch()
    mode = path.stat().st_mode
    yield
    path.chmod(mode)
