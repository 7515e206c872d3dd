"""A person at the console of a running cell: looks on, labels, takes the arm and gives it back, stops it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rldg_interfaces.msg import Step

from rldg_bringup.episode_runner_node import EpisodeRunner
from rldg_bringup.testing import running_cell
from rldg_core.types import Source
from rldg_evaluation.browser import CHROMIUM, Browser
from rldg_ros import qos
from rldg_ros.conversions import step_from_msg

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


class Desk(NamedTuple):
    runner: EpisodeRunner
    browser: Browser
    steps: list[tuple[Source, str]]
    missed: dict[str, int]

    def see(self, expression: str, timeout_s: float = 20.0) -> None:
        """Wait for the page while the cell's messages are served."""
        self.runner.spin_until(lambda: bool(self.browser.js(f"Boolean({expression})")), timeout_s, expression)

    def hear(self, source: Source, reason: str = "") -> None:
        """Wait for a step."""
        self.steps.clear()
        self.runner.spin_until(
            lambda: any(step[0] is source and reason in step[1] for step in self.steps), 10.0, f"{source!r} {reason}"
        )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("console")
    arguments = {"policy": "scripted", "console": "true", "console_port": "0", "task": "usb_insertion"}
    with running_cell(folder / "cell", **arguments) as (launch, runner):
        at = launch.wait_for_line("console: http://", 30.0)
        url = launch.lines[at].partition("console: ")[2].strip()
        steps: list[tuple[Source, str]] = []
        missed: dict[str, int] = {}

        def on_step(message: Step) -> None:
            step = step_from_msg(message)
            steps.append((step.source, step.reason))

        def on_diagnostics(message: DiagnosticArray) -> None:
            for status in message.status:
                for value in status.values:
                    if value.key == "missed":
                        missed[status.name] = int(value.value)

        runner.listen(Step, "step", on_step, qos.reliable(50))
        runner.listen(DiagnosticArray, "/diagnostics", on_diagnostics, qos.reliable(20))
        with Browser(url, folder / "profile") as browser:
            desk = Desk(runner, browser, steps, missed)
            desk.see("document.body.dataset.link === 'up'")
            yield desk


def test_a_person_sees_drives_labels_and_stops(desk: Desk) -> None:
    browser = desk.browser
    desk.see("consoleStats.shown.scene > 3 && consoleStats.shown.wrist > 3")
    assert browser.text("task") == "usb insertion"
    browser.js("document.getElementById('count').value = 3")
    desk.see("!document.getElementById('start').disabled")
    browser.click("#start")
    desk.hear(Source.POLICY)
    desk.see("document.getElementById('who').textContent === 'scripted'")

    browser.click("#drive")
    browser.key("KeyR", "r", up=False)
    desk.hear(Source.HUMAN)
    browser.key("KeyR", "r", down=False)
    desk.hear(Source.POLICY)
    desk.see("document.getElementById('events').textContent.includes('a person takes over from scripted')")

    browser.key("Space", " ")
    desk.hear(Source.HOLD, "e-stop")
    desk.see("!document.getElementById('latched').hidden")
    browser.click("#release")
    browser.click("#release")
    desk.hear(Source.POLICY)

    browser.key("KeyN", "n")
    desk.see("document.getElementById('events').textContent.includes('failure by console')")
    desk.see("document.getElementById('score_text').textContent.startsWith('0 of 1')")
    desk.see("document.getElementById('phase').textContent === 'running'")
    browser.click("#stop")
    desk.see("document.getElementById('phase').textContent === 'idle'")
    desk.see("document.getElementById('score_text').textContent.includes('1 aborted')")


def test_a_browser_that_dies_with_a_key_held_stops_the_arm_until_somebody_lets_go(desk: Desk, tmp_path: Path) -> None:
    url = desk.browser.js("location.href")
    desk.browser.click("#start")
    desk.hear(Source.POLICY)
    with Browser(url, tmp_path / "profile") as other:
        other.wait_for("document.body.dataset.link === 'up'")
        other.click("#drive")
        other.key("KeyR", "r", up=False)
        desk.hear(Source.HUMAN)
        other.kill()
        desk.hear(Source.HOLD, "fell silent while held")
    desk.steps.clear()
    desk.runner.spin(1.0)
    assert {source for source, _ in desk.steps} <= {Source.HOLD, Source.RESET}
    time.sleep(0.2)
    desk.browser.js("document.getElementById('drive').checked || document.getElementById('drive').click()")
    desk.browser.key("KeyR", "r")
    desk.hear(Source.POLICY)
    desk.browser.click("#stop")
    desk.see("document.getElementById('phase').textContent === 'idle'")
