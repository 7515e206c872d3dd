"""How a specialist learned, from what its training run told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:  # it brings scipy along, which a training can do without
    from rldg_evaluation.statistics import Count

EVENTS = "events.jsonl"


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Success without help at the checks of one training run.

    Attributes:
        env_steps: taken so far at each check.
        counts: successes of the trials of each check.
    """

    run: str
    env_steps: list[int]
    counts: list[Count]


def read_events(run: Path) -> list[dict[str, Any]]:
    """The events of a run; a last line that was cut off is left out.

    Raises:
        OSError: there is no such file.
    """
    events = []
    for line in (run / EVENTS).read_bytes().splitlines():
        try:
            events.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.DecodeError:
            continue
    return events


def checks(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The evaluations while training went on."""
    return [each for each in events if each["event"] == "Evaluated" and each["purpose"] == "check"]


def read_curve(run: Path) -> Curve:
    """The curve of the run in a folder.

    Raises:
        ValueError: it is no run, or its events are of another form; one line.
    """
    from rldg_evaluation.statistics import Count

    try:
        found = checks(read_events(run))
        counts = [Count(each["evaluation"]["successes"], each["evaluation"]["trials"]) for each in found]
        return Curve(run=str(run), env_steps=[int(each["env_steps"]) for each in found], counts=counts)
    except OSError as error:
        raise ValueError(
            f"{run / EVENTS}: cannot be read: {error.strerror}; name the folder of a training run"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{run / EVENTS}: is not what a training run tells: {error!r}") from None
