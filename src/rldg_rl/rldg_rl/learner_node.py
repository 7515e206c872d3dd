"""The learner as a node: hears the one stream, learns from it, and publishes what it has learned."""

from __future__ import annotations

import array
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rclpy.qos import QoSProfile
from rldg_interfaces.msg import Episode, Observation, Step
from std_msgs.msg import UInt8MultiArray

from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.base import ERROR, OK, WARN, BaseNode
from rldg_ros.main import run

if TYPE_CHECKING:
    from rldg_rl.worker import LearnerWorker

_DEPTH = 200  # seconds of the stream, for as long as the interpreter is busy elsewhere


class LearnerNode(BaseNode):
    """Callbacks only queue what they hear for the thread that learns (:class:`rldg_rl.worker.LearnerWorker`)."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__("learner", **kwargs)
        self._run = self.declare(
            "run", "", "Folder of the run; the folder start in it is the checkpoint it begins with."
        )
        self._bags = self.declare(
            "bags", "", "Folder that a recorder writes to, the truth about the stream; empty for none."
        )
        self._seed = self.declare("seed", 0, "Seed of networks and sampling.", low=0, high=2**31 - 1)
        self._publish_every = self.declare(
            "publish_every", 200, "Updates between two weights that are published.", low=1, high=1_000_000
        )
        self._worker: LearnerWorker | None = None

    def on_setup(self) -> None:
        from rldg_rl.worker import LearnerWorker

        if not self._run:
            raise ValueError("parameter run: is empty, must be the folder of a run; ./rldg train makes one")
        bags = Path(self._bags).expanduser().absolute() if self._bags else None
        self._weights = self.create_publisher(UInt8MultiArray, "learner/weights", qos.latched())
        run_folder = Path(self._run).expanduser().absolute()
        self._worker = LearnerWorker(self.task, run_folder, bags, self._seed, self._publish, self._publish_every)
        self._hear(Observation, convert.OBSERVATION, "observation", qos.reliable(_DEPTH))
        self._hear(Step, convert.STEP, "step", qos.reliable(_DEPTH))
        self._hear(Episode, convert.EPISODE, "episode", qos.latched())
        self._worker.start()  # before it is activated: a step that it does not hear would have to wait for its bag

    def on_teardown(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None and not worker.stop():
            self.get_logger().error("the learner is still computing; what it learned since its last checkpoint is lost")

    def on_diagnose(self) -> None:
        worker = self._worker
        assert worker is not None
        figures = {**worker.metrics, "queued": worker.queued}
        metrics = {name: f"{value:.6g}" for name, value in sorted(figures.items())}
        self.report("learning", ERROR if worker.trouble else OK, worker.trouble, **metrics)
        bad = next(iter(worker.bad_bags.values()), "")
        self.report("bags", WARN if bad else OK, bad, from_bags=worker.from_bags, unreadable=len(worker.bad_bags))
        self.report(
            "queue",
            WARN if worker.dropped else OK,
            f"{worker.dropped} messages were dropped; their transitions come from the bags" if worker.dropped else "",
        )

    def _hear(self, kind: type[Any], codec: Any, topic: str, profile: QoSProfile) -> None:
        """Reliable in lockstep too: nobody repeats a step for a listener outside the cycle."""

        def on_message(data: bytes) -> None:
            try:
                message = codec.unpack(data)
            except ValueError as error:
                self.report(f"topic {topic}", ERROR, str(error))
                return
            if self._worker is not None:
                self._worker.hear(message)

        self.create_subscription(kind, topic, on_message, profile, raw=True)

    def _publish(self, data: bytes) -> None:
        self._weights.publish(UInt8MultiArray(data=array.array("B", data)))


def main(args: list[str] | None = None) -> int:
    return run(LearnerNode, args)


if __name__ == "__main__":
    sys.exit(main())
