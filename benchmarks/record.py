"""Recording two 640x480 cameras, a 1 kHz state, observations and steps: what is lost, and the writer beside a copy.

Why ``lost_messages`` can be believed. Every message carries the publisher's own count inside its payload (the first
bytes of an image, a coordinate of a pose, the index of a step), and the publisher remembers what it counted when the
episode began and ended. Afterwards the bag is read with the ordinary reader: every count in between must be there, once
and in order, with the stamp and the length it was sent with, and the bytes of every 50th image are compared as well.
Whatever is missing is lost, wherever it went: in the middleware, in the recorder's queue, or on the disk. Two other
witnesses must agree: the gaps in the middleware's sequence numbers that the bag keeps, and the recorder's own report.

The recorder is the node that ``./rldg up ... record:=true`` starts, in a process of its own, with its defaults except
that the cameras are on. The publisher is another process. Frames of this size need ``config/fastdds.xml``, which
``./rldg`` sets.
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rldg_bringup.domain import lease_domain
from rldg_bringup.packages import find_executable

TASK, SIDE_PX = "usb_insertion", 128
STATE_HZ, CAMERA_HZ, CONTROL_HZ = 1000, 30, 10
BEFORE_S, AFTER_S = 1.0, 0.2
CHECK_EVERY = 50  # images
_MARK = 0x6AC1B2D3  # where a template carries it, the count goes


def main(argv: list[str]) -> dict[str, float]:
    """Measure; the figures are those of docs/reference/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="rldg bench record", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the episode (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="on the disk that is recorded to (default: a temporary one)")
    parser.add_argument("--skip-writer", action="store_true", help="leave out writer_vs_copy")
    options = parser.parse_args(argv)
    figures: dict[str, float] = {}
    lease = lease_domain("bench record")
    if lease is not None:
        os.environ["ROS_DOMAIN_ID"] = str(lease.domain)
    try:
        with tempfile.TemporaryDirectory(prefix="rldg_record_", dir=options.folder) as folder:
            figures |= record(Path(folder), options.seconds)
    finally:
        if lease is not None:
            lease.close()
    if not options.skip_writer:
        from _writer import writer_vs_copy  # type: ignore[import-not-found, unused-ignore]

        figures["writer_vs_copy"] = writer_vs_copy()
    return figures


@dataclass
class Stream:
    """One topic of the publisher: a serialised template in which stamp and count are replaced."""

    name: str
    publisher: Any
    data: bytearray
    count_at: int
    count_format: str
    period_ns: int
    count: int = 0
    first: int = 0  # count of the first message of the episode
    last: int = 0  # and of the last
    stamps: list[int] | None = None

    def send(self, stamp_ns: int) -> None:
        self.count += 1
        struct.pack_into("<iI", self.data, 4, *divmod(stamp_ns, 1_000_000_000))
        struct.pack_into(self.count_format, self.data, self.count_at, self.count)
        assert self.stamps is not None
        self.stamps.append(stamp_ns)
        self.publisher.publish(bytes(self.data))


def record(folder: Path, seconds: float) -> dict[str, float]:
    """Run the recorder beside the publisher for one episode, then count."""
    command = [*find_executable("rldg_recorder", "recorder_node"), "--ros-args"]
    parameters = {"task": TASK, "bags": str(folder / "bags"), "cameras": "true", "min_free_mb": "100"}
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    recorder = subprocess.Popen(command)
    try:
        streams, busy = _publish(recorder, seconds)
    finally:
        recorder.terminate()
        recorder.wait(30.0)
    return busy | _compare(folder / "bags", streams)


