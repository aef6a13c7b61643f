"""Statuses of an answer, and the one table from errors to statuses."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from lisa_ros import errors
from lisa_ros.engine.api import Region
from lisa_ros.engine.support import unanswered
from lisa_ros.errors import Busy, NotReady, TimedOut


class Status(IntEnum):
    """Names and values of Segmentation.msg, Segment.action and SegmentImage.srv (a test compares them)."""

    SUCCESS = 0
    NOT_FOUND = 1
    NO_IMAGE = 2
    INVALID_COMMAND = 3
    INVALID_IMAGE = 4
    NOT_READY = 5
    BUSY = 6
    TIMEOUT = 7
    CANCELED = 8
    OUT_OF_MEMORY = 9
    INTERNAL_ERROR = 10


NOTHING_FOUND = "there is nothing like that in the image; the answer may say more"
EMPTY_MASK = "the answer claims to mark something, but its mask is empty; ask in other words, or about another image"
SHOWN_NAMES = 8
NOT_MENTIONED = "the answer does not mention {}; ask for each alone"


def message_of(regions: Sequence[Region], absent: Sequence[str], targets: Sequence[str]) -> str:
    """The message beside SUCCESS or NOT_FOUND.

    Args:
        regions: Of the answer, those without pixels too.
        absent: Targets that are not in the image, according to the answer.
        targets: Of the command.
    """
    if missing := unanswered(regions, absent, targets):
        rest = f" and {len(missing) - SHOWN_NAMES} more" if len(missing) > SHOWN_NAMES else ""
        return NOT_MENTIONED.format(", ".join(missing[:SHOWN_NAMES]) + rest)
    if any(region.mask.area for region in regions):
        return ""
    return EMPTY_MASK if regions else NOTHING_FOUND


class NoImage(errors.LisaError):
    """No frame has arrived yet, or the newest one is too old."""


STATUS_OF: dict[type[BaseException], Status] = {
    NoImage: Status.NO_IMAGE,
    errors.CommandError: Status.INVALID_COMMAND,
    errors.ImageError: Status.INVALID_IMAGE,
    NotReady: Status.NOT_READY,
    Busy: Status.BUSY,
    TimedOut: Status.TIMEOUT,
    errors.Cancelled: Status.CANCELED,
    errors.OutOfMemory: Status.OUT_OF_MEMORY,
    MemoryError: Status.OUT_OF_MEMORY,
    Exception: Status.INTERNAL_ERROR,
}


def status_of(error: Exception) -> Status:
    """Status of the nearest type of ``error`` in the table."""
    return next(STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF)


class State(IntEnum):
    """States of the node, as in Status.msg."""

    LOADING = 0
    READY = 1
    BUSY = 2
    ERROR = 3
    RESTARTING = 4
    UNCONFIGURED = 5
    INACTIVE = 6
    FINALIZED = 7


class Stage(IntEnum):
    """Stages of a command, as in Segment.action; in lower case, an engine sends them (lisa_ros.engine.api.Stage)."""

    QUEUED = 0
    ENCODING = 1
    READING = 2
    GENERATING = 3
    DECODING = 4
