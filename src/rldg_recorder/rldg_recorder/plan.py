"""What a training set will hold, as data: the recipe decides it, any process can carry it out, a hash names it."""

from __future__ import annotations

import hashlib

import msgspec


class DatasetError(ValueError):
    """A recipe, a plan or a training set is wrong; the message is one line: file or episode, what, remedy."""


class Segment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Steps of one bag, in order."""

    bag: str  # absolute path of the bag folder
    rows: tuple[int, ...]  # rows of rldg_recorder.episode.Episode, rising, without the closing step


class PlannedEpisode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One episode of the training set: one segment, or several that were spliced."""

    segments: tuple[Segment, ...]
    instruction: str
    group: str = ""  # name of the recipe's source that it came through
    split: str = "train"
    stride: int = 1  # this many steps become one; their deltas are composed
    relabel: str = ""  # name of the policy whose actions replace those executed, "" for none


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training set before it is written. Episodes stand in the order of the set; splits are contiguous."""

    name: str
    episodes: tuple[PlannedEpisode, ...]
    rate_hz: float  # of the set
    image_size_px: int = 128
    video: bool = False  # images as an mp4 per camera instead of files in parquet
    jpeg: bool = False  # those files as JPEG instead of PNG
    relabel_parameters: dict[str, str] = {}  # of the relabelling policy
    recipe: str = ""  # text of the recipe, for the record


def digest(value: object) -> str:
    """SHA-256 of any msgspec value, in hexadecimal; equal values have equal digests in every process."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()