def _publish(recorder: subprocess.Popen[bytes], seconds: float) -> tuple[list[Stream], dict[str, float]]:
    """Bring the recorder up and send everything; the streams know what they sent."""
    import rclpy
    from rclpy.node import Node

    from rldg_core.types import EpisodeStatus, Outcome, Phase
    from rldg_ros import conversions as convert
    from rldg_ros import qos

    rclpy.init()
    node = Node("record_bench")
    try:
        episodes = node.create_publisher(type(convert.episode_to_msg(EpisodeStatus(0))), "episode", qos.latched())
        streams = _streams(node)
        _activate(node)
        end = time.monotonic() + 20.0
        while not all(stream.publisher.get_subscription_count() for stream in streams):
            if time.monotonic() > end:
                raise TimeoutError("the recorder did not subscribe to every topic")
            time.sleep(0.05)
        time.sleep(1.0)

        def say(phase: Phase, index: int, outcome: Outcome = Outcome.NONE) -> None:
            status = EpisodeStatus(
                time.time_ns(), "bench", "bench/0001", TASK, "seen", 0, "record", phase, outcome, index=index
            )
            episodes.publish(convert.episode_to_msg(status))

        by_name = {stream.name: stream for stream in streams}
        steps, observations = by_name["/step"], by_name["/observation"]
        _run(streams[:-2], BEFORE_S)
        say(Phase.RUNNING, 0)
        for stream in streams:
            stream.first = stream.count + 1
        used_s, began_s = _cpu_s(recorder.pid), time.monotonic()
        ticks = round(seconds * CONTROL_HZ)
        print(f"recording {seconds:g} s", file=sys.stderr)
        due_ns = {stream.name: time.time_ns() for stream in streams}
        for tick in range(ticks):
            now_ns = time.time_ns()
            observations.send(now_ns)
            say(Phase.RUNNING, tick)
            _close_step(steps, last=tick == ticks - 1)
            _name_observation(steps, now_ns)
            steps.send(now_ns)
            _run(streams[:-2], 1.0 / CONTROL_HZ, due_ns)
        wall_s = time.monotonic() - began_s
        cpu = (_cpu_s(recorder.pid) - used_s) / wall_s
        peak_mb = _peak_mb(recorder.pid)
        for stream in streams:
            stream.last = stream.count
        say(Phase.ENDED, ticks - 1, Outcome.SUCCESS)
        _run(streams[:-2], AFTER_S)
        time.sleep(1.5)
        sent = sum(stream.last - stream.first + 1 for stream in streams)
        size = sum((stream.last - stream.first + 1) * len(stream.data) for stream in streams)
        print(f"sent {sent} messages, {size / wall_s / 1e6:.1f} MB/s, in {wall_s:.1f} s", file=sys.stderr)
        return streams, {
            "recorded_messages": float(sent),
            "recorded_mb_per_s": size / wall_s / 1e6,
            "recorder_cpu_share": cpu,
            "recorder_peak_mb": peak_mb,
        }
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _run(streams: list[Stream], seconds: float, due_ns: dict[str, int] | None = None) -> None:
    """Send what is due, for that long."""
    due = due_ns if due_ns is not None else {stream.name: time.time_ns() for stream in streams}
    end_ns = time.time_ns() + round(seconds * 1e9)
    while True:
        now_ns = time.time_ns()
        if now_ns >= end_ns:
            return
        for stream in streams:
            while due[stream.name] <= now_ns:
                due[stream.name] += stream.period_ns
                stream.send(time.time_ns())
        time.sleep(max(0.0, min(end_ns, *due.values()) - time.time_ns()) * 1e-9)


