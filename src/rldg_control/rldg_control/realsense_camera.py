"""A RealSense camera, or a recording of one: square images with capture stamps on the node clock."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rldg_core.images import Lens, square

WIDTH_PX, HEIGHT_PX, RATE_HZ = 640, 480, 30
_SILENT_S = 1.0  # a camera that sends nothing for so long is lost
_BACK_OFF_S = (0.5, 1.0, 2.0, 5.0)
_BUCKET_NS = 5_000_000_000  # crystals drift apart by up to 50 ppm: 0.25 ms in this time
_LATE_S = 0.1
_FROZEN_FRAMES = 10
_RECENT_FRAMES = 30

Image = npt.NDArray[np.uint8]


class CameraError(RuntimeError):
    """The camera cannot be used now; one line that says why and what to do."""


class PlaybackEnded(CameraError):
    """The recording is over: there is nothing to try again."""


@dataclass(frozen=True)
class RawFrame:
    """What a source delivers.

    Attributes:
        number: counted by the camera; a gap means frames that never arrived.
        device_ns: capture, on the clock of the camera, or on the host's system clock.
        on_host_clock: which of the two.
        image: RGB, shape (height, width, 3), of the source's lens.
    """

    number: int
    device_ns: int
    on_host_clock: bool
    image: Image


@dataclass(frozen=True)
class Frame:
    """One image of the contract: RGB, shape (side, side, 3), captured at ``stamp_ns`` of the node clock."""

    stamp_ns: int
    image: Image
    lens: Lens


class FrameSource(Protocol):
    """Where frames come from."""

    name: str

    def open(self) -> Lens:
        """Start it; raises CameraError."""

    def read(self) -> RawFrame | None:
        """The next frame; None: not yet. Raises CameraError where the source is lost or has ended."""

    def close(self) -> None:
        """Stop it, in whatever state it is."""


class CaptureClock:
    """From the time stamps of a camera to those of the node clock.

    Stamps on the host's system clock (librealsense's global time: the camera's clock, related to the host's again and
    again by short queries over USB) are taken as they are, since they keep the time that a frame takes from the sensor
    to the host. Any other clock is related to the node clock by the smallest delay from stamp to arrival seen in the
    last 5 to 10 s, which takes out the jitter of the transport but not its shortest delay. No stamp is later than its
    arrival.
    """

    def __init__(self) -> None:
        self._bucket_ns = 0
        self._offsets_ns: deque[int] = deque(maxlen=2)  # smallest of this bucket of time and of the one before

    def stamp_ns(self, frame: RawFrame, arrived_ns: int) -> int:
        """Capture time of a frame that arrived now, node clock."""
        if frame.on_host_clock:
            return min(frame.device_ns, arrived_ns)
        offset_ns = arrived_ns - frame.device_ns
        if not self._offsets_ns or not 0 <= arrived_ns - self._bucket_ns < _BUCKET_NS:
            self._bucket_ns = arrived_ns
            self._offsets_ns.append(offset_ns)
        self._offsets_ns[-1] = min(self._offsets_ns[-1], offset_ns)
        return frame.device_ns + min(self._offsets_ns)


@dataclass(frozen=True)
class CameraState:
    """A snapshot for diagnostics.

    Attributes:
        connected: frames arrive.
        trouble: why not, and what to do; "" before the first attempt.
        warning: frames arrive, but something is odd; "" if not.
        frames, lost, refused: delivered, never arrived, and thrown away because they were not new.
    """

    connected: bool = False
    trouble: str = ""
    warning: str = ""
    frames: int = 0
    lost: int = 0
    refused: int = 0
    field_of_view_rad: float = 0.0


@dataclass
class _Counts:
    frames: int = 0
    lost: int = 0
    refused: int = 0
    recent_lost: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT_FRAMES))  # before each frame


class CameraReader:
    """Owns the thread that reads a source, opens it again after a loss, and delivers what is new.

    A frame is delivered only if its stamp is later and its image differs from the last one, so that a stale image never
    passes for a new one.

    Args:
        side_px: of the square image.
        deliver: called in the reading thread.
        clock_ns: the node clock.
    """

    def __init__(
        self,
        source: FrameSource,
        side_px: int,
        deliver: Callable[[Frame], None],
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._source = source
        self._side_px = side_px
        self._deliver = deliver
        self._clock_ns = clock_ns
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._last: Frame | None = None
        self._counts = _Counts()
        self.state = CameraState()

    def start(self) -> None:
        """Begin to read; does nothing the second time."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """End the thread and close the source; idempotent."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        attempt = 0
        while not self._stop.is_set():
            try:
                lens = self._source.open()
                attempt = 0
                self._read_until_lost(lens)
            except PlaybackEnded as error:
                self._tell(trouble=str(error))
                return
            except (
                Exception
            ) as error:  # librealsense and DDS say nothing more precise; nothing may end this thread unseen
                self._tell(trouble=str(error) or type(error).__name__)
            finally:
                self._source.close()
            self._stop.wait(_BACK_OFF_S[min(attempt, len(_BACK_OFF_S) - 1)])
            attempt += 1

    def _tell(self, trouble: str = "", warning: str = "", lens: Lens | None = None) -> None:
        counts = self._counts
        fov_rad = self.state.field_of_view_rad if lens is None else lens.field_of_view_rad
        self.state = CameraState(not trouble, trouble, warning, counts.frames, counts.lost, counts.refused, fov_rad)

    def _read_until_lost(self, lens: Lens) -> None:
        try:
            small = lens.squared(self._side_px)
            square(np.zeros((lens.height, lens.width, 3), np.uint8), self._side_px)
        except ValueError as error:
            raise CameraError(str(error)) from None
        clock, number, same = CaptureClock(), -1, 0
        self._counts.recent_lost.clear()
        while not self._stop.is_set():
            raw = self._source.read()
            arrived_ns = self._clock_ns()
            if raw is None:
                continue
            stamp_ns = clock.stamp_ns(raw, arrived_ns)
            lost = max(raw.number - number - 1, 0) if number >= 0 else 0
            number = raw.number
            frame = Frame(stamp_ns, square(raw.image, self._side_px), small)
            same = same + 1 if self._last is not None and np.array_equal(frame.image, self._last.image) else 0
            self._counts.lost += lost
            self._counts.recent_lost.append(lost)
            if same or (self._last is not None and stamp_ns <= self._last.stamp_ns):
                self._counts.refused += 1
            else:
                self._last = frame
                self._counts.frames += 1
                self._deliver(frame)
            if same >= _FROZEN_FRAMES:
                self._tell(trouble=f"camera frozen: {same} frames with the very same image; unplug it once")
            else:
                self._tell(warning=self._warning((arrived_ns - stamp_ns) * 1e-9), lens=small)

    def _warning(self, age_s: float) -> str:
        recent = self._counts.recent_lost
        lost = sum(recent)
        if lost * 10 > len(recent) + lost:
            return f"{lost} of the last {len(recent) + lost} frames never arrived; check the cable and the load"
        if age_s > _LATE_S:
            return f"frames arrive {age_s:.2f} s after their capture, should within {_LATE_S} s"
        return ""


