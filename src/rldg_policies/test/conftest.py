"""For the tests of both generalists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def golden_path() -> Callable[[str], Path]:
    """Where a file or folder lies that the released code made with a tiny random model; skips where it is not at hand.

    Golden tensors are not part of a checkout: they stand beside it, in ``shared/golden``.
    """

    def find(name: str) -> Path:
        checkout = next(root for root in Path(__file__).resolve().parents if (root / "pyproject.toml").exists())
        path = checkout.parent / "shared" / "golden" / name
        if not path.exists():
            pytest.skip(f"the golden tensors {name} are not at hand")
        return path

    return find
