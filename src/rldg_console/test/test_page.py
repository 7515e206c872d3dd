"""The page in a real browser: it shows what it is told, asks for what keys mean, and lets go when it should."""

import json
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fake_desk import Console
from test_state import step

from rldg_console.board import Board
from rldg_console.messages import Estop, Label, Start, Swap
from rldg_console.state import CellState, Entry
from rldg_core.task import load_task
from rldg_core.testing import TICK_NS
from rldg_core.types import ActionChunk, EpisodeStatus, Outcome, Phase, Source
from rldg_evaluation.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
TASK = load_task("usb_insertion")


def cell(**changes: object) -> CellState:
    state = CellState(TASK)
    state.on_step(step(**{"source": Source.POLICY, "policy_id": "octo", **changes}), 0.0)
    for number in range(3):
        state.on_episode(
            EpisodeStatus(TICK_NS, episode_id=f"s/{number:04d}", phase=Phase.ENDED, outcome=Outcome.SUCCESS)
        )
    state.on_episode(EpisodeStatus(TICK_NS, episode_id="s/0003", phase=Phase.RUNNING, seed=4))
    for policy_id in ("octo", "<img src=x onerror=alert(1)>"):
        state.on_action(ActionChunk(0, policy_id, np.zeros((1, 6)), np.zeros(1, bool), 0.1, "tcp"), 10_000_000, 0.0)
    return state


def put(board: Board, state: CellState) -> None:
    board.put_text("state", msgspec.json.encode(state.view(0, 0.1)).decode())
    board.put_text("events", msgspec.json.encode(state.events).decode())


@pytest.fixture(scope="module")
def console():
    with Console() as console:
        yield console


@pytest.fixture(scope="module")
def browser(console: Console, tmp_path_factory: pytest.TempPathFactory):
    with Browser(f"http://{console.host}/", tmp_path_factory.mktemp("chromium") / "profile") as browser:
        browser.wait_for("document.title.startsWith('usb_insertion')")
        put(console.board, cell())
        browser.wait_for("document.body.dataset.link === 'up'")
        yield browser


@pytest.fixture(autouse=True)
def forget(console: Console) -> None:
    console.asked.clear()
    console.driven.clear()


def test_it_shows_the_state_of_the_cell(console: Console, browser: Browser) -> None:
    put(console.board, cell())
    browser.wait_for("document.getElementById('who').textContent === 'octo'")
    assert browser.text("source") == "policy"
    assert "3 of 3" in browser.text("score_text") and browser.text("phase") == "running"
    assert "episode 0003 begins" in browser.text("events")


def test_names_from_the_graph_are_text_and_never_markup(browser: Browser) -> None:
    assert browser.js("document.querySelectorAll('#policies img').length") == 0
    assert "<img src=x" in browser.text("policies")


def test_pictures_of_both_cameras_are_drawn(console: Console, browser: Browser) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :, 1] = 200
    for camera in ("scene", "wrist"):
        console.board.put_image(camera, image, time.monotonic())
        pixel = f"document.getElementById('{camera}').getContext('2d').getImageData(32, 32, 1, 1).data[1]"
        browser.wait_for(f"Math.abs({pixel} - 200) < 4")


@pytest.mark.parametrize(
    ("code", "key", "label"), [("KeyY", "y", "success"), ("KeyN", "n", "failure"), ("KeyU", "u", "undo")]
)
def test_labels_are_on_keys(console: Console, browser: Browser, code: str, key: str, label: str) -> None:
    browser.key(code, key)
    assert console.wait(lambda: console.asked)
    assert isinstance(console.asked[0], Label) and console.asked[0].label == label


def test_space_stops_wherever_the_focus_is_and_presses_no_button(console: Console, browser: Browser) -> None:
    for focus in ("start", "count", "drive"):
        console.asked.clear()
        browser.js(f"document.getElementById('{focus}').focus()")
        browser.key("Space", " ")
        assert console.wait(lambda: console.asked)
        time.sleep(0.1)
        assert [type(command) for command in console.asked] == [Estop] and console.asked[0].latched
    assert browser.js("document.getElementById('drive').checked") is False
    browser.js("document.activeElement.blur()")


def test_releasing_the_e_stop_takes_two_clicks(console: Console, browser: Browser) -> None:
    put(console.board, cell(source=Source.HOLD, reason="e-stop: a button"))
    browser.wait_for("!document.getElementById('latched').hidden")
    browser.click("#release")
    time.sleep(0.1)
    assert console.asked == []
    browser.click("#release")
    assert console.wait(lambda: console.asked)
    assert isinstance(console.asked[0], Estop) and not console.asked[0].latched
    put(console.board, cell())
    browser.wait_for("document.getElementById('latched').hidden")