@dataclass(frozen=True)
class CameraSettings:
    """How a RealSense is used.

    Attributes:
        serial: of the camera; "" for the only one.
        file: a recording (.db3) to play once instead; settings of the sensor are then those of the recording.
        exposure_us: fixed exposure; 0 leaves it to the camera.
        gain: fixed gain, where the exposure is fixed.
        white_balance_k: colour temperature; 0 keeps whatever the camera has, but fixed.
    """

    serial: str = ""
    file: str = ""
    exposure_us: float = 10_000.0
    gain: int = 16
    white_balance_k: int = 0


class RealSenseSource:
    """640 x 480 RGB at 30 Hz through librealsense's pipeline.

    Raises:
        CameraError: pyrealsense2 cannot be imported; says what to install.
    """

    def __init__(self, settings: CameraSettings) -> None:
        try:
            import pyrealsense2
        except ImportError as error:
            remedy = "./rldg up installs it where camera:=realsense_direct, and it needs apt-get install libusb-1.0-0"
            raise CameraError(f"cannot import pyrealsense2 ({_one_line(error)}); {remedy}") from None
        self._rs = pyrealsense2
        self._settings = settings
        self._pipeline: Any = None
        self._playback: Any = None
        self._frames = 0
        self.name = settings.file or f"RealSense {settings.serial}".strip()

    def open(self) -> Lens:
        rs, settings = self._rs, self._settings
        config, pipeline = rs.config(), rs.pipeline()
        if settings.file:
            config.enable_device_from_file(settings.file, repeat_playback=False)
            hint = "must be a recording (.db3) of this version of librealsense, with colour at 640 x 480"
        else:
            connected = {
                device.get_info(rs.camera_info.serial_number): device.get_info(rs.camera_info.name)
                for device in rs.context().query_devices()
            }
            serial = choose_camera(connected, settings.serial)  # without one, the pipeline would wait for 15 s
            config.enable_device(serial)
            hint = f"needs 640 x 480 RGB at {RATE_HZ} Hz: a USB 3 port, and nobody else that uses the camera"
        config.enable_stream(rs.stream.color, WIDTH_PX, HEIGHT_PX, rs.format.rgb8, RATE_HZ)
        try:
            profile = pipeline.start(config)
            self._pipeline, self._frames = pipeline, 0
            device = profile.get_device()
            if settings.file:
                self._playback = device.as_playback()
            else:
                configure_sensor(colour_sensor(device), settings)
            return _lens(rs, profile.get_stream(rs.stream.color).as_video_stream_profile().get_intrinsics())
        except CameraError:
            raise
        except RuntimeError as error:
            raise CameraError(f"{self.name}: {_one_line(error)}; {hint}") from None

    def read(self) -> RawFrame | None:
        rs = self._rs
        try:
            there, frames = self._pipeline.try_wait_for_frames(round(_SILENT_S * 1e3))
        except RuntimeError as error:
            raise CameraError(f"{self.name} lost ({_one_line(error)}); plug it in again") from None
        if there:
            self._frames += 1
            return raw_frame(frames.get_color_frame(), live=self._playback is None)
        if self._playback is None:
            raise CameraError(f"{self.name} lost (no frame for {_SILENT_S} s); check its cable, plug it in again")
        if self._playback.current_status() == rs.playback_status.playing:
            return None
        raise PlaybackEnded(f"{self.name} has ended after {self._frames} frames; start the node again to replay it")

    def close(self) -> None:
        pipeline, self._pipeline, self._playback = self._pipeline, None, None
        if pipeline is not None:
            with contextlib.suppress(RuntimeError):  # it is gone already
                pipeline.stop()


