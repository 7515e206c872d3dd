"""Rebuild a readable bag, in place, from a recording whose process was killed or whose disk filled."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from mcap import records
from mcap.opcode import Opcode

from rldg_core.task import TaskError, load_task
from rldg_core.types import Outcome, Phase, Source
from rldg_recorder.bag_reader import (
    MESSAGE,
    OPENING,
    BagReader,
    TornError,
    chunk_data,
    map_file,
    parse,
    records_in,
    topic_of,
)
from rldg_recorder.bag_writer import MAGIC, METADATA_FILE, McapWriter, sync_folder
from rldg_recorder.episode import (
    INFO_FILE,
    BagError,
    EpisodeInfo,
    LabelInfo,
    PolicyInfo,
    SalvageInfo,
    TopicInfo,
    read_info,
    write_info,
)

STEP, EPISODE = "rldg_interfaces/msg/Step", "rldg_interfaces/msg/Episode"
PART_FOLDER = ".salvage"  # inside the bag's folder: the new bag until it is whole
BROKEN = ".broken"  # appended to the name of the file that was cut off
CUT_OFF = "the recording was cut off"


def salvage(folder: Path) -> EpisodeInfo:
    """Make the bag in a folder readable and its ``episode.yaml`` true.

    All messages of whole chunks are recovered, and those of a torn last chunk as far as they are whole. The file that
    was cut off stays as ``<name>.mcap.broken``. Whatever happens on the way, it or a whole bag is there, and running
    again finishes the work. A bag that is whole is left alone, and the note of ``salvage`` in what is returned says so.

    Raises:
        BagError: it is being recorded, there is nothing to recover, the disk has no room for the copy, or nothing says
            which task it was; nothing was changed then.
    """
    if not folder.is_dir():
        raise BagError(f"{folder}: there is no such folder")
    known = _known_info(folder)
    whole = _count_if_whole(folder)
    if whole is None:
        return _rebuild(folder, known)
    found = SalvageInfo(messages=whole, lost_bytes=0, note="the bag is whole: nothing was changed")
    shutil.rmtree(folder / PART_FOLDER, ignore_errors=True)
    if known is not None and known.state != "recording":
        return msgspec.structs.replace(known, salvage=found)
    with BagReader(folder) as bag:
        info = _describe(
            folder, bag, known, msgspec.structs.replace(found, note=f"the bag is whole: {INFO_FILE} was written")
        )
    _write_info(folder, info)
    return info


def _known_info(folder: Path) -> EpisodeInfo | None:
    """What ``episode.yaml`` says, None where it is missing or damaged."""
    try:
        return read_info(folder)
    except BagError:
        return None


def _count_if_whole(folder: Path) -> int | None:
    """Number of messages of a bag that can be read from end to end, else None."""
    try:
        with BagReader(folder) as bag:
            return sum(1 for _ in bag.messages())
    except BagError:
        return None


def _rebuild(folder: Path, known: EpisodeInfo | None) -> EpisodeInfo:
    source = _source(folder)
    part = folder / PART_FOLDER
    name = source.name.removesuffix(BROKEN)
    with _not_being_recorded(source):
        try:
            shutil.rmtree(part, ignore_errors=True)
            found = _copy(source, part, name)
            with BagReader(part) as bag:
                info = _describe(folder, bag, known, found)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            raise BagError(
                f"{source}: its copy cannot be written: {error.strerror}; free space, run it again"
            ) from None
        except BagError:
            shutil.rmtree(part, ignore_errors=True)
            raise
        # metadata.yaml comes last: until it is there the bag does not count as whole, and all of this is done again
        (folder / METADATA_FILE).unlink(missing_ok=True)
        if source.name == name:
            source.rename(folder / f"{name}{BROKEN}")
        (part / name).rename(folder / name)
        _write_info(folder, info)
        (part / METADATA_FILE).rename(folder / METADATA_FILE)
        part.rmdir()
        sync_folder(folder)
    return info


def _source(folder: Path) -> Path:
    """The file that was cut off: as it was, or as an interrupted salvage has renamed it."""
    found = sorted(folder.glob(f"*.mcap{BROKEN}")) or sorted(folder.glob("*.mcap"))
    if len(found) != 1:
        raise BagError(f"{folder}: holds {len(found)} .mcap files; a recording that can be salvaged has one")
    return found[0]


@contextmanager
def _not_being_recorded(path: Path) -> Iterator[None]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise BagError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BagError(f"{path}: is being recorded; stop the recorder first") from None
        except OSError:
            pass  # a file system without locks
        yield


# --- the file --------------------------------------------------------------------------------------------------------


def _copy(source: Path, part: Path, name: str) -> SalvageInfo:
    """Write a new bag of what can be recovered."""
    _, view = map_file(source)
    if view[: len(MAGIC)] != MAGIC:
        raise BagError(f"{source}: is no MCAP file, or cut off before anything was recorded; nothing can be recovered")
    free = shutil.disk_usage(source.parent).free
    needed = len(view) + (1 << 20)
    if free < needed:
        raise BagError(f"{source}: the copy needs {needed} bytes, the disk has {free}; free some space first")
    writer = McapWriter(part, name)
    copy = _Copy(writer)
    lost, damaged = 0, 0
    try:
        for at, opcode, body in records_in(view, len(MAGIC), len(view)):
            if opcode == Opcode.CHUNK:
                try:
                    inside = chunk_data(body)
                except ValueError:
                    lost, damaged = lost + len(body), damaged + 1
                    continue
                for inner in records_in(inside, 0, len(inside)):
                    copy.take(*inner)
            elif opcode == Opcode.DATA_END:
                break
            else:
                copy.take(at, opcode, body)
    except TornError as torn:
        lost += _copy_torn(view, torn.at, copy)
    writer.close()
    note = f"damaged chunks left out: {damaged}" if damaged else ""
    return SalvageInfo(messages=copy.messages, lost_bytes=lost, note=note)


def _copy_torn(view: memoryview, at: int, copy: _Copy) -> int:
    """Recover the whole messages of the record at which a file ends; returns the bytes that are lost."""
    rest = view[at:]
    if rest[0] == Opcode.CHUNK and len(rest) > OPENING.size:
        try:
            inside = chunk_data(rest[OPENING.size :], torn=True)
        except ValueError:
            return len(rest)
        try:
            for inner in records_in(inside, 0, len(inside)):
                copy.take(*inner)
        except TornError as torn:
            return len(inside) - torn.at
        return 0
    return 0 if rest[0] == Opcode.MESSAGE_INDEX else len(rest)


class _Copy:
    """Puts records into a new bag."""

    def __init__(self, writer: McapWriter) -> None:
        self.messages = 0
        self._writer = writer
        self._schemas: dict[int, records.Schema] = {}
        self._numbers: dict[int, int] = {}  # of topics in the new bag, by channel

    def take(self, at: int, opcode: int, body: memoryview) -> None:
        """Raises TornError where the record makes no sense: nothing behind it can be trusted."""
        try:
            if opcode == Opcode.MESSAGE:
                channel, sequence, log_ns, publish_ns = MESSAGE.unpack_from(body)
                data = body[MESSAGE.size :]
                self._writer.write(self._numbers[channel], data, log_ns, publish_ns, sequence)  # type: ignore[arg-type]
                self.messages += 1
            elif opcode == Opcode.SCHEMA:
                schema = parse(records.Schema, body)
                self._schemas[schema.id] = schema
            elif opcode == Opcode.CHANNEL:
                described = parse(records.Channel, body)
                if described.id not in self._numbers:
                    self._numbers[described.id] = self._writer.add_topic(topic_of(described, self._schemas))
            else:
                Opcode(opcode)
        except (ValueError, KeyError, struct.error) as error:
            raise TornError(at, f"record at byte {at}: {error}") from None


# --- episode.yaml ----------------------------------------------------------------------------------------------------


def _describe(folder: Path, bag: BagReader, known: EpisodeInfo | None, found: SalvageInfo) -> EpisodeInfo:
    """``episode.yaml`` as the messages of a bag would have it, on top of what is known."""
    try:
        return _described(folder, bag, known, found)
    except BagError:
        raise
    except (AttributeError, ValueError) as error:
        raise BagError(f"{folder}: its steps or episodes are not those of this release: {error}") from None


def _described(folder: Path, bag: BagReader, known: EpisodeInfo | None, found: SalvageInfo) -> EpisodeInfo:
    steps: list[Any] = []
    verdicts: list[Any] = []
    for message in bag.messages([name for name, topic in bag.topics.items() if topic.type in (STEP, EPISODE)]):
        into = steps if bag.topics[message.topic].type == STEP else verdicts
        into.append(bag.decode(message.topic, message.data))
    if known is None:
        known = _info_of(folder, bag, verdicts)
        remark = f"{INFO_FILE} was missing: operator, software and lockstep are not known"
        found = msgspec.structs.replace(found, note="; ".join(filter(None, [found.note, remark])))
    # one index may be said several times, and the first one counts, as for the episode reader
    said = sorted((step for step in steps if step.episode_id == known.episode_id), key=_stamp_ns, reverse=True)
    mine = {int(step.index): step for step in said}
    ended = [v for v in verdicts if v.episode_id == known.episode_id and v.phase == Phase.ENDED]
    complete = any(step.is_last for step in said)
    outcome, reason, labels = known.outcome, known.reason, known.labels
    if ended:
        outcome, reason = Outcome(ended[-1].outcome), ended[-1].reason
        labels = tuple(
            LabelInfo(outcome=Outcome(new.outcome), reason=new.reason, stamp_ns=_stamp_ns(new))
            for old, new in pairwise(ended)
            if old.outcome != new.outcome
        )
    elif known.state == "recording":
        outcome, reason = Outcome.ABORTED, CUT_OFF
    drivers = [step.policy_id for step in mine.values() if step.source == Source.POLICY]
    hashes = {policy.policy_id: policy.checkpoint_hash for policy in known.policies} | dict.fromkeys(
        sorted({*drivers} - {policy.policy_id for policy in known.policies}), ""
    )
    return msgspec.structs.replace(
        known,
        state="complete" if complete else "partial",
        outcome=outcome,
        reason=reason,
        labels=labels,
        policies=tuple(
            PolicyInfo(policy_id=name, checkpoint_hash=text, steps=drivers.count(name)) for name, text in hashes.items()
        ),
        duration_s=(_stamp_ns(mine[max(mine)]) - _stamp_ns(mine[min(mine)])) * 1e-9 if mine else 0.0,
        steps=len(mine),
        human_steps=sum(step.source == Source.HUMAN for step in mine.values()),
        topics=known.topics
        | {
            name: msgspec.structs.replace(known.topics.get(name, TopicInfo(type=topic.type)), messages=bag.counts[name])
            for name, topic in bag.topics.items()
        },
        salvage=found,
    )


def _info_of(folder: Path, bag: BagReader, verdicts: list[Any]) -> EpisodeInfo:
    """What the episode manager said about the episode, for want of an ``episode.yaml``."""
    # the first verdict may be the latched one of the episode before
    named = [verdict for verdict in verdicts if verdict.phase == Phase.RUNNING] or verdicts
    if not named:
        raise BagError(
            f"{folder}: {INFO_FILE} is missing, and no message of the bag says which task it was; "
            f"put an {INFO_FILE} of the same session there and set its episode_id"
        )
    last = named[-1]
    try:
        task = load_task(last.task)
    except TaskError as error:
        raise BagError(f"{folder}: {INFO_FILE} is missing, and the task of the bag: {error}") from None
    return EpisodeInfo(
        state="recording",
        session_id=last.session_id,
        episode_id=last.episode_id,
        scene=last.scene,
        seed=last.seed,
        instruction=last.instruction,
        began_ns=next(bag.messages()).log_ns,
        task=task,
    )


def _stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def _write_info(folder: Path, info: EpisodeInfo) -> None:
    """Write ``episode.yaml`` durably; one that could not be read is kept beside it."""
    path = folder / INFO_FILE
    if path.exists() and _known_info(folder) is None:
        path.rename(folder / f"{INFO_FILE}{BROKEN}")
    write_info(folder, info)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(folder)