def _streams(node: Any) -> list[Stream]:
    """The publishers, each with a template that carries a mark where the count goes; observations and steps last."""
    from geometry_msgs.msg import PoseStamped
    from rclpy.serialization import serialize_message
    from rldg_interfaces.msg import Observation as ObservationMsg
    from rldg_interfaces.msg import Step as StepMsg
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from rldg_ros import qos

    noise = np.random.default_rng(0).integers(0, 256, 640 * 480 * 3, dtype=np.uint8).tobytes()
    mark = struct.pack("<I", _MARK)

    def image(width: int, height: int) -> Image:
        data = mark + noise[4 : 3 * width * height]
        return Image(
            header=Header(frame_id="camera"), width=width, height=height, encoding="rgb8", step=3 * width, data=data
        )

    pose = PoseStamped(header=Header(frame_id="fr3_link0"))
    pose.pose.position.x = float(_MARK)
    step = StepMsg(episode_id="bench/0001", index=_MARK, source=1, policy_id="bench", command_age_s=0.05)
    observation = ObservationMsg(episode_id="bench/0001", index=_MARK, image=image(SIDE_PX, SIDE_PX))
    observation.image.data = noise[: 3 * SIDE_PX**2]
    found = []
    for name, message, count_format, rate_hz, depth in (
        ("wrist/color/image_raw", image(640, 480), "<I", CAMERA_HZ, 1),
        ("scene/color/image_raw", image(640, 480), "<I", CAMERA_HZ, 1),
        ("current_pose", pose, "<d", STATE_HZ, 10),
        ("observation", observation, "<I", CONTROL_HZ, 1),
        ("step", step, "<I", CONTROL_HZ, 10),
    ):
        data = bytearray(serialize_message(message))
        count_at = data.index(struct.pack(count_format, _MARK))
        publisher = node.create_publisher(type(message), name, qos.reliable(depth))
        stream = Stream(f"/{name}", publisher, data, count_at, count_format, 1_000_000_000 // rate_hz, stamps=[])
        if rate_hz == CONTROL_HZ:
            stream.count = -1  # indices begin with 0
        found.append(stream)
    return found


def _close_step(steps: Stream, last: bool) -> None:
    struct.pack_into("<BB", steps.data, steps.count_at + 4, steps.count < 0, last)


def _name_observation(steps: Stream, stamp_ns: int) -> None:
    """In the step, after its header with an empty frame_id."""
    struct.pack_into("<iI", steps.data, 4 + 16, *divmod(stamp_ns, 1_000_000_000))


def _activate(node: Any) -> None:
    import rclpy
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    client = node.create_client(ChangeState, "recorder/change_state")
    if not client.wait_for_service(30.0):
        raise TimeoutError("the recorder did not start")
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        answer = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        rclpy.spin_until_future_complete(node, answer, timeout_sec=30.0)
        if not (answer.done() and answer.result().success):
            raise RuntimeError("the recorder refused to come up; its log says why")


def _cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mb(pid: int) -> float:
    """Most memory that a process ever had."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _compare(bags: Path, streams: list[Stream]) -> dict[str, float]:
    """Every message that was sent within the episode must be in the bag, once, in order, as it was sent."""
    from rldg_recorder.audit import audit_bag
    from rldg_recorder.bag_reader import BagReader
    from rldg_recorder.episode import read_info

    folder = bags / "bench" / "0001"
    info = read_info(folder)
    by_name = {stream.name: stream for stream in streams}
    found: dict[str, list[int]] = {name: [] for name in by_name}
    wrong = 0
    with BagReader(folder) as reader:
        for message in reader.messages(set(by_name)):
            stream = by_name[message.topic]
            (count,) = struct.unpack_from(stream.count_format, message.data, stream.count_at)
            count = int(count)
            found[message.topic].append(count)
            assert stream.stamps is not None
            sent_ns = stream.stamps[count if stream.period_ns == 1_000_000_000 // CONTROL_HZ else count - 1]
            seconds, nanoseconds = struct.unpack_from("<iI", message.data, 4)
            wrong += len(message.data) != len(stream.data) or seconds * 1_000_000_000 + nanoseconds != sent_ns
            if len(stream.data) > 500_000 and count % CHECK_EVERY == 0:
                at = stream.count_at + 4
                wrong += bytes(message.data[at:]) != bytes(stream.data[at:])
    lost = 0
    for name, counts in found.items():
        stream = by_name[name]
        missing = set(range(stream.first, stream.last + 1)) - set(counts)
        wrong += counts != sorted(set(counts))
        lost += len(missing)
        print(f"{name}: sent {stream.last - stream.first + 1}, missing {len(missing)}", file=sys.stderr)
    report = audit_bag(folder)
    by_sequence = sum(figures.lost for figures in report.topics.values())
    print(f"by sequence number {by_sequence} lost; audit {report.verdict}; {info.state}", file=sys.stderr)
    for finding in report.findings:
        print(f"  {finding.level} {finding.topic} {finding.text}", file=sys.stderr)
    return {
        "lost_messages": float(lost),
        "wrong_messages": float(wrong),
        "lost_by_sequence_number": float(by_sequence),
        "overrun_messages": float(sum(topic.overrun for topic in info.topics.values())),
    }


if __name__ == "__main__":
    print(main(sys.argv[1:]))