def choose_camera(connected: Mapping[str, str], serial: str) -> str:
    """The serial number of the camera that is meant.

    Args:
        connected: name of each camera by serial number.
        serial: the one asked for; "" for the only one.

    Raises:
        CameraError: it is not connected, or it is not clear which is meant.
    """
    found = ", ".join(f"{number} ({name})" for number, name in connected.items()) or "none"
    if serial and serial not in connected:
        raise CameraError(f"camera {serial} is not connected (connected: {found}); plug it in or correct the number")
    if not serial and len(connected) != 1:
        remedy = "say which by its serial number" if connected else "plug one in; if it is, see port and udev rules"
        raise CameraError(f"{len(connected)} RealSense cameras are connected ({found}); {remedy}")
    return serial or next(iter(connected))


def colour_sensor(device: Any) -> Any:
    """The sensor that the colour stream comes from: of a D405 its Stereo Module, of others the RGB Camera.

    Raises:
        CameraError: the device has no colour.
    """
    import pyrealsense2 as rs

    for sensor in device.query_sensors():
        if any(profile.stream_type() == rs.stream.color for profile in sensor.get_stream_profiles()):
            return sensor
    raise CameraError(f"{device.get_info(rs.camera_info.name)} has no colour stream; use one that has")


def configure_sensor(sensor: Any, settings: CameraSettings) -> None:
    """Fix exposure, gain and white balance, and ask for stamps on the host's clock.

    Raises:
        CameraError: the sensor cannot do what is asked for; names the range.
    """
    import pyrealsense2 as rs

    name, option = sensor.get_info(rs.camera_info.name), rs.option
    automatic = settings.exposure_us == 0.0
    wanted: list[tuple[Any, float, bool]] = [  # option, value, whether the sensor must have it
        (option.global_time_enabled, 1.0, False),
        (option.enable_auto_exposure, float(automatic), False),
        (option.enable_auto_white_balance, 0.0, False),
    ]
    if not automatic:
        # in units of 100 us on an RGB Camera, of 1 us on a Stereo Module
        exposure = settings.exposure_us / (100.0 if name == "RGB Camera" else 1.0)
        wanted += [(option.exposure, exposure, True), (option.gain, float(settings.gain), True)]
    if settings.white_balance_k:
        wanted.append((option.white_balance, float(settings.white_balance_k), True))
    for what, value, needed in wanted:
        label = what.name
        if not sensor.supports(what):
            if needed:
                raise CameraError(f"{label}: the {name} cannot be set to {value:g}: it has no such option; set it to 0")
            continue
        limits = sensor.get_option_range(what)
        if not limits.min <= value <= limits.max:
            raise CameraError(f"{label}: is {value:g}, the {name} allows {limits.min:g} to {limits.max:g}")
        try:
            sensor.set_option(what, value)
        except RuntimeError as error:
            raise CameraError(f"{label}: the {name} refuses {value:g} ({_one_line(error)})") from None


def raw_frame(frame: Any, live: bool) -> RawFrame:
    """One colour frame of librealsense; its pixels are not copied. The host's clock of a recording is of the past."""
    import pyrealsense2 as rs

    return RawFrame(
        number=frame.get_frame_number(),
        device_ns=round(frame.get_timestamp() * 1e6),
        on_host_clock=live and frame.get_frame_timestamp_domain() != rs.timestamp_domain.hardware_clock,
        image=np.asanyarray(frame.get_data()),
    )


def _lens(rs: Any, intrinsics: Any) -> Lens:
    fisheye = intrinsics.model == rs.distortion.kannala_brandt4
    return Lens(
        intrinsics.width,
        intrinsics.height,
        intrinsics.fx,
        intrinsics.fy,
        intrinsics.ppx,
        intrinsics.ppy,
        "equidistant" if fisheye else "plumb_bob",
        tuple(intrinsics.coeffs[:4] if fisheye else intrinsics.coeffs),
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
