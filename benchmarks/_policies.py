"""Policies as they are named on the command line."""

from __future__ import annotations

from pathlib import Path

FORM = "ID=POLICY[:CHECKPOINT]"


def parse(text: str) -> tuple[str, str, str]:
    """Id, name and checkpoint folder (absolute, "" for none) of ``ID=POLICY[:CHECKPOINT]`` or of a bare name."""
    policy_id, _, rest = text.partition("=")
    name, _, checkpoint = rest.partition(":")
    return policy_id, name or policy_id, str(Path(checkpoint).absolute()) if checkpoint else ""
