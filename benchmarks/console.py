"""The console in a headless browser beside a real-time cell: pictures shown, ticks missed, from a key to the event."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rldg_bringup.testing import running_cell
from rldg_core.events import Event, EventKind, parse_event
from rldg_core.types import Outcome, Phase, Source
from rldg_evaluation.browser import CHROMIUM, Browser

READY_S = 60.0
REPORT_S = 1.2  # diagnostics come once a second


def main(argv: list[str]) -> dict[str, float]:
    """Measure; the figures are those of docs/reference/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="rldg bench console", description=__doc__)
    parser.add_argument("--task", default="usb_insertion")
    parser.add_argument("--seconds", type=float, default=30.0, help="without and with a browser (default: %(default)s)")
    parser.add_argument("--labels", type=int, default=20, help="key presses (default: %(default)s)")
    options = parser.parse_args(argv)
    if CHROMIUM is None:
        print("there is no Chromium: nothing can be measured", file=sys.stderr)
        return {}
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder), options.task, options.seconds, options.labels)


def measure(folder: Path, task: str, seconds: float, labels: int) -> dict[str, float]:
    """In a cell of its own."""
    from diagnostic_msgs.msg import DiagnosticArray
    from rldg_interfaces.msg import Episode
    from rldg_interfaces.msg import Step as StepMsg
    from std_msgs.msg import String

    from rldg_ros import qos
    from rldg_ros.conversions import episode_from_msg

    ticks = missed = 0  # missed: as the arbiter counts
    events: list[Event] = []
    ended: list[tuple[float, str]] = []  # wall time, reason
    seen: dict[str, object] = {}

    def on_step(msg: StepMsg) -> None:
        nonlocal ticks
        ticks += 1
        seen["source"] = Source(msg.source)

    def on_diagnostics(msg: DiagnosticArray) -> None:
        nonlocal missed
        for status in msg.status:
            if status.name == "arbiter: ticks":
                missed = next(int(value.value) for value in status.values if value.key == "missed")

    def on_episode(msg: Episode) -> None:
        status = episode_from_msg(msg)
        seen["phase"] = status.phase
        if status.phase is Phase.ENDED and status.outcome is Outcome.FAILURE:
            ended.append((time.time(), status.reason))

    def run(name: str) -> dict[str, float]:
        runner.spin(REPORT_S)
        before = ticks, missed
        runner.spin(seconds + REPORT_S)
        return {f"ticks_{name}": float(ticks - before[0]), f"missed_ticks_{name}": float(missed - before[1])}

    arguments = {"policy": "scripted", "console": "true", "console_port": "0"}
    with running_cell(folder / "cell", task=task, **arguments) as (launch, runner):
        at = launch.wait_for_line("console: http://", READY_S)
        url = launch.lines[at].partition("console: ")[2].strip()
        runner.listen(StepMsg, "step", on_step, qos.reliable(200))
        runner.listen(Episode, "episode", on_episode, qos.latched())
        runner.listen(DiagnosticArray, "/diagnostics", on_diagnostics, qos.reliable(50))
        runner.listen(String, "event", lambda msg: events.append(parse_event(msg.data)), qos.latched(20))
        runner.start_episodes(count=100_000)
        runner.spin(5.0)
        found = run("alone")
        with Browser(url, folder / "profile") as browser:
            browser.wait_for("document.body.dataset.link === 'up'")
            runner.spin(3.0)
            before, began_s = browser.js("consoleStats.shown"), time.monotonic()
            found |= run("watched")
            lasted_s, after = time.monotonic() - began_s, browser.js("consoleStats.shown")
            for camera in ("scene", "wrist"):
                found[f"{camera}_frames_per_s"] = (after[camera] - before[camera]) / lasted_s

            events_ms, verdicts_ms, answers_ms = [], [], []
            for n in range(labels):
                runner.spin_until(
                    lambda: seen.get("phase") is Phase.RUNNING and seen.get("source") is Source.POLICY,
                    60.0,
                    "an episode",
                )
                runner.spin(float(np.random.default_rng(n).uniform(0.3, 0.6)))
                had, had_ended, pressed_s = len(events), len(ended), time.time()
                browser.key("KeyN", "n")
                runner.spin_until(lambda had=had: len(events) > had, 10.0, "the event")  # type: ignore[misc]
                runner.spin_until(lambda had=had_ended: len(ended) > had, 10.0, "the verdict")  # type: ignore[misc]
                label = next(event for event in events[had:] if event.kind is EventKind.LABELLED)
                events_ms.append(label.stamp_ns * 1e-6 - pressed_s * 1e3)
                verdicts_ms.append((ended[had_ended][0] - pressed_s) * 1e3)
                answers_ms.append(float(browser.js("consoleStats.answers.at(-1).ms")))
    for name, times_ms in (("event", events_ms), ("verdict", verdicts_ms), ("answer", answers_ms)):
        found |= {f"label_{name}_ms_p50": float(np.median(times_ms)), f"label_{name}_ms_max": max(times_ms)}
    return found
