"""A RealSense, played from recordings that librealsense makes here, becomes square images, new and well stamped."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rldg_control.realsense_camera import (
    CameraError,
    CameraReader,
    CameraSettings,
    CaptureClock,
    Frame,
    PlaybackEnded,
    RawFrame,
    RealSenseSource,
    choose_camera,
    colour_sensor,
    configure_sensor,
    raw_frame,
)
from rldg_control.testing import FOCAL_PX, HEIGHT, REMEDY, WIDTH, SoftwareD405, numbered, record
from rldg_core.images import Lens, square

rs = pytest.importorskip("pyrealsense2", reason=REMEDY, exc_type=ImportError)

FRAMES, SKIPPED = 24, (8, 9, 10, 11, 12)
LENS = Lens(64, 48, 50.0, 50.0, 32.0, 24.0)
MS = 1_000_000


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("recording") / "wrist.db3", FRAMES, skip=SKIPPED)


def picture(number: int) -> np.ndarray:
    return np.full((48, 64, 3), number % 256, np.uint8)


class ScriptedSource:
    """Plays a script: frames, None for nothing yet, errors to raise; each opening goes on where the last one ended."""

    name = "scripted camera"

    def __init__(self, *script: RawFrame | Exception | None) -> None:
        self.script: Iterator[RawFrame | Exception | None] = iter(script)
        self.opened = self.closed = 0
        self.refuse = 0  # so many openings fail
        self.lens = LENS

    def open(self) -> Lens:
        self.opened += 1
        if self.opened <= self.refuse:
            raise CameraError("not there")
        return self.lens

    def read(self) -> RawFrame | None:
        item = next(self.script, PlaybackEnded("the script is over"))
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        self.closed += 1


def frame(number: int, stamp_ms: float, shows: int | None = None) -> RawFrame:
    return RawFrame(number, round(stamp_ms * MS), False, picture(number if shows is None else shows))


def run(source: ScriptedSource, side_px: int = 32) -> tuple[list[Frame], CameraReader]:
    """Read until the script is over."""
    frames: list[Frame] = []
    reader = CameraReader(source, side_px, frames.append)
    reader.start()
    finish(reader, "over")
    return frames, reader


def finish(reader: CameraReader, says: str) -> None:
    for _ in range(1000):
        if says in reader.state.trouble:
            break
        time.sleep(0.02)
    reader.stop()
    assert says in reader.state.trouble


# the real library


def test_a_recording_comes_out_square_in_order_with_its_gaps_counted_and_then_ends(recording: Path) -> None:
    frames: list[Frame] = []
    reader = CameraReader(RealSenseSource(CameraSettings(file=str(recording))), 128, frames.append)
    reader.start()
    finish(reader, f"{recording} has ended after")
    state = reader.state
    assert state.refused == 0 and state.frames == len(frames)
    numbers = [int(frame.image[64, 64, 0]) for frame in frames]
    assert numbers == sorted(set(numbers)) and not set(numbers) & set(SKIPPED)
    assert state.frames + state.lost == numbers[-1] - numbers[0] + 1
    for number, frame_ in zip(numbers, frames, strict=True):
        assert np.array_equal(frame_.image, square(numbered(number), 128))
    assert all(later.stamp_ns > earlier.stamp_ns for earlier, later in itertools.pairwise(frames))
    assert not state.connected


def test_the_lens_is_that_of_the_square_image(recording: Path) -> None:
    source = RealSenseSource(CameraSettings(file=str(recording)))
    lens = source.open()
    source.close()
    assert (lens.width, lens.height, lens.focal_x, lens.model) == (WIDTH, HEIGHT, FOCAL_PX, "plumb_bob")
    assert lens.distortion[0] == pytest.approx(0.01)
    small = lens.squared(128)
    assert (small.focal_y, small.centre_x, small.centre_y) == pytest.approx((FOCAL_PX * 128 / 480, 64.0, 64.0))


@pytest.mark.parametrize("content", [b"", b"no database" * 999], ids=["empty", "garbage"])
def test_a_file_that_is_no_recording_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.db3"
    path.write_bytes(content)
    with pytest.raises(CameraError, match="must be a recording") as refusal:
        RealSenseSource(CameraSettings(file=str(path))).open()
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_missing_file_is_refused_in_one_line() -> None:
    with pytest.raises(CameraError, match=r"/nowhere\.db3.* does not exist"):
        RealSenseSource(CameraSettings(file="/nowhere.db3")).open()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_recording_ends_with_a_reason_and_shows_nothing_twice(
    share: float, recording: Path, tmp_path: Path
) -> None:
    whole, path = recording.read_bytes(), tmp_path / "truncated.db3"
    path.write_bytes(whole[: int(len(whole) * share)])
    frames: list[Frame] = []
    reader = CameraReader(RealSenseSource(CameraSettings(file=str(path))), 128, frames.append)
    reader.start()
    finish(reader, str(path))
    numbers = [int(frame.image[64, 64, 0]) for frame in frames]
    assert numbers == sorted(set(numbers)) and len(numbers) < FRAMES - len(SKIPPED)


def test_a_camera_that_is_not_there_is_told_at_once_by_its_serial_number() -> None:
    with pytest.raises(CameraError, match="camera 000000000000 is not connected"):
        RealSenseSource(CameraSettings(serial="000000000000")).open()


@pytest.mark.parametrize("through", ["queue", "syncer"])
def test_a_frame_of_the_software_device_keeps_pixels_number_and_clock(through: str) -> None:
    camera = SoftwareD405()
    queue = rs.frame_queue(16) if through == "queue" else rs.syncer(16)
    camera.sensor.open(camera.sensor.get_stream_profiles()[0])
    camera.sensor.start(queue)
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for domain, on_host_clock in ((rs.timestamp_domain.hardware_clock, False), (rs.timestamp_domain.global_time, True)):
        camera.domain = domain
        camera.push(7, pixels, 1234.5)
        got = queue.wait_for_frame(2000) if through == "queue" else queue.wait_for_frames(2000).get_color_frame()
        live = raw_frame(got, live=True)
        assert (live.number, live.device_ns, live.on_host_clock) == (7, 1_234_500_000, on_host_clock)
        assert np.array_equal(live.image, pixels)
        assert not raw_frame(got, live=False).on_host_clock  # the past of the machine that recorded it
    camera.sensor.stop()
    camera.sensor.close()


def test_exposure_gain_and_white_balance_are_fixed_on_the_sensor_that_has_the_colour() -> None:
    camera = SoftwareD405()
    for option, low, high, value in (
        ("enable_auto_exposure", 0, 1, 1),
        ("exposure", 1, 165000, 33000),
        ("gain", 16, 248, 16),
        ("enable_auto_white_balance", 0, 1, 1),
        ("white_balance", 2800, 6500, 4600),
        ("global_time_enabled", 0, 1, 0),
    ):
        camera.offer(option, low, high, value)
    sensor = colour_sensor(camera.device)
    configure_sensor(sensor, CameraSettings(exposure_us=5000.0, gain=32, white_balance_k=4000))
    values = {
        name: sensor.get_option(getattr(rs.option, name))
        for name in ("enable_auto_exposure", "exposure", "gain", "enable_auto_white_balance", "white_balance")
    }
    assert list(values.values()) == [0.0, 5000.0, 32.0, 0.0, 4000.0]
    assert sensor.get_option(rs.option.global_time_enabled) == 1.0
    configure_sensor(sensor, CameraSettings(exposure_us=0.0))
    assert sensor.get_option(rs.option.enable_auto_exposure) == 1.0


def test_a_setting_that_the_sensor_cannot_do_is_refused_with_its_range() -> None:
    camera = SoftwareD405()
    camera.offer("exposure", 1, 165000, 33000)
    camera.offer("gain", 16, 248, 16)
    with pytest.raises(CameraError, match="gain: is 900, the Stereo Module allows 16 to 248"):
        configure_sensor(camera.sensor, CameraSettings(gain=900))
    with pytest.raises(CameraError, match="white_balance: the Stereo Module cannot be set to 4600"):
        configure_sensor(camera.sensor, CameraSettings(white_balance_k=4600))


# any source


def test_an_unplugged_camera_is_opened_again_and_goes_on_with_new_frames() -> None:
    source = ScriptedSource(frame(1, 0), frame(2, 33), CameraError("unplugged"), frame(1, 5000, 3), frame(2, 5033, 4))
    source.refuse = 1
    frames, reader = run(source)
    assert [int(f.image[0, 0, 0]) for f in frames] == [1, 2, 3, 4]
    assert source.opened == 3 and source.closed == 3
    assert reader.state.lost == 0  # its count began anew


def test_a_frame_that_is_not_later_than_the_last_one_is_thrown_away() -> None:
    frames, reader = run(ScriptedSource(frame(1, 0), frame(2, 33), frame(3, 33, 9), frame(4, 20, 8), frame(5, 66)))
    assert [int(f.image[0, 0, 0]) for f in frames] == [1, 2, 5]
    assert reader.state.refused == 2


def test_an_image_that_repeats_itself_is_not_shown_again_and_called_frozen_in_the_end() -> None:
    same = [frame(number, 33.0 * number, 7) for number in range(11)]
    states = []
    frames: list[Frame] = []
    source = ScriptedSource(*same)
    reader = CameraReader(source, 32, frames.append)
    read = source.read
    source.read = lambda: (states.append(reader.state), read())[1]  # type: ignore[method-assign, func-returns-value]
    reader.start()
    finish(reader, "over")
    assert len(frames) == 1 and reader.state.refused == 10
    assert states[-1].trouble.startswith("camera frozen: 10 frames") and states[-2].connected


def test_the_image_from_before_a_loss_does_not_pass_for_a_new_one() -> None:
    frames, reader = run(ScriptedSource(frame(1, 0, 7), CameraError("unplugged"), frame(1, 5000, 7), frame(2, 5033, 8)))
    assert [int(f.image[0, 0, 0]) for f in frames] == [7, 8] and reader.state.refused == 1


def test_an_image_that_cannot_be_delivered_is_told_and_the_next_one_is_tried() -> None:
    told: list[str] = []
    source = ScriptedSource(frame(1, 0), frame(2, 33))
    reader = CameraReader(source, 32, lambda delivered: deliver(delivered))

    def deliver(delivered: Frame) -> None:
        told.append(reader.state.trouble)
        if len(told) == 1:
            raise RuntimeError("cannot publish data")

    reader.start()
    finish(reader, "over")
    assert told == ["", "cannot publish data"]


def test_frames_that_never_arrive_and_frames_that_arrive_late_are_warnings() -> None:
    states = []

    def warnings_of(*script: RawFrame | None) -> list[str]:
        states.clear()
        source = ScriptedSource(*script)
        reader = CameraReader(source, 32, lambda _: None)
        read = source.read
        source.read = lambda: (states.append(reader.state), read())[1]  # type: ignore[method-assign, func-returns-value]
        reader.start()
        finish(reader, "over")
        return [state.warning for state in states]

    assert "4 of the last 6 frames never arrived" in warnings_of(frame(1, 0), frame(6, 166))[-1]
    now_ns = time.time_ns()
    late = [RawFrame(n, now_ns - 300 * MS + n, True, picture(n)) for n in range(2)]
    assert "after their capture" in warnings_of(*late)[-1]


def test_an_image_smaller_than_the_task_wants_is_refused() -> None:
    reader = CameraReader(ScriptedSource(frame(1, 0)), 256, lambda _: None)
    reader.start()
    finish(reader, "64 x 48 is smaller than camera.image_size_px 256")


@pytest.mark.parametrize(
    ("connected", "serial", "says"),
    [
        ({}, "", "0 RealSense cameras are connected (none); plug one in"),
        ({"1": "D405", "2": "D435"}, "", "2 RealSense cameras are connected (1 (D405), 2 (D435)); say which"),
        ({"1": "D405"}, "3", "camera 3 is not connected (connected: 1 (D405))"),
    ],
)
def test_it_is_said_which_cameras_there_are_where_none_can_be_chosen(
    connected: dict[str, str], serial: str, says: str
) -> None:
    with pytest.raises(CameraError) as refusal:
        choose_camera(connected, serial)
    assert str(refusal.value).startswith(says)


def test_the_only_camera_and_the_named_one_are_chosen() -> None:
    assert choose_camera({"1": "D405"}, "") == "1"
    assert choose_camera({"1": "D405", "2": "D405"}, "2") == "2"


# time


def stamps_ms(clock: CaptureClock, captures_ms: list[float], delays_ms: list[float]) -> list[float]:
    """Stamps of a camera whose clock reads 0 at 1000 ms of the node clock."""
    stamps = []
    for capture, delay in zip(captures_ms, delays_ms, strict=True):
        raw = RawFrame(0, round(capture * MS), False, picture(0))
        stamps.append(clock.stamp_ns(raw, round((1000.0 + capture + delay) * MS)) / MS - 1000.0)
    return stamps


def test_jitter_of_the_transport_is_taken_out_of_the_stamps() -> None:
    captures = [33.0 * n for n in range(60)]
    delays = [20.0 + 15.0 * float(x) for x in np.random.default_rng(0).random(60)]
    delays[3] = 20.0
    stamps = stamps_ms(CaptureClock(), captures, delays)
    assert stamps[3:] == pytest.approx([capture + 20.0 for capture in captures[3:]])  # its shortest delay stays


def test_a_camera_clock_that_runs_slow_is_followed() -> None:
    captures = [33.0 * n for n in range(1800)]  # a minute
    drift = 50e-6
    stamps = stamps_ms(CaptureClock(), captures, [20.0 + capture * drift for capture in captures])
    errors = [stamp - (capture * (1.0 + drift) + 20.0) for stamp, capture in zip(stamps, captures, strict=True)]
    assert max(np.abs(errors)) < 0.6


def test_stamps_of_the_hosts_clock_are_kept_but_never_lie_in_the_future() -> None:
    clock = CaptureClock()
    assert clock.stamp_ns(RawFrame(0, 970 * MS, True, picture(0)), 1000 * MS) == 970 * MS
    assert clock.stamp_ns(RawFrame(1, 1003 * MS, True, picture(0)), 1000 * MS) == 1000 * MS
