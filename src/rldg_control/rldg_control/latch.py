"""What the arbiter must not forget when it is killed and restarted: the e-stop and who was selected."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path


class Latch:
    """A small file that outlives the process but not its launch.

    The name holds the parent process and its start, which are the same for a restarted node and others for the next
    launch. It is never deleted: a node that is told to end may be restarted too.

    Args:
        name: fully qualified node name.
        directory: where to keep the file; the user's runtime directory by default.
    """

    def __init__(self, name: str, directory: Path | None = None) -> None:
        folder = directory or Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        self._path = folder / f"rldg-latch-{os.getuid()}-{_parent()}{name.replace('/', '-')}.json"

    def load(self) -> tuple[str, str] | None:
        """Cause of the e-stop ("" for none) and selected policy as last kept; None where nothing was kept.

        A file that cannot be understood counts as an e-stop: it was written, and what it said is lost.
        """
        try:
            kept = json.loads(self._path.read_text())
            return str(kept["estop"]), str(kept["selected"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return f"what was latched before the restart cannot be read: {self._path}", ""

    def save(self, estop: str, selected: str) -> None:
        """Replace what is kept, atomically."""
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps({"estop": estop, "selected": selected}))
        os.replace(partial, self._path)


def _parent() -> str:
    """What names the launch: the id of the launch runner, else the parent process and its start (proc(5), field 22)."""
    launch = os.environ.get("RLDG_LAUNCH_ID", "")
    if launch.isalnum():
        return launch  # one process may run several launches
    parent = os.getppid()
    try:
        started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        started = "0"
    return f"{parent}-{started}"
