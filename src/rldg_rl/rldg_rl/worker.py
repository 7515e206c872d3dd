"""The learner of a graph: a thread that makes transitions of messages, learns, and says what it has learned.

The bags that a recorder writes beside it are the truth. The stream is only faster: a transition that it lost, or that
came while this process was dead, is taken from the bag of its episode as soon as that is closed.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from rldg_core.task import GripperUse, Task
from rldg_core.types import EpisodeStatus, Observation, Outcome, Step
from rldg_policies.board import open_board
from rldg_recorder.episode import BagError, EpisodeInfo, read_info
from rldg_recorder.episode_reader import find_bags, read_episode
from rldg_rl.broadcast import pack_weights
from rldg_rl.checkpoint import CheckpointError, Label, load_weights
from rldg_rl.features import Features
from rldg_rl.learner import DivergenceError, Learner
from rldg_rl.policy import WEIGHTS, load_specialist
from rldg_rl.replay import ReplayError, Transition
from rldg_rl.transitions import Stream, from_bag

START, LEARNER, BOARD = "start", "learner", "tensorboard"  # folders of a run
_BAGS_EVERY_S = 2.0
_METRICS_EVERY_S = 1.0
_IDLE_S = 0.02  # longest wait for a message while there is nothing to learn
_WAITING_MESSAGES = 2000  # what comes on top of them is taken from the bags
_JOIN_S = 20.0

Message = Observation | Step | EpisodeStatus


class LearnerWorker:
    """Learns in a thread of its own. Its methods may be called from another; none but :meth:`stop` waits for it.

    Args:
        task: what is learned.
        run: folder of the run; ``start`` in it is the checkpoint it begins with. What an earlier process has left is
            taken up.
        bags: where a recorder writes, None for nowhere.
        seed: of networks and sampling.
        publish: given the bytes of new weights (``rldg_rl.broadcast``).
        publish_every: updates between two of them, at least.

    Attributes:
        metrics: of the learner, renewed once a second.
        trouble: why it has stopped learning, "" if it has not.
        bad_bags: what is wrong with bags that cannot be read, by folder.
        from_bags: transitions that came from bags and not from the stream.
        dropped: messages that found the queue full.

    Raises:
        CheckpointError: the run lacks its start, or what is there cannot be restored.
    """

    def __init__(
        self,
        task: Task,
        run: Path,
        bags: Path | None,
        seed: int,
        publish: Callable[[bytes], None],
        publish_every: int = 200,
    ) -> None:
        self._task, self._run, self._bags = task, run, bags
        self._publish, self._publish_every = publish, publish_every
        specialist, _ = load_specialist(run / START, task)
        _, self._config, spec = load_weights(run / START / WEIGHTS)
        self._encoder = specialist.encoder
        self._learner = Learner(self._config, spec, seed, run / LEARNER)
        if self._learner.restorable:
            self._learner.restore()
        self._with_gripper = task.control.gripper is GripperUse.BINARY
        self._stream = Stream(self._encode, with_gripper=self._with_gripper)
        self._queue: queue.Queue[Message] = queue.Queue(_WAITING_MESSAGES)
        self._read: set[Path] = set()  # bags of which nothing more is to be had
        self._published = -publish_every
        self._saved_steps = self._learner.replay.env_steps
        self._running = False
        self._thread = threading.Thread(target=self._work, name="learner", daemon=True)
        self.metrics: dict[str, float] = {}
        self.trouble = ""
        self.bad_bags: dict[str, str] = {}
        self.from_bags = self.dropped = 0

    # from other threads

    def start(self) -> None:
        self._running = True
        self._thread.start()

    def stop(self) -> bool:
        """End the thread, which saves a checkpoint first; whether it did within 20 s."""
        self._running = False
        self._thread.join(_JOIN_S)
        return not self._thread.is_alive()

    def hear(self, message: Message) -> None:
        """A message of the stream."""
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            self.dropped += 1

    @property
    def queued(self) -> int:
        """Messages that wait."""
        return self._queue.qsize()

    # the thread

    def _work(self) -> None:
        board = open_board(self._run / BOARD)
        bags_s = metrics_s = 0.0
        try:
            while self._running:
                self._take_in()
                self._learner.step()
                self._tell()
                now_s = time.monotonic()
                if now_s >= bags_s:
                    self._read_bags()
                    bags_s = time.monotonic() + _BAGS_EVERY_S
                if now_s >= metrics_s:
                    self.metrics = self._learner.metrics()
                    for name, value in self.metrics.items():
                        board.add_scalar(f"learner/{name}", value, self._learner.replay.env_steps)
                    metrics_s = now_s + _METRICS_EVERY_S
                if self._learner.replay.env_steps >= self._saved_steps + self._config.checkpoint_every_steps:
                    self._save()
            self._read_bags()
            self._save()
        except (DivergenceError, CheckpointError, OSError) as error:
            self.trouble = str(error)
        finally:
            board.close()
            self._learner.close()

    def _take_in(self) -> None:
        """Everything that waits; where there is nothing to learn, wait for a message."""
        patience_s = _IDLE_S if self._learner.waiting_for else 0.0
        for _ in range(_WAITING_MESSAGES):
            try:
                message = self._queue.get(patience_s > 0.0, patience_s)
            except queue.Empty:
                return
            patience_s = 0.0
            if isinstance(message, Observation):
                self._add(self._stream.observation(message))
            elif isinstance(message, Step):
                self._add(self._stream.step(message))
            else:
                self._add(self._stream.episode(message))

    def _add(self, found: Iterable[Transition | Label]) -> int:
        """Into the learner; how many of them were new."""
        new = 0
        for entry in found:
            if isinstance(entry, Label):
                self._learner.relabel(*(getattr(entry, name) for name in Label.__struct_fields__))
            else:
                new += self._learner.add([entry])
        return new

    def _encode(self, observation: Observation) -> Features:
        return self._encoder.encode(observation)

    def _tell(self) -> None:
        if self._learner.updates >= self._published + self._publish_every:
            weights = self._learner.weights()
            self._published = weights.version
            self._publish(pack_weights(weights, self._config))

    def _save(self) -> None:
        self._learner.save()
        self._saved_steps = self._learner.replay.env_steps

    # bags

    def _read_bags(self) -> None:
        """Take from the bags that are closed what did not come otherwise."""
        if self._bags is None or not self._bags.is_dir():
            return
        for folder in find_bags(self._bags):
            if folder in self._read:
                continue
            try:
                info = read_info(folder)
                if info.state == "recording":
                    continue
                self._read.add(folder)
                if info.task.name == self._task.name and not self._has_all(info):
                    found = from_bag(read_episode(folder), self._encode, with_gripper=self._with_gripper)
                    self.from_bags += self._add(found)
            except (BagError, ReplayError) as error:
                self._read.add(folder)
                self.bad_bags[str(folder)] = str(error)

    def _has_all(self, info: EpisodeInfo) -> bool:
        """Whether nothing in a bag can be new, by what its ``episode.yaml`` says."""
        if info.labels:
            return False  # a verdict may have been changed while this process was dead
        if not any(policy.steps for policy in info.policies) and info.outcome is not Outcome.SUCCESS:
            return True  # a failed demonstration is not learned from
        return all(self._learner.replay.knows(_named(info.episode_id, t)) for t in range(info.steps - 1))


def _named(episode_id: str, t: int) -> Transition:
    """A transition of which nothing is known but its identity."""
    nothing = np.zeros(0, np.float32)
    return Transition(episode_id, t, nothing, nothing, nothing, 0.0, False, False, False, False)
