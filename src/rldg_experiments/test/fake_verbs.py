"""Stands in for ``./rldg``: leaves what a verb would leave, at once, and writes down that it was called.

The environment orders faults: FAKE_FAILS names a verb that fails, FAKE_HANGS one that does nothing for a minute.
"""

import json
import os
import sys
import time
from pathlib import Path


def main(words: list[str]) -> int:
    verb = words[0]
    value = {word: words[i + 1] for i, word in enumerate(words[:-1]) if word.startswith("--")}
    with Path(os.environ["FAKE_CALLS"]).open("a") as calls:
        calls.write(f"{verb} {os.getpid()}\n")
    print(f"{verb} begins", file=sys.stderr, flush=True)
    if verb == os.environ.get("FAKE_HANGS"):
        time.sleep(60.0)
    if verb == os.environ.get("FAKE_FAILS"):
        print("the cable is out", file=sys.stderr)
        return 3
    made = {
        "train": lambda: Path(value["--checkpoints"]) / "made" / "weights",
        "collect": lambda: Path(value["--bags"]) / "episode_0",
        "dataset": lambda: Path(value["--out"]) / "data" / "meta",
        "finetune": lambda: Path(value["--out"]) / "weights",
        "evaluate": lambda: Path(value["--out"]) / "films",
        "show": lambda: Path(value["--output"]) / "log",
    }[verb]()
    made.mkdir(parents=True, exist_ok=True)
    print(json.dumps({"verb": verb}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
