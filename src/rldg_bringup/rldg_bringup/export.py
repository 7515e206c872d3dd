"""Episodes for the viewers Foxglove (an MCAP file that needs no message definitions) and Rerun (an RRD file)."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rldg_recorder.episode import Episode, Image
from rldg_recorder.frames import ACTION_NAMES, STATE_NAMES

if TYPE_CHECKING:
    from rldg_recorder.training_set import TrainingSet

KINDS = ("foxglove", "rerun")
_JPEG_QUALITY = 95


class Row(NamedTuple):
    """One frame: time, wrist image and named curves by topic."""

    time_ns: int
    image: Image
    curves: dict[str, dict[str, float]]


def episode_rows(episode: Episode) -> Iterator[Row]:
    """What happened at each step of a bag."""
    for row in range(len(episode)):
        curves = {
            "executed": dict(zip(ACTION_NAMES, episode.executed[row].tolist(), strict=False)),
            "wrench": dict(zip(("fx", "fy", "fz", "tx", "ty", "tz"), episode.wrench[row].tolist(), strict=True)),
            "tcp": dict(zip(("x", "y", "z"), episode.tcp_pose[row, :3].tolist(), strict=True)),
            "step": {"source": float(episode.source[row]), "reward": float(episode.reward[row])},
        }
        yield Row(int(episode.stamp_ns[row]), episode.images[row], curves)


def training_set_rows(training_set: TrainingSet) -> Iterator[Row]:
    """All episodes of a training set, one after the other."""
    time_ns = 0
    for index in range(len(training_set)):
        episode = training_set.episode(index)
        for row in range(len(episode)):
            curves = {
                "action": dict(zip(ACTION_NAMES, episode.action[row].tolist(), strict=True)),
                "state": dict(zip(STATE_NAMES, episode.state[row].tolist(), strict=True)),
                "frame": {"episode": float(index), "source": float(episode.source[row])},
            }
            yield Row(time_ns, episode.images[row], curves)
            time_ns += round(1e9 / episode.rate_hz)


def write_rows(rows: Iterable[Row], path: Path, kind: str) -> None:
    """Write frames for a viewer.

    Args:
        rows: in the order of time.
        path: file to write.
        kind: one of `KINDS`.

    Raises:
        ImportError: Rerun is asked for and rerun-sdk is not installed.
    """
    {"foxglove": _foxglove, "rerun": _rerun}[kind](rows, path)


def _foxglove(rows: Iterable[Row], path: Path) -> None:
    from mcap.writer import CompressionType, Writer

    with path.open("wb") as file:
        writer = Writer(file, compression=CompressionType.NONE)
        writer.start()
        time = {"type": "object", "properties": {"sec": {"type": "integer"}, "nsec": {"type": "integer"}}}
        text = {"type": "string"}
        fields = {"timestamp": time, "frame_id": text, "data": {**text, "contentEncoding": "base64"}, "format": text}
        image_schema = json.dumps({"type": "object", "properties": fields}).encode()
        images = writer.register_channel(
            "/wrist", "json", writer.register_schema("foxglove.CompressedImage", "jsonschema", image_schema)
        )
        channels: dict[str, int] = {}
        for row in rows:
            for name, curve in row.curves.items():
                if name not in channels:
                    properties = {key: {"type": "number"} for key in curve}
                    schema = json.dumps({"type": "object", "properties": properties}).encode()
                    schema_id = writer.register_schema(f"rldg.{name}", "jsonschema", schema)
                    channels[name] = writer.register_channel(f"/{name}", "json", schema_id)
                writer.add_message(channels[name], row.time_ns, json.dumps(curve).encode(), row.time_ns)
            message = {
                "timestamp": {"sec": row.time_ns // 10**9, "nsec": row.time_ns % 10**9},
                "frame_id": "wrist",
                "format": "jpeg",
                "data": base64.b64encode(_jpeg(row.image)).decode(),
            }
            writer.add_message(images, row.time_ns, json.dumps(message).encode(), row.time_ns)
        writer.finish()


def _rerun(rows: Iterable[Row], path: Path) -> None:
    try:
        import rerun
    except ImportError:
        raise ImportError("--rerun: rerun-sdk is not installed: pip install rerun-sdk") from None
    stream = rerun.RecordingStream("rldg")
    stream.save(str(path))
    for row in rows:
        stream.set_time("time", timestamp=row.time_ns * 1e-9)
        stream.log("wrist", rerun.EncodedImage(contents=_jpeg(row.image), media_type="image/jpeg"))
        for name, curve in row.curves.items():
            for key, value in curve.items():
                stream.log(f"{name}/{key}", rerun.Scalars(value))
    stream.flush()


def _jpeg(image: Image) -> bytes:
    from PIL import Image as PilImage

    buffer = io.BytesIO()
    PilImage.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
