"""The thread between the stream and the disk: one bag after the other, judged while it is written.

The executor's side only appends to a queue, bounded in bytes; a disk that hangs costs messages, which are counted, and
never the cell. All file access happens in the thread, ``episode.yaml`` and ``audit.yaml`` included.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from rldg_core.task import Robot, Task
from rldg_core.types import EpisodeStatus, Outcome, Source
from rldg_recorder.audit import Auditor, AuditReport, Finding, coded_sequence, write_report
from rldg_recorder.bag_writer import METADATA_FILE, BagWriter, Rosbag2Writer, Topic, open_writer
from rldg_recorder.episode import BagError, EpisodeInfo, PolicyInfo, TopicInfo, read_info, write_info
from rldg_recorder.recording import Ending, Message, label_of
from rldg_recorder.topics import TopicSpec

_POLL_S = 0.05  # between looks into the queue while a bag is open: cheaper than being woken by each message
_FLUSH_S = 0.25  # what is older than this survives a kill
_RESERVE = 0.75  # how full the queue may become with what is not critical
_JOIN_S = 10.0
_MAX_TRIES = 1000
_REMEMBERED = 10_000  # folders of closed bags
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True)
class Settings:
    """What does not change from bag to bag."""

    folder: Path
    task: Task
    robot: Robot | None = None
    lockstep: bool = False
    operator: str = ""
    storage: str = "auto"
    max_queue_bytes: int = 256 << 20
    min_free_bytes: int = 0
    software: Mapping[str, str] = field(default_factory=dict)
    opener: Callable[[Path, str], BagWriter] = open_writer
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free


class Closed(NamedTuple):
    """A bag that was closed."""

    folder: Path
    info: EpisodeInfo
    report: AuditReport | None  # None where the bag could not be finished


class _Open(NamedTuple):
    status: EpisodeStatus
    expected: dict[str, TopicInfo]
    overrun: Counter[str]  # the executor's side goes on counting


class _Close(NamedTuple):
    ending: Ending


class _Relabel(NamedTuple):
    status: EpisodeStatus


class _Bag:
    """The bag that is open."""

    def __init__(self, folder: Path, writer: BagWriter, info: EpisodeInfo, overrun: Counter[str]) -> None:
        self.folder, self.writer, self.info, self.overrun = folder, writer, info, overrun
        self.auditor = Auditor(info.episode_id, info.task, info.lockstep, info.topics)
        self.numbers: dict[str, int] = {}  # by topic: what the writer calls it
        self.counts: Counter[str] = Counter()
        self.publishers: dict[str, list[bytes]] = {}  # by topic, in order of appearance
        self.keeps_sequence = not isinstance(writer, Rosbag2Writer)


def folder_of(bags: Path, episode_id: str) -> Path:
    """Where the bag of an episode lies: ``bags/<session>/<number>``. No id leads anywhere else."""
    session, _, number = episode_id.rpartition("/")
    session, number = (_NOT_A_NAME.sub("_", part).lstrip(".")[:200] or "unnamed" for part in (session, number))
    return bags / session / number


class BagThread:
    """Writes bags; see :class:`rldg_recorder.recording.Sink` for its four commands.

    Attributes:
        present: absolute names of the topics that have a publisher now: a bag that lacks one of them is incomplete.
        cards: checkpoint hash of each policy that published one, by policy id.
        trouble: why nothing is being written although it should be, "" if all is well.
        findings: what the audit of the open bag holds against it at the moment.
        closed: bags that were closed, for the reader to take.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topics: dict[str, tuple[Topic, TopicSpec | None]] = {}
        self.present: set[str] = set()
        self.cards: dict[str, str] = {}
        self.trouble = ""
        self.findings: list[Finding] = []
        self.closed: deque[Closed] = deque(maxlen=100)
        self._queue: deque[Message | _Open | _Close | _Relabel] = deque()
        # each is written by one side only, so no lock is needed
        self._put_bytes = self._done_bytes = 0
        self._overrun: Counter[str] = Counter()
        self._bag: _Bag | None = None
        self._folders: dict[str, Path] = {}
        self._flushed_s = 0.0
        self._busy = self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bag", daemon=True)
        self._thread.start()

    # the executor's side

    def know(self, topic: Topic, spec: TopicSpec | None) -> None:
        """A topic that is recorded; to be called before its first message."""
        self._topics[topic.name] = (topic, spec)

    def know_qos(self, name: str, qos: str) -> None:
        """The profiles that the publishers of a topic offer, for the bags that begin from now on."""
        topic, spec = self._topics[name]
        self._topics[name] = (msgspec.structs.replace(topic, qos=qos), spec)

    @property
    def queued_bytes(self) -> int:
        return self._put_bytes - self._done_bytes

    @property
    def dropped(self) -> Mapping[str, int]:
        """Messages of the newest bag that were dropped because the queue was full, by topic."""
        return self._overrun

    def open(self, status: EpisodeStatus, first: Sequence[Message]) -> None:
        self._overrun = Counter()
        self._queue.append(_Open(status, self._expected(), self._overrun))
        for message in first:
            self.put(message)
        self._wake.set()

    def put(self, message: Message) -> None:
        size, limit = len(message.data), self._settings.max_queue_bytes
        spec = self._topics[message.topic][1]
        if spec is None or not spec.critical:
            limit = int(limit * _RESERVE)
        if self._put_bytes - self._done_bytes + size > limit:
            self._overrun[message.topic] += 1
            return
        self._put_bytes += size
        self._queue.append(message)

    def close(self, ending: Ending) -> None:
        self._queue.append(_Close(ending))
        self._wake.set()

    def relabel(self, status: EpisodeStatus) -> None:
        self._queue.append(_Relabel(status))
        self._wake.set()

    def stop(self) -> bool:
        """Finish what is queued and end the thread; whether it ended in time."""
        self._stopping = True
        self._wake.set()
        self._thread.join(_JOIN_S)
        return not self._thread.is_alive()

    def _expected(self) -> dict[str, TopicInfo]:
        found = {}
        for name, (topic, spec) in sorted(self._topics.items()):
            counts = spec is not None and (spec.critical or name in self.present)
            found[name] = TopicInfo(type=topic.type, expected_hz=spec.rate_hz if spec and counts else None)
        return found

    # the thread

    def _run(self) -> None:
        while not (self._stopping and not self._queue):
            self._wake.wait(_POLL_S if self._busy else None)
            self._wake.clear()
            while self._queue:
                self._guarded(self._take)
                if self._bag is not None and time.monotonic() - self._flushed_s > _FLUSH_S:
                    self._guarded(self._keep_up)
            if self._bag is not None and time.monotonic() - self._flushed_s > _FLUSH_S:
                self._guarded(self._keep_up)

    def _guarded(self, action: Callable[[], None]) -> None:
        """Whatever goes wrong costs this bag and no more."""
        try:
            action()
        except OSError as error:
            self._fail(error.strerror or str(error))
        except Exception as error:
            *_, place = traceback.extract_tb(error.__traceback__)
            where = f"{Path(place.filename).name}:{place.lineno}"
            self._fail(f"fault of the recorder: {type(error).__name__} at {where}: {' '.join(str(error).split())}")

    def _take(self) -> None:
        item = self._queue.popleft()
        if isinstance(item, Message):
            self._done_bytes += len(item.data)
            if self._bag is not None:
                self._write(self._bag, item)
        elif isinstance(item, _Open):
            self._busy = True
            self._begin(item)
        elif isinstance(item, _Close):
            self._busy = False
            if self._bag is not None:
                self._finish(self._bag, item.ending)
        else:
            self._change_label(item.status)

    def _begin(self, item: _Open) -> None:
        settings, status = self._settings, item.status
        settings.folder.mkdir(parents=True, exist_ok=True)
        self._check_space()
        folder, writer = self._new_folder(status.episode_id)
        info = EpisodeInfo(
            state="recording",
            session_id=status.session_id,
            episode_id=status.episode_id,
            scene=status.scene,
            seed=status.seed,
            instruction=status.instruction,
            operator=settings.operator,
            lockstep=settings.lockstep,
            began_ns=time.time_ns(),
            topics=item.expected,
            software=dict(settings.software),
            robot=settings.robot,
            task=settings.task,
        )
        self._bag = _Bag(folder, writer, info, item.overrun)
        self._flushed_s = time.monotonic()
        write_info(folder, info)
        self.trouble = ""

    def _new_folder(self, episode_id: str) -> tuple[Path, BagWriter]:
        """The first folder that nobody has taken yet: an episode of which a part was recorded before gets another."""
        folder = folder_of(self._settings.folder, episode_id)
        for number in range(1, _MAX_TRIES):
            candidate = folder.with_name(f"{folder.name}-{number}") if number > 1 else folder
            with suppress(FileExistsError):
                return candidate, self._settings.opener(candidate, self._settings.storage)
        raise FileExistsError(0, f"{folder}: exists already {_MAX_TRIES} times; move it away")

    def _check_space(self) -> None:
        settings = self._settings
        free = settings.free_bytes(settings.folder)
        if free < settings.min_free_bytes:
            raise OSError(
                0,
                f"{settings.folder}: {free >> 20} MB are free, min_free_mb is {settings.min_free_bytes >> 20}; "
                "make room, the next episode is recorded again",
            )

    def _write(self, bag: _Bag, message: Message) -> None:
        number = bag.numbers.get(message.topic)
        if number is None:
            topic = self._topics[message.topic][0]
            number = bag.numbers[message.topic] = bag.writer.add_topic(topic)
            bag.publishers[message.topic] = []
            bag.auditor.add_topic(topic)
        sequence = 0
        if bag.keeps_sequence and message.sequence:
            publishers = bag.publishers[message.topic]
            if message.publisher not in publishers:
                publishers.append(message.publisher)
            sequence = coded_sequence(publishers.index(message.publisher), message.sequence)
        bag.writer.write(number, message.data, message.log_ns, message.publish_ns, sequence)
        bag.counts[message.topic] += 1
        bag.auditor.feed(message.topic, message.data, message.log_ns, message.publish_ns, sequence)

    def _keep_up(self) -> None:
        assert self._bag is not None
        self._flushed_s = time.monotonic()
        self._bag.writer.flush()
        if not self._queue:  # else what is in it would pass for missing
            self.findings = self._bag.auditor.now(time.time_ns())
        self._check_space()

    def _fail(self, reason: str) -> None:
        self.trouble = reason
        if self._bag is not None:
            bag, self._bag = self._bag, None
            self._finish(bag, Ending(False, reason, None, ()))

    def _finish(self, bag: _Bag, ending: Ending) -> None:
        """Close a bag. Does not raise: what cannot be written is said, and left to ``./rldg bag salvage``."""
        self._bag = None
        self.findings = []
        report = None
        try:
            bag.writer.close()
            if (bag.folder / METADATA_FILE).is_file():  # else writing broke off, and the bag holds less than was fed
                report = bag.auditor.report()
                write_report(bag.folder, report)
        except (OSError, ValueError) as error:
            self.trouble = str(getattr(error, "strerror", None) or error)
            ending = ending._replace(complete=False, reason=ending.reason or self.trouble)
        info = self._final_info(bag, ending, report)
        try:
            write_info(bag.folder, info)
        except OSError as error:
            self.trouble = f"{bag.folder}: episode.yaml cannot be written: {error.strerror}"
        self._folders[info.episode_id] = bag.folder
        if len(self._folders) > _REMEMBERED:
            del self._folders[next(iter(self._folders))]
        self.closed.append(Closed(bag.folder, info, report))

    def _final_info(self, bag: _Bag, ending: Ending, report: AuditReport | None) -> EpisodeInfo:
        steps = [head for _, head in sorted(bag.auditor.steps.items())]
        drove = Counter({head.policy_id: 0 for head in steps if head.policy_id})
        drove.update(head.policy_id for head in steps if head.source == Source.POLICY)
        verdict = ending.verdict
        topics = dict(bag.info.topics)
        for name in bag.counts.keys() | bag.overrun.keys():
            known = topics.get(name) or TopicInfo(type=self._topics[name][0].type)
            lost = report.topics[name].lost if report is not None and name in report.topics else 0
            topics[name] = msgspec.structs.replace(
                known, messages=bag.counts[name], lost=lost, overrun=bag.overrun[name]
            )
        return msgspec.structs.replace(
            bag.info,
            state="complete" if ending.complete else "partial",
            outcome=verdict.outcome if verdict else Outcome.NONE,
            reason="; ".join(text for text in (verdict.reason if verdict else "", ending.reason) if text),
            labels=ending.labels,
            policies=tuple(
                PolicyInfo(policy_id=name, checkpoint_hash=self.cards.get(name, ""), steps=count)
                for name, count in sorted(drove.items())
            ),
            duration_s=(steps[-1].stamp_ns - steps[0].stamp_ns) * 1e-9 if steps else 0.0,
            steps=len(steps),
            human_steps=sum(head.source == Source.HUMAN for head in steps),
            audit=report.verdict if report is not None else "",
            topics=dict(sorted(topics.items())),
        )

    def _change_label(self, status: EpisodeStatus) -> None:
        folder = self._folders.get(status.episode_id) or folder_of(self._settings.folder, status.episode_id)
        try:
            info = read_info(folder)
        except BagError:
            return  # it was not recorded here
        if info.episode_id != status.episode_id or info.state == "recording" or info.outcome == status.outcome:
            return
        label = label_of(status)
        try:
            write_info(folder, msgspec.structs.replace(info, outcome=label.outcome, labels=(*info.labels, label)))
        except OSError as error:  # no reason to give up the bag that is open
            self.trouble = f"{folder}: the verdict {label.outcome} cannot be written: {error.strerror}"