def test_a_policy_can_be_let_drive(console: Console, browser: Browser) -> None:
    browser.wait_for("document.querySelectorAll('#policies button').length === 2")
    browser.click("#policies button")
    assert console.wait(lambda: console.asked)
    assert isinstance(console.asked[0], Swap) and console.asked[0].policy_id.startswith("<img")


def test_episodes_can_be_started_when_none_runs(console: Console, browser: Browser) -> None:
    browser.wait_for("document.getElementById('start').disabled")
    state = cell()
    state.on_episode(EpisodeStatus(2 * TICK_NS))
    put(console.board, state)
    browser.wait_for("!document.getElementById('start').disabled")
    assert browser.js("document.getElementById('seed').value") == "5"  # the one after the last
    browser.js("document.getElementById('seed').value = 2")
    put(console.board, state)
    time.sleep(0.2)
    browser.click("#start")
    assert console.wait(lambda: console.asked)
    assert isinstance(console.asked[0], Start)
    assert (console.asked[0].count, console.asked[0].seed) == (10, 2)
    put(console.board, cell())
    browser.wait_for("document.getElementById('start').disabled")


def drive(browser: Browser) -> None:
    browser.js("document.getElementById('drive').checked || document.getElementById('drive').click()")


def test_keys_drive_only_when_they_are_switched_on(console: Console, browser: Browser) -> None:
    browser.key("KeyW", "w")
    time.sleep(0.2)
    assert console.driven == []


def test_a_held_key_is_said_again_and_a_released_one_is_hands_off(console: Console, browser: Browser) -> None:
    drive(browser)
    browser.key("KeyW", "w", up=False)
    assert console.wait(lambda: len(console.driven) >= 5)
    assert {report.twist for report in console.driven} == {(0.5, 0, 0, 0, 0, 0)}
    browser.key("KeyW", "w", down=False)
    assert console.wait(lambda: console.driven[-1].twist == (0,) * 6)


@pytest.mark.parametrize(
    "event",
    ["window.dispatchEvent(new Event('blur'))", "window.dispatchEvent(new Event('pagehide'))", "hide()"],
)
def test_a_page_that_is_left_or_hidden_lets_go(console: Console, browser: Browser, event: str) -> None:
    browser.js(
        "window.hide = () => { Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange')); delete document.hidden; }"
    )
    drive(browser)
    browser.key("KeyR", "r", up=False)
    assert console.wait(lambda: console.driven and console.driven[-1].twist[2] == 0.5)
    browser.js(event)
    assert console.wait(lambda: console.driven[-1].twist == (0,) * 6)
    browser.key("KeyR", "r", down=False)


def test_the_pads_on_the_screen_drive_while_they_are_pressed(console: Console, browser: Browser) -> None:
    drive(browser)
    box = browser.js("(b => ({x: b.x + b.width / 2, y: b.y + b.height / 2}))"
                     "((e => (e.scrollIntoView({block: 'center'}), e.getBoundingClientRect()))"
                     "(document.querySelector('[data-motion=left]')))")  # fmt: skip
    press = {"button": "left", "clickCount": 1, **box}
    browser.call("Input.dispatchMouseEvent", type="mousePressed", **press)
    assert console.wait(lambda: console.driven and console.driven[-1].twist[1] == 0.5)
    browser.call("Input.dispatchMouseEvent", type="mouseReleased", **press)
    assert console.wait(lambda: console.driven[-1].twist == (0,) * 6)


def test_it_fits_every_width_without_scrolling_sideways(browser: Browser) -> None:
    for width in (360, 500, 800, 1400):
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        assert browser.js("document.documentElement.scrollWidth <= innerWidth"), width
    browser.call("Emulation.setDeviceMetricsOverride", width=1400, height=1000, deviceScaleFactor=1, mobile=False)


def test_nothing_breaks_the_rules_of_the_page(console: Console, tmp_path: Path) -> None:
    """No script error and no breach of the content security policy, from opening to the end of the connection."""
    with Console() as own, Browser("about:blank", tmp_path / "profile") as browser:
        browser.call("Page.enable")
        watch = "window.wrong = []; for (const kind of ['error', 'unhandledrejection', 'securitypolicyviolation'])"
        watch += (
            " addEventListener(kind, event => window.wrong.push(kind + ' ' + (event.message ?? event.blockedURI)));"
        )
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=watch)
        browser.open(f"http://{own.host}/")
        browser.wait_for("document.title.startsWith('usb_insertion')")
        put(own.board, cell())
        own.board.put_text("events", json.dumps([msgspec.to_builtins(Entry(1.0, "bad", "x"))]))
        browser.wait_for("document.body.dataset.link === 'up'")
        own.server.stop()
        browser.wait_for("document.body.dataset.link === 'down'")
        assert browser.js("window.wrong") == []
